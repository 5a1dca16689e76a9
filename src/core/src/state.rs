//! The states of a job, the events that move it, and the one table that says which moves are legal.
//!
//! `docs/state-machine.md` is generated from [`next`]; a cell that is not in the table is an error, not a no-op.

use crate::id::{AttemptNumber, Epoch, PoolId};
use crate::limits::Limits;
use crate::outcome::{AttemptResult, By, Outcome};
use crate::time::Instant;

/// Where an open job stands. A finished job has left the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    /// Waits.
    Queued,
    /// Claimed: this host may start it.
    Starting,
    /// Its process runs.
    Running,
    /// It was told to end.
    Stopping,
    /// It has an outcome.
    Finished,
}

impl Phase {
    /// In the order of a job's life.
    pub const ALL: [Self; 5] = [Self::Queued, Self::Starting, Self::Running, Self::Stopping, Self::Finished];

    /// The word users and the database see.
    pub fn word(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Finished => "finished",
        }
    }

    /// From its word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|phase| phase.word() == word)
    }
}

/// A stored fact about a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// This host may run the attempt.
    Claimed {
        /// Number of the attempt: the last one plus one.
        attempt: AttemptNumber,
        /// In which pool.
        pool: PoolId,
        /// Which place of the pool, from 0: names the temporary directory.
        slot: u32,
        /// Under which life of the spawner's directory.
        epoch: Epoch,
        /// What it may use: the job's own limits, else the pool's defaults.
        limits: Limits,
    },
    /// The claim was given back; the number is burnt and does not count as a try.
    Released {
        /// Which attempt.
        attempt: AttemptNumber,
    },
    /// Its shim runs.
    Started {
        /// Which attempt.
        attempt: AttemptNumber,
    },
    /// What was said to run did not begin: its shim ended before it let the job run.
    Refused {
        /// Which attempt.
        attempt: AttemptNumber,
    },
    /// The lease goes on (fleets only; on one host a lease never ends by itself).
    Renewed {
        /// Which attempt.
        attempt: AttemptNumber,
    },
    /// It must end.
    StopRequested {
        /// Which attempt.
        attempt: AttemptNumber,
        /// Who wants it.
        by: By,
        /// When SIGKILL follows.
        kill_at: Instant,
    },
    /// The attempt is over.
    Ended {
        /// Which attempt.
        attempt: AttemptNumber,
        /// How.
        result: AttemptResult,
        /// What was decided then; a replay does not depend on today's policy.
        next: Next,
    },
    /// It ended while queued.
    Dropped {
        /// How.
        outcome: Outcome,
    },
}

/// What follows the end of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Queued again.
    Retry {
        /// Not before.
        ready_at: Instant,
        /// The memory limit from now on, when it grew; None: as before.
        memory_bytes: Option<u64>,
    },
    /// Finished.
    Finish {
        /// How.
        outcome: Outcome,
    },
}

/// The kinds of [`Event`], as rows of the table. `Ended` has two, for its two targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// [`Event::Claimed`].
    Claimed,
    /// [`Event::Released`].
    Released,
    /// [`Event::Started`].
    Started,
    /// [`Event::Refused`].
    Refused,
    /// [`Event::Renewed`].
    Renewed,
    /// [`Event::StopRequested`].
    StopRequested,
    /// [`Event::Ended`] with [`Next::Retry`].
    EndedRetry,
    /// [`Event::Ended`] with [`Next::Finish`].
    EndedFinish,
    /// [`Event::Dropped`].
    Dropped,
}

impl EventKind {
    /// In the order of a job's life.
    pub const ALL: [Self; 9] = [
        Self::Claimed,
        Self::Released,
        Self::Started,
        Self::Refused,
        Self::Renewed,
        Self::StopRequested,
        Self::EndedRetry,
        Self::EndedFinish,
        Self::Dropped,
    ];
}

impl Event {
    /// Row of the table.
    pub fn kind(&self) -> EventKind {
        match self {
            Self::Claimed { .. } => EventKind::Claimed,
            Self::Released { .. } => EventKind::Released,
            Self::Started { .. } => EventKind::Started,
            Self::Refused { .. } => EventKind::Refused,
            Self::Renewed { .. } => EventKind::Renewed,
            Self::StopRequested { .. } => EventKind::StopRequested,
            Self::Ended { next: Next::Retry { .. }, .. } => EventKind::EndedRetry,
            Self::Ended { next: Next::Finish { .. }, .. } => EventKind::EndedFinish,
            Self::Dropped { .. } => EventKind::Dropped,
        }
    }

    /// The attempt it speaks of; None for `Dropped`.
    pub fn attempt(&self) -> Option<AttemptNumber> {
        match self {
            Self::Claimed { attempt, .. }
            | Self::Released { attempt }
            | Self::Started { attempt }
            | Self::Refused { attempt }
            | Self::Renewed { attempt }
            | Self::StopRequested { attempt, .. }
            | Self::Ended { attempt, .. } => Some(*attempt),
            Self::Dropped { .. } => None,
        }
    }
}

/// The table: where an event leads from a phase; None where it is illegal.
///
/// `Released` is legal while stopping: a stop that reaches an attempt which never began gives the claim back, and the
/// queued job is then dropped by its wish. `Refused` leads back, and `Released` is legal while running, because `Started` is
/// said when the shim is there: one that ends before it let the job run leaves an attempt that did not begin.
pub fn next(phase: Phase, event: EventKind) -> Option<Phase> {
    use EventKind as E;
    use Phase as P;
    match (phase, event) {
        (P::Queued, E::Claimed) => Some(P::Starting),
        (P::Queued, E::Dropped) => Some(P::Finished),
        (P::Starting, E::Started) => Some(P::Running),
        (P::Running, E::Refused) => Some(P::Starting),
        (P::Starting | P::Running | P::Stopping, E::Released) => Some(P::Queued),
        (P::Starting | P::Running | P::Stopping, E::Renewed) => Some(phase),
        (P::Starting | P::Running, E::StopRequested) => Some(P::Stopping),
        (P::Starting | P::Running | P::Stopping, E::EndedRetry) => Some(P::Queued),
        (P::Starting | P::Running | P::Stopping, E::EndedFinish) => Some(P::Finished),
        (
            P::Queued | P::Starting | P::Running | P::Stopping | P::Finished,
            E::Claimed
            | E::Released
            | E::Started
            | E::Refused
            | E::Renewed
            | E::StopRequested
            | E::EndedRetry
            | E::EndedFinish
            | E::Dropped,
        ) => None,
    }
}
