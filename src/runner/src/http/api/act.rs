//! Acting on jobs that are there.

use super::jobs::{header_key, row_of, submitted_one};
use super::zoned_now;
use crate::api::{ActedView, PriorityRequest, Problem, ReasonRequest, SubmittedOne};
use crate::daemon::handle::{Action, IdempotencyKey, Target};
use crate::http::answers::{Committed, KeyReused, NoJob, PROBLEM, Sent};
use crate::http::extract::{Body, Caller, Id, blocking, in_time};
use crate::http::{App, Fail, JOBS_MAX};
use crate::request::{deed_hash, new_job, request_of};
use crate::store::StoreError;
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use ci_runner_core::id::JobId;
use ci_runner_core::job::PRIORITY_MAX;
use ci_runner_core::state::Phase;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Longest reason for a hold, a pause or a drain.
pub(super) const REASON_BYTES_MAX: usize = 1_000;

/// Which jobs to cancel: exactly one of the two.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CancelRequest {
    /// These; all of them must exist, or nothing is done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ids: Option<Vec<u64>>,
    /// Every open job.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
}

/// No fields.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

async fn act(app: &App, target: Target, action: Action, caller: &Caller) -> Result<Json<ActedView>, Fail> {
    let touches_no_attempt = matches!(action, Action::Hold { .. } | Action::Priority(_));
    let acted = app.context.handle.act(target, action, caller.name());
    let acted = in_time(async { Ok(acted.await?) }).await?;
    let mut running = Vec::new();
    if touches_no_attempt {
        let snapshot = app.context.handle.fresh_snapshot().await;
        running.extend(snapshot.leases.iter().map(|lease| lease.job).filter(|job| acted.done.contains(job)));
    }
    let numbers = |ids: Vec<JobId>| ids.into_iter().map(JobId::get).collect();
    Ok(Json(ActedView { ids: numbers(acted.done), finished: numbers(acted.finished), running: numbers(running) }))
}

pub(super) fn check_reason(reason: &str) -> Result<(), Fail> {
    let wrong = match reason.chars().find(|c| c.is_control()) {
        _ if reason.len() > REASON_BYTES_MAX => format!("has {} bytes", reason.len()),
        Some(c) => format!("holds the control character {c:?}"),
        None => return Ok(()),
    };
    Err(Fail::field("reason", format!("{wrong}; give at most {REASON_BYTES_MAX} bytes without control characters")))
}

/// Ends several jobs, or all.
#[utoipa::path(post, path = "/jobs/cancel", tag = "jobs", operation_id = "cancel_jobs", request_body = CancelRequest,
    responses(Committed, Sent, (status = 200, body = ActedView, description = "Which jobs it concerned"),
        (status = 404, response = NoJob), (status = 507, body = Problem, content_type = PROBLEM,
            description = "The disk is full; running ones may have been told to end, without a record")))]
pub(crate) async fn cancel_many(State(app): State<App>, caller: Caller, body: Body) -> Result<Json<ActedView>, Fail> {
    let request: CancelRequest = body.json().await?;
    let target = match (request.ids, request.all) {
        (Some(ids), false) if ids.len() > JOBS_MAX => {
            return Err(Fail::field("ids", format!("{} jobs, at most {JOBS_MAX}", ids.len())));
        }
        (Some(ids), false) => {
            let ids = ids.into_iter().enumerate().map(|(index, id)| {
                JobId::new(id).ok_or_else(|| Fail::field(format!("ids[{index}]"), "0 is no job; ids begin with 1"))
            });
            Target::Ids(ids.collect::<Result<_, _>>()?)
        }
        (None, true) => Target::All,
        (Some(_), true) => return Err(Fail::field("all", "stands beside `ids`; give one of them")),
        (None, false) => return Err(Fail::field("ids", "is missing; give ids as in [7, 8], or \"all\": true")),
    };
    act(&app, target, Action::Cancel, &caller).await
}

/// Ends a job: a queued one at once, a running one by SIGTERM and, after the grace, by force.
#[utoipa::path(post, path = "/jobs/{id}/cancel", tag = "jobs", operation_id = "cancel_job", params(("id" = u64, Path)),
    responses(Committed, Sent, (status = 200, body = ActedView, description = "Whether it was open"),
        (status = 404, response = NoJob), (status = 507, body = Problem, content_type = PROBLEM,
            description = "The disk is full; a running one may have been told to end, without a record")))]
pub(crate) async fn cancel(
    State(app): State<App>,
    Id(id): Id,
    caller: Caller,
    body: Body,
) -> Result<Json<ActedView>, Fail> {
    let Nothing {} = body.json().await?;
    act(&app, Target::Ids(vec![id]), Action::Cancel, &caller).await
}

/// Keeps a job in the queue until it is released; a running attempt goes on.
#[utoipa::path(post, path = "/jobs/{id}/hold", tag = "jobs", operation_id = "hold_job", params(("id" = u64, Path)), request_body = ReasonRequest,
    responses(Committed, Sent, (status = 200, body = ActedView, description = "Whether it was open, and whether it runs on"),
        (status = 404, response = NoJob)))]
