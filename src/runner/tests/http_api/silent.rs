//! Whoever has a connection and sends nothing holds nothing that others wait for.

use crate::harness::Server;
use serde_json::json;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// Less than a body may take.
const SOON: Duration = Duration::from_secs(15);

async fn begin(server: &Server, route: &str, rest: &str) -> UnixStream {
    let mut stream = UnixStream::connect(server.socket()).await.unwrap();
    let request = format!("POST /api/v1/{route} HTTP/1.1\r\nHost: localhost\r\n{rest}");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

/// A body's share was taken before a byte of it was there: two connections that kept silent held all of them, and every request without a
/// length, even without a body, waited for as much.
#[tokio::test]
async fn whoever_sends_no_body_holds_up_nobody() {
    let server = Server::start().await;
    let mut silent = Vec::new();
    for rest in ["Transfer-Encoding: chunked\r\n\r\n1\r\n[", "Content-Length: 67108864\r\n\r\n["].repeat(3) {
        silent.push(begin(&server, "jobs", rest).await);
    }
    let mut client = server.connect().await;
    assert_eq!(client.get("/livez").await.status, 200);
    let large = json!({"shell": format!("# {}", "x".repeat(100_000)), "hold": true});
    let answer = timeout(SOON, client.post("/api/v1/jobs", &large)).await.expect("it waits for nobody");
    assert_eq!(answer.status, 201, "{answer:?}");
    let mut cancel = begin(&server, "jobs/1/cancel", "\r\n").await;
    let mut head = [0; 12];
    timeout(SOON, cancel.read_exact(&mut head)).await.expect("nor does this").unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");
    // Without a length, and large.
    let text = large.to_string();
    let chunk = format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{text}\r\n0\r\n\r\n", text.len());
    let mut chunked = begin(&server, "jobs", &chunk).await;
    timeout(SOON, chunked.read_exact(&mut head)).await.expect("nor does this").unwrap();
    assert_eq!(&head, b"HTTP/1.1 201");
    drop(silent);
    server.stop().await;
}
