//! Logs of jobs end to end: secrets, followers over restarts; and the metrics' account.

use crate::skipped;
use crate::support::{Host, contains, http_get, wait_for};
use serde_json::json;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// Every file below, with its content.
fn files_below(dir: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(files_below(&path)),
            Ok(kind) if kind.is_file() => found.push((path.clone(), fs::read(&path).unwrap_or_default())),
            _ => {}
        }
    }
    found
}

#[test]
fn a_secret_is_seen_by_its_job_only() {
    let mut host = Host::started();
    let secret = "s3cr3t/Val+ue\"with quotes";
    fs::write(host.path("secret"), secret).unwrap();
    let _gate = host.gate("gate");
    let script = format!(
        "test \"$TOKEN\" = '{secret}' || exit 9; echo \"plain $TOKEN\"; printf %s \"$TOKEN\" | base64; \
         echo 'url s3cr3t%2FVal%2Bue%22with%20quotes'; echo 'json s3cr3t/Val+ue\\\"with quotes'; \
         printf 'half s3cr3t/Val'; sleep 0.2; printf '+ue\"with quotes\\n'; \
         echo x >{}; read x <{}; exit 0",
        host.path("ready").display(),
        host.path("gate").display()
    );
    let secret_option = format!("TOKEN=@{}", host.path("secret").display());
    // The script itself names the secret, which only a test does; so it comes from a file.
    fs::write(host.path("script"), &script).unwrap();
    let marker = format!("E2E_MARKER={}", host.marker);
    let file = host.path("script");
    let words =
        ["add", "--retry", "0", "--env", &marker, "--secret", &secret_option, "--", "sh", file.to_str().unwrap()];
    let done = host.run_cli(&words);
    assert!(done.status.success(), "{done:?}");
    let id: u64 = String::from_utf8(done.stdout).unwrap().trim().parse().unwrap();
    host.wait_file("ready");

    let kept = files_below(&host.state.join("secrets"));
    assert_eq!(kept.len(), 1, "while it runs, its secrets are kept in one file");
    assert!(contains(&kept[0].1, "s3cr3t"), "the control: this way of looking finds it");
    for pid in [host.pid(), host.wait_spawner(), host.wait_shim(id)] {
        for what in ["cmdline", "environ"] {
            let text = fs::read(format!("/proc/{pid}/{what}")).unwrap();
            assert!(!contains(&text, "s3cr3t"), "{what} of process {pid}");
        }
    }
    let backup = host.path("backup.db");
    assert!(host.run_cli(&["backup", backup.to_str().unwrap()]).status.success());
    host.kill();
    host.start();
    fs::write(host.path("gate"), "go\n").unwrap();
    let job = host.finish(id);
    assert_eq!(job["outcome"], "succeeded", "{job:#}\n{}", host.log(id));
    let log = host.log(id);
    assert_eq!(log.lines().count(), 5, "{log}");
    assert!(!log.contains("s3cr3t") && !log.contains("czNjcjN0"), "{log}");
    assert!(log.contains("plain ") && log.contains("half "), "{log}");
    wait_for("the removal of the secret", || files_below(&host.state.join("secrets")).is_empty().then_some(()));
    let mut files = files_below(&host.state);
    files.push((backup.clone(), fs::read(&backup).unwrap()));
    files.push((host.path("daemon.log"), fs::read(host.path("daemon.log")).unwrap()));
    // Logs of the spawner and attempts.
    files.extend(files_below(&host.runtime()));
    for (path, content) in files {
        assert!(!contains(&content, "s3cr3t"), "the secret is in {}", path.display());
    }
    assert!(!job.to_string().contains("s3cr3t"));
    let short = host.call("POST", "/api/v1/jobs", Some(&host.shell_with("true", json!({ "secrets": { "A": "ab" } }))));
    assert_eq!(short.status, 400, "a secret that cannot be masked is refused: {}", short.text());
    assert!(!short.text().contains("\"ab\""), "{}", short.text());
}

#[test]
fn a_follower_misses_and_repeats_no_line_while_the_daemon_is_killed() {
    let mut host = Host::started();
    let count = 3_000;
    let script = format!(
        "i=0; while [ $i -lt {count} ]; do echo line $i; i=$((i+1)); [ $((i % 50)) -eq 0 ] && sleep 0.05; done"
    );
    let id = host.add(&host.shell(&script));
    host.wait_state(id, "running");
    let mut follower = host.cli(&["logs", "-f", &id.to_string()]);
    let follower = follower.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    for kills in 0..4 {
        wait_for("more lines", || (host.log(id).lines().count() > kills * 400 + 200).then_some(()));
        host.kill();
        host.start();
    }
    let job = host.finish(id);
    assert_eq!(job["outcome"], "succeeded", "{job:#}");
    let done = follower.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    let expected: Vec<String> = (0..count).map(|number| format!("line {number}")).collect();
    assert!(done.status.success(), "{done:?}");
    assert_eq!(lines.len(), expected.len());
    assert!(lines.iter().zip(&expected).all(|(line, wanted)| line == wanted), "lines differ");
    assert_eq!(host.log(id).lines().count(), count);
}

