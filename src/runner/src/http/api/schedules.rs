//! Schedules: cron-like jobs. The loop makes their jobs; here they are added, shown and removed.

use super::act::{Nothing, deed_key, known_deed};
use super::jobs::submitted_one;
use super::{wall_now, zoned_now};
use crate::api::{JobRequest, Problem, ScheduleRequest, ScheduleView, SubmittedOne};
use crate::config::{schedule_job_fault, schedule_name_fault};
use crate::cron::{CronSchedule, Missed, Overlap};
use crate::daemon::engine::DECLARED;
use crate::http::answers::{Committed, Declared, Invalid, KeyReused, NoSchedule, PROBLEM, Read, SchedulesFull, Sent};
use crate::http::extract::{Body, Caller, Name, blocking, in_time, large_json, own_answer};
use crate::http::{App, Fail};
use crate::quantity::rfc3339_utc;
use crate::request::{new_job, read_schedule};
use crate::store::ScheduleRow;
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use ci_runner_core::time::WallTime;
use jiff::tz::TimeZone;

/// Most bytes of a schedule's job as JSON: command and environment, which are nearly all of it, have less.
const REQUEST_BYTES_MAX: usize = 1024 * 1024;

/// Reads a valid row, beside the threads that answer: to find that a calendar never fires takes a while. `named` is the name that it
/// must have.
async fn row_in(body: Body, named: Option<String>, by: String, app: &App) -> Result<ScheduleRow, Fail> {
    let app = app.clone();
    blocking(move || {
        // With its share, whether or not the client is still there.
        let body = body;
        let request = read_schedule(&body.bytes)?;
        match named.filter(|name| request.name != *name) {
            Some(name) => Err(Fail::field("name", format!("{:?} is not the {name:?} of the path", request.name))),
            None => row_of(request, by, &app),
        }
    })
    .await
}

/// A valid row. Runs are due from now on.
fn row_of(request: ScheduleRequest, by: String, app: &App) -> Result<ScheduleRow, Fail> {
    if let Some(why) = schedule_name_fault(&request.name) {
        return Err(Fail::field("name", why));
    }
    let refuse = |field: &str, why: String| Fail::field(field, why);
    if let Some(Err(_)) = request.timezone.as_deref().map(TimeZone::get) {
        let name = request.timezone.unwrap_or_default();
        return Err(refuse("timezone", format!("{name:?} is no time zone; write a name like Europe/Berlin or UTC")));
    }
    let cron = CronSchedule::parse(&request.calendar, request.timezone.as_deref())
        .map_err(|error| refuse("calendar", error.to_string()))?;
    // The zone is kept by name: the schedule stays what it is when the host's zone changes.
    let Some(zone) = request.timezone.as_deref().or(cron.time_zone_name()) else {
        return Err(Fail::field(
            "timezone",
            "the host's time zone has no name; give one, such as Europe/Berlin or UTC",
        ));
    };
    let missed = request.missed.as_deref().map_or(Ok(Missed::Once), Missed::parse);
    let missed = missed.map_err(|why| refuse("missed", why))?;
    let overlap = request.overlap.as_deref().map_or(Ok(Overlap::Skip), Overlap::parse);
    let overlap = overlap.map_err(|why| refuse("overlap", why))?;
    check_job(&request.job, app)?;
    let json = serde_json::to_string(&request.job).map_err(|error| Fail::internal("keep the job", &error))?;
    if json.len() > REQUEST_BYTES_MAX {
        let why = format!("has {} bytes as JSON, at most {REQUEST_BYTES_MAX}; put data into a file", json.len());
        return Err(Fail::field("job", why));
    }
    Ok(ScheduleRow {
        name: request.name,
        calendar: cron.expression().to_owned(),
        timezone: zone.to_owned(),
        overlap: overlap.name().to_owned(),
        missed: missed.name().to_owned(),
        request: json,
        by,
        paused: None,
        after: wall_now(),
        last_job: None,
        timed_job: None,
        refused: None,
    })
}

