//! The daemon's own figures on the unix socket, for the exporter beside it.
//!
//! The text is made of a snapshot, on a thread for chores: counters are written down first, and a slow disk holds up nobody
//! but who asked.

use super::answers::{Late, Served};
use super::extract::in_time;
use super::{App, Fail};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use ci_runner_hostmetrics::Format;

/// The daemon's figures, `ci_runner_*` alone: text format 0.0.4, or OpenMetrics where `Accept` names it first.
#[utoipa::path(get, path = "/metrics", tag = "host",
    responses(Served, (status = 200, description = "Prometheus' text format, or OpenMetrics",
        content((String = "text/plain"), (String = "application/openmetrics-text"))), (status = 504, response = Late)))]
pub(super) async fn metrics(State(app): State<App>, headers: HeaderMap) -> Result<impl IntoResponse, Fail> {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let format = crate::exporter::format_of(accept);
    let render = app.context.metrics.clone();
    let text = in_time(async move {
        let made = tokio::task::spawn_blocking(move || render(format)).await;
        made.ok().and_then(Result::ok).ok_or_else(|| {
            Fail::new(StatusCode::SERVICE_UNAVAILABLE, "no-figures", "the figures could not be made".to_owned())
        })
    });
    Ok(([(header::CONTENT_TYPE, Format::content_type(format))], text.await?))
}
