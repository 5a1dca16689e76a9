//! Search in logs: what is found where, what is refused, and that no search outlives its client or the daemon.

use crate::client::{Connection, PATIENCE, next_piece};
use crate::harness::{Options, Server};
use hyper::body::Incoming;
use serde_json::{Value, json};
use std::time::Duration;

/// A log of this makes an answer larger than all buffers on its way.
const FLOOD: &str = "yes \"needle $(printf %0200d 0)\" | head -n 110000";

/// What was found as (job, attempt, text), and what was searched.
async fn search(client: &mut Connection, query: &str) -> (Vec<(u64, u64, String)>, Value) {
    let answer = client.get(&format!("/api/v1/logs?{query}")).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/x-ndjson"), "{query}: {answer:?}");
    let mut lines = answer.lines();
    let last = lines.pop().expect("the last object");
    let number = |line: &Value, key: &str| line[key].as_u64().unwrap_or_else(|| panic!("{key} of {line}"));
    let text = |line: &Value| line["text"].as_str().map_or_else(|| line["base64"].to_string(), str::to_owned);
    let found = lines.iter().map(|line| (number(line, "job"), number(line, "attempt"), text(line))).collect();
    (found, last["searched"].clone())
}

async fn expect(client: &mut Connection, query: &str, expected: &[(u64, u64, &str)]) -> Value {
    let (found, searched) = search(client, query).await;
    let found: Vec<_> = found.iter().map(|(job, attempt, text)| (*job, *attempt, text.as_str())).collect();
    assert_eq!(found, expected, "{query}: {searched}");
    assert_eq!(searched["lines"], expected.len(), "{query}: {searched}");
    searched
}

/// Asks again until the answer holds.
async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(tokio::time::Instant::now() < deadline, "{what} does not come");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn lines_are_found_in_all_logs_and_chosen() {
    let config = "max_parallel_jobs = 4\n[pools.small]\nslots = 2\n".to_owned();
    let server = Server::with(Options { config, ..Options::default() }).await;
    let mut client = server.connect().await;
    let failing =
        json!({"name": "build-a", "shell": "echo needle $CI_RUNNER_ATTEMPT; exit 1", "retry": 1, "retry_delay": 0});
    let failed = client.submit(&failing).await;
    client.wait_until(failed, "finished").await;
    let text = "printf 'Needle.\\nhay\\nneedle\\377\\nlast needle'";
    let good = client.submit(&json!({"name": "build-b", "pool": "small", "shell": text})).await;
    client.wait_until(good, "finished").await;
    let silent = client.submit(&json!({"name": "build-c", "shell": "true"})).await;
    client.wait_until(silent, "finished").await;

    let both =
        [(good, 1, "\"bmVlZGxl/w==\""), (good, 1, "last needle"), (failed, 1, "needle 1"), (failed, 2, "needle 2")];
    let searched = expect(&mut client, "grep=needle", &both).await;
    assert_eq!(searched, json!({"logs": 3, "bytes": 49, "lines": 4, "removed": 0, "unreadable": 0, "more": false}));
    let capital = [&[(good, 1, "Needle.")][..], &both].concat();
    expect(&mut client, "grep=NEEDLE&ignore_case=true", &capital).await;
    expect(&mut client, "grep=needle.&fixed=true&ignore_case=true", &capital[..1]).await;
    expect(&mut client, "grep=%5Eneedle%20%5B12%5D%24", &both[2..]).await;
    expect(&mut client, "grep=needle%0A", &[]).await;
    for (filter, expected) in [
        ("name=build-*", &both[..]),
        ("name=build-a", &both[2..]),
        ("name=build", &[]),
        ("pool=small", &both[..2]),
        ("pool=default", &both[2..]),
        ("outcome=failed", &both[2..]),
        ("outcome=failed,succeeded", &both[..]),
        ("outcome=timed_out", &[]),
        (&format!("job={failed}"), &both[2..]),
        (&format!("job={failed},{good},{silent}"), &both[..]),
        (&format!("job={failed},{good}&outcome=succeeded"), &both[..2]),
        ("since=2099-01-01T00:00:00Z", &[]),
        ("until=2000-01-01T00:00:00Z", &[]),
        ("since=2000-01-01T00:00:00Z&until=2099-01-01T00:00:00Z", &both[..]),
    ] {
        let searched = expect(&mut client, &format!("grep=needle&{filter}"), expected).await;
        assert_eq!(searched["more"], false, "{filter}");
    }
    // The limit is reached by exactly as many, and passed by one more.
    assert_eq!(expect(&mut client, "grep=needle&limit=3", &both[..3]).await["more"], true);
    assert_eq!(expect(&mut client, "grep=needle&limit=4", &both).await["more"], false);

    // Where in the log a line is, and whose it is.
    let answer = client.get("/api/v1/logs?grep=last").await;
    let mut line = answer.lines().swap_remove(0);
    assert!(line.as_object_mut().unwrap().remove("at").unwrap().as_str().unwrap().ends_with('Z'));
    let place = json!({"offset": 20, "next": 31, "text": "last needle", "unfinished": true});
    let mut whole = json!({"job": good, "attempt": 1, "name": "build-b"});
    whole.as_object_mut().unwrap().extend(place.as_object().unwrap().clone());
    assert_eq!(line, whole);

    // A log that gc removed.
    std::fs::remove_file(server.log_dir().join(format!("0/{failed}-2.log"))).unwrap();
    let searched = expect(&mut client, "grep=needle", &both[..3]).await;
    assert_eq!((&searched["removed"], &searched["unreadable"]), (&json!(1), &json!(0)));
    server.stop().await;
}