/// The job must be one that could be submitted now, many times.
fn check_job(job: &JobRequest, app: &App) -> Result<(), Fail> {
    if let Some((field, why)) = schedule_job_fault(job) {
        return Err(Fail::field(format!("job.{field}"), why));
    }
    if !job.after.is_empty() {
        let why = "every run would wait for the same jobs, which end once; leave it out, or give the runs a group";
        return Err(Fail::field("job.after", why));
    }
    let settings = app.context.handle.settings.borrow().clone();
    match new_job(job.clone(), &settings, &zoned_now()) {
        Ok(_) => Ok(()),
        Err(fault) => Err(Fail::field(format!("job.{}", fault.field), fault.why)),
    }
}

fn view_of(row: ScheduleRow, now: WallTime) -> ScheduleView {
    let next = match (&row.paused, CronSchedule::parse(&row.calendar, Some(&row.timezone))) {
        (None, Ok(cron)) => cron.next_after(now.0.max(row.after.0)),
        _ => None,
    };
    ScheduleView {
        name: row.name,
        calendar: row.calendar,
        timezone: row.timezone,
        overlap: row.overlap,
        missed: row.missed,
        source: if row.by == DECLARED { "configuration" } else { "command" }.to_owned(),
        by: row.by,
        paused_by: row.paused,
        next_at: next.map(rfc3339_utc),
        last_job: row.last_job.map(|id| id.get()),
        refused_at: row.refused.as_ref().map(|refused| rfc3339_utc(refused.at.0)),
        refused_reason: row.refused.map(|refused| refused.why),
        job: serde_json::from_str(&row.request).unwrap_or_default(),
    }
}

/// How it looks; made beside the threads that answer, as its next time is looked for.
async fn shown(row: ScheduleRow) -> Result<Json<ScheduleView>, Fail> {
    blocking(move || Ok::<_, Fail>(Json(view_of(row, wall_now())))).await
}

async fn look_up(app: &App, name: &str) -> Result<Option<ScheduleRow>, Fail> {
    let (reader, name) = (app.context.handle.reader.clone(), name.to_owned());
    in_time(blocking(move || reader.schedule(&name))).await
}

async fn find(app: &App, name: &str) -> Result<ScheduleRow, Fail> {
    look_up(app, name).await?.ok_or_else(|| Fail::no_schedule(name))
}

async fn keep(app: &App, row: ScheduleRow, replace: bool) -> Result<ScheduleRow, Fail> {
    in_time(async { Ok(app.context.handle.schedule(row, replace).await?) }).await
}

/// All schedules, by name.
#[utoipa::path(get, path = "/schedules", tag = "schedules", operation_id = "list_schedules",
    responses(Read, (status = 200, body = Vec<ScheduleView>, description = "All schedules")))]
pub(crate) async fn list(State(app): State<App>, caller: Caller) -> Result<Response, Fail> {
    // First, while nothing is held that others wait for: whoever does not read their lists waits here.
    let own = own_answer(&app, &caller).await?;
    let reader = app.context.handle.reader.clone();
    let turn = app.schedule_lists.take().await?;
    let made = move || {
        let now = wall_now();
        let views: Vec<ScheduleView> = reader.schedules()?.into_iter().map(|row| view_of(row, now)).collect();
        let json = serde_json::to_vec(&views).map_err(|error| Fail::internal("show the schedules", &error))?;
        Ok::<_, Fail>((json, turn))
    };
    // The turn lasts until the list has its share: there is one list only that counts nowhere.
    let (json, _turn) = in_time(blocking(made)).await?;
    large_json(&app, json, own).await
}

/// Adds a schedule.
#[utoipa::path(post, path = "/schedules", tag = "schedules", operation_id = "add_schedule", request_body = ScheduleRequest,
    responses(Committed, Sent, (status = 201, body = ScheduleView, description = "Added"),
        (status = 409, body = Problem, content_type = PROBLEM, description = "One of that name is there"),
        (status = 422, response = SchedulesFull)))]
pub(crate) async fn add(State(app): State<App>, caller: Caller, body: Body) -> Result<Response, Fail> {
    let row = row_in(body, None, caller.name(), &app).await?;
    let row = keep(&app, row, false).await?;
    let location = [(header::LOCATION, format!("/api/v1/schedules/{}", row.name))];
    Ok((StatusCode::CREATED, location, shown(row).await?).into_response())
}

/// One schedule.
#[utoipa::path(get, path = "/schedules/{name}", tag = "schedules", operation_id = "show_schedule", params(("name" = String, Path)),
    responses(Read, (status = 200, body = ScheduleView, description = "The schedule"), (status = 400, response = Invalid),
        (status = 404, response = NoSchedule)))]
