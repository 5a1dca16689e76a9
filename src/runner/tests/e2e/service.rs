//! The daemon as a service: it reloads, tells its supervisor, and refuses what it cannot do with words that help.

use crate::skipped;
use crate::support::small::Small;
use crate::support::{Host, kill, wait_for, wait_until};
use serde_json::json;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A job that waits at a gate; returns when it runs.
pub fn waiting_job(host: &Host, gate: &str) -> u64 {
    let script = format!("echo begin; read x <{}; echo end", host.path(gate).display());
    let id = host.add(&host.shell(&script));
    host.wait_state(id, "running");
    id
}

/// `daemon > log 2>&1` said twice that it is ready, and nowhere when.
#[test]
fn a_log_in_one_file_tells_the_time_and_once_that_it_is_ready() {
    let host = Host::new();
    let path = host.path("all.log");
    let log = fs::File::create(&path).unwrap();
    let mut command = host.command();
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    let mut daemon = command.spawn().unwrap();
    let text = || fs::read_to_string(&path).unwrap();
    // No assertion before the daemon is gone: nobody else would end it.
    let within = |done: &mut dyn FnMut() -> bool| {
        let until = Instant::now() + Duration::from_secs(60);
        while !done() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        done()
    };
    let ready = within(&mut || text().contains("is ready"));
    kill(daemon.id() as i32, "TERM");
    let ended = within(&mut || daemon.try_wait().unwrap().is_some());
    if !ended {
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }
    let text = text();
    assert!(ready && ended, "{text}");
    assert_eq!(text.matches("is ready").count(), 1, "{text}");
    let is_dated = |line: &&str| {
        let date = line.split_once('>').and_then(|(_, rest)| rest.split(' ').next());
        date.is_some_and(|date| date.parse::<jiff::Timestamp>().is_ok())
    };
    let (dated, others): (Vec<&str>, Vec<&str>) = text.lines().partition(is_dated);
    assert!(dated.iter().any(|line| line.contains(" INFO stopping: ")), "{text}");
    assert!(matches!(&others[..], [ready] if ready.contains("is ready")), "{text}");
}

#[test]
fn a_reload_changes_slots_and_a_bad_one_changes_nothing() {
    let mut host = Host::new();
    host.config = "grace = 1\n[pools.default]\nslots = 1\n".to_owned();
    host.start();
    let total = |host: &Host| host.get("/api/v1/status")["slots"]["total"].as_u64().unwrap();
    assert_eq!(total(&host), 1);
    let _gate = host.gate("gate");
    waiting_job(&host, "gate");
    let second = host.add(&host.shell("true"));
    assert_eq!(host.why(second)[0].0, "no_slot");
    fs::write(host.path("config.toml"), "grace = 1\n[pools.default]\nslots = 3\n").unwrap();
    host.signal("HUP");
    assert_eq!(host.finish(second)["outcome"], "succeeded");
    wait_for("three slots", || (total(&host) == 3).then_some(()));
    fs::write(host.path("config.toml"), "grace = 1\n[pools.default]\nslotz = 9\n").unwrap();
    host.signal("HUP");
    wait_for("words about the bad configuration", || host.daemon_log().contains("slotz").then_some(()));
    assert!(host.daemon_log().contains("the old one stays"), "{}", host.daemon_log());
    assert_eq!(total(&host), 3);
    let third = host.add(&host.shell("true"));
    assert_eq!(host.finish(third)["outcome"], "succeeded");
}

#[test]
fn a_second_daemon_is_refused_and_told_who_holds_the_state() {
    let host = Host::started();
    let (status, text) = host.refused();
    assert_eq!(status.code(), Some(2), "{text}");
    assert!(text.contains(&host.pid().to_string()), "{text}");
    assert_eq!(host.get("/api/v1/status")["pid"], host.pid());
    // Another state, the same socket.
    let mut other = Host::new();
    other.words = vec!["--socket".to_owned(), host.socket().to_str().unwrap().to_owned()];
    let (status, text) = other.refused();
    assert_eq!(status.code(), Some(2), "{text}");
    assert!(text.contains("api.sock") && text.contains("in use"), "{text}");
    assert_eq!(host.get("/api/v1/status")["pid"], host.pid());
}

