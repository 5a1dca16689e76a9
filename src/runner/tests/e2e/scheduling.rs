//! What runs when, through the API: groups, dependencies, priorities, times, retries, labels, pauses, keys, limits; and the
//! exact reason for each job that waits.

use crate::support::{Host, wait_for};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Appends its id to `ran`.
pub fn said(host: &Host) -> String {
    format!("echo $CI_RUNNER_JOB_ID >>{}", host.path("ran").display())
}

fn at_gate(host: &Host) -> String {
    format!("{}; read x <{}; exit 0", said(host), host.path("gate").display())
}

pub fn add(host: &Host, script: &str, more: Value) -> u64 {
    host.add(&host.shell_with(script, more))
}

pub fn outcome(host: &Host, id: u64) -> String {
    host.finish(id)["outcome"].as_str().unwrap().to_owned()
}

/// The deciding reason, with words that must be in it.
pub fn check_why(host: &Host, id: u64, kind: &str, words: &[&str]) {
    let reasons = host.why(id);
    let (told, text) = &reasons[0];
    assert_eq!(told, kind, "{reasons:?}");
    for word in words {
        assert!(text.contains(word), "{word:?} is not in {text:?}");
    }
}

fn order_of(host: &Host, count: usize) -> Vec<u64> {
    host.wait_lines("ran", count).iter().map(|line| line.parse().unwrap()).collect()
}

#[test]
fn a_group_holds_no_more_than_its_limit() {
    let mut host = Host::new();
    host.slots = 6;
    host.start();
    let gate = host.gate("gate");
    let group = json!({ "group": { "name": "deploy", "limit": 2 } });
    let jobs: Vec<u64> = (0..5).map(|_| add(&host, &at_gate(&host), group.clone())).collect();
    host.wait_state(jobs[0], "running");
    host.wait_state(jobs[1], "running");
    check_why(&host, jobs[3], "group", &["deploy", "limit 2", &format!("{}", jobs[0]), &format!("{}", jobs[1])]);
    wait_for("the group's figures", || {
        let groups = host.get("/api/v1/groups");
        (groups[0]["limit"] == 2 && groups[0]["waiting"] == 3).then_some(())
    });
    assert_eq!(host.wait_lines("ran", 2).len(), 2);
    let answer = host.call("POST", "/api/v1/jobs", Some(&host.shell_with("true", json!({ "group": "deploy:3" }))));
    assert_eq!(answer.status, 400, "another limit is refused: {}", answer.text());
    drop(gate);
    host.cli(&["cancel"]).args(jobs[2..].iter().map(u64::to_string)).output().unwrap();
    host.finish_all(Duration::from_secs(20));
}

#[test]
fn only_the_newest_of_a_latest_group_waits_and_cancel_stops_the_running_one() {
    let host = Host::started();
    let gate = host.gate("gate");
    let latest = json!({ "group": { "name": "docs", "limit": 1, "policy": "latest" } });
    let first = add(&host, &at_gate(&host), latest.clone());
    host.wait_state(first, "running");
    let second = add(&host, "true", latest.clone());
    let third = add(&host, "true", latest);
    assert_eq!(outcome(&host, second), "superseded");
    assert_eq!(host.state_of(third), "queued");
    let cancel = json!({ "group": { "name": "preview", "limit": 1, "policy": "cancel" } });
    let old = add(&host, "sleep 600", cancel.clone());
    host.wait_state(old, "running");
    let new = add(&host, "true", cancel);
    assert_eq!(outcome(&host, old), "superseded");
    assert_eq!(outcome(&host, new), "succeeded");
    drop(gate);
    host.finish(first);
    assert_eq!(outcome(&host, third), "succeeded");
    host.assert_clean();
}

