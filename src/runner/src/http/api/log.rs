//! The log of an attempt: raw bytes, or one object per line; whole, from a place on, or followed to its end.
//!
//! An offset is a cursor that holds over restarts of daemon and client: who has received `n` bytes from offset `o` goes on at
//! `o + n`. A stream that ends in order is complete; one that the daemon had to cut (it is restarting) ends with a broken
//! transfer, so that the two can be told apart.

use super::watch::Watch;
use crate::api::{LineView, Problem};
use crate::http::answers::{Failed, Invalid, PROBLEM, Served};
use crate::http::extract::{Id, Numbers, Params, blocking};
use crate::http::{App, Fail};
use crate::joblog;
use crate::store::AttemptRow;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use ci_runner_core::id::JobId;
use ci_runner_core::state::Phase;
use ci_runner_spawner::joblog::{Earlier, LogReader, log_path};
use futures_util::stream::try_unfold;
use rustix::fs::{Mode, OFlags};
use serde::Deserialize;
use utoipa::IntoParams;

mod follow;
mod growth;
mod lines;
mod range;

use follow::{Follow, Shape};
pub(super) use lines::next_line_view;

/// Header that names the attempt.
const ATTEMPT: &str = "ci-runner-attempt";
/// Header that tells at which offset the body begins.
const OFFSET: &str = "ci-runner-log-offset";
/// Most lines of `tail`; more than anybody reads, and it bounds the reading backwards.
const TAIL_MAX: u64 = 10_000_000;

/// Which part of the log. At most one of `offset`, `tail` and `since`.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(crate) struct LogParams {
    /// Number of the attempt; the last one that ran.
    attempt: Option<u32>,
    /// From this byte on.
    offset: Option<u64>,
    /// The last so many lines.
    tail: Option<u64>,
    /// From the first line that is not older: RFC 3339, a local time or date, or an age such as `10m`.
    since: Option<String>,
    /// Up to the first line that is not older; not with `follow` or `tail`.
    until: Option<String>,
    /// Goes on until the attempt has ended; waits for one that is still to come while the job is open.
    follow: Option<bool>,
    /// `raw` (bytes as they are) or `ndjson`.
    format: Option<String>,
}

impl Numbers for LogParams {
    const NUMBERS: &'static [(&'static str, u64, u64)] =
        &[("attempt", 1, u32::MAX as u64), ("offset", 0, u64::MAX), ("tail", 0, TAIL_MAX)];
}

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    Offset(u64),
    Tail(u64),
    /// Milliseconds since 1970.
    Since(i64),
}

/// A checked request.
#[derive(Clone, Debug)]
struct Wanted {
    attempt: Option<u32>,
    start: Start,
    /// Milliseconds since 1970.
    until: Option<i64>,
    follow: bool,
    shape: Shape,
    /// All of it is asked for, as it is: then a part may be too.
    whole: bool,
}

/// The log of one attempt. Followed, it ends when the attempt has ended and every byte was sent.
#[utoipa::path(get, path = "/jobs/{id}/log", tag = "jobs", operation_id = "job_log",
    params(("id" = u64, Path), LogParams,
        ("Range" = Option<String>, Header, description = "One range of bytes; not with `offset`, `tail`, `since`, `until`, `follow` or `ndjson`"),
        ("If-Range" = Option<String>, Header, description = "The part only if the log still has this `ETag`, else all of it"),
        ("If-None-Match" = Option<String>, Header, description = "304 if the log still has this `ETag`")),
    responses(Served,
        (status = 200, description = "Bytes, or with `format=ndjson` one `LineView` a line. The whole log as bytes has `ETag`, `Accept-Ranges` and `Content-Length`",
            headers(("CI-Runner-Attempt" = u32, description = "Which attempt"),
                ("CI-Runner-Log-Offset" = u64, description = "Offset of the first byte; with the bytes received it is the cursor to go on")),
            content((String = "application/octet-stream"), (LineView = "application/x-ndjson"))),
        (status = 206, body = String, content_type = "application/octet-stream",
            headers(("Content-Range" = String, description = "Which bytes, and of how many")),
            description = "The part that `Range` asks for"),
        (status = 304, description = "It has not grown"),
        (status = 416, body = Problem, content_type = PROBLEM, description = "The log has no such bytes; `Content-Range` tells how many it has"),
        (status = 400, response = Invalid),
        (status = 404, body = Problem, content_type = PROBLEM, description = "No such job or attempt"),
        (status = 410, body = Problem, content_type = PROBLEM, description = "The log was removed"),
        (status = 500, response = Failed)))]
