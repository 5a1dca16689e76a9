//! Whether the host is too busy for more: looks at its gauges while something waits, and tells the record.

use super::*;
use crate::daemon::gauges::{self, Look};
use std::path::Path;

/// While something waits, the gauges are read this often: the kernel's own averages are over ten seconds.
const LOOK_EVERY_MS: u64 = 2_000;
/// A look that takes longer hangs.
const HANGS_MS: u64 = 5_000;
/// The problem's name.
const PROBLEM: &str = "admission";

/// When the gauges are looked at.
#[derive(Debug, Default)]
pub(super) struct Admission {
    begun: Option<Instant>,
    looking: bool,
    looked: Option<Instant>,
}

impl Engine {
    /// Begins a look at the gauges when it is time. They are read on another thread: a file system may hang.
    pub(super) fn look_at_host(&mut self, now: Now) {
        if !self.wants_look() || self.next_host_look().is_some_and(|next| now.engine < next) {
            return;
        }
        self.admission.begun = Some(now.engine);
        self.admission.looking = true;
        let (limits, disk, control) =
            (self.host.admission.clone(), self.host.log_dir.clone(), self.own_control.clone());
        tokio::task::spawn_blocking(move || {
            let look = gauges::look(&limits, Path::new("/proc"), &disk);
            // Without a loop nobody wants to know.
            if let Some(control) = control.upgrade() {
                drop(control.blocking_send(Control::Looked(look)));
            }
        });
    }

    /// When the next look is due.
    pub(super) fn next_host_look(&self) -> Option<Instant> {
        self.wants_look().then(|| self.admission.begun.map_or(Instant(i64::MIN), |begun| begun.plus_ms(LOOK_EVERY_MS)))
    }

    /// Only while somebody waits, or a limit was passed.
    fn wants_look(&self) -> bool {
        let open = !self.record.busy().is_empty() || self.record.oldest_waiting().is_some();
        !self.admission.looking && self.host.admission.is_any() && open
    }

    /// False while limits are set and nobody knows whether one is passed: a first job waits the millisecond of a look. A look
    /// that hangs holds nothing back.
    pub(super) fn knows_host(&self, now: Now) -> bool {
        let within = |at: Option<Instant>, most: u64| at.is_some_and(|at| now.engine.since_ms(at) <= most);
        let hangs = self.admission.looking && !within(self.admission.begun, HANGS_MS);
        !self.host.admission.is_any() || within(self.admission.looked, 2 * LOOK_EVERY_MS) || hangs
    }

    pub(super) fn looked(&mut self, look: Look) {
        self.admission.looking = false;
        self.admission.looked = Some(self.clock.now().engine);
        let names = |busy: &[ci_runner_core::busy::Busy]| busy.iter().map(|busy| busy.gauge).collect::<Vec<_>>();
        let (before, after) = (names(self.record.busy()), names(&look.busy));
        if before != after {
            match after.is_empty() {
                true => log::info!("the host is no longer too busy: jobs start again"),
                false => {
                    let words: Vec<String> = look.busy.iter().map(gauges::words).collect();
                    log::warn!("nothing more starts for now: {}", words.join("; "));
                }
            }
        }
        // A limit may have gone with a reload.
        let busy = if self.host.admission.is_any() { look.busy } else { Vec::new() };
        self.record.set_busy(busy);
        match look.unread {
            Some(text) => drop(self.problems.insert(PROBLEM, text)),
            None => drop(self.problems.remove(PROBLEM)),
        }
    }
}
