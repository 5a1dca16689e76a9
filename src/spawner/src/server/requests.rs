//! What a daemon may ask, and what it gets.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::process::Signal;

use super::Server;
use super::attempt::{Shim, State};
use super::setup;
use crate::attempts::{Attempts, Identity, Owner};
use crate::cgroup::Leaf;
use crate::daemons::{Daemons, Introduction, Serve, Table, Wish};
use crate::dirs::{Dirs, slot_named};
use crate::failpoint::{self, hit};
use crate::protocol::{AttemptKey, Enforces, Reply, SPEC_BYTES_MAX, Seen, Slot, Start, is_store_id, names};
use crate::shim::{self, Order};
use crate::{memfd, procs, sys};

/// How long the spawner lets a shim do its work before it steps in.
pub(super) const KILL_PATIENCE_MS: u64 = 2000;
/// The same for deadlines, which nobody waits for.
pub(super) const BACKSTOP_MS: u64 = 30_000;

impl Serve for Server {
    fn daemons(&mut self) -> &mut Daemons {
        &mut self.daemons
    }

    fn lets_in(&self, uid: u32) -> bool {
        let own = rustix::process::geteuid().as_raw();
        uid == own || self.service.as_ref().is_some_and(|policy| policy.lets_in(uid))
    }

    fn highest_generation(&self, store: &str) -> u64 {
        self.generations.get(store).copied().unwrap_or(0)
    }

    fn stores(&self) -> io::Result<usize> {
        Ok(self.generations.len())
    }

