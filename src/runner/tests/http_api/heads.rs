//! What is no request, or not a whole one: the answer is a problem document like all others, though no route was asked. It had no
//! body before.

use crate::client::{Answer, PATIENCE};
use crate::harness::Server;
use crate::schema;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

/// The head of a whole request.
const GET: &str = "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// Everything that is answered to these bytes, until the server closes the connection.
async fn said(mut stream: impl AsyncRead + AsyncWrite + Unpin, bytes: &[u8]) -> Vec<u8> {
    // It may close before it has taken all of them.
    let _ = timeout(PATIENCE, stream.write_all(bytes)).await.unwrap();
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap();
    answer
}

/// The first of the answers, and what stands behind it.
fn first(bytes: &[u8]) -> (Answer, &[u8]) {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let head = match response.parse(bytes) {
        Ok(httparse::Status::Complete(head)) => head,
        other => panic!("{other:?}: {}", String::from_utf8_lossy(bytes)),
    };
    let mut answer =
        Answer { status: response.code.unwrap(), headers: hyper::HeaderMap::new(), bytes: bytes::Bytes::new() };
    for header in response.headers {
        let name = hyper::header::HeaderName::from_bytes(header.name.as_bytes()).unwrap();
        answer.headers.insert(name, hyper::header::HeaderValue::from_bytes(header.value).unwrap());
    }
    let length: usize = answer.header("content-length").parse().unwrap();
    let (body, rest) = bytes[head..].split_at(length);
    answer.bytes = bytes::Bytes::copy_from_slice(body);
    (answer, rest)
}

/// The only answer: a problem of this kind, as the document has it.
fn expect(bytes: &[u8], status: u16, kind: &str, part: &str) {
    let (answer, rest) = first(bytes);
    answer.expect_problem(status, None, part);
    assert_eq!(answer.json()["type"], format!("urn:ci-runner:problem:{kind}"));
    assert_eq!(answer.header("connection"), "close");
    assert!(rest.is_empty(), "{}", String::from_utf8_lossy(rest));
    schema::agrees("GET", "/livez", false, &answer);
    schema::agrees("GET", "/livez", true, &answer);
}

fn unasked() -> Vec<(Vec<u8>, u16, &'static str, &'static str)> {
    let long = |bytes: usize| "x".repeat(bytes);
    let many = (0..65).map(|number| format!("X-{number}: y\r\n")).collect::<String>();
    [
        (format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", long(300_000)), 431, "head-too-large", "65536 bytes"),
        (format!("GET / HTTP/1.1\r\nHost: x\r\n{many}\r\n"), 431, "head-too-large", "more than 64 headers"),
        ("hello\r\n\r\n".to_owned(), 400, "no-http", "no request of HTTP/1.1"),
        ("{\"command\":[\"true\"]}\r\n\r\n".to_owned(), 400, "no-http", "no request of HTTP/1.1"),
        ("GET / HTTP/3.0\r\n\r\n".to_owned(), 400, "no-http", "no request of HTTP/1.1"),
        ("GET / HTTP/1.1\r\nno header\r\n\r\n".to_owned(), 400, "no-http", "no request of HTTP/1.1"),
        ("GET /<> HTTP/1.1\r\n\r\n".to_owned(), 400, "no-http", "no request of HTTP/1.1"),
        (
            "POST /api/v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n".to_owned(),
            400,
            "no-http",
            "no request of HTTP/1.1",
        ),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), 400, "no-http", "use HTTP/1.1"),
    ]
    .map(|(text, status, kind, part)| (text.into_bytes(), status, kind, part))
    .into()
}

#[tokio::test]
async fn what_is_no_request_is_told_so() {
    let server = Server::start().await;
    for (bytes, status, kind, part) in unasked() {
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
        println!("on the socket: {shown}");
        expect(&said(UnixStream::connect(server.socket()).await.unwrap(), &bytes).await, status, kind, part);
        println!("on TCP: {shown}");
        expect(&said(TcpStream::connect(server.tcp()).await.unwrap(), &bytes).await, status, kind, part);
    }
    server.stop().await;
}

