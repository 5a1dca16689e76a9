//! Attempts that a spawner before us started: each directory is looked at, until it is known what it means.
//!
//! Invariant: what could not be looked at counts as alive. Its slot, its lock and its processes are somebody's until a look
//! that succeeded shows that they are not; an error (no descriptor is free, say) only means to look again.

use std::io;
use std::os::fd::OwnedFd;

use super::Server;
use super::attempt::{Shim, State};
use super::stopped::continue_unwatched;
use super::sweep::Spared;
use crate::attempts::{Attempts, Identity, Locked};
use crate::daemons::Serve;
use crate::failpoint;
use crate::procs;
use crate::protocol::AttemptKey;
use crate::sys;

/// A shim writes who it is right after its fork.
const LOOK_PAUSE_MS: u64 = 20;
/// The longest pause between two looks at one attempt.
const LOOK_PAUSE_MS_MAX: u64 = 1000;
/// So many descriptors are kept from watching predecessors' shims, for our own, daemons, starts and looks; where there are
/// few, half of them, but no fewer than the lower number.
const DESCRIPTORS_KEPT: std::ops::RangeInclusive<u64> = 24..=128;

/// How many shims of a predecessor may be watched by a descriptor each, with this limit of open files. The others are
/// looked at from time to time.
pub(super) fn watched_max(open_files: u64) -> usize {
    if failpoint::takes_blindness_for_absence() {
        return usize::MAX;
    }
    let kept = (open_files / 2).clamp(*DESCRIPTORS_KEPT.start(), *DESCRIPTORS_KEPT.end());
    usize::try_from(open_files.saturating_sub(kept)).unwrap_or(usize::MAX)
}

impl Server {
    /// Looks at every directory, at start.
    pub(super) fn take_over(&mut self) -> Result<(), String> {
        if self.home.other_boot {
            self.wipe_other_boot();
        }
        let keys = self.shared.attempts.all().map_err(|error| format!("cannot list the attempts: {error}"))?;
        for key in keys {
            self.look_at(&key);
        }
        Ok(())
    }

