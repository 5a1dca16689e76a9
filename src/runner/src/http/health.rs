//! Health, for supervisors and load balancers.
//!
//! *Live* means that the loop answers; a full disk or a lost executor is a degraded daemon, and restarting it would mend
//! nothing. *Ready* means that a submission would be taken now.

use super::answers::{Late, PROBLEM, ServedOnTcp};
use super::components::components;
use super::extract::in_time;
use super::{App, Fail};
use crate::api::{ComponentView, HealthView, Problem};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use ci_runner_core::id::JobId;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::timeout;

/// A loop that does not answer within this is stuck.
const ALIVE_WITHIN: Duration = Duration::from_secs(5);
/// An answer of the loop is worth so much time: probes do not become load.
const FRESH_MS: u64 = 500;

/// When the loop answered last.
#[derive(Debug, Default)]
pub(super) struct Alive {
    /// Milliseconds after the start of the daemon, plus one; 0: never.
    answered_ms: AtomicU64,
    once: AtomicBool,
}

impl Alive {
    async fn check(&self, app: &App) -> bool {
        let elapsed = || u64::try_from(app.context.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let answered = self.answered_ms.load(Ordering::Relaxed);
        if answered > 0 && elapsed().saturating_sub(answered - 1) < FRESH_MS {
            return true;
        }
        let Some(nobody) = JobId::new(u64::MAX) else { return false };
        let alive = matches!(timeout(ALIVE_WITHIN, app.context.handle.explain(nobody)).await, Ok(Ok(_)));
        if alive {
            self.answered_ms.store(elapsed() + 1, Ordering::Relaxed);
            self.once.store(true, Ordering::Relaxed);
        }
        alive
    }
}

async fn look(app: &App) -> HealthView {
    let alive = app.alive.check(app).await;
    let snapshot = app.context.handle.snapshot();
    let engine = match alive {
        true => ComponentView::ok(),
        false => ComponentView::failing("no_answer", format!("no answer within {} s", ALIVE_WITHIN.as_secs())),
    };
    let mut parts = components(app, &snapshot);
    parts.insert("loop".to_owned(), engine.clone());
    let is_degraded = !snapshot.problems.is_empty() || parts.values().any(|part| !part.is_ok());
    let status = match (alive, snapshot.stopping) {
        (false, _) => "dead",
        (true, true) => "stopping",
        (true, false) if is_degraded => "degraded",
        (true, false) => "ok",
    };
    let part = |name: &str| parts.get(name).cloned().unwrap_or_else(ComponentView::ok);
    HealthView {
        status: status.to_owned(),
        version: super::VERSION.to_owned(),
        engine,
        store: part("store"),
        executor: part("spawners"),
        components: parts,
        problems: snapshot.problems.clone(),
    }
}

type Health = (StatusCode, Json<HealthView>);

fn answer(fine: bool, view: HealthView) -> Health {
    (if fine { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, Json(view))
}

/// All components. 200 while the loop answers, whatever else is wrong.
#[utoipa::path(get, path = "/health", tag = "health",
    responses(ServedOnTcp, (status = 200, body = HealthView, description = "The loop answers"),
        (status = 503, description = "The loop does not answer; as a problem: all connections are in use",
            content((HealthView = "application/json"), (Problem = PROBLEM))), (status = 504, response = Late)))]
pub(super) async fn health(State(app): State<App>) -> Result<Health, Fail> {
    let view = in_time(async { Ok(look(&app).await) }).await?;
    Ok(answer(view.status != "dead", view))
}

/// Live: the loop answers within 5 s. Degraded is not dead.
#[utoipa::path(get, path = "/livez", tag = "health",
    responses(ServedOnTcp, (status = 200, body = HealthView, description = "The loop answers"),
        (status = 503, description = "The loop does not answer; as a problem: all connections are in use",
            content((HealthView = "application/json"), (Problem = PROBLEM))), (status = 504, response = Late)))]
pub(super) async fn livez(State(app): State<App>) -> Result<Health, Fail> {
    health(State(app)).await
}

/// Ready: a submission would be taken now.
#[utoipa::path(get, path = "/readyz", tag = "health",
    responses(ServedOnTcp, (status = 200, body = HealthView, description = "Ready"),
        (status = 503, description = "Not now; as a problem: all connections are in use",
            content((HealthView = "application/json"), (Problem = PROBLEM))), (status = 504, response = Late)))]
pub(super) async fn readyz(State(app): State<App>) -> Result<Health, Fail> {
    let view = in_time(async { Ok(look(&app).await) }).await?;
    // A part that is merely worse than it could be refuses nobody.
    let ready = matches!(view.status.as_str(), "ok" | "degraded") && view.store.status != "failing";
    Ok(answer(ready, view))
}

/// Started: the loop has answered once.
#[utoipa::path(get, path = "/startupz", tag = "health",
    responses(ServedOnTcp, (status = 200, body = HealthView, description = "Started"),
        (status = 503, description = "Not yet; as a problem: all connections are in use",
            content((HealthView = "application/json"), (Problem = PROBLEM))), (status = 504, response = Late)))]
pub(super) async fn startupz(State(app): State<App>) -> Result<Health, Fail> {
    let view = in_time(async { Ok(look(&app).await) }).await?;
    Ok(answer(app.alive.once.load(Ordering::Relaxed), view))
}