/// A path that is too long for the library and a head that is too large: which of the two is found first depends on the
/// pieces in which the bytes come.
#[tokio::test]
async fn a_path_that_is_too_long_is_told_so() {
    let server = Server::start().await;
    for length in [65_535, 100_000, 300_000] {
        let bytes = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(length));
        let answer = said(UnixStream::connect(server.socket()).await.unwrap(), bytes.as_bytes()).await;
        match first(&answer).0.status {
            414 => expect(&answer, 414, "target-too-long", "longer than 65534 bytes"),
            _ => expect(&answer, 431, "head-too-large", "larger than 65536 bytes"),
        }
    }
    server.stop().await;
}

/// Behind a request that was answered, on the same connection: sent after the answer, and sent along with the request.
#[tokio::test]
async fn what_is_no_request_behind_one_is_told_so() {
    let server = Server::start().await;
    for (bytes, status, kind, part) in unasked() {
        let mut kept = UnixStream::connect(server.socket()).await.unwrap();
        kept.write_all(GET.as_bytes()).await.unwrap();
        let mut answered = Vec::new();
        while !String::from_utf8_lossy(&answered).ends_with('}') {
            assert!(timeout(PATIENCE, kept.read_buf(&mut answered)).await.unwrap().unwrap() > 0);
        }
        assert_eq!(first(&answered).0.status, 200);
        expect(&said(kept, &bytes).await, status, kind, part);
        let together = [GET.as_bytes(), &bytes].concat();
        let answers = said(UnixStream::connect(server.socket()).await.unwrap(), &together).await;
        let (answer, rest) = first(&answers);
        assert_eq!(answer.status, 200);
        expect(rest, status, kind, part);
    }
    server.stop().await;
}

/// The head was one, the body is none.
#[tokio::test]
async fn a_body_that_is_no_http_is_told_so() {
    let server = Server::start().await;
    let request = b"POST /api/v1/jobs HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nno size\r\n{}\r\n";
    let answer = said(UnixStream::connect(server.socket()).await.unwrap(), request).await;
    let (answer, rest) = first(&answer);
    answer.expect_problem(400, None, "the body broke off");
    assert!(rest.is_empty(), "{}", String::from_utf8_lossy(rest));
    server.stop().await;
}

/// Of methods and targets that no route knows the routes speak.
#[tokio::test]
async fn methods_that_nobody_knows_are_told_so() {
    let server = Server::start().await;
    for (line, status, part) in [
        ("BREW /livez", 405, "does not take BREW"),
        ("get /livez", 405, "does not take get"),
        ("BREW /nothing", 404, "openapi.json"),
        ("OPTIONS *", 404, "openapi.json"),
        ("CONNECT localhost:80", 404, "openapi.json"),
    ] {
        let request = format!("{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let answer = said(UnixStream::connect(server.socket()).await.unwrap(), request.as_bytes()).await;
        let (answer, rest) = first(&answer);
        answer.expect_problem(status, None, part);
        assert!(rest.is_empty(), "{line}");
    }
    server.stop().await;
}

/// The control of both: what a route answers goes out as it is, whatever it looks like.
#[tokio::test]
async fn a_log_that_looks_like_a_refusal_is_not_taken_for_one() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let text = "HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\n\r\n";
    let id = client.submit(&json!({"command": ["printf", "%s", text]})).await;
    client.wait_until(id, "finished").await;
    for path in [format!("/api/v1/jobs/{id}/log"), format!("/api/v1/jobs/{id}/log?follow=true")] {
        assert_eq!(&client.get(&path).await.bytes[..], text.as_bytes(), "{path}");
    }
    let refused = client.ask("DELETE", "/api/v1/jobs", &[], "").await;
    refused.expect_problem(405, None, "does not take DELETE");
    server.stop().await;
}

/// Who sent half a head is told what was waited for; who said nothing has not asked, and an answer might be taken for that to what
/// is asked next.
#[tokio::test]
async fn half_a_head_is_told_so() {
    let server = Server::start().await;
    let connect = || async { TcpStream::connect(server.tcp()).await.unwrap() };
    let (half, silent) = (connect().await, connect().await);
    let (half, silent) = tokio::join!(said(half, b"GET /livez HTTP/1.1\r\nHo"), said(silent, b""));
    expect(&half, 408, "head", "within 5 s");
    assert!(silent.is_empty(), "{}", String::from_utf8_lossy(&silent));
    let mut broken = UnixStream::connect(server.socket()).await.unwrap();
    broken.write_all(b"GET /livez").await.unwrap();
    broken.shutdown().await.unwrap();
    expect(&said(broken, b"").await, 400, "no-http", "broke off");
    server.stop().await;
}
