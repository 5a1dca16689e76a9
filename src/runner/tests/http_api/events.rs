//! The event stream.

use crate::client::{Connection, next_piece};
use crate::harness::Server;
use crate::schema;
use hyper::body::Incoming;
use serde_json::{Value, json};
use std::collections::VecDeque;

/// One parsed event.
#[derive(Clone, Debug, Default, PartialEq)]
struct Event {
    kind: String,
    id: String,
    data: Value,
}

struct Stream {
    body: Incoming,
    text: String,
    ready: VecDeque<Event>,
    /// The last id, as a browser keeps it.
    last_id: String,
    /// Lives as long as its body is read.
    _connection: Connection,
}

impl Stream {
    async fn open(server: &Server, query: &str, last_id: Option<&str>) -> Self {
        let mut client = server.connect().await;
        let headers: Vec<(&str, &str)> = last_id.iter().map(|id| ("Last-Event-ID", *id)).collect();
        let response = client.open("GET", &format!("/api/v1/events{query}"), &headers, "").await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let body = response.into_body();
        let (text, ready, last_id) = (String::new(), VecDeque::new(), String::new());
        let mut stream = Self { body, text, ready, last_id, _connection: client };
        while stream.last_id.is_empty() {
            assert!(stream.fill().await);
        }
        stream
    }

    async fn fill(&mut self) -> bool {
        let Some(Ok(piece)) = next_piece(&mut self.body).await else { return false };
        self.text.push_str(std::str::from_utf8(&piece).unwrap());
        while let Some(end) = self.text.find("\n\n") {
            let block: String = self.text.drain(..end + 2).collect();
            let mut event = Event::default();
            for line in block.lines() {
                match line.split_once(": ") {
                    Some(("event", kind)) => event.kind = kind.to_owned(),
                    Some(("id", id)) => id.clone_into(&mut self.last_id),
                    Some(("data", data)) => event.data = serde_json::from_str(data).unwrap(),
                    _ => {}
                }
            }
            event.id.clone_from(&self.last_id);
            if event.kind == "job" {
                schema::is_a("EventView", &event.data);
            }
            if !event.kind.is_empty() {
                self.ready.push_back(event);
            }
        }
        true
    }

    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if !self.fill().await {
                return None;
            }
        }
    }
}

async fn run(client: &mut Connection) -> u64 {
    let id = client.submit(&json!({"shell": "true"})).await;
    client.wait_until(id, "finished").await;
    id
}

#[tokio::test]
async fn states_arrive_in_order_and_a_stream_goes_on_where_it_was() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let mut stream = Stream::open(&server, "", None).await;
    let start = stream.last_id.clone();
    let id = run(&mut client).await;
    let mut events: Vec<Event> = Vec::new();
    while events.last().is_none_or(|event| event.data["state"] != "finished") {
        let event = stream.next().await.unwrap();
        assert_eq!((event.kind.as_str(), &event.data["id"]), ("job", &json!(id)));
        events.push(event);
    }
    let order = |event: &Event| {
        let state = event.data["state"].as_str().unwrap();
        ["queued", "starting", "running", "finished"].iter().position(|known| *known == state).unwrap()
    };
    assert!(order(&events[0]) == 0 && events.is_sorted_by_key(order), "{events:?}");
    assert_eq!(events.last().unwrap().data["outcome"], "succeeded");
    let seqs: Vec<u64> = events.iter().map(|event| event.data["seq"].as_u64().unwrap()).collect();
    assert!(seqs.windows(2).all(|pair| pair[1] == pair[0] + 1), "{seqs:?}");
    // From the beginning again, and from the middle.
    let mut again = Stream::open(&server, "", Some(&start)).await;
    for event in &events {
        assert_eq!(again.next().await.as_ref(), Some(event));
    }
    let mut rest = Stream::open(&server, "", Some(&events[0].id)).await;
    assert_eq!(rest.next().await.as_ref(), events.get(1));
    server.stop().await;
}

#[tokio::test]
async fn a_stream_of_another_life_begins_with_a_gap() {
    let mut server = Server::start().await;
    let mut client = server.connect().await;
    run(&mut client).await;
    let mut stream = Stream::open(&server, "", None).await;
    let last = stream.last_id.clone();
    server.restart().await;
    assert_eq!(stream.next().await, None, "the stream ended with the daemon");
    let mut stream = Stream::open(&server, "", Some(&last)).await;
    assert_eq!(stream.next().await.unwrap().kind, "gap");
    let mut stream = Stream::open(&server, "", Some("nonsense")).await;
    assert_eq!(stream.next().await.unwrap().kind, "gap");
    // What comes after the gap is whole.
    let mut client = server.connect().await;
    let id = run(&mut client).await;
    let event = stream.next().await.unwrap();
    assert_eq!((event.kind.as_str(), &event.data["id"], &event.data["state"]), ("job", &json!(id), &json!("queued")));
    server.stop().await;
}

#[tokio::test]
async fn a_filter_shows_only_its_jobs() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let mut stream = Stream::open(&server, "?id=2,7", None).await;
    run(&mut client).await;
    let second = run(&mut client).await;
    let event = stream.next().await.unwrap();
    assert_eq!((second, &event.data["id"]), (2, &json!(2)));
    client.get("/api/v1/events?id=x").await.expect_problem(400, Some("id"), "7,8");
    client.get("/api/v1/events?ids=1").await.expect_problem(400, Some("ids"), "did you mean \"id\"?");
    server.stop().await;
}