#[test]
fn wait_goes_on_over_a_restart() {
    let mut host = Host::started();
    let gate = host.gate("gate");
    let id = host.add(&host.shell(&format!("read x <{}; exit 0", host.path("gate").display())));
    host.wait_state(id, "running");
    let mut waiter = host.cli(&["wait", &id.to_string()]);
    let waiter = waiter.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for("the waiter's connection", || {
        let open = fs::read_dir(format!("/proc/{}/fd", waiter.id())).ok()?.flatten();
        let mut links = open.filter_map(|fd| fs::read_link(fd.path()).ok());
        links.any(|link| link.to_string_lossy().starts_with("socket:")).then_some(())
    });
    host.kill();
    host.start();
    drop(gate);
    let done = waiter.wait_with_output().unwrap();
    assert!(done.status.success(), "{done:?}");
    let unknown = host.run_cli(&["wait", "999"]);
    assert_eq!(unknown.status.code(), Some(1), "{unknown:?}");
}

#[test]
fn bytes_survive_and_terminals_are_spared() {
    let host = Host::started();
    let id = host.add(&host.shell("printf 'a\\377\\376b\\033[31mred\\033]0;title\\007\\n'"));
    host.finish(id);
    let raw = host.call("GET", &format!("/api/v1/jobs/{id}/log"), None).body;
    assert_eq!(raw, b"a\xff\xfeb\x1b[31mred\x1b]0;title\x07\n");
    let piped = host.run_cli(&["logs", "--raw", &id.to_string()]);
    assert_eq!(piped.stdout, raw);
}

#[test]
fn lines_are_found_in_the_logs_of_many() {
    let host = Host::started();
    let named = |name: &str, script: &str| {
        let id = host.add(&host.shell_with(script, json!({ "name": name, "retry": 1, "retry_delay": 0 })));
        host.finish(id);
        id
    };
    let (first, second) = (named("build-a", "echo Error: 1; exit 1"), named("build-b", "echo fine; echo error: 2"));
    let grep = |words: &[&str]| {
        let done = host.run_cli(&[&["logs", "-q", "--grep"], words].concat());
        (done.status.code(), String::from_utf8_lossy(&done.stdout).into_owned())
    };
    let (one, two) = (format!("{first}.1\tError: 1\n{first}.2\tError: 1\n"), format!("{second}.1\terror: 2\n"));
    assert_eq!(grep(&["error:", "-i"]), (Some(0), format!("{two}{one}")));
    assert_eq!(grep(&["^error"]), (Some(0), two.clone()));
    assert_eq!(grep(&["error:", "-i", "--name", "build-a"]), (Some(0), one.clone()));
    assert_eq!(grep(&["error:", "-i", "--outcome", "failed", "--since", "1h"]), (Some(0), one.clone()));
    assert_eq!(grep(&["error:", "-i", &first.to_string()]), (Some(0), one));
    assert_eq!(grep(&["e.*:", "-F"]), (Some(1), String::new()));
    assert_eq!(grep(&["x", "999"]), (Some(1), String::new()));
    assert_eq!(grep(&["("]), (Some(3), String::new()));
}

