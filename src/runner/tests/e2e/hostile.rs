//! Jobs that do not want to end, processes of ours that are killed or stopped, and a runtime directory that is emptied: nothing
//! survives, nothing is stuck, and nothing counts as a success that did not exit with 0.

use crate::skipped;
use crate::support::{Host, is_alive, kill, state, wait_for};
use serde_json::json;
use std::fs;
use std::time::{Duration, Instant};

/// Name and script of each shape. `$F` is a file to which the job writes when all its processes are there.
const SHAPES: [(&str, &str); 8] = [
    ("ignored TERM", "trap '' TERM INT HUP; echo x >$F; while :; do sleep 1; done"),
    ("double fork", "(sh -c 'sleep 600 & sleep 600 & echo x >$F' &) ; sleep 600"),
    ("setsid", "setsid sh -c 'trap \"\" TERM; echo x >$F; sleep 600; sleep 600' & sleep 600"),
    // The job itself lets go of its output; what runs on beside it does not.
    (
        "held pipes",
        "exec 3>&1 >/dev/null 2>&1; setsid sh -c 'trap \"\" TERM; echo x >$F; sleep 600' <&- & exec 3>&-; sleep 600",
    ),
    ("stopped child", "sh -c 'echo x >$F; kill -STOP $$; sleep 600' & sleep 600"),
    ("stopped itself", "echo x >$F; kill -STOP $$; sleep 600"),
    (
        "fork loop",
        "echo x >$F; f() { sleep 600 & sleep 0.05; }; i=0; while [ $i -lt 200 ]; do f; i=$((i+1)); done; sleep 600",
    ),
    ("cleared environment", "env -i MARK=$E2E_MARKER setsid sh -c 'trap \"\" TERM; sleep 600' & echo x >$F; sleep 600"),
];

/// Long enough for all shapes to unfold, on a busy machine too.
const SHAPES_TIMEOUT_S: f64 = 4.0;

fn scripts(host: &Host) -> Vec<(String, String)> {
    let path = |number: usize| host.path(&format!("ready{number}")).display().to_string();
    let script = |(number, (name, text)): (usize, &(&str, &str))| {
        ((*name).to_owned(), format!("export F={}; {text}", path(number)))
    };
    SHAPES.iter().enumerate().map(script).collect()
}

fn ready(host: &Host, number: usize) {
    host.wait_file(&format!("ready{number}"));
}

/// Waits until all shapes have unfolded. The controls: they are found, and the pipe is held by who should hold it.
fn unfolded(host: &Host) {
    for number in 0..SHAPES.len() {
        ready(host, number);
    }
    let survivors = host.survivors();
    assert!(survivors.len() > SHAPES.len(), "{survivors:?}");
    let third = |pid: &i32| fs::read_link(format!("/proc/{pid}/fd/3")).unwrap_or_default();
    let is_held = |pid: &i32| third(pid).to_str().is_some_and(|target| target.starts_with("pipe:"));
    assert!(survivors.iter().any(is_held), "nobody holds the pipe of a log");
}

#[test]
fn a_cancel_leaves_nothing_of_any_job() {
    let mut host = Host::new();
    host.slots = 10;
    host.start();
    let jobs: Vec<(String, u64)> =
        scripts(&host).into_iter().map(|(name, script)| (name, host.add(&host.shell(&script)))).collect();
    unfolded(&host);
    let ids: Vec<u64> = jobs.iter().map(|(_, id)| *id).collect();
    let asked = Instant::now();
    host.post("/api/v1/jobs/cancel", &json!({ "ids": ids }));
    for (name, id) in jobs {
        let job = host.finish(id);
        assert_eq!(job["outcome"], "cancelled", "{name}: {job:#}");
        assert_eq!(job["attempts"].as_array().unwrap().len(), 1, "{name}");
    }
    assert_eq!(host.survivors(), Vec::<i32>::new());
    println!("{} shapes cancelled in {:?}", SHAPES.len(), asked.elapsed());
    host.assert_clean();
}

