//! What the loop counts. Each fact is counted where it is noted, once; `crate::metrics` says what becomes of it.

use super::telling::About;
use super::*;
use crate::metrics::{AttemptUse, JobOutcome, JobState, LossCause, PoolNow, RetryCause};
use ci_runner_core::outcome::{AttemptResult, LostCause, Outcome, Receipt};
use ci_runner_core::state::{Next, Phase};

/// A job claimed within so long after its submission found a free slot.
const AT_ONCE_MS: u64 = 100;
/// A start that takes longer, or an end that is later than it should be, is stuck.
const STUCK_MS: u64 = 60_000;

/// The times of an attempt that begins.
#[derive(Clone, Copy)]
pub(super) struct Begin {
    claimed: Instant,
    /// None for a further try: only the first tells how long a job waited.
    submitted: Option<Instant>,
    at: Instant,
}

impl Begin {
    /// Of a claim, before its start is recorded.
    pub(super) fn of(claimed: Instant, submitted: Option<Instant>) -> Self {
        Self { claimed, submitted, at: claimed }
    }

    /// At this moment of the record.
    pub(super) fn now(self, record: &Record, id: JobId) -> Self {
        let submitted = self.submitted.filter(|_| record.tries(id) == Some(0));
        Self { submitted, at: record.now().engine, ..self }
    }
}

impl Engine {
    /// An attempt began.
    pub(super) fn count_start(&mut self, pool: &str, begin: &Begin) {
        let &Begin { claimed, submitted, at } = begin;
        let since = |earlier: Instant| Duration::from_millis(at.since_ms(earlier));
        self.figures.started(pool, since(claimed), submitted.map(since));
        if let Some(submitted) = submitted.filter(|submitted| claimed.since_ms(*submitted) <= AT_ONCE_MS) {
            self.figures.started_at_once(pool, since(submitted));
        }
    }

    /// A job ended without an attempt.
    pub(super) fn count_dropped(&mut self, outcome: &Outcome) {
        let now_ms = self.record.now().wall.0;
        self.figures.finished(commit::NO_POOL, Executor::Native.name(), job_outcome(outcome), now_ms);
    }

    /// An attempt ended.
    pub(super) fn count_end(&mut self, about: &About, result: &AttemptResult, next: &Next, receipt: Option<Receipt>) {
        let now_ms = self.record.now().wall.0;
        let figures = &mut self.figures;
        if let Some(receipt) = receipt {
            let used = AttemptUse {
                max_rss_bytes: receipt.peak_memory_bytes,
                cpu: Duration::from_micros(receipt.cpu_user_us + receipt.cpu_system_us),
                log_bytes: receipt.log_bytes,
                log_dropped_bytes: receipt.log_dropped_bytes,
            };
            figures.attempt_ended(&about.pool, Duration::from_micros(receipt.run_us), used);
        }
        if let AttemptResult::Lost { cause } = result {
            figures.lost(match cause {
                LostCause::Host => LossCause::Host,
                LostCause::Executor => LossCause::Executor,
                LostCause::Stopped => LossCause::Stopped,
            });
        }
        match next {
            Next::Retry { .. } => figures.retried(retry_cause(result)),
            Next::Finish { outcome } => {
                figures.finished(&about.pool, about.executor.name(), job_outcome(outcome), now_ms);
                if let (Outcome::Succeeded, Some(name)) = (outcome, &about.story.name) {
                    figures.succeeded(name, now_ms);
                }
            }
        }
    }

    /// A side has told of all its attempts, for the first time of this daemon: what is alive and ran before is adopted.
    pub(super) fn count_adopted(&mut self, way: Way, open: &[JobId]) {
        if self.counted_adoptions.contains(&way) {
            return;
        }
        self.counted_adoptions.push(way);
        let alive = |id: &&JobId| {
            let attempt = self.record.lease(**id).map(|lease| lease.attempt.0);
            self.watches.get(id).is_some_and(|watch| attempt.is_some_and(|attempt| watch.lives(attempt)))
        };
        for _ in 0..open.iter().filter(alive).count() {
            self.figures.adopted(way.executor().name());
        }
    }

    /// How things stand now, into the figures.
    pub(super) fn measure(&mut self, snapshot: &Snapshot, now: Now) {
        let oldest = self.record.oldest_by_pool();
        // A pool that a reload took away goes with its last open job.
        self.figures.keep_pools(|name| name == commit::NO_POOL || snapshot.pools.iter().any(|pool| pool.name == name));
        let stuck = self.stuck(snapshot, now);
        for pool in &snapshot.pools {
            let counts = snapshot.counts.get(&pool.name).cloned().unwrap_or_default();
            let mut open = [0; 4];
            for (state, count) in [
                (JobState::Queued, counts.queued),
                (JobState::Starting, counts.starting),
                (JobState::Running, counts.running),
                (JobState::Stopping, counts.stopping),
            ] {
                open[state as usize] = count as u64;
            }
            let age = oldest.get(&pool.name).map(|submitted| now.engine.since_ms(*submitted));
            let oldest_queued_ms = age.map(|age| now.wall.0.saturating_sub_unsigned(age));
            let stuck = stuck.iter().filter(|lease| lease.pool == pool.name).count() as u64;
            let present = PoolNow { open, used: pool.used, slots: pool.slots, oldest_queued_ms, stuck };
            self.figures.set_now(&pool.name, self.host.executor_of(&pool.name).name(), present);
        }
    }

    /// Attempts that neither start nor end although they should. A claim that waits for a slot is none of them.
    fn stuck<'a>(&self, snapshot: &'a Snapshot, now: Now) -> Vec<&'a LeaseView> {
        let late = |since: Instant| now.engine.since_ms(since) > STUCK_MS;
        let is_stuck = |view: &&LeaseView| {
            let Some(lease) = self.record.lease(view.job) else { return false };
            match view.phase {
                Phase::Starting => lease.refused.or(lease.dispatched).is_some_and(late),
                Phase::Stopping => lease.stop.as_ref().is_some_and(|stop| late(stop.1)),
                Phase::Queued | Phase::Running | Phase::Finished => false,
            }
        };
        snapshot.leases.iter().filter(is_stuck).collect()
    }
}

/// The outcome as figures name it.
pub(super) fn job_outcome(outcome: &Outcome) -> JobOutcome {
    match outcome {
        Outcome::Succeeded => JobOutcome::Succeeded,
        Outcome::Failed { .. } => JobOutcome::Failed,
        Outcome::TimedOut => JobOutcome::TimedOut,
        Outcome::Cancelled { .. } => JobOutcome::Cancelled,
        Outcome::Superseded { .. } => JobOutcome::Superseded,
        Outcome::Expired => JobOutcome::Expired,
    }
}

/// The cause of a retry as figures name it.
fn retry_cause(result: &AttemptResult) -> RetryCause {
    match result {
        AttemptResult::Exited { .. } => RetryCause::Exit,
        AttemptResult::Signaled { .. } => RetryCause::Signal,
        AttemptResult::OomKilled => RetryCause::Oom,
        AttemptResult::TimedOut => RetryCause::Timeout,
        AttemptResult::FailedToStart { .. } => RetryCause::Start,
        AttemptResult::Lost { .. } => RetryCause::Lost,
    }
}
