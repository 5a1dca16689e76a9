//! Submitting jobs and looking at them.

use super::known::{check_group, check_pool};
use super::submission::{Queued, Said, correlation, queue};
use super::{times, wall_now, zoned_now};
use crate::api::{JobList, JobView, ReasonView, Submit, Submitted, SubmittedMany, SubmittedOne, WhyView};
use crate::http::answers::{Committed, Invalid, KeyReused, NoJob, Read, Sent};
use crate::http::extract::{Body, Caller, Id, Numbers, Params, blocking, in_time};
use crate::http::view::{JobTimes, job_view, running_since, show_attempts};
use crate::http::{App, Fail, explain};
use crate::request::check_key;
use crate::store::{JobFilter, JobRow, Reader, StoreError};
use crate::suggest::did_you_mean;
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use ci_runner_core::id::JobId;
use ci_runner_core::job::{Command, Work};
use ci_runner_core::outcome::Outcome;
use ci_runner_core::state::Phase;
use ci_runner_core::time::WallTime;
use jiff::Zoned;
use jiff::tz::TimeZone;
use serde::Deserialize;
use std::sync::Arc;
use utoipa::IntoParams;

/// Name of the header that makes a submission safe to repeat.
const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// Name of the answer's header that names the correlation id of one new job.
const CORRELATION: &str = "ci-runner-correlation-id";
/// Jobs on a page unless told otherwise.
const PAGE: usize = 100;
/// Most jobs on a page.
const PAGE_MAX: usize = 1_000;
/// A page ends early once the commands and environments of its jobs have so many bytes.
const PAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Queues one job, or several: all or none. What was acknowledged is on disk.
#[utoipa::path(post, path = "/jobs", tag = "jobs", operation_id = "submit_jobs",
    params(("Idempotency-Key" = Option<String>, Header,
        description = "Makes it safe to repeat: within 24 h the same key and jobs give the same ids; with other jobs 422."),
        ("traceparent" = Option<String>, Header,
            description = "W3C trace context: its trace is the correlation id of jobs that name none. One that is not valid is ignored."),
        ("X-Request-Id" = Option<String>, Header,
            description = "The same without a valid `traceparent`: 1 to 128 letters, digits and `-_.:/+=`, else ignored.")),
    request_body(content = Submit, description = "One job, or an array of at most 100,000; 64 MiB"),
    responses(Committed, Sent,
        (status = 201, body = Submitted, description = "Queued; for an array a `SubmittedMany`",
            headers(("CI-Runner-Correlation-Id" = String, description = "Of one job, without an idempotency key"))),
        (status = 422, response = KeyReused)))]
pub(crate) async fn submit(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Fail> {
    let key = header_key(&headers)?;
    let said = Said { key, correlation: correlation(&headers) };
    let Queued { ids, correlation, many } = queue(&app, body, said, caller.submitter()).await?;
    match ids.first() {
        _ if many => {
            let ids = ids.iter().map(|id| id.get()).collect();
            Ok((StatusCode::CREATED, Json(SubmittedMany { ids })).into_response())
        }
        Some(id) => {
            let mut response = submitted_one(*id);
            response.headers_mut().extend(correlation.map(|value| (HeaderName::from_static(CORRELATION), value)));
            Ok(response)
        }
        None => Err(Fail::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the job got no id")),
    }
}

/// 201 for one job.
pub(super) fn submitted_one(id: JobId) -> Response {
    let location = [(header::LOCATION, format!("/api/v1/jobs/{id}"))];
    (StatusCode::CREATED, location, Json(SubmittedOne { id: id.get() })).into_response()
}

/// The key of the request's header, checked.
pub(super) fn header_key(headers: &HeaderMap) -> Result<Option<String>, Fail> {
    let mut keys = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(key) = keys.next() else { return Ok(None) };
    let key = key.to_str().map_err(|_| Fail::field("Idempotency-Key", "is no text of visible ASCII characters"))?;
    if keys.next().is_some() {
        return Err(Fail::field("Idempotency-Key", "is given twice; give it once"));
    }
    check_key("Idempotency-Key", key)?;
    Ok(Some(key.to_owned()))
}

/// Which jobs a list shows. Lists are separated by commas.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListParams {
    /// Any of these states: `queued,running`; also `open` for all but `finished`.
    state: Option<String>,
    /// Any of these outcomes: `failed,timed_out`.
    outcome: Option<String>,
    /// Exact name, or a beginning followed by `*`.
    name: Option<String>,
    /// Pool it names or ran in.
    pool: Option<String>,
    /// Label it requires.
    label: Option<String>,
    /// Group.
    group: Option<String>,
    /// Correlation id.
    correlation: Option<String>,
    /// Submitted at or after: RFC 3339, a local time or date, or an age such as `10m`.
    since: Option<String>,
    /// Submitted before.
    until: Option<String>,
    /// `next_cursor` of the page before.
    cursor: Option<u64>,
    /// Jobs on the page, 1 to 1000; 100.
    limit: Option<usize>,
    /// `desc` (newest first) or `asc`.
    order: Option<String>,
}

impl Numbers for ListParams {
    const NUMBERS: &'static [(&'static str, u64, u64)] = &[("cursor", 1, u64::MAX), ("limit", 1, PAGE_MAX as u64)];
}