#[test]
fn a_timeout_leaves_nothing_of_any_job() {
    let mut host = Host::new();
    host.slots = 10;
    host.start();
    let more = json!({ "timeout": SHAPES_TIMEOUT_S });
    let add = |(name, script): (String, String)| (name, host.add(&host.shell_with(&script, more.clone())));
    let jobs: Vec<(String, u64)> = scripts(&host).into_iter().map(add).collect();
    unfolded(&host);
    for (name, id) in jobs {
        let job = host.finish(id);
        assert_eq!(job["outcome"], "timed_out", "{name}: {job:#}");
        let ran = job["run_seconds"].as_f64().unwrap();
        assert!((SHAPES_TIMEOUT_S..SHAPES_TIMEOUT_S + 4.0).contains(&ran), "{name} ran {ran} s");
    }
    assert_eq!(host.survivors(), Vec::<i32>::new());
    host.assert_clean();
}

#[test]
fn an_end_leaves_nothing_of_any_job() {
    let host = Host::started();
    let script = format!(
        "export F={}; setsid sh -c 'trap \"\" TERM HUP; echo x >$F; sleep 600' & while [ ! -s $F ]; do sleep 0.02; done",
        host.path("ready").display()
    );
    let job = host.finish(host.add(&host.shell(&script)));
    assert_eq!((job["outcome"].as_str(), job["exit_code"].as_u64()), (Some("succeeded"), Some(0)), "{job:#}");
    assert!(job["attempts"][0]["leftover_processes"].as_u64().unwrap() >= 1, "{job:#}");
    host.assert_clean();
}

/// It held job and slot until the hard deadline, six hours as a rule.
#[test]
fn a_shim_left_stopped_holds_neither_job_nor_slot() {
    let script = "kill -STOP $PPID; exit 3";
    let mut control = Host::new();
    control.env.push(("CI_RUNNER_FAIL".to_owned(), "spawner-ignores-stopped-shims".to_owned()));
    let mut host = Host::new();
    let ids = [&mut control, &mut host].map(|host| {
        host.slots = 1;
        host.start();
        let [first, next] = [script, "true"].map(|script| host.add(&host.shell_with(script, json!({ "retry": 0 }))));
        let shim = host.wait_shim(first);
        wait_for("the shim to stop", || (state(shim) == Some('T')).then_some(()));
        (first, next, shim)
    });
    let [(stuck, waiting, shim), (first, next, _)] = ids;
    let job = host.finish(first);
    assert_eq!((job["outcome"].as_str(), job["exit_code"].as_u64()), (Some("failed"), Some(3)), "{job:#}");
    assert_eq!(host.finish(next)["outcome"], "succeeded");
    host.assert_clean();
    // The control was there before, and had more time.
    assert_eq!((control.state_of(stuck).as_str(), control.state_of(waiting).as_str()), ("running", "queued"));
    kill(shim, "CONT");
    assert_eq!(control.finish(waiting)["outcome"], "succeeded");
    control.assert_clean();
}

#[test]
fn a_job_whose_shim_was_killed_is_lost_and_its_processes_end() {
    let mut host = Host::started();
    let _gate = host.gate("gate");
    let script =
        format!("setsid sleep 600 & echo x >{}; read x <{}", host.path("ready").display(), host.path("gate").display());
    let id = host.add(&host.shell(&script));
    host.wait_file("ready");
    kill(host.wait_shim(id), "KILL");
    let job = host.finish(id);
    assert_eq!(
        (job["outcome"].as_str(), job["attempts"][0]["result"].as_str()),
        (Some("failed"), Some("lost")),
        "{job:#}"
    );
    assert_eq!(host.survivors(), Vec::<i32>::new());
    // A stopped shim cannot keep the deadline of a cancel: the spawner steps in.
    let id = host.add(&host.shell(&script));
    wait_for("the job", || host.shims().iter().any(|(job, _)| *job == id).then_some(()));
    host.wait_state(id, "running");
    kill(host.wait_shim(id), "STOP");
    host.post(&format!("/api/v1/jobs/{id}/cancel"), &json!({}));
    assert_eq!(host.finish(id)["outcome"], "cancelled");
    host.assert_clean();
    host.stop();
}

