//! The OpenAPI document: valid, complete, and in agreement with what the server does.

use crate::harness::Server;
use crate::rules;
use crate::schema::{document, operation, operations, resolve};
use serde_json::{Value, json};
use std::collections::BTreeSet;

fn each_ref(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            if let Some(Value::String(target)) = object.get("$ref") {
                found.insert(target.clone());
            }
            object.values().for_each(|value| each_ref(value, found));
        }
        Value::Array(values) => values.iter().for_each(|value| each_ref(value, found)),
        _ => {}
    }
}

#[test]
fn the_document_is_sound() {
    let document = document();
    assert_eq!(rules::faults(document), [""; 0]);
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    let mut refs = BTreeSet::new();
    each_ref(document, &mut refs);
    for target in &refs {
        resolve(document, &json!({ "$ref": target }));
    }
    let mut ids = BTreeSet::new();
    for (name, operation) in operations() {
        let id = operation["operationId"].as_str().unwrap_or_else(|| panic!("{name} has no id"));
        assert!(ids.insert(id.to_owned()), "{id} twice");
        assert!(operation["summary"].as_str().is_some_and(|text| text.len() > 5), "{name} says nothing");
        let path = name.split_once(' ').unwrap().1;
        let named: BTreeSet<&str> =
            path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')).collect();
        let parameters = operation["parameters"].as_array().into_iter().flatten();
        let in_path = parameters.filter(|parameter| parameter["in"] == "path");
        let described: BTreeSet<&str> = in_path.filter_map(|parameter| parameter["name"].as_str()).collect();
        assert_eq!(named, described, "{name}");
    }
    // What the command line and the pages rely on.
    for path in ["/health", "/livez", "/readyz", "/startupz", "/status", "/runners"] {
        assert!(document["paths"].get(path).is_some(), "{path}");
    }
}

/// Method, documented path, what is asked for, body, expected status.
type Request = (&'static str, &'static str, String, Value, u16);