    /// Finds out what one directory means: who its shim is, if it has one, else what became of it.
    pub(super) fn look_at(&mut self, key: &AttemptKey) {
        let looked = match self.shared.attempts.lock(key) {
            Ok(Locked::Held(lock)) => self.adopt(key, &lock),
            // `lock` stays ours until this is known: nobody can start it meanwhile.
            Ok(Locked::Taken(lock)) => Attempts::identity(&lock).map(|identity| {
                self.attempts.remove(key);
                self.settle(key, identity.unwrap_or_default(), None);
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                say!("{key}: its directory is gone");
                self.attempts.remove(key);
                self.settle(key, Identity::default(), None);
                Ok(())
            }
            Err(error) => Err(error),
        };
        if let Err(error) = looked {
            if failpoint::takes_blindness_for_absence() {
                self.attempts.remove(key);
                return self.settle(key, Identity::default(), None);
            }
            if !matches!(self.attempts.get(key), Some(State::Unidentified { .. })) {
                say!("{key}: cannot be looked at: {error}; counts as alive, tried again");
            }
            self.look_again(key, u64::MAX, None);
            if let Some(State::Unidentified { failure, .. }) = self.attempts.get_mut(key) {
                *failure = Some(error.to_string());
            }
        }
    }

    /// The lock is held: finds the shim. Its process id in the file could by now be another process', so the pidfd comes
    /// first, then the proof that this very process has the lock open, then another look at the lock.
    fn adopt(&mut self, key: &AttemptKey, lock: &OwnedFd) -> io::Result<()> {
        let found = Attempts::identity(lock)?.and_then(|identity| Some((procs::pin(identity.pid)?, identity)));
        let Some((pidfd, identity)) = found.filter(|(_, identity)| Attempts::is_holder(lock, identity)) else {
            if let Some(identity) = Attempts::identity(lock)? {
                self.hold_users(&identity, key);
            }
            self.look_again(key, u64::MAX, None);
            return Ok(());
        };
        self.hold_slot(&identity, key);
        let force_ms = identity.backstop_ms;
        let wish = match self.attempts.get(key) {
            Some(State::Unidentified { wish, .. }) => *wish,
            _ => None,
        };
        let is_late = force_ms.is_some_and(|at| at <= sys::boottime_ms());
        if self.adopted.len() >= self.watched_max && wish.is_none() && !is_late {
            // Known, but not to be watched: the lock tells its end.
            continue_unwatched(key, &pidfd, identity.pid);
            self.look_again(key, force_ms.unwrap_or(u64::MAX), Some(identity));
            return Ok(());
        }
        self.adopted.insert(key.clone());
        let shim = Shim { identity, pidfd: Some(pidfd), force_ms, forced_ms: None, stopped_looks: 0 };
        self.attempts.insert(key.clone(), State::Alive(shim));
        self.note_due(force_ms);
        if let Some(wish) = wish {
            self.wish(key, wish);
        }
        Ok(())
    }

    /// To be looked at again soon, each time a little later, not later than `latest_ms`.
    fn look_again(&mut self, key: &AttemptKey, latest_ms: u64, shim: Option<Identity>) {
        let (pause_ms, wish, seen) = match self.attempts.remove(key) {
            Some(State::Unidentified { pause_ms, wish, shim, .. }) => (pause_ms, wish, shim),
            _ => (LOOK_PAUSE_MS, None, None),
        };
        let again_ms = (sys::boottime_ms() + pause_ms).min(latest_ms);
        let pause_ms = (pause_ms * 2).min(LOOK_PAUSE_MS_MAX);
        let shim = shim.or(seen);
        self.attempts.insert(key.clone(), State::Unidentified { again_ms, pause_ms, wish, shim, failure: None });
        self.note_due(Some(again_ms));
    }

    /// Children of ours that a sweep is not to end. After a reload those of the spawner before us are ours too, and there may
    /// be shims among them that are not watched, or have not said who they are.
    pub(super) fn spared(&self) -> io::Result<Spared> {
        let own = self.shims.keys().chain(self.wipers.keys()).copied();
        let mut spared = Spared { pids: own.collect(), locks: Vec::new() };
        for (key, state) in &self.attempts {
            match state {
                State::Alive(shim) => drop(spared.pids.insert(shim.identity.pid)),
                State::Unidentified { shim, .. } => {
                    let Some(lock) = self.shared.attempts.lock_file(key)? else { continue };
                    match shim {
                        Some(shim) if lock.is_open_in(shim) => drop(spared.pids.insert(shim.pid)),
                        _ => spared.locks.push(lock),
                    }
                }
                _ => {}
            }
        }
        Ok(spared)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::memfd;
    use crate::protocol::{Start, names};
    use crate::server::setup::{Home, Options};
    use crate::sys::OpenFiles;

    #[test]
    fn watching_leaves_descriptors_for_everything_else() {
        for (open_files, want) in [(0, 0), (20, 0), (32, 8), (256, 128), (1024, 896), (20_000, 19_872)] {
            assert_eq!(watched_max(open_files), want, "of {open_files}");
        }
    }

    /// A spawner in a directory of its own, with no process of its own.
    pub(in crate::server) fn server(dir: &std::path::Path) -> Server {
        let part = |name: &str| dir.join(name).into_os_string();
        let words = ["--runtime-dir".into(), part("run"), "--log-dir".into(), part("log"), "--tmp-dir".into()];
        let words = words.into_iter().chain([part("tmp"), "--no-cgroup".into()]);
        let options = Options::parse(words).expect("parses").expect("options");
        let home = Home::enter(&options).ok().expect("a home");
        let open_files = OpenFiles { soft: 1024, hard: 1024, now: 1024 };
        Server::listening(&options, open_files, home).ok().expect("a server")
    }

    /// The directory of an attempt that began in this slot; its lock, held.
    fn began(server: &Server, key: &AttemptKey, slot: &str) -> OwnedFd {
        server.shared.attempts.make(key).expect("made");
        let Ok(Locked::Taken(lock)) = server.shared.attempts.lock(key) else { panic!("not locked") };
        let identity = Identity { slot: slot.to_owned(), ..Identity::default() };
        rustix::io::pwrite(&lock, identity.encode().as_bytes(), 0).expect("written");
        server.shared.attempts.mark(key, names::BEGAN).expect("marked");
        lock
    }

    fn refusal(server: &mut Server, key: &AttemptKey) -> String {
        let start = Start {
            key: key.clone(),
            pool: "default".to_owned(),
            slot: 0,
            timeout_ms: None,
            soft_timeout_ms: None,
            grace_ms: 0,
            log_bytes_max: 0,
            secrets: false,
            profile: None,
            submitter: None,
            limits: crate::protocol::Limits::default(),
        };
        let spec = memfd::sealed("spec", b"{}").expect("sealed");
        server.start(start, None, vec![spec]).expect_err("refused")
    }

    #[test]
    fn the_slot_of_leftovers_is_not_free() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut server = server(dir.path());
        let [dead, next] = ["0123abcd-1-1", "0123abcd-2-1"].map(|key| key.parse::<AttemptKey>().expect("a key"));
        let slot = dir.path().join("tmp/0123abcd-default-0").display().to_string();
        drop(began(&server, &dead, &slot));
        // No start gets further than this lock.
        let _held = began(&server, &next, &slot);
        server.look_at(&dead);
        assert!(matches!(server.attempts.get(&dead), Some(State::Leftovers(_))));
        let why = refusal(&mut server, &next);
        assert!(why.contains("slot default-0 is still in use by attempt 0123abcd-1-1"), "{why}");
        // Control: nothing else would have stopped it.
        server.slots.clear();
        let why = refusal(&mut server, &next);
        assert!(why.contains("its lock is held"), "{why}");
    }
}
