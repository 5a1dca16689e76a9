//! Capacity, pause, schedules, backup.

use crate::client::{Connection, PATIENCE};
use crate::harness::{Options, Server};
use serde_json::{Value, json};

/// Asks for the status until it is as wanted: snapshots follow within a tenth of a second.
async fn status_when(client: &mut Connection, wanted: impl Fn(&Value) -> bool) -> Value {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let status = client.get("/api/v1/status").await.json();
        if wanted(&status) {
            return status;
        }
        assert!(tokio::time::Instant::now() < deadline, "it stays {status}");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn capacity_is_shown() {
    let config = "max_parallel_jobs = 2\n[pools.big]\nslots = 1\nlabels = [\"gpu\"]\n".to_owned();
    let server = Server::with(Options { config, ..Options::default() }).await;
    let mut client = server.connect().await;
    let id = client.submit(&json!({"shell": "sleep 100", "labels": ["gpu"], "group": "g:3"})).await;
    client.wait_until(id, "running").await;
    client.submit(&json!({"shell": "true", "group": "g", "hold": true})).await;
    let status = status_when(&mut client, |status| {
        status["jobs"]["running"] == 1 && status["jobs"]["queued"] == 1 && status["slots"]["used"] == 1
    });
    let status = status.await;
    assert_eq!(status["slots"]["total"], 3);
    assert_eq!((&status["state"], &status["problems"]), (&json!("running"), &json!([])));
    let pools = client.get("/api/v1/pools").await.json();
    let big = pools.as_array().unwrap().iter().find(|pool| pool["name"] == "big").unwrap();
    assert_eq!((&big["slots"], &big["used"], &big["executor"]), (&json!(1), &json!(1), &json!("native")));
    let groups = client.get("/api/v1/groups").await.json();
    assert_eq!(groups[0]["name"], "g");
    assert_eq!((&groups[0]["limit"], &groups[0]["holders"], &groups[0]["open"]), (&json!(3), &json!([id]), &json!(2)));
    let runners = client.get("/api/v1/runners").await.json();
    let runners = runners.as_array().unwrap();
    assert_eq!(runners.len(), 3);
    let busy: Vec<_> = runners.iter().filter(|runner| runner["state"] != "idle").collect();
    assert_eq!((busy.len(), &busy[0]["pool"], &busy[0]["job"]), (1, &json!("big"), &json!(id)));
    assert!(busy[0]["run_seconds"].as_f64().unwrap() < 60.0);
    assert_eq!(client.get("/status").await.status, 200);
    assert_eq!(client.get("/runners").await.json().as_array().unwrap().len(), 3);
    server.stop().await;
}

#[tokio::test]
async fn what_runs_is_measured() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let nothing = client.get("/api/v1/usage").await.json();
    assert_eq!(nothing["attempts"], json!([]));
    assert!(nothing["host"]["cpus"].as_u64().unwrap() > 0 && nothing["host"]["load1"].as_f64().unwrap() >= 0.0);
    let script = "i=0; while :; do i=$((i+1)); done";
    let id = client.submit(&json!({"shell": script})).await;
    client.wait_until(id, "running").await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let mut seen = 0.0;
    // What it used rises.
    for _ in 0..2 {
        seen = loop {
            let usage = client.get("/api/v1/usage").await.json();
            let one = &usage["attempts"][0];
            let used = one["cpu_seconds"].as_f64().filter(|used| *used > seen);
            if let Some(used) = used.filter(|_| one["memory_bytes"].as_u64().is_some_and(|bytes| bytes > 0)) {
                assert_eq!((&one["job"], &one["attempt"]), (&json!(id), &json!(1)));
                break used;
            }
            assert!(tokio::time::Instant::now() < deadline, "it stays {usage}");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        };
    }
    server.stop().await;
}