#[test]
fn taken_ports_are_told_apart() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut host = Host::new();
    host.words = vec!["--http".to_owned(), address.clone()];
    let (status, text) = host.refused();
    assert_eq!(status.code(), Some(2), "{text}");
    assert!(text.contains(&address) && text.contains("--http"), "{text}");
    host.words = vec!["--metrics".to_owned(), address.clone()];
    let line = host.start();
    assert!(line.contains("is ready") && !line.contains("metrics on"), "what is not open is not named: {line}");
    let problems = wait_for("a degraded state", || {
        let status = host.get("/api/v1/status");
        (status["state"] == "degraded" && status["problems"].to_string().contains(&address)).then_some(status)
    });
    assert!(problems["problems"].to_string().contains("metrics"), "{problems}");
    let id = host.add(&host.shell("true"));
    assert_eq!(host.finish(id)["outcome"], "succeeded");
    host.stop();
    // The control: a port that is free is named, with its number.
    host.words = vec!["--metrics".to_owned(), "127.0.0.1:0".to_owned()];
    let line = host.start();
    let port = line.split_once("metrics on 127.0.0.1:").map(|(_, port)| port.trim().parse::<u16>());
    assert!(port.is_some_and(|port| port.is_ok_and(|port| port > 0)), "{line}");
}

#[test]
fn a_directory_that_is_none_names_its_option() {
    let mut host = Host::new();
    host.state = "/dev/null".into();
    let (status, text) = host.refused();
    assert_eq!(status.code(), Some(1), "waiting does not help: {text}");
    assert!(text.contains("/dev/null is no directory") && text.contains("--state-dir"), "{text}");
}

#[test]
fn a_job_beyond_its_timeout_says_so_and_a_pool_that_is_none_is_refused() {
    let host = Host::started();
    let id = host.add(&host.shell_with("trap '' TERM; while :; do sleep 0.1; done", json!({ "timeout": 1 })));
    let first = host.get(&format!("/api/v1/jobs/{id}/why"))["reasons"].to_string();
    assert!(!first.contains("overdue"), "{first}");
    // One that is held before it is claimed never runs.
    host.wait_state(id, "running");
    let held = host.call("POST", &format!("/api/v1/jobs/{id}/hold"), Some(&json!({}))).json();
    let waiting = host.add(&host.shell_with("true", json!({ "hold": true })));
    let other = host.call("POST", &format!("/api/v1/jobs/{waiting}/hold"), Some(&json!({}))).json();
    let later = host.call("POST", &format!("/api/v1/jobs/{id}/priority"), Some(&json!({ "priority": 3 }))).json();
    assert_eq!((&held["ids"], &later["running"], &other["running"]), (&json!([id]), &json!([id]), &json!(null)));
    let reasons = wait_for("the reason", || {
        let why = host.get(&format!("/api/v1/jobs/{id}/why"));
        why["reasons"].as_array()?.iter().find(|reason| reason["kind"] == "overdue").cloned()
    });
    assert!(
        reasons["text"].as_str().unwrap().starts_with("its timeout of 1.0s has passed; it was asked to end"),
        "{reasons}"
    );
    assert_eq!(host.get("/api/v1/jobs?pool=default")["jobs"].as_array().unwrap().len(), 1);
    let refused = host.call("GET", "/api/v1/jobs?pool=defualt", None);
    assert_eq!(refused.status, 400, "{}", refused.text());
    assert!(refused.text().contains("did you mean") && refused.json()["field"] == "pool", "{}", refused.text());
    host.post("/api/v1/jobs/cancel", &json!({ "all": true }));
    host.finish_all(Duration::from_secs(30));
}

#[test]
fn impossible_places_are_refused_by_name() {
    let mut host = Host::new();
    fs::write(host.path("file"), "").unwrap();
    host.state = host.path("file").join("state");
    let (status, text) = host.refused();
    assert_eq!(status.code(), Some(1), "waiting does not help: {text}");
    assert!(text.contains("file/state") && text.contains("--state-dir"), "{text}");
    host.state = host.path("state");
    let long = host.path(&"x".repeat(120)).join("api.sock");
    host.words = vec!["--socket".to_owned(), long.to_str().unwrap().to_owned()];
    let (status, text) = host.refused();
    assert_eq!(status.code(), Some(3), "what was asked for cannot be: {text}");
    assert!(text.contains("the kernel takes 107") && text.contains("--socket"), "{text}");
    host.words = vec!["--max-parallel-jobz".to_owned(), "3".to_owned()];
    let (status, text) = host.refused();
    assert_eq!(status.code(), Some(3), "{text}");
    assert!(text.contains("--max-parallel-jobs"), "no suggestion: {text}");
}