#[tokio::test]
async fn jobs_that_run_or_wait_are_searched_too() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let gate = server.dir().join("gate");
    let waits = format!("while [ ! -e {} ]; do sleep 0.02; done", gate.display());
    let held = client.submit(&json!({"shell": "echo needle", "hold": true})).await;
    let retried = client.submit(&json!({"shell": "echo needle; exit 1", "retry": 1, "retry_delay": 600})).await;
    // The times of two lines differ by more than a tick.
    let script = format!("echo needle one; sleep 0.05; printf 'needle two'; {waits}; echo .");
    let running = client.submit(&json!({"name": "r", "pool": "default", "shell": script})).await;
    let open = [(running, 1, "needle one"), (running, 1, "needle two"), (retried, 1, "needle")];
    until("the lines", async || (search(&mut client, "grep=needle").await.0.len() == 3).then_some(())).await;
    until("the retry", async || (client.job(retried).await["state"] == "queued").then_some(())).await;
    expect(&mut client, "grep=needle", &open).await;
    expect(&mut client, "grep=needle&name=r&pool=default", &open[..2]).await;
    expect(&mut client, "grep=needle&outcome=succeeded,failed", &[]).await;
    expect(&mut client, &format!("grep=needle&job={held}"), &[]).await;
    std::fs::write(&gate, "").unwrap();
    client.wait_until(running, "finished").await;

    // By the time of the line, not of the job.
    let lines = client.get(&format!("/api/v1/jobs/{running}/log?format=ndjson")).await.lines();
    let at = lines[1]["at"].as_str().unwrap();
    assert_ne!(lines[0]["at"], at);
    let query = format!("grep=needle&job={running}");
    expect(&mut client, &format!("{query}&since={at}"), &[(running, 1, "needle two.")]).await;
    expect(&mut client, &format!("{query}&until={at}"), &open[..1]).await;
    let first = lines[0]["at"].as_str().unwrap();
    expect(&mut client, &format!("{query}&since={first}&until={at}"), &open[..1]).await;
    server.stop().await;
}