#[test]
fn dependencies_let_go_cancel_and_are_named() {
    let host = Host::started();
    let gate = host.gate("gate");
    let good = add(&host, &format!("{}; true", at_gate(&host).replace("; exit 0", "")), json!({}));
    let bad = add(&host, &format!("read x <{}; exit 5", host.path("gate").display()), json!({}));
    let on = |id: u64, on: &str| json!({ "after": [{ "id": id, "on": on }] });
    let cases = [
        (add(&host, "true", on(good, "success")), "succeeded"),
        (add(&host, "true", on(good, "failure")), "cancelled"),
        (add(&host, "true", on(good, "always")), "succeeded"),
        (add(&host, "true", on(bad, "success")), "cancelled"),
        (add(&host, "true", on(bad, "failure")), "succeeded"),
        (add(&host, "true", on(bad, "always")), "succeeded"),
    ];
    let chained = add(&host, "true", on(cases[3].0, "success"));
    check_why(&host, cases[0].0, "waits_for", &[&format!("job {good}"), "succeed"]);
    drop(gate);
    for (id, expected) in cases {
        assert_eq!(outcome(&host, id), expected, "job {id}");
    }
    assert_eq!(outcome(&host, chained), "cancelled");
    let late = add(&host, "true", on(bad, "success"));
    assert_eq!(outcome(&host, late), "cancelled", "a dependency that ended before decides, too");
    let answer = host.call("POST", "/api/v1/jobs", Some(&host.shell_with("true", on(9_999, "success"))));
    assert_eq!(answer.status, 400);
    assert!(answer.text().contains("9999") && answer.text().contains("after"), "{}", answer.text());
}

#[test]
fn priority_decides_and_can_be_changed() {
    let mut host = Host::new();
    host.slots = 1;
    host.start();
    let gate = host.gate("gate");
    let holder = add(&host, &at_gate(&host), json!({}));
    host.wait_state(holder, "running");
    let low = add(&host, &said(&host), json!({ "priority": -5 }));
    let usual = add(&host, &said(&host), json!({}));
    let high = add(&host, &said(&host), json!({ "priority": 5 }));
    let raised = add(&host, &said(&host), json!({}));
    host.post(&format!("/api/v1/jobs/{raised}/priority"), &json!({ "priority": 50 }));
    check_why(&host, low, "no_slot", &[&format!("{holder}")]);
    drop(gate);
    assert_eq!(order_of(&host, 5), [holder, raised, high, usual, low]);
}

#[test]
fn times_are_kept() {
    let host = Host::started();
    let begin = Instant::now();
    let later = add(&host, &said(&host), json!({ "in": 1.5 }));
    check_why(&host, later, "delayed", &[]);
    let far = add(&host, &said(&host), json!({ "at": "2099-01-01T00:00:00Z" }));
    check_why(&host, far, "not_before", &["2099"]);
    let expires = add(&host, &said(&host), json!({ "hold": true, "expires": 1 }));
    check_why(&host, expires, "held", &["release"]);
    assert_eq!(outcome(&host, expires), "expired");
    assert!(begin.elapsed() >= Duration::from_millis(900));
    assert_eq!(outcome(&host, later), "succeeded");
    assert!(begin.elapsed() >= Duration::from_millis(1_500), "started too early: {:?}", begin.elapsed());
    assert_eq!(host.state_of(far), "queued");
    host.post(&format!("/api/v1/jobs/{far}/cancel"), &json!({}));
    assert_eq!(outcome(&host, far), "cancelled");
}

#[test]
fn hold_and_release_outlive_a_restart() {
    let mut host = Host::started();
    let id = add(&host, &said(&host), json!({ "hold": true }));
    let other = add(&host, &said(&host), json!({ "in": 3600 }));
    host.post(&format!("/api/v1/jobs/{other}/hold"), &json!({ "reason": "wait for the audit" }));
    host.kill();
    host.start();
    check_why(&host, other, "held", &["wait for the audit"]);
    check_why(&host, id, "held", &[]);
    host.post(&format!("/api/v1/jobs/{id}/release"), &json!({}));
    assert_eq!(outcome(&host, id), "succeeded");
    assert_eq!(host.state_of(other), "queued");
}

#[test]
fn labels_find_their_pool_and_what_is_missing_is_named() {
    let mut host = Host::new();
    host.config =
        "grace = 1\n[pools.default]\nslots = 1\n[pools.big]\nslots = 1\nlabels = [\"gpu\", \"arch=arm64\"]\n".into();
    host.start();
    let fits = add(&host, "true", json!({ "labels": ["gpu"] }));
    assert_eq!(host.finish(fits)["pool"], "big");
    let named = add(&host, "true", json!({ "pool": "big" }));
    assert_eq!(host.finish(named)["pool"], "big");
    let never = add(&host, "true", json!({ "labels": ["gpu", "tpu"] }));
    check_why(&host, never, "no_pool", &["tpu", "big"]);
    // No pool is full while another that matches is free.
    let _gate = host.gate("gate");
    let first = add(&host, &at_gate(&host), json!({}));
    let second = add(&host, &at_gate(&host), json!({}));
    let mut pools = [first, second].map(|id| host.wait_state(id, "running")["pool"].as_str().unwrap().to_owned());
    pools.sort();
    assert_eq!(pools, ["big", "default"]);
    let unknown = host.call("POST", "/api/v1/jobs", Some(&host.shell_with("true", json!({ "pool": "bigg" }))));
    assert_eq!(unknown.status, 400, "{}", unknown.text());
    assert!(unknown.text().contains("pool") && unknown.text().contains("big"), "{}", unknown.text());
}

