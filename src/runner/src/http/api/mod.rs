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
mod submission;
pub(super) mod usage;
pub(super) mod watch;
pub(super) mod watches;

use crate::http::Fail;
use crate::quantity::{is_range, parse_past};
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

/// The parameters `since` and `until`, where they are given.
fn times(since: Option<&str>, until: Option<&str>, now: &Zoned) -> Result<(Option<WallTime>, Option<WallTime>), Fail> {
    let time = |field: &str, text: Option<&str>| match text.map(|text| parse_past(text, now)) {
        None => Ok(None),
        Some(Ok(at)) => Ok(Some(WallTime(at.as_millisecond()))),
        Some(Err(error)) => Err(Fail::field(field, error.to_string())),
    };
    let (since, until) = (time("since", since)?, time("until", until)?);
    if !is_range(since.map(|at| at.0), until.map(|at| at.0)) {
        return Err(no_range());
    }
    Ok((since, until))
}

/// Nothing lies in such a range, and an empty answer would hide the slip.
fn no_range() -> Fail {
    Fail::field("since", "is not before `until`; give an earlier time, or a later `until`")
}
