//! Lines of many logs that match a pattern: the newest job first, each log from its beginning.
//!
//! This file checks what is asked; [`run`] searches, on a thread of its own, and sends what it finds through a short channel.
//! That thread ends when the client goes, the daemon stops, or the limit is reached, and holds one of [`SEARCHES_MAX`] places
//! until then.

mod grep;
mod run;

use super::known::check_pool_of_logs;
use crate::api::SearchLine;
use crate::http::answers::{Failed, Invalid, NoJob, Served};
use crate::http::extract::{Numbers, Params, blocking};
use crate::http::{App, Fail};
use crate::store::{EndedFilter, Reader};
use crate::suggest::did_you_mean;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use ci_runner_core::id::JobId;
use ci_runner_core::outcome::Outcome;
use ci_runner_core::policy::Settings;
use ci_runner_core::time::WallTime;
use futures_util::stream::unfold;
use grep::Grep;
use run::Search;
use rustix::fs::{Mode, OFlags};
use serde::Deserialize;
use std::io;
use tokio::sync::mpsc;
use utoipa::IntoParams;

/// Searches at once: each keeps a processor busy.
pub(in crate::http) const SEARCHES_MAX: usize = 2;
/// When to come back where all search.
const SEARCHES_RETRY_SECONDS: u32 = 2;
/// Lines when no limit is asked for, and at most.
const LINES: usize = 1_000;
const LINES_MAX: usize = 100_000;
/// A pattern's length: nobody types more, and parsing it stays a matter of milliseconds.
const PATTERN_CHARS_MAX: usize = 1_000;
/// Jobs by id: each is looked up before the answer begins.
const IDS_MAX: usize = 1_000;
/// Pieces of the answer on their way.
const CHANNEL: usize = 8;

/// What is looked for, and where. Lists are separated by commas.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(crate) struct SearchParams {
    /// A regular expression, in the syntax of the Rust `regex` library. It matches within a line.
    #[param(required)]
    grep: String,
    /// It is a text, not an expression.
    fixed: Option<bool>,
    /// Upper and lower case are the same.
    ignore_case: Option<bool>,
    /// Only these jobs.
    job: Option<String>,
    /// Exact name, or a beginning followed by `*`.
    name: Option<String>,
    /// Pool that the job named or, if none, ran in.
    pool: Option<String>,
    /// Any of these outcomes: only finished jobs.
    outcome: Option<String>,
    /// Only lines written at or after: RFC 3339, a local time or date, or an age such as `10m`.
    since: Option<String>,
    /// Only lines written before.
    until: Option<String>,
    /// Lines, 1 to 100000; 1000.
    limit: Option<usize>,
}

impl Numbers for SearchParams {
    const NUMBERS: &'static [(&'static str, u64, u64)] = &[("limit", 1, LINES_MAX as u64)];
}

/// A checked request.
struct Wanted {
    grep: Grep,
    jobs: Vec<JobId>,
    filter: EndedFilter,
    outcomes: Vec<String>,
    since: Option<WallTime>,
    until: Option<WallTime>,
    limit: usize,
}

/// Lines of logs that match a pattern, the newest job first, and a last object that says what was searched. Without that one
/// the answer is not whole.
#[utoipa::path(get, path = "/logs", tag = "jobs", operation_id = "search_logs", params(SearchParams),
    responses(Served,
        (status = 200, body = SearchLine, content_type = "application/x-ndjson",
            description = "One `FoundView` a line, then one `SearchedView`"),
        (status = 400, response = Invalid), (status = 404, response = NoJob), (status = 500, response = Failed)))]
pub(crate) async fn search(State(app): State<App>, Params(params): Params<SearchParams>) -> Result<Response, Fail> {
    let place = app.searches.clone().try_acquire_owned().map_err(|_| {
        let why = format!("{SEARCHES_MAX} searches of logs run already, the most there may be; try again");
        Fail::busy(why, SEARCHES_RETRY_SECONDS)
    })?;
    let reader = app.context.handle.reader.clone();
    let settings = app.context.handle.settings.borrow().clone();
    let wanted = blocking(move || check(params, reader.as_ref(), &settings)).await?;
    let dir = rustix::fs::open(&app.context.log_dir, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| Fail::internal("open the directory of logs", &error))?;
    let (sender, receiver) = mpsc::channel(CHANNEL);
    let thread = tokio::task::spawn_blocking(move || Search::new(&app, wanted, dir, sender, place).run());
    let pieces = unfold(Some((receiver, thread)), async |state| {
        let (mut receiver, thread) = state?;
        match receiver.recv().await {
            Some(piece) => Some((piece, Some((receiver, thread)))),
            // One that panicked must not look like one that found nothing more.
            None => thread.await.err().map(|error| (Err(io::Error::other(error)), None)),
        }
    });
    let mut response = Body::from_stream(pieces).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

fn check(params: SearchParams, reader: &dyn Reader, settings: &Settings) -> Result<Wanted, Fail> {
    let chars = params.grep.chars().count();
    if !(1..=PATTERN_CHARS_MAX).contains(&chars) {
        let why = format!("{chars} characters; between 1 and {PATTERN_CHARS_MAX}: what is looked for");
        return Err(Fail::field("grep", why));
    }
    let grep = Grep::new(&params.grep, params.fixed.unwrap_or(false), params.ignore_case.unwrap_or(false))
        .map_err(|why| Fail::field("grep", format!("is no regular expression: {why}")))?;
    let (since, until) = super::times(params.since.as_deref(), params.until.as_deref(), &super::zoned_now())?;
    let outcomes = words(params.outcome);
    if let Some(word) = outcomes.iter().find(|word| !Outcome::WORDS.contains(&word.as_str())) {
        return Err(Fail::field("outcome", format!("{word:?} is no outcome; {}", did_you_mean(word, Outcome::WORDS))));
    }
    let limit = params.limit.unwrap_or(LINES);
    if !(1..=LINES_MAX).contains(&limit) {
        return Err(Fail::field("limit", format!("{limit}; between 1 and {LINES_MAX}")));
    }
    let jobs = jobs(params.job, reader)?;
    if let Some(pool) = &params.pool {
        check_pool_of_logs(reader, settings, pool)?;
    }
    let filter = EndedFilter { since, until: None, name: params.name, pool: params.pool };
    Ok(Wanted { grep, jobs, filter, outcomes, since, until, limit })
}

fn words(list: Option<String>) -> Vec<String> {
    list.unwrap_or_default().split(',').filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// The jobs that are named, all of which there must be.
fn jobs(list: Option<String>, reader: &dyn Reader) -> Result<Vec<JobId>, Fail> {
    let given = list.is_some();
    let words = words(list);
    if words.len() > IDS_MAX || (given && words.is_empty()) {
        return Err(Fail::field("job", format!("{} ids; between 1 and {IDS_MAX}", words.len())));
    }
    let id = |text: String| {
        let id = text.parse().ok().and_then(JobId::new);
        let id =
            id.ok_or_else(|| Fail::field("job", format!("{text:?} is no job id; ids are whole numbers from 1")))?;
        reader.job(id)?.map(|_| id).ok_or_else(|| Fail::no_job(id))
    };
    words.into_iter().map(id).collect()
}
