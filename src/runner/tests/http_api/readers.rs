//! Who reads much holds up neither the loop nor who reads little.

use crate::client::PATIENCE;
use crate::harness::Server;
use ci_runner::store::EndedFilter;
use serde_json::json;
use std::sync::mpsc;

/// Connections of the store for all who ask.
const CONNECTIONS: usize = 3;

/// The loop used to wait for one of them: with eight clients that asked for figures all day, it stood.
#[tokio::test]
async fn submissions_do_not_wait_for_who_reads() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let first = client.submit(&json!({"shell": "true"})).await;
    client.wait_until(first, "finished").await;

    let (holds, held) = mpsc::channel();
    let (gates, threads): (Vec<_>, Vec<_>) = (0..CONNECTIONS)
        .map(|_| {
            let (gate, closed) = mpsc::channel::<()>();
            let (reader, holds) = (server.reader(), holds.clone());
            let thread = std::thread::spawn(move || {
                let filter = EndedFilter { since: None, until: None, name: None, pool: None };
                let hold = &mut |_: ci_runner::store::EndedJob<'_>| {
                    holds.send(()).unwrap();
                    // Until the gate is dropped.
                    closed.recv().is_ok()
                };
                reader.each_ended(&filter, hold).unwrap();
            });
            (gate, thread)
        })
        .unzip();
    for _ in 0..CONNECTIONS {
        held.recv_timeout(PATIENCE).expect("a connection is held");
    }
    let mut other = server.connect().await;
    let waits = tokio::spawn(async move { other.job(first).await });
    let body = json!({"shell": "true", "after": [first]}).to_string();
    let mut ids = Vec::new();
    for _ in 0..2 {
        let answer = client.ask("POST", "/api/v1/jobs", &[("idempotency-key", "once")], body.clone()).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        ids.push(answer.json()["id"].as_u64().unwrap());
    }
    assert_eq!(ids[0], ids[1], "the second was answered from the store");
    let held_job = json!({"ids": [first]});
    assert_eq!(client.post("/api/v1/jobs/cancel", &held_job).await.json()["finished"], json!([first]));
    assert!(!waits.is_finished(), "the control: all are held");
    drop(gates);
    waits.await.unwrap();
    for thread in threads {
        thread.join().unwrap();
    }
    client.wait_until(ids[0], "finished").await;
    drop(client);
    server.stop().await;
}

/// Each used to be a look into the store of its own, repeats and all, made by the loop.
#[tokio::test]
async fn dependencies_are_looked_up_once_and_bounded() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let mut done = Vec::new();
    for _ in 0..20 {
        done.push(client.submit(&json!({"shell": "true"})).await);
    }
    for id in &done {
        client.wait_until(*id, "finished").await;
    }
    let repeats: Vec<u64> = done.iter().copied().cycle().take(1_000).collect();
    let jobs = vec![json!({"shell": "true", "hold": true, "after": repeats}); 500];
    let answer = client.post("/api/v1/jobs", &json!(jobs)).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let shown = client.job(answer.json()["ids"][499].as_u64().unwrap()).await;
    assert_eq!(shown["after"].as_array().map(Vec::len), Some(done.len()), "each once: {shown}");

    let wide: Vec<u64> = (1..=1_000).collect();
    let job = json!({"shell": "true", "after": wide});
    let refused = client.post("/api/v1/jobs", &json!(vec![job; 101])).await;
    refused.expect_problem(400, Some("after"), "at most 100000 for all jobs together");
    assert_eq!(refused.json()["index"], 100);
    let mut missing = done.clone();
    missing.push(999_999);
    let refused = client.post("/api/v1/jobs", &json!({"shell": "true", "after": missing})).await;
    refused.expect_problem(400, Some("after[20]"), "there is no job 999999");
    server.stop().await;
}

/// What the environments of a page hold was not counted: a thousand jobs made a gigabyte.
#[tokio::test]
async fn a_page_of_large_jobs_is_cut_short_wherever_they_are_large() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let large = "x".repeat(120_000);
    let env: serde_json::Map<_, _> = (0..8).map(|number| (format!("V{number}"), json!(large))).collect();
    let words: Vec<&str> = vec!["true", &large, &large, &large, &large, &large, &large, &large, &large];
    for job in [json!({"shell": "true", "env": env, "hold": true}), json!({"command": words, "hold": true})] {
        let mut ids = Vec::new();
        for _ in 0..12 {
            ids.push(client.submit(&job).await);
        }
        let (mut seen, mut pages, mut cursor) = (Vec::new(), 0, ids[11] + 1);
        while seen.len() < 12 {
            let page = client.get(&format!("/api/v1/jobs?cursor={cursor}&limit=1000")).await.json();
            let jobs: Vec<u64> =
                page["jobs"].as_array().unwrap().iter().map(|job| job["id"].as_u64().unwrap()).collect();
            assert!((1..=5).contains(&jobs.len()) || seen.len() + jobs.len() > 12, "some megabytes: {jobs:?}");
            seen.extend(jobs);
            pages += 1;
            cursor = page["next_cursor"].as_u64().unwrap_or(0);
        }
        ids.reverse();
        assert!(seen[..12] == ids, "none is left out or shown twice: {seen:?}");
        assert!(pages >= 3, "{pages}");
    }
    server.stop().await;
}
