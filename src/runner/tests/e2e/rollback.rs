//! A state directory that was put back from an older copy, without `restore`: a new job never takes the result of another.

use crate::support::{Host, wait_for};
use std::fs;
use std::path::Path;
use std::process::Command;

fn copy(from: &Path, to: &Path) {
    let done = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(done.success());
}

#[test]
fn a_new_job_does_not_get_the_result_of_one_that_the_store_forgot() {
    let mut host = Host::started();
    host.finish(host.add(&host.shell("true")));
    host.stop();
    let (state, aside) = (host.path("state"), host.path("state.copy"));
    copy(&state, &aside);
    host.start();
    let gate = host.gate("gate");
    let forgotten = host.add(&host.shell(&format!("read x < {}; exit 7", host.path("gate").display())));
    host.wait_state(forgotten, "running");
    host.stop();
    fs::remove_dir_all(&state).unwrap();
    copy(&aside, &state);
    host.start();
    wait_for("the attempt to be told", || (host.get("/api/v1/status")["state"] == "degraded").then_some(()));
    let fresh = host.add(&host.shell("echo fresh"));
    assert!(fresh > forgotten, "job {fresh} could be taken for job {forgotten}");
    // It may wait for the place of the other, which still runs.
    drop(gate);
    let job = host.finish(fresh);
    assert_eq!(job["outcome"], "succeeded", "{job:#}\n{}", host.daemon_log());
    assert!(host.log(fresh).contains("fresh"));
    let status = host.get("/api/v1/status");
    assert!(status["problems"][0].as_str().unwrap().contains("older copy"), "{status}");
    wait_for("the forgotten job to end", || host.shims().is_empty().then_some(()));
    host.stop();
}

#[test]
fn a_job_that_waited_in_the_older_copy_does_not_get_the_result_of_what_it_did_since() {
    let mut host = Host::started();
    let script = format!("read x < {}; exit 7", host.path("gate").display());
    let held = host.add(&host.shell_with(&script, serde_json::json!({ "hold": true })));
    host.stop();
    let (state, aside) = (host.path("state"), host.path("state.copy"));
    copy(&state, &aside);
    host.start();
    let gate = host.gate("gate");
    host.post(&format!("/api/v1/jobs/{held}/release"), &serde_json::json!({}));
    host.wait_state(held, "running");
    host.stop();
    fs::remove_dir_all(&state).unwrap();
    copy(&aside, &state);
    host.start();
    wait_for("the attempt to be told", || (host.get("/api/v1/status")["state"] == "degraded").then_some(()));
    host.post(&format!("/api/v1/jobs/{held}/release"), &serde_json::json!({}));
    let job = host.finish(held);
    assert_eq!(job["outcome"], "failed", "{job:#}");
    let cause = job["cause"].as_str().unwrap();
    assert!(cause.contains("older copy"), "{cause}");
    drop(gate);
    wait_for("the forgotten attempt to end", || host.shims().is_empty().then_some(()));
    host.stop();
}
