//! The host: capacity, pause, backup.

use super::act::{Nothing, check_reason};
use super::wall_now;
use crate::api::{
    BackupRequest, GroupInfo, JobCounts, PauseView, PoolInfo, ReasonRequest, RunnerInfo, SlotCounts, StatusView,
};
use crate::config::Executor;
use crate::daemon::engine::{Collected, Control};
use crate::daemon::gauges;
use crate::daemon::handle::{Refusal, Snapshot};
use crate::http::answers::{Committed, DiskFull, Failed, NoToken, Sent, Served, ServedOnTcp};
use crate::http::extract::{Body, Caller, blocking, in_time};
use crate::http::{App, Fail};
use crate::quantity::rfc3339_utc;
use crate::store::{BackupFile, StoreError};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use ci_runner_core::state::Phase;
use ci_runner_core::time::Instant;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use tokio::sync::oneshot;
use utoipa::ToSchema;

/// Seconds from an engine time to this moment. The snapshot may be old when nothing happens: the wall clock says how old.
fn age_seconds(snapshot: &Snapshot, since: Instant) -> f64 {
    let stale_ms = u64::try_from(wall_now().0.saturating_sub(snapshot.now.wall.0)).unwrap_or(0);
    snapshot.now.engine.since_ms(since).saturating_add(stale_ms) as f64 / 1e3
}

/// Pools with their slots.
#[utoipa::path(get, path = "/pools", tag = "host", responses(Served, (status = 200, body = Vec<PoolInfo>, description = "All pools")))]
pub(crate) async fn pools(State(app): State<App>) -> Json<Vec<PoolInfo>> {
    let snapshot = app.context.handle.fresh_snapshot().await;
    let view = |pool: &ci_runner_core::record::PoolView| PoolInfo {
        name: pool.name.clone(),
        executor: snapshot.executors.get(&pool.name).copied().unwrap_or(Executor::Native).name().to_owned(),
        slots: pool.slots,
        used: pool.used,
        labels: pool.labels.iter().map(|label| label.as_str().to_owned()).collect(),
        queued: snapshot.counts.get(&pool.name).map_or(0, |counts| counts.queued as u64),
    };
    Json(snapshot.pools.iter().map(view).collect())
}

/// Concurrency groups with open jobs.
#[utoipa::path(get, path = "/groups", tag = "host", responses(Served, (status = 200, body = Vec<GroupInfo>, description = "Groups with open jobs")))]
pub(crate) async fn groups(State(app): State<App>) -> Json<Vec<GroupInfo>> {
    let snapshot = app.context.handle.fresh_snapshot().await;
    let view = |group: &ci_runner_core::record::GroupView| GroupInfo {
        name: group.name.clone(),
        limit: group.limit,
        holders: group.holders.iter().map(|id| id.get()).collect(),
        waiting: group.waiting as u64,
        open: group.open as u64,
    };
    Json(snapshot.groups.iter().map(view).collect())
}

/// Places in pools and what runs there.
#[utoipa::path(get, path = "/runners", tag = "host", responses(Served, (status = 200, body = Vec<RunnerInfo>, description = "All places")))]
pub(crate) async fn runners(State(app): State<App>) -> Json<Vec<RunnerInfo>> {
    let snapshot = app.context.handle.fresh_snapshot().await;
    Json(all_runners(&snapshot))
}

/// The same as `/api/v1/runners`; on TCP only with `http_public_status`.
#[utoipa::path(get, path = "/runners", tag = "host", operation_id = "root_runners",
    responses(ServedOnTcp, (status = 200, body = Vec<RunnerInfo>, description = "All places"), (status = 401, response = NoToken)))]
pub(crate) async fn root_runners(State(app): State<App>) -> Json<Vec<RunnerInfo>> {
    runners(State(app)).await
}

