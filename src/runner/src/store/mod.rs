//! Where the truth is kept.
//!
//! [`Store`] is the writing side: one owner (the writer thread), whole batches, durable when [`Store::commit`] returns.
//! [`Reader`] is the reading side: any number of them, beside the writer, each seeing whole commits only. Both exist twice,
//! in memory (for `ci-runner run` and tests) and in SQLite; one contract suite runs on both. A store decides nothing.

mod ended;
mod error;
mod filter;
pub mod memory;
mod schedule;
pub mod sqlite;

#[cfg(test)]
mod contract;

use ci_runner_core::change::{Entry, OpenJob, Pause};
use ci_runner_core::id::{AttemptNumber, JobId, PoolId};
use ci_runner_core::job::JobSpec;
use ci_runner_core::limits::Limits;
use ci_runner_core::outcome::{AttemptResult, Outcome, Receipt};
use ci_runner_core::state::Phase;
use ci_runner_core::time::{ClockBase, Instant, Now, WallTime};
use std::collections::HashMap;
use std::sync::Arc;

pub use ended::{EndMark, EndedFilter, EndedJob};
pub use error::StoreError;
pub use filter::JobFilter;
pub use schedule::{RefusedRun, ScheduleRan, ScheduleRow};

/// One thing to keep. A batch of them is kept whole or not at all.
#[derive(Clone, Debug)]
pub enum Write {
    /// A change of the record. With a `Submitted`, the whole specification is kept.
    Entry(Entry),
    /// What an attempt used, and where its log is; rides with its `Ended`.
    Receipt {
        /// Which job.
        job: JobId,
        /// Which attempt.
        attempt: AttemptNumber,
        /// What it used.
        receipt: Receipt,
    },
    /// An idempotency key that was honoured; rides with the `Submitted`s it made.
    Key(KeyRow),
    /// A schedule was added or changed.
    Schedule(ScheduleRow),
    /// What a run changed of a schedule: its request may be large and stays as it is.
    ScheduleRan(ScheduleRan),
    /// A schedule was removed.
    ScheduleRemoved {
        /// Which.
        name: String,
    },
    /// The engine's clock moved to another boot, or the daemon ends cleanly: what [`Loaded`] will tell next time.
    Clock {
        /// Present base.
        base: ClockBase,
        /// Present reading.
        now: Now,
    },
}

/// An idempotency key and what it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRow {
    /// The key as given.
    pub key: String,
    /// SHA-256 of the request's canonical body.
    pub body: [u8; 32],
    /// The jobs it made, in order.
    pub jobs: Vec<JobId>,
    /// When; keys are kept for [`KEY_KEPT_MS`] of engine time, whatever the date is set to.
    pub at: Instant,
}

/// How long an idempotency key is honoured: 24 h.
pub const KEY_KEPT_MS: u64 = 24 * 3600 * 1000;

/// A store that the present one was restored from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormerStore {
    /// Its short id.
    pub store_id: String,
    /// It gave the job ids up to this one, but for those that a store before it gave.
    pub last_id: u64,
    /// Ids up to this one were given in a life that was replaced, and are no jobs here.
    pub skipped_to: u64,
}

/// What a store tells at the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// Short store id: 8 lower-case hex digits, new at creation and at `restore`.
    pub store_id: String,
    /// The stores that it was restored from, oldest first.
    pub former: Vec<FormerStore>,
    /// This start's number, already counted and durable.
    pub generation: u64,
    /// Highest job id ever given; 0 before the first.
    pub last_id: u64,
    /// Pause or drain.
    pub paused: Option<Pause>,
    /// The engine's clock as last written.
    pub clock: Option<ClockBase>,
    /// Latest reading of both clocks in the store.
    pub last: Now,
    /// True when the last daemon did not say [`Store::close`].
    pub unclean: bool,
}

/// What an executor needs of a claimed job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// The specification.
    pub spec: JobSpec,
    /// Who submitted it.
    pub submitter: String,
}

/// The writing side.
pub trait Store: Send {
    /// Counts the start, then gives every open job to `each`, ids rising. `pool_id` says which number the record gives to
    /// the pool of an open attempt.
    fn load(
        &mut self,
        pool_id: &mut dyn FnMut(&str) -> PoolId,
        each: &mut dyn FnMut(OpenJob),
    ) -> Result<Loaded, StoreError>;

    /// As [`Store::load`], but counts nothing and writes nothing: for the same daemon after a commit that failed, also
    /// while the disk is full.
    fn reread(
        &mut self,
        pool_id: &mut dyn FnMut(&str) -> PoolId,
        each: &mut dyn FnMut(OpenJob),
    ) -> Result<Loaded, StoreError>;

    /// Keeps all of `batch` or nothing of it; durable on return. Illegal facts are the caller's fault and are not looked
    /// for. `pools` are the names of the record's pools: `pools[n]` is that of `PoolId(n)`.
    fn commit(&mut self, batch: &[Write], pools: &[String]) -> Result<(), StoreError>;

    /// What to execute, for a job that is open.
    fn claimed(&mut self, id: JobId) -> Result<Option<Claimed>, StoreError>;

    /// Removes finished jobs beyond the limits, oldest first, at most `most`; tells whose logs may go too.
    fn collect(&mut self, limits: &CollectLimits, most: usize) -> Result<Vec<JobId>, StoreError>;

    /// Says that the daemon ends in order.
    fn close(&mut self, base: &ClockBase, now: Now) -> Result<(), StoreError>;
}

/// What `gc` removes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CollectLimits {
    /// Jobs finished before this go.
    pub finished_before: Instant,
    /// But not those that a key stands for, when they were submitted after this.
    pub keyed_since: Instant,
}

