//! What `top` shows: asked of the daemon, put together, nothing decided.
//!
//! Each look is a handful of short questions. CPU use is the difference of two looks, so the source remembers the last one;
//! it also remembers which jobs ran, so that one that ends is among the recent ones however old its number is.

use super::super::client::{Client, ClientError, with_query};
use super::super::list::unix_ms;
use super::super::watch::job;
use crate::api::{JobList, JobView, PoolInfo, StatusView, UsageView};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap, HashSet};

/// Jobs of each kind that are asked for: more than a screen shows and anybody scrolls through.
const RUNNING_MAX: usize = 500;
const WAITING_MAX: usize = 100;
const RECENT_MAX: usize = 100;
/// Jobs that ended since the last look and are not among the newest: asked for one by one.
const ENDED_MAX: usize = 50;

/// Everything on the screen.
#[derive(Clone, Debug, Serialize)]
pub struct Snapshot {
    /// When it was taken.
    pub taken_at: String,
    /// The host's state.
    pub status: StatusView,
    /// Pools.
    pub pools: Vec<PoolInfo>,
    /// Load, memory, pressure.
    pub usage: UsageView,
    /// Jobs that start, run or stop.
    pub running: Vec<RunningRow>,
    /// Queued jobs, the oldest first.
    pub waiting: Vec<JobView>,
    /// Finished jobs, the latest first.
    pub recent: Vec<JobView>,
}

/// A job under way.
#[derive(Clone, Debug, Serialize)]
pub struct RunningRow {
    /// The job.
    #[serde(flatten)]
    pub job: JobView,
    /// Of one processor, since the look before; null at the first.
    pub cpu_percent: Option<f64>,
    /// CPU time of the attempt so far.
    pub cpu_seconds: Option<f64>,
    /// Memory now.
    pub memory_bytes: Option<u64>,
    /// Processes now.
    pub processes: Option<u64>,
}

/// When it was measured (Unix milliseconds), and CPU seconds by job and attempt.
type CpuTimes = (i64, HashMap<(u64, u32), f64>);

/// Asks, and remembers what the next look needs.
#[derive(Default)]
pub struct Source {
    /// Of the look before.
    cpu: Option<CpuTimes>,
    ran: HashSet<u64>,
    ended: BTreeMap<u64, JobView>,
}

impl Source {
    /// Looks once.
    ///
    /// # Errors
    /// The daemon is away, or refuses.
    pub fn look(&mut self, client: &Client) -> Result<Snapshot, ClientError> {
        let status: StatusView = client.get("/api/v1/status")?;
        let pools = client.get("/api/v1/pools")?;
        let usage: UsageView = client.get("/api/v1/usage")?;
        let jobs = |state: &str, order: &str, limit: usize| -> Result<Vec<JobView>, ClientError> {
            let pairs = [("state", state.to_owned()), ("order", order.to_owned()), ("limit", limit.to_string())];
            Ok(client.get::<JobList>(&with_query("/api/v1/jobs", &pairs))?.jobs)
        };
        let under_way = jobs("starting,running,stopping", "asc", RUNNING_MAX)?;
        let waiting = jobs("queued", "asc", WAITING_MAX)?;
        let finished = jobs("finished", "desc", RECENT_MAX)?;
        let recent = self.recent(client, &under_way, finished)?;
        let running = self.rows(under_way, &usage);
        let taken_at = crate::quantity::rfc3339_utc(jiff::Timestamp::now().as_millisecond());
        Ok(Snapshot { taken_at, status, pools, usage, running, waiting, recent })
    }

    fn rows(&mut self, jobs: Vec<JobView>, usage: &UsageView) -> Vec<RunningRow> {
        let at = unix_ms(&usage.measured_at).unwrap_or(0);
        let now: HashMap<(u64, u32), f64> =
            usage.attempts.iter().filter_map(|one| Some(((one.job, one.attempt), one.cpu_seconds?))).collect();
        let before = self.cpu.take();
        let row = |job: JobView| {
            let used = usage.attempts.iter().find(|one| one.job == job.id);
            let cpu_percent = used.and_then(|one| {
                let (earlier, seconds) = before.as_ref()?;
                let passed = (at - earlier) as f64 / 1e3;
                let spent = one.cpu_seconds? - seconds.get(&(one.job, one.attempt))?;
                (passed > 0.0).then(|| (spent / passed * 100.0).max(0.0))
            });
            RunningRow {
                cpu_percent,
                cpu_seconds: used.and_then(|one| one.cpu_seconds),
                memory_bytes: used.and_then(|one| one.memory_bytes),
                processes: used.map(|one| one.processes),
                job,
            }
        };
        let rows = jobs.into_iter().map(row).collect();
        self.cpu = Some((at, now));
        rows
    }

    fn recent(
        &mut self,
        client: &Client,
        under_way: &[JobView],
        finished: Vec<JobView>,
    ) -> Result<Vec<JobView>, ClientError> {
        let now: HashSet<u64> = under_way.iter().map(|job| job.id).collect();
        let known: HashSet<u64> = finished.iter().map(|job| job.id).collect();
        let gone: Vec<u64> = self.ran.difference(&now).filter(|id| !known.contains(id)).copied().collect();
        for id in gone.into_iter().take(ENDED_MAX) {
            match job(client, id) {
                Ok(job) if job.state == "finished" => {
                    self.ended.insert(id, job);
                }
                // It waits for a re-try, or was removed.
                Ok(_) => {}
                Err(error) if error.is_passing() => return Err(error),
                Err(_) => {}
            }
        }
        self.ran = now;
        let mut recent: BTreeMap<u64, JobView> = self.ended.clone();
        recent.extend(finished.into_iter().map(|job| (job.id, job)));
        let mut recent: Vec<JobView> = recent.into_values().collect();
        recent.sort_by_cached_key(|job| std::cmp::Reverse((job.finished_at.clone(), job.id)));
        recent.truncate(RECENT_MAX);
        self.ended.retain(|id, _| recent.iter().any(|job| job.id == *id));
        Ok(recent)
    }
}
