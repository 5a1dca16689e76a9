//! What the host and running attempts use just now.

use super::wall_now;
use crate::api::UsageView;
use crate::http::answers::Read;
use crate::http::extract::{blocking, in_time};
use crate::http::{App, Fail};
use crate::usage::Running;
use axum::Json;
use axum::extract::State;
use ci_runner_core::state::Phase;

/// Load, memory and pressure of the host, and CPU time and memory of each running attempt. Measured when asked for.
#[utoipa::path(get, path = "/usage", tag = "host", responses(Read, (status = 200, body = UsageView, description = "As measured")))]
pub(crate) async fn usage(State(app): State<App>) -> Result<Json<UsageView>, Fail> {
    let snapshot = app.context.handle.fresh_snapshot().await;
    let under_way = |phase: Phase| matches!(phase, Phase::Running | Phase::Stopping);
    let leases = snapshot.leases.iter().filter(|lease| under_way(lease.phase));
    let running: Vec<Running> = leases.map(|lease| Running { job: lease.job.get(), attempt: lease.attempt }).collect();
    // Whoever comes meanwhile waits here, not on one of the few threads that may block.
    let mut meter = app.meter.clone().lock_owned().await;
    let measured = blocking(move || Ok::<_, Fail>(meter.measure(&running, wall_now().0)));
    Ok(Json(in_time(measured).await?))
}
