//! Schedules as they are stored.

use ci_runner_core::id::JobId;
use ci_runner_core::time::WallTime;

/// A cron-like job as it is stored; what it means is `crate::cron`'s.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScheduleRow {
    /// Unique name.
    pub name: String,
    /// Cron expression or calendar word.
    pub calendar: String,
    /// IANA time zone.
    pub timezone: String,
    /// `skip`, `queue`, `cancel` or `allow`.
    pub overlap: String,
    /// `skip`, `once` or `all`.
    pub missed: String,
    /// The job to submit, as the JSON of the API's job request.
    pub request: String,
    /// Who added it.
    pub by: String,
    /// Paused by whom, if so.
    pub paused: Option<String>,
    /// Runs are due after this.
    pub after: WallTime,
    /// Latest job it made, at one of its times or by hand.
    pub last_job: Option<JobId>,
    /// Latest job that it made at one of its times.
    pub timed_job: Option<JobId>,
    /// Its last run, when that could not be queued.
    pub refused: Option<RefusedRun>,
}

impl ScheduleRow {
    /// What its runs have left of it.
    pub fn ran(&self) -> ScheduleRan {
        let Self { name, after, last_job, timed_job, refused, .. } = self;
        let (name, refused) = (name.clone(), refused.clone());
        ScheduleRan { name, after: *after, last_job: *last_job, timed_job: *timed_job, refused }
    }
}

/// A run of a schedule that could not be queued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedRun {
    /// When.
    pub at: WallTime,
    /// In words.
    pub why: String,
}

/// What a run changes of a schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScheduleRan {
    /// Which.
    pub name: String,
    /// Runs are due after this.
    pub after: WallTime,
    /// Latest job it made, at one of its times or by hand.
    pub last_job: Option<JobId>,
    /// Latest job that it made at one of its times.
    pub timed_job: Option<JobId>,
    /// The run, when it could not be queued.
    pub refused: Option<RefusedRun>,
}
