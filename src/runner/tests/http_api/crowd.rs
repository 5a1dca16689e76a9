//! More clients than places: whoever follows, is silent or dawdles, commands are answered.

use crate::client::{Connection, PATIENCE};
use crate::harness::Server;
use ci_runner::http;
use hyper::body::Incoming;
use serde_json::json;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

/// So many come: more than there are places.
const CROWD: usize = 600;
/// A command is answered within this.
const PROMPT: Duration = Duration::from_secs(2);

/// Events of a job that never comes.
async fn open_stream(server: &Server) -> Option<(Connection, Incoming)> {
    let mut client = server.connect().await;
    let answer = client.open("GET", "/api/v1/events?id=999", &[], "").await.ok()?;
    match answer.status().as_u16() {
        200 => Some((client, answer.into_body())),
        503 => {
            assert_eq!(answer.headers()["retry-after"], "5");
            None
        }
        other => panic!("{other}"),
    }
}

async fn expect_prompt(server: &Server, what: &str) {
    let started = Instant::now();
    let mut client = server.connect().await;
    assert_eq!(client.get("/api/v1/status").await.status, 200, "{what}");
    let mut client = server.connect().await;
    client.submit(&json!({"shell": "true", "hold": true})).await;
    assert!(started.elapsed() < PROMPT, "{what}: {:?}", started.elapsed());
}

#[tokio::test]
async fn streams_leave_places_for_commands() {
    let server = Server::start().await;
    let mut streams = Vec::new();
    for _ in 0..CROWD {
        streams.extend(open_stream(&server).await);
    }
    assert_eq!(streams.len(), http::STREAMS_MAX, "the control: they did fill their places");
    expect_prompt(&server, "six hundred event streams").await;
    let mut client = server.connect().await;
    let id = client.submit(&json!({"shell": "true", "hold": true})).await;
    for path in ["/api/v1/events".to_owned(), format!("/api/v1/jobs/{id}/log?follow=true")] {
        let refused = client.get(&path).await;
        refused.expect_problem(503, None, "ask from time to time");
        assert!(refused.json()["type"].as_str().unwrap().ends_with("too-many-streams"), "{refused:?}");
    }
    drop(streams.pop());
    let deadline = Instant::now() + PATIENCE;
    while open_stream(&server).await.is_none() {
        assert!(Instant::now() < deadline, "the place was not given back");
    }
    drop((streams, client));
    server.stop().await;
}

#[tokio::test]
async fn idle_and_half_sent_requests_yield_their_places() {
    let server = Server::start().await;
    const HALVES: [&str; 4] = [
        "",
        "GET /api/v1/sta",
        "POST /api/v1/jobs HTTP/1.1\r\nHost: x\r\n",
        "POST /api/v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n{\"shell\":",
    ];
    for half in HALVES {
        let mut dawdlers = Vec::new();
        for _ in 0..CROWD {
            let mut stream = UnixStream::connect(server.socket()).await.unwrap();
            stream.write_all(half.as_bytes()).await.unwrap();
            dawdlers.push(stream);
        }
        expect_prompt(&server, half).await;
        let mut text = String::new();
        timeout(PATIENCE, dawdlers[0].read_to_string(&mut text)).await.expect("the oldest has yielded").unwrap();
        if !half.contains("{") {
            assert!(text.starts_with("HTTP/1.1 503") && text.contains("retry-after: 1\r\n"), "{half:?}: {text}");
        }
    }
    let mut idle = Vec::new();
    for _ in 0..CROWD {
        let mut client = server.connect().await;
        assert_eq!(client.get("/livez").await.status, 200);
        idle.push(client);
    }
    expect_prompt(&server, "connections kept open").await;
    drop(idle);
    server.stop().await;
}

/// Nobody is left hanging in the kernel's queue. All places are served here: streams, and logs that nobody reads.
#[tokio::test]
async fn beyond_all_places_the_answer_is_a_refusal_at_once() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let id = client.submit(&json!({"shell": "head -c 4000000 /dev/zero | tr '\\0' x", "retry": 0})).await;
    client.wait_until(id, "finished").await;
    drop(client);
    let mut streams = Vec::new();
    while streams.len() < http::STREAMS_MAX {
        streams.extend(open_stream(&server).await);
    }
    let mut unread = Vec::new();
    for _ in http::STREAMS_MAX..http::UNIX_CONNECTIONS_MAX {
        let mut client = server.connect().await;
        let body = client.open("GET", &format!("/api/v1/jobs/{id}/log"), &[], "").await.unwrap().into_body();
        unread.push((client, body));
    }
    let mut late = UnixStream::connect(server.socket()).await.unwrap();
    let mut text = String::new();
    timeout(PROMPT, late.read_to_string(&mut text)).await.expect("at once").unwrap();
    assert!(text.starts_with("HTTP/1.1 503") && text.contains("retry-after: 1\r\n"), "{text}");
    assert!(text.contains("urn:ci-runner:problem:busy") && text.contains("nothing was taken"), "{text}");
    drop(unread);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut client = server.connect().await;
        match client.open("GET", "/livez", &[], "").await {
            Ok(answer) if answer.status() == 200 => break,
            _ => assert!(Instant::now() < deadline, "no place was given back"),
        }
    }
    drop(streams);
    server.stop().await;
}

#[tokio::test]
async fn half_open_requests_on_tcp_do_not_hide_health() {
    let server = Server::start().await;
    let mut halves = Vec::new();
    for _ in 0..4 * http::TCP_CONNECTIONS_MAX {
        let mut stream = TcpStream::connect(server.tcp()).await.unwrap();
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: lo").await.unwrap();
        halves.push(stream);
    }
    let started = Instant::now();
    let mut client = Connection::tcp(server.tcp()).await;
    assert_eq!(client.get("/health").await.status, 200);
    assert!(started.elapsed() < PROMPT, "{:?}", started.elapsed());
    // The last of them is closed as well, soon: 5 s are enough for a head.
    let mut last = halves.pop().unwrap();
    let mut rest = Vec::new();
    let ended = timeout(Duration::from_secs(15), last.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "a head that never comes is not waited for");
    server.stop().await;
}
