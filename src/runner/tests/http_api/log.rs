//! Logs: whole, in part, followed, over a restart.

use crate::client::{Connection, PATIENCE, next_piece};
use crate::harness::Server;
use serde_json::{Value, json};

/// Reads a followed log to its orderly end; an error where it was cut.
async fn follow(client: &mut Connection, path: &str) -> Result<(u64, Vec<u8>), Vec<u8>> {
    let response = client.open("GET", path, &[], "").await.unwrap();
    assert_eq!(response.status(), 200);
    let offset = response.headers()["ci-runner-log-offset"].to_str().unwrap().parse().unwrap();
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    while let Some(piece) = next_piece(&mut body).await {
        match piece {
            Ok(piece) => bytes.extend_from_slice(&piece),
            Err(_) => return Err(bytes),
        }
    }
    Ok((offset, bytes))
}

fn lines(bytes: &[u8]) -> Vec<Value> {
    let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).unwrap()).collect()
}

#[tokio::test]
async fn parts_of_a_log_are_read() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let id = client.submit(&json!({"shell": "echo one; echo two; printf 'three \\377'"})).await;
    client.wait_until(id, "finished").await;
    let whole = b"one\ntwo\nthree \xff";
    for (query, offset, expected) in [
        ("", "0", &whole[..]),
        ("?attempt=1", "0", &whole[..]),
        ("?offset=4", "4", &whole[4..]),
        ("?offset=15", "15", b""),
        ("?tail=1", "8", &whole[8..]),
        ("?tail=2", "4", &whole[4..]),
        ("?tail=0", "15", b""),
        ("?tail=99", "0", &whole[..]),
        ("?since=1h", "0", &whole[..]),
        ("?since=2099-01-01T00:00:00Z", "15", b""),
        ("?follow=true", "0", &whole[..]),
        ("?follow=true&tail=1", "8", &whole[8..]),
    ] {
        let answer = client.get(&format!("/api/v1/jobs/{id}/log{query}")).await;
        assert_eq!((answer.status, answer.header("ci-runner-log-offset")), (200, offset), "{query}: {answer:?}");
        assert_eq!(
            (answer.header("ci-runner-attempt"), answer.header("content-type")),
            ("1", "application/octet-stream")
        );
        assert_eq!(answer.bytes, expected, "{query}");
    }
    for (query, status, field, part) in [
        ("offset=16", 400, Some("offset"), "15 bytes"),
        ("offset=1&tail=1", 400, Some("tail"), "one of"),
        ("tail=1&since=1h", 400, Some("tail"), "one of"),
        ("since=soon", 400, Some("since"), "neither"),
        ("since=1m&until=1h", 400, Some("since"), "is not before `until`"),
        ("format=xml", 400, Some("format"), "raw, ndjson"),
        ("attempt=0", 400, Some("attempt"), "begin with 1"),
        ("attempt=2", 404, None, "no attempt 2"),
        ("folow=true", 400, Some("folow"), "did you mean \"follow\"?"),
    ] {
        client.get(&format!("/api/v1/jobs/{id}/log?{query}")).await.expect_problem(status, field, part);
    }
    client.get("/api/v1/jobs/99/log").await.expect_problem(404, None, "there is no job 99");
    server.stop().await;
}

#[tokio::test]
async fn lines_are_objects_with_a_cursor() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let id = client.submit(&json!({"shell": "echo one; printf 'b\\377d\\n'; printf end"})).await;
    client.wait_until(id, "finished").await;
    let answer = client.get(&format!("/api/v1/jobs/{id}/log?format=ndjson")).await;
    assert_eq!(answer.header("content-type"), "application/x-ndjson");
    let all = answer.lines();
    let without_time = |line: &Value| {
        let mut line = line.clone();
        let at = line.as_object_mut().unwrap().remove("at").unwrap();
        assert!(at.as_str().unwrap().ends_with('Z'), "{at}");
        line
    };
    assert_eq!(
        all.iter().map(without_time).collect::<Vec<_>>(),
        [
            json!({"offset": 0, "next": 4, "text": "one"}),
            json!({"offset": 4, "next": 8, "base64": "Yv9k"}),
            json!({"offset": 8, "next": 11, "text": "end", "unfinished": true}),
        ]
    );
    let from = client.get(&format!("/api/v1/jobs/{id}/log?format=ndjson&offset=8")).await;
    assert_eq!(from.lines(), &all[2..]);
    server.stop().await;
}

