//! The words between the daemon and the spawner, as the spawner's protocol has them, without bytes.

use ci_runner_core::id::{Epoch, JobId};
use ci_runner_core::outcome::AttemptResult;
use ci_runner_core::reconcile::Seen;
use std::collections::VecDeque;
use std::fmt;

/// One attempt of the one store.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Job.
    pub job: JobId,
    /// Attempt.
    pub attempt: u32,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.job, self.attempt)
    }
}

/// What rides with `start`. The last two are for the checkers only: the limits that held when it was sent.
#[derive(Clone, Debug)]
pub struct Start {
    /// Which attempt.
    pub key: Key,
    /// Pool.
    pub pool: String,
    /// Concurrency group.
    pub group: Option<String>,
    /// Hard deadline.
    pub timeout_ms: i64,
    /// From SIGTERM to the kill when the deadline passes.
    pub grace_ms: i64,
    /// Slots of the pool.
    pub slots: u32,
    /// Limit of the group.
    pub limit: u32,
}

/// Daemon to spawner.
#[derive(Clone, Debug)]
pub enum Request {
    /// First message of a connection.
    Hello {
        /// The daemon's start count.
        generation: u64,
    },
    /// Run it, at most once.
    Start(Start),
    /// Make sure that it never runs.
    Void(Key),
    /// End it.
    Signal {
        /// Whom.
        key: Key,
        /// From SIGTERM to the kill.
        grace_ms: u64,
    },
    /// Kill it.
    Kill(Key),
    /// Tell all.
    List,
    /// Remove what is left of it.
    Forget(Key),
}

/// Spawner to daemon.
#[derive(Clone, Debug)]
pub enum Reply {
    /// The connection is yours.
    Welcome(Epoch),
    /// It is not: a higher generation was here.
    Refused,
    /// Its shim runs.
    Started(Key),
    /// It cannot be started; true when it was voided.
    RefusedStart(Key, bool),
    /// It never ran and never will.
    Voided(Key),
    /// It is over.
    Ended(Key, Option<AttemptResult>),
    /// One line of the list.
    Attempt(Key, Seen),
    /// End of the list.
    Listed,
}

impl Reply {
    /// True for the answers that `list` would tell again: a test may lose or double them.
    pub fn is_repeatable(&self) -> bool {
        matches!(self, Self::Started(_) | Self::Voided(_) | Self::Ended(..) | Self::RefusedStart(..))
    }
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    /// Its number.
    pub id: u64,
    /// Generation it said `hello` with, once read.
    pub generation: Option<u64>,
    /// Not yet read by the spawner.
    pub to_spawner: VecDeque<Request>,
    /// Not yet read by the daemon.
    pub to_daemon: VecDeque<Reply>,
    /// The daemon's end is open.
    pub daemon_open: bool,
    /// The spawner's end is open.
    pub spawner_open: bool,
    /// The spawner does not come to read it before that.
    pub late_until: i64,
}