    fn keep_generation(&mut self, store: &str, generation: u64) -> io::Result<()> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::PATH;
        let _ = rustix::fs::mkdirat(&self.home.dir, names::GENERATIONS_DIR, Mode::RWXU);
        let dir = rustix::fs::openat(&self.home.dir, names::GENERATIONS_DIR, flags, Mode::empty())?;
        setup::replace(&dir, store, generation.to_string().as_bytes())?;
        self.generations.insert(store.to_owned(), generation);
        Ok(())
    }

    fn introduction(&self) -> Introduction {
        let none = || Enforces { why_not: shim::NO_CGROUP.to_owned(), ..Enforces::default() };
        let cgroup = self.shared.cgroup.as_ref();
        Introduction {
            epoch: self.home.epoch.clone(),
            cgroup: cgroup.is_some(),
            dirs: self.service.is_none(),
            enforces: cgroup.map_or_else(none, |parent| parent.enforces().clone()),
        }
    }

    fn directory(&self) -> &Attempts {
        &self.shared.attempts
    }

    fn known(&self) -> &dyn Table {
        &self.attempts
    }

    fn seen(&mut self, key: &AttemptKey) -> Option<Seen> {
        Some(match self.attempts.get(key)? {
            State::Alive(_) | State::Unidentified { .. } => Seen::Alive,
            // `ended` follows.
            State::Unsettled(_) | State::Leftovers(_) | State::Wiping(_) => Seen::Leftovers,
            State::NotBegan => Seen::NotBegan,
            State::Voided => Seen::Voided,
            State::Ended(Some(record)) => Seen::Ended((**record).clone()),
            State::Ended(None) => match self.record_of(key) {
                Some(Some(record)) => Seen::Ended(record),
                Some(None) => Seen::Lost,
                None => Seen::Leftovers,
            },
            State::Lost => Seen::Lost,
        })
    }

    fn held_slot(&self, key: &AttemptKey) -> Option<Slot> {
        // A service of root gives each start a slot that is free, whatever the daemon asks for.
        let State::Alive(shim) = self.attempts.get(key).filter(|_| self.service.is_none())? else { return None };
        slot_named(&shim.identity.slot, &key.store)
    }

    fn start_asked(&mut self, at: usize, start: Start, fds: Vec<OwnedFd>) {
        let key = start.key.clone();
        let dirs = self.conn(at).dirs.clone();
        match self.start(start, dirs, fds) {
            Ok(()) => self.conn(at).say_soon(Reply::Started { key }),
            Err(why) => {
                let why = crate::record::shortened(&why);
                let closed = self.closed.is_some();
                self.conn(at).say(Reply::RefusedStart { key, why, voided: false, closed });
            }
        }
    }

    fn what_is(&mut self, key: &AttemptKey) -> Option<Reply> {
        let key = key.clone();
        Some(match self.attempts.get(&key)? {
            State::Alive(_) | State::Unidentified { .. } => Reply::Started { key },
            State::Voided => {
                Reply::RefusedStart { key, why: "it was voided before".to_owned(), voided: true, closed: false }
            }
            State::Ended(Some(record)) => Reply::Ended { key, record: Some((**record).clone()) },
            State::Ended(None) => Reply::Ended { record: self.record_of(&key)?, key },
            State::Lost => Reply::Ended { key, record: None },
            // `ended` follows when nothing of it is left.
            State::Unsettled(_) | State::Leftovers(_) | State::Wiping(_) | State::NotBegan => return None,
        })
    }

    fn take_lock(&mut self, key: &AttemptKey) -> Result<OwnedFd, String> {
        hit(failpoint::SPAWNER_BEFORE_MKDIR);
        let fresh = self.make_attempt(key)?;
        hit(failpoint::SPAWNER_AFTER_MKDIR);
        let lock = self.shared.attempts.lock_free(key)?;
        if !fresh {
            let _ = rustix::fs::ftruncate(&lock, 0);
        }
        hit(failpoint::SPAWNER_AFTER_LOCK);
        Ok(lock)
    }

    fn voided(&mut self, key: &AttemptKey) {
        self.attempts.insert(key.clone(), State::Voided);
    }

    fn wish(&mut self, key: &AttemptKey, wish: Wish) {
        let now = sys::boottime_ms();
        let due = match self.attempts.get_mut(key) {
            Some(State::Alive(shim)) => {
                let pinned = if shim.pidfd.is_none() { procs::pin(shim.identity.pid) } else { None };
                let (signal, grace_ms) = match wish {
                    Wish::Stop(grace_ms) => (sys::signal_stop(), grace_ms),
                    Wish::Kill => (sys::signal_kill(), 0),
                };
                if let Some(pidfd) = shim.pidfd.as_ref().or(pinned.as_ref())
                    && let Err(error) = sys::queue_signal(pidfd, signal, grace_ms)
                {
                    say!("{key}: cannot signal its shim: {error}");
                }
                let due = now.saturating_add(grace_ms).saturating_add(KILL_PATIENCE_MS);
                shim.force_ms = Some(shim.force_ms.map_or(due, |before| before.min(due)));
                shim.force_ms
            }
            Some(State::Unidentified { wish: waiting, again_ms, .. }) => {
                *waiting = Some(wish);
                *again_ms = now;
                Some(now)
            }
            None if wish == Wish::Kill => {
                self.kill_unknown(key);
                None
            }
            _ => None,
        };
        self.note_due(due);
    }

    fn forgotten(&mut self, key: &AttemptKey) {
        self.attempts.remove(key);
    }
}

impl Server {
    /// What earlier spawners noted. A file that says nothing counts as none; one that cannot be read does not: an older
    /// daemon could be heard again.
    pub(super) fn load_generations(&mut self) -> io::Result<()> {
        let entries = match std::fs::read_dir(self.home.path.join(names::GENERATIONS_DIR)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let Some(store) = entry.file_name().into_string().ok().filter(|name| is_store_id(name)) else { continue };
            let text = std::fs::read(entry.path())?;
            if let Some(number) = str::from_utf8(&text).ok().and_then(|text| text.trim().parse().ok()) {
                self.generations.insert(store, number);
            }
        }
        Ok(())
    }

