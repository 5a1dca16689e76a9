//! The words of the HTTP API: what clients send and get. Shared by the server and the command line.
//!
//! Times are RFC 3339 UTC, durations seconds, sizes bytes, and the unit is part of the name. A request refuses unknown keys.
//! What a field means and its limits are in `ci_runner_core::job`; this module only carries.

mod log;
mod stats;

pub use log::{FoundView, LineView, SearchLine, Searched, SearchedView};
pub use stats::{Percentiles, StatsFigures, StatsRow, StatsView, Timeline};

use crate::quantity::{DurationField, SizeField, WordsField};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// A job to queue. Exactly one of `command` and `shell`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct JobRequest {
    /// Program and arguments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// A text for `sh -c`, instead of `command`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shell: Option<String>,
    /// For people; not unique.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Only this pool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// Sandbox, one that its pool allows: `build`, `strict` or `open`. For pools whose jobs are units of systemd.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// Labels a pool must carry, all of them: `key` or `key=value`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// Variables for the job.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Absolute working directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dir: Option<String>,
    /// Where the caller is. It becomes `dir` where none is given and the job goes to a pool that runs as a person, with this
    /// directory among its paths; else it says nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caller_dir: Option<String>,
    /// Hard deadline of each attempt: seconds, or a text such as `30m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<DurationSchema>)]
    pub timeout: Option<DurationField>,
    /// Soft deadline: a warning in the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<DurationSchema>)]
    pub soft_timeout: Option<DurationField>,
    /// Re-tries after the first attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<u32>,
    /// Delay before a re-try.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<DurationSchema>)]
    pub retry_delay: Option<DurationField>,
    /// `fixed` or `exponential`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backoff: Option<String>,
    /// Rules, first match wins: `exit`, `exit:2`, `signal`, `signal:KILL`, `lost`, `timeout`, `oom`, `start`; `!` before one
    /// forbids. A list, or a text with commas.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "WordsField::words")]
    #[schema(value_type = Option<WordsSchema>)]
    pub retry_on: Option<Vec<String>>,
    /// Higher goes first; 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<i64>,
    /// Concurrency group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupField>,
    /// Jobs it waits for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<AfterField>,
    /// Not before this date.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    /// Not before so long after submission.
    #[serde(rename = "in", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<DurationSchema>)]
    pub delay: Option<DurationField>,
    /// Dropped when it has not started so long after submission.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<DurationSchema>)]
    pub expires: Option<DurationField>,
    /// Queue it on hold.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub hold: bool,
    /// Idempotency key of this one job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Secrets by name: given to the job as variables, masked in its log, never stored with it. Never sent back.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, SecretText>,
    /// Memory limit of each attempt. Refused where nothing can enforce it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<SizeSchema>)]
    pub memory: Option<SizeField>,
    /// CPU limit in cores. Refused where nothing can enforce it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<f64>,
    /// Limit of processes. Refused where nothing can enforce it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids: Option<u64>,
    /// After an attempt that was out of memory the next one gets so many times its limit, up to what its pool allows. Needs
    /// `oom` in `retry_on`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_memory_factor: Option<f64>,
    /// Cap of the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<SizeSchema>)]
    pub log_max: Option<SizeField>,
    /// Correlation id; made when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correlation: Option<String>,
}

/// Seconds as a number, or a text such as `1h30m`.
#[derive(ToSchema)]
#[schema(description = "Seconds as a number, or a text such as `1h30m`.")]
#[serde(untagged)]
#[derive(Serialize)]
pub enum DurationSchema {
    /// Seconds.
    Seconds(f64),
    /// Text.
    Text(String),
}

/// Bytes as a number, or a text such as `64M`.
#[derive(ToSchema, Serialize)]
#[serde(untagged)]
pub enum SizeSchema {
    /// Bytes.
    Bytes(u64),
    /// Text.
    Text(String),
}

/// Words as a list, or as a text such as `exit:2,lost`.
#[derive(ToSchema, Serialize)]
#[serde(untagged)]
pub enum WordsSchema {
    /// List.
    List(Vec<String>),
    /// Text with commas.
    Text(String),
}

/// A secret's value: can be sent and used, never shown.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct SecretText(pub String);

impl std::fmt::Debug for SecretText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// `NAME`, `NAME:LIMIT`, or an object.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum GroupField {
    /// `NAME[:LIMIT]`.
    Text(String),
    /// All parts.
    Parts(GroupParts),
}