#[tokio::test]
async fn a_job_without_a_log_says_so() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let held = client.submit(&json!({"shell": "echo late", "hold": true})).await;
    client.get(&format!("/api/v1/jobs/{held}/log")).await.expect_problem(404, None, "was not tried yet");
    let dropped = client.submit(&json!({"shell": "true", "hold": true})).await;
    client.post("/api/v1/jobs/cancel", &json!({"ids": [dropped]})).await;
    client.wait_until(dropped, "finished").await;
    for query in ["", "?follow=true"] {
        client.get(&format!("/api/v1/jobs/{dropped}/log{query}")).await.expect_problem(404, None, "never tried");
    }
    // A follower waits for the first attempt.
    let mut follower = server.connect().await;
    let path = format!("/api/v1/jobs/{held}/log?follow=true");
    let following = tokio::spawn(async move { follow(&mut follower, &path).await });
    client.ask("POST", &format!("/api/v1/jobs/{held}/release"), &[], "").await;
    assert_eq!(following.await.unwrap().unwrap(), (0, b"late\n".to_vec()));
    let silent = client.submit(&json!({"shell": "true"})).await;
    client.wait_until(silent, "finished").await;
    assert_eq!(client.get(&format!("/api/v1/jobs/{silent}/log")).await.bytes, "");
    // A log that was there and was removed is another thing.
    std::fs::remove_file(server.log_dir().join(format!("0/{held}-1.log"))).unwrap();
    client.get(&format!("/api/v1/jobs/{held}/log")).await.expect_problem(410, None, "was removed");
    server.stop().await;
}

/// Lines written as fast as a shell can, by a job that ends right behind the last one: none may be lost or doubled.
#[tokio::test]
async fn followers_get_every_byte_once() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let script = "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done";
    let expected: String = (0..3_000).map(|number| format!("line {number}\n")).collect();
    let mut followers = Vec::new();
    for round in 0..6 {
        let id = client.submit(&json!({"shell": script})).await;
        let mut follower = server.connect().await;
        let format = if round % 2 == 0 { "raw" } else { "ndjson" };
        let path = format!("/api/v1/jobs/{id}/log?follow=true&format={format}");
        followers.push((format, tokio::spawn(async move { follow(&mut follower, &path).await })));
    }
    for (format, follower) in followers {
        let (_, bytes) = follower.await.unwrap().expect("an orderly end");
        let text = if format == "raw" { String::from_utf8(bytes).unwrap() } else { joined(&lines(&bytes)) };
        assert_eq!(text, expected, "{format}");
    }
    server.stop().await;
}

/// The text of lines whose cursors must fit together.
fn joined(lines: &[Value]) -> String {
    let mut next = 0;
    let mut text = String::new();
    for line in lines {
        assert_eq!(line["offset"], next);
        next = line["next"].as_u64().unwrap();
        text.push_str(line["text"].as_str().unwrap());
        text.push_str(if line["unfinished"] == true { "" } else { "\n" });
    }
    text
}

#[tokio::test]
async fn a_follower_sees_a_line_at_once_and_survives_a_restart() {
    let mut server = Server::start().await;
    let mut client = server.connect().await;
    let gate = server.dir().join("gate");
    let script = format!("echo before; while [ ! -e {} ]; do sleep 0.02; done; echo after", gate.display());
    let id = client.submit(&json!({"shell": script})).await;
    let mut follower = server.connect().await;
    let path = format!("/api/v1/jobs/{id}/log?follow=true");
    let response = follower.open("GET", &path, &[], "").await.unwrap();
    let mut body = response.into_body();
    assert_eq!(next_piece(&mut body).await.unwrap().unwrap(), "before\n");
    server.restart().await;
    assert!(next_piece(&mut body).await.expect("no orderly end").is_err(), "a cut is told apart from the end");
    std::fs::write(&gate, "").unwrap();
    let mut follower = server.connect().await;
    let path = format!("/api/v1/jobs/{id}/log?follow=true&offset=7");
    assert_eq!(follow(&mut follower, &path).await.unwrap(), (7, b"after\n".to_vec()));
    let mut client = server.connect().await;
    let job = client.wait_until(id, "finished").await;
    assert_eq!((&job["outcome"], &job["attempt_count"]), (&json!("succeeded"), &json!(1)), "adopted, not repeated");
    server.stop().await;
}

