//! How many lines may go to the journal.
//!
//! journald takes 10,000 records of one service in 30 s (its defaults), then it throws away what comes, the daemon's own words
//! included: both are `ci-runner.service` to it. So output takes half of that and no more.

use std::time::Instant;

/// So many lines may come at once.
pub(super) const BURST: u32 = 3000;
/// And so many a second after that: with the burst less than 7,500 in any 30 s.
pub(super) const LINES_PER_SECOND: u32 = 150;

/// What is left.
pub(super) struct Budget {
    lines: f64,
    at: Instant,
}

impl Budget {
    /// Full.
    pub fn new(now: Instant) -> Self {
        Self { lines: f64::from(BURST), at: now }
    }

    /// Counts what time has given back.
    pub fn refill(&mut self, now: Instant) {
        let given = now.saturating_duration_since(self.at).as_secs_f64() * f64::from(LINES_PER_SECOND);
        self.lines = (self.lines + given).min(f64::from(BURST));
        self.at = now;
    }

    /// True when there is a line left.
    pub fn is_left(&self) -> bool {
        self.lines >= 1.0
    }

    /// A line went.
    pub fn take(&mut self) {
        self.lines -= 1.0;
    }
}
