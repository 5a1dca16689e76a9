//! What `/api/v1/stats` says of finished jobs.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Figures of the jobs that finished in a range of time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StatsView {
    /// Begin of the range, RFC 3339 UTC; later than asked when `truncated`.
    pub since: String,
    /// Its end.
    pub until: String,
    /// What the rows are: `name`, `pool` or `day`.
    pub by: String,
    /// Older jobs of the range were left out: only the newest 200000 are counted.
    pub truncated: bool,
    /// Finished jobs an hour, over the range.
    pub jobs_per_hour: f64,
    /// All of them.
    pub total: StatsFigures,
    /// Finished jobs over time.
    pub timeline: Timeline,
    /// By name and pool: those with most jobs first; by day: the latest first.
    pub rows: Vec<StatsRow>,
    /// Rows beyond the limit.
    pub rows_left_out: u64,
}

/// The figures of one name, pool or day.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StatsRow {
    /// Name, pool or date; null: jobs without one.
    pub key: Option<String>,
    /// The figures.
    #[serde(flatten)]
    pub figures: StatsFigures,
}

/// Figures of some finished jobs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StatsFigures {
    /// Finished jobs.
    pub jobs: u64,
    /// Those that succeeded.
    pub succeeded: u64,
    /// Those that failed.
    pub failed: u64,
    /// Those that timed out.
    pub timed_out: u64,
    /// Those that somebody cancelled.
    pub cancelled: u64,
    /// Those that a newer one of their group replaced.
    pub superseded: u64,
    /// Those that did not start in time.
    pub expired: u64,
    /// `succeeded` in those that succeeded, failed or timed out, from 0 to 1; null when there are none.
    pub success_rate: Option<f64>,
    /// Those of `succeeded` that needed more than one try, from 0 to 1; null when there are none.
    pub flaky_rate: Option<f64>,
    /// How often a success was followed by a failure (or timeout), or the other way round.
    #[serde(default)]
    pub changes: u64,
    /// Tries that ended.
    pub tries: u64,
    /// From submission to the first start.
    pub queue_seconds: Option<Percentiles>,
    /// Run time of the last try.
    pub run_seconds: Option<Percentiles>,
    /// CPU of all tries.
    pub cpu_seconds: f64,
    /// Largest peak memory of a try, bytes; null when none is known.
    pub peak_memory_bytes: Option<u64>,
    /// A timeout that those that succeeded would have kept with room: one and a half times the longest run and at least a
    /// minute, in whole minutes; null with fewer than five.
    pub suggested_timeout_seconds: Option<u64>,
    /// A memory limit with a quarter of room over the largest peak of those that succeeded, in whole 16 MiB; null with
    /// fewer than five whose peak is known.
    pub suggested_memory_bytes: Option<u64>,
}

/// Nearest-rank percentiles, seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Percentiles {
    /// Half of them were at most this.
    pub p50: f64,
    /// 95 %.
    pub p95: f64,
    /// 99 %.
    pub p99: f64,
    /// All.
    pub max: f64,
}

/// Finished jobs over time, in parts of equal length from `since` on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Timeline {
    /// Length of a part.
    pub bucket_seconds: u64,
    /// Finished jobs in each.
    pub finished: Vec<u64>,
    /// Those of them that failed or timed out.
    pub failed: Vec<u64>,
}