#[tokio::test]
async fn each_attempt_has_its_own_log() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let job = json!({"shell": "echo try $CI_RUNNER_ATTEMPT; exit 1", "retry": 1, "retry_delay": 0});
    let id = client.submit(&job).await;
    let job = client.wait_until(id, "finished").await;
    assert_eq!(job["attempts"].as_array().unwrap().len(), 2);
    assert_eq!(client.get(&format!("/api/v1/jobs/{id}/log?attempt=1")).await.bytes, "try 1\n");
    let last = client.get(&format!("/api/v1/jobs/{id}/log")).await;
    assert_eq!((last.header("ci-runner-attempt"), &last.bytes[..]), ("2", &b"try 2\n"[..]));
    // A follower of an attempt that is still to come waits for it.
    let mut follower = server.connect().await;
    let job = json!({"shell": "echo $CI_RUNNER_ATTEMPT; exit 1", "retry": 1, "retry_delay": 1});
    let id = client.submit(&job).await;
    let path = format!("/api/v1/jobs/{id}/log?follow=true&attempt=2");
    assert_eq!(follow(&mut follower, &path).await.unwrap(), (0, b"2\n".to_vec()));
    let path = format!("/api/v1/jobs/{id}/log?follow=true&attempt=3");
    client.wait_until(id, "finished").await;
    client.get(&path).await.expect_problem(404, None, "no attempt 3");
    server.stop().await;
}

/// A reader that does not read holds nobody up, not even the end.
#[tokio::test]
async fn a_reader_that_does_not_read_holds_nobody_up() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let id = client.submit(&json!({"shell": "head -c 20000000 /dev/zero"})).await;
    let mut lazy = server.connect().await;
    let unread = lazy.open("GET", &format!("/api/v1/jobs/{id}/log?follow=true"), &[], "").await.unwrap();
    client.wait_until(id, "finished").await;
    let answer = client.get(&format!("/api/v1/jobs/{id}/log")).await;
    assert_eq!(answer.bytes.len(), 20_000_000);
    tokio::time::timeout(PATIENCE, server.stop()).await.expect("it ends with an unread stream");
    drop((unread, lazy));
}

/// The parts of a log that has ended, and of one that grows.
#[tokio::test]
async fn parts_are_sent_by_range() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let done = client.submit(&json!({"shell": "printf 0123456789"})).await;
    client.wait_until(done, "finished").await;
    let path = format!("/api/v1/jobs/{done}/log");
    let all = client.get(&path).await;
    assert_eq!((all.header("accept-ranges"), all.header("content-length")), ("bytes", "10"));
    let tag = all.header("etag").to_owned();
    let mut part = async |range: &str, condition: &str| {
        let headers = [("range", range), ("if-range", condition)];
        let headers = if condition.is_empty() { &headers[..1] } else { &headers[..] };
        client.ask("GET", &path, headers, "").await
    };
    let middle = part("bytes=2-5", "").await;
    assert_eq!((middle.status, middle.bytes.as_ref()), (206, &b"2345"[..]));
    assert_eq!((middle.header("content-range"), middle.header("content-length")), ("bytes 2-5/10", "4"));
    assert_eq!((middle.header("ci-runner-log-offset"), middle.header("etag")), ("2", tag.as_str()));
    assert_eq!(part("bytes=-3", &tag).await.bytes, "789");
    assert_eq!(part("bytes=8-999", &tag).await.bytes, "89");
    let other = part("bytes=8-", "\"other\"").await;
    assert_eq!((other.status, other.bytes.as_ref()), (200, &b"0123456789"[..]));
    let several = part("bytes=0-1,4-5", "").await;
    assert_eq!((several.status, several.bytes.len()), (200, 10));
    let beyond = part("bytes=10-", "").await;
    beyond.expect_problem(416, None, "has 10 bytes");
    assert_eq!(beyond.header("content-range"), "bytes */10");
    let same = client.ask("GET", &path, &[("if-none-match", &tag)], "").await;
    assert_eq!((same.status, same.bytes.len()), (304, 0));
    let head = client.ask("HEAD", &path, &[], "").await;
    assert_eq!((head.status, head.header("content-length"), head.bytes.len()), (200, "10", 0));
    let offset = client.ask("GET", &format!("{path}?offset=4"), &[("range", "bytes=0-0")], "").await;
    assert_eq!((offset.status, offset.bytes.as_ref()), (200, &b"456789"[..]), "an offset is not a part");

    // While it grows the tag is another one with every byte, and what was there stays.
    let gate = server.dir().join("gate");
    let script = format!("printf before; while [ ! -e {} ]; do sleep 0.02; done; printf after", gate.display());
    let growing = client.submit(&json!({"shell": script})).await;
    let path = format!("/api/v1/jobs/{growing}/log");
    let mut follower = server.connect().await;
    let mut body = follower.open("GET", &format!("{path}?follow=true"), &[], "").await.unwrap().into_body();
    while next_piece(&mut body).await.unwrap().unwrap() != "before" {}
    drop((body, follower));
    let before = client.get(&path).await;
    assert_eq!(before.bytes, "before");
    std::fs::write(&gate, "").unwrap();
    client.wait_until(growing, "finished").await;
    let rest = client.ask("GET", &path, &[("range", "bytes=6-")], "").await;
    assert_eq!((rest.status, rest.bytes.as_ref()), (206, &b"after"[..]));
    let headers = [("range", "bytes=6-"), ("if-range", before.header("etag"))];
    let changed = client.ask("GET", &path, &headers, "").await;
    assert_eq!((changed.status, changed.bytes.as_ref()), (200, &b"beforeafter"[..]), "the tag was of the shorter one");
    server.stop().await;
}

