//! Asking for the same once more: a key under another trace, and `retry` of a job that waited for others.

use crate::harness::Server;
use serde_json::json;

/// Whoever tries again does so under another trace or request id, and that used to make it another request.
#[tokio::test]
async fn a_jobs_own_key_holds_under_another_trace() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let body = json!({"command": ["true"], "key": "k1"}).to_string();
    let parent = |trace: u8| format!("00-{trace:032x}-b7ad6b7169203331-01");
    let parents = [parent(1), parent(2)];
    let mut ids = Vec::new();
    let headers =
        [("X-Request-Id", "a1"), ("traceparent", &parents[0]), ("traceparent", &parents[1]), ("Accept", "*/*")];
    for header in headers {
        let answer = client.ask("POST", "/api/v1/jobs", &[header], body.clone()).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        ids.push(answer.json());
    }
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    // The control: what the job itself says of its correlation is part of what it asks for.
    let other = json!({"command": ["true"], "key": "k1", "correlation": "c"}).to_string();
    client.ask("POST", "/api/v1/jobs", &[], other.clone()).await.expect_problem(
        422,
        None,
        "was used with another request",
    );
    // Among many it is told which of them, as it is of every other fault.
    let many = client.ask("POST", "/api/v1/jobs", &[], format!(r#"[{{"command":["true"]}},{other}]"#)).await;
    many.expect_problem(422, Some("key"), "was used with another request");
    assert_eq!(many.json()["index"], 1);
    server.stop().await;
}

/// What was cancelled because its dependency failed used to be cancelled again at once, for ever.
#[tokio::test]
async fn a_retry_waits_for_nobody() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let failed = client.submit(&json!({"shell": "exit 1", "retry": 0})).await;
    client.wait_until(failed, "finished").await;
    let waiting = client.submit(&json!({"shell": "true", "after": [failed]})).await;
    let job = client.wait_until(waiting, "finished").await;
    assert_eq!(job["outcome"], "cancelled", "{job}");
    let answer = client.ask("POST", &format!("/api/v1/jobs/{waiting}/retry"), &[], "").await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let again = client.wait_until(answer.json()["id"].as_u64().unwrap(), "finished").await;
    assert_eq!(again["outcome"], "succeeded", "{again}");
    assert_eq!(again["after"].as_array().map_or(0, Vec::len), 0, "{again}");
    server.stop().await;
}
