//! Changes that a record refuses.

use crate::id::{AttemptNumber, JobId};
use crate::state::{EventKind, Phase};

/// Why a fact cannot be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Illegal {
    /// No such open job.
    NoJob(JobId),
    /// The table has no such cell.
    Transition(JobId, Phase, EventKind),
    /// Another attempt than the open one.
    Attempt(JobId, AttemptNumber),
    /// The id is taken, or not higher than all before.
    Id(JobId),
    /// The place is taken or not there.
    Place(JobId),
}

impl std::fmt::Display for Illegal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoJob(job) => write!(f, "job {job} is not open"),
            Self::Transition(job, phase, event) => write!(f, "job {job} is {}: {event:?} cannot happen", phase.word()),
            Self::Attempt(job, attempt) => write!(f, "attempt {attempt} is not the open one of job {job}"),
            Self::Id(job) => write!(f, "job id {job} was given before"),
            Self::Place(job) => write!(f, "job {job} was claimed for a place that is not free"),
        }
    }
}

impl std::error::Error for Illegal {}
