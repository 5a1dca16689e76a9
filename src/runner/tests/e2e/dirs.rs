//! Directories that change while jobs run: the jobs go on where they began, once, and everything of them is found.

use crate::support::{Host, wait_for};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Stdio;

/// A job that says that it began, and ends when the gate is opened.
fn gated(host: &Host, gate: &str) -> Value {
    let (began, gate) = (host.path("began"), host.path(gate));
    let script =
        format!("echo $CI_RUNNER_ATTEMPT >>{}; echo before; read x <{}; echo after", began.display(), gate.display());
    host.shell_with(&script, json!({ "retry": 3, "retry_delay": 0 }))
}

/// The next daemons have this runtime directory; the API stays where it was.
fn move_runtime_dir(host: &mut Host, dir: &Path) {
    let socket = host.socket();
    let words = ["--runtime-dir", dir.to_str().unwrap(), "--socket", socket.to_str().unwrap()];
    host.words = words.map(str::to_owned).to_vec();
}

fn problems(host: &Host) -> String {
    host.get("/api/v1/status")["problems"].to_string()
}

/// Such a job used to be called lost, was killed, and ran again.
#[test]
fn jobs_go_on_in_the_runtime_directory_that_they_began_in() {
    let mut host = Host::started();
    let gate = host.gate("gate");
    let id = host.add(&gated(&host, "gate"));
    wait_for("its beginning", || host.path("began").exists().then_some(()));
    host.kill();
    let other = host.path("other");
    move_runtime_dir(&mut host, &other);
    for _ in 0..2 {
        host.start();
        host.wait_state(id, "running");
        let told = problems(&host);
        assert!(told.contains("runtime directory") && told.contains(other.to_str().unwrap()), "{told}");
        host.kill();
    }
    host.start();
    drop(gate);
    let ended = host.finish(id);
    assert_eq!((&ended["outcome"], ended["attempts"].as_array().unwrap().len()), (&json!("succeeded"), 1), "{ended:#}");
    assert_eq!(fs::read_to_string(host.path("began")).unwrap().lines().count(), 1);
    assert_eq!(host.log(id), "before\nafter\n");
    // It used to say "still, for 1 attempts" when there was none any more.
    let told = problems(&host);
    assert!(told.contains("when the daemon started") && !told.contains("1 attempts"), "{told}");
    assert!(!other.join("spawner").exists());
    // Without open attempts the new one is used.
    host.stop();
    host.start();
    wait_for("a status without problems", || (problems(&host) == "[]").then_some(()));
    let next = host.add(&host.shell("true"));
    assert_eq!(host.finish(next)["outcome"], "succeeded");
    assert!(other.join("spawner/epoch").exists());
}

/// The control: where nothing is left there is nothing to go on with. They used to be lost "with the host", and nothing said why.
#[test]
fn a_runtime_directory_that_is_gone_is_told_to_whoever_lost_jobs_by_it() {
    let mut host = Host::started();
    let id = host.add(&host.shell_with("sleep 600", json!({ "retry": 0 })));
    host.wait_state(id, "running");
    let told = |host: &Host| host.daemon_log().contains("the runtime directory was ");
    host.kill();
    host.start();
    host.wait_state(id, "running");
    assert!(!told(&host), "the control: it is the same one");
    host.kill();
    let other = host.path("other");
    move_runtime_dir(&mut host, &other);
    fs::remove_dir_all(host.runtime().join("spawner")).unwrap();
    host.start();
    assert_eq!(host.finish(id)["attempts"][0]["result"], "lost");
    assert!(told(&host));
}

#[test]
fn a_runtime_directory_that_cannot_be_looked_at_is_no_reason_to_run_jobs_again() {
    let mut host = Host::started();
    let gate = host.gate("gate");
    let id = host.add(&gated(&host, "gate"));
    host.wait_state(id, "running");
    host.kill();
    let (epoch, aside) = (host.runtime().join("spawner/epoch"), host.runtime().join("spawner/epoch.aside"));
    fs::rename(&epoch, &aside).unwrap();
    fs::create_dir(&epoch).unwrap();
    let other = host.path("other");
    move_runtime_dir(&mut host, &other);
    let (status, text) = host.refused();
    assert_eq!(status.code(), Some(2), "{text}");
    assert!(text.contains("jobs may still run") && text.contains(host.runtime().to_str().unwrap()), "{text}");
    fs::remove_dir(&epoch).unwrap();
    fs::rename(&aside, &epoch).unwrap();
    host.start();
    drop(gate);
    assert_eq!(host.finish(id)["attempts"].as_array().unwrap().len(), 1);
}

/// It used to go on into the old directory, which nobody looked at any more, and with it what later jobs print.
#[test]
fn output_goes_to_the_log_directory_of_the_configuration_and_older_logs_are_found() {
    let mut host = Host::started();
    let old = host.state.join("logs");
    let ended = host.add(&host.shell("echo ended"));
    host.finish(ended);
    let gates = [host.gate("gate"), host.gate("quiet")];
    let id = host.add(&gated(&host, "gate"));
    let quiet = host.add(&host.shell(&format!("read x <{}; echo quiet", host.path("quiet").display())));
    wait_for("its output", || (host.log(id) == "before\n").then_some(()));
    host.wait_state(quiet, "running");
    for number in 1..=2 {
        host.kill();
        let dir = host.path(&format!("logs{number}"));
        host.config = format!("grace = 1\nlog_dir = {dir:?}\n");
        host.start();
        host.wait_state(id, "running");
        assert_eq!((host.log(ended).as_str(), host.log(id).as_str()), ("ended\n", "before\n"));
        let next = host.add(&host.shell("echo next"));
        host.finish(next);
        assert_eq!(host.log(next), "next\n");
        let file = format!("0/{next}-1.log");
        assert!(dir.join(&file).exists() && !old.join(&file).exists());
    }
    let follower = host.cli(&["logs", "--follow", &quiet.to_string()]).stdout(Stdio::piped()).spawn().unwrap();
    drop(gates);
    assert_eq!(host.finish(id)["outcome"], "succeeded");
    assert_eq!(host.log(id), "before\nafter\n");
    host.finish(quiet);
    assert_eq!(String::from_utf8_lossy(&follower.wait_with_output().unwrap().stdout), "quiet\n");
    assert!(old.join(format!("0/{quiet}-1.log")).exists(), "the control: it began there");
}