#[test]
fn a_pause_outlives_a_restart_and_says_who_and_why() {
    let mut host = Host::started();
    let _gate = host.gate("gate");
    let running = add(&host, &at_gate(&host), json!({}));
    host.wait_state(running, "running");
    for verb in ["pause", "drain"] {
        host.post(&format!("/api/v1/{verb}"), &json!({ "reason": "new disks" }));
        let id = add(&host, "true", json!({}));
        check_why(&host, id, "paused", &["new disks"]);
        host.kill();
        host.start();
        let status = host.get("/api/v1/status");
        assert_eq!(status["paused"]["reason"], "new disks", "{status}");
        assert_eq!(status["paused"]["drain"], verb == "drain");
        assert_eq!(host.state_of(running), "running", "a pause stops no job");
        check_why(&host, id, "paused", &["new disks"]);
        host.post("/api/v1/resume", &json!({}));
        assert_eq!(outcome(&host, id), "succeeded");
    }
}

#[test]
fn a_key_makes_a_submission_safe_to_repeat_over_restarts() {
    let mut host = Host::started();
    let key = [("idempotency-key", "release-7")];
    let body = host.shell(&said(&host));
    let send = |host: &Host, body: &Value| host.client().call("POST", "/api/v1/jobs", &key, Some(body)).unwrap();
    let first = send(&host, &body);
    assert_eq!(first.status, 201);
    let id = first.json()["id"].as_u64().unwrap();
    assert_eq!(send(&host, &body).json()["id"], id);
    host.finish(id);
    host.kill();
    host.start();
    assert_eq!(send(&host, &body).json()["id"], id);
    let other = send(&host, &host.shell("false"));
    assert_eq!(other.status, 422, "{}", other.text());
    assert_eq!(host.wait_lines("ran", 1).len(), 1);
    let done = host.run_cli(&["add", "--key", "k1", "--", "true"]);
    assert!(done.status.success(), "{done:?}");
    assert_eq!(host.run_cli(&["add", "--key", "k1", "--", "true"]).stdout, done.stdout);
    assert_eq!(host.run_cli(&["add", "--key", "k1", "--", "false"]).status.code(), Some(3));
}

#[test]
fn a_full_queue_takes_all_or_nothing() {
    let mut host = Host::new();
    host.config = "grace = 1\nqueue_jobs_max = 5\n".into();
    host.start();
    host.post("/api/v1/pause", &json!({ "reason": "test" }));
    let three: Vec<Value> = (0..3).map(|_| host.shell("true")).collect();
    assert_eq!(host.call("POST", "/api/v1/jobs", Some(&json!(three))).status, 201);
    let answer = host.call("POST", "/api/v1/jobs", Some(&json!(three)));
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(answer.header("retry-after").is_some() && answer.text().contains('5'), "{}", answer.text());
    assert_eq!(host.all_jobs().len(), 3, "nothing of it was queued");
    assert_eq!(host.call("POST", "/api/v1/jobs", Some(&json!(three[..2]))).status, 201);
    assert_eq!(host.run_cli(&["add", "--", "true"]).status.code(), Some(2));
    host.post("/api/v1/resume", &json!({}));
    host.finish_all(Duration::from_secs(20));
    assert_eq!(host.run_cli(&["add", "--", "true"]).status.code(), Some(0));
}