#[tokio::test]
async fn finished_jobs_are_added_up() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    for (name, command) in [("build", "true"), ("build", "exit 3"), ("a \"quoted\" one", "true")] {
        let id = client.submit(&json!({"shell": command, "name": name, "retry": 0})).await;
        client.wait_until(id, "finished").await;
    }
    client.submit(&json!({"shell": "true", "hold": true})).await;
    let stats = client.get("/api/v1/stats").await.json();
    assert_eq!((&stats["total"]["jobs"], &stats["total"]["failed"]), (&json!(3), &json!(1)), "{stats}");
    let build = stats["rows"].as_array().unwrap().iter().find(|row| row["key"] == "build").unwrap();
    assert_eq!((&build["jobs"], &build["success_rate"], &build["tries"]), (&json!(2), &json!(0.5), &json!(2)));
    assert!(build["run_seconds"]["p99"].as_f64().unwrap() < 60.0);
    let days = client.get("/api/v1/stats?by=day&name=bu*&timezone=Asia/Tokyo&limit=1").await.json();
    assert_eq!((&days["rows"][0]["jobs"], &days["rows"][0]["key"].as_str().unwrap().len()), (&json!(2), &10));
    let never = client.get("/api/v1/stats?until=2001-01-01T00:00:00Z").await.json();
    assert_eq!((&never["total"]["jobs"], &never["total"]["success_rate"]), (&json!(0), &Value::Null));
    let none = client.get("/api/v1/stats?pool=default&until=2001-01-01T00:00:00Z").await.json();
    assert_eq!(none["total"]["jobs"], 0, "a pool that is there, without such jobs");
    for (query, field) in [
        ("by=weak", "by"),
        ("timezone=Mars/Olympus", "timezone"),
        ("limit=0", "limit"),
        ("since=2030-01-01T00:00:00Z", "since"),
        ("until=soon", "until"),
        ("nmae=x", "nmae"),
        ("pool=defualt", "pool"),
    ] {
        let refused = client.get(&format!("/api/v1/stats?{query}")).await;
        assert_eq!((refused.status, &refused.json()["field"]), (400, &json!(field)), "{query}");
    }
    server.stop().await;
}

/// They used to be up to 100 ms behind, so that a script which paused, or queued, and looked saw the host of before.
#[tokio::test]
async fn what_was_answered_is_seen_at_once() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let mut looking = server.connect().await;
    status_when(&mut looking, |status| status["state"] == "running").await;
    for round in 1..=30 {
        client.submit(&json!({"shell": "true", "hold": true, "group": "g"})).await;
        let status = looking.get("/api/v1/status").await.json();
        assert_eq!(status["jobs"]["queued"], round, "{status}");
        assert_eq!(looking.get("/api/v1/groups").await.json()[0]["open"], round);
        let (path, state) = if round % 2 == 0 { ("resume", "running") } else { ("pause", "paused") };
        assert_eq!(client.post(&format!("/api/v1/{path}"), &json!({})).await.status, 204);
        assert_eq!(looking.get("/api/v1/status").await.json()["state"], state);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_pause_keeps_jobs_back_and_says_why() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    assert_eq!(client.post("/api/v1/pause", &json!({"reason": "disk swap"})).await.status, 204);
    let id = client.submit(&json!({"shell": "true"})).await;
    let why = client.get(&format!("/api/v1/jobs/{id}/why")).await.json();
    let text = why["reasons"][0]["text"].as_str().unwrap();
    assert!(text.starts_with("paused by ") && text.contains("because disk swap"), "{text}");
    let status = status_when(&mut client, |status| status["state"] == "paused").await;
    assert_eq!((&status["paused"]["reason"], &status["paused"]["drain"]), (&json!("disk swap"), &json!(false)));
    assert_eq!(client.ask("POST", "/api/v1/drain", &[], "").await.status, 204);
    status_when(&mut client, |status| status["state"] == "draining").await;
    client.post("/api/v1/pause", &json!({"reason": "a\nb"})).await.expect_problem(400, Some("reason"), "control");
    client.post("/api/v1/pause", &json!({"resaon": "x"})).await.expect_problem(400, Some("resaon"), "did you mean");
    assert_eq!(client.ask("POST", "/api/v1/resume", &[], "").await.status, 204);
    client.wait_until(id, "finished").await;
    server.stop().await;
}

