//! What the spawner knows of an attempt. The directory is the truth for a successor; this is the same, at hand.

use std::os::fd::OwnedFd;

use crate::attempts::Identity;
use crate::daemons::{Known, Standing, Wish};
use crate::protocol::ExitRecord;

/// One attempt.
pub(super) enum State {
    /// Its shim lives.
    Alive(Shim),
    /// What it is could not be told yet: a shim holds the lock and has not said who it is (a predecessor forked it just
    /// before it died), or we could not look, or have no descriptor to watch it with. Counts as alive.
    Unidentified {
        /// When to look again.
        again_ms: u64,
        /// How long to wait after that.
        pause_ms: u64,
        /// What to pass on once it is known.
        wish: Option<Wish>,
        /// Its shim, if that was seen; it may have ended since.
        shim: Option<Identity>,
        /// Why the last look failed; None: it did not, and what was seen does not say enough.
        failure: Option<String>,
    },
    /// Its shim is gone; how it ended could not be looked up yet.
    Unsettled(Unsettled),
    /// Its shim died without a record; the job is being ended.
    Leftovers(Leftovers),
    /// Nothing of the job lives any more; a child of ours empties its slot's directory.
    Wiping(Identity),
    /// Never began, can be started.
    NotBegan,
    /// Can never be started.
    Voided,
    /// Over. The record is on the disk, or here when it could not be written.
    Ended(Option<Box<ExitRecord>>),
    /// Over without a record.
    Lost,
}

/// A living shim.
pub(super) struct Shim {
    /// What it says (or will say) in its lock file.
    pub(super) identity: Identity,
    /// Of a predecessor's shim; our own are watched by SIGCHLD and cannot lose their process id.
    pub(super) pidfd: Option<OwnedFd>,
    /// When the spawner steps in, CLOCK_BOOTTIME.
    pub(super) force_ms: Option<u64>,
    /// When it first did.
    pub(super) forced_ms: Option<u64>,
    /// Looks in a row that found it stopped.
    pub(super) stopped_looks: u32,
}

/// An end that must still be looked up.
pub(super) struct Unsettled {
    /// Who its shim was.
    pub(super) identity: Identity,
    /// We saw it go: true when it was our own child.
    pub(super) own_child: Option<bool>,
    /// When to look again.
    pub(super) again_ms: u64,
}

/// What a dead shim left.
pub(super) struct Leftovers {
    /// Who it was.
    pub(super) identity: Identity,
    /// We saw it die, so that its job's session id was still its own at that moment.
    pub(super) witnessed: bool,
    /// It was our child, so its orphans are ours: that there are none is a proof.
    pub(super) own_child: bool,
    /// Looks that found nothing, in a row.
    pub(super) clean_looks: u32,
    /// When to look again.
    pub(super) again_ms: u64,
    /// How long to wait after that.
    pub(super) pause_ms: u64,
}

impl Known for State {
    fn standing(&self) -> Standing {
        match self {
            Self::Alive(_) | Self::Unidentified { .. } | Self::Unsettled(_) | Self::Leftovers(_) | Self::Wiping(_) => {
                Standing::Alive
            }
            Self::NotBegan => Standing::Free,
            Self::Voided => Standing::Voided,
            Self::Ended(_) | Self::Lost => Standing::Over,
        }
    }
}

impl State {
    /// When it needs a look, CLOCK_BOOTTIME.
    pub(super) fn due_ms(&self) -> Option<u64> {
        match self {
            Self::Alive(shim) => shim.force_ms,
            Self::Unidentified { again_ms, .. } => Some(*again_ms),
            Self::Unsettled(unsettled) => Some(unsettled.again_ms),
            Self::Leftovers(leftovers) => Some(leftovers.again_ms),
            Self::Wiping(_) | Self::NotBegan | Self::Voided | Self::Ended(_) | Self::Lost => None,
        }
    }
}
