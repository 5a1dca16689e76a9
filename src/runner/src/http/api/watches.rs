//! Alarms, and those who are told of them.

use super::act::Nothing;
use crate::api::{NotifierTested, NotifierView, Problem, WatchesView};
use crate::daemon::watching::NotTested;
use crate::http::answers::{Failed, PROBLEM, Read, Sent, Served};
use crate::http::extract::{Body, Name, blocking, in_time};
use crate::http::{App, Fail};
use crate::suggest::did_you_mean;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

/// What is, and lately was, not as it should be: stuck and slow jobs, failures, a queue that waits, jobs that flap.
#[utoipa::path(get, path = "/watches", tag = "host", responses(Read, (status = 200, body = WatchesView, description = "Alarms")))]
pub(crate) async fn watches(State(app): State<App>) -> Result<Json<WatchesView>, Fail> {
    let watching = app.context.watching.clone();
    Ok(Json(in_time(blocking(move || Ok::<_, Fail>(watching.watches()))).await?))
}

/// Those who are told of alarms and ends of jobs, and how that goes.
#[utoipa::path(get, path = "/notifiers", tag = "host", responses(Read, (status = 200, body = Vec<NotifierView>, description = "All notifiers")))]
pub(crate) async fn notifiers(State(app): State<App>) -> Result<Json<Vec<NotifierView>>, Fail> {
    let watching = app.context.watching.clone();
    Ok(Json(in_time(blocking(move || Ok::<_, Fail>(watching.notifiers()))).await?))
}

/// Tells a notifier of a test, once, and says how that went. Takes up to the notifier's time-out; one at a time.
#[utoipa::path(post, path = "/notifiers/{name}/test", tag = "host", params(("name" = String, Path, description = "Notifier")),
    responses(Served, Sent, (status = 200, body = NotifierTested, description = "How it went"),
        (status = 404, body = Problem, content_type = PROBLEM, description = "There is no such notifier"),
        (status = 429, body = Problem, content_type = PROBLEM, description = "Another test runs, or too many connections"),
        (status = 500, response = Failed)))]
pub(crate) async fn test(State(app): State<App>, Name(name): Name, body: Body) -> Result<Json<NotifierTested>, Fail> {
    let Nothing {} = body.json().await?;
    let watching = app.context.watching.clone();
    let tested = blocking(move || {
        watching.test(&name).map_err(|why| match why {
            NotTested::Unknown(known) => {
                let hint = did_you_mean(&name, known.iter().map(String::as_str));
                Fail::new(StatusCode::NOT_FOUND, "no-notifier", format!("there is no notifier {name:?}; {hint}"))
            }
            NotTested::Busy => {
                let why = "another test of a notifier runs; try again when it has ended";
                Fail::new(StatusCode::TOO_MANY_REQUESTS, "busy", why)
            }
        })
    });
    Ok(Json(tested.await?))
}