pub(crate) async fn show(State(app): State<App>, Name(name): Name) -> Result<Json<ScheduleView>, Fail> {
    shown(find(&app, &name).await?).await
}

/// Adds or replaces a schedule; runs are due from now on.
#[utoipa::path(put, path = "/schedules/{name}", tag = "schedules", operation_id = "replace_schedule", params(("name" = String, Path)),
    request_body = ScheduleRequest,
    responses(Committed, Sent, (status = 200, body = ScheduleView, description = "As it is now"), (status = 409, response = Declared),
        (status = 422, response = SchedulesFull)))]
pub(crate) async fn replace(
    State(app): State<App>,
    Name(name): Name,
    caller: Caller,
    body: Body,
) -> Result<Json<ScheduleView>, Fail> {
    let row = row_in(body, Some(name), caller.name(), &app).await?;
    shown(keep(&app, row, true).await?).await
}

/// Removes a schedule; jobs it made stay.
#[utoipa::path(delete, path = "/schedules/{name}", tag = "schedules", operation_id = "remove_schedule", params(("name" = String, Path)),
    responses(Committed, (status = 204, description = "Removed"), (status = 400, response = Invalid),
        (status = 404, response = NoSchedule), (status = 409, response = Declared)))]
pub(crate) async fn remove(State(app): State<App>, Name(name): Name) -> Result<StatusCode, Fail> {
    in_time(async { Ok(app.context.handle.unschedule(name).await?) }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lets a schedule make no jobs until it is resumed.
#[utoipa::path(post, path = "/schedules/{name}/pause", tag = "schedules", operation_id = "pause_schedule", params(("name" = String, Path)),
    responses(Committed, Sent, (status = 200, body = ScheduleView, description = "As it is now"),
        (status = 404, response = NoSchedule)))]
pub(crate) async fn pause(
    State(app): State<App>,
    Name(name): Name,
    caller: Caller,
    body: Body,
) -> Result<Json<ScheduleView>, Fail> {
    let Nothing {} = body.json().await?;
    let row = in_time(async { Ok(app.context.handle.pause_schedule(name, caller.name()).await?) }).await?;
    shown(row).await
}

/// Lets a paused schedule make jobs again. Runs missed meanwhile stay missed.
#[utoipa::path(post, path = "/schedules/{name}/resume", tag = "schedules", operation_id = "resume_schedule", params(("name" = String, Path)),
    responses(Committed, Sent, (status = 200, body = ScheduleView, description = "As it is now"),
        (status = 404, response = NoSchedule)))]
pub(crate) async fn resume(
    State(app): State<App>,
    Name(name): Name,
    _caller: Caller,
    body: Body,
) -> Result<Json<ScheduleView>, Fail> {
    let Nothing {} = body.json().await?;
    let row = in_time(async { Ok(app.context.handle.resume_schedule(name).await?) }).await?;
    shown(row).await
}

/// Queues the schedule's job now, beside its times; with overlap `queue` it waits for the last one. It is the schedule's last job
/// from then on.
#[utoipa::path(post, path = "/schedules/{name}/run", tag = "schedules", operation_id = "run_schedule",
    params(("name" = String, Path), ("Idempotency-Key" = Option<String>, Header,
        description = "Makes it safe to repeat: within 24 h the same key gives the same job; with another request 422.")),
    responses(Committed, Sent, (status = 201, body = SubmittedOne, description = "Queued: the job"),
        (status = 404, response = NoSchedule),
        (status = 409, body = Problem, content_type = PROBLEM,
            description = "It cannot be run: its calendar or time zone means nothing on this host any more"),
        (status = 422, response = KeyReused)))]
pub(crate) async fn run(
    State(app): State<App>,
    Name(name): Name,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Fail> {
    let Nothing {} = body.json().await?;
    let key = deed_key(&headers, "run schedule", &name)?;
    in_time(async {
        if let Some(known) = known_deed(&app, key.as_ref()).await? {
            return Ok(submitted_one(known));
        }
        let ids = app.context.handle.run_schedule(name, key, caller.submitter()).await?;
        match ids.first() {
            Some(id) => Ok(submitted_one(*id)),
            None => Err(Fail::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the job got no id")),
        }
    })
    .await
}