pub(crate) async fn hold(
    State(app): State<App>,
    Id(id): Id,
    caller: Caller,
    body: Body,
) -> Result<Json<ActedView>, Fail> {
    let ReasonRequest { reason } = body.json().await?;
    check_reason(&reason)?;
    act(&app, Target::Ids(vec![id]), Action::Hold { reason }, &caller).await
}

/// Lets a held job go.
#[utoipa::path(post, path = "/jobs/{id}/release", tag = "jobs", operation_id = "release_job", params(("id" = u64, Path)),
    responses(Committed, Sent, (status = 200, body = ActedView, description = "Whether it was open"),
        (status = 404, response = NoJob)))]
pub(crate) async fn release(
    State(app): State<App>,
    Id(id): Id,
    caller: Caller,
    body: Body,
) -> Result<Json<ActedView>, Fail> {
    let Nothing {} = body.json().await?;
    act(&app, Target::Ids(vec![id]), Action::Release, &caller).await
}

/// Gives a queued job another priority.
#[utoipa::path(post, path = "/jobs/{id}/priority", tag = "jobs", operation_id = "prioritize_job", params(("id" = u64, Path)),
    request_body = PriorityRequest,
    responses(Committed, Sent, (status = 200, body = ActedView, description = "Whether it was open, and whether it runs already"),
        (status = 404, response = NoJob)))]
pub(crate) async fn priority(
    State(app): State<App>,
    Id(id): Id,
    caller: Caller,
    body: Body,
) -> Result<Json<ActedView>, Fail> {
    let PriorityRequest { priority } = body.json().await?;
    if !(-PRIORITY_MAX..=PRIORITY_MAX).contains(&priority) {
        return Err(Fail::field("priority", format!("{priority}; between {} and {PRIORITY_MAX}", -PRIORITY_MAX)));
    }
    act(&app, Target::Ids(vec![id]), Action::Priority(priority), &caller).await
}

/// The key of a request that makes a job from what is named in its path.
pub(super) fn deed_key(headers: &HeaderMap, verb: &str, object: &str) -> Result<Option<IdempotencyKey>, Fail> {
    Ok(header_key(headers)?.map(|key| IdempotencyKey { key, body: deed_hash(verb, object), body_before: None }))
}

/// The job that this very request made before: what it was made from may be gone since. The loop looks again before it queues
/// one, and it is the loop that tells keys used otherwise.
pub(super) async fn known_deed(app: &App, key: Option<&IdempotencyKey>) -> Result<Option<JobId>, Fail> {
    let Some(key) = key.cloned() else { return Ok(None) };
    let reader = app.context.handle.reader.clone();
    let now = app.context.handle.fresh_snapshot().await.now.engine;
    let known = blocking(move || Ok::<_, StoreError>(reader.key(&key.key, now)?.filter(|row| row.body == key.body)));
    Ok(known.await?.and_then(|row| row.jobs.first().copied()))
}

/// Queues a new job with the specification of a finished one, ready at once: `after`, `at`, `in` and `hold` are left out,
/// `expires` counts anew. Refused where secrets were used: their values are gone.
#[utoipa::path(post, path = "/jobs/{id}/retry", tag = "jobs", operation_id = "retry_job",
    params(("id" = u64, Path), ("Idempotency-Key" = Option<String>, Header,
        description = "Makes it safe to repeat: within 24 h the same key gives the same new job; with another request 422.")),
    responses(Committed, Sent, (status = 201, body = SubmittedOne, description = "Queued: the new job"),
        (status = 404, response = NoJob),
        (status = 409, body = Problem, content_type = PROBLEM, description = "It is still open, or had secrets"),
        (status = 422, response = KeyReused)))]
pub(crate) async fn retry(
    State(app): State<App>,
    Id(id): Id,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Fail> {
    let Nothing {} = body.json().await?;
    let key = deed_key(&headers, "retry", &id.to_string())?;
    in_time(async {
        if let Some(known) = known_deed(&app, key.as_ref()).await? {
            return Ok(submitted_one(known));
        }
        let row = row_of(&app, id).await?;
        if row.phase != Phase::Finished {
            let state = row.phase.word();
            let why = format!("job {id} is {state}; wait for its end or cancel it, then retry");
            return Err(Fail::new(StatusCode::CONFLICT, "open", why));
        }
        if !row.spec.work.secrets.is_empty() {
            let names = row.spec.work.secrets.join(", ");
            let why = format!(
                "job {id} used secrets ({names}) and their values were deleted at its end; submit it again with `ci-runner add`"
            );
            return Err(Fail::new(StatusCode::CONFLICT, "secrets-gone", why));
        }
        let mut request = request_of(&row.spec, row.submitted);
        // What it waited for has ended; how decides no more, and the store may have forgotten it.
        request.after.clear();
        (request.at, request.delay, request.hold) = (None, None, false);
        let settings = app.context.handle.settings.borrow().clone();
        let job = new_job(request, &settings, &zoned_now())?;
        let ids = app.context.handle.submit(vec![job], key, caller.submitter()).await?;
        match ids.first() {
            Some(id) => Ok(submitted_one(*id)),
            None => Err(Fail::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the job got no id")),
        }
    })
    .await
}
