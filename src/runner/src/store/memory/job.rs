//! One job of the store in memory.

use crate::store::{AttemptRow, EndMark, EndedJob, JobRow};
use ci_runner_core::change::{Lease, OpenJob, Wish};
use ci_runner_core::id::{AttemptNumber, Epoch, JobId, PoolId};
use ci_runner_core::job::{Condition, JobSpec};
use ci_runner_core::limits::Limits;
use ci_runner_core::outcome::{AttemptResult, By, Outcome};
use ci_runner_core::state::Phase;
use ci_runner_core::time::{Instant, Now, WallTime};

/// As submitted, and what became of it.
pub(super) struct Job {
    pub spec: JobSpec,
    pub group_limit: Option<u32>,
    pub submitter: String,
    pub submitted: Now,
    pub ready_at: Instant,
    pub tries: u32,
    pub wish: Wish,
    pub waits_for: Vec<(JobId, Condition)>,
    /// The memory limit from now on, when it grew.
    pub grown: Option<u64>,
    pub held_by: Option<OpenAttempt>,
    /// All attempts, the open one included.
    pub attempts: Vec<AttemptRow>,
    /// The first start of an attempt that is over.
    pub started: Option<Now>,
    pub finished: Option<(WallTime, Outcome)>,
    /// When it finished, engine time.
    pub ended: Option<Instant>,
    /// An idempotency key stands for it.
    pub keyed: bool,
}

/// What the lease says beyond its attempt's row.
pub(super) struct OpenAttempt {
    pub epoch: Epoch,
    pub claimed: Instant,
    pub started: Option<Now>,
    pub stop: Option<(By, Instant)>,
}

impl AttemptRow {
    pub(super) fn open(number: AttemptNumber, pool: String, slot: u32, limits: Limits, claimed: WallTime) -> Self {
        Self {
            number,
            pool,
            slot,
            limits,
            claimed,
            started: None,
            ended: None,
            result: None,
            released: false,
            receipt: None,
        }
    }
}

impl Job {
    pub(super) fn is_cancelled(&self) -> bool {
        matches!(self.wish, Wish::Cancel { .. })
    }

    pub(super) fn claim(&mut self, row: AttemptRow, epoch: &Epoch, at: Instant) {
        self.held_by = Some(OpenAttempt { epoch: epoch.clone(), claimed: at, started: None, stop: None });
        self.attempts.push(row);
    }

    pub(super) fn start(&mut self, at: Now) {
        if let (Some(open), Some(row)) = (&mut self.held_by, self.attempts.last_mut()) {
            open.started = Some(at);
            row.started = Some(at.wall);
        }
    }

    /// What was said to run did not begin.
    pub(super) fn refuse(&mut self) {
        if let (Some(open), Some(row)) = (&mut self.held_by, self.attempts.last_mut()) {
            open.started = None;
            row.started = None;
        }
    }

    fn first_start(&self) -> Option<Now> {
        self.started.or_else(|| self.held_by.as_ref()?.started)
    }

    /// Ends the open attempt; without a result it was given back and counts as no try.
    pub(super) fn end(&mut self, result: Option<&AttemptResult>, at: Now) {
        self.started = self.first_start();
        self.held_by = None;
        self.tries += u32::from(result.is_some());
        if let Some(row) = self.attempts.last_mut() {
            row.ended = Some(at.wall);
            row.released = result.is_none();
            row.result = result.cloned();
        }
    }

    pub(super) fn phase(&self) -> Phase {
        match (&self.finished, &self.held_by) {
            (Some(_), _) => Phase::Finished,
            (None, None) => Phase::Queued,
            (None, Some(OpenAttempt { stop: Some(_), .. })) => Phase::Stopping,
            (None, Some(OpenAttempt { started: Some(_), .. })) => Phase::Running,
            (None, Some(_)) => Phase::Starting,
        }
    }

