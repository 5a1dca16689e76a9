//! How attempts end, and how they are taken over from a spawner that was killed.

use std::os::fd::OwnedFd;

use rustix::process::Signal;

use super::Server;
use super::attempt::{Leftovers, Shim, State};
use super::requests::KILL_PATIENCE_MS;
use super::sweep::{Look, sweep};
use crate::attempts::{Attempts, Identity, Locked};
use crate::cgroup::Leaf;
use crate::failpoint::{self, hit};
use crate::procs;
use crate::protocol::{AttemptKey, ExitRecord, Reply, names};
use crate::record;
use crate::shim::Note;
use crate::sys;

/// After it stepped in once, the spawner looks again so often.
const FORCE_AGAIN_MS: u64 = 500;
/// A shim that is neither stopped nor rid of its job after this is killed.
const SHIM_PATIENCE_MS: u64 = 10_000;
/// First and longest pause between two looks at what a dead shim left.
const SWEEP_PAUSE_MS: u64 = 2;
const SWEEP_PAUSE_MS_MAX: u64 = 500;
/// A shim writes who it is right after its fork.
const IDENTIFY_PAUSE_MS: u64 = 20;

impl Server {
    /// The shim of this attempt has ended: reaped, or its pidfd says so.
    pub(super) fn shim_gone(&mut self, key: &AttemptKey) {
        let Some(State::Alive(shim)) = self.attempts.remove(key) else { return };
        self.adopted.remove(key);
        hit(failpoint::SPAWNER_BEFORE_ENDED);
        self.settle(key, shim.identity, Some(shim.pidfd.is_none()));
    }

    /// Finds out what became of an attempt whose shim is gone; `own_child` when we saw it go.
    fn settle(&mut self, key: &AttemptKey, identity: Identity, own_child: Option<bool>) {
        if let Some(record) = self.shared.attempts.read_exit(key) {
            return self.ended(key, &identity, record, State::Ended(None));
        }
        self.read_notes();
        match self.noted.remove(key) {
            Some(Note::Record(record)) => {
                let state = State::Ended(Some(Box::new(record.clone())));
                return self.ended(key, &identity, record, state);
            }
            Some(Note::Refused(_, why)) => return self.not_began(key, &identity, why),
            None => {}
        }
        // Without its lock file there is no telling: the directory was removed.
        let has = |name| self.shared.attempts.has(key, name);
        if has(names::LOCK) && !has(names::BEGAN) {
            return self.not_began(key, &identity, "its shim ended before it began".to_owned());
        }
        say!("{key}: its shim died without a record");
        let again_ms = sys::boottime_ms();
        let leftovers = Leftovers {
            identity,
            witnessed: own_child.is_some(),
            own_child: own_child == Some(true),
            clean_looks: 0,
            again_ms,
            pause_ms: SWEEP_PAUSE_MS,
        };
        self.attempts.insert(key.clone(), State::Leftovers(leftovers));
        self.note_due(Some(again_ms));
    }

    fn ended(&mut self, key: &AttemptKey, identity: &Identity, record: ExitRecord, state: State) {
        self.slots.remove(&identity.slot);
        self.attempts.insert(key.clone(), state);
        self.tell(&key.store, Reply::Ended { key: key.clone(), record: Some(record) });
        self.said_ended = true;
    }

    fn not_began(&mut self, key: &AttemptKey, identity: &Identity, why: String) {
        self.slots.remove(&identity.slot);
        if let Some(leaf) = identity.cgroup_parent.as_ref().and_then(|parent| Leaf::find(parent, key)) {
            leaf.remove();
        }
        self.attempts.insert(key.clone(), State::NotBegan);
        let why = record::shortened(&why);
        self.tell(&key.store, Reply::RefusedStart { key: key.clone(), why, voided: false });
    }

    /// A note is written before its shim ends, so after a death its note is there.
    fn read_notes(&mut self) {
        let mut text = Vec::new();
        let mut piece = [0; 4096];
        while let Ok(got @ 1..) = rustix::io::read(&self.notes, &mut piece) {
            text.extend_from_slice(&piece[..got]);
        }
        for line in text.split(|&byte| byte == b'\n') {
            match serde_json::from_slice(line) {
                Ok(Note::Record(record)) => self.noted.insert(record.key.clone(), Note::Record(record)),
                Ok(Note::Refused(key, why)) => self.noted.insert(key.clone(), Note::Refused(key, why)),
                Err(_) => None,
            };
        }
    }

    /// Records that could not be written when their jobs ended: perhaps there is room now.
    pub(super) fn write_kept_records(&mut self) {
        for state in self.attempts.values_mut() {
            if let State::Ended(Some(record)) = state {
                let attempts = &self.shared.attempts;
                if attempts.write_exit_aside(record).and_then(|()| attempts.publish_exit(&record.key)).is_ok() {
                    *state = State::Ended(None);
                }
            }
        }
    }

    /// Everything whose time has come.
    pub(super) fn do_what_is_due(&mut self) {
        let now = sys::boottime_ms();
        if !self.connections.is_empty() && now >= self.home_check_ms {
            self.check_home();
        }
        if now < self.due_ms {
            return;
        }
        let is_due = |state: &State| state.due_ms().is_some_and(|at| at <= now);
        let due: Vec<AttemptKey> =
            self.attempts.iter().filter(|(_, state)| is_due(state)).map(|(key, _)| key.clone()).collect();
        let mut sweeps = false;
        for key in due {
            match self.attempts.get(&key) {
                Some(State::Alive(_)) => self.force(&key, now),
                Some(State::Unidentified { .. }) => self.identify(&key),
                Some(State::Leftovers(_)) => sweeps = true,
                _ => {}
            }
        }
        if sweeps {
            self.sweep(now);
        }
        self.due_ms = self.attempts.values().filter_map(State::due_ms).min().unwrap_or(u64::MAX);
    }

