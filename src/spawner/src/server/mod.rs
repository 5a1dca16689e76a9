//! The spawner's loop: one thread, one `poll`, no decision of its own.
//!
//! It forks a shim for each `start`, tells when a shim has ended, and steps in where a shim cannot do its work. All it must
//! remember is in its directory, so that it can be killed at any moment: a successor takes over what it finds.
//!
//! A turn goes: deaths, packets, new connections, what is due, then all replies of the turn in as few packets as possible.

mod attempt;
pub(crate) mod conn;
mod lifeline;
pub(crate) mod requests;
pub(crate) mod service;
pub(crate) mod setup;
mod stopped;
mod sweep;
mod takeover;
mod watch;

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::SocketFlags;

use self::attempt::State;
use self::conn::Connection;
use self::lifeline::Lifeline;
pub(crate) use self::setup::Options;
use self::setup::{Home, NoHome, Teller};
use crate::attempts::{Attempts, Identity};
use crate::cgroup::Parent;
use crate::failpoint;
use crate::protocol::{AttemptKey, ExitRecord, PACKET_BYTES_MAX, Reply, Seen};
use crate::service::Then;
use crate::shim::{Note, Shared};
use crate::sys::{self, OpenFiles, Reaped};
use crate::wire::{self, Received};

/// One daemon, its successor, and a few that only look.
const CONNECTIONS_MAX: usize = 32;
/// Packets read from one connection in one turn.
const PACKETS_A_TURN: usize = 64;
/// How often to see whether the directory is still there, while a daemon is connected.
const HOME_CHECK_MS: u64 = 5000;
/// Longest sleep while jobs run: deadlines are on a clock that goes on while the machine sleeps, `poll`'s is not.
const SLEEP_MS_MAX: u64 = 60_000;
/// After the directory was removed and everything has ended, the daemon has so long to take the ends.
const LAST_WORDS_MS: u64 = 5000;
/// What cannot be had now is tried again after this.
const SHORTAGE_PAUSE: std::time::Duration = std::time::Duration::from_millis(10);

/// The spawner.
pub(crate) struct Server {
    linger_ms: u64,
    home: Home,
    listener: OwnedFd,
    signals: OwnedFd,
    shared: Shared,
    /// Where shims' notes arrive.
    notes: OwnedFd,
    /// Notes of shims whose end is not handled yet.
    noted: HashMap<AttemptKey, Note>,
    attempts: HashMap<AttemptKey, State>,
    /// Our own children.
    shims: HashMap<i32, AttemptKey>,
    /// Our own children that empty slots in place of dead shims.
    wipers: HashMap<i32, AttemptKey>,
    /// Living shims of a predecessor.
    adopted: HashSet<AttemptKey>,
    /// No more of these are watched by a descriptor each.
    watched_max: usize,
    /// Slots in use, by name.
    slots: HashMap<String, AttemptKey>,
    /// Highest generation of each store, as on the disk.
    generations: HashMap<String, u64>,
    connections: Vec<Connection>,
    /// Why no attempt is started any more.
    closed: Option<&'static str>,
    homeless: bool,
    /// Since when there is neither daemon nor job, or nothing to stay for.
    idle_since_ms: Option<u64>,
    /// Nothing in `attempts` is due before.
    due_ms: u64,
    home_check_ms: u64,
    /// When shims are looked at next, if there are any.
    shims_look_ms: u64,
    /// Only of a private spawner.
    lifeline: Option<Lifeline>,
    /// An `ended` is among this turn's replies.
    said_ended: bool,
    /// Only of a service of root: which users jobs have.
    service: Option<service::Policy>,
    /// Only of a service: why the loop ends.
    then: Option<Then>,
}

/// Everything from command line to end; the process' exit code.
pub(crate) fn main(words: impl IntoIterator<Item = std::ffi::OsString>) -> i32 {
    let options = match Options::parse(words) {
        Ok(Some(options)) => options,
        Ok(None) => return 0,
        Err(why) => {
            eprintln!("ci-runner-spawner: {why}");
            return 3;
        }
    };
    if let Err(why) = failpoint::arm_from_environment() {
        eprintln!("ci-runner-spawner: {why}");
        return 3;
    }
    sys::close_from_but(3, &mut []);
    let open_files = sys::raise_open_files();
    let lifeline = match Lifeline::take(&options) {
        Ok(lifeline) => lifeline,
        Err(error) => {
            eprintln!("ci-runner-spawner: {error}");
            return 3;
        }
    };
    let mut teller = match setup::into_background() {
        Ok(teller) => teller,
        Err(error) => {
            eprintln!("ci-runner-spawner: cannot go into the background: {error}");
            return 1;
        }
    };
    match Server::open(&options, open_files, &mut teller) {
        Ok(mut server) => {
            server.lifeline = lifeline;
            server.run();
            server.home.leave();
            server.remove_private_dir();
            0
        }
        Err(NoHome::Taken(pid)) => {
            teller.tell(0, &format!("a spawner is running already, process {pid}"));
            0
        }
        Err(NoHome::Fault(why)) => {
            teller.tell(1, &why);
            1
        }
    }
}

