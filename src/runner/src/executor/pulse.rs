//! Whether a spawner that is connected still answers.

use std::time::Duration;

/// After so long without a word the spawner is asked whether it is there.
const PING_AFTER: Duration = Duration::from_secs(10);
/// An answer takes a moment; one that takes so long will perhaps never come.
pub(super) const PING_PATIENCE: Duration = Duration::from_secs(5);

/// Whether the spawner of this connection is heard from.
pub(super) struct Pulse {
    pub(super) pid: u32,
    /// It knows `ping`.
    pub(super) pings: bool,
    pub(super) heard: tokio::time::Instant,
    pub(super) asked: Option<tokio::time::Instant>,
    pub(super) silent: bool,
}

impl Pulse {
    pub(super) fn new(pid: u32, pings: bool) -> Self {
        Self { pid, pings, heard: tokio::time::Instant::now(), asked: None, silent: false }
    }

    /// When to do something about it; None: there is only waiting.
    pub(super) fn due(&self) -> Option<tokio::time::Instant> {
        let at = self.asked.map_or(self.heard + PING_AFTER, |asked| asked + PING_PATIENCE);
        (self.pings && !self.silent).then_some(at)
    }

    /// A word came; true when it had been waited for in vain.
    pub(super) fn beat(&mut self) -> bool {
        (self.heard, self.asked) = (tokio::time::Instant::now(), None);
        std::mem::take(&mut self.silent)
    }
}
