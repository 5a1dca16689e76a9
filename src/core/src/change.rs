//! What can be recorded. The store keeps it, the record applies it, nothing else changes either.

use crate::id::{AttemptNumber, Epoch, JobId, PoolId};
use crate::job::{Condition, JobSpec};
use crate::limits::Limits;
use crate::outcome::{AttemptResult, By};
use crate::state::{Event, Phase};
use crate::time::{Instant, Now};

/// What the user wants of a job, kept apart from its state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Wish {
    /// Run it.
    #[default]
    Run,
    /// Keep it in the queue.
    Hold {
        /// Who wants it.
        by: String,
        /// In words; may be empty.
        reason: String,
    },
    /// End it.
    Cancel {
        /// Who wants it.
        by: By,
    },
}

/// A new job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submission {
    /// Given by the engine, in order.
    pub id: JobId,
    /// The valid specification.
    pub spec: JobSpec,
    /// For each entry of `spec.terms.after` whose job is already finished: whether it succeeded. In the same order.
    pub finished: Vec<Option<bool>>,
    /// The group's limit that holds for it, resolved; None without group.
    pub group_limit: Option<u32>,
    /// Who submitted it, as the peer credentials name them.
    pub submitter: String,
}

/// Claims stop on the whole host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pause {
    /// Who.
    pub by: String,
    /// In words; may be empty.
    pub reason: String,
    /// Since when.
    pub since: Now,
    /// True for `drain`: the operator waits for the host to be empty.
    pub drain: bool,
}

/// One fact to record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A job was acknowledged.
    Submitted(Box<Submission>),
    /// Something happened to a job.
    Job {
        /// Which.
        id: JobId,
        /// What.
        event: Event,
    },
    /// Somebody wants something else of a job.
    Wished {
        /// Which.
        id: JobId,
        /// What.
        wish: Wish,
    },
    /// Another priority.
    Reprioritized {
        /// Which.
        id: JobId,
        /// New value.
        priority: i16,
    },
    /// `pause`, `drain` (Some) or `resume` (None).
    Paused(Option<Pause>),
}

/// A change and when it was decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// When.
    pub at: Now,
    /// What.
    pub change: Change,
}

/// An open job as the store tells it when the record is rebuilt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenJob {
    /// Id.
    pub id: JobId,
    /// When it was acknowledged.
    pub submitted: Instant,
    /// What scheduling needs; `after` holds only dependencies that are still open or impossible, `limits` the memory that
    /// the next attempt gets when it grew after one that was out of memory.
    pub terms: crate::job::Terms,
    /// The group's limit.
    pub group_limit: Option<u32>,
    /// What its unfinished dependencies wait for.
    pub waits_for: Vec<(JobId, Condition)>,
    /// A dependency that can no longer be fulfilled.
    pub impossible: Option<JobId>,
    /// Where it stands; never `Finished`.
    pub phase: Phase,
    /// When queued: not before.
    pub ready_at: Instant,
    /// Last attempt number given; 0 before the first.
    pub attempt: u32,
    /// Tries that ended.
    pub tries: u32,
    /// How the last of them ended; of a job that does not expire it need not be told.
    pub last: Option<AttemptResult>,
    /// What the user wants.
    pub wish: Wish,
    /// The open attempt, when starting, running or stopping.
    pub lease: Option<Lease>,
}

impl Lease {
    /// No spawner can know of it: no `start` was sent, and none was refused. Whatever becomes of it needs no word of a spawner.
    pub fn is_unsent(&self) -> bool {
        self.dispatched.is_none() && self.refused.is_none()
    }
}

/// This host may run this attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Which attempt.
    pub attempt: AttemptNumber,
    /// Where.
    pub pool: PoolId,
    /// Which place, from 0.
    pub slot: u32,
    /// Under which life of the spawner's directory.
    pub epoch: Epoch,
    /// What it may use, as it was decided at the claim.
    pub limits: Limits,
    /// When it was claimed.
    pub claimed: Instant,
    /// When its start was recorded.
    pub started: Option<Instant>,
    /// Who wants it to end, and when SIGKILL follows.
    pub stop: Option<(By, Instant)>,
    /// Since when a `start` may be on its way; None: certainly not. Not stored: a store tells the time of the claim.
    pub dispatched: Option<Instant>,
    /// Since when its starts are refused, one after the other; None: nobody said so. A spawner may know of such a claim, so it is
    /// not given back without `void`. Not stored.
    pub refused: Option<Instant>,
}