/// Such a store's output was appended to the other's logs, and its jobs waited for the other's slots.
#[test]
fn two_stores_on_one_runtime_directory_share_neither_logs_nor_slots() {
    let mut first = Host::new();
    first.slots = 1;
    first.start();
    let gate = first.gate("gate");
    let running = first.add(&gated(&first, "gate"));
    wait_for("its output", || (first.log(running) == "before\n").then_some(()));
    let mut second = Host::new();
    second.slots = 1;
    move_runtime_dir(&mut second, &first.runtime());
    fs::create_dir_all(second.runtime()).unwrap();
    second.start();
    let other = second.add(&second.shell("echo other; echo $CI_RUNNER_WORKSPACE; echo $TMPDIR; pwd"));
    assert_eq!(other, running, "the control: they have the same number");
    assert_eq!(second.finish(other)["outcome"], "succeeded");
    let log = second.log(other);
    let lines: Vec<&str> = log.lines().collect();
    assert!(lines[0] == "other" && lines[1] == lines[2] && lines[2] == lines[3], "{log}");
    assert!(lines[1].starts_with(second.state.join("tmp").to_str().unwrap()), "{log}");
    assert_eq!(first.log(running), "before\n");
    drop(gate);
    assert_eq!(first.finish(running)["outcome"], "succeeded");
    assert_eq!(first.log(running), "before\nafter\n");
}

/// The jobs of the life before a restore run on, in slots that the restored store has, too.
#[test]
fn jobs_of_the_life_before_a_restore_hold_no_slot() {
    let mut host = Host::new();
    host.slots = 1;
    host.start();
    let backup = host.path("backup.db");
    assert!(host.run_cli(&["backup", backup.to_str().unwrap()]).status.success());
    let gate = host.gate("gate");
    host.add(&gated(&host, "gate"));
    wait_for("its beginning", || host.path("began").exists().then_some(()));
    host.stop();
    let state = host.state.to_str().unwrap().to_owned();
    let restored = host.run_cli(&["restore", "--state-dir", &state, backup.to_str().unwrap()]);
    assert!(restored.status.success(), "{restored:?}");
    host.start();
    let next = host.add(&host.shell("true"));
    assert_eq!(host.finish(next)["outcome"], "succeeded");
    drop(gate);
}

/// A job whose id stood in an earlier log directory showed the log that was there; if it printed later, a follower never saw that.
#[test]
fn a_job_that_prints_nothing_shows_no_log_of_another_with_its_id() {
    let mut host = Host::started();
    let other = host.add(&host.shell("echo other"));
    host.finish(other);
    host.finish(host.add(&host.shell("true")));
    host.stop();
    let old = host.state.join("logs");
    // What a store left that was made anew since: a log of an id that is still to come.
    let mine = other + 2;
    fs::copy(old.join(format!("0/{other}-1.log")), old.join(format!("0/{mine}-1.log"))).unwrap();
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(60);
    let file = fs::File::options().write(true).open(old.join(format!("0/{mine}-1.log"))).unwrap();
    file.set_modified(long_ago).unwrap();
    fs::copy(old.join(format!("0/{other}-1.log")), old.join(format!("0/{}-1.log", mine + 1))).unwrap();
    host.config = format!("grace = 1\nlog_dir = {:?}\n", host.path("logs"));
    host.start();
    let silent = host.add(&host.shell(&host.until("gate")));
    assert_eq!(silent, mine, "ids go on behind the logs of the directory in use only");
    host.wait_state(silent, "running");
    assert_eq!(host.log(silent), "", "while it runs");
    let late = host.add(&host.shell(&format!("{}; echo late", host.until("gate"))));
    let follower = host.cli(&["logs", "--follow", &late.to_string()]).stdout(Stdio::piped()).spawn().unwrap();
    fs::write(host.path("gate"), "").unwrap();
    host.finish(silent);
    host.finish(late);
    assert_eq!(host.log(silent), "", "when it is over");
    assert_eq!(host.log(late), "late\n");
    assert_eq!(String::from_utf8_lossy(&follower.wait_with_output().unwrap().stdout), "late\n");
    assert_eq!(host.log(other), "other\n", "the control: an earlier log of a job's own is found");
    host.stop();
    host.assert_clean();
}

/// It was made where a daemon without a configuration would look.
#[test]
fn restore_makes_the_state_that_the_configuration_names() {
    let mut host = Host::new();
    host.start();
    let backup = host.path("backup.db");
    assert!(host.run_cli(&["backup", backup.to_str().unwrap()]).status.success());
    host.stop();
    let (config, state) = (host.path("other.toml"), host.path("other-state"));
    std::fs::write(&config, format!("state_dir = {state:?}\n")).unwrap();
    let restored = host.run_cli(&["restore", "--config", config.to_str().unwrap(), backup.to_str().unwrap()]);
    assert!(restored.status.success(), "{restored:?}");
    assert!(state.join("queue.db").exists());
}