fn all_runners(snapshot: &Snapshot) -> Vec<RunnerInfo> {
    let mut taken = HashMap::new();
    for lease in &snapshot.leases {
        taken.insert((lease.pool.as_str(), lease.slot), lease);
    }
    let mut runners = Vec::new();
    for pool in &snapshot.pools {
        // A claim made ahead, or a pool made smaller, has places beyond the slots.
        let beyond =
            taken.keys().filter(|(name, slot)| *name == pool.name && *slot >= pool.slots).map(|(_, slot)| *slot);
        let mut beyond: Vec<u32> = beyond.collect();
        beyond.sort_unstable();
        for slot in (0..pool.slots).chain(beyond) {
            let lease = taken.get(&(pool.name.as_str(), slot));
            let state = lease.map_or("idle", |lease| match lease.phase {
                Phase::Queued | Phase::Finished => "idle",
                phase @ (Phase::Starting | Phase::Running | Phase::Stopping) => phase.word(),
            });
            runners.push(RunnerInfo {
                pool: pool.name.clone(),
                slot,
                state: state.to_owned(),
                job: lease.map(|lease| lease.job.get()),
                attempt: lease.map(|lease| lease.attempt),
                run_seconds: lease.map(|lease| age_seconds(snapshot, lease.since)),
            });
        }
    }
    runners
}

/// The host at a glance.
#[utoipa::path(get, path = "/status", tag = "host", responses(Served, (status = 200, body = StatusView, description = "The host")))]
pub(crate) async fn status(State(app): State<App>) -> Json<StatusView> {
    let snapshot = app.context.handle.fresh_snapshot().await;
    let mut components = crate::http::components::components(&app, &snapshot);
    components.retain(|_, part| !part.is_ok());
    let degraded = !snapshot.problems.is_empty() || !components.is_empty();
    let state = match &snapshot.paused {
        _ if snapshot.stopping => "stopping",
        _ if degraded => "degraded",
        Some(pause) if pause.drain => "draining",
        Some(_) => "paused",
        None => "running",
    };
    let used = snapshot.pools.iter().map(|pool| pool.used).sum();
    let total = snapshot.pools.iter().map(|pool| pool.slots).sum();
    Json(StatusView {
        version: crate::http::VERSION.to_owned(),
        state: state.to_owned(),
        problems: snapshot.problems.clone(),
        jobs: job_counts(&snapshot),
        slots: SlotCounts { used, total },
        oldest_queued_seconds: snapshot.oldest_waiting.map(|since| age_seconds(&snapshot, since)),
        paused: snapshot.paused.as_ref().map(|pause| PauseView {
            by: pause.by.clone(),
            reason: pause.reason.clone(),
            since: rfc3339_utc(pause.since.wall.0),
            drain: pause.drain,
        }),
        busy: snapshot.busy.iter().map(gauges::words).collect(),
        watches: app.context.watching.board().active.clone(),
        components,
        uptime_seconds: app.context.started.elapsed().as_secs_f64(),
        pid: std::process::id(),
        generation: app.context.generation,
        state_dir: Some(app.context.state_dir.display().to_string()),
        runtime_dir: Some(app.context.places.runtime_dir.display().to_string()),
    })
}

fn job_counts(snapshot: &Snapshot) -> JobCounts {
    let finished = |word: &str| snapshot.finished.get(word).copied().unwrap_or(0);
    let open = snapshot.counts.values();
    JobCounts {
        queued: open.clone().map(|counts| counts.queued as u64).sum(),
        starting: open.clone().map(|counts| counts.starting as u64).sum(),
        running: open.map(|counts| (counts.starting + counts.running + counts.stopping) as u64).sum(),
        succeeded: finished("succeeded"),
        failed: finished("failed"),
        timed_out: finished("timed_out"),
        cancelled: finished("cancelled"),
        superseded: finished("superseded"),
        expired: finished("expired"),
    }
}

/// The same as `/api/v1/status`, but for the directories; on TCP only with `http_public_status`.
#[utoipa::path(get, path = "/status", tag = "host", operation_id = "root_status",
    responses(ServedOnTcp, (status = 200, body = StatusView, description = "The host"), (status = 401, response = NoToken)))]
pub(crate) async fn root_status(State(app): State<App>) -> Json<StatusView> {
    let Json(status) = status(State(app)).await;
    Json(StatusView { state_dir: None, runtime_dir: None, ..status })
}

async fn stop_claiming(app: &App, caller: &Caller, body: Body, drain: bool) -> Result<StatusCode, Fail> {
    let ReasonRequest { reason } = body.json().await?;
    check_reason(&reason)?;
    let paused = app.context.handle.pause(Some((reason, drain)), caller.name());
    in_time(async { Ok(paused.await?) }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Starts no more jobs; running ones go on. Kept over restarts.
#[utoipa::path(post, path = "/pause", tag = "host", request_body = ReasonRequest,
    responses(Committed, Sent, (status = 204, description = "Done")))]
