//! Asking for the same once more: `retry` of a job that waited for others.

use crate::harness::Server;
use serde_json::json;

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