    /// A shim has not done in time what it should: it is stopped, or stuck. Does it for the shim.
    fn force(&mut self, key: &AttemptKey, now: u64) {
        let Some(State::Alive(shim)) = self.attempts.get_mut(key) else { return };
        let pid = shim.identity.pid;
        let leaf = shim.identity.cgroup_parent.as_ref().and_then(|parent| Leaf::find(parent, key));
        let stopped = procs::stat(pid).is_some_and(|stat| stat.stopped());
        let job_lives = leaf.as_ref().is_some_and(Leaf::populated) || !procs::descendants(&[pid]).is_empty();
        if job_lives {
            if let Some(leaf) = &leaf {
                leaf.kill();
            }
            procs::signal_descendants(&[pid], &[Signal::KILL]);
        }
        match shim.forced_ms {
            None => {
                say!("{key}: its shim is late{}; stepping in", if stopped { " (stopped)" } else { "" });
                shim.forced_ms = Some(now);
                let pinned = procs::pin(pid);
                if let Some(pidfd) = shim.pidfd.as_ref().or(pinned.as_ref()) {
                    let _ = sys::queue_signal(pidfd, sys::signal_kill(), 0);
                    let _ = rustix::process::pidfd_send_signal(pidfd, Signal::CONT);
                }
            }
            // Stopped again, or stuck with its job. One that is rid of its job is writing or wiping: it may take its time.
            Some(since) if stopped || (job_lives && now > since + SHIM_PATIENCE_MS) => Self::kill_shim(shim),
            Some(_) => {}
        }
        let pause_ms = if job_lives || stopped { FORCE_AGAIN_MS } else { KILL_PATIENCE_MS };
        shim.force_ms = Some(now + pause_ms);
    }

    /// Ends what dead shims left; says so once nothing is left. One look at all processes serves all of them.
    fn sweep(&mut self, now: u64) {
        let shim_pid = |state: &State| if let State::Alive(shim) = state { Some(shim.identity.pid) } else { None };
        let shims: Vec<i32> = self.attempts.values().filter_map(shim_pid).collect();
        let look = Look::new(&shims);
        let mut clean = Vec::new();
        for (key, state) in &mut self.attempts {
            let State::Leftovers(leftovers) = state else { continue };
            if sweep(key, leftovers, &look, &self.shared.tmp_dir) {
                clean.push((key.clone(), leftovers.identity.slot.clone()));
            } else {
                leftovers.again_ms = now + leftovers.pause_ms;
                leftovers.pause_ms = (leftovers.pause_ms * 2).min(SWEEP_PAUSE_MS_MAX);
            }
        }
        for (key, slot) in clean {
            self.slots.remove(&slot);
            self.tell(&key.store, Reply::Ended { key: key.clone(), record: None });
            self.attempts.insert(key, State::Lost);
            self.said_ended = true;
        }
    }

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

    /// Finds out what one directory means.
    fn look_at(&mut self, key: &AttemptKey) {
        match self.shared.attempts.lock(key) {
            // Not ours to understand; a `start` of it will be refused for the same reason.
            Err(error) => say!("{key}: cannot look at its lock: {error}"),
            Ok(Locked::Held(lock)) => self.adopt(key, &lock),
            Ok(Locked::Taken(lock)) => {
                let has = |name| self.shared.attempts.has(key, name);
                if self.shared.attempts.read_exit(key).is_some() {
                    self.attempts.insert(key.clone(), State::Ended(None));
                } else if has(names::BEGAN) {
                    self.settle(key, Attempts::identity(&lock).unwrap_or_default(), None);
                } else if has(names::VOIDED) {
                    self.attempts.insert(key.clone(), State::Voided);
                } else {
                    self.attempts.insert(key.clone(), State::NotBegan);
                }
            }
        }
    }

    /// The lock is held: finds the shim. Its process id in the file could by now be another process', so the pidfd comes
    /// first, then the proof that this very process has the lock open, then another look at the lock.
    fn adopt(&mut self, key: &AttemptKey, lock: &OwnedFd) {
        let found = Attempts::identity(lock).and_then(|identity| Some((procs::pin(identity.pid)?, identity)));
        let wish = match self.attempts.remove(key) {
            Some(State::Unidentified { wish, .. }) => wish,
            _ => None,
        };
        match found.filter(|(_, identity)| Attempts::is_holder(lock, identity)) {
            Some((pidfd, identity)) => {
                let force_ms = identity.backstop_ms;
                self.slots.insert(identity.slot.clone(), key.clone());
                self.adopted.insert(key.clone());
                let shim = Shim { identity, pidfd: Some(pidfd), force_ms, forced_ms: None };
                self.attempts.insert(key.clone(), State::Alive(shim));
                self.note_due(force_ms);
                if let Some(wish) = wish {
                    self.wish(key, wish);
                }
            }
            None => {
                let again_ms = sys::boottime_ms() + IDENTIFY_PAUSE_MS;
                self.attempts.insert(key.clone(), State::Unidentified { again_ms, wish });
                self.note_due(Some(again_ms));
            }
        }
    }

    /// Looks again at a lock whose holder was not known.
    fn identify(&mut self, key: &AttemptKey) {
        match self.shared.attempts.lock(key) {
            Ok(Locked::Held(lock)) => self.adopt(key, &lock),
            Ok(Locked::Taken(lock)) => {
                self.attempts.remove(key);
                self.settle(key, Attempts::identity(&lock).unwrap_or_default(), None);
            }
            Err(error) => {
                say!("{key}: cannot look at its lock: {error}");
                self.attempts.remove(key);
                self.settle(key, Identity::default(), None);
            }
        }
    }
}