/// A key is noted a moment after its jobs were submitted: they are kept so much longer than it is.
const KEYED_KEPT_MS: u64 = KEY_KEPT_MS + 60_000;

impl CollectLimits {
    /// Limits for finished jobs of this age, at this time.
    pub fn new(now: Instant, age_ms: Option<u64>) -> Self {
        let before = |age| Instant(now.0.saturating_sub_unsigned(age));
        Self { finished_before: age_ms.map_or(Instant(i64::MIN), before), keyed_since: before(KEYED_KEPT_MS) }
    }

    /// All that finished.
    pub fn all() -> Self {
        Self { finished_before: Instant(i64::MAX), keyed_since: Instant(i64::MAX) }
    }
}

/// A file that a backup holds beside the store: a host comes back with its configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupFile {
    /// A plain name, such as `config.toml`.
    pub name: String,
    /// What was in it.
    pub content: Vec<u8>,
}

/// A job and when it ended, in engine time; None: it is open.
pub type JobEnd = (JobId, Option<Instant>);

/// The reading side. Cheap to call; may be used from any thread.
pub trait Reader: Send + Sync {
    /// One that waits for nothing that others read; None: this one does not either.
    fn apart(&self) -> Option<Arc<dyn Reader>> {
        None
    }

    /// One job.
    fn job(&self, id: JobId) -> Result<Option<JobRow>, StoreError>;

    /// Its attempts, by number.
    fn attempts(&self, id: JobId) -> Result<Vec<AttemptRow>, StoreError>;

    /// Gives jobs that match to `each`, newest first (or oldest first), at most `filter.limit`, until it says stop (false).
    fn each_job(&self, filter: &JobFilter, each: &mut dyn FnMut(JobRow) -> bool) -> Result<(), StoreError>;

    /// All of them at once: each may have a megabyte.
    fn jobs(&self, filter: &JobFilter) -> Result<Vec<JobRow>, StoreError> {
        let mut rows = Vec::new();
        self.each_job(filter, &mut |row| {
            rows.push(row);
            true
        })?;
        Ok(rows)
    }

    /// Gives finished jobs that match to `each`, the last that finished first, until it says stop (false).
    fn each_ended(&self, filter: &EndedFilter, each: &mut dyn FnMut(EndedJob<'_>) -> bool) -> Result<(), StoreError>;

    /// Jobs that got their outcome at this engine time or later, by it, at most so many.
    fn ends_since(&self, from: Instant, most: usize) -> Result<Vec<EndMark>, StoreError>;

    /// How a finished job ended: true for success. None: not finished, or not there.
    fn ended(&self, id: JobId) -> Result<Option<bool>, StoreError>;

    /// How those of these jobs that are finished ended, by id.
    fn ended_among(&self, ids: &[JobId]) -> Result<HashMap<JobId, bool>, StoreError>;

    /// When the jobs with these ids and between them ended. Those that are gone are left out.
    fn ends(&self, first: JobId, last: JobId) -> Result<Vec<JobEnd>, StoreError>;

    /// An idempotency key that is still kept.
    fn key(&self, key: &str, now: Instant) -> Result<Option<KeyRow>, StoreError>;

    /// Finished jobs since the store was made, by outcome word, those removed by `gc` included.
    fn totals(&self) -> Result<Vec<(String, u64)>, StoreError>;

    /// All schedules, by name.
    fn schedules(&self) -> Result<Vec<ScheduleRow>, StoreError>;

    /// One of them.
    fn schedule(&self, name: &str) -> Result<Option<ScheduleRow>, StoreError>;

    /// Writes a consistent copy of the whole store, and these files in it, to a file that must not exist yet.
    fn backup(&self, to: &std::path::Path, files: &[BackupFile]) -> Result<(), StoreError>;

    /// Looks for damage; an empty list means none was found.
    fn check(&self) -> Result<Vec<String>, StoreError>;
}

/// A job as people see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobRow {
    /// Id.
    pub id: JobId,
    /// The whole specification.
    pub spec: JobSpec,
    /// The group's limit that held when it was submitted.
    pub group_limit: Option<u32>,
    /// Who submitted it.
    pub submitter: String,
    /// Where it stands.
    pub phase: Phase,
    /// How it ended.
    pub outcome: Option<Outcome>,
    /// The last attempt's result, if one ended.
    pub result: Option<AttemptResult>,
    /// Last attempt number given; 0 before the first.
    pub attempt: u32,
    /// Tries that ended.
    pub tries: u32,
    /// Pool of the last attempt.
    pub ran_in: Option<String>,
    /// On hold: by whom and why.
    pub held: Option<(String, String)>,
    /// When it was acknowledged.
    pub submitted: WallTime,
    /// When its first attempt started.
    pub started: Option<WallTime>,
    /// When it got its outcome.
    pub finished: Option<WallTime>,
    /// Engine-clock milliseconds from submission to the first start.
    pub queue_ms: Option<u64>,
    /// Run time of the last ended attempt, microseconds.
    pub run_us: Option<u64>,
    /// When it ended by the account of its last attempt, where that ended it: the daemon may have heard of it much later.
    pub own_end: Option<WallTime>,
}

/// An attempt as people see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptRow {
    /// Number.
    pub number: AttemptNumber,
    /// Pool.
    pub pool: String,
    /// Place in the pool.
    pub slot: u32,
    /// What it may use.
    pub limits: Limits,
    /// When it was claimed.
    pub claimed: WallTime,
    /// When its start was recorded.
    pub started: Option<WallTime>,
    /// When its end was recorded.
    pub ended: Option<WallTime>,
    /// How it ended; None while open and when given back.
    pub result: Option<AttemptResult>,
    /// True when the claim was given back.
    pub released: bool,
    /// What it used.
    pub receipt: Option<Receipt>,
}
