//! What the host and the attempts that run on it use just now, for `top` and `/api/v1/usage`.
//!
//! Measured only when somebody asks, and bounded: one measurement at a time, none sooner than [`FRESH`] after the last one
//! (whoever asks in between gets that), at most [`ATTEMPTS_MAX`] attempts. It blocks as long as `/proc` does and belongs
//! beside the threads that answer. It may not decide anything: limits of admission are `daemon::gauges`.

mod attempts;
mod host;
mod processes;

use crate::api::{AttemptUsage, UsageView};
use crate::quantity::rfc3339_utc;
use attempts::Finder;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Whoever asks again within this gets the same answer.
const FRESH: Duration = Duration::from_millis(400);
/// Attempts that are measured at once: a few files each.
pub const ATTEMPTS_MAX: usize = 1_000;

/// Where to look.
#[derive(Clone, Debug)]
pub struct Places {
    /// `/proc`.
    pub proc: PathBuf,
    /// Short store id: a part of the name of every attempt.
    pub store: String,
    /// The daemon's runtime directory: where there are no cgroups, its own spawner's attempts are there.
    pub runtime_dir: PathBuf,
}

/// An attempt under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Running {
    /// Job.
    pub job: u64,
    /// Attempt.
    pub attempt: u32,
}

/// Measures, and keeps the last answer for a moment.
pub struct Meter {
    places: Places,
    finder: Finder,
    last: Option<(Instant, UsageView)>,
}

impl Meter {
    /// Has not looked yet.
    pub fn new(places: Places) -> Self {
        Self { places, finder: Finder::default(), last: None }
    }

    /// What is used now. Blocks.
    pub fn measure(&mut self, running: &[Running], now_wall_ms: i64) -> UsageView {
        if let Some((at, view)) = &self.last
            && at.elapsed() < FRESH
        {
            return view.clone();
        }
        let measured = &running[..running.len().min(ATTEMPTS_MAX)];
        let attempts: Vec<AttemptUsage> = self.finder.measure(&self.places, measured);
        let view = UsageView {
            measured_at: rfc3339_utc(now_wall_ms),
            host: host::look(&self.places.proc),
            attempts,
            attempts_left_out: (running.len() - measured.len()) as u64,
        };
        self.last = Some((Instant::now(), view.clone()));
        view
    }
}
