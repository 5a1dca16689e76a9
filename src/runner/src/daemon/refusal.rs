//! Why the loop said no, and how that reads where nobody waits for an answer: in the story of a schedule.

use ci_runner_core::id::JobId;
use ci_runner_core::job::Fault;
use std::fmt;

/// Jobs that a message names.
const NAMED_MAX: usize = 20;

/// Why the loop said no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A job of the submission is wrong; nothing was queued. Index in the submission.
    Fault {
        /// Which job.
        index: usize,
        /// What is wrong.
        fault: Fault,
    },
    /// The key was used with another body.
    KeyReused {
        /// The key.
        key: String,
        /// Whose it is: of a job of the submission. None: of the submission as a whole.
        index: Option<usize>,
    },
    /// No such job.
    NoJob(JobId),
    /// No such schedule.
    NoSchedule(String),
    /// There is one, which cannot be run: what is stored of it means nothing on this host.
    ScheduleUnread {
        /// Its name.
        name: String,
        /// What is wrong, in words.
        why: String,
    },
    /// A schedule of that name is there.
    ScheduleExists(String),
    /// The configuration declares it: it is changed and removed there.
    ScheduleDeclared(String),
    /// There are as many schedules as there may be.
    SchedulesFull {
        /// Most of them.
        limit: usize,
    },
    /// What schedules ask for is as large as it may be.
    SchedulesLarge {
        /// Most bytes of all their jobs.
        limit: usize,
    },
    /// The queue is full; the limit.
    QueueFull {
        /// Most open jobs.
        limit: usize,
    },
    /// A submission that the queue cannot take, however empty it is.
    TooMany {
        /// Its jobs.
        jobs: usize,
        /// Most open jobs.
        limit: usize,
    },
    /// Open jobs, with those of the submission, would ask for too many different sets of pool, labels and limits.
    ClassesFull {
        /// Most of them.
        limit: usize,
    },
    /// Actions on very many jobs are under way.
    ActionsFull {
        /// Most jobs that they may be on together.
        limit: usize,
    },
    /// The disk is full.
    DiskFull,
    /// The store failed; in words. Nothing was kept.
    Store(String),
    /// Running attempts are told to end, but that is not recorded, because of the other refusal: a daemon that ends now forgets it.
    StopUnrecorded {
        /// Whose.
        jobs: Vec<JobId>,
        /// Why it could not be recorded.
        why: Box<Refusal>,
    },
    /// The daemon is going away, and has not taken it.
    Stopping,
    /// The daemon went away and nobody knows whether it took it.
    Unknown,
}

impl Refusal {
    /// The same of one job of a submission, where it is about its key.
    pub fn of_job(self, index: usize) -> Self {
        match self {
            Self::KeyReused { key, index: _ } => Self::KeyReused { key, index: Some(index) },
            other => other,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fault { index: _, fault } => write!(f, "{fault}"),
            Self::KeyReused { key, index: _ } => write!(f, "the key {key:?} was used for another job"),
            Self::NoJob(id) => write!(f, "there is no job {id}"),
            Self::NoSchedule(name) => write!(f, "there is no schedule {name:?}"),
            Self::ScheduleUnread { name, why } => write!(f, "the schedule {name:?} cannot be run: {why}"),
            Self::ScheduleExists(name) => write!(f, "there is a schedule {name:?} already"),
            Self::ScheduleDeclared(name) => write!(f, "the configuration declares the schedule {name:?}"),
            Self::SchedulesFull { limit } => write!(f, "there are {limit} schedules, and more there may not be"),
            Self::SchedulesLarge { limit } => {
                write!(
                    f,
                    "the jobs of all schedules would have more than {limit} bytes as JSON, and more they may not have"
                )
            }
            Self::QueueFull { limit } => {
                write!(f, "the queue is full: {limit} open jobs are the limit (`queue_jobs_max`)")
            }
            Self::TooMany { jobs, limit } => {
                write!(
                    f,
                    "{jobs} jobs at once are more than the queue ever takes: {limit} open jobs (`queue_jobs_max`)"
                )
            }
            Self::ClassesFull { limit } => {
                write!(
                    f,
                    "the queue is full: open jobs would ask for more than {limit} different sets of pool, labels and limits. Jobs \
                     without labels and limits, and those that ask for a set in use, are still taken"
                )
            }
            Self::ActionsFull { limit } => {
                write!(f, "actions on very many jobs are under way, and together they may be on {limit} at most")
            }
            Self::DiskFull => write!(f, "the disk of the state directory is full"),
            Self::Store(why) => write!(f, "the store failed: {why}"),
            Self::StopUnrecorded { jobs, why } => {
                let more = jobs.len().saturating_sub(NAMED_MAX);
                let mut named: Vec<String> = jobs.iter().take(NAMED_MAX).map(ToString::to_string).collect();
                named.extend((more > 0).then(|| format!("and {more} more")));
                write!(
                    f,
                    "{why}; ended all the same: {}. They count as cancelled as soon as that can be recorded; if the daemon \
                     ends before, as ended by a signal, and their retry policy decides. Nothing else was done",
                    named.join(", ")
                )
            }
            Self::Stopping => write!(f, "the daemon is going away"),
            Self::Unknown => write!(f, "the daemon went away before the answer"),
        }
    }
}