/// The sum of a metric's samples whose labels hold this.
fn sum(text: &str, name: &str, label: &str) -> f64 {
    let of_name = text.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
    of_name.filter(|line| line.contains(label)).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[test]
fn metrics_agree_with_what_happened() {
    let mut host = Host::new();
    host.words = ["--metrics", "127.0.0.1:0"].map(str::to_owned).to_vec();
    let line = host.start();
    let address = line.split_once("metrics on ").unwrap_or_else(|| panic!("{line}")).1.trim().to_owned();
    let scripts = ["true", "true", "true", "exit 1", "kill -9 $$", "sleep 600", "sleep 600"];
    let jobs: Vec<u64> = scripts
        .iter()
        .enumerate()
        .map(|(at, script)| host.add(&host.shell_with(script, json!({ "timeout": if at == 5 { 0.3 } else { 60.0 } }))))
        .collect();
    let retried = host.add(&host.shell_with("test $CI_RUNNER_ATTEMPT -gt 2", json!({ "retry": 3, "retry_delay": 0 })));
    host.wait_state(jobs[6], "running");
    host.post(&format!("/api/v1/jobs/{}/cancel", jobs[6]), &json!({}));
    jobs.iter().chain([&retried]).for_each(|id| drop(host.finish(*id)));
    let outcomes = [("succeeded", 4.0), ("failed", 2.0), ("timed_out", 1.0), ("cancelled", 1.0)];
    let text = wait_for("the last figures", || {
        let text = http_get(&address, "/metrics");
        (sum(&text, "ci_runner_jobs", "running") == 0.0 && sum(&text, "ci_runner_jobs_total", "") >= 8.0)
            .then_some(text)
    });
    for (outcome, count) in outcomes {
        assert_eq!(sum(&text, "ci_runner_jobs_total", outcome), count, "{outcome}:\n{text}");
    }
    assert_eq!(sum(&text, "ci_runner_job_retries_total", "exit"), 2.0, "{text}");
    assert_eq!(sum(&text, "ci_runner_job_duration_seconds_count", ""), 10.0, "one for each attempt:\n{text}");
    assert!(
        sum(&text, "ci_runner_build_info", "") == 1.0
            && sum(&text, "ci_runner_commit_duration_seconds_count", "") > 5.0
    );
    assert!(!text.contains("job=\""), "a job's id is a label:\n{text}");
    let promtool =
        Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn();
    match promtool {
        Err(_) => skipped::tell("a part of metrics_agree_with_what_happened", "promtool is not installed"),
        Ok(mut child) => {
            // The host's names are node_exporter's, and promtool does not like all of them.
            let of_host = |line: &&str| line.split(' ').any(|word| word.starts_with("node_"));
            let own: String = text.lines().filter(|line| !of_host(line)).map(|line| format!("{line}\n")).collect();
            child.stdin.take().unwrap().write_all(own.as_bytes()).unwrap();
            let done = child.wait_with_output().unwrap();
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        }
    }
}

/// Lines by job, in the order in which they came.
fn by_job(text: &str) -> std::collections::BTreeMap<u64, Vec<String>> {
    let mut found = std::collections::BTreeMap::<u64, Vec<String>>::new();
    for line in text.lines() {
        let (prefix, rest) = line.split_once('\t').unwrap();
        let job = prefix.split('.').next().unwrap().parse().unwrap();
        found.entry(job).or_default().push(rest.to_owned());
    }
    found
}

#[test]
fn many_are_followed_at_once_and_no_line_is_lost_or_repeated_while_the_daemon_is_killed() {
    let mut host = Host::started();
    let count = 600;
    let script = format!(
        "i=0; while [ $i -lt {count} ]; do echo line $i; i=$((i+1)); [ $((i % 30)) -eq 0 ] && sleep 0.05; done"
    );
    let named = |host: &Host, name: &str, script: &str| host.add(&host.shell_with(script, json!({ "name": name })));
    let first = named(&host, "build-0", &script);
    let other = named(&host, "other", &script);
    host.wait_state(first, "running");
    let mut follower = host.cli(&["logs", "-f", "--name", "build*"]);
    let mut follower = follower.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut pipe = follower.stdout.take().unwrap();
    let (sender, lines) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        use std::io::BufRead;
        std::io::BufReader::new(&mut pipe).lines().map_while(Result::ok).for_each(|line| sender.send(line).unwrap());
    });
    // Jobs that ended before it began to look are not its own.
    let mut text = lines.recv_timeout(crate::support::PATIENCE).unwrap() + "\n";
    let mut wanted = vec![first];
    for kills in 0..3 {
        wanted.push(named(&host, &format!("build-{kills}"), &script));
        // One that begins and ends at once.
        wanted.push(named(&host, "build-short", "echo line 0"));
        wait_for("more lines", || (host.log(first).lines().count() > kills * 100 + 100).then_some(()));
        host.kill();
        host.start();
    }
    for id in wanted.iter().chain([&other]) {
        assert_eq!(host.finish(*id)["outcome"], "succeeded");
    }
    // It goes on until it is told to end; all of it must have come before.
    let total = 4 * count + 3;
    for _ in 1..total {
        let line = lines.recv_timeout(crate::support::PATIENCE).unwrap_or_else(|_| {
            crate::support::kill(follower.id() as i32, "INT");
            let mut told = String::new();
            std::io::Read::read_to_string(follower.stderr.as_mut().unwrap(), &mut told).unwrap();
            panic!("another line is missing; it said: {told}")
        });
        text.push_str(&line);
        text.push('\n');
    }
    crate::support::kill(follower.id() as i32, "INT");
    let ended = follower.wait().unwrap();
    reader.join().unwrap();
    text.extend(lines.try_iter().map(|line| line + "\n"));
    assert_eq!(ended.code(), Some(130));
    let found = by_job(&text);
    assert_eq!(found.keys().copied().collect::<Vec<_>>(), wanted);
    for (job, lines) in found {
        let expected: Vec<String> = (0..lines.len()).map(|number| format!("line {number}")).collect();
        assert_eq!(lines, expected, "job {job}");
    }
    assert_eq!(text.lines().count(), total);
}

#[test]
fn named_jobs_are_followed_to_the_last_one_s_end() {
    let host = Host::started();
    let ids: Vec<u64> = (0..70).map(|number| host.add(&host.shell(&format!("echo from {number}")))).collect();
    let words: Vec<String> =
        ["logs", "-f"].map(str::to_owned).into_iter().chain(ids.iter().map(u64::to_string)).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = host.run_cli(&words);
    assert!(done.status.success(), "{done:?}");
    let found = by_job(&String::from_utf8(done.stdout).unwrap());
    let expected: Vec<(u64, Vec<String>)> =
        ids.iter().zip(0..).map(|(id, n)| (*id, vec![format!("from {n}")])).collect();
    assert_eq!(found.into_iter().collect::<Vec<_>>(), expected);
    assert_eq!(host.run_cli(&["logs", "-f", "7", "999"]).status.code(), Some(1));
    assert_eq!(host.run_cli(&["logs", "--name", "x"]).status.code(), Some(3));
}