#[tokio::test]
async fn secrets_cannot_be_searched_for() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let job = json!({"shell": "echo the key is $T.; echo plain hunter23", "secrets": {"T": "hunter22"}});
    let id = client.submit(&job).await;
    client.wait_until(id, "finished").await;
    expect(&mut client, "grep=hunter22", &[]).await;
    expect(&mut client, "grep=hunter", &[(id, 1, "plain hunter23")]).await;
    expect(&mut client, "grep=key", &[(id, 1, "the key is ***.")]).await;
    server.stop().await;
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let id = client.submit(&json!({"shell": "true"})).await;
    let long = format!("grep={}", "a".repeat(1_001));
    let many = format!("grep=a&job={}", vec!["1"; 1_001].join(","));
    for (query, status, field, part) in [
        ("", 400, Some("grep"), "between 1 and 1000"),
        ("grep=", 400, Some("grep"), "between 1 and 1000"),
        (&long, 400, Some("grep"), "1001 characters; between 1 and 1000"),
        ("grep=%28a", 400, Some("grep"), "unclosed group"),
        ("grep=%28%5Cw%7B1000%7D%29%7B1000%7D", 400, Some("grep"), "too large"),
        ("grep=%28%3F%3Da%29", 400, Some("grep"), "look-around"),
        ("grep=a&fixed=perhaps", 400, Some("fixed"), ""),
        ("grep=a&job=x", 400, Some("job"), "no job id"),
        ("grep=a&job=", 400, Some("job"), "0 ids"),
        (&many, 400, Some("job"), "1001 ids"),
        ("grep=a&job=1,99", 404, None, "there is no job 99"),
        ("grep=a&outcome=faled", 400, Some("outcome"), "did you mean \"failed\"?"),
        ("grep=a&since=soon", 400, Some("since"), ""),
        ("grep=a&until=soon", 400, Some("until"), ""),
        ("grep=a&since=1m&until=1h", 400, Some("since"), "is not before `until`"),
        ("grep=a&limit=0", 400, Some("limit"), "between 1 and 100000"),
        ("grep=a&limit=100001", 400, Some("limit"), "between 1 and 100000"),
        ("grep=a&nam=x", 400, Some("nam"), "did you mean \"name\"?"),
        ("grep=a&pool=nope", 400, Some("pool"), "there is no pool \"nope\", and no such job; known are default"),
        ("grep=a&pool=defalt", 400, Some("pool"), "did you mean \"default\"?"),
    ] {
        client.get(&format!("/api/v1/logs?{query}")).await.expect_problem(status, field, part);
    }
    // None of them kept its place.
    expect(&mut client, &format!("grep=%28a%29&job={id}"), &[]).await;
    server.stop().await;
}

/// A search whose client does not read: it waits in the middle of its answer.
async fn unread(server: &Server) -> (Connection, Incoming) {
    let mut client = server.connect().await;
    let response = client.open("GET", "/api/v1/logs?grep=needle&limit=100000", &[], "").await.unwrap();
    assert_eq!(response.status(), 200);
    let mut body = response.into_body();
    assert!(next_piece(&mut body).await.unwrap().is_ok(), "it has begun");
    (client, body)
}

#[tokio::test]
async fn searches_are_few_and_end_with_their_clients_and_the_daemon() {
    let mut server = Server::start().await;
    let mut client = server.connect().await;
    let id = client.submit(&json!({"shell": FLOOD})).await;
    client.wait_until(id, "finished").await;
    let (first, second) = (unread(&server).await, unread(&server).await);
    let busy = client.get("/api/v1/logs?grep=needle&limit=1").await;
    busy.expect_problem(503, None, "2 searches of logs run already");
    assert_eq!(busy.header("retry-after"), "2");
    // A client that goes away gives its place back.
    drop(first);
    until("a place", async || (client.get("/api/v1/logs?grep=needle&limit=1").await.status == 200).then_some(())).await;

    // The daemon ends: an answer that broke off does not look like a whole one.
    let (holder, mut body) = second;
    let read = async {
        let mut bytes = Vec::new();
        loop {
            match next_piece(&mut body).await {
                Some(Ok(piece)) => bytes.extend_from_slice(&piece),
                Some(Err(_)) => return (true, bytes),
                None => return (false, bytes),
            }
        }
    };
    let ((), (cut, bytes)) = tokio::time::timeout(PATIENCE, async { tokio::join!(server.end(), read) }).await.unwrap();
    assert!(cut, "an orderly end of {} bytes", bytes.len());
    assert!(!String::from_utf8_lossy(&bytes).contains("\"searched\""));
    drop((holder, client));
    server.restart_after_end().await;

    // The control: left alone, the same answer is whole.
    let mut client = server.connect().await;
    let (found, searched) = search(&mut client, "grep=needle&limit=100000").await;
    assert_eq!((found.len(), &searched["more"]), (100_000, &json!(true)));
    server.stop().await;
}