impl Server {
    /// A spawner that is ready; whoever called it is told.
    fn open(options: &Options, open_files: OpenFiles, teller: &mut Teller) -> Result<Self, NoHome> {
        let mut server = Self::listening(options, open_files, Home::enter(options)?)?;
        setup::redirect(&server.home).map_err(|error| server.fault("cannot open the log", error))?;
        server.load_generations().map_err(|error| server.fault("cannot read the generations", error))?;
        server.take_over().map_err(NoHome::Fault)?;
        teller.tell(0, "");
        say!(
            "spawner {} started, process {}, cgroups {}, {} attempts taken over",
            env!("CARGO_PKG_VERSION"),
            std::process::id(),
            if server.shared.cgroup.is_some() { "yes" } else { "no" },
            server.attempts.len()
        );
        Ok(server)
    }

    /// All that it needs; nothing is looked at yet.
    fn listening(options: &Options, open_files: OpenFiles, home: Home) -> Result<Self, NoHome> {
        let fault = |what: &str, error: io::Error| home.fault(what, error);
        let attempts = Attempts::open(&home.dir).map_err(|error| fault("cannot open the attempts", error))?;
        let pipe = rustix::pipe::PipeFlags::CLOEXEC | rustix::pipe::PipeFlags::NONBLOCK;
        let (notes, shims_notes) = rustix::pipe::pipe_with(pipe).map_err(|error| fault("pipe", error.into()))?;
        let awaited: &[i32] = match options.group {
            None => &[libc::SIGCHLD, libc::SIGTERM],
            Some(_) => &[libc::SIGCHLD, libc::SIGTERM, libc::SIGINT, libc::SIGHUP],
        };
        let signals = sys::signal_fd(awaited).map_err(|error| fault("signals", error))?;
        let cgroup = if options.no_cgroup { None } else { Parent::detect(options.no_clone3) };
        let listener = match options.group {
            None => home.listen(),
            Some(group) => crate::unit::home::listen(&home.dir, &home.path, group),
        };
        let listener = listener.map_err(|error| fault("cannot listen", error))?;
        Ok(Self {
            linger_ms: options.linger_ms,
            listener,
            signals,
            shared: Shared {
                attempts,
                cgroup,
                notes: shims_notes,
                log_dir: options.log_dir.clone(),
                tmp_dir: options.tmp_dir.clone(),
                job_open_files: OpenFiles { soft: options.job_open_files.unwrap_or(open_files.soft), ..open_files },
            },
            notes,
            noted: HashMap::new(),
            attempts: HashMap::new(),
            shims: HashMap::new(),
            wipers: HashMap::new(),
            adopted: HashSet::new(),
            watched_max: takeover::watched_max(open_files.now),
            said_ended: false,
            slots: HashMap::new(),
            generations: HashMap::new(),
            connections: Vec::new(),
            closed: None,
            homeless: false,
            idle_since_ms: None,
            due_ms: u64::MAX,
            home_check_ms: 0,
            shims_look_ms: 0,
            lifeline: None,
            service: None,
            then: None,
            home,
        })
    }

    fn fault(&self, what: &str, error: io::Error) -> NoHome {
        self.home.fault(what, error)
    }

    fn run(&mut self) {
        while !self.is_done() {
            let woken = self.sleep();
            if woken.daemon_gone {
                self.daemon_gone();
            }
            if woken.signals {
                self.read_signals();
            }
            for key in woken.adopted {
                self.shim_gone(&key);
            }
            for at in woken.connections {
                self.read_connection(at);
            }
            if woken.listener {
                self.accept();
            }
            self.do_what_is_due();
            self.flush();
        }
    }

    /// True when there is nothing to stay for.
    fn is_done(&mut self) -> bool {
        if self.then.is_some() {
            return true;
        }
        let used = self.closed.is_none() && !self.connections.is_empty();
        if used || self.attempts.values().any(State::is_alive) {
            self.idle_since_ms = None;
            return false;
        }
        let now = sys::boottime_ms();
        let since = *self.idle_since_ms.get_or_insert(now);
        let patience_ms = match self.closed {
            None => self.linger_ms,
            Some(_) if self.homeless && !self.connections.is_empty() && !self.attempts.is_empty() => LAST_WORDS_MS,
            Some(_) => 0,
        };
        now >= since.saturating_add(patience_ms)
    }

    fn sleep(&mut self) -> Woken {
        let mut fds = vec![PollFd::new(&self.signals, PollFlags::IN)];
        let accepts = if self.connections.len() < CONNECTIONS_MAX { PollFlags::IN } else { PollFlags::empty() };
        fds.push(PollFd::new(&self.listener, accepts));
        fds.extend(self.connections.iter().map(|conn| PollFd::new(&conn.socket, conn.interest())));
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
        let (of_connections, of_adopted) = ready[2..].split_at(self.connections.len());
        Woken {
            daemon_gone,
            signals: ready[0],
            listener: ready[1],
            connections: (0..of_connections.len()).filter(|&at| of_connections[at]).collect(),
            adopted: (0..of_adopted.len()).filter(|&at| of_adopted[at]).map(|at| adopted[at].clone()).collect(),
        }
    }

