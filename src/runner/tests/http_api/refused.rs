//! Every operation that commits, while nothing can be committed: on a full disk, and while the daemon goes away. What is
//! answered is documented, for the client of the tests looks.

use crate::client::{Answer, Connection, PATIENCE};
use crate::harness::Server;
use crate::schema::{operation, operations};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// A job that has finished, one on hold and one that waits for that, a paused and a running schedule, a paused host: so that
/// each of [`committing`] has something to do.
async fn furnished() -> Server {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let done = client.submit(&json!({"shell": "true"})).await;
    client.wait_until(done, "finished").await;
    let held = client.submit(&json!({"shell": "true", "hold": true})).await;
    let waits = client.submit(&json!({"shell": "true", "after": [held]})).await;
    assert_eq!((done, held, waits), (1, 2, 3));
    for name in ["paused", "runs"] {
        let schedule = json!({"name": name, "calendar": "yearly", "timezone": "UTC", "job": {"shell": "true"}});
        assert_eq!(client.post("/api/v1/schedules", &schedule).await.status, 201);
    }
    assert_eq!(client.post("/api/v1/schedules/paused/pause", &json!({})).await.status, 200);
    assert_eq!(client.post("/api/v1/pause", &json!({"reason": "first"})).await.status, 204);
    server
}

/// A request to each operation that commits.
fn committing() -> Vec<(&'static str, &'static str, Value)> {
    let schedule = |name: &str| json!({"name": name, "calendar": "daily", "timezone": "UTC", "job": {"shell": "true"}});
    vec![
        ("POST", "/api/v1/jobs", json!({"shell": "true"})),
        ("POST", "/api/v1/jobs/cancel", json!({"ids": [2]})),
        ("POST", "/api/v1/jobs/2/cancel", json!({})),
        ("POST", "/api/v1/jobs/1/retry", json!({})),
        ("POST", "/api/v1/jobs/3/hold", json!({"reason": "r"})),
        ("POST", "/api/v1/jobs/2/release", json!({})),
        ("POST", "/api/v1/jobs/2/priority", json!({"priority": 7})),
        ("POST", "/api/v1/pause", json!({"reason": "second"})),
        ("POST", "/api/v1/drain", json!({"reason": "r"})),
        ("POST", "/api/v1/resume", json!({})),
        ("POST", "/api/v1/schedules", schedule("new")),
        ("PUT", "/api/v1/schedules/runs", schedule("runs")),
        ("DELETE", "/api/v1/schedules/runs", Value::Null),
        ("POST", "/api/v1/schedules/runs/pause", json!({})),
        ("POST", "/api/v1/schedules/paused/resume", json!({})),
        ("POST", "/api/v1/schedules/runs/run", json!({})),
    ]
}

async fn ask(client: &mut Connection, (method, target, body): &(&str, &str, Value)) -> Answer {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    client.ask(method, target, &[], body).await
}

/// What the document says of full disks stands at each of them, and at no other but `backup`.
#[test]
fn each_operation_that_commits_is_tried() {
    let tried = committing().into_iter().map(|(method, target, _)| {
        let (path, _) = operation(method, target).unwrap();
        format!("{method} {path}")
    });
    let tried: BTreeSet<String> = tried.chain(["POST /api/v1/backup".to_owned()]).collect();
    let documented = operations().filter(|(_, operation)| operation["responses"].get("507").is_some());
    assert_eq!(tried, documented.map(|(name, _)| name).collect());
}

#[tokio::test]
async fn a_full_disk_is_told_to_all() {
    let server = furnished().await;
    let mut client = server.connect().await;
    server.fill_disk(true);
    for request in committing() {
        let answer = ask(&mut client, &request).await;
        answer.expect_problem(507, None, "the disk of the state directory is full");
    }
    server.fill_disk(false);
    // Nothing of it was kept, and it is taken again without a restart.
    let jobs = client.get("/api/v1/jobs?order=asc").await.json()["jobs"].clone();
    assert_eq!(jobs.as_array().unwrap().len(), 3, "{jobs}");
    assert_eq!(client.get("/api/v1/status").await.json()["paused"]["reason"], "first");
    assert_eq!(client.get("/api/v1/schedules").await.json().as_array().unwrap().len(), 2);
    // The loop tries again by itself, with pauses.
    let deadline = Instant::now() + PATIENCE;
    while client.post("/api/v1/jobs", &json!({"shell": "true", "hold": true})).await.status != 201 {
        assert!(Instant::now() < deadline, "there is space again, and no job is taken");
        sleep(Duration::from_millis(10)).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn a_daemon_that_goes_away_tells_all() {
    let server = furnished().await;
    let mut client = server.connect().await;
    server.end_loop().await;
    for request in committing() {
        let answer = ask(&mut client, &request).await;
        answer.expect_problem(503, None, "the daemon");
        assert_eq!(answer.header("retry-after"), "1");
    }
    drop(client);
    server.stop_after_loop().await;
}
