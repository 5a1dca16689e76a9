//! What a daemon may ask, and what it gets.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::process::Signal;

use super::Server;
use super::attempt::{Shim, State, Wish};
use super::check::check_start;
use super::conn::judge_hello;
use super::setup;
use crate::attempts::{Identity, Locked};
use crate::cgroup::Leaf;
use crate::failpoint::{self, hit};
use crate::policy_file::User;
use crate::protocol::{
    AttemptKey, Enforces, PROTOCOL_VERSION, Reply, Request, SPEC_BYTES_MAX, Start, is_store_id, names,
};
use crate::shim::{self, Order};
use crate::{memfd, procs, sys};

/// No deadline, grace or slot number is larger: sums stay far from overflow, and nobody means a thousand years.
pub(crate) const MS_MAX: u64 = 1000 * 365 * 24 * 3600 * 1000;
/// How long the spawner lets a shim do its work before it steps in.
pub(super) const KILL_PATIENCE_MS: u64 = 2000;
/// The same for deadlines, which nobody waits for.
pub(super) const BACKSTOP_MS: u64 = 30_000;

impl Server {
    pub(super) fn handle_packet(&mut self, at: usize, packet: &[u8], fds: Vec<OwnedFd>) {
        let requests: Vec<Request> = match serde_json::from_slice(packet) {
            Ok(requests) => requests,
            Err(error) => return self.connections[at].refuse(format!("a packet does not parse: {error}")),
        };
        if let ([Request::Start(start)], true) = (requests.as_slice(), self.connections[at].store.is_some()) {
            return self.handle_start(at, start.clone(), fds);
        }
        if !fds.is_empty() {
            return self.connections[at].refuse("descriptors came with something else than one start");
        }
        for request in requests {
            if self.connections[at].closing {
                return;
            }
            self.handle(at, request);
        }
    }

    fn handle(&mut self, at: usize, request: Request) {
        let greeted = self.connections[at].store.is_some();
        match request {
            Request::Hello { .. } if greeted => self.connections[at].refuse("a second hello"),
            Request::Hello { protocol, store, generation } => self.hello(at, protocol, store, generation),
            _ if !greeted => self.connections[at].refuse("the first message is not hello"),
            Request::Start(_) => self.connections[at].refuse("a start shares its packet"),
            Request::List => {
                let store = self.connections[at].store.clone();
                let of_store = self.attempts.keys().filter(|key| Some(&key.store) == store.as_ref());
                let mut keys: Vec<AttemptKey> = of_store.cloned().collect();
                keys.sort_unstable_by(|a, b| b.cmp(a));
                self.connections[at].listing = Some(keys);
            }
            Request::Ping => self.connections[at].say(Reply::Pong),
            Request::Void(key) if self.is_own(at, &key) => self.void(at, key),
            Request::Signal { key, grace_ms } if self.is_own(at, &key) => {
                self.wish(&key, Wish::Stop(grace_ms.min(MS_MAX)));
                hit(failpoint::SPAWNER_AFTER_SIGNAL);
            }
            Request::Kill(key) if self.is_own(at, &key) => {
                self.wish(&key, Wish::Kill);
                hit(failpoint::SPAWNER_AFTER_KILL);
            }
            Request::Forget(key) if self.is_own(at, &key) => self.forget(&key),
            Request::Void(_) | Request::Signal { .. } | Request::Kill(_) | Request::Forget(_) => {}
        }
    }

    /// Refuses the connection when the attempt is of another store, or its name is none.
    fn is_own(&mut self, at: usize, key: &AttemptKey) -> bool {
        let own = self.connections[at].store.as_deref() == Some(key.store.as_str()) && key.job > 0 && key.attempt > 0;
        if !own {
            self.connections[at].refuse(format!("attempt {key} is not of this connection's store"));
        }
        own
    }

