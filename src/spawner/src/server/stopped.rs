//! Shims that somebody stopped. A stopped shim sees neither the end of its job nor a deadline, and nobody is told: so all
//! shims are looked at from time to time, while there are any. One that is stopped is continued; one that does not stay so
//! is dealt with as when its deadline has passed: its job is killed, then the shim itself, and the attempt is lost.

use rustix::process::Signal;

use super::Server;
use super::attempt::{Shim, State};
use crate::failpoint;
use crate::procs;
use crate::protocol::AttemptKey;

/// How often shims are looked at: a wake-up each two seconds while attempts run, none while there are none.
const LOOK_MS: u64 = 2000;
/// A shim found stopped so often in a row is continued: once can be an operator who is looking at it.
const LOOKS_BEFORE_CONTINUE: u32 = 2;
/// One that is still stopped then, after several tries, is not left to itself any more.
const LOOKS_BEFORE_FORCE: u32 = 5;

impl Server {
    /// When shims are to be looked at next; None while there are none.
    pub(super) fn shims_due_ms(&self) -> Option<u64> {
        let any = !self.shims.is_empty() || !self.adopted.is_empty();
        (any && !failpoint::ignores_stopped_shims()).then_some(self.shims_look_ms)
    }

    /// Looks at all shims, when it is time.
    pub(super) fn look_at_shims(&mut self, now: u64) {
        if self.shims_due_ms().is_none_or(|at| now < at) {
            return;
        }
        self.shims_look_ms = now + LOOK_MS;
        for (key, state) in &mut self.attempts {
            let State::Alive(shim) = state else { continue };
            if look(key, shim) {
                shim.force_ms = Some(now);
                self.due_ms = self.due_ms.min(now);
            }
        }
    }
}

/// Looks at one shim, and continues it if need be; true when that was tried often enough.
fn look(key: &AttemptKey, shim: &mut Shim) -> bool {
    let pid = shim.identity.pid;
    match procs::stat(pid) {
        // Stepped in already: that goes on by itself.
        Ok(Some(stat)) if stat.stopped() && shim.forced_ms.is_none() => {}
        Ok(_) => {
            shim.stopped_looks = 0;
            return false;
        }
        Err(_) => return false,
    }
    // An adopted shim's id can be somebody else's by now; our own child keeps its id until we reap it.
    if shim.pidfd.as_ref().is_some_and(procs::has_ended) {
        return false;
    }
    shim.stopped_looks += 1;
    match shim.stopped_looks {
        ..LOOKS_BEFORE_CONTINUE => false,
        looks @ ..LOOKS_BEFORE_FORCE => {
            if looks == LOOKS_BEFORE_CONTINUE {
                say!("{key}: its shim, process {pid}, is stopped; continuing it");
            }
            let pinned = if shim.pidfd.is_none() { procs::pin(pid) } else { None };
            if let Some(pidfd) = shim.pidfd.as_ref().or(pinned.as_ref()) {
                let _ = rustix::process::pidfd_send_signal(pidfd, Signal::CONT);
            }
            false
        }
        looks => {
            say!("{key}: its shim, process {pid}, was found stopped {looks} times in a row; the attempt is ended");
            true
        }
    }
}

/// Continues the shim of a predecessor that there is no descriptor to watch with, if it is stopped.
pub(super) fn continue_unwatched(key: &AttemptKey, pidfd: &std::os::fd::OwnedFd, pid: i32) {
    let stopped = matches!(procs::stat(pid), Ok(Some(stat)) if stat.stopped());
    if stopped && !procs::has_ended(pidfd) && !failpoint::ignores_stopped_shims() {
        say!("{key}: its shim, process {pid}, is stopped; continuing it");
        let _ = rustix::process::pidfd_send_signal(pidfd, Signal::CONT);
    }
}
