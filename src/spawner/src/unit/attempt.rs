//! What the loop knows of an attempt.

use std::os::fd::{OwnedFd, RawFd};

use super::cgroup::UnitGroup;
use super::verdict::Ending;
use crate::daemons::{Known, Standing, Wish};
use crate::protocol::ExitRecord;

/// What is known of an attempt.
pub(super) enum State {
    /// Its shim lives.
    Live(Live),
    /// A shim holds the lock and has not yet said who it is, or what is there cannot be read now.
    Unidentified { again_ms: u64, wish: Option<Wish> },
    /// Its shim died without a record; its unit is being ended.
    Leftovers(Leftovers),
    /// Never began, can be started.
    NotBegan,
    /// Can never be started.
    Voided,
    /// Over. The record is on the disk, or here when it could not be written.
    Ended(Option<Box<ExitRecord>>),
    /// Over without a record.
    Lost,
}

/// What became of the call that starts the unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Call {
    /// On its way, or nobody knows since then (CLOCK_BOOTTIME) what became of it.
    Unknown { since_ms: u64 },
    /// PID 1 took it.
    Taken,
    /// It was refused, or its unit is gone: the shim is told to give up, for this reason.
    Failed(String),
}

/// An attempt whose shim lives.
pub(super) struct Live {
    pub(super) pid: i32,
    /// None only where there was no descriptor for it; then SIGCHLD tells.
    pub(super) pidfd: Option<OwnedFd>,
    /// The shim's descriptor of its lock.
    pub(super) lock_fd: RawFd,
    pub(super) group: UnitGroup,
    pub(super) call: Call,
    /// How the unit ended, once PID 1 has said so.
    pub(super) over: Option<Ending>,
    /// Since when the shim has that in its lock file, because it cannot be written.
    pub(super) handed_ms: Option<u64>,
    /// SIGTERM was wanted and may not have reached PID 1.
    pub(super) terminate: bool,
    /// When everything is killed.
    pub(super) kill_ms: Option<u64>,
    /// When it needs a look, CLOCK_BOOTTIME.
    pub(super) due_ms: u64,
    /// How long to wait after that.
    pub(super) pause_ms: u64,
}

/// A unit without shim.
pub(super) struct Leftovers {
    pub(super) group: UnitGroup,
    /// How the unit ended, if PID 1 had said so; it may stand nowhere else.
    pub(super) ending: Option<Ending>,
    pub(super) again_ms: u64,
    pub(super) pause_ms: u64,
}

impl Known for State {
    fn standing(&self) -> Standing {
        match self {
            Self::Live(_) | Self::Unidentified { .. } | Self::Leftovers(_) => Standing::Alive,
            Self::NotBegan => Standing::Free,
            Self::Voided => Standing::Voided,
            Self::Ended(_) | Self::Lost => Standing::Over,
        }
    }
}

impl State {
    /// When it needs a look, CLOCK_BOOTTIME; None: never.
    pub(super) fn due_ms(&self) -> Option<u64> {
        match self {
            Self::Live(live) => Some(live.kill_ms.map_or(live.due_ms, |at| at.min(live.due_ms))),
            Self::Unidentified { again_ms, .. } => Some(*again_ms),
            Self::Leftovers(leftovers) => Some(leftovers.again_ms),
            Self::NotBegan | Self::Voided | Self::Ended(_) | Self::Lost => None,
        }
    }
}