#[tokio::test]
async fn a_range_of_time_has_two_ends() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let id = client.submit(&json!({"shell": "echo one; sleep 0.3; echo two; sleep 0.3; echo three"})).await;
    client.wait_until(id, "finished").await;
    let path = format!("/api/v1/jobs/{id}/log");
    let all = lines(&client.get(&format!("{path}?format=ndjson")).await.bytes);
    let at = |index: usize| all[index]["at"].as_str().unwrap().replace('+', "%2B");
    for (query, expected) in [
        (format!("until={}", at(1)), "one\n"),
        (format!("since={}&until={}", at(1), at(2)), "two\n"),
        (format!("offset=4&until={}", at(2)), "two\n"),
    ] {
        assert_eq!(client.get(&format!("{path}?{query}")).await.bytes, expected, "{query}");
    }
    for (query, why) in [("until=x", "until"), ("until=1h&follow=true", "follow"), ("until=1h&tail=3", "tail")] {
        client.get(&format!("{path}?{query}")).await.expect_problem(
            400,
            Some("until"),
            if why == "until" { "" } else { why },
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn an_archived_log_is_served_as_before() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let script = "i=0; while [ $i -lt 1000 ]; do echo line $i; i=$((i+1)); done";
    let id = client.submit(&json!({"shell": script})).await;
    client.wait_until(id, "finished").await;
    let path = format!("/api/v1/jobs/{id}/log");
    let before = client.get(&path).await;
    let file = server.log_dir().join(format!("0/{id}-1.log"));
    ci_runner::joblog::archive(&file, &mut |_| Ok(())).unwrap();
    assert!(!file.exists(), "the control: it is archived");
    let after = client.get(&path).await;
    assert_eq!((after.bytes.len(), after.header("etag")), (before.bytes.len(), before.header("etag")));
    assert_eq!(after.bytes, before.bytes);
    let headers = [("range", "bytes=-9"), ("if-range", before.header("etag"))];
    let part = client.ask("GET", &path, &headers, "").await;
    assert_eq!((part.status, part.bytes.as_ref()), (206, &b"line 999\n"[..]));
    assert_eq!(client.get(&format!("{path}?tail=1")).await.bytes, "line 999\n");
    assert_eq!(client.get(&format!("{path}?follow=true&offset=8881")).await.bytes, "line 999\n");
    let found = lines(&client.get("/api/v1/logs?grep=line+777").await.bytes);
    assert_eq!((&found[0]["text"], &found[1]["searched"]["logs"]), (&json!("line 777"), &json!(1)));
    server.stop().await;
}