#[test]
fn bad_input_names_the_field_and_queues_nothing() {
    let host = Host::started();
    let long = "x".repeat(140_000);
    let cases = [
        (json!({ "command": [] }), "command"),
        (json!({ "command": ["a\u{0}b"] }), "command"),
        (json!({ "command": [long] }), "command"),
        (json!({ "command": ["true"], "shell": "true" }), "shell"),
        (json!({ "command": ["true"], "timeout": 0 }), "timeout"),
        (json!({ "command": ["true"], "timeout": -1 }), "timeout"),
        (json!({ "command": ["true"], "timeout": 1e300 }), "timeout"),
        (json!({ "command": ["true"], "group": { "name": "g", "limit": 0 } }), "group"),
        (json!({ "command": ["true"], "labels": ["a b"] }), "labels"),
        (json!({ "command": ["true"], "priority": 1_000_000 }), "priority"),
        (json!({ "command": ["true"], "after": [0] }), "after"),
        (json!({ "command": ["true"], "retry_on": ["exot:2"] }), "retry_on"),
        (json!({ "command": ["true"], "timout": 5 }), "timeout"),
        (json!({ "command": ["true"], "env": { "A=B": "c" } }), "env"),
        (json!({ "command": ["true"], "memory": "2K" }), "memory"),
        (json!({ "command": ["true"], "cpu": 0 }), "cpu"),
        (json!({ "command": ["true"], "pids": 0 }), "pids"),
    ];
    for (body, field) in cases {
        let answer = host.call("POST", "/api/v1/jobs", Some(&body));
        let text = answer.text();
        let shown: String = body.to_string().chars().take(100).collect();
        assert_eq!(answer.status, 400, "{shown}: {text}");
        assert!(text.contains(field), "{shown}: {field} is not named: {text}");
        let batch = host.call("POST", "/api/v1/jobs", Some(&json!([{ "command": ["true"] }, body])));
        assert_eq!(batch.status, 400);
        assert!(batch.json()["index"] == 1, "the second is wrong: {}", batch.text());
    }
    assert_eq!(host.all_jobs(), Vec::<Value>::new());
    std::fs::write(host.path("jobs.jsonl"), "{\"command\":[\"true\"]}\n{\"command\":[\"true\"],\"tmeout\":3}\n")
        .unwrap();
    let done = host.run_cli(&["add", "-f", host.path("jobs.jsonl").to_str().unwrap()]);
    let text = String::from_utf8_lossy(&done.stderr).into_owned();
    assert_eq!(done.status.code(), Some(3), "{text}");
    assert!(text.contains("line 2") || text.contains(":2"), "{text}");
    assert_eq!(host.all_jobs(), Vec::<Value>::new());
}

#[test]
fn a_host_beyond_its_limits_starts_nothing_and_says_why() {
    let mut host = Host::new();
    // No disk has so much: the limit is passed until a reload takes it away.
    host.config = "grace = 1\n[admission]\ndisk_free_min = \"1000T\"\n".to_owned();
    host.start();
    let first = host.add(&host.shell("true"));
    let why = wait_for("the reason", || host.why(first).into_iter().find(|(kind, _)| kind == "busy"));
    assert!(why.1.contains("disk_free_min"), "{why:?}");
    let said = wait_for("the status", || host.get("/api/v1/status")["busy"][0].as_str().map(str::to_owned));
    assert!(said.contains("free on the disk"), "{said}");
    assert_eq!(host.state_of(first), "queued", "not even the first one slipped through");
    std::fs::write(host.path("config.toml"), "grace = 1\n[admission]\ndisk_free_min = \"1k\"\n").unwrap();
    host.signal("HUP");
    assert_eq!(host.finish(first)["outcome"], "succeeded");
    wait_for("the status", || (host.get("/api/v1/status")["busy"] == json!([])).then_some(()));
    // Without any limit nobody looks any more: what was held back used to stay so for good.
    std::fs::write(host.path("config.toml"), "grace = 1\n[admission]\ndisk_free_min = \"1000T\"\n").unwrap();
    host.signal("HUP");
    let second = wait_for("a job that is held back", || {
        let id = host.add(&host.shell("true"));
        wait_for("its end or the reason", || {
            let busy = host.why(id).iter().any(|(kind, _)| kind == "busy");
            (busy || host.state_of(id) == "finished").then_some(())
        });
        (host.state_of(id) == "queued").then_some(id)
    });
    std::fs::write(host.path("config.toml"), "grace = 1\n").unwrap();
    host.signal("HUP");
    assert_eq!(host.finish(second)["outcome"], "succeeded");
    wait_for("the status", || (host.get("/api/v1/status")["busy"] == json!([])).then_some(()));
    host.assert_clean();
}
