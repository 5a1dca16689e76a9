//! What a daemon may ask, and what it gets: the same words as the native spawner's.

use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::attempt::{Call, Live, State};
use super::limits;
use super::places::{Person, Place};
use super::policy::Refusal;
use super::profile::Profile;
use super::seals;
use super::server::Server;
use super::shim::{self, Order};
use super::watch::LOOK_AGAIN_MS;
use crate::attempts::Attempts;
use crate::daemons::{Daemons, Introduction, Serve, Table, Wish};
use crate::failpoint::{self, hit};
use crate::protocol::{AttemptKey, Enforces, Reply, SPEC_BYTES_MAX, Seen, Start, names};
use crate::shim::clock::Started;
use crate::{memfd, procs, sys};

impl Serve for Server {
    fn daemons(&mut self) -> &mut Daemons {
        &mut self.daemons
    }

    fn lets_in(&self, uid: u32) -> bool {
        self.policy.users.contains(&uid)
    }

    fn highest_generation(&self, store: &str) -> u64 {
        self.generations.get(store).copied().unwrap_or(0)
    }

    fn stores(&self) -> std::io::Result<usize> {
        self.home.stores()
    }

    fn keep_generation(&mut self, store: &str, generation: u64) -> std::io::Result<()> {
        self.home.keep_generation(store, generation)?;
        if self.generations.insert(store.to_owned(), generation).is_none() {
            // Its units may be here, of a directory that was lost.
            self.sweep_ms = 0;
        }
        Ok(())
    }

    fn introduction(&self) -> Introduction {
        Introduction { epoch: self.home.epoch.clone(), cgroup: true, dirs: false, enforces: self.enforces() }
    }

    fn directory(&self) -> &Attempts {
        &self.shared.attempts
    }

    fn known(&self) -> &dyn Table {
        &self.attempts
    }

    fn seen(&mut self, key: &AttemptKey) -> Option<Seen> {
        self.check_record(key);
        Some(match self.attempts.get(key)? {
            State::Live(_) | State::Unidentified { .. } => Seen::Alive,
            State::Leftovers(_) => Seen::Leftovers,
            State::NotBegan => Seen::NotBegan,
            State::Voided => Seen::Voided,
            State::Ended(Some(record)) => Seen::Ended((**record).clone()),
            State::Ended(None) => self.record_of(key).map_or(Seen::Lost, Seen::Ended),
            State::Lost => Seen::Lost,
        })
    }

    /// `Started` is said when the job was handed over.
    fn start_asked(&mut self, at: usize, start: Start, fds: Vec<OwnedFd>) {
        let key = start.key.clone();
        let why = match self.start(start, fds) {
            Ok(()) => return,
            Err(Refusal::Never(why)) => match self.never(&key, &why) {
                Ok(()) => return self.say_what_is(at, &key),
                Err(error) => error,
            },
            Err(Refusal::NotNow(why)) => why,
        };
        let why = crate::record::shortened(&why);
        let closed = self.closed.is_some();
        self.conn(at).say(Reply::RefusedStart { key, why, voided: false, closed });
    }

    fn what_is(&mut self, key: &AttemptKey) -> Option<Reply> {
        self.check_record(key);
        let key = key.clone();
        Some(match self.attempts.get(&key)? {
            State::Live(_) | State::Unidentified { .. } => Reply::Started { key },
            State::Voided => {
                Reply::RefusedStart { key, why: "it was voided before".to_owned(), voided: true, closed: false }
            }
            State::Ended(Some(record)) => Reply::Ended { key, record: Some((**record).clone()) },
            State::Ended(None) => Reply::Ended { record: self.record_of(&key), key },
            State::Lost => Reply::Ended { key, record: None },
            // `ended` follows when nothing of it is left.
            State::Leftovers(_) | State::NotBegan => return None,
        })
    }

    fn take_lock(&mut self, key: &AttemptKey) -> Result<OwnedFd, String> {
        hit(failpoint::SPAWNER_BEFORE_MKDIR);
        let made = self.shared.attempts.make(key);
        let fresh = made.map_err(|error| format!("cannot make the directory of attempt {key}: {error}"))?;
        hit(failpoint::SPAWNER_AFTER_MKDIR);
        let lock = self.shared.attempts.lock_free(key)?;
        if !fresh {
            let _ = rustix::fs::ftruncate(&lock, 0);
            let _ = self.shared.attempts.unmark(key, names::VERDICT);
        }
        hit(failpoint::SPAWNER_AFTER_LOCK);
        Ok(lock)
    }

    fn voided(&mut self, key: &AttemptKey) {
        self.attempts.insert(key.clone(), State::Voided);
    }