    fn hello(&mut self, at: usize, protocol: u32, store: String, generation: u64) {
        let highest = match judge_hello(protocol, &store, generation, |store| {
            self.generations.get(store).copied().unwrap_or(0)
        }) {
            Ok(highest) => highest,
            Err(why) => return self.connections[at].refuse(why),
        };
        if generation > highest
            && let Err(error) = self.keep_generation(&store, generation)
        {
            return self.connections[at].refuse(format!("cannot note generation {generation}: {error}"));
        }
        for (other, conn) in self.connections.iter_mut().enumerate() {
            if other != at && conn.store.as_deref() == Some(store.as_str()) {
                conn.closing = true;
            }
        }
        self.connections[at].store = Some(store);
        let enforces = self.enforces();
        self.connections[at].say(Reply::Welcome {
            protocol: PROTOCOL_VERSION,
            epoch: self.home.epoch.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            cgroup: self.shared.cgroup.is_some(),
            pings: true,
            enforces,
        });
    }

    /// Which limits jobs can be made to keep to.
    fn enforces(&self) -> Enforces {
        let none = || Enforces { why_not: shim::NO_CGROUP.to_owned(), ..Enforces::default() };
        self.shared.cgroup.as_ref().map_or_else(none, |parent| parent.enforces().clone())
    }

