//! Jobs and attempts as they are told, why a job does not run, and what can be done to one.

use super::{AfterParts, GroupParts};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

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
    /// Notifiers that are told when it ends.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notify: Vec<String>,
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
    /// When it got its outcome: when its last attempt ended, where that ended it, however late the daemon heard of it.
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
    /// What of its sandbox this host did not give it: it ran without, because its pool says `degrade`. Properties of systemd
    /// (`PrivateUsers`); empty as a rule, and while it runs.
    #[serde(default)]
    pub lacks: Vec<String>,
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