/// Jobs, newest first. Pages hold together by job ids: no job is shown twice or left out, whatever happens meanwhile.
#[utoipa::path(get, path = "/jobs", tag = "jobs", operation_id = "list_jobs", params(ListParams),
    responses(Read, (status = 200, body = JobList, description = "A page of jobs"), (status = 400, response = Invalid)))]
pub(crate) async fn list(State(app): State<App>, Params(params): Params<ListParams>) -> Result<Json<JobList>, Fail> {
    let filter = filter_of(params, &zoned_now())?;
    let (pool, group) = match filter.cursor {
        Some(_) => (None, None),
        None => (filter.pool.clone(), filter.group.clone()),
    };
    let reader = app.context.handle.reader.clone();
    let turn = app.lists.take().await?;
    let read = move || {
        let _turn = turn;
        page(reader.as_ref(), filter)
    };
    let (rows, more) = in_time(blocking(read)).await?;
    if let Some(pool) = pool.filter(|_| rows.is_empty()) {
        check_pool(&app.context.handle.settings.borrow(), &pool)?;
    }
    if let Some(group) = group.filter(|_| rows.is_empty()) {
        check_group(&app, group).await?;
    }
    let next_cursor = rows.last().filter(|_| more).map(|row| row.id.get());
    let since = running_since(&app.context.handle.snapshot());
    let now = wall_now();
    let jobs = rows.into_iter().map(|row| {
        let since = running(&row).then(|| since.get(&row.id).copied()).flatten();
        job_view(row, since, now)
    });
    Ok(Json(JobList { jobs: jobs.collect(), next_cursor }))
}

/// The rows of a page, and whether more follow. It is cut short where the jobs are very large: a thousand of them may have a
/// gigabyte.
fn page(reader: &dyn Reader, filter: JobFilter) -> Result<(Vec<JobRow>, bool), StoreError> {
    let (mut bytes, mut more) = (0, false);
    let mut rows: Vec<JobRow> = Vec::with_capacity(filter.limit);
    // One more tells whether more follow.
    let asked = JobFilter { limit: filter.limit + 1, ..filter.clone() };
    reader.each_job(&asked, &mut |row| {
        more = rows.len() == filter.limit || bytes > PAGE_BYTES_MAX;
        if !more {
            bytes += work_bytes(&row.spec.work);
            rows.push(row);
        }
        !more
    })?;
    Ok((rows, more))
}

/// What of a job may be large, whether the list shows it or not: it was read.
fn work_bytes(work: &Work) -> usize {
    let command = match &work.command {
        Command::Argv(words) => words.iter().map(String::len).sum(),
        Command::Shell(text) => text.len(),
    };
    command + work.env.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>()
}

fn running(row: &JobRow) -> bool {
    matches!(row.phase, Phase::Running | Phase::Stopping)
}

fn filter_of(params: ListParams, now: &Zoned) -> Result<JobFilter, Fail> {
    let limit = params.limit.unwrap_or(PAGE);
    if !(1..=PAGE_MAX).contains(&limit) {
        return Err(Fail::field("limit", format!("{limit}; between 1 and {PAGE_MAX}")));
    }
    let cursor = params.cursor.map(|cursor| {
        JobId::new(cursor).ok_or_else(|| Fail::field("cursor", "0 is no cursor; give `next_cursor` of the page before"))
    });
    let (since, until) = times(params.since.as_deref(), params.until.as_deref(), now)?;
    let ascending = match params.order.as_deref() {
        None | Some("desc") => false,
        Some("asc") => true,
        Some(other) => {
            let hint = did_you_mean(other, ["asc", "desc"]);
            return Err(Fail::field("order", format!("{other:?} is no order; {hint}")));
        }
    };
    Ok(JobFilter {
        phases: phases_of(params.state.as_deref().unwrap_or_default())?,
        outcomes: outcomes_of(params.outcome.as_deref().unwrap_or_default())?,
        name: params.name,
        pool: params.pool,
        label: params.label,
        group: params.group,
        correlation: params.correlation,
        tried: false,
        since,
        until,
        cursor: cursor.transpose()?,
        ascending,
        limit,
    })
}

fn words(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').filter(|word| !word.is_empty())
}

fn phases_of(list: &str) -> Result<Vec<Phase>, Fail> {
    let mut phases = Vec::new();
    for word in words(list) {
        match Phase::from_word(word) {
            Some(phase) => phases.push(phase),
            None if word == "open" => phases.extend(Phase::ALL.into_iter().filter(|phase| *phase != Phase::Finished)),
            None => {
                let known = Phase::ALL.iter().map(|phase| phase.word()).chain(["open"]);
                return Err(Fail::field("state", format!("{word:?} is no state; {}", did_you_mean(word, known))));
            }
        }
    }
    Ok(phases)
}

