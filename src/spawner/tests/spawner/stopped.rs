//! A shim that somebody stopped holds neither its job's end nor its slot. It did, until the hard deadline.

use std::time::Duration;

use crate::common::{Cgroup, Host, go, kill, state, wait_for};
use ci_runner_spawner::protocol::{ExitResult, Seen, Spec};

const FAULT: &str = "spawner-ignores-stopped-shims";

/// Says it runs, waits for a word, stops its shim, and ends.
fn stopping_job(host: &Host, last: &str) -> Spec {
    let dir = host.dir.path().display();
    let waits = format!("echo ready > {dir}/ready; while [ ! -e {dir}/go ]; do sleep 0.01; done");
    host.script(&format!("{waits}; {last}"))
}

fn stopped(cgroup: Cgroup, faulty: bool, last: &str) -> Host {
    let mut host = Host::new(cgroup);
    if faulty {
        host.environment.push(("CI_RUNNER_FAIL".to_owned(), FAULT.to_owned()));
    }
    host.connect();
    let spec = stopping_job(&host, last);
    host.start(1, &spec);
    host.wait_file(&host.path("ready"));
    host
}

fn wait_stopped(host: &Host) {
    let shim = host.shim_pid(1);
    wait_for("the shim to be stopped", || (state(shim) == Some('T')).then_some(()));
}

fn spawner_log(host: &Host) -> String {
    std::fs::read_to_string(host.path("run/spawner/spawner.log")).unwrap_or_default()
}

/// The control began before and has had more time.
fn check_continued(cgroup: Cgroup, adopted: bool) {
    let last = "kill -STOP $PPID; exit 3";
    let mut control = stopped(cgroup, true, last);
    let mut host = stopped(cgroup, false, last);
    for host in [&mut control, &mut host] {
        if adopted {
            host.kill_spawner();
            host.connect();
        }
        go(host);
        wait_stopped(host);
    }
    assert_eq!(host.record(1).result, ExitResult::Exited { code: 3 });
    assert!(spawner_log(&host).contains("is stopped; continuing it"), "{}", spawner_log(&host));
    let key = control.key(1);
    assert_eq!(control.list().get(&key), Some(&Seen::Alive), "the control has nothing to show");
    kill(control.shim_pid(1), "CONT");
    assert_eq!(control.record(1).result, ExitResult::Exited { code: 3 });
}

#[test]
fn a_stopped_shim_is_continued() {
    check_continued(Cgroup::Auto, false);
}

#[test]
fn a_stopped_shim_of_another_spawner_is_continued() {
    check_continued(Cgroup::Auto, true);
}

#[test]
fn a_stopped_shim_without_cgroup_is_continued() {
    check_continued(Cgroup::Off, false);
}

#[test]
fn a_shim_that_is_stopped_again_and_again_is_ended_with_its_job() {
    let mut host = stopped(Cgroup::Auto, false, "while :; do kill -STOP $PPID; done");
    go(&host);
    wait_stopped(&host);
    let end = host.end(1);
    assert!(!end.is_some_and(|record| matches!(record.result, ExitResult::Exited { .. })), "it never exited");
    assert!(spawner_log(&host).contains("times in a row"), "{}", spawner_log(&host));
    host.assert_nothing_left();
    // Its slot is free again.
    let spec = host.spec(&["true"]);
    let request = ci_runner_spawner::protocol::Start { slot: 1, ..host.request(2) };
    host.start_as(request, &spec, None);
    assert_eq!(host.record(2).result, ExitResult::Exited { code: 0 });
}

/// Somebody outside of the job, who does not tire.
#[test]
fn a_shim_that_is_held_stopped_from_outside_is_not_waited_for() {
    let mut host = stopped(Cgroup::Auto, false, "exit 0");
    let shim = host.shim_pid(1);
    kill(shim, "STOP");
    wait_stopped(&host);
    go(&host);
    let over = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let tireless = std::thread::spawn({
        let over = over.clone();
        move || {
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                if state(shim).is_some_and(|state| !matches!(state, 'T' | 'Z')) {
                    kill(shim, "STOP");
                }
                std::thread::sleep(Duration::from_micros(50));
            }
        }
    });
    // What it managed to see between two stops is as good as any other result.
    let end = host.end(1);
    over.store(true, std::sync::atomic::Ordering::Relaxed);
    tireless.join().unwrap();
    println!("{end:?}");
    host.assert_nothing_left();
}
