//! A private spawner ends with its daemon, and nothing of its jobs stays; any other one outlives it.

use std::fs;
use std::io::{self, PipeWriter};
use std::process::Stdio;

use crate::common::{Cgroup, Host, is_alive, wait_for};
use ci_runner_spawner::protocol::Seen;

/// Jobs that do not want to end.
const SHAPES: [&str; 3] = [
    "trap '' TERM HUP INT; echo x >$F; while :; do sleep 1; done",
    "setsid sh -c 'trap \"\" TERM; echo x >$F; sleep 600' & sleep 600",
    "(sh -c 'sleep 600 & echo x >$F; sleep 600' &); kill -STOP $$",
];

/// A spawner in a directory of its own with running jobs, and the daemon's end of its pipe.
fn running(cgroup: Cgroup, private: bool) -> (Host, PipeWriter) {
    let (reader, writer) = io::pipe().unwrap();
    let mut host = Host::new(cgroup);
    let dir = host.dir.path().join("private");
    fs::create_dir(&dir).unwrap();
    host.subdirectory = Some(dir);
    host.lifeline = private.then_some(reader);
    host.connect();
    for (number, script) in (1..).zip(SHAPES) {
        let ready = host.dir.path().join(format!("ready-{number}"));
        let spec = host.script(&format!("F={}; export F; {script}", ready.display()));
        host.start(number, &spec);
        host.wait_file(&ready);
    }
    (host, writer)
}

fn check_all_gone(host: &Host) {
    let pid = host.spawner_pid;
    wait_for("the end of the jobs", || host.survivors().is_empty().then_some(()));
    wait_for("the end of the spawner", || (!is_alive(pid)).then_some(()));
    wait_for("an empty place", || (!host.path("").exists()).then_some(()));
    assert_eq!(host.cgroups(), Vec::<std::path::PathBuf>::new());
}

fn check_dies(cgroup: Cgroup) {
    let (mut host, writer) = running(cgroup, true);
    // Without a connection, but with a daemon, all goes on; and after a spawner's death with its successor.
    host.connect();
    host.kill_spawner();
    host.connect();
    let seen = host.list();
    assert!(seen.len() == SHAPES.len() && seen.values().all(|seen| *seen == Seen::Alive), "{seen:?}");
    // The daemon dies; its connection need not even be over.
    drop(writer);
    check_all_gone(&host);
}

#[test]
fn a_private_spawner_ends_with_its_daemon() {
    check_dies(Cgroup::Auto);
}

#[test]
fn a_private_spawner_without_cgroups_ends_with_its_daemon() {
    check_dies(Cgroup::Off);
}

#[test]
fn a_private_spawner_without_jobs_ends_with_its_daemon() {
    let (reader, writer) = io::pipe().unwrap();
    let mut host = Host::new(Cgroup::Auto);
    host.subdirectory = Some(host.dir.path().join("private"));
    host.lifeline = Some(reader);
    host.connect();
    drop(writer);
    check_all_gone(&host);
}

#[test]
fn control_any_other_spawner_and_its_jobs_outlive_the_daemon() {
    let (mut host, writer) = running(Cgroup::Auto, false);
    // The same, side by side and later, has ended.
    let (private, private_writer) = running(Cgroup::Auto, true);
    host.client = None;
    drop((writer, private_writer));
    check_all_gone(&private);
    host.connect();
    let seen = host.list();
    assert!(seen.len() == SHAPES.len() && seen.values().all(|seen| *seen == Seen::Alive), "{seen:?}");
    assert!(host.survivors().len() >= SHAPES.len());
}

#[test]
fn a_private_spawner_needs_a_pipe() {
    let mut host = Host::new(Cgroup::Auto);
    host.lifeline = Some(io::pipe().unwrap().0);
    let mut command = host.command();
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("must be a pipe"), "{output:?}");
}
