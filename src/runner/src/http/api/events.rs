//! The event stream: server-sent events (WHATWG HTML), one for each new state of a job.
//!
//! An event's id is `generation-number`. The numbers belong to one life of the daemon: who comes back with an id of another
//! life gets `event: gap`, and so does who was away for longer than facts are kept. After a gap, and at the start, a client
//! asks for states again; the stream's first id is sent before anything is missed, so: open the stream, then ask.

use super::watch::QUIET;
use crate::api::EventView;
use crate::daemon::handle::News;
use crate::http::answers::{Invalid, Served};
use crate::http::extract::{Numbers, Params};
use crate::http::{App, Fail};
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use ci_runner_core::announce::Announcement;
use ci_runner_core::record;
use futures_util::stream::unfold;
use serde::Deserialize;
use std::collections::HashSet;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use utoipa::IntoParams;

/// Comments that keep proxies and clients from giving up come this often.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// What a client is told to wait before it comes back.
const RETRY_MS: u32 = 1_000;
/// Most jobs in the filter.
const IDS_MAX: usize = 10_000;

/// Which events.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(crate) struct EventParams {
    /// Only of these jobs: `7,8`.
    id: Option<String>,
}

impl Numbers for EventParams {}

struct Stream {
    news: News,
    told: u64,
    generation: u64,
    only: Option<HashSet<u64>>,
    shutdown: CancellationToken,
    /// What is to be sent before the first fact.
    hello: Option<String>,
    quiet_until: Instant,
    /// Given back at the end.
    _place: OwnedSemaphorePermit,
}

/// New states of jobs as they are recorded. `event: job` carries an `EventView`; after `event: gap` ask for states again.
#[utoipa::path(get, path = "/events", tag = "events",
    params(EventParams, ("Last-Event-ID" = Option<String>, Header, description = "Goes on after this event")),
    responses(Served, (status = 200, body = String, content_type = "text/event-stream", description = "Server-sent events"),
        (status = 400, response = Invalid)))]
pub(crate) async fn events(
    State(app): State<App>,
    Params(params): Params<EventParams>,
    headers: HeaderMap,
) -> Result<Response, Fail> {
    let only = params.id.as_deref().map(ids_of).transpose()?;
    let place = app.stream_place()?;
    let news = app.context.handle.news();
    let generation = app.context.generation;
    let latest = news.latest();
    let mut hello = format!("retry: {RETRY_MS}\n");
    let told = match headers.get("last-event-id").map(|id| seq_of(id.as_bytes(), generation)) {
        None => latest,
        Some(Some(seq)) if seq <= latest => seq,
        Some(_) => {
            let _ = write!(hello, "event: gap\ndata: {{\"seq\":{latest}}}\n");
            latest
        }
    };
    let _ = write!(hello, "id: {generation}-{told}\n\n");
    let stream = Stream {
        news,
        told,
        generation,
        only,
        shutdown: app.shutdown.clone(),
        hello: Some(hello),
        quiet_until: Instant::now(),
        _place: place,
    };
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    let chunks = unfold(stream, |mut stream| async move {
        let chunk = stream.next().await?;
        Some((Ok::<_, Infallible>(Bytes::from(chunk)), stream))
    });
    Ok((headers, Body::from_stream(chunks)).into_response())
}

fn ids_of(list: &str) -> Result<HashSet<u64>, Fail> {
    let ids = list.split(',').map(|id| {
        let id: Option<u64> = id.parse().ok().filter(|id| *id > 0);
        id.ok_or_else(|| Fail::field("id", format!("{list:?} is no list of job ids; write it like 7,8")))
    });
    let ids = ids.collect::<Result<HashSet<u64>, Fail>>()?;
    if ids.len() > IDS_MAX {
        return Err(Fail::field(
            "id",
            format!("{} jobs, at most {IDS_MAX}; leave it out and choose yourself", ids.len()),
        ));
    }
    Ok(ids)
}

/// The number in an event id of this generation.
fn seq_of(id: &[u8], generation: u64) -> Option<u64> {
    let (life, seq) = std::str::from_utf8(id).ok()?.trim().split_once('-')?;
    (life.parse() == Ok(generation)).then(|| seq.parse().ok()).flatten()
}

impl Stream {
    /// The next bytes; None: the end.
    async fn next(&mut self) -> Option<String> {
        if let Some(hello) = self.hello.take() {
            return Some(hello);
        }
        let shutdown = self.shutdown.clone();
        tokio::select! {
            () = shutdown.cancelled() => None,
            chunk = self.facts() => chunk,
        }
    }

    async fn facts(&mut self) -> Option<String> {
        let keep_alive = Instant::now() + KEEP_ALIVE;
        loop {
            sleep_until(self.quiet_until).await;
            let left = keep_alive.saturating_duration_since(Instant::now());
            let Ok(facts) = timeout(left, self.news.after(self.told)).await else { return Some(":\n\n".to_owned()) };
            self.quiet_until = Instant::now() + QUIET;
            if facts.is_empty() {
                return None;
            }
            let mut text = String::new();
            for fact in &facts {
                self.tell(fact, &mut text);
            }
            if !text.is_empty() {
                return Some(text);
            }
        }
    }

    fn tell(&mut self, fact: &Announcement, text: &mut String) {
        let generation = self.generation;
        // Writing to a String cannot fail.
        match fact {
            Announcement::Gap(seq) => {
                self.told = *seq;
                let _ = write!(text, "event: gap\nid: {generation}-{seq}\ndata: {{\"seq\":{seq}}}\n\n");
            }
            Announcement::Job(news) => {
                self.told = news.seq;
                if self.only.as_ref().is_some_and(|only| !only.contains(&news.job.get())) {
                    return;
                }
                let data = serde_json::to_string(&view_of(news)).unwrap_or_default();
                let _ = write!(text, "event: job\nid: {generation}-{}\ndata: {data}\n\n", news.seq);
            }
        }
    }
}

fn view_of(news: &record::News) -> EventView {
    EventView {
        seq: news.seq,
        id: news.job.get(),
        state: news.phase.word().to_owned(),
        attempt: news.attempt.map(|attempt| attempt.0),
        outcome: news.outcome.as_ref().map(|outcome| outcome.word().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_belong_to_one_life() {
        assert_eq!(seq_of(b"3-17", 3), Some(17));
        assert_eq!(seq_of(b"2-17", 3), None);
        for nonsense in ["", "3", "3-", "-17", "3-x", "17"] {
            assert_eq!(seq_of(nonsense.as_bytes(), 3), None, "{nonsense}");
        }
    }

    #[test]
    fn filters_are_lists_of_ids() {
        assert_eq!(ids_of("7,8").unwrap(), HashSet::from([7, 8]));
        assert!(ids_of("7,").is_err() && ids_of("x").is_err() && ids_of("0").is_err());
    }
}
