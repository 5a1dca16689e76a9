//! What `/api/v1/usage` says of the host and of running attempts.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What is used just now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct UsageView {
    /// When it was measured: two answers within 0.4 s may be the same.
    pub measured_at: String,
    /// The host.
    pub host: HostUsage,
    /// Attempts that run and could be measured.
    pub attempts: Vec<AttemptUsage>,
    /// Attempts that run beyond the 1000 that are measured.
    pub attempts_left_out: u64,
}

/// The host: what the kernel does not tell is null.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HostUsage {
    /// Processors that the daemon may use.
    pub cpus: u64,
    /// Load average over 1 minute.
    pub load1: Option<f64>,
    /// Over 5 minutes.
    pub load5: Option<f64>,
    /// Over 15 minutes.
    pub load15: Option<f64>,
    /// Memory.
    pub memory_total_bytes: Option<u64>,
    /// Memory that can be had without swapping.
    pub memory_available_bytes: Option<u64>,
    /// Waiting for a CPU.
    pub cpu_pressure: Option<PressureUsage>,
    /// Waiting for memory.
    pub memory_pressure: Option<PressureUsage>,
    /// Waiting for a disk.
    pub io_pressure: Option<PressureUsage>,
}

/// Share of the last 10 seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PressureUsage {
    /// In which some task waited.
    pub some_percent: f64,
    /// In which all of them did.
    pub full_percent: Option<f64>,
}

/// One attempt.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AttemptUsage {
    /// Job.
    pub job: u64,
    /// Attempt.
    pub attempt: u32,
    /// CPU time since its start; the difference of two answers is what it used between them.
    pub cpu_seconds: Option<f64>,
    /// Memory now: with `cgroup` and the memory controller all that is charged to it, else the resident memory of its processes.
    pub memory_bytes: Option<u64>,
    /// Processes (with the controller `pids`: and threads).
    pub processes: u64,
    /// `cgroup` or `processes`: what was asked.
    pub source: String,
}
