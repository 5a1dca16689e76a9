//! The words of the HTTP API: what clients send and get. Shared by the server and the command line.
//!
//! Times are RFC 3339 UTC, durations seconds, sizes bytes, and the unit is part of the name. A request refuses unknown keys.
//! What a field means and its limits are in `ci_runner_core::job`; this module only carries.

mod bounded;
mod health;
mod job;
mod log;
mod request;
mod schedule;
mod state;
mod stats;
mod usage;
mod watch;

pub use health::{ComponentView, HealthView};
pub use job::{ActedView, AttemptView, JobList, JobView, PriorityRequest, ReasonRequest, ReasonView, WhyView};
pub use log::{FoundView, LineView, SearchLine, Searched, SearchedView};
pub use request::{
    AfterField, AfterParts, DurationSchema, GroupField, GroupParts, JobRequest, SecretText, SizeSchema, Submit,
    Submitted, SubmittedMany, SubmittedOne, WordsSchema,
};
pub use schedule::{ScheduleRequest, ScheduleView};
pub use state::{GroupInfo, JobCounts, PauseView, PoolInfo, RunnerInfo, SlotCounts, StatusView};
pub use stats::{Percentiles, StatsFigures, StatsRow, StatsView, Timeline};
pub use usage::{AttemptUsage, HostUsage, PressureUsage, UsageView};
pub use watch::{AlarmView, JobEnded, NotifierTested, NotifierView, WatchesView};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Name of the jobs of `selftest`. Some of them fail on purpose: no watch counts them and no notifier is told of their ends.
pub const SELFTEST_NAME: &str = "ci-runner selftest";

/// A new state of a job, in the event stream. `event: job` carries it; `event: gap` says that some were missed.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct EventView {
    /// Rises by one within one life of the daemon.
    pub seq: u64,
    /// Which job.
    pub id: u64,
    /// Its state.
    pub state: String,
    /// Its attempt.
    pub attempt: Option<u32>,
    /// Its outcome.
    pub outcome: Option<String>,
}

/// RFC 9457 problem document.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// `about:blank` or `urn:ci-runner:problem:…`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Short text for the status.
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// What is wrong, the limit and the mend.
    pub detail: String,
    /// The field, as in JSON; with its index for an array.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// Index of the job in the array, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<usize>,
}

/// Backup target on the daemon's host.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BackupRequest {
    /// Absolute path that does not exist yet.
    pub path: String,
}
