//! Cron-like jobs.

use super::JobRequest;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A cron-like job to add.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ScheduleRequest {
    /// Unique name.
    pub name: String,
    /// Cron expression or calendar word.
    pub calendar: String,
    /// IANA time zone; the host's when absent.
    #[serde(default)]
    pub timezone: Option<String>,
    /// `skip` (when absent), `queue`, `cancel` or `allow`.
    #[serde(default)]
    pub overlap: Option<String>,
    /// `skip`, `once` (when absent) or `all`.
    #[serde(default)]
    pub missed: Option<String>,
    /// The job.
    pub job: JobRequest,
}

/// A schedule.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ScheduleView {
    /// Name.
    pub name: String,
    /// Cron expression or calendar word.
    pub calendar: String,
    /// Time zone.
    pub timezone: String,
    /// Overlap policy.
    pub overlap: String,
    /// Missed-run policy.
    pub missed: String,
    /// Who added it.
    pub by: String,
    /// `configuration`: declared there, and changed and removed there only; else `command`.
    #[serde(default)]
    pub source: String,
    /// Who paused it, if so.
    pub paused_by: Option<String>,
    /// Next run; null when paused or never.
    pub next_at: Option<String>,
    /// Latest job it made.
    pub last_job: Option<u64>,
    /// When its last run was refused; null when that was queued.
    #[serde(default)]
    pub refused_at: Option<String>,
    /// Why it was.
    #[serde(default)]
    pub refused_reason: Option<String>,
    /// The job.
    pub job: JobRequest,
}