    /// Forks a shim. Err: nothing runs, and why.
    pub(super) fn start(&mut self, start: Start, dirs: Option<Dirs>, mut fds: Vec<OwnedFd>) -> Result<(), String> {
        if let Some(why) = self.closed {
            return Err(why.to_owned());
        }
        let secrets = if start.secrets { fds.pop() } else { None };
        let spec = fds.pop().ok_or("the specification is missing")?;
        memfd::check(&spec, "specification", SPEC_BYTES_MAX)?;
        if let Some(secrets) = &secrets {
            memfd::check(secrets, "secrets file", SPEC_BYTES_MAX)?;
        }
        let key = start.key.clone();
        let dirs = dirs.unwrap_or_else(|| self.shared.dirs.clone());
        let (slot, user) = self.choose_slot(&start, &dirs)?;
        let lock = self.take_lock(&key)?;
        let deadline_ms = start.timeout_ms.map(|ms| sys::boottime_ms() + ms + start.grace_ms + BACKSTOP_MS);
        let identity = Identity {
            pid: 0,
            lock_fd: 0,
            slot,
            backstop_ms: deadline_ms,
            cgroup_parent: self.shared.cgroup.as_ref().map(|parent| parent.path().to_owned()),
            session: None,
            owner: user.as_ref().map(|user| Owner { uid: user.uid, gid: user.gid }),
        };
        let order = Order { start, lock, spec, secrets, identity, dirs, user };
        let pid = match sys::fork() {
            Ok(Some(pid)) => pid,
            Ok(None) => shim::run(&self.shared, order),
            Err(error) => {
                self.attempts.insert(key, State::NotBegan);
                return Err(format!("cannot make a process: {error}"));
            }
        };
        hit(failpoint::SPAWNER_AFTER_FORK);
        let identity = Identity { pid, ..order.identity };
        let shim = Shim { identity, pidfd: None, force_ms: deadline_ms, forced_ms: None, stopped_looks: 0 };
        self.shims.insert(pid, key.clone());
        self.hold_slot(&shim.identity, &key);
        self.note_due(deadline_ms);
        self.attempts.insert(key, State::Alive(shim));
        Ok(())
    }

    /// Makes the attempt's directory; true when it was not there.
    fn make_attempt(&mut self, key: &AttemptKey) -> Result<bool, String> {
        self.shared.attempts.make(key).map_err(|error| {
            self.check_home();
            match self.closed {
                Some(why) => why.to_owned(),
                None => format!("cannot make the directory of attempt {key}: {error}"),
            }
        })
    }

    /// The directory is gone (another epoch), but its cgroup may be there: killed now, and swept until it can be removed.
    fn kill_unknown(&mut self, key: &AttemptKey) {
        let parent = self.shared.cgroup.as_ref().map(|parent| parent.path().to_owned());
        match Leaf::find(parent.as_deref(), key) {
            Ok(None) => return,
            Ok(Some(leaf)) => leaf.kill(),
            Err(error) => say!("{key}: its cgroup cannot be looked at: {error}; tried again"),
        }
        self.leave_to_sweep(key, Identity { cgroup_parent: parent, ..Identity::default() }, None);
    }

    /// SIGKILL to the shim itself.
    pub(super) fn kill_shim(shim: &Shim) {
        match &shim.pidfd {
            Some(pidfd) => {
                let _ = rustix::process::pidfd_send_signal(pidfd, Signal::KILL);
            }
            None => {
                procs::signal_if(shim.identity.pid, &[Signal::KILL], |_| true);
            }
        }
    }

    /// Removes what is left of an earlier boot, but the records of ends that were not yet committed.
    pub(super) fn wipe_other_boot(&mut self) {
        for key in self.shared.attempts.all().unwrap_or_default() {
            // One that cannot be read may be a record.
            if matches!(self.shared.attempts.read_exit(&key), Ok(None))
                && let Err(error) = self.shared.attempts.remove(&key)
            {
                say!("{key}: cannot remove its directory of an earlier boot: {error}");
            }
        }
        let _ = rustix::fs::unlinkat(&self.home.dir, "epoch.tmp", AtFlags::empty());
    }
}