/// Three jobs that run, and then their runtime directory is emptied.
fn emptied(host: &Host) -> (Vec<u64>, i32) {
    let script = format!(
        "echo $CI_RUNNER_JOB_ID $CI_RUNNER_ATTEMPT >>{}; read x <{}; exit 1",
        host.path("ran").display(),
        host.path("gate").display()
    );
    let jobs: Vec<u64> = (0..3).map(|_| host.add(&host.shell(&script))).collect();
    host.wait_lines("ran", 3);
    jobs.iter().for_each(|id| drop(host.wait_state(*id, "running")));
    let old = host.wait_spawner();
    fs::remove_dir_all(host.runtime().join("spawner")).unwrap();
    (jobs, old)
}

fn check_emptied(host: &Host, jobs: &[u64], old: i32) {
    let script = format!("echo $CI_RUNNER_JOB_ID $CI_RUNNER_ATTEMPT >>{}", host.path("ran").display());
    let later: Vec<u64> =
        (0..3).map(|_| host.add(&host.shell_with(&script, json!({ "retry": 3, "retry_delay": 0 })))).collect();
    for id in later {
        assert_eq!(host.finish(id)["outcome"], "succeeded");
    }
    for id in jobs {
        assert_eq!(host.finish(*id)["attempts"].as_array().unwrap().len(), 1);
    }
    let mut lines = host.wait_lines("ran", 6);
    lines.sort();
    lines.dedup();
    assert_eq!((lines.len(), fs::read_to_string(host.path("ran")).unwrap().lines().count()), (6, 6));
    wait_for("the end of the spawner without a home", || (!is_alive(old)).then_some(()));
    host.assert_clean();
}

#[test]
fn an_emptied_runtime_directory_costs_no_result_while_the_daemon_lives() {
    let host = Host::started();
    let gate = host.gate("gate");
    let (jobs, old) = emptied(&host);
    drop(gate);
    for id in &jobs {
        let job = host.finish(*id);
        assert_eq!((job["outcome"].as_str(), job["exit_code"].as_u64()), (Some("failed"), Some(1)), "{job:#}");
    }
    check_emptied(&host, &jobs, old);
}

#[test]
fn jobs_of_an_emptied_runtime_directory_are_lost_to_the_next_daemon_and_end() {
    let mut host = Host::started();
    let _gate = host.gate("gate");
    let (jobs, old) = emptied(&host);
    host.kill();
    host.start();
    for id in &jobs {
        let job = host.finish(*id);
        assert_eq!(job["attempts"][0]["result"], "lost", "{job:#}");
    }
    if host.daemon_log().contains("attempts have cgroups") {
        wait_for("the end of lost jobs", || host.survivors().is_empty().then_some(()));
    } else {
        skipped::tell(
            "a part of jobs_of_an_emptied_runtime_directory_are_lost_to_the_next_daemon_and_end",
            "without cgroups nobody knows their processes",
        );
        host.survivors().into_iter().for_each(|pid| kill(pid, "KILL"));
    }
    check_emptied(&host, &jobs, old);
}

/// What a hasty `rm -rf R/*` does.
fn remove_all(dir: &std::path::Path) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

fn answers(host: &Host) -> bool {
    std::os::unix::net::UnixStream::connect(host.socket()).is_ok()
}

type Harm = fn(&Host);

/// It used to be unreachable for good, with no word in the log.
#[test]
fn a_daemon_without_its_socket_makes_it_anew() {
    let mut host = Host::started();
    let harms: [(&str, Harm); 5] = [
        ("everything in it", |host| remove_all(&host.runtime())),
        ("the socket", |host| fs::remove_file(host.socket()).unwrap()),
        ("the directory", |host| fs::remove_dir_all(host.runtime()).unwrap()),
        ("the directory, made again by somebody", |host| {
            fs::rename(host.runtime(), host.runtime().with_extension("away")).unwrap();
            fs::create_dir(host.runtime()).unwrap();
        }),
        ("the socket, replaced by a dead one", |host| {
            fs::remove_file(host.socket()).unwrap();
            drop(std::os::unix::net::UnixListener::bind(host.socket()).unwrap());
        }),
    ];
    for (number, (what, harm)) in harms.into_iter().enumerate() {
        let gate = host.gate(&format!("gate{number}"));
        let job = host.add(&host.shell(&format!("read x <{}; exit 7", host.path(&format!("gate{number}")).display())));
        host.wait_state(job, "running");
        assert!(answers(&host), "before {what} was removed");
        harm(&host);
        wait_for(what, || answers(&host).then_some(()));
        drop(gate);
        let ended = host.finish(job);
        assert_eq!(ended["exit_code"], 7, "{what}: {ended:#}");
        let _ = fs::remove_dir_all(host.runtime().with_extension("away"));
        let later = host.add(&host.shell_with("true", json!({ "retry": 3, "retry_delay": 0 })));
        assert_eq!(host.finish(later)["outcome"], "succeeded", "{what}");
    }
    let log = host.daemon_log();
    assert_eq!(log.matches("is made anew").count(), 6, "five sockets and a directory: {log}");
    assert!(host.get("/api/v1/status")["problems"].as_array().unwrap().is_empty());
    host.stop();
    assert!(!host.socket().exists(), "its own socket goes with it");
}

