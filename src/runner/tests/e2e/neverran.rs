//! A job that certainly never ran is never called lost: it stays queued, whatever becomes of claims and of refused starts.

use crate::support::{Host, wait_for};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::fs;
use std::time::Duration;

/// Everything of the spawner's goes, as in a reboot; its jobs must have ended.
fn forget_runtime(host: &Host) {
    wait_for("the shims to end", || host.shims().is_empty().then_some(()));
    if let Some(pid) = host.spawner() {
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
    wait_for("the spawner to end", || host.spawner().is_none().then_some(()));
    fs::remove_dir_all(host.runtime()).unwrap();
}

/// Jobs that did not succeed although they never ran.
fn never_ran(host: &Host) -> Vec<Value> {
    let ran = fs::read_to_string(host.path("ran")).unwrap_or_default();
    let ran: HashSet<u64> = ran.lines().filter_map(|line| line.parse().ok()).collect();
    let jobs = host.all_jobs().into_iter();
    jobs.filter(|job| job["outcome"] != "succeeded" && !ran.contains(&job["id"].as_u64().unwrap())).collect()
}

#[test]
fn what_was_claimed_ahead_is_not_lost_with_an_orderly_stop_and_a_reboot() {
    let mut host = Host::started();
    let job = host.shell(&format!("echo $CI_JOB_ID >> {}; sleep 0.05", host.path("ran").display()));
    for round in 1..=3 {
        host.post("/api/v1/jobs", &json!(vec![job.clone(); 100]));
        // Places beyond the slots are claims ahead.
        wait_for("claims ahead", || {
            let runners = host.get("/api/v1/runners");
            let taken = runners.as_array().unwrap().iter().filter(|runner| !runner["job"].is_null()).count();
            (taken > host.slots as usize).then_some(())
        });
        host.stop();
        forget_runtime(&host);
        host.start();
        host.finish_all(Duration::from_secs(60));
        assert_eq!(never_ran(&host), Vec::<Value>::new(), "round {round}");
    }
    host.stop();
    host.assert_clean();
}

#[test]
fn a_refused_start_is_not_lost_with_the_spawner_that_refused_it() {
    let mut host = Host::started();
    let gate = host.gate("gate");
    let running = host.add(&host.shell(&format!("read x < {}", host.path("gate").display())));
    host.wait_state(running, "running");
    let runtime = host.runtime();
    for entry in fs::read_dir(&runtime).unwrap() {
        let path = entry.unwrap().path();
        let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    }
    wait_for("the socket to be made anew", || host.client().call("GET", "/api/v1/status", &[], None).ok());
    let job = host.shell(&format!("echo $CI_JOB_ID >> {}", host.path("ran").display()));
    let ids: Vec<u64> = (0..6).map(|_| host.add(&job)).collect();
    let says = |id: u64, words: &str| host.why(id).iter().any(|(_, text)| text.contains(words));
    wait_for("why to tell it", || {
        says(ids[5], "nothing is started until the jobs that run now have ended").then_some(())
    });
    let status = host.get("/api/v1/status");
    assert_eq!(status["state"], "degraded", "{status}");
    assert!(status["problems"][0].as_str().unwrap().contains("nothing is started until"), "{status}");
    drop(gate);
    host.finish_all(Duration::from_secs(60));
    for id in ids {
        let job = host.job(id);
        assert_eq!(job["outcome"], "succeeded", "{job:#}\n{}", host.daemon_log());
    }
    wait_for("the problem to go", || (host.get("/api/v1/status")["state"] == "running").then_some(()));
    host.stop();
    host.assert_clean();
}

/// More than two slices of a cancellation change nothing, since its first one took their jobs along. They used to wait for the
/// next idle look of the loop, 30 s each, and the end of the daemon with them.
#[test]
fn an_action_on_many_jobs_that_ended_meanwhile_does_not_wait() {
    let mut host = Host::started();
    let first = host.add(&host.shell_with("true", json!({ "hold": true })));
    let after = host.shell_with("true", json!({ "after": [first] }));
    host.post("/api/v1/jobs", &json!(vec![after; 8_000]));
    let begin = std::time::Instant::now();
    let acted = host.post("/api/v1/jobs/cancel", &json!({ "all": true }));
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    assert_eq!(acted["ids"].as_array().unwrap().len(), 8_001);
    assert_eq!(acted["finished"], json!([]), "what this very command ended is no job that had finished before");
    host.stop();
    host.assert_clean();
}

#[test]
fn damaged_secrets_end_their_job_and_are_not_quoted() {
    let mut host = Host::started();
    for (number, text) in ["\"another-secret-here\"", "[[\"NAME\",\"val"].into_iter().enumerate() {
        let secrets = json!({ "hold": true, "secrets": { "TOKEN": "a-secret-of-length" } });
        let id = host.add(&host.shell_with("true", secrets));
        let file = host.state.join("secrets").join(id.to_string());
        wait_for("the file", || file.exists().then_some(()));
        fs::write(&file, text).unwrap();
        host.post(&format!("/api/v1/jobs/{id}/release"), &json!({}));
        let job = host.finish(id);
        assert_eq!((&job["outcome"], number), (&json!("failed"), number), "{job}");
        let told = format!("{job}{}", host.daemon_log());
        assert!(told.contains("its secrets are damaged") && !told.contains("another-secret"), "{told}");
    }
    host.stop();
    host.assert_clean();
}
