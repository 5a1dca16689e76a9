//! A state directory that was put back from an older copy, without `restore`: a new job never takes the result of another.

use crate::support::{Host, wait_for};
use std::fs;
use std::path::Path;
use std::process::Command;

fn copy(from: &Path, to: &Path) {
    let done = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(done.success());
}

/// Replaces the state of a daemon that is stopped by a copy, and starts it again.
fn put_back(host: &mut Host, aside: &Path) {
    fs::remove_dir_all(&host.state).unwrap();
    copy(aside, &host.state);
    host.start();
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
    put_back(&mut host, &aside);
    wait_for("the attempt to be told", || (host.get("/api/v1/status")["state"] == "degraded").then_some(()));
    let fresh = host.add(&host.shell("echo fresh"));
    assert!(fresh > forgotten, "job {fresh} could be taken for job {forgotten}");
    // It used to wait for the place of the other, which still runs, beside free ones.
    let job = host.finish(fresh);
    assert_eq!(job["outcome"], "succeeded", "{job:#}\n{}", host.daemon_log());
    assert_eq!(job["attempts"].as_array().unwrap().len(), 1, "{job:#}");
    assert!(host.log(fresh).contains("fresh"));
    let problems = || host.get("/api/v1/status")["problems"].to_string();
    assert!(problems().contains("older copy"), "{}", problems());
    // The forgotten one counts: three more are all that run beside it.
    let ids: Vec<u64> = (0..4).map(|_| host.add(&host.shell(&host.until("beside")))).collect();
    ids[..3].iter().for_each(|id| drop(host.wait_state(*id, "running")));
    let (_, why) = host.why(ids[3]).into_iter().find(|(_, text)| text.contains("the store forgot")).unwrap();
    assert!(why.contains(&format!("-{forgotten}-1")), "{why}");
    drop(gate);
    // Its slot is free again, and what was told is no more so: that used to stay until the next start.
    host.wait_state(ids[3], "running");
    wait_for("the end of the problem", || (problems() == "[]").then_some(()));
    fs::write(host.path("beside"), "").unwrap();
    ids.iter().for_each(|id| assert_eq!(host.finish(*id)["outcome"], "succeeded"));
    host.stop();
    host.assert_clean();
}

/// A spawner refuses a start number that it has seen exceeded: such a store started nothing until it was restarted often enough.
/// Ids of jobs that are over were given again, and nobody was told.
#[test]
fn a_state_that_is_many_starts_behind_runs_jobs_and_people_are_told_what_is_forgotten() {
    let mut host = Host::started();
    host.finish(host.add(&host.shell("echo first")));
    host.stop();
    let aside = host.path("state.copy");
    copy(&host.state, &aside);
    for _ in 0..3 {
        host.start();
        host.finish(host.add(&host.shell("echo forgotten")));
        host.stop();
    }
    assert!(!host.daemon_log().contains("older copy"), "the control: nothing was put back yet");
    let logs = host.path("logs.kept");
    copy(&host.state.join("logs"), &logs);
    put_back(&mut host, &aside);
    for part in ["it knows jobs up to 1, and what was queued", "ids above 1 may be given a second time"] {
        wait_for(part, || host.daemon_log().contains(part).then_some(()));
    }
    let fresh = host.add(&host.shell("echo fresh"));
    assert_eq!((fresh, host.finish(fresh)["outcome"].as_str()), (2, Some("succeeded")));
    host.stop();
    // Where the logs are not put back with the rest, they show which ids were given.
    let before = host.daemon_log().len();
    fs::remove_dir_all(host.state.join("logs")).unwrap();
    copy(&logs, &host.state.join("logs"));
    host.start();
    let part = "there are logs up to job 4: new jobs get ids behind them";
    wait_for(part, || host.daemon_log()[before..].contains(part).then_some(()));
    let fresh = host.add(&host.shell("echo fresh"));
    assert_eq!((fresh, host.finish(fresh)["outcome"].as_str()), (5, Some("succeeded")));
    let before = host.daemon_log().len();
    host.stop();
    host.start();
    assert!(!host.daemon_log()[before..].contains("older copy"), "it is told once");
    host.stop();
    host.assert_clean();
}

/// How it ended is not known to anybody any more; it used to be said that its shim was killed.
#[test]
fn a_job_that_ended_since_the_copy_is_lost_and_it_is_said_why() {
    let mut host = Host::started();
    let ran = host.add(&host.shell_with(&host.until("gate"), serde_json::json!({ "retry": 0 })));
    host.wait_state(ran, "running");
    host.kill();
    let aside = host.path("state.copy");
    copy(&host.state, &aside);
    host.start();
    fs::write(host.path("gate"), "").unwrap();
    assert_eq!(host.finish(ran)["outcome"], "succeeded", "the control");
    host.stop();
    put_back(&mut host, &aside);
    let job = host.finish(ran);
    assert_eq!(job["attempts"][0]["result"], "lost", "{job:#}");
    assert!(job["attempts"][0]["cause"].as_str().unwrap().contains("its record is gone"), "{job:#}");
    wait_for("the reason", || host.daemon_log().contains("and it ended since, or its directory").then_some(()));
    host.stop();
    host.assert_clean();
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
    put_back(&mut host, &aside);
    wait_for("the attempt to be told", || (host.get("/api/v1/status")["state"] == "degraded").then_some(()));
    host.post(&format!("/api/v1/jobs/{held}/release"), &serde_json::json!({}));
    let job = host.finish(held);
    assert_eq!(job["outcome"], "failed", "{job:#}");
    let cause = job["cause"].as_str().unwrap();
    assert!(cause.contains("older copy"), "{cause}");
    drop(gate);
    wait_for("the end of the problem", || {
        (host.get("/api/v1/status")["problems"] == serde_json::json!([])).then_some(())
    });
    host.stop();
    host.assert_clean();
}
