//! What is large, or a long work: it is bounded, and whoever sends it holds up nobody else.

use crate::client::{Answer, Connection, PATIENCE};
use crate::harness::Server;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::{Instant, timeout};

const MIB: usize = 1024 * 1024;

/// Weighs as much as 100,000 jobs, for each object could be one: two fit, a third does not. Only a hundred are, which wait for the first.
fn heavy() -> Value {
    let after = vec![json!({"id": 1}); 1_000];
    json!(vec![json!({"shell": "true", "after": after, "hold": true}); 100])
}

/// A small body that may hold 20,000 jobs; what it holds is looked at only once it is let in.
fn small_and_heavy() -> Value {
    json!(vec![json!({}); 20_000])
}

async fn post(mut client: Connection, body: Value) -> Answer {
    client.post("/api/v1/jobs", &body).await
}

/// What was made of a body was counted by nobody: twelve bodies of 2.6 MB became 2.9 GB, while the loop worked at the first.
#[tokio::test]
async fn what_is_made_of_bodies_is_bounded_until_it_is_answered() {
    let server = Server::start().await;
    assert_eq!(server.connect().await.submit(&json!({"shell": "true", "hold": true})).await, 1);
    let held = server.hold_commits().await;
    let mut posts: Vec<_> = Vec::new();
    for _ in 0..4 {
        posts.push(tokio::spawn(post(server.connect().await, heavy())));
    }
    let deadline = Instant::now() + PATIENCE;
    while posts.iter().filter(|post| post.is_finished()).count() < 2 {
        assert!(Instant::now() < deadline, "all four were let in");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let (refused, mut waiting): (Vec<_>, Vec<_>) = posts.into_iter().partition(|post| post.is_finished());
    for refused in refused {
        let refused = refused.await.unwrap();
        refused.expect_problem(503, None, "too many large requests");
        assert_eq!(refused.header("retry-after"), "1");
    }
    assert_eq!(waiting.len(), 2, "two are let in");
    // A client goes away; its jobs stay, and what they take.
    let leaver = waiting.remove(0);
    leaver.abort();
    assert!(leaver.await.is_err());
    // Nor is there room for a small body that may hold as many jobs.
    let (large, small) =
        tokio::join!(post(server.connect().await, heavy()), post(server.connect().await, small_and_heavy()));
    assert_eq!((large.status, small.status), (503, 503));
    // Small ones need no share.
    let small = tokio::spawn(post(server.connect().await, json!({"shell": "true", "hold": true})));
    // Nor does a script with many braces, none of which begins a job: what is wrong with its job is told at once.
    let script = json!({"shell": format!("# {}", "{".repeat(60_000)), "priority": 101});
    post(server.connect().await, script).await.expect_problem(400, Some("priority"), "101");
    assert!(!waiting[0].is_finished());
    drop(held);
    for one in waiting.into_iter().chain([small]) {
        let answer = timeout(PATIENCE, one).await.expect("in time").unwrap();
        assert_eq!(answer.status, 201, "{answer:?}");
    }
    // And what was held is given back.
    assert_eq!(post(server.connect().await, heavy()).await.status, 201);
    let mut client = server.connect().await;
    let jobs = client.get("/api/v1/jobs?limit=1000").await;
    assert_eq!(jobs.json()["jobs"].as_array().unwrap().len(), 302);
    server.stop().await;
}

fn schedule(name: &str, job: &Value) -> Value {
    json!({"name": name, "calendar": "yearly", "timezone": "UTC", "job": job})
}

/// Eighteen as large as jobs may be, and no room for another of these: gives the job of each.
async fn fill_with_schedules(client: &mut Connection) -> Value {
    let word = "x".repeat(131_000);
    let near = json!({"command": vec![word; 7]});
    for number in 0..18 {
        let answer = client.post("/api/v1/schedules", &schedule(&format!("s{number}"), &near)).await;
        assert_eq!(answer.status, 201, "{number}");
    }
    near
}

/// Each could be as large as a body, and four ended the daemon: all were read for one, and written again at each run.
#[tokio::test]
async fn schedules_are_no_larger_than_their_jobs_may_be() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let path = "/".repeat(5_000);
    for (path, job) in [
        ("/api/v1/jobs", json!({"shell": "true", "caller_dir": path})),
        ("/api/v1/schedules", schedule("a", &json!({"shell": "true", "caller_dir": path}))),
    ] {
        let field = if path.ends_with("jobs") { "caller_dir" } else { "job.caller_dir" };
        client.post(path, &job).await.expect_problem(400, Some(field), "has 5000 bytes, at most 4096");
    }
    // A long way to write a small number: it was kept as it came.
    let rule = format!("exit:{}1", "0".repeat(MIB));
    let large = schedule("a", &json!({"shell": "true", "retry_on": [rule]}));
    client.post("/api/v1/schedules", &large).await.expect_problem(400, Some("job"), "at most 1048576");
    let near = fill_with_schedules(&mut client).await;
    let full = client.post("/api/v1/schedules", &schedule("more", &near)).await;
    full.expect_problem(422, None, "remove some with");
    let again = client.ask("PUT", "/api/v1/schedules/s3", &[], schedule("s3", &near).to_string()).await;
    assert_eq!(again.status, 200, "the control: one that is there is replaced");
    let small = client.post("/api/v1/schedules", &schedule("small", &json!({"shell": "true"}))).await;
    assert_eq!(small.status, 201, "the control: there is room for a small one");
    // The list is large, and whole.
    let list = client.get("/api/v1/schedules").await;
    assert_eq!(list.json().as_array().map(Vec::len), Some(19));
    server.stop().await;
}

/// A list of 16.5 MB was made for each who asked, and kept for as long as they did not take it: some dozens ended the daemon.
#[tokio::test]
async fn lists_that_nobody_takes_are_bounded() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    fill_with_schedules(&mut client).await;
    let ask = async |mut client: Connection| {
        let answer = client.open("GET", "/api/v1/schedules", &[], "").await.unwrap();
        assert_eq!(answer.status(), 200);
        (client, answer.into_body())
    };
    // So many fit into 64 MiB.
    let begun = Instant::now();
    let mut untaken = Vec::new();
    for _ in 0..4 {
        untaken.push(ask(server.connect().await).await);
    }
    let took = begun.elapsed();
    let late = server.connect().await;
    let late = tokio::spawn(async move { ask(late).await });
    // Four were made in that time.
    tokio::time::sleep(took).await;
    assert!(!late.is_finished(), "a fifth was made");
    drop(untaken.pop());
    let (_client, body) = timeout(PATIENCE, late).await.expect("in time").unwrap();
    let bytes = timeout(PATIENCE, body.collect()).await.expect("in time").unwrap().to_bytes();
    let list: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(list.as_array().map(Vec::len), Some(18), "it came when one of them went, and is whole");
    drop(untaken);
    server.stop().await;
}

/// One that never fires was looked for behind each of the long gaps of its zone, on the thread that answers everybody.
#[tokio::test]
async fn a_calendar_that_never_fires_holds_up_nobody() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let mut other = server.connect().await;
    let never = json!({"name": "never", "calendar": "0 0 31 2,4,6,9,11 *", "timezone": "Antarctica/Casey",
        "job": {"shell": "true"}});
    let refused = tokio::spawn(async move { client.post("/api/v1/schedules", &never).await });
    let mut looks = 0;
    while !refused.is_finished() {
        assert_eq!(other.get("/livez").await.status, 200);
        looks += 1;
    }
    refused.await.unwrap().expect_problem(400, Some("calendar"), "never fires");
    assert!(looks > 3, "only {looks} looks meanwhile");
    server.stop().await;
}
