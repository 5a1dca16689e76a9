//! Finished jobs as statistics need them: a few numbers each, so that a hundred thousand of them are read in a second.

use ci_runner_core::id::JobId;
use ci_runner_core::outcome::Outcome;
use ci_runner_core::time::{Instant, WallTime};

/// Which finished jobs are counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndedFilter {
    /// Finished at or after.
    pub since: Option<WallTime>,
    /// Finished before.
    pub until: Option<WallTime>,
    /// Exact name, or a prefix when it ends in `*`.
    pub name: Option<String>,
    /// Pool that it ran in or, if it never ran, named.
    pub pool: Option<String>,
}

/// The end of a job, for those who tell of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndMark {
    /// Its id.
    pub id: JobId,
    /// When it got its outcome.
    pub at: Instant,
    /// Index of its outcome in [`Outcome::WORDS`].
    pub outcome: usize,
    /// Its name.
    pub name: Option<String>,
    /// Pool that it ran in or, if it never ran, named.
    pub pool: Option<String>,
    /// False: it names no notifier.
    pub may_notify: bool,
}

/// A finished job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndedJob<'a> {
    /// Its id.
    pub id: JobId,
    /// Its name.
    pub name: Option<&'a str>,
    /// Pool that it ran in or, if it never ran, named.
    pub pool: Option<&'a str>,
    /// Index of its outcome in [`Outcome::WORDS`].
    pub outcome: usize,
    /// When it got its outcome.
    pub finished: WallTime,
    /// Tries that ended.
    pub tries: u32,
    /// Engine-clock milliseconds from submission to the first start; None: it never started.
    pub queue_ms: Option<u64>,
    /// Run time of the last ended attempt, microseconds.
    pub run_us: Option<u64>,
    /// CPU of all its attempts, microseconds.
    pub cpu_us: u64,
    /// Peak memory of its hungriest attempt, bytes; 0 when not known.
    pub peak_memory_bytes: u64,
}

impl EndedJob<'_> {
    /// Whether it succeeded.
    pub fn succeeded(&self) -> bool {
        Outcome::WORDS.get(self.outcome) == Some(&"succeeded")
    }
}

impl EndedFilter {
    /// Whether a job is one of those asked for.
    pub(crate) fn matches(&self, job: &EndedJob<'_>) -> bool {
        self.since.is_none_or(|since| job.finished >= since)
            && self.until.is_none_or(|until| job.finished < until)
            && self.name.as_deref().is_none_or(|asked| super::filter::name_matches(asked, job.name))
            && self.pool.as_deref().is_none_or(|asked| job.pool == Some(asked))
    }
}