    pub(super) fn as_open(&self, id: JobId, pool_id: &mut dyn FnMut(&str) -> PoolId) -> OpenJob {
        let impossible = match &self.wish {
            Wish::Cancel { by: By::Dependency(other) } => Some(*other),
            Wish::Cancel { .. } | Wish::Hold { .. } | Wish::Run => None,
        };
        let mut terms = self.spec.terms.clone();
        terms.limits.memory_bytes = self.grown.or(terms.limits.memory_bytes);
        terms.after.retain(|after| self.waits_for.contains(&(after.job, after.on)) || Some(after.job) == impossible);
        let lease = self.held_by.as_ref().zip(self.attempts.last()).map(|(open, row)| Lease {
            attempt: row.number,
            pool: pool_id(&row.pool),
            slot: row.slot,
            epoch: open.epoch.clone(),
            limits: row.limits,
            claimed: open.claimed,
            started: open.started.map(|at| at.engine),
            stop: open.stop.clone(),
            dispatched: Some(open.claimed),
            refused: None,
        });
        OpenJob {
            id,
            submitted: self.submitted.engine,
            terms,
            group_limit: self.group_limit,
            waits_for: self.waits_for.clone(),
            impossible,
            phase: self.phase(),
            ready_at: self.ready_at,
            attempt: self.attempts.last().map_or(0, |row| row.number.0),
            tries: self.tries,
            last: self.last_result().filter(|_| self.spec.terms.expires.is_some()).cloned(),
            wish: self.wish.clone(),
            lease,
        }
    }

    fn last_result(&self) -> Option<&AttemptResult> {
        self.attempts.iter().rev().find_map(|row| row.result.as_ref())
    }

    pub(super) fn as_row(&self, id: JobId) -> JobRow {
        let ended = self.attempts.iter().rev().find(|row| row.result.is_some());
        let held = match (&self.finished, &self.wish) {
            (None, Wish::Hold { by, reason }) => Some((by.clone(), reason.clone())),
            _ => None,
        };
        JobRow {
            id,
            spec: self.spec.clone(),
            group_limit: self.group_limit,
            submitter: self.submitter.clone(),
            phase: self.phase(),
            outcome: self.finished.as_ref().map(|(_, outcome)| outcome.clone()),
            result: self.last_result().cloned(),
            attempt: self.attempts.last().map_or(0, |row| row.number.0),
            tries: self.tries,
            ran_in: self.attempts.last().map(|row| row.pool.clone()),
            held,
            submitted: self.submitted.wall,
            started: self.first_start().map(|at| at.wall),
            finished: self.finished.as_ref().map(|(at, _)| *at),
            queue_ms: self.first_start().map(|at| at.engine.since_ms(self.submitted.engine)),
            run_us: ended.and_then(|row| row.receipt).map(|receipt| receipt.run_us),
            own_end: ended
                .filter(|row| row.ended.is_some() && row.ended == self.finished.as_ref().map(|(at, _)| *at))
                .and_then(|row| row.receipt)
                .map(|receipt| receipt.ended),
        }
    }

    /// Its end; None while it is open.
    pub(super) fn as_mark(&self, id: JobId) -> Option<EndMark> {
        let ended = self.as_ended(id)?;
        Some(EndMark {
            id,
            at: self.ended?,
            outcome: ended.outcome,
            name: ended.name.map(str::to_owned),
            pool: ended.pool.map(str::to_owned),
            may_notify: !self.spec.work.notify.is_empty(),
        })
    }

    /// For statistics; None while it is open.
    pub(super) fn as_ended(&self, id: JobId) -> Option<EndedJob<'_>> {
        let (finished, outcome) = self.finished.as_ref()?;
        let receipts = || self.attempts.iter().filter_map(|row| row.receipt.as_ref());
        let last = self.attempts.iter().rev().find(|row| row.result.is_some());
        let ran_in = self.attempts.last().map(|row| row.pool.as_str());
        Some(EndedJob {
            id,
            name: self.spec.name.as_deref(),
            pool: self.spec.terms.pool.as_deref().or(ran_in),
            outcome: Outcome::WORDS.iter().position(|word| *word == outcome.word())?,
            finished: *finished,
            tries: self.tries,
            queue_ms: self.first_start().map(|at| at.engine.since_ms(self.submitted.engine)),
            run_us: last.and_then(|row| row.receipt).map(|receipt| receipt.run_us),
            cpu_us: receipts().map(|receipt| receipt.cpu_user_us + receipt.cpu_system_us).sum(),
            peak_memory_bytes: receipts().map(|receipt| receipt.peak_memory_bytes).max().unwrap_or(0),
        })
    }
}
