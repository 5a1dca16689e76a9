//! The daemon's own figures: counted by the loop, copied with its snapshots, written as text wherever somebody scrapes.
//!
//! A [`Figures`] belongs to the loop alone: no lock, no atomics. Whoever scrapes has a copy of it that is at most 100 ms old,
//! and makes the text of that on its own thread ([`Figures::families`]).
//!
//! Cardinality is bounded: free label values are a pool's name, of which there are at most [`POOLS_MAX`], and a job's name,
//! of which there are at most [`NAMES_MAX`]; everything else is an enum here. Never a job id, commit, user or URL.
//!
//! Counters go on over a restart of the daemon: [`Keeper`] writes them down before it shows them.
//! Why no library: `docs/decisions/0007-own-figures.md`.

mod histogram;
mod hour;
mod keep;
mod names;
mod process;
mod render;
#[cfg(test)]
mod tests;
mod words;

use histogram::{Histogram, Scale};
use hour::Hour;
pub use keep::{FILE_NAME, Keeper};
use names::Names;
pub use names::{NAME_BYTES_MAX, NAMES_MAX};
pub use process::process_families;
pub use render::Scrape;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;
pub use words::{JobOutcome, JobState, LossCause, RetryCause};

/// Label values that pools can take; a pool beyond is counted as [`OTHER`].
pub const POOLS_MAX: usize = 64;
/// Pools beyond [`POOLS_MAX`], together.
pub const OTHER: &str = "other";

/// What an ended attempt used.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttemptUse {
    /// Peak resident memory.
    pub max_rss_bytes: u64,
    /// User and system time.
    pub cpu: Duration,
    /// Bytes of its log.
    pub log_bytes: u64,
    /// Bytes of output beyond the log's limit.
    pub log_dropped_bytes: u64,
}

/// All figures of one daemon.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Figures {
    pools: BTreeMap<String, PoolFigures>,
    retries: [u64; RetryCause::NAMES.len()],
    losses: [u64; LossCause::NAMES.len()],
    /// Attempts found alive at the start, by executor.
    adoptions: BTreeMap<String, u64>,
    /// Runs of schedules that could not be queued. Not in files of earlier versions.
    #[serde(default)]
    schedule_refusals: u64,
    commits: Histogram,
    names: Names,
    /// Outcomes of jobs in pools that are gone; not shown, but the store counts them too.
    gone: [u64; JobOutcome::NAMES.len()],
    /// Outcomes that were shown and whose commit a crash prevented: they come again and are not counted twice.
    ahead: [u64; JobOutcome::NAMES.len()],
    #[serde(skip)]
    hour: Hour,
    #[serde(skip)]
    log_file_bytes: Option<u64>,
    /// Grows with every change of what is kept.
    #[serde(skip)]
    changes: u64,
}

/// The figures of one pool.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PoolFigures {
    /// By executor.
    finished: BTreeMap<String, [u64; JobOutcome::NAMES.len()]>,
    run: Histogram,
    queue: Histogram,
    claim: Histogram,
    ack_to_start: Histogram,
    max_rss: Histogram,
    cpu: Histogram,
    log_bytes: u64,
    log_dropped_bytes: u64,
    #[serde(skip)]
    now: PoolNow,
}

/// What holds now, and is not kept.
#[derive(Clone, Copy, Debug, Default)]
pub struct PoolNow {
    /// Open jobs, in the order of [`JobState`].
    pub open: [u64; JobState::NAMES.len()],
    /// Slots taken.
    pub used: u32,
    /// Slots there are.
    pub slots: u32,
    /// When the oldest queued job was submitted, wall milliseconds.
    pub oldest_queued_ms: Option<i64>,
    /// Attempts that neither start nor end although they should.
    pub stuck: u64,
}

impl Default for Figures {
    fn default() -> Self {
        Self {
            pools: BTreeMap::new(),
            retries: Default::default(),
            losses: Default::default(),
            adoptions: BTreeMap::new(),
            schedule_refusals: 0,
            commits: Histogram::new(Scale::Commit),
            names: Names::default(),
            gone: Default::default(),
            ahead: Default::default(),
            hour: Hour::default(),
            log_file_bytes: None,
            changes: 0,
        }
    }
}

impl PoolFigures {
    fn new() -> Self {
        Self {
            finished: BTreeMap::new(),
            run: Histogram::new(Scale::Run),
            queue: Histogram::new(Scale::Queue),
            claim: Histogram::new(Scale::Commit),
            ack_to_start: Histogram::new(Scale::Commit),
            max_rss: Histogram::new(Scale::Memory),
            cpu: Histogram::new(Scale::Run),
            log_bytes: 0,
            log_dropped_bytes: 0,
            now: PoolNow::default(),
        }
    }