pub(crate) async fn pause(State(app): State<App>, caller: Caller, body: Body) -> Result<StatusCode, Fail> {
    stop_claiming(&app, &caller, body, false).await
}

/// As `pause`, for an operator who waits for the host to be empty.
#[utoipa::path(post, path = "/drain", tag = "host", request_body = ReasonRequest,
    responses(Committed, Sent, (status = 204, description = "Done")))]
pub(crate) async fn drain(State(app): State<App>, caller: Caller, body: Body) -> Result<StatusCode, Fail> {
    stop_claiming(&app, &caller, body, true).await
}

/// Starts jobs again after `pause` or `drain`.
#[utoipa::path(post, path = "/resume", tag = "host", responses(Committed, Sent, (status = 204, description = "Done")))]
pub(crate) async fn resume(State(app): State<App>, caller: Caller, body: Body) -> Result<StatusCode, Fail> {
    let Nothing {} = body.json().await?;
    let resumed = app.context.handle.pause(None, caller.name());
    in_time(async { Ok(resumed.await?) }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What `gc` removed.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct CollectedView {
    /// Finished jobs.
    pub jobs: u64,
    /// Logs.
    pub logs: u64,
    /// Their bytes.
    pub log_bytes: u64,
    /// Why finished jobs could not be removed, on a full disk for example; they are as soon as the store takes commits again.
    pub waiting: Option<String>,
}

/// Removes finished jobs and logs beyond the configured limits now. Admins only. Takes as long as it takes.
#[utoipa::path(post, path = "/gc", tag = "host",
    responses(Served, Sent, (status = 200, body = CollectedView, description = "What was removed")))]
pub(crate) async fn gc(State(app): State<App>, caller: Caller, body: Body) -> Result<Json<CollectedView>, Fail> {
    caller.admin("remove jobs")?;
    let Nothing {} = body.json().await?;
    let (reply, answer) = oneshot::channel();
    app.context.control.send(Control::Collect(reply)).await.map_err(|_| Refusal::Stopping)?;
    let Collected { jobs, trimmed, waiting } = answer.await.map_err(|_| Refusal::Stopping)?;
    Ok(Json(CollectedView { jobs: jobs as u64, logs: trimmed.logs, log_bytes: trimmed.bytes, waiting }))
}

/// Writes a consistent copy of the store, and the configuration in it, to a new file on the daemon's host, with the daemon's
/// rights. Never secrets. Admins only. Takes as long as it takes.
#[utoipa::path(post, path = "/backup", tag = "host", request_body = BackupRequest,
    responses(Served, Sent, (status = 204, description = "Done"), (status = 500, response = Failed),
        (status = 507, response = DiskFull)))]
pub(crate) async fn backup(State(app): State<App>, caller: Caller, body: Body) -> Result<StatusCode, Fail> {
    caller.admin("make backups")?;
    let BackupRequest { path } = body.json().await?;
    let path = PathBuf::from(path);
    if !path.is_absolute() {
        return Err(Fail::field(
            "path",
            format!("{:?} is not an absolute path; write it like /var/backups/ci-runner", path.display()),
        ));
    }
    if path.symlink_metadata().is_ok() {
        return Err(Fail::field("path", format!("{} is there already; give a new name", path.display())));
    }
    let reader = app.context.handle.reader.clone();
    let config_file = app.context.config_file.clone();
    let written = blocking(move || {
        let files = config_file.iter().map(|file| backup_file(file)).collect::<Result<Vec<_>, _>>()?;
        reader.backup(&path, &files).map_err(|error| match error {
            // What cannot be written was named by the client.
            StoreError::Io { .. } => Fail::field("path", Fail::internal("write the backup", &error).document().detail),
            error => error.into(),
        })
    });
    written.await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The configuration, under a name of its own: where it was is for the next host to choose.
fn backup_file(path: &Path) -> Result<BackupFile, Fail> {
    let content = std::fs::read(path)
        .map_err(|error| Fail::internal(&format!("read {} for the backup", path.display()), &error))?;
    Ok(BackupFile { name: "config.toml".to_owned(), content })
}
