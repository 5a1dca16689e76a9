//! The daemon is told to stop: in order, a second time, with work that falls due meanwhile, amid work.

use crate::service::waiting_job;
use crate::support::{Host, PATIENCE, is_alive, wait_for};
use rusqlite::{Connection, MAIN_DB};
use serde_json::json;
use std::io::Read;
use std::time::{Duration, Instant};

#[test]
fn a_stop_ends_the_daemon_in_two_seconds_and_no_job() {
    let mut host = Host::new();
    host.slots = 1;
    host.start();
    let gate = host.gate("gate");
    let running = waiting_job(&host, "gate");
    let queued = host.add(&host.shell("echo later"));
    let mut follower = host.client().stream(&format!("/api/v1/jobs/{running}/log?follow=true")).unwrap();
    let mut begin = [0; 6];
    follower.read_exact(&mut begin).unwrap();
    let asked = Instant::now();
    host.signal("TERM");
    let status = host.wait_exit(Duration::from_secs(10));
    let took = asked.elapsed();
    assert_eq!(status.code(), Some(0), "{}", host.daemon_log());
    assert!(took < Duration::from_secs(2), "took {took:?}");
    assert_eq!(host.shims().len(), 1, "the job goes on");
    host.start();
    assert_eq!(host.state_of(running), "running");
    assert_eq!(host.state_of(queued), "queued", "its slot is another's");
    drop(gate);
    for id in [running, queued] {
        assert_eq!(host.finish(id)["outcome"], "succeeded");
    }
    assert_eq!(host.log(running), "begin\nend\n");
    host.assert_clean();
}

/// No commit comes to an end until this is dropped: so a stop, whose last step is one, is held up. The store gives up after 10 s.
fn hold_up_commits(host: &Host) -> Connection {
    let database = Connection::open(host.state.join("queue.db")).unwrap();
    // As the daemon does: the log must stay although this connection may be the last one.
    database.file_control(Some(MAIN_DB), rusqlite::FileControl::PersistWal(&mut 1)).unwrap();
    database.busy_timeout(PATIENCE).unwrap();
    database.execute_batch("BEGIN IMMEDIATE").unwrap();
    database
}

fn stop_in_vain(host: &Host) {
    host.signal("TERM");
    wait_for("the first stop", || host.daemon_log().contains("stopping: nothing more is claimed").then_some(()));
}

#[test]
fn a_second_stop_does_not_wait() {
    let mut control = Host::started();
    let mut host = Host::started();
    let second = "told to stop a second time: ending at once";
    let _gate = host.gate("gate");
    waiting_job(&host, "gate");
    let held = [hold_up_commits(&control), hold_up_commits(&host)];
    stop_in_vain(&control);
    stop_in_vain(&host);
    let asked = Instant::now();
    host.signal("TERM");
    let status = host.wait_exit(Duration::from_secs(5));
    assert_eq!(status.code(), Some(0), "{}", host.daemon_log());
    assert!(host.daemon_log().contains(second), "{}", host.daemon_log());
    // The control was told before, once, and had more time.
    assert!(is_alive(control.pid()), "the first stop was not held up:\n{}", control.daemon_log());
    println!("a second stop took {:?}", asked.elapsed());
    drop(held);
    assert_eq!(control.wait_exit(PATIENCE).code(), Some(0), "{}", control.daemon_log());
    assert!(!control.daemon_log().contains(second), "{}", control.daemon_log());
    host.start();
    assert_eq!(host.get("/api/v1/status")["jobs"]["running"], 1);
}

/// Slots are free, and a job falls due while the daemon stops.
#[test]
fn after_a_stop_nothing_is_claimed() {
    let mut host = Host::started();
    // One that ran shows that all is there that a claim needs.
    let first = host.add(&host.shell("true"));
    host.finish(first);
    let due = host.add(&host.shell_with("true", json!({ "in": 1 })));
    let held = hold_up_commits(&host);
    stop_in_vain(&host);
    let reasons = |host: &Host| host.why(due).into_iter().map(|(kind, _)| kind).collect::<Vec<_>>();
    assert_eq!(reasons(&host), ["delayed"], "it was to fall due after the stop");
    // Each question is a turn of the loop, in which it could claim.
    wait_for("the job to fall due", || (reasons(&host) != ["delayed"]).then_some(()));
    for _ in 0..5 {
        reasons(&host);
    }
    drop(held);
    assert_eq!(host.wait_exit(PATIENCE).code(), Some(0), "{}", host.daemon_log());
    let database = Connection::open(host.state.join("queue.db")).unwrap();
    let attempts = "SELECT count(*) FROM attempts WHERE id = ?1";
    let count = |id: u64| database.query_row(attempts, [id as i64], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!((count(first), count(due)), (1, 0), "claimed after SIGTERM");
    drop(database);
    host.start();
    assert_eq!(host.finish(due)["outcome"], "succeeded");
}

/// A stop during `cancel --all` of many jobs used to wait for a slice of work that a stopping loop no longer took.
#[test]
fn a_stop_ends_the_daemon_amid_a_cancel_of_everything() {
    let mut host = Host::new();
    host.slots = 1;
    host.start();
    host.post("/api/v1/pause", &json!({}));
    for _ in 0..10 {
        let jobs: Vec<_> = (0..1_000).map(|_| host.shell("true")).collect();
        host.post("/api/v1/jobs", &json!(jobs));
    }
    let client = host.client();
    let cancel =
        std::thread::spawn(move || drop(client.call("POST", "/api/v1/jobs/cancel", &[], Some(&json!({"all": true})))));
    wait_for("the first slice", || {
        host.get("/api/v1/status")["jobs"]["queued"].as_u64().filter(|queued| *queued < 10_000)
    });
    host.signal("TERM");
    let status = host.wait_exit(Duration::from_secs(20));
    assert_eq!(status.code(), Some(0), "{}", crate::support::tail(&host.daemon_log()));
    cancel.join().unwrap();
    host.start();
    host.assert_clean();
}
