//! What TCP answers, and what it refuses.

use crate::client::Connection;
use crate::harness::{Options, Server};

async fn connect(server: &Server) -> Connection {
    Connection::tcp(server.tcp()).await
}

#[tokio::test]
async fn tcp_answers_health_and_nothing_else() {
    let server = Server::start().await;
    let mut client = connect(&server).await;
    for path in ["/health", "/livez", "/startupz", "/readyz"] {
        let answer = client.get(path).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        assert_eq!(answer.json()["loop"]["status"], "ok", "{path}");
    }
    for path in ["/status", "/runners", "/api/v1/jobs", "/api/v1/openapi.json", "/", "/nothing", "/metrics"] {
        let answer = client.get(path).await;
        answer.expect_problem(401, None, "use the unix socket");
        assert_eq!(answer.header("www-authenticate"), "Bearer");
    }
    client.ask("POST", "/api/v1/jobs", &[], r#"{"shell":"true"}"#).await.expect_problem(401, None, "token");
    client.ask("POST", "/health", &[], "").await.expect_problem(405, None, "does not take POST");
    server.stop().await;
}

#[tokio::test]
async fn status_is_public_only_where_it_was_said() {
    let server = Server::with(Options { public_status: true, ..Options::default() }).await;
    let mut client = connect(&server).await;
    assert!(client.get("/status").await.json()["state"].is_string());
    assert_eq!(client.get("/runners").await.json().as_array().unwrap().len(), 4);
    client.get("/api/v1/status").await.expect_problem(401, None, "token");
    server.stop().await;
}

#[tokio::test]
async fn other_hosts_and_pages_are_refused() {
    let server = Server::with(Options { public_status: true, ..Options::default() }).await;
    let mut client = connect(&server).await;
    for host in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:80"] {
        client.ask("GET", "/status", &[("Host", host)], "").await.expect_problem(421, None, "`http.hosts`");
    }
    for host in ["localhost", "LOCALHOST:1", "[::1]:8080", "ci.example.org"] {
        assert_eq!(client.ask("GET", "/status", &[("Host", host)], "").await.status, 200, "{host}");
    }
    let foreign = [("Origin", "http://evil.example")];
    let answer = client.ask("GET", "/status", &foreign, "").await;
    answer.expect_problem(403, None, "other web pages");
    assert!(answer.headers.keys().all(|name| !name.as_str().starts_with("access-control")), "{answer:?}");
    let own = format!("http://{}", server.tcp());
    assert_eq!(client.ask("GET", "/status", &[("Origin", &own)], "").await.status, 200);
    server.stop().await;
}