fn outcomes_of(list: &str) -> Result<Vec<String>, Fail> {
    let known = |word: &str| match Outcome::WORDS.contains(&word) {
        true => Ok(word.to_owned()),
        false => {
            let hint = did_you_mean(word, Outcome::WORDS);
            Err(Fail::field("outcome", format!("{word:?} is no outcome; {hint}")))
        }
    };
    words(list).map(known).collect()
}

/// One row, or 404.
pub(super) async fn row_of(app: &App, id: JobId) -> Result<JobRow, Fail> {
    let reader = app.context.handle.reader.clone();
    blocking(move || reader.job(id)).await?.ok_or_else(|| Fail::no_job(id))
}

/// One job with its attempts and, while it is open, the reason why it is where it is.
#[utoipa::path(get, path = "/jobs/{id}", tag = "jobs", operation_id = "show_job", params(("id" = u64, Path)),
    responses(Read, (status = 200, body = JobView, description = "The job"), (status = 400, response = Invalid),
        (status = 404, response = NoJob)))]
pub(crate) async fn show(State(app): State<App>, Id(id): Id) -> Result<Json<JobView>, Fail> {
    in_time(async {
        let reader = app.context.handle.reader.clone();
        let (row, attempts) = blocking(move || both(&reader, id)).await?;
        let finished = row.phase == Phase::Finished;
        let explanation = if finished { None } else { app.context.handle.explain(id).await? };
        let now = wall_now();
        let since = attempts.last().filter(|_| running(&row)).and_then(|attempt| attempt.started);
        let timeout_ms = row.spec.work.timeout_ms;
        let times = JobTimes { started: row.started, finished: row.finished };
        let mut view = job_view(row, since, now);
        show_attempts(&mut view, &times, &attempts, now);
        let overdue = overdue(&app, since, timeout_ms, now);
        view.reason = explanation.map(|explanation| {
            let why = explain::why(id, &explanation, &TimeZone::system());
            why.reasons
                .into_iter()
                .chain(overdue)
                .chain(alarms(&app, id))
                .map(|reason| reason.text)
                .collect::<Vec<_>>()
                .join("; ")
        });
        Ok(Json(view))
    })
    .await
}

/// What the record does not know: it is the shim that keeps the hard timeout.
fn overdue(app: &App, since: Option<WallTime>, timeout_ms: Option<u64>, now: WallTime) -> Option<ReasonView> {
    let grace_ms = app.context.handle.settings.borrow().grace_ms;
    explain::overdue(u64::try_from(now.0 - since?.0).ok()?, timeout_ms?, grace_ms)
}

/// What the watches say of a job.
fn alarms(app: &App, id: JobId) -> Vec<ReasonView> {
    let board = app.context.watching.board();
    let of_job = board.active.iter().filter(|alarm| alarm.job == Some(id.get()));
    of_job.map(|alarm| ReasonView { kind: alarm.watch.clone(), text: alarm.text.clone(), jobs: Vec::new() }).collect()
}

fn both(reader: &Arc<dyn Reader>, id: JobId) -> Result<(JobRow, Vec<crate::store::AttemptRow>), Fail> {
    let row = reader.job(id)?.ok_or_else(|| Fail::no_job(id))?;
    Ok((row, reader.attempts(id)?))
}

/// Why a job does not run, every reason, the deciding one first.
#[utoipa::path(get, path = "/jobs/{id}/why", tag = "jobs", operation_id = "why_job", params(("id" = u64, Path)),
    responses(Read, (status = 200, body = WhyView, description = "Its state and the reasons"), (status = 400, response = Invalid),
        (status = 404, response = NoJob)))]
pub(crate) async fn why(State(app): State<App>, Id(id): Id) -> Result<Json<WhyView>, Fail> {
    in_time(async {
        if let Some(explanation) = app.context.handle.explain(id).await? {
            let mut why = explain::why(id, &explanation, &TimeZone::system());
            if explanation.phase == Phase::Running {
                let reader = app.context.handle.reader.clone();
                let (row, attempts) = blocking(move || both(&reader, id)).await?;
                let since = attempts.last().filter(|_| running(&row)).and_then(|attempt| attempt.started);
                why.reasons.extend(overdue(&app, since, row.spec.work.timeout_ms, wall_now()));
            }
            why.reasons.extend(alarms(&app, id));
            return Ok(Json(why));
        }
        let row = row_of(&app, id).await?;
        let outcome = row.outcome.as_ref().map_or("finished", Outcome::word);
        let view = job_view(row.clone(), None, wall_now());
        let at = view.finished_at.map(|at| format!(" at {at}")).unwrap_or_default();
        let cause = view.cause.map(|cause| format!(": {cause}")).unwrap_or_default();
        let reason = ReasonView { kind: "finished".into(), text: format!("{outcome}{at}{cause}"), jobs: Vec::new() };
        Ok(Json(WhyView { id: id.get(), state: row.phase.word().to_owned(), reasons: vec![reason] }))
    })
    .await
}
