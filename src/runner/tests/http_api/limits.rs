//! Limits: bodies, heads, connections, peers, the end.

use crate::client::{Connection, PATIENCE};
use crate::harness::Server;
use crate::skipped;
use ci_runner::http;
use ci_runner_core::record::CLASSES_MAX;
use serde_json::json;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// Names the socket for [`as_a_stranger`].
const STRANGER: &str = "HTTP_API_TEST_SOCKET";
/// Names our program for a test that runs as somebody else.
const PROGRAM: &str = "HTTP_API_TEST_PROGRAM";
/// A user who is in no group of ours.
const NOBODY: u32 = 65_534;

#[tokio::test]
async fn errors_are_problem_documents() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    client.get("/nothing").await.expect_problem(404, None, "openapi.json");
    let refused = client.ask("DELETE", "/api/v1/jobs", &[], "").await;
    refused.expect_problem(405, None, "does not take DELETE");
    assert!(refused.header("allow").contains("POST"), "{refused:?}");
    client.ask("POST", "/api/v1/jobs", &[], "").await.expect_problem(400, None, "no JSON");
    client.ask("POST", "/api/v1/jobs", &[], "{\"shell\":").await.expect_problem(400, None, "no JSON");
    let deep = "[".repeat(300);
    client.ask("POST", "/api/v1/jobs", &[], deep).await.expect_problem(400, None, "no JSON: recursion limit exceeded");
    client.ask("POST", "/api/v1/jobs", &[], "\"x\"").await.expect_problem(400, None, "an object is needed");
    client.post("/api/v1/jobs", &json!({"shell": "true", "memory": 0})).await.expect_problem(400, Some("memory"), "");
    client.get("/api/v1/jobs/%FF").await.expect_problem(400, None, "path");
    client.ask("POST", "/api/v1/notifiers/%FF/test", &[], "{}").await.expect_problem(400, None, "path");
    server.stop().await;
}

/// To come back later is worth while: the others end. It used to be told as a mistake in the request.
#[tokio::test]
async fn too_many_sets_of_labels_are_a_full_queue() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let labelled: Vec<_> = (0..=CLASSES_MAX).map(|n| json!({"shell": "true", "labels": [format!("l{n}")]})).collect();
    let refused = client.post("/api/v1/jobs", &json!(labelled)).await;
    refused.expect_problem(503, None, "4096 different sets of pool, labels and limits");
    assert_eq!(refused.header("retry-after"), "5");
    server.stop().await;
}

#[tokio::test]
async fn large_batches_are_taken_and_too_large_ones_refused() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let jobs: Vec<_> = (0..5_000).map(|_| json!({"shell": "true", "hold": true})).collect();
    let answer = client.post("/api/v1/jobs", &json!(jobs)).await;
    assert_eq!((answer.status, answer.json()["ids"].as_array().unwrap().len()), (201, 5_000));
    let many = format!("[{}]", vec!["{}"; http::JOBS_MAX + 1].join(","));
    client.ask("POST", "/api/v1/jobs", &[], many).await.expect_problem(400, None, "more than 100000");
    // Said by its length, it is refused before a byte of it was read.
    let mut raw = UnixStream::connect(server.socket()).await.unwrap();
    let head = format!("POST /api/v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", http::BODY_BYTES_MAX + 1);
    raw.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![0; 12];
    tokio::time::timeout(PATIENCE, raw.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(answer, b"HTTP/1.1 413");
    server.stop().await;
}