/// A group as an object.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GroupParts {
    /// Name.
    pub name: String,
    /// How many of it run at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// `queue`, `latest` or `cancel`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
}

/// An id, `ID:condition`, or an object.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum AfterField {
    /// After this job's success.
    Id(u64),
    /// `ID[:success|failure|always]`.
    Text(String),
    /// All parts.
    Parts(AfterParts),
}

/// A dependency as an object.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AfterParts {
    /// The other job.
    pub id: u64,
    /// `success` (when absent), `failure` or `always`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on: Option<String>,
}

/// One job or several; several are queued all or none.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum Submit {
    /// Several.
    Many(Vec<JobRequest>),
    /// One.
    One(Box<JobRequest>),
}

/// Answer to one job.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct SubmittedOne {
    /// Its id.
    pub id: u64,
}

/// Answer to several jobs.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct SubmittedMany {
    /// Their ids, in order.
    pub ids: Vec<u64>,
}

/// A job.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct JobView {
    /// Id.
    pub id: u64,
    /// Name.
    pub name: Option<String>,
    /// `queued`, `starting`, `running`, `stopping` or `finished`.
    pub state: String,
    /// `succeeded`, `failed`, `timed_out`, `cancelled`, `superseded` or `expired`; null while open.
    pub outcome: Option<String>,
    /// Exit code of the last attempt that ended, if it exited.
    pub exit_code: Option<u8>,
    /// Signal that ended the last attempt, if one did.
    pub signal: Option<u8>,
    /// Why it ended so, in words.
    pub cause: Option<String>,
    /// Attempts; absent in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<Vec<AttemptView>>,
    /// How many attempts were made.
    pub attempt_count: u32,
    /// Higher goes first.
    pub priority: i16,
    /// Required labels.
    pub labels: Vec<String>,
    /// Pool it names or last ran in.
    pub pool: Option<String>,
    /// Concurrency group.
    pub group: Option<GroupParts>,
    /// Jobs it was told to wait for.
    pub after: Vec<AfterParts>,
    /// The command on one line, shortened.
    pub summary: String,
    /// Program and arguments; null when `shell` stands instead.
    pub command: Option<Vec<String>>,
    /// Text for `sh -c`.
    pub shell: Option<String>,
    /// Names of its variables. Their values are not shown.
    pub env_names: Vec<String>,
    /// Working directory.
    pub dir: Option<String>,
    /// Sandbox that it asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// Hard deadline of each attempt, seconds.
    pub timeout_seconds: Option<f64>,
    /// Soft deadline, seconds.
    pub soft_timeout_seconds: Option<f64>,
    /// Re-tries it may have.
    pub retry: u32,
    /// Memory limit that it names, bytes.
    #[serde(default)]
    pub memory_bytes: Option<u64>,
    /// CPU limit that it names, cores.
    #[serde(default)]
    pub cpu: Option<f64>,
    /// Limit of processes that it names.
    #[serde(default)]
    pub pids: Option<u64>,
    /// How its memory grows after an attempt that was out of it.
    #[serde(default)]
    pub oom_memory_factor: Option<f64>,
    /// Correlation id.
    pub correlation: String,
    /// Who submitted it.
    pub submitter: String,
    /// On hold: by whom.
    pub held_by: Option<String>,
    /// When it was acknowledged.
    pub submitted_at: String,
    /// When its first attempt started; in lists and events as it was noted, some milliseconds later than in `show`.
    pub started_at: Option<String>,
    /// When it got its outcome; in lists and events as it was noted, some milliseconds later than in `show`.
    pub finished_at: Option<String>,
    /// From submission to the first start, or until now.
    pub queue_seconds: f64,
    /// Run time of the last attempt, or until now while it runs; null before the first.
    pub run_seconds: Option<f64>,
    /// Why it is where it is, in words; for open jobs. Only in `show`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// An attempt.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct AttemptView {
    /// From 1.
    pub number: u32,
    /// Where.
    pub pool: String,
    /// Which place.
    pub slot: u32,
    /// `exited`, `signaled`, `oom_killed`, `timed_out`, `failed_to_start` or `lost`; `released` when its claim was given back;
    /// null while open.
    pub result: Option<String>,
    /// Exit code, if it exited.
    pub exit_code: Option<u8>,
    /// Signal, if one ended it.
    pub signal: Option<u8>,
    /// In words.
    pub cause: Option<String>,
    /// When it started.
    pub started_at: Option<String>,
    /// When it ended.
    pub finished_at: Option<String>,
    /// Run time.
    pub run_seconds: Option<f64>,
    /// CPU time in user mode.
    pub cpu_user_seconds: Option<f64>,
    /// CPU time in the kernel.
    pub cpu_system_seconds: Option<f64>,
    /// Most memory: of all processes together, with their files and kernel memory, when `peak_memory_of` is `attempt`; else
    /// the largest resident set of one process.
    pub peak_memory_bytes: Option<u64>,
    /// `attempt` or `process`: whose peak it is.
    #[serde(default)]
    pub peak_memory_of: Option<String>,
    /// Output kept.
    pub log_bytes: Option<u64>,
    /// Output dropped beyond the cap.
    pub log_dropped_bytes: Option<u64>,
    /// Processes that had to be killed after the main process had ended.
    pub leftover_processes: Option<u32>,
    /// Memory limit that held.
    #[serde(default)]
    pub memory_limit_bytes: Option<u64>,
    /// CPU limit that held, cores.
    #[serde(default)]
    pub cpu_limit: Option<f64>,
    /// Limit of processes that held.
    #[serde(default)]
    pub pids_limit: Option<u64>,
    /// Most processes and threads at once; like all that follow null where nobody measured it.
    #[serde(default)]
    pub pids_peak: Option<u64>,
    /// Read from disks.
    #[serde(default)]
    pub io_read_bytes: Option<u64>,
    /// Written to disks.
    #[serde(default)]
    pub io_written_bytes: Option<u64>,
    /// Time in which some process waited for memory.
    #[serde(default)]
    pub memory_stall_seconds: Option<f64>,
    /// Time in which some process waited for a CPU, its own limit included.
    #[serde(default)]
    pub cpu_stall_seconds: Option<f64>,
    /// Time in which some process waited for a disk.
    #[serde(default)]
    pub io_stall_seconds: Option<f64>,
    /// Processes that the kernel killed because memory was used up.
    #[serde(default)]
    pub oom_kills: Option<u64>,
    /// Space that its temporary directory took when it ended.
    #[serde(default)]
    pub disk_bytes: Option<u64>,
}

