//! Health, for supervisors and load balancers.
//!
//! *Live* means that the loop answers; a full disk or a lost executor is a degraded daemon, and restarting it would mend
//! nothing. *Ready* means that a submission would be taken now.

use super::extract::in_time;
use super::{App, Fail};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use ci_runner_core::id::JobId;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::timeout;
use utoipa::ToSchema;

/// A loop that does not answer within this is stuck.
const ALIVE_WITHIN: Duration = Duration::from_secs(5);
/// An answer of the loop is worth so much time: probes do not become load.
const FRESH_MS: u64 = 500;

/// One part of the daemon.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ComponentView {
    /// `ok`, or `failing`.
    pub status: String,
    /// In words, where it is failing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// Health.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct HealthView {
    /// `ok`, `degraded`, `stopping` or `dead`.
    pub status: String,
    /// Program version.
    pub version: String,
    /// The loop that decides.
    #[serde(rename = "loop")]
    pub engine: ComponentView,
    /// Where the truth is kept.
    pub store: ComponentView,
    /// What runs attempts.
    pub executor: ComponentView,
    /// What is wrong, in words.
    pub problems: Vec<String>,
}

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
    let component = |fine: bool, detail: &str| ComponentView {
        status: if fine { "ok" } else { "failing" }.to_owned(),
        detail: (!fine).then(|| detail.to_owned()),
    };
    let status = match (alive, snapshot.stopping) {
        (false, _) => "dead",
        (true, true) => "stopping",
        (true, false) if is_degraded(&snapshot) => "degraded",
        (true, false) => "ok",
    };
    HealthView {
        status: status.to_owned(),
        version: super::VERSION.to_owned(),
        engine: component(alive, &format!("no answer within {} s", ALIVE_WITHIN.as_secs())),
        store: component(!snapshot.store_failing, "the last commit failed"),
        executor: component(snapshot.executor_up, "the spawner is not connected"),
        problems: snapshot.problems.clone(),
    }
}

fn is_degraded(snapshot: &crate::daemon::handle::Snapshot) -> bool {
    !snapshot.problems.is_empty() || !snapshot.executor_up || snapshot.store_failing
}

type Health = (StatusCode, Json<HealthView>);

fn answer(fine: bool, view: HealthView) -> Health {
    (if fine { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, Json(view))
}

/// All components. 200 while the loop answers, whatever else is wrong.
#[utoipa::path(get, path = "/health", tag = "health",
    responses((status = 200, body = HealthView), (status = 503, body = HealthView, description = "the loop does not answer")))]
pub(super) async fn health(State(app): State<App>) -> Result<Health, Fail> {
    let view = in_time(async { Ok(look(&app).await) }).await?;
    Ok(answer(view.status != "dead", view))
}

/// Live: the loop answers within 5 s. Degraded is not dead.
#[utoipa::path(get, path = "/livez", tag = "health",
    responses((status = 200, body = HealthView), (status = 503, body = HealthView, description = "the loop does not answer")))]
pub(super) async fn livez(State(app): State<App>) -> Result<Health, Fail> {
    health(State(app)).await
}

/// Ready: a submission would be taken now.
#[utoipa::path(get, path = "/readyz", tag = "health",
    responses((status = 200, body = HealthView), (status = 503, body = HealthView, description = "not now")))]
pub(super) async fn readyz(State(app): State<App>) -> Result<Health, Fail> {
    let view = in_time(async { Ok(look(&app).await) }).await?;
    let ready = matches!(view.status.as_str(), "ok" | "degraded") && view.store.status == "ok";
    Ok(answer(ready, view))
}

/// Started: the loop has answered once.
#[utoipa::path(get, path = "/startupz", tag = "health",
    responses((status = 200, body = HealthView), (status = 503, body = HealthView, description = "not yet")))]
pub(super) async fn startupz(State(app): State<App>) -> Result<Health, Fail> {
    let view = in_time(async { Ok(look(&app).await) }).await?;
    Ok(answer(app.alive.once.load(Ordering::Relaxed), view))
}
