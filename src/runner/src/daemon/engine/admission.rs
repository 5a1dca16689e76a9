//! Whether the host is too busy for more: looks at its gauges while something waits, and tells the record.

use super::*;
use crate::daemon::gauges::{self, Look};
use ci_runner_core::busy::Busy;
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
    /// The look under way has limits of before a reload: what it finds says nothing.
    outdated: bool,
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

    /// Other limits may hold since a reload. Nobody looks for a limit that is gone, so what it held back is let go here; what
    /// the others say is asked anew.
    pub(super) fn admission_reloaded(&mut self) {
        let looking = self.admission.looking;
        let begun = self.admission.begun.filter(|_| looking);
        self.admission = Admission { begun, looking, outdated: looking, looked: None };
        let mut busy = self.record.busy().to_vec();
        busy.retain(|busy| gauges::limit(&self.host.admission, busy.gauge).is_some());
        self.set_busy(busy);
        self.problems.remove(PROBLEM);
    }

    pub(super) fn looked(&mut self, look: Look) {
        self.admission.looking = false;
        if std::mem::take(&mut self.admission.outdated) {
            self.admission.begun = None;
            return;
        }
        self.admission.looked = Some(self.clock.now().engine);
        self.set_busy(look.busy);
        match look.unread {
            Some(text) => drop(self.problems.insert(PROBLEM, text)),
            None => drop(self.problems.remove(PROBLEM)),
        }
    }

    fn set_busy(&mut self, busy: Vec<Busy>) {
        let names = |busy: &[Busy]| busy.iter().map(|busy| busy.gauge).collect::<Vec<_>>();
        if names(self.record.busy()) != names(&busy) {
            match busy.is_empty() {
                true => log::info!("the host is no longer too busy: jobs start again"),
                false => {
                    let words: Vec<String> = busy.iter().map(gauges::words).collect();
                    log::warn!("nothing more starts for now: {}", words.join("; "));
                }
            }
        }
        self.record.set_busy(busy);
    }
}
