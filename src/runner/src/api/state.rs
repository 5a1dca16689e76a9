//! The host at a glance: counts, pools, runners, groups, pauses.

use super::{AlarmView, ComponentView};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// The host at a glance.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct StatusView {
    /// Program version.
    pub version: String,
    /// `running`, `paused`, `draining`, `stopping` or `degraded`.
    pub state: String,
    /// What is wrong, in words.
    pub problems: Vec<String>,
    /// Jobs by state; finished ones since the store was made.
    pub jobs: JobCounts,
    /// Slots of all pools.
    pub slots: SlotCounts,
    /// Age of the oldest job that could run.
    pub oldest_queued_seconds: Option<f64>,
    /// Pause, if any.
    pub paused: Option<PauseView>,
    /// Limits of `[admission]` that are passed, in words; while there is one, nothing new starts.
    #[serde(default)]
    pub busy: Vec<String>,
    /// Alarms of the watches that are active.
    #[serde(default)]
    pub watches: Vec<AlarmView>,
    /// Parts of the daemon that are not as they should be, by name, with the reason; what the parts are is told by `/health`.
    #[serde(default)]
    pub components: BTreeMap<String, ComponentView>,
    /// Seconds since the daemon was ready.
    pub uptime_seconds: f64,
    /// Process id of the daemon.
    pub pid: u32,
    /// Start number of the daemon on this store.
    pub generation: u64,
    /// Where its state is. Null at `/status`, which may be public.
    #[serde(default)]
    pub state_dir: Option<String>,
    /// Where running attempts are, and sockets unless they have another place. Null at `/status`.
    #[serde(default)]
    pub runtime_dir: Option<String>,
}

/// Jobs by state.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct JobCounts {
    /// Waiting.
    pub queued: u64,
    /// Starting, running and stopping.
    pub running: u64,
    /// Of `running`: claimed, and not begun. While this stays, starts are refused: `why` says for what.
    #[serde(default)]
    pub starting: u64,
    /// Finished so.
    pub succeeded: u64,
    /// Finished so.
    pub failed: u64,
    /// Finished so.
    pub timed_out: u64,
    /// Finished so.
    pub cancelled: u64,
    /// Finished so.
    pub superseded: u64,
    /// Finished so.
    pub expired: u64,
}

impl JobCounts {
    /// What has a slot, in words: what has not begun is not said to run.
    pub fn under_way(&self) -> String {
        let running = self.running.saturating_sub(self.starting);
        match self.starting {
            0 => format!("{running} running"),
            starting => format!("{running} running, {starting} starting"),
        }
    }
}

/// Slots.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct SlotCounts {
    /// In use.
    pub used: u32,
    /// In all.
    pub total: u32,
}

/// A pause or drain.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PauseView {
    /// Who.
    pub by: String,
    /// In words.
    pub reason: String,
    /// Since when.
    pub since: String,
    /// True for `drain`.
    pub drain: bool,
}

/// A pool.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PoolInfo {
    /// Name.
    pub name: String,
    /// How its attempts run.
    pub executor: String,
    /// Slots.
    pub slots: u32,
    /// In use.
    pub used: u32,
    /// Labels.
    pub labels: Vec<String>,
    /// Queued jobs that count for it.
    pub queued: u64,
}

/// A place in a pool.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RunnerInfo {
    /// Pool.
    pub pool: String,
    /// Place, from 0.
    pub slot: u32,
    /// `idle`, `starting`, `running` or `stopping`.
    pub state: String,
    /// Its job.
    pub job: Option<u64>,
    /// Its attempt.
    pub attempt: Option<u32>,
    /// How long the attempt has been there.
    pub run_seconds: Option<f64>,
}

/// A group with open jobs.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct GroupInfo {
    /// Name.
    pub name: String,
    /// How many of it run at once.
    pub limit: u32,
    /// Who holds it.
    pub holders: Vec<u64>,
    /// How many wait for it.
    pub waiting: u64,
    /// Open jobs.
    pub open: u64,
}
