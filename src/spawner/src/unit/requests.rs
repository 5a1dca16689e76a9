//! What a daemon may ask, and what it gets: the same words as the native spawner's.

use std::ffi::CString;
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::attempt::{Call, Live, State, Wish};
use super::limits;
use super::places::{Person, Place};
use super::policy::Refusal;
use super::profile::Profile;
use super::seals;
use super::server::Server;
use super::shim::{self, Order};
use super::watch::LOOK_AGAIN_MS;
use crate::attempts::Locked;
use crate::failpoint::{self, hit};
use crate::protocol::{AttemptKey, Enforces, PROTOCOL_VERSION, Reply, Request, SPEC_BYTES_MAX, Start, names};
use crate::server::check::check_start;
use crate::server::conn::judge_hello;
use crate::server::requests::MS_MAX;
use crate::shim::clock::Started;
use crate::{memfd, procs, sys};

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
            Request::Ping => self.connections[at].say(Reply::Pong),
            Request::List => {
                let store = self.connections[at].store.clone();
                let of_store = self.attempts.keys().filter(|key| Some(&key.store) == store.as_ref());
                let mut keys: Vec<AttemptKey> = of_store.cloned().collect();
                keys.sort_unstable_by(|a, b| b.cmp(a));
                self.connections[at].listing = Some(keys);
            }
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
        let highest = match judge_hello(protocol, &store, generation, |store| self.home.generation(store)) {
            Ok(highest) => highest,
            Err(why) => return self.connections[at].refuse(why),
        };
        if generation > highest
            && let Err(error) = self.home.keep_generation(&store, generation)
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
            cgroup: true,
            pings: true,
            enforces,
        });
    }

    /// Which limits units can be made to keep to.
    fn enforces(&self) -> Enforces {
        limits::enforced(&self.mount.join(self.manager.root().trim_start_matches('/')))
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
            None | Some(State::NotBegan) => {
                let why = match self.start(start, fds) {
                    Ok(()) => return,
                    Err(Refusal::Never(why)) => match self.never(&key, &why) {
                        Ok(()) => return self.say_what_is(at, key),
                        Err(error) => error,
                    },
                    Err(Refusal::NotNow(why)) => why,
                };
                let why = crate::record::shortened(&why);
                self.connections[at].say(Reply::RefusedStart { key, why, voided: false, closed: false });
            }
            Some(_) => self.say_what_is(at, key),
        }
    }

    /// The answer to a `start` or `void` of an attempt that cannot be started (any more).
    fn say_what_is(&mut self, at: usize, key: AttemptKey) {
        self.check_record(&key);
        let reply = match self.attempts.get(&key) {
            Some(State::Live(_) | State::Unidentified { .. }) => Reply::Started { key },
            Some(State::Voided) => {
                Reply::RefusedStart { key, why: "it was voided before".to_owned(), voided: true, closed: false }
            }
            Some(State::Ended(Some(record))) => Reply::Ended { key, record: Some((**record).clone()) },
            Some(State::Ended(None)) => Reply::Ended { record: self.record_of(&key), key },
            Some(State::Lost) => Reply::Ended { key, record: None },
            // `ended` follows when nothing of it is left.
            Some(State::Leftovers(_) | State::NotBegan) | None => return,
        };
        self.connections[at].say(reply);
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
        let group = self.group(&key);
        let order = Order { start, lock, spec, secrets, socket, group: group.clone(), place, seals };
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
            group,
            call: Call::Unknown { since_ms: now },
            over: None,
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

    /// Makes the attempt's directory and takes its lock, with nothing of an earlier try in it.
    fn take_lock(&mut self, key: &AttemptKey) -> Result<OwnedFd, String> {
        hit(failpoint::SPAWNER_BEFORE_MKDIR);
        let made = self.shared.attempts.make(key);
        let fresh = made.map_err(|error| format!("cannot make the directory of attempt {key}: {error}"))?;
        hit(failpoint::SPAWNER_AFTER_MKDIR);
        let lock = match self.shared.attempts.lock(key) {
            Ok(Locked::Taken(lock)) => lock,
            Ok(Locked::Held(_)) => {
                return Err("its lock is held by a process that this spawner does not know".to_owned());
            }
            Err(error) => return Err(format!("cannot lock attempt {key}: {error}")),
        };
        if !fresh {
            let _ = rustix::fs::ftruncate(&lock, 0);
            let _ = self.shared.attempts.unmark(key, names::VERDICT);
        }
        hit(failpoint::SPAWNER_AFTER_LOCK);
        Ok(lock)
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
        let _lock = self.take_lock(key)?;
        hit(failpoint::SPAWNER_BEFORE_VOID);
        let marked = self.shared.attempts.mark(key, names::VOIDED);
        marked.map_err(|error| format!("cannot void attempt {key}: {error}"))
    }

    /// Passes a wish on. SIGTERM goes through PID 1; the kill after the grace is the shim's, and ours if it does not.
    pub(super) fn wish(&mut self, key: &AttemptKey, wish: Wish) {
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