    /// SIGTERM goes through PID 1; the kill after the grace is the shim's, and ours if it does not.
    fn wish(&mut self, key: &AttemptKey, wish: Wish) {
        let now = sys::boottime_ms();
        match self.attempts.get_mut(key) {
            Some(State::Live(live)) => {
                let (signal, grace_ms) = match wish {
                    Wish::Stop(grace_ms) => (sys::signal_stop(), grace_ms),
                    Wish::Kill => (sys::signal_kill(), 0),
                };
                live.signal(signal, grace_ms);
                let kill_ms = now.saturating_add(grace_ms);
                live.kill_ms = Some(live.kill_ms.map_or(kill_ms, |before| before.min(kill_ms)));
                live.terminate |= matches!(wish, Wish::Stop(_));
                if live.terminate {
                    self.manager.terminate(key);
                }
            }
            Some(State::Unidentified { wish: waiting, .. }) => *waiting = Some(wish),
            // The directory is gone (another epoch), but its unit may be there.
            None if wish == Wish::Kill => {
                self.group(key).kill();
                self.manager.list();
            }
            _ => {}
        }
    }

    fn forgotten(&mut self, key: &AttemptKey) {
        self.attempts.remove(key);
    }
}

impl Server {
    /// Which limits units can be made to keep to.
    fn enforces(&self) -> Enforces {
        limits::enforced(&self.mount.join(self.manager.root().trim_start_matches('/')))
    }

    /// What may not be is the attempt's result, as if it had tried. Err: that could not be written.
    fn never(&mut self, key: &AttemptKey, why: &str) -> Result<(), String> {
        say!("{key}: {why}");
        let _lock = self.take_lock(key)?;
        let record = Started::now().failed(key, why);
        let attempts = &self.shared.attempts;
        let written = attempts.write_exit_aside(&record).and_then(|()| attempts.publish_exit(key));
        written.map_err(|error| format!("{why}; and that cannot be written: {error}"))?;
        self.attempts.insert(key.clone(), State::Ended(None));
        Ok(())
    }

    /// Forks a shim and asks for a unit. Err: nothing runs, and why. `Started` is said when the job was handed over.
    fn start(&mut self, start: Start, fds: Vec<OwnedFd>) -> Result<(), Refusal> {
        let now = |why: String| Refusal::NotNow(why);
        if let Some(why) = self.closed {
            return Err(now(why.to_owned()));
        }
        let (pool, profile) = self.policy.judge(&start)?;
        let place = pool.person.as_ref().map(Person::place).transpose();
        let place = place.map_err(|why| Refusal::Never(format!("the pool {:?}: {why}", start.pool)))?;
        let limits = pool.maxima.of(&start.limits).map_err(Refusal::Never)?;
        if !self.manager.is_up() {
            let why = self.trouble.as_deref().unwrap_or("not yet connected");
            return Err(now(format!("PID 1 cannot be reached over D-Bus: {why}")));
        }
        let enforces = self.enforces();
        if let Some(name) = limits.lacks(&enforces) {
            return Err(Refusal::Never(format!("a limit of {name} cannot be enforced: {}", enforces.why_not)));
        }
        let seals = seals::checks(profile, pool.degrade, self.filters);
        self.fork(Start { limits, ..start }, profile, (place, seals), fds).map_err(now)
    }

    fn fork(
        &mut self,
        start: Start,
        profile: Profile,
        (place, seals): (Option<Place>, Vec<CString>),
        mut fds: Vec<OwnedFd>,
    ) -> Result<(), String> {
        let secrets = if start.secrets { fds.pop() } else { None };
        let spec = fds.pop().ok_or("the specification is missing")?;
        memfd::check(&spec, "specification", SPEC_BYTES_MAX)?;
        if let Some(secrets) = &secrets {
            memfd::check(secrets, "secrets file", SPEC_BYTES_MAX)?;
        }
        let key = start.key.clone();
        let pair = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
        let (socket, stdin) = pair.map_err(|error| format!("cannot make a socket: {error}"))?;
        let lock = self.take_lock(&key)?;
        // Ours to say: PID 1 puts it where we ask, and has told its root.
        let group = self.group(&key).known();
        let lock_fd = lock.as_raw_fd();
        let spawner = rustix::process::getpid();
        let order = Order { start, lock, spec, secrets, socket, group: group.clone(), place, seals, spawner };
        let pid = match sys::fork() {
            Ok(Some(pid)) => pid,
            Ok(None) => shim::run(&self.shared, order),
            Err(error) => {
                self.attempts.insert(key, State::NotBegan);
                return Err(format!("cannot make a process: {error}"));
            }
        };
        hit(failpoint::SPAWNER_AFTER_FORK);
        let person = self.policy.person(&order.start.pool);
        self.manager.start(&order.start, (profile, person), stdin);
        let now = sys::boottime_ms();
        let live = Live {
            pid,
            pidfd: procs::pin(pid),
            lock_fd,
            group,
            call: Call::Unknown { since_ms: now },
            over: None,
            handed_ms: None,
            terminate: false,
            kill_ms: None,
            due_ms: now + LOOK_AGAIN_MS,
            pause_ms: 0,
        };
        self.shims.insert(pid, key.clone());
        self.noted.remove(&key);
        self.attempts.insert(key, State::Live(live));
        Ok(())
    }
}

impl Live {
    /// Signals the shim itself.
    pub(super) fn signal(&self, signal: i32, value: u64) {
        let pinned = if self.pidfd.is_none() { procs::pin(self.pid) } else { None };
        if let Some(pidfd) = self.pidfd.as_ref().or(pinned.as_ref()) {
            // Gone already: its end is handled when it is seen.
            let _ = sys::queue_signal(pidfd, signal, value);
        }
    }
}