pub(crate) async fn log(
    State(app): State<App>,
    Id(id): Id,
    headers: HeaderMap,
    Params(params): Params<LogParams>,
) -> Result<Response, Fail> {
    let wanted = check(params)?;
    let place = if wanted.follow { Some(app.stream_place()?) } else { None };
    let mut watch = Watch::new(app.context.handle.news(), id);
    let attempt = choose(&app, id, &wanted, &mut watch).await?;
    let number = attempt.number.0;
    let dir = app.context.log_dir.clone();
    let (start, until, follow) = (wanted.start, wanted.until, wanted.follow);
    let claimed = attempt.claimed.0;
    let mut opened = blocking(move || open(&dir, id, &attempt, (start, until), follow)).await?;
    let shape = wanted.shape;
    let part = if wanted.whole {
        let tag = range::tag(id.get(), number, claimed, opened.end);
        Some(match range::answer(&headers, &tag, opened.end) {
            Ok(part) => part,
            Err(other) => return Ok(*other),
        })
    } else {
        None
    };
    if let Some(part) = &part {
        (opened.offset, opened.end) = (part.begin, part.end);
    }
    let offset = opened.offset;
    let stream = Follow::new(app, id, number, opened, shape, wanted.follow.then_some(watch));
    let pieces = try_unfold((stream, place), |(stream, place)| async {
        let piece = stream.next().await?;
        Ok::<_, std::io::Error>(piece.map(|(bytes, stream)| (bytes, (stream, place))))
    });
    let mut response = Body::from_stream(pieces).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(shape.content_type()));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(ATTEMPT, HeaderValue::from(number));
    headers.insert(OFFSET, HeaderValue::from(offset));
    if let Some(part) = part {
        part.describe(&mut response);
    }
    Ok(response)
}

fn check(params: LogParams) -> Result<Wanted, Fail> {
    let (since, until) = super::times(params.since.as_deref(), params.until.as_deref(), &super::zoned_now())?;
    let start = match (params.offset, params.tail, since) {
        (None, None, None) => Start::Offset(0),
        (Some(offset), None, None) => Start::Offset(offset),
        (None, Some(lines), None) if lines <= TAIL_MAX => Start::Tail(lines),
        (None, Some(lines), None) => return Err(Fail::field("tail", format!("{lines} lines, at most {TAIL_MAX}"))),
        (None, None, Some(at)) => Start::Since(at.0),
        (_, Some(_), _) => return Err(Fail::field("tail", "give one of offset, tail and since")),
        (_, None, _) => return Err(Fail::field("since", "give one of offset, tail and since")),
    };
    let shape = match params.format.as_deref() {
        None | Some("raw") => Shape::Raw,
        Some("ndjson") => Shape::Lines,
        Some(other) => return Err(Fail::field("format", format!("{other:?} is no format; known are raw, ndjson"))),
    };
    if params.attempt == Some(0) {
        return Err(Fail::field("attempt", "0 is no attempt; attempts begin with 1"));
    }
    let follow = params.follow.unwrap_or(false);
    let until = until.map(|at| at.0);
    if until.is_some() && (follow || params.tail.is_some()) {
        return Err(Fail::field("until", "goes neither with follow nor with tail"));
    }
    let from_the_first = params.offset.is_none() && params.tail.is_none() && params.since.is_none();
    let whole = from_the_first && until.is_none() && !follow && shape == Shape::Raw;
    Ok(Wanted { attempt: params.attempt, start, until, follow, shape, whole })
}

