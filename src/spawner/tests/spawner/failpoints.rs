//! Death at every step: an attempt is executed at most once, and exactly once unless its shim was the victim; its result is
//! told or it is lost; nothing is left.

use std::fs;

use ci_runner_spawner::failpoint;
use ci_runner_spawner::protocol::ExitResult;

use crate::common::Cgroup;
use crate::daemon::{Daemon, Flow, JOBS, Known};

fn check(point: &str, pass: u64, cgroup: Cgroup, flow: Flow) {
    let context = format!("{point}:{pass} {cgroup:?} {flow:?}");
    let mut daemon = Daemon::failing_at(point, pass, cgroup, flow);
    daemon.until_all_known(|_| {});
    let passes = |daemon: &Daemon| fs::metadata(daemon.host.path("count").join(point)).map_or(0, |file| file.len());
    let mut lost = 0;
    for job in 1..=JOBS {
        let executions = daemon.executions(job);
        let known = &daemon.known[&daemon.host.key(job)];
        match (flow, known) {
            (Flow::Void, Known::Voided) => assert_eq!(executions, 0, "{context}"),
            (Flow::Run, Known::Ended(ExitResult::Exited { code: 0 })) => assert_eq!(executions, 1, "{context}"),
            (Flow::Stop, Known::Ended(ExitResult::Signaled { signal: 15 })) => assert_eq!(executions, 1, "{context}"),
            (Flow::Kill, Known::Ended(ExitResult::Signaled { signal: 9 })) => assert_eq!(executions, 1, "{context}"),
            (_, Known::Lost) => {
                assert!(point.starts_with("shim-") && executions <= 1, "{context}: lost after {executions} executions");
                lost += 1;
            }
            (_, known) => panic!("{context}: {known:?}"),
        }
    }
    let costs_an_attempt = [
        failpoint::SHIM_AFTER_BEGAN,
        failpoint::SHIM_AFTER_EXEC,
        failpoint::SHIM_AFTER_MAIN_END,
        failpoint::SHIM_BEFORE_EXIT_RECORD,
        failpoint::SHIM_AFTER_EXIT_TMP,
    ];
    assert_eq!(lost, u64::from(costs_an_attempt.contains(&point)), "{context}: {:?}", daemon.known);
    daemon.host.assert_nothing_left();
    daemon.forget_all();
    assert!(passes(&daemon) >= pass, "{context}: the point was passed {} times", passes(&daemon));
}

fn flow_of(point: &str) -> Flow {
    match point {
        failpoint::SPAWNER_AFTER_SIGNAL => Flow::Stop,
        failpoint::SPAWNER_AFTER_KILL => Flow::Kill,
        failpoint::SPAWNER_BEFORE_VOID | failpoint::SPAWNER_AFTER_VOID => Flow::Void,
        _ => Flow::Run,
    }
}

fn check_all(cgroup: Cgroup, which: &str) {
    let points: Vec<_> = failpoint::names().iter().filter(|name| name.starts_with(which)).collect();
    assert!(points.len() > 5);
    for point in points {
        for pass in 1..=JOBS {
            // A turn can hold several ends: the point after them is passed once at least.
            if *point == failpoint::SPAWNER_AFTER_ENDED && pass > 1 {
                continue;
            }
            check(point, pass, cgroup, flow_of(point));
        }
    }
}

#[test]
fn a_spawner_can_die_anywhere() {
    check_all(Cgroup::Auto, "spawner-");
}

#[test]
fn a_spawner_can_die_anywhere_without_cgroups() {
    check_all(Cgroup::Off, "spawner-");
}

#[test]
fn a_shim_can_die_anywhere() {
    check_all(Cgroup::Auto, "shim-");
}

#[test]
fn a_shim_can_die_anywhere_without_cgroups() {
    check_all(Cgroup::Off, "shim-");
}

/// The check finds what it looks for: the same daemon against attempts that run again after their directory was taken away.
#[test]
fn control_without_the_directory_an_attempt_runs_twice() {
    let mut daemon = Daemon::failing_at(failpoint::SPAWNER_BEFORE_ENDED, 1, Cgroup::Off, Flow::Run);
    daemon.until_all_known(|_| {});
    let key = daemon.host.key(1);
    daemon.forget_all();
    daemon.known.insert(key.clone(), Known::Nothing);
    daemon.ask(&key);
    daemon.until_all_known(|_| {});
    assert_eq!(daemon.executions(1), 2);
}