    /// What was kept, as far as it fits this program.
    fn sound(self) -> Self {
        Self {
            run: self.run.sound(Scale::Run),
            queue: self.queue.sound(Scale::Queue),
            claim: self.claim.sound(Scale::Commit),
            ack_to_start: self.ack_to_start.sound(Scale::Commit),
            max_rss: self.max_rss.sound(Scale::Memory),
            cpu: self.cpu.sound(Scale::Run),
            ..self
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

impl Figures {
    /// The figures of a pool; those beyond [`POOLS_MAX`] share one.
    fn pool(&mut self, name: &str) -> &mut PoolFigures {
        self.changes += 1;
        let name = if self.pools.contains_key(name) || self.pools.len() < POOLS_MAX { name } else { OTHER };
        self.pools.entry(name.to_owned()).or_insert_with(PoolFigures::new)
    }

    /// Lets the series of all other pools go. One that comes back begins at zero, which Prometheus takes for a restart.
    pub fn keep_pools(&mut self, keep: impl Fn(&str) -> bool) {
        let gone = &mut self.gone;
        self.pools.retain(|name, pool| {
            let stays = name == OTHER || keep(name);
            if !stays {
                let counts = pool.finished.values();
                counts.for_each(|counts| gone.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count));
            }
            stays
        });
    }

    /// How things stand in a pool now.
    pub fn set_now(&mut self, pool: &str, executor: &str, now: PoolNow) {
        let changes = self.changes;
        if !self.adoptions.contains_key(executor) {
            self.adoptions.insert(executor.to_owned(), 0);
        }
        let pool = self.pool(pool);
        pool.now = now;
        if !pool.finished.contains_key(executor) {
            pool.finished.insert(executor.to_owned(), Default::default());
        }
        self.changes = changes;
    }

    /// A job reached its outcome.
    pub fn finished(&mut self, pool: &str, executor: &str, outcome: JobOutcome, now_ms: i64) {
        self.hour.count(now_ms);
        let ahead = &mut self.ahead[outcome as usize];
        if *ahead > 0 {
            *ahead -= 1;
            return;
        }
        self.add_finished(pool, executor, outcome, 1);
    }

    /// As [`Figures::finished`], for so many that an earlier daemon recorded and did not count.
    pub fn add_finished(&mut self, pool: &str, executor: &str, outcome: JobOutcome, count: u64) {
        self.pool(pool).finished.entry(executor.to_owned()).or_default()[outcome as usize] += count;
    }

    /// All that were counted with an outcome.
    pub fn finished_total(&self, outcome: JobOutcome) -> u64 {
        let counts = self.pools.values().flat_map(|pool| pool.finished.values());
        counts.map(|counts| counts[outcome as usize]).sum::<u64>() + self.gone[outcome as usize]
    }

    /// A job of this name succeeded.
    pub fn succeeded(&mut self, name: &str, now_ms: i64) {
        self.changes += 1;
        self.names.succeeded(name, now_ms);
    }

    /// An attempt began, so long after its claim; `waited` is how long its job had waited, at its first attempt.
    pub fn started(&mut self, pool: &str, claimed: Duration, waited: Option<Duration>) {
        let pool = self.pool(pool);
        pool.claim.record(micros(claimed));
        if let Some(waited) = waited {
            pool.queue.record(micros(waited));
        }
    }

    /// An attempt began at the next occasion after its job was acknowledged: nothing of the job's held it back.
    pub fn started_at_once(&mut self, pool: &str, took: Duration) {
        self.pool(pool).ack_to_start.record(micros(took));
    }

    /// An attempt ended after so long.
    pub fn attempt_ended(&mut self, pool: &str, ran: Duration, used: AttemptUse) {
        let pool = self.pool(pool);
        pool.run.record(micros(ran));
        pool.max_rss.record(used.max_rss_bytes);
        pool.cpu.record(micros(used.cpu));
        pool.log_bytes += used.log_bytes;
        pool.log_dropped_bytes += used.log_dropped_bytes;
    }

    /// An attempt ended and the job is tried again.
    pub fn retried(&mut self, cause: RetryCause) {
        self.changes += 1;
        self.retries[cause as usize] += 1;
    }

    /// An attempt was lost.
    pub fn lost(&mut self, cause: LossCause) {
        self.changes += 1;
        self.losses[cause as usize] += 1;
    }

    /// An attempt that an earlier daemon started was found alive.
    pub fn adopted(&mut self, executor: &str) {
        self.changes += 1;
        *self.adoptions.entry(executor.to_owned()).or_default() += 1;
    }

    /// A run of a schedule could not be queued.
    pub fn schedule_refused(&mut self) {
        self.changes += 1;
        self.schedule_refusals += 1;
    }

    /// A group commit reached the disk.
    pub fn committed(&mut self, took: Duration) {
        self.changes += 1;
        self.commits.record(micros(took));
    }

    /// How much the logs of jobs hold, when somebody looked.
    pub fn set_log_file_bytes(&mut self, bytes: u64) {
        self.log_file_bytes = Some(bytes);
    }

    fn sound(self) -> Self {
        let pools = self.pools.into_iter().take(POOLS_MAX + 1).map(|(name, pool)| (name, pool.sound())).collect();
        Self { pools, commits: self.commits.sound(Scale::Commit), names: self.names.sound(), ..self }
    }
}
