//! One try to tell somebody, by whatever way the notifier has.

use super::{Event, Secret, mail, post, program, signature};
use crate::config::{NotifierConfig, NotifierKind};
use std::time::Duration;

/// Standard Webhooks: who answers this wants no more of it.
const GONE: u16 = 410;

/// Why a try failed, and when the next one may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// In words; no secret of ours is in it, but what a program said may hold one of its own.
    pub why: String,
    /// The peer said when.
    pub(super) retry_after: Option<Duration>,
    /// It will never be taken.
    pub(super) permanent: bool,
}

impl From<String> for Failed {
    fn from(why: String) -> Self {
        Self { why, retry_after: None, permanent: false }
    }
}

/// Whose events these are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Name of this host.
    pub host: String,
    /// Short id of the store.
    pub store: String,
}

/// Tries once to tell an event. Blocks as long as the notifier's time-out at most, beside the resolver of names.
pub fn deliver(config: &NotifierConfig, event: &Event, source: &Source, now_ms: i64) -> Result<(), Failed> {
    let timeout = config.timeout;
    let mark = (event.id.as_str(), source.store.as_str());
    match &config.kind {
        NotifierKind::Command { argv } => Ok(program::run(argv, mark, &event.body(), timeout)?),
        NotifierKind::Email { to, from, sendmail } => {
            Ok(program::run(sendmail, mark, &mail::message(to, from.as_deref(), event, &source.host), timeout)?)
        }
        NotifierKind::Http { url, secret, ca_file } => {
            let body = event.body();
            let timestamp = now_ms / 1_000;
            let mut headers = vec![("webhook-id", event.id.clone()), ("webhook-timestamp", timestamp.to_string())];
            if let Some(place) = secret {
                headers.push(("webhook-signature", signature(&Secret::read(place)?, &event.id, timestamp, &body)));
            }
            let answer = post::post(url, ca_file.as_deref(), &headers, &body, timeout)?;
            let why = match answer.status {
                200..300 => return Ok(()),
                status @ 300..400 => format!("the peer answered {status}; redirects are not followed"),
                GONE => "the peer answered 410: it wants no more of this".to_owned(),
                status => format!("the peer answered {status}"),
            };
            Err(Failed { why, retry_after: answer.retry_after, permanent: answer.status == GONE })
        }
    }
}
