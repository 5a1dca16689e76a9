//! What is told: a JSON document in the shape of Standard Webhooks (`type`, `timestamp`, `data`) with an id, and a line for
//! people.

use crate::quantity::rfc3339_utc;
use serde_json::{Value, json};

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Stays the same whatever happens: who gets it twice knows by this.
    pub id: String,
    /// `job.ended`, `watch.started`, `watch.ended`, `notifier.test`.
    pub kind: String,
    /// When it happened, Unix milliseconds.
    pub at_ms: i64,
    /// For people, one line.
    pub title: String,
    /// The rest.
    pub data: Value,
}

impl Event {
    /// The document that is sent.
    pub fn body(&self) -> String {
        let Self { id, kind, at_ms, title, data } = self;
        json!({"id": id, "type": kind, "timestamp": rfc3339_utc(*at_ms), "title": title, "data": data}).to_string()
    }

    /// To try a notifier.
    pub fn test(notifier: &str, host: &str, now_ms: i64) -> Self {
        Self {
            id: format!("test-{}", uuid::Uuid::now_v7()),
            kind: "notifier.test".to_owned(),
            at_ms: now_ms,
            title: format!("{host}: a test of notifier {notifier}"),
            data: json!({"host": host, "notifier": notifier}),
        }
    }
}