/// The control of the test above: what the service manager passed is not made anew, so its loss stays, and is told.
#[test]
fn the_loss_of_a_passed_socket_is_told() {
    let mut host = Host::new();
    fs::create_dir_all(host.runtime()).unwrap();
    host.passed = Some(std::os::unix::net::UnixListener::bind(host.socket()).unwrap());
    host.start();
    assert!(answers(&host));
    fs::remove_file(host.socket()).unwrap();
    wait_for("the problem in the log", || {
        host.daemon_log().contains("systemctl restart ci-runner.socket ci-runner.service").then_some(())
    });
    assert!(!answers(&host));
}

/// Times the process went to sleep by itself.
fn sleeps_of(pid: i32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let count = |task: fs::DirEntry| -> Option<u64> {
        let status = fs::read_to_string(task.path().join("status")).ok()?;
        status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?.trim().parse().ok()
    };
    tasks.filter_map(count).sum()
}

#[test]
fn the_daemon_waits_for_a_stopped_spawner_without_spinning() {
    let mut host = Host::new();
    host.config = "grace = 0\n".to_owned();
    host.start();
    let id = host.add(&host.shell("sleep 600"));
    host.wait_state(id, "running");
    let spawner = host.wait_spawner();
    kill(spawner, "STOP");
    host.kill();
    host.start();
    host.post(&format!("/api/v1/jobs/{id}/cancel"), &json!({}));
    host.wait_state(id, "stopping");
    let before = sleeps_of(host.pid());
    // The measure is over time: what it does when there is nothing to do.
    std::thread::sleep(Duration::from_secs(2));
    let woken = sleeps_of(host.pid()) - before;
    assert!(woken < 100, "woken {woken} times in two seconds");
    kill(spawner, "CONT");
    assert_eq!(host.finish(id)["outcome"], "cancelled");
    host.assert_clean();
}

/// A stopped spawner used to look like one that has nothing to say.
#[test]
fn a_spawner_that_does_not_answer_is_told_and_left_alone() {
    let host = Host::started();
    let id = host.add(&host.shell("sleep 600"));
    host.wait_state(id, "running");
    let problems = || host.get("/api/v1/status")["problems"].to_string();
    wait_for("a status without problems, as a control", || (problems() == "[]").then_some(()));
    let spawner = host.wait_spawner();
    kill(spawner, "STOP");
    let stuck = host.add(&host.shell("true"));
    let words = format!("the spawner (process {spawner}) has not answered");
    wait_for("the problem in the status", || problems().contains(&words).then_some(()));
    wait_for("the problem in the log", || host.daemon_log().contains(&words).then_some(()));
    let why = host.get(&format!("/api/v1/jobs/{stuck}/why"));
    assert!(why["reasons"][0]["text"].as_str().unwrap().contains(&words), "{why:#}");
    let doctor = String::from_utf8(host.run_cli(&["doctor"]).stdout).unwrap();
    assert!(doctor.contains(&words), "{doctor}");
    assert!(is_alive(spawner));
    kill(spawner, "CONT");
    wait_for("the end of the problem", || (problems() == "[]").then_some(()));
    assert_eq!(host.finish(stuck)["outcome"], "succeeded");
    assert_eq!(host.state_of(id), "running");
    host.post(&format!("/api/v1/jobs/{id}/cancel"), &json!({}));
    assert_eq!(host.finish(id)["outcome"], "cancelled");
    host.assert_clean();
}
