//! Why a job does not run. Every reason that holds is named, the one that decides first.

use crate::busy::Busy;
use crate::change::{Pause, Wish};
use crate::id::{AttemptNumber, JobId, PoolId};
use crate::job::Condition;
use crate::labels::Label;
use crate::limits::Shortage;
use crate::outcome::By;
use crate::record::Record;
use crate::state::Phase;
use crate::time::{Instant, WallTime};

/// Jobs ahead are counted up to this.
pub const AHEAD_COUNTED_MAX: usize = 10_000;

/// One reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It runs.
    Running {
        /// Which attempt.
        attempt: AttemptNumber,
        /// Where.
        pool: String,
        /// Which place.
        slot: u32,
    },
    /// It was claimed and starts at once, or when a place is free.
    Starting {
        /// Which attempt.
        attempt: AttemptNumber,
        /// Where.
        pool: String,
    },
    /// It is being stopped.
    Stopping {
        /// Who wants it.
        by: By,
        /// When SIGKILL follows.
        kill_at: Instant,
    },
    /// It is about to be dropped.
    Cancelled {
        /// Who wants it.
        by: By,
    },
    /// `hold`.
    Held {
        /// Who.
        by: String,
        /// In words; may be empty.
        reason: String,
    },
    /// It waits for another job.
    WaitsFor {
        /// Which.
        job: JobId,
        /// What must become of it.
        on: Condition,
        /// Where that stands.
        phase: Option<Phase>,
    },
    /// `--at`.
    NotBefore(WallTime),
    /// `--in`, or the delay of a retry.
    Delayed {
        /// Until then.
        until: Instant,
        /// Tries that ended; 0 means `--in`.
        tries: u32,
    },
    /// Its concurrency group is full.
    Group {
        /// Name.
        name: String,
        /// Limit.
        limit: u32,
        /// Who holds it.
        holders: Vec<JobId>,
        /// Members that go first.
        ahead: usize,
        /// Where it is not the holders that fill it: the first of those, and what that one waits for itself.
        first: Option<(JobId, Option<Box<Reason>>)>,
    },
    /// The host is paused or drained.
    Paused(Pause),
    /// A limit of the host is passed.
    Busy(Busy),
    /// No pool can ever take it as the host is configured.
    NoPool {
        /// Wanted name.
        pool: Option<String>,
        /// Wanted labels.
        labels: Vec<Label>,
        /// The pool that lacks fewest labels, and which.
        nearest: Option<(String, Vec<Label>)>,
    },
    /// All places that could take it are taken.
    NoSlot {
        /// Pools that could take it, with slots and holders.
        pools: Vec<(String, u32, Vec<JobId>)>,
    },
    /// What it declares would not fit beside what open attempts were promised.
    Resources(Shortage),
    /// It would fit, but a job before it does not and has waited long enough: memory and CPU are kept for that one.
    MakesWay {
        /// Which.
        job: JobId,
    },
    /// Others go first.
    Behind {
        /// How many, at most [`AHEAD_COUNTED_MAX`].
        ahead: usize,
    },
    /// Nothing is in the way: it is claimed at the next turn of the loop.
    Next,
}

impl Record {
    /// Why an open job does not run (or that it does). None: the job is not open.
    pub fn explain(&self, id: JobId) -> Option<Vec<Reason>> {
        self.explain_where(id, &|_| true)
    }

    /// The same while claims are made in pools that are `open`: a free place in another is no place. Where none that the job may go to
    /// is, it is answered as if all were, and who closed them knows why it waits.
    pub fn explain_where(&self, id: JobId, open: &dyn Fn(PoolId) -> bool) -> Option<Vec<Reason>> {
        let phase = self.phase(id)?;
        if phase != Phase::Queued {
            return Some(self.explain_lease(id, phase).into_iter().collect());
        }
        let mut reasons = Vec::new();
        match self.wish(id)? {
            Wish::Cancel { by } => reasons.push(Reason::Cancelled { by: by.clone() }),
            Wish::Hold { by, reason } => reasons.push(Reason::Held { by: by.clone(), reason: reason.clone() }),
            Wish::Run => {}
        }
        reasons.extend(self.explain_waits(id, open));
        if let Some(pause) = self.paused() {
            reasons.push(Reason::Paused(pause.clone()));
        }
        reasons.extend(self.busy().iter().copied().map(Reason::Busy));
        reasons.extend(self.explain_placement(id, reasons.is_empty(), open));
        if reasons.is_empty() {
            reasons.push(Reason::Next);
        }
        Some(reasons)
    }

    fn explain_lease(&self, id: JobId, phase: Phase) -> Option<Reason> {
        let lease = self.lease(id)?;
        let pool = self.pool_name(lease.pool).to_owned();
        match (phase, &lease.stop) {
            (Phase::Stopping, Some((by, kill_at))) => Some(Reason::Stopping { by: by.clone(), kill_at: *kill_at }),
            (Phase::Starting, _) => Some(Reason::Starting { attempt: lease.attempt, pool }),
            _ => Some(Reason::Running { attempt: lease.attempt, pool, slot: lease.slot }),
        }
    }
}
