//! Schedules in a real daemon: what becomes of a run that cannot be queued.

use crate::support::{Host, wait_for};
use serde_json::{Value, json};

const DAYS_MS: i64 = 24 * 3_600_000;

/// In a store that nobody uses: the schedule was last looked at so long ago.
fn let_pass(host: &Host, ms: i64) {
    let store = rusqlite::Connection::open(host.state.join("queue.db")).unwrap();
    assert_eq!(store.execute("UPDATE schedule SET after_wall = after_wall - ?1", [ms]).unwrap(), 1);
}

fn told(host: &Host, words: &[&str]) -> String {
    let done = host.run_cli(words);
    assert!(done.status.success(), "{done:?}");
    String::from_utf8(done.stdout).unwrap()
}

/// A run that is refused used to be a line in the log. It is told until one is queued, whatever restarts in between.
#[test]
fn a_refused_run_is_told_until_one_is_queued() {
    let mut host = Host::new();
    host.config = "grace = 1\nqueue_jobs_max = 1\n".to_owned();
    host.start();
    let held = host.add(&host.shell_with("true", json!({ "hold": true })));
    // Once a year, so that no minute which ends meanwhile is in the way.
    host.post(
        "/api/v1/schedules",
        &json!({ "name": "yearly", "calendar": "0 0 1 1 *", "timezone": "UTC", "job": host.shell("true") }),
    );
    let show = |host: &Host| host.get("/api/v1/schedules/yearly");
    let health = |host: &Host| host.get("/health")["problems"].to_string();
    assert_eq!(show(&host)["refused_at"], Value::Null);
    host.stop();
    let_pass(&host, 400 * DAYS_MS);
    host.start();
    let refused = wait_for("the refusal", || Some(show(&host)).filter(|shown| !shown["refused_at"].is_null()));
    let why = refused["refused_reason"].as_str().unwrap();
    assert!(why.contains("the queue is full: 1 open jobs"), "{why}");
    assert_eq!(refused["last_job"], Value::Null);
    wait_for("the problem", || health(&host).contains("yearly").then_some(()));
    assert!(told(&host, &["schedule", "show", "yearly"]).contains(why));
    assert!(told(&host, &["schedule", "list"]).contains("refused"));
    assert!(told(&host, &["status"]).contains("its last run was refused"), "{}", told(&host, &["status"]));
    let metrics = host.call("GET", "/metrics", None).text();
    assert!(metrics.contains("ci_runner_schedule_refused_total 1\n"), "{metrics}");
    host.kill();
    host.start();
    assert_eq!(show(&host)["refused_at"], refused["refused_at"], "it is in the store");
    host.post("/api/v1/jobs/cancel", &json!({ "ids": [held] }));
    host.finish(held);
    host.stop();
    let_pass(&host, 400 * DAYS_MS);
    host.start();
    let queued = wait_for("the run", || Some(show(&host)).filter(|shown| shown["last_job"].is_u64()));
    assert_eq!((&queued["refused_at"], &queued["refused_reason"]), (&Value::Null, &Value::Null));
    wait_for("the problem to go", || (!health(&host).contains("yearly")).then_some(()));
    host.finish(queued["last_job"].as_u64().unwrap());
    host.stop();
    host.assert_clean();
}

/// It used to have no name, and the schedule knew nothing of it: the next run went beside it.
#[test]
fn a_run_by_hand_is_the_last_job_of_its_schedule() {
    let mut host = Host::started();
    let job = host.shell(&host.until("gate"));
    host.post(
        "/api/v1/schedules",
        &json!({ "name": "yearly", "calendar": "0 0 1 1 *", "timezone": "UTC", "job": job }),
    );
    let show = |host: &Host| host.get("/api/v1/schedules/yearly");
    assert_eq!(show(&host)["last_job"], Value::Null);
    let id: u64 = told(&host, &["schedule", "run", "yearly"]).trim().parse().unwrap();
    assert_eq!(show(&host)["last_job"], id);
    assert_eq!(host.wait_state(id, "running")["name"], "yearly");
    host.stop();
    let_pass(&host, 400 * DAYS_MS);
    host.start();
    wait_for("the run that is left out", || host.daemon_log().contains("this run is left out").then_some(()));
    assert_eq!((&show(&host)["last_job"], host.all_jobs().len()), (&json!(id), 1));
    std::fs::write(host.path("gate"), "").unwrap();
    host.finish(id);
    let refused = host.call("POST", "/api/v1/schedules/nope/run", Some(&json!({})));
    assert_eq!(refused.status, 404);
    host.stop();
    host.assert_clean();
}