    fn sleep_ms(&self) -> u64 {
        let now = sys::boottime_ms();
        let mut until = self.due_ms.min(now.saturating_add(SLEEP_MS_MAX));
        if !self.connections.is_empty() {
            until = until.min(self.home_check_ms);
        }
        until =
            self.connections.iter().filter_map(Connection::send_ms).chain(self.shims_due_ms()).fold(until, u64::min);
        if let Some(since) = self.idle_since_ms {
            let patience_ms = if self.closed.is_some() { LAST_WORDS_MS } else { self.linger_ms };
            until = until.min(since.saturating_add(patience_ms));
        }
        until.saturating_sub(now)
    }

    fn read_signals(&mut self) {
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

    fn accept(&mut self) {
        while self.connections.len() < CONNECTIONS_MAX {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = match rustix::net::accept_with(&self.listener, flags) {
                Ok(socket) => socket,
                // Out of descriptors or memory: poll would wake us again at once.
                Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                    return std::thread::sleep(SHORTAGE_PAUSE);
                }
                Err(_) => return,
            };
            let mut connection = Connection::new(socket);
            let own = rustix::process::geteuid();
            match rustix::net::sockopt::socket_peercred(&connection.socket) {
                Ok(peer) if peer.uid == own || peer.uid.is_root() => {}
                Ok(peer) if self.service.as_ref().is_some_and(|policy| policy.lets_in(peer.uid.as_raw())) => {}
                Ok(peer) => connection.refuse(format!("user {} may not use this spawner", peer.uid.as_raw())),
                Err(error) => connection.refuse(format!("cannot tell who connects: {error}")),
            }
            self.connections.push(connection);
        }
        // Room for the next: whoever has not said who it is goes first.
        if self.connections.len() == CONNECTIONS_MAX
            && let Some(silent) = self.connections.iter_mut().find(|conn| conn.store.is_none())
        {
            silent.closing = true;
        }
    }

    fn read_connection(&mut self, at: usize) {
        let mut buffer = [0; PACKET_BYTES_MAX];
        for _ in 0..PACKETS_A_TURN {
            if self.connections[at].closing {
                return;
            }
            match wire::receive(&self.connections[at].socket, &mut buffer) {
                Received::Nothing => return,
                Received::Closed => self.connections[at].closing = true,
                Received::Malformed(why) => self.connections[at].refuse(why),
                Received::Packet(bytes, fds) => self.handle_packet(at, &buffer[..bytes], fds),
            }
        }
    }

    /// Makes listings, sends everything, and lets go of connections that are over.
    fn flush(&mut self) {
        for at in 0..self.connections.len() {
            self.connections[at].flush();
            while self.connections[at].wants_listing() {
                self.list_some(at);
                self.connections[at].flush();
            }
        }
        self.connections.retain(|conn| !conn.closing);
        if std::mem::take(&mut self.said_ended) {
            failpoint::hit(failpoint::SPAWNER_AFTER_ENDED);
        }
    }

    /// The next piece of an answer to `list`.
    fn list_some(&mut self, at: usize) {
        let Some(mut listing) = self.connections[at].listing.take() else { return };
        for _ in 0..64 {
            let Some(key) = listing.pop() else {
                self.connections[at].say(Reply::Listed);
                return;
            };
            // Forgotten meanwhile: not there.
            if let Some(seen) = self.seen(&key) {
                self.connections[at].say(Reply::Attempt { key, seen });
            }
        }
        self.connections[at].listing = Some(listing);
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

    /// The record of an attempt that has ended. The outer None: it cannot be read now; `ended` will be told once it can.
    fn record_of(&mut self, key: &AttemptKey) -> Option<Option<ExitRecord>> {
        let read = self.shared.attempts.read_exit(key);
        if let Err(error) = &read {
            say!("{key}: its record cannot be read: {error}; tried again");
            self.unsettle(key, Identity::default(), None);
        }
        read.ok()
    }

    /// Tells the daemon of this attempt's store; false when it is not there.
    fn tell(&mut self, store: &str, reply: Reply) -> bool {
        let of_store = |conn: &&mut Connection| conn.store.as_deref() == Some(store) && !conn.closing;
        let found = self.connections.iter_mut().find(of_store);
        found.map(|conn| conn.say(reply)).is_some()
    }

    /// Something in `attempts` is due then.
    fn note_due(&mut self, at_ms: Option<u64>) {
        self.due_ms = self.due_ms.min(at_ms.unwrap_or(u64::MAX));
    }

    fn check_home(&mut self) {
        self.home_check_ms = sys::boottime_ms() + HOME_CHECK_MS;
        setup::bound_log();
        self.write_kept_records();
        if !self.homeless && !self.home.is_there() {
            self.homeless = true;
            self.closed = Some("the runtime directory was removed or emptied");
            say!("{} is gone: nothing is started any more", self.home.path.display());
        }
    }
}

/// What `poll` found.
#[derive(Default)]
struct Woken {
    daemon_gone: bool,
    signals: bool,
    listener: bool,
    connections: Vec<usize>,
    adopted: Vec<AttemptKey>,
}