/// What a daemon without special rights says of a state directory.
#[test]
fn a_state_directory_without_permission_is_refused_by_name() {
    let mut host = Host::new();
    let may = |path: &Path, mode: u32| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let nobody = "exec setpriv --reuid 65534 --regid 65534 --clear-groups \"$@\"";
    if rustix::process::geteuid().is_root() {
        let known =
            Command::new("sh").args(["-c", nobody, "sh"]).arg(crate::support::program()).arg("--version").output();
        if !known.unwrap().status.success() {
            skipped::tell("a_state_directory_without_permission_is_refused_by_name", "nobody else can run the program");
            return;
        }
        host.wrapper = Some(nobody);
    }
    let (private, closed, runtime) = (host.path(""), host.path("closed"), host.path("open"));
    for (path, mode) in [(&closed, 0o555), (&runtime, 0o777)] {
        fs::create_dir(path).unwrap();
        may(path, mode);
    }
    may(&private, 0o755);
    host.words = vec!["--runtime-dir".to_owned(), runtime.join("r").to_str().unwrap().to_owned()];
    // It cannot be made, and it is there.
    for (state, named) in [(closed.join("state"), "closed/state"), (closed.clone(), "closed/")] {
        host.state = state;
        let (status, text) = host.refused();
        assert_eq!(status.code(), Some(1), "waiting does not help: {text}");
        assert!(text.contains(named) && text.contains("Permission denied"), "{text}");
    }
    // The control: with the permission, and nothing else changed, it starts.
    may(&closed, 0o777);
    let line = host.start();
    assert!(line.contains("is ready"), "{line}");
    host.stop();
}

#[test]
fn a_supervisor_is_told_everything() {
    let mut host = Host::new();
    let path = host.path("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    host.env = vec![
        ("NOTIFY_SOCKET".to_owned(), path.to_str().unwrap().to_owned()),
        ("WATCHDOG_USEC".to_owned(), "400000".to_owned()),
    ];
    let mut seen: Vec<String> = Vec::new();
    let mut wait = |what: &str| {
        let until = Instant::now() + Duration::from_secs(10);
        wait_until(what, until, || {
            let mut buffer = [0; 4096];
            while let Ok(got) = socket.recv(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..got]).into_owned();
                seen.extend(text.lines().map(str::to_owned));
                if text.lines().any(|line| line.starts_with(what)) {
                    return Some(text);
                }
            }
            None
        })
    };
    host.start();
    wait("READY=1");
    wait("STATUS=");
    for _ in 0..3 {
        wait("WATCHDOG=1");
    }
    let environment = host.add(&host.shell("env"));
    host.finish(environment);
    let log = host.log(environment);
    assert!(!log.contains("NOTIFY_SOCKET") && !log.contains("WATCHDOG") && log.contains("CI_JOB_ID="), "{log}");
    host.signal("HUP");
    let reloading = wait("RELOADING=1");
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    wait("READY=1");
    host.signal("TERM");
    wait("STOPPING=1");
    host.wait_exit(Duration::from_secs(5));
    // The control: a daemon that makes no progress does not feed the watchdog.
    host.start();
    wait("READY=1");
    wait("WATCHDOG=1");
    host.signal("STOP");
    let mut buffer = [0; 4096];
    while socket.recv(&mut buffer).is_ok() {}
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    assert!(socket.recv(&mut buffer).is_err(), "a stopped daemon fed the watchdog");
    host.signal("CONT");
}

/// Submits until the disk is felt to be full: a page of the log may have had room.
pub fn submit_until_full(host: &Host) -> (Vec<u64>, crate::support::Response) {
    let mut taken = Vec::new();
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let answer = host.call("POST", "/api/v1/jobs", Some(&host.shell("true")));
        match answer.status {
            201 => taken.push(answer.json()["id"].as_u64().unwrap()),
            _ => return (taken, answer),
        }
        assert!(Instant::now() < until, "the disk never fills");
    }
}

