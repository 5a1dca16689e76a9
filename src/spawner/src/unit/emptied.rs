//! When somebody removes or empties the spawner's directory under it: what runs is brought to its end and told, then the process
//! ends, and the next one makes the directory anew.
//!
//! A verdict cannot be written then. The shim gets it in its lock file, which it holds open ([`super::verdict::hand`]), and tells its
//! record over the pipe.

use super::attempt::{Live, State};
use super::server::Server;
use super::verdict;
use crate::attempts::Attempts;
use crate::daemons::{Known, Serve};
use crate::protocol::{AttemptKey, names};
use crate::sys;

/// How often to see whether the directory is still there.
const HOME_CHECK_MS: u64 = 5000;
/// After everything has ended, daemons have so long to take the ends.
const LAST_WORDS_MS: u64 = 5000;
/// A shim that got its verdict in its lock file, and does not finish (one of an earlier version does not know that), is killed
/// after this.
const HANDED_PATIENCE_MS: u64 = 30_000;

impl Live {
    /// Tells the shim how its unit ended, wherever that can be written.
    pub(super) fn finish(&mut self, attempts: &Attempts, key: &AttemptKey, now: u64) {
        let Some(ending) = &self.over else { return };
        if verdict::write(attempts, key, ending).is_err() {
            let since_ms = *self.handed_ms.get_or_insert(now);
            if now > since_ms + HANDED_PATIENCE_MS {
                // Its result is here, and counts.
                say!("{key}: its shim does not end, and is killed");
                self.signal(libc::SIGKILL, 0);
            } else if let Err(error) = verdict::hand(self.pid, self.lock_fd, ending) {
                say!("{key}: cannot hand its verdict to its shim: {error}; tried again");
                return;
            }
        }
        self.signal(sys::signal_finish(), 0);
        self.signal(libc::SIGCONT, 0);
    }
}

impl Server {
    /// Whether the job of an attempt may have been handed over. Without its directory nobody can say no.
    pub(super) fn may_have_begun(&self, key: &AttemptKey) -> std::io::Result<bool> {
        let attempts = &self.shared.attempts;
        Ok(attempts.has(key, names::BEGAN)? || !attempts.has(key, names::LOCK)?)
    }

    /// Starts nothing any more once the directory is gone.
    pub(super) fn check_home(&mut self, now: u64) {
        if now < self.home_check_ms {
            return;
        }
        self.look_at_home(now);
    }

    /// Whether the directory was removed or emptied, now or before.
    pub(super) fn is_homeless(&mut self) -> bool {
        self.look_at_home(sys::boottime_ms());
        self.closed.is_some()
    }

    fn look_at_home(&mut self, now: u64) {
        self.home_check_ms = now + HOME_CHECK_MS;
        if self.closed.is_none() && !self.home.is_there() {
            self.closed = Some("the spawner's directory was removed or emptied");
            say!("{} is gone: nothing is started any more", self.home.path.display());
        }
    }

    /// True when there is nothing to stay for: the directory is gone, nothing runs, and who asked has been told.
    pub(super) fn is_done(&mut self) -> bool {
        if self.closed.is_none() || self.attempts.values().any(State::is_alive) {
            self.done_ms = None;
            return false;
        }
        let now = sys::boottime_ms();
        let done_ms = *self.done_ms.get_or_insert(now + LAST_WORDS_MS);
        self.daemons().is_empty() || self.attempts.is_empty() || now >= done_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attempts::Locked;
    use crate::unit::judge::Facts;
    use crate::unit::server::tests::server;

    /// It was looked for for ever, and the spawner without a directory never ended: nothing could be started any more.
    #[test]
    fn an_attempt_that_never_said_who_it_is_keeps_nobody_from_ending() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut server = server(dir.path());
        let key: AttemptKey = "0123abcd-7-1".parse().expect("a key");
        server.shared.attempts.make(&key).expect("made");
        let Ok(Locked::Taken(_held)) = server.shared.attempts.lock(&key) else { panic!("not taken") };
        server.look_at(&key);
        assert!(matches!(server.attempts.get(&key), Some(State::Unidentified { .. })));
        assert!(!server.is_homeless() && !server.is_done(), "the control: it may still say so");
        std::fs::remove_dir_all(dir.path().join("run")).expect("removed");
        assert!(server.is_homeless() && !server.is_done());
        server.look_at(&key);
        assert!(!server.is_done(), "its unit may be there");
        let absent = Facts { load_state: "not-found".to_owned(), ..Facts::default() };
        server.found(&key, &absent);
        server.do_what_is_due();
        assert!(matches!(server.attempts.get(&key), Some(State::Lost)));
        assert!(server.is_done());
    }
}