    fn keep_generation(&mut self, store: &str, generation: u64) -> io::Result<()> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::PATH;
        let _ = rustix::fs::mkdirat(&self.home.dir, names::GENERATIONS_DIR, Mode::RWXU);
        let dir = rustix::fs::openat(&self.home.dir, names::GENERATIONS_DIR, flags, Mode::empty())?;
        setup::replace(&dir, store, generation.to_string().as_bytes())?;
        self.generations.insert(store.to_owned(), generation);
        Ok(())
    }

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

    fn handle_start(&mut self, at: usize, start: Start, fds: Vec<OwnedFd>) {
        if !self.is_own(at, &start.key) {
            return;
        }
        if let Err(why) = check_start(&start, fds.len()) {
            return self.connections[at].refuse(format!("start of {}: {why}", start.key));
        }
        let key = start.key.clone();
        match self.attempts.get(&key) {
            None | Some(State::NotBegan) => match self.start(start, fds) {
                Ok(()) => self.connections[at].say_soon(Reply::Started { key }),
                Err(why) => {
                    let why = crate::record::shortened(&why);
                    let closed = self.closed.is_some();
                    self.connections[at].say(Reply::RefusedStart { key, why, voided: false, closed });
                }
            },
            Some(_) => self.say_what_is(at, key),
        }
    }

    /// The answer to a `start` or `void` of an attempt that cannot be started (any more).
    fn say_what_is(&mut self, at: usize, key: AttemptKey) {
        let reply = match self.attempts.get(&key) {
            Some(State::Alive(_) | State::Unidentified { .. }) => Reply::Started { key },
            Some(State::Voided) => {
                Reply::RefusedStart { key, why: "it was voided before".to_owned(), voided: true, closed: false }
            }
            Some(State::Ended(Some(record))) => Reply::Ended { key, record: Some((**record).clone()) },
            Some(State::Ended(None)) => match self.record_of(&key) {
                Some(record) => Reply::Ended { key, record },
                None => return,
            },
            Some(State::Lost) => Reply::Ended { key, record: None },
            // `ended` follows when nothing of it is left.
            Some(State::Unsettled(_) | State::Leftovers(_) | State::Wiping(_) | State::NotBegan) | None => return,
        };
        self.connections[at].say(reply);
    }

    /// Forks a shim. Err: nothing runs, and why.
    pub(super) fn start(&mut self, start: Start, mut fds: Vec<OwnedFd>) -> Result<(), String> {
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
        let (slot, user) = self.choose_slot(&start)?;
        hit(failpoint::SPAWNER_BEFORE_MKDIR);
        let fresh = self.make_attempt(&key)?;
        hit(failpoint::SPAWNER_AFTER_MKDIR);
        let lock = match self.shared.attempts.lock(&key) {
            Ok(Locked::Taken(lock)) => lock,
            Ok(Locked::Held(_)) => {
                return Err("its lock is held by a process that this spawner does not know".to_owned());
            }
            Err(error) => return Err(format!("cannot lock attempt {key}: {error}")),
        };
        if !fresh {
            let _ = rustix::fs::ftruncate(&lock, 0);
        }
        hit(failpoint::SPAWNER_AFTER_LOCK);
        let deadline_ms = start.timeout_ms.map(|ms| sys::boottime_ms() + ms + start.grace_ms + BACKSTOP_MS);
        let identity = Identity {
            pid: 0,
            lock_fd: 0,
            slot: slot.clone(),
            backstop_ms: deadline_ms,
            cgroup_parent: self.shared.cgroup.as_ref().map(|parent| parent.path().to_owned()),
            session: None,
        };
        let order = Order { start, lock, spec, secrets, identity, user };
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
        self.slots.insert(slot, key.clone());
        self.note_due(deadline_ms);
        self.attempts.insert(key, State::Alive(shim));
        Ok(())
    }

    /// The slot of a start and, for a service of root, its user.
    fn choose_slot(&self, start: &Start) -> Result<(String, Option<User>), String> {
        if let Some(policy) = &self.service {
            let slot = policy.choose(start, |slot| self.slots.contains_key(slot))?;
            let user = policy.user_of(&slot).cloned();
            return Ok((slot, user));
        }
        let slot = format!("{}-{}", start.pool, start.slot);
        match self.slots.get(&slot) {
            Some(holder) => Err(format!("slot {slot} is still in use by attempt {holder}")),
            None => Ok((slot, None)),
        }
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

    fn void(&mut self, at: usize, key: AttemptKey) {
        match self.attempts.get(&key) {
            None | Some(State::NotBegan) => {}
            Some(State::Voided) => return self.connections[at].say(Reply::Voided { key }),
            Some(_) => return self.say_what_is(at, key),
        }
        let reply = match self.write_void(&key) {
            Ok(()) => {
                self.attempts.insert(key.clone(), State::Voided);
                hit(failpoint::SPAWNER_AFTER_VOID);
                Reply::Voided { key }
            }
            Err(why) => Reply::RefusedStart { key, why, voided: false, closed: false },
        };
        self.connections[at].say(reply);
    }

    fn write_void(&mut self, key: &AttemptKey) -> Result<(), String> {
        self.make_attempt(key)?;
        let _lock = match self.shared.attempts.lock(key) {
            Ok(Locked::Taken(lock)) => lock,
            Ok(Locked::Held(_)) => {
                return Err("its lock is held by a process that this spawner does not know".to_owned());
            }
            Err(error) => return Err(format!("cannot lock attempt {key}: {error}")),
        };
        hit(failpoint::SPAWNER_BEFORE_VOID);
        let marked = self.shared.attempts.mark(key, names::VOIDED);
        marked.map_err(|error| format!("cannot void attempt {key}: {error}"))
    }

    /// Passes a wish on to the shim, and watches that it comes true.
    pub(super) fn wish(&mut self, key: &AttemptKey, wish: Wish) {
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

    /// Ended attempts have no lock holder: their shim was reaped, or their lock was taken when they were taken over.
    fn forget(&mut self, key: &AttemptKey) {
        match self.attempts.get(key) {
            None => return,
            Some(state) if state.is_alive() => return,
            Some(_) => {}
        }
        hit(failpoint::SPAWNER_BEFORE_FORGET);
        if let Err(error) = self.shared.attempts.remove(key) {
            say!("{key}: cannot remove its directory: {error}");
        }
        self.attempts.remove(key);
        hit(failpoint::SPAWNER_AFTER_FORGET);
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