/// The attempt whose log is wanted. A follower waits for one that is still to come.
async fn choose(app: &App, id: JobId, wanted: &Wanted, watch: &mut Watch) -> Result<AttemptRow, Fail> {
    let none = |why: String| Err(Fail::new(StatusCode::NOT_FOUND, "no-attempt", why));
    loop {
        let reader = app.context.handle.reader.clone();
        let (row, attempts) = blocking(move || {
            let row = reader.job(id)?.ok_or_else(|| Fail::no_job(id))?;
            Ok::<_, Fail>((row, reader.attempts(id)?))
        })
        .await?;
        let tried = |attempt: &&AttemptRow| !attempt.released;
        let found = match wanted.attempt {
            Some(number) => attempts.iter().find(|attempt| attempt.number.0 == number),
            None => attempts.iter().rfind(tried),
        };
        if let Some(attempt) = found {
            return Ok(attempt.clone());
        }
        match wanted.attempt {
            Some(number) if row.phase == Phase::Finished || number <= row.attempt || !wanted.follow => {
                return none(format!("job {id} has no attempt {number}; its last is {}", row.attempt));
            }
            None if row.phase == Phase::Finished => return none(format!("job {id} was never tried: it has no log")),
            None if !wanted.follow => {
                return none(format!("job {id} was not tried yet; with follow=true the first attempt is waited for"));
            }
            Some(_) | None => {}
        }
        let shutdown = app.shutdown.clone();
        tokio::select! {
            () = shutdown.cancelled() => return Err(Fail::busy("the daemon is going away; try again", 1)),
            changed = watch.changed() => if changed.is_err() {
                return Err(Fail::busy("the daemon is going away; try again", 1));
            },
        }
    }
}

/// A log at its beginning.
struct Opened {
    reader: LogReader,
    /// Where the body begins.
    offset: u64,
    /// Where it ends, unless followed: what is there now.
    end: u64,
    path: std::path::PathBuf,
}

/// Which log is an attempt's.
pub(super) fn log_of(id: JobId, attempt: &AttemptRow) -> joblog::Of {
    let earlier = match attempt.receipt.as_ref().map(|receipt| receipt.log_bytes) {
        Some(0) => Earlier::Others,
        Some(_) => Earlier::Own,
        None => Earlier::Since(attempt.claimed.0),
    };
    let start_wall_ms = attempt.started.unwrap_or(attempt.claimed).0;
    joblog::Of { job: id.get(), attempt: attempt.number.0, start_wall_ms, earlier }
}

fn open(
    dir: &std::path::Path,
    id: JobId,
    attempt: &AttemptRow,
    (start, until): (Start, Option<i64>),
    follow: bool,
) -> Result<Opened, Fail> {
    let failed = |error: &dyn std::error::Error| Fail::internal(&format!("read the log of job {id}"), error);
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY;
    let fd = rustix::fs::open(dir, flags, Mode::empty()).map_err(|error| failed(&error))?;
    let opened = joblog::open(fd, log_of(id, attempt));
    let mut reader = opened.map_err(|error| failed(&error))?;
    let mut end = reader.size().map_err(|error| failed(&error))?;
    let kept = attempt.receipt.as_ref().map_or(0, |receipt| receipt.log_bytes);
    if end == 0 && kept > 0 {
        let why = format!("the log of attempt {} of job {id} ({kept} bytes) was removed", attempt.number);
        return Err(Fail::new(StatusCode::GONE, "log-gone", why));
    }
    if let Some(until) = until {
        reader.seek_since(until).map_err(|error| failed(&error))?;
        end = end.min(reader.offset());
    }
    match start {
        Start::Offset(offset) if offset > end && !follow => {
            return Err(Fail::field("offset", format!("{offset}; the log has {end} bytes: give at most that")));
        }
        Start::Offset(offset) => reader.seek(offset),
        Start::Tail(lines) => reader.seek_tail(lines),
        Start::Since(wall_ms) => reader.seek_since(wall_ms),
    }
    .map_err(|error| failed(&error))?;
    let offset = reader.offset();
    Ok(Opened { reader, offset, end, path: dir.join(log_path(id.get(), attempt.number.0)) })
}
