//! What a turn of the loop begins with: sleep, and signals.

use super::attempt::State;
use super::{LAST_WORDS_MS, SLEEP_MS_MAX, Server};
use crate::daemons::{Calls, SHORTAGE_PAUSE};
use crate::protocol::AttemptKey;
use crate::service::Then;
use crate::sys::{self, Reaped};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

impl Server {
    pub(super) fn sleep(&mut self) -> Woken {
        let mut fds = vec![PollFd::new(&self.signals, PollFlags::IN)];
        fds.extend(self.daemons.polled());
        let adopted_at = fds.len();
        let mut adopted: Vec<&AttemptKey> = Vec::new();
        for key in &self.adopted {
            if let Some(State::Alive(shim)) = self.attempts.get(key)
                && let Some(pidfd) = &shim.pidfd
            {
                adopted.push(key);
                fds.push(PollFd::new(pidfd, PollFlags::IN));
            }
        }
        let lifeline = self.lifeline.as_ref().and_then(|lifeline| lifeline.pipe.as_ref());
        fds.extend(lifeline.map(|pipe| PollFd::new(pipe, PollFlags::empty())));
        let ms = self.sleep_ms();
        let timeout = Timespec { tv_sec: (ms / 1000) as i64, tv_nsec: (ms % 1000) as i64 * 1_000_000 };
        match rustix::event::poll(&mut fds, Some(&timeout)) {
            Ok(_) => {}
            Err(Errno::INTR) => return Woken::default(),
            // Out of memory, or the limit of open files was lowered below what is open.
            Err(_) => {
                std::thread::sleep(SHORTAGE_PAUSE);
                return Woken::default();
            }
        }
        let mut ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let daemon_gone = lifeline.is_some() && ready.pop() == Some(true);
        let of_adopted = &ready[adopted_at..];
        Woken {
            daemon_gone,
            signals: ready[0],
            calls: Calls::of(&ready[1..adopted_at]),
            adopted: (0..of_adopted.len()).filter(|&at| of_adopted[at]).map(|at| adopted[at].clone()).collect(),
        }
    }

    fn sleep_ms(&self) -> u64 {
        let now = sys::boottime_ms();
        let mut until = self.due_ms.min(now.saturating_add(SLEEP_MS_MAX));
        if !self.daemons.is_empty() || self.keeps_records() {
            until = until.min(self.home_check_ms);
        }
        until = self.daemons.send_ms().into_iter().chain(self.shims_due_ms()).fold(until, u64::min);
        if let Some(since) = self.idle_since_ms {
            let patience_ms = if self.closed.is_some() { LAST_WORDS_MS } else { self.linger_ms };
            until = until.min(since.saturating_add(patience_ms));
        }
        until.saturating_sub(now)
    }

    pub(super) fn read_signals(&mut self) {
        while let Some(arrived) = sys::next_signal(&self.signals) {
            if self.service.is_some() {
                match arrived.signal {
                    libc::SIGTERM | libc::SIGINT => self.then = Some(Then::End),
                    libc::SIGHUP => self.then = Some(Then::Upgrade),
                    _ => {}
                }
            } else if arrived.signal == libc::SIGTERM {
                say!("asked to end: nothing is started any more");
                self.closed.get_or_insert("the spawner was asked to end");
            }
        }
        // Children that are no shims were left by shims that died: `sweep` has ended or will end them.
        while let Reaped::Child(dead) = sys::reap() {
            if let Some(key) = self.shims.remove(&dead.pid) {
                self.shim_gone(&key);
            } else if let Some(key) = self.wipers.remove(&dead.pid) {
                self.lost(&key);
            }
        }
    }
}

/// What `poll` found.
#[derive(Default)]
pub(super) struct Woken {
    pub(super) daemon_gone: bool,
    pub(super) signals: bool,
    pub(super) calls: Calls,
    pub(super) adopted: Vec<AttemptKey>,
}
