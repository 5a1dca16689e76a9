//! What the API says of alarms and of those who are told.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// Alarms.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WatchesView {
    /// Those that are active, the latest first.
    pub active: Vec<AlarmView>,
    /// Those that ended last, the latest first.
    pub recent: Vec<AlarmView>,
}

/// Something that is, or was, not as it should be.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AlarmView {
    /// Unique.
    pub id: String,
    /// `stuck_job`, `slow_job`, `failure_rate`, `queue_age` or `flapping`.
    pub watch: String,
    /// In words.
    pub text: String,
    /// When it started.
    pub started_at: String,
    /// When it ended; null while it is active.
    pub ended_at: Option<String>,
    /// The highest figure since it started.
    pub measured: f64,
    /// Its limit.
    pub limit: f64,
    /// Of both: `seconds`, `percent` or `changes`.
    pub unit: String,
    /// Job, where it is about one.
    pub job: Option<u64>,
    /// Its attempt.
    pub attempt: Option<u32>,
    /// Name of the job, or of the jobs.
    pub name: Option<String>,
    /// Pool of the attempt.
    pub pool: Option<String>,
    /// Correlation id of the job.
    pub correlation: Option<String>,
}

/// Somebody who is told of events, and how that goes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NotifierView {
    /// Name.
    pub name: String,
    /// `command`, `http` or `email`.
    pub kind: String,
    /// Alarms that it is told of.
    pub watches: Vec<String>,
    /// Outcomes of jobs that it is told of.
    pub outcomes: Vec<String>,
    /// Deliveries that wait.
    pub waiting: u64,
    /// By result: `delivered`, `failed` (tries), `given_up`, `dropped`.
    pub counts: BTreeMap<String, u64>,
    /// What went wrong last, unless something went right since.
    pub last_error: Option<String>,
    /// When something was delivered last.
    pub last_delivered_at: Option<String>,
}

/// How a test of a notifier went.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NotifierTested {
    /// Whether it was delivered.
    pub delivered: bool,
    /// Why not.
    pub error: Option<String>,
    /// How long it took.
    pub seconds: f64,
    /// Id of the event, as the receiver got it.
    pub event: String,
}

/// The end of a job, as notifiers are told of it (`data` of `job.ended`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JobEnded {
    /// Name of the runner's host.
    pub host: String,
    /// Id.
    pub id: u64,
    /// Name.
    pub name: Option<String>,
    /// How it ended.
    pub outcome: String,
    /// Exit code of the last attempt, if it exited.
    pub exit_code: Option<u8>,
    /// Signal that ended the last attempt, if one did.
    pub signal: Option<u8>,
    /// Why it ended so, in words.
    pub cause: Option<String>,
    /// How many attempts were made.
    pub attempt_count: u32,
    /// Pool that it ran in.
    pub pool: Option<String>,
    /// Labels that it asked for.
    pub labels: Vec<String>,
    /// Correlation id.
    pub correlation: String,
    /// Who submitted it.
    pub submitter: String,
    /// When it was acknowledged.
    pub submitted_at: String,
    /// When its first attempt started.
    pub started_at: Option<String>,
    /// When it got its outcome.
    pub finished_at: Option<String>,
    /// From submission to the first start.
    pub queue_seconds: f64,
    /// Run time of the last attempt.
    pub run_seconds: Option<f64>,
}
