//! Which times of a schedule are due, with a clock that may jump.
//!
//! The state of a schedule is one time: everything up to it is dealt with. Times between it and now are due;
//! the [`Missed`] policy says how many of them count. Two guards keep a wrong clock from firing a storm:
//! how much time really passed (CLOCK_BOOTTIME) bounds how far back "missed" can reach, and a clock that was
//! set back restarts the schedule from where it is. Whatever happens, one call gives at most
//! [`MISSED_RUNS_MAX`] times.

use super::{CronSchedule, YEAR_4000_MS};
use crate::suggest::did_you_mean;

/// The most missed runs that [`Missed::All`] makes up for: the newest ones.
pub const MISSED_RUNS_MAX: usize = 100;
/// Up to here a time counts as met and not as missed: the daemon was busy or restarting.
const LATE_MS: i64 = 60_000;
/// A clock step up to here is ordinary correction: nothing fires twice and nothing is left out.
const STEP_MS: i64 = 3_600_000;

/// What to do about times that passed while nothing could fire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missed {
    /// Nothing: only a time that passed within the last minute fires.
    Skip,
    /// One run for all of them.
    Once,
    /// One run for each, at most [`MISSED_RUNS_MAX`].
    All,
}

/// What to do when it is time and the run before is not over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overlap {
    /// Leave the new run out.
    Skip,
    /// Let it wait its turn.
    Queue,
    /// Cancel the old one.
    CancelRunning,
    /// Let both run.
    Allow,
}

impl Missed {
    const NAMES: [(&str, Missed); 3] = [("skip", Missed::Skip), ("once", Missed::Once), ("all", Missed::All)];

    /// The word in options, files and output.
    pub fn name(self) -> &'static str {
        Missed::NAMES[self as usize].0
    }

    /// Reads the word.
    ///
    /// # Errors
    /// Names the nearest word.
    pub fn parse(text: &str) -> Result<Missed, String> {
        let found = Missed::NAMES.iter().find(|(name, _)| *name == text);
        found.map(|(_, policy)| *policy).ok_or_else(|| {
            format!("{text:?} is not a missed-run policy; {}", did_you_mean(text, Missed::NAMES.map(|(name, _)| name)))
        })
    }
}

impl Overlap {
    const NAMES: [(&str, Overlap); 4] = [
        ("skip", Overlap::Skip),
        ("queue", Overlap::Queue),
        ("cancel", Overlap::CancelRunning),
        ("allow", Overlap::Allow),
    ];

    /// The word in options, files and output.
    pub fn name(self) -> &'static str {
        Overlap::NAMES[self as usize].0
    }

    /// Reads the word.
    ///
    /// # Errors
    /// Names the nearest word.
    pub fn parse(text: &str) -> Result<Overlap, String> {
        let found = Overlap::NAMES.iter().find(|(name, _)| *name == text);
        found.map(|(_, policy)| *policy).ok_or_else(|| {
            format!("{text:?} is not an overlap policy; {}", did_you_mean(text, Overlap::NAMES.map(|(name, _)| name)))
        })
    }
}

/// Where a schedule stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScheduleState {
    /// Times up to and with this one (wall milliseconds) are dealt with. A new schedule starts with "now".
    pub until_ms: i64,
}

/// What the clocks say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    /// Wall time, milliseconds since 1970.
    pub wall_ms: i64,
    /// Time that really passed (CLOCK_BOOTTIME) since the state was written; `None` where that was in
    /// another boot.
    pub elapsed_ms: Option<u64>,
}

/// The answer of [`due`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// The scheduled times to fire for, oldest first.
    pub times: Vec<i64>,
    /// Times that passed and are left out; counted up to a bound.
    pub skipped: usize,
    /// The state to write together with the jobs of `times`.
    pub state: ScheduleState,
    /// The clock was set by more than a correction: the state is worth writing even without a job, or the next daemon
    /// would take the jump for time that was missed.
    pub jumped: bool,
}

/// The clock says so much less than before that it must have been set: what was planned from the old time is void.
pub fn is_set_back(state: ScheduleState, wall_ms: i64) -> bool {
    state.until_ms.saturating_sub(wall_ms) > STEP_MS
}

/// Decides which times fire now.
pub fn due(schedule: &CronSchedule, missed: Missed, state: ScheduleState, clock: Clock) -> Due {
    let now = clock.wall_ms;
    let nothing = |until_ms: i64| {
        let jumped = until_ms != state.until_ms;
        Due { times: Vec::new(), skipped: 0, state: ScheduleState { until_ms }, jumped }
    };
    if now < state.until_ms {
        // Set back a little: wait until it is later than before, so that nothing fires twice. Set back a lot:
        // the time we had was wrong, go on from here.
        return nothing(if is_set_back(state, now) { now } else { state.until_ms });
    }
    if !(0..=YEAR_4000_MS).contains(&now) {
        return nothing(now);
    }
    let advanced = now.saturating_sub(state.until_ms);
    let from = match clock.elapsed_ms.map(|elapsed| i64::try_from(elapsed).unwrap_or(i64::MAX)) {
        // The clock was set forward: the times it jumped over were not missed by us, they never were.
        Some(elapsed) if advanced > elapsed.saturating_add(STEP_MS) => now.saturating_sub(elapsed),
        _ => state.until_ms,
    };
    let (mut times, older) = newest(schedule, from, now);
    let keep = match missed {
        Missed::All => times.len(),
        Missed::Once => times.len().min(1),
        Missed::Skip => usize::from(times.last().is_some_and(|last| now.saturating_sub(*last) <= LATE_MS)),
    };
    let skipped = older + times.len() - keep;
    times.drain(..times.len() - keep);
    Due { times, skipped, state: ScheduleState { until_ms: now }, jumped: from != state.until_ms }
}

/// The newest [`MISSED_RUNS_MAX`] times after `from` up to `now`, and how many older ones were seen. The cost
/// does not grow with the distance: the stretch that is searched starts small, at `now`.
fn newest(schedule: &CronSchedule, from: i64, now: i64) -> (Vec<i64>, usize) {
    /// More than this is not collected at once.
    const PROBE_MAX: usize = 10 * MISSED_RUNS_MAX;
    let probe = |start: i64| -> Vec<i64> {
        let mut last = start;
        let times = std::iter::from_fn(|| {
            last = schedule.next_after(last).filter(|next| *next <= now)?;
            Some(last)
        });
        times.take(PROBE_MAX + 1).collect()
    };
    let mut width = LATE_MS;
    // Times after `enough` are at most MISSED_RUNS_MAX.
    let mut enough = now;
    let mut start = from.max(now.saturating_sub(width));
    let mut times = probe(start);
    while times.len() <= MISSED_RUNS_MAX && start > from {
        enough = start;
        width = width.saturating_mul(2);
        start = from.max(now.saturating_sub(width));
        times = probe(start);
    }
    // The last step back met a dense stretch: find a place in it from which there are enough, but not more.
    while times.len() > PROBE_MAX && enough - start > 1000 {
        let middle = start + (enough - start) / 2;
        let nearer = probe(middle);
        if nearer.len() <= MISSED_RUNS_MAX {
            enough = middle;
        } else {
            start = middle;
            times = nearer;
        }
    }
    let older = times.len().saturating_sub(MISSED_RUNS_MAX);
    times.drain(..older);
    (times, older)
}
