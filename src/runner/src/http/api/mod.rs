//! The routes under `/api/v1`, one file for each kind of thing.

pub(super) mod act;
pub(super) mod events;
pub(super) mod host;
pub(super) mod jobs;
mod known;
pub(super) mod log;
pub(super) mod schedules;
pub(super) mod search;
pub(super) mod stats;
pub(super) mod usage;
pub(super) mod watch;
pub(super) mod watches;

use ci_runner_core::time::WallTime;
use jiff::Zoned;

/// The wall clock, for rows that are shown.
pub(super) fn wall_now() -> WallTime {
    WallTime(jiff::Timestamp::now().as_millisecond())
}

/// The wall clock in the host's zone, for times that are read.
fn zoned_now() -> Zoned {
    Zoned::now()
}