#[tokio::test]
async fn schedules_are_kept_shown_and_removed() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let nightly = json!({"name": "nightly", "calendar": "0 3 * * *", "timezone": "Europe/Berlin",
        "job": {"shell": "echo night", "timeout": "30m"}});
    let added = client.post("/api/v1/schedules", &nightly).await;
    assert_eq!((added.status, added.header("location")), (201, "/api/v1/schedules/nightly"));
    let view = added.json();
    assert_eq!(
        (&view["overlap"], &view["missed"], &view["timezone"]),
        (&json!("skip"), &json!("once"), &json!("Europe/Berlin"))
    );
    assert_eq!(view["job"], json!({"shell": "echo night", "timeout": 1800}));
    assert!(view["next_at"].is_string(), "{view}");
    client.post("/api/v1/schedules", &nightly).await.expect_problem(
        409,
        Some("name"),
        "`ci-runner schedule rm nightly`",
    );
    assert_eq!(client.get("/api/v1/schedules").await.json().as_array().unwrap().len(), 1);
    let paused = client.ask("POST", "/api/v1/schedules/nightly/pause", &[], "").await.json();
    assert!(paused["paused_by"].is_string() && paused["next_at"].is_null(), "{paused}");
    let resumed = client.ask("POST", "/api/v1/schedules/nightly/resume", &[], "").await.json();
    assert!(resumed["paused_by"].is_null() && resumed["next_at"].is_string(), "{resumed}");
    let run = client.ask("POST", "/api/v1/schedules/nightly/run", &[], "").await;
    assert_eq!(run.status, 201);
    client.wait_until(run.json()["id"].as_u64().unwrap(), "finished").await;
    let mut other = nightly.clone();
    other["calendar"] = json!("daily");
    let replaced = client.ask("PUT", "/api/v1/schedules/nightly", &[], other.to_string()).await;
    assert_eq!((replaced.status, &replaced.json()["calendar"]), (200, &json!("daily")));
    let other_name = client.ask("PUT", "/api/v1/schedules/weekly", &[], other.to_string()).await;
    other_name.expect_problem(400, Some("name"), "not the \"weekly\"");
    assert_eq!(client.ask("DELETE", "/api/v1/schedules/nightly", &[], "").await.status, 204);
    client.ask("DELETE", "/api/v1/schedules/nightly", &[], "").await.expect_problem(
        404,
        None,
        "no schedule \"nightly\"",
    );
    for path in ["pause", "resume", "run"] {
        let answer = client.ask("POST", &format!("/api/v1/schedules/nightly/{path}"), &[], "").await;
        answer.expect_problem(404, None, "no schedule \"nightly\"");
    }
    server.stop().await;
}

#[tokio::test]
async fn bad_schedules_are_refused_by_field() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let base = json!({"name": "n", "calendar": "daily", "timezone": "UTC", "job": {"shell": "true"}});
    for (key, value, field, part) in [
        ("name", json!("a b"), "name", "no schedule name"),
        ("name", json!(""), "name", "no schedule name"),
        ("calendar", json!("61 * * * *"), "calendar", "minute"),
        ("timezone", json!("Europe/Berln"), "timezone", "Europe/Berl"),
        ("overlap", json!("skp"), "overlap", "skip"),
        ("missed", json!("never"), "missed", "skip"),
        ("job", json!({"shel": "true"}), "job.shel", "did you mean"),
        ("job", json!({"shell": ""}), "job.shell", "is empty"),
        ("job", json!({"shell": "x", "secrets": {"T": "hunter22"}}), "job.secrets", "never go"),
        ("job", json!({"shell": "x", "key": "k"}), "job.key", "same job"),
        ("job", json!({"shell": "x", "at": "03:00"}), "job.at", "says when"),
        ("jbo", json!({}), "jbo", "did you mean \"job\"?"),
    ] {
        let mut schedule = base.clone();
        schedule[key] = value;
        client.post("/api/v1/schedules", &schedule).await.expect_problem(400, Some(field), part);
    }
    assert_eq!(client.get("/api/v1/schedules").await.json(), json!([]));
    server.stop().await;
}

#[tokio::test]
async fn a_backup_is_written_once() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    client.submit(&json!({"shell": "true", "hold": true})).await;
    let path = server.dir().join("backup.db");
    assert_eq!(client.post("/api/v1/backup", &json!({"path": path})).await.status, 204);
    assert!(std::fs::metadata(&path).unwrap().len() > 0);
    client.post("/api/v1/backup", &json!({"path": path})).await.expect_problem(400, Some("path"), "there already");
    client.post("/api/v1/backup", &json!({"path": "x"})).await.expect_problem(400, Some("path"), "absolute");
    let nowhere = server.dir().join("no/such/dir/backup.db");
    client.post("/api/v1/backup", &json!({"path": nowhere})).await.expect_problem(400, Some("path"), "");
    assert_eq!(
        client.ask("POST", "/api/v1/gc", &[], "").await.json(),
        json!({"jobs": 0, "logs": 0, "log_bytes": 0, "waiting": null})
    );
    server.stop().await;
}
