//! One member of the socket's group cannot hold all of what larger bodies and answers share.

use crate::harness::Server;
use crate::skipped;
use serde_json::json;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// Names the socket for the halves of tests that run as a member.
const MEMBER: &str = "HTTP_API_TEST_MEMBER";
/// Who is in no group of ours but the one that is asked as.
const NOBODY: u32 = 65_534;
/// Less than what is held is held for.
const SOON: Duration = Duration::from_secs(20);
const CONNECTIONS: usize = 6;
/// What the other half says when it holds what it can.
const HELD: &str = "everything is held";

/// Runs a test of this program as a member, until it holds what it can; it ends when it is dropped.
async fn member(server: &Server, test: &str) -> Child {
    let open = |path: &std::path::Path| std::fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
    let tests = server.dir().join("ask");
    std::fs::copy(std::env::current_exe().unwrap(), &tests).unwrap();
    for path in [server.dir(), &server.dir().join("run"), &tests] {
        open(path);
    }
    let mut asking = Command::new(&tests);
    asking.args(["--exact", "--nocapture", test]).env(MEMBER, server.socket()).current_dir("/");
    asking.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = asking.uid(NOBODY).gid(0).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let said = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.contains(HELD) {
                return true;
            }
        }
        false
    };
    assert!(timeout(SOON, said).await.expect("it asks"), "it could not ask");
    child
}

/// Says that all is held, and holds it until the other half is done.
fn hold(held: Vec<UnixStream>) {
    println!("{HELD}");
    let _ = std::io::stdin().read_line(&mut String::new());
    drop(held);
}

async fn connect(request: &str) -> Option<UnixStream> {
    let mut stream = UnixStream::connect(std::env::var_os(MEMBER)?).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    Some(stream)
}

fn is_root(test: &str) -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        skipped::tell(test, "only root can ask as somebody else");
    }
    is_root
}

/// Two that began and went no further held all that there is for larger bodies.
#[tokio::test]
async fn no_member_holds_all_bodies() {
    if !is_root("no_member_holds_all_bodies") {
        return;
    }
    let server = Server::start().await;
    let child = member(&server, "member::as_a_member_who_sends_no_more").await;
    let large = json!({"shell": format!("# {}", "x".repeat(100_000)), "hold": true});
    let mut client = server.connect().await;
    let answer = timeout(SOON, client.post("/api/v1/jobs", &large)).await.expect("others have room");
    assert_eq!(answer.status, 201, "{answer:?}");
    drop(child);
    server.stop().await;
}

/// The other half of the test above.
#[tokio::test]
async fn as_a_member_who_sends_no_more() {
    let head = "POST /api/v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000000\r\n\r\n";
    let request = format!("{head}{}", " ".repeat(70_000));
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS {
        let Some(stream) = connect(&request).await else { return };
        held.push(stream);
    }
    hold(held);
}

/// Four lists that were not read held all that there is for large answers, and the turn to make another.
#[tokio::test]
async fn no_member_holds_all_lists_of_schedules() {
    if !is_root("no_member_holds_all_lists_of_schedules") {
        return;
    }
    let server = Server::start().await;
    let mut client = server.connect().await;
    let job = json!({"command": vec!["x".repeat(131_000); 7]});
    for number in 0..18 {
        let schedule = json!({"name": format!("s{number}"), "calendar": "yearly", "timezone": "UTC", "job": job});
        assert_eq!(client.post("/api/v1/schedules", &schedule).await.status, 201, "{number}");
    }
    let child = member(&server, "member::as_a_member_who_does_not_read").await;
    let list = timeout(SOON, client.get("/api/v1/schedules")).await.expect("others have room");
    assert_eq!(list.json().as_array().map(Vec::len), Some(18));
    drop(child);
    server.stop().await;
}

/// The other half of the test above.
#[tokio::test]
async fn as_a_member_who_does_not_read() {
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS {
        let Some(stream) = connect("GET /api/v1/schedules HTTP/1.1\r\nHost: localhost\r\n\r\n").await else { return };
        held.push(stream);
    }
    // The first list is there, the others are asked for.
    let mut head = [0; 12];
    held[0].read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");
    hold(held);
}