/// A page of jobs.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct JobList {
    /// The jobs.
    pub jobs: Vec<JobView>,
    /// Give it as `cursor` for the next page; null at the end.
    pub next_cursor: Option<u64>,
}

/// Why a job does not run.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct WhyView {
    /// Which job.
    pub id: u64,
    /// Its state.
    pub state: String,
    /// The reasons, the deciding one first.
    pub reasons: Vec<ReasonView>,
}

/// One reason.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ReasonView {
    /// A fixed word: `running starting stopping cancelled held waits_for not_before delayed group paused no_pool no_slot
    /// resources makes_way behind next spawner finished`.
    pub kind: String,
    /// The whole reason in words.
    pub text: String,
    /// Jobs it names.
    pub jobs: Vec<u64>,
}

/// Who asks for something, and why.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ReasonRequest {
    /// In words.
    pub reason: String,
}

/// New priority.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PriorityRequest {
    /// Higher goes first.
    pub priority: i16,
}

/// What was done to each job that was named.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ActedView {
    /// Jobs it was done to.
    pub ids: Vec<u64>,
    /// Jobs that had finished before.
    pub finished: Vec<u64>,
    /// Of a hold or a priority: those of `ids` that have an attempt under way, which goes on; it counts for the next one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub running: Vec<u64>,
}

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
    /// Seconds since the daemon was ready.
    pub uptime_seconds: f64,
    /// Process id of the daemon.
    pub pid: u32,
    /// Start number of the daemon on this store.
    pub generation: u64,
}

/// Jobs by state.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct JobCounts {
    /// Waiting.
    pub queued: u64,
    /// Starting, running and stopping.
    pub running: u64,
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
    /// Who paused it, if so.
    pub paused_by: Option<String>,
    /// Next run; null when paused or never.
    pub next_at: Option<String>,
    /// Latest job it made.
    pub last_job: Option<u64>,
    /// The job.
    pub job: JobRequest,
}

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