#[test]
fn a_full_disk_refuses_submissions_and_keeps_results() {
    let Some(small) = Small::mount("a_full_disk_refuses_submissions_and_keeps_results", "4m") else { return };
    let mut host = Host::new();
    host.state = small.join("state");
    host.start();
    let gate = host.gate("gate");
    let running = waiting_job(&host, "gate");
    small.fill();
    let (taken, answer) = submit_until_full(&host);
    assert_eq!(answer.status, 507, "{}", answer.text());
    wait_for("a degraded state", || (host.get("/api/v1/status")["state"] == "degraded").then_some(()));
    let done = host.run_cli(&["add", "--", "true"]);
    assert_eq!(done.status.code(), Some(2), "{done:?}");
    drop(gate);
    wait_for("the job's end", || host.shims().is_empty().then_some(()));
    small.free();
    let id = wait_for("a submission that is taken", || {
        let answer = host.call("POST", "/api/v1/jobs", Some(&host.shell("true")));
        (answer.status == 201).then(|| answer.json()["id"].as_u64().unwrap())
    });
    for id in taken.into_iter().chain([running, id]) {
        assert_eq!(host.finish(id)["outcome"], "succeeded");
    }
    // What had no room in the log is counted, not silently gone.
    let (log, attempt) = (host.log(running), host.job(running)["attempts"][0].clone());
    let dropped = attempt["log_dropped_bytes"].as_u64().unwrap();
    assert!(log == "begin\nend\n" || dropped > 0, "{log:?} {attempt:#}");
    host.assert_clean();
    // Told to end while the disk is full: it must not wait for space.
    small.fill();
    submit_until_full(&host);
    let asked = Instant::now();
    host.signal("TERM");
    host.wait_exit(Duration::from_secs(10));
    assert!(asked.elapsed() < Duration::from_secs(5), "a full disk held up the stop: {:?}", asked.elapsed());
    small.free();
    host.start();
    let id = host.add(&host.shell("true"));
    assert_eq!(host.finish(id)["outcome"], "succeeded");
    kill(host.wait_spawner(), "KILL");
    host.stop();
    drop(host);
}

/// Names of the files in which secrets are kept: ids of jobs.
fn kept_secrets(host: &Host) -> Vec<String> {
    let entries = fs::read_dir(host.state.join("secrets")).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Secrets go to the disk before their job does. They used to stay there when the job did not.
#[test]
fn secrets_of_a_refused_submission_do_not_stay() {
    let Some(small) = Small::mount("secrets_of_a_refused_submission_do_not_stay", "4m") else { return };
    let mut host = Host::new();
    host.state = small.join("state");
    host.start();
    let secrets = json!({"hold": true, "secrets": {"TOKEN": "a secret of some length"}});
    let job = host.shell_with("true", secrets);
    let kept = host.add(&job);
    small.fill();
    let mut taken = vec![kept.to_string()];
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let answer = host.call("POST", "/api/v1/jobs", Some(&job));
        if answer.status != 201 {
            assert_eq!(answer.status, 507, "{}", answer.text());
            break;
        }
        taken.push(answer.json()["id"].to_string());
        assert!(Instant::now() < until, "the disk never fills");
    }
    taken.sort();
    wait_for("the removal of what was refused", || (kept_secrets(&host) == taken).then_some(()));
    small.free();
    let cancel = json!({ "all": true });
    let cancelled = || host.call("POST", "/api/v1/jobs/cancel", Some(&cancel)).status < 300;
    wait_for("a cancel that is taken", || cancelled().then_some(()));
    wait_for("the removal of all", || kept_secrets(&host).is_empty().then_some(()));
    drop(host);
}

/// Followers take descriptors, so the daemon takes all it may have; jobs must not see that.
#[test]
fn the_limit_of_open_files_is_raised_for_the_daemon_and_not_for_jobs() {
    let mut host = Host::new();
    host.wrapper = Some("ulimit -Sn 1000; ulimit -Hn 3000; exec \"$@\"");
    host.start();
    let limits = fs::read_to_string(format!("/proc/{}/limits", host.pid())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert!(line.split_whitespace().filter(|word| *word == "3000").count() == 2, "{line}");
    let id = host.add(&host.shell("ulimit -Sn; ulimit -Hn"));
    assert_eq!(host.finish(id)["outcome"], "succeeded");
    assert_eq!(host.log(id), "1000\n3000\n");
    host.assert_clean();
}