/// In this order: some need what others made. Job 1 has finished, job 2 is on hold.
fn requests(backup: &std::path::Path) -> Vec<Request> {
    let schedule = json!({"name": "s", "calendar": "daily", "timezone": "UTC", "job": {"shell": "true"}});
    let get = |path: &'static str, target: &str, status| ("GET", path, target.to_owned(), Value::Null, status);
    let post = |path: &'static str, target: &str, body: Value, status| ("POST", path, target.to_owned(), body, status);
    let plain = |path: &'static str| get(path, path, 200);
    vec![
        plain("/health"),
        plain("/livez"),
        plain("/readyz"),
        plain("/startupz"),
        plain("/status"),
        plain("/runners"),
        plain("/metrics"),
        plain("/api/v1/openapi.json"),
        post("/api/v1/jobs", "/api/v1/jobs", json!({"shell": "true"}), 201),
        post("/api/v1/jobs", "/api/v1/jobs", json!({"shel": "x"}), 400),
        get("/api/v1/jobs", "/api/v1/jobs?limit=2", 200),
        get("/api/v1/jobs", "/api/v1/jobs?limit=0", 400),
        get("/api/v1/jobs/{id}", "/api/v1/jobs/1", 200),
        get("/api/v1/jobs/{id}", "/api/v1/jobs/2", 200),
        get("/api/v1/jobs/{id}", "/api/v1/jobs/999", 404),
        get("/api/v1/jobs/{id}/why", "/api/v1/jobs/2/why", 200),
        get("/api/v1/jobs/{id}/log", "/api/v1/jobs/1/log", 200),
        get("/api/v1/jobs/{id}/log", "/api/v1/jobs/1/log?format=ndjson", 200),
        get("/api/v1/jobs/{id}/log", "/api/v1/jobs/2/log", 404),
        get("/api/v1/logs", "/api/v1/logs?grep=x", 200),
        get("/api/v1/logs", "/api/v1/logs?grep=%28", 400),
        get("/api/v1/logs", "/api/v1/logs?grep=x&job=999", 404),
        post("/api/v1/jobs/{id}/hold", "/api/v1/jobs/2/hold", json!({"reason": "r"}), 200),
        post("/api/v1/jobs/{id}/priority", "/api/v1/jobs/2/priority", json!({"priority": 1}), 200),
        post("/api/v1/jobs/{id}/retry", "/api/v1/jobs/2/retry", json!({}), 409),
        post("/api/v1/jobs/{id}/retry", "/api/v1/jobs/1/retry", json!({}), 201),
        post("/api/v1/jobs/{id}/release", "/api/v1/jobs/2/release", json!({}), 200),
        post("/api/v1/jobs/{id}/cancel", "/api/v1/jobs/2/cancel", json!({}), 200),
        post("/api/v1/jobs/cancel", "/api/v1/jobs/cancel", json!({"ids": [2]}), 200),
        plain("/api/v1/watches"),
        plain("/api/v1/notifiers"),
        post("/api/v1/notifiers/{name}/test", "/api/v1/notifiers/ops/test", json!({}), 200),
        post("/api/v1/notifiers/{name}/test", "/api/v1/notifiers/nobody/test", json!({}), 404),
        plain("/api/v1/pools"),
        plain("/api/v1/groups"),
        plain("/api/v1/stats"),
        plain("/api/v1/usage"),
        plain("/api/v1/runners"),
        plain("/api/v1/status"),
        post("/api/v1/pause", "/api/v1/pause", json!({"reason": "r"}), 204),
        post("/api/v1/drain", "/api/v1/drain", json!({"reason": "r"}), 204),
        post("/api/v1/resume", "/api/v1/resume", json!({}), 204),
        post("/api/v1/backup", "/api/v1/backup", json!({ "path": backup }), 204),
        post("/api/v1/gc", "/api/v1/gc", json!({}), 200),
        post("/api/v1/schedules", "/api/v1/schedules", schedule.clone(), 201),
        post("/api/v1/schedules", "/api/v1/schedules", schedule.clone(), 409),
        plain("/api/v1/schedules"),
        get("/api/v1/schedules/{name}", "/api/v1/schedules/s", 200),
        ("PUT", "/api/v1/schedules/{name}", "/api/v1/schedules/s".to_owned(), schedule, 200),
        post("/api/v1/schedules/{name}/pause", "/api/v1/schedules/s/pause", json!({}), 200),
        post("/api/v1/schedules/{name}/resume", "/api/v1/schedules/s/resume", json!({}), 200),
        post("/api/v1/schedules/{name}/run", "/api/v1/schedules/s/run", json!({}), 201),
        ("DELETE", "/api/v1/schedules/{name}", "/api/v1/schedules/s".to_owned(), Value::Null, 204),
        get("/api/v1/schedules/{name}", "/api/v1/schedules/s", 404),
    ]
}

/// Asks every documented operation, and holds status and body against the document.
#[tokio::test]
async fn every_documented_route_is_exercised() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let done = client.submit(&json!({"shell": "echo x", "name": "n", "group": {"name": "g", "limit": 2}})).await;
    client.wait_until(done, "finished").await;
    client.submit(&json!({"shell": "true", "hold": true, "after": [done]})).await;
    let mut left: BTreeSet<String> = operations().map(|(name, _)| name).collect();
    for (method, path, target, body, status) in requests(&server.dir().join("backup.db")) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let answer = client.ask(method, &target, &[], body).await;
        assert_eq!(answer.status, status, "{method} {target}: {answer:?}");
        // What the answer has is held against the document by the client, here as in every other test.
        assert_eq!(operation(method, &target).map(|(path, _)| path), Some(path), "{method} {target}");
        left.remove(&format!("{method} {path}"));
    }
    let mut streaming = server.connect().await;
    let stream = streaming.open("GET", "/api/v1/events", &[], "").await.unwrap();
    assert_eq!(stream.status(), 200);
    left.remove("GET /api/v1/events");
    assert!(left.is_empty(), "not exercised: {left:?}");
    drop(stream);
    server.stop().await;
}