/// A chunked body says no length: it is cut when it grows too large.
#[tokio::test]
async fn an_endless_body_is_cut() {
    let server = Server::start().await;
    let mut raw = UnixStream::connect(server.socket()).await.unwrap();
    raw.write_all(b"POST /api/v1/jobs HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
    let chunk = [b"100000\r\n".as_slice(), &vec![b' '; 0x10_0000], b"\r\n"].concat();
    let (mut reader, mut writer) = raw.into_split();
    let flood = tokio::spawn(async move { while writer.write_all(&chunk).await.is_ok() {} });
    let mut answer = vec![0; 12];
    tokio::time::timeout(PATIENCE, reader.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(answer, b"HTTP/1.1 413");
    drop(reader);
    tokio::time::timeout(PATIENCE, flood).await.unwrap().unwrap();
    server.stop().await;
}

#[tokio::test]
async fn the_socket_is_closed_to_others() {
    let server = Server::start().await;
    let mode = std::fs::metadata(server.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o007, 0, "{mode:o}");
    let error = http::bind_unix(server.socket()).unwrap_err();
    assert!(matches!(error, http::BindError::InUse { .. }), "{error}");
    server.stop().await;
}

/// A user who got hold of the socket all the same (somebody opened its mode) is told so and may do nothing.
#[tokio::test]
async fn strangers_may_do_nothing() {
    if !rustix::process::geteuid().is_root() {
        skipped::tell("strangers_may_do_nothing", "only root can ask as somebody else");
        return;
    }
    let server = Server::start().await;
    let output = as_nobody(&server, "limits::as_a_stranger").await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(server.connect().await.get("/api/v1/jobs").await.json()["jobs"], json!([]), "nothing was queued");
    server.stop().await;
}

/// The other half of the test above, run by it as another user.
#[tokio::test]
async fn as_a_stranger() {
    let Some(socket) = std::env::var_os(STRANGER) else { return };
    let mut client = Connection::unix(socket.as_ref()).await;
    client.post("/api/v1/jobs", &json!({"shell": "true"})).await.expect_problem(403, None, "not in the group");
    client.get("/api/v1/jobs").await.expect_problem(403, None, "ask an administrator");
}

/// One user of many connections is told to end some; others, and root above all, are served as before. It used to be that
/// whoever could connect could take all places.
#[tokio::test]
async fn no_user_can_hold_all_connections() {
    if !rustix::process::geteuid().is_root() {
        skipped::tell("no_user_can_hold_all_connections", "only root can ask as somebody else");
        return;
    }
    let server = Server::start().await;
    let output = as_nobody(&server, "limits::as_a_user_who_holds_connections").await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let mut all = Vec::new();
    for _ in 0..=http::USER_CONNECTIONS_MAX {
        let mut client = server.connect().await;
        assert_eq!(client.get("/livez").await.status, 200, "who owns the daemon has no quota");
        all.push(client);
    }
    drop(all);
    server.stop().await;
}

/// The other half of the test above.
#[tokio::test]
async fn as_a_user_who_holds_connections() {
    let Some(socket) = std::env::var_os(STRANGER) else { return };
    let mut held = Vec::new();
    for _ in 0..http::USER_CONNECTIONS_MAX {
        let mut client = Connection::unix(socket.as_ref()).await;
        // An answer says that it is counted. A stranger's is a refusal: their connections count as well.
        assert_eq!(client.get("/livez").await.status, 403);
        held.push(client);
    }
    // Without a word from us: nothing is waited for.
    let mut late = UnixStream::connect(&socket).await.unwrap();
    let mut text = String::new();
    tokio::time::timeout(PATIENCE, late.read_to_string(&mut text)).await.unwrap().unwrap();
    assert!(text.starts_with("HTTP/1.1 429") && text.contains("retry-after: 1\r\n"), "{text}");
    assert!(text.contains("urn:ci-runner:problem:too-many-connections") && text.contains("128 connections"), "{text}");
    let output = ci_runner(&socket, &["list"]).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "a client of ours understands: {said}");
    assert!(said.contains("the most that one user may have") && said.contains("try again in 1 s"), "{said}");
    drop(held.pop());
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while ci_runner(&socket, &["list"]).await.status.code() == Some(2) {
        assert!(tokio::time::Instant::now() < deadline, "the place was not given back");
    }
}

async fn ci_runner(socket: &std::ffi::OsStr, words: &[&str]) -> std::process::Output {
    let program = std::env::var_os(PROGRAM).unwrap();
    tokio::process::Command::new(program).args(words).arg("--socket").arg(socket).output().await.unwrap()
}

/// Runs a test of this program as somebody in no group of ours, who got hold of the socket.
async fn as_nobody(server: &Server, test: &str) -> std::process::Output {
    let open = |path: &std::path::Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    for path in [server.dir(), &server.dir().join("run")] {
        open(path, 0o755);
    }
    open(server.socket(), 0o666);
    let (tests, program) = (server.dir().join("ask"), server.dir().join("ci-runner"));
    for (from, to) in [(std::env::current_exe().unwrap(), &tests), (env!("CARGO_BIN_EXE_ci-runner").into(), &program)] {
        std::fs::copy(from, to).unwrap();
        open(to, 0o755);
    }
    let mut asking = tokio::process::Command::new(&tests);
    asking.args(["--exact", test]).env(STRANGER, server.socket()).env(PROGRAM, &program).current_dir("/");
    asking.gid(NOBODY).uid(NOBODY).output().await.unwrap()
}

/// The end: idle connections and streams are closed, and nothing is left to wait for.
#[tokio::test]
async fn the_end_is_orderly() {
    let mut server = Server::start().await;
    let mut idle = server.connect().await;
    assert_eq!(idle.get("/livez").await.status, 200);
    let mut streaming = server.connect().await;
    let stream = streaming.open("GET", "/api/v1/events", &[], "").await.unwrap();
    let socket = server.socket().to_owned();
    tokio::time::timeout(Duration::from_secs(10), server.end()).await.expect("it ends");
    drop(stream);
    assert!(UnixStream::connect(&socket).await.is_err(), "nobody answers any more");
    let gone = tokio::time::timeout(PATIENCE, idle.open("GET", "/livez", &[], "")).await.unwrap();
    assert!(gone.is_err());
    server.restart_after_end().await;
    server.stop().await;
}

#[tokio::test]
async fn the_daemons_figures_are_served_on_the_socket() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let answer = client.get("/metrics").await;
    assert_eq!((answer.status, &answer.bytes[..]), (200, &b"ci_runner_build_info 1\n"[..]));
    assert_eq!(answer.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    let accept = [("accept", "application/openmetrics-text;version=1.0.0,text/plain;q=0.5")];
    let answer = client.ask("GET", "/metrics", &accept, "").await;
    assert_eq!(answer.header("content-type"), "application/openmetrics-text; version=1.0.0; charset=utf-8");
    server.stop().await;
}
