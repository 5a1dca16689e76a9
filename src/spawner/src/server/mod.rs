//! The spawner's loop: one thread, one `poll`, no decision of its own.
//!
//! It forks a shim for each `start`, tells when a shim has ended, and steps in where a shim cannot do its work. All it must
//! remember is in its directory, so that it can be killed at any moment: a successor takes over what it finds.
//!
//! A turn goes: deaths, packets, new connections, what is due, then all replies of the turn in as few packets as possible.

mod attempt;
mod lifeline;
mod records;
pub(crate) mod requests;
pub(crate) mod service;
pub(crate) mod setup;
mod slots;
mod stopped;
mod sweep;
mod takeover;
mod turn;
mod watch;

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::OwnedFd;

use self::attempt::State;
use self::lifeline::Lifeline;
pub(crate) use self::setup::Options;
use self::setup::{Home, NoHome, Teller};
use crate::attempts::{Attempts, Identity};
use crate::cgroup::Parent;
use crate::daemons::{Daemons, Known, Serve};
use crate::dirs::Dirs;
use crate::failpoint;
use crate::notes::Notes;
use crate::protocol::{AttemptKey, ExitRecord};
use crate::service::Then;
use crate::shim::{Note, Shared};
use crate::sys::{self, OpenFiles};

/// How often to see whether the directory is still there, while a daemon is connected.
const HOME_CHECK_MS: u64 = 5000;
/// Longest sleep while jobs run: deadlines are on a clock that goes on while the machine sleeps, `poll`'s is not.
const SLEEP_MS_MAX: u64 = 60_000;
/// After the directory was removed and everything has ended, the daemon has so long to take the ends.
const LAST_WORDS_MS: u64 = 5000;

/// The spawner.
pub(crate) struct Server {
    linger_ms: u64,
    home: Home,
    daemons: Daemons,
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
    /// Users in use.
    users: HashMap<AttemptKey, Vec<u32>>,
    /// Users as whom no job could start since their last one, and when that was tried last.
    refused_ms: HashMap<u32, u64>,
    /// Highest generation of each store, as on the disk.
    generations: HashMap<String, u64>,
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
        let notes = Notes::new().map_err(|error| fault("pipe", error))?;
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
            daemons: Daemons::new(listener),
            signals,
            shared: Shared {
                attempts,
                cgroup,
                notes: notes.writer,
                dirs: Dirs { log_dir: options.log_dir.clone(), tmp_dir: options.tmp_dir.clone() },
                job_open_files: OpenFiles { soft: options.job_open_files.unwrap_or(open_files.soft), ..open_files },
            },
            notes: notes.reader,
            noted: HashMap::new(),
            attempts: HashMap::new(),
            shims: HashMap::new(),
            wipers: HashMap::new(),
            adopted: HashSet::new(),
            watched_max: takeover::watched_max(open_files.now),
            said_ended: false,
            slots: HashMap::new(),
            users: HashMap::new(),
            refused_ms: HashMap::new(),
            generations: HashMap::new(),
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
            self.serve(woken.calls);
            self.do_what_is_due();
            self.flush();
            if std::mem::take(&mut self.said_ended) {
                failpoint::hit(failpoint::SPAWNER_AFTER_ENDED);
            }
        }
    }

    /// True when there is nothing to stay for.
    fn is_done(&mut self) -> bool {
        if self.then.is_some() {
            return true;
        }
        let used = self.closed.is_none() && !self.daemons.is_empty();
        if used || self.attempts.values().any(State::is_alive) || self.keeps_records() {
            self.idle_since_ms = None;
            return false;
        }
        let now = sys::boottime_ms();
        let since = *self.idle_since_ms.get_or_insert(now);
        let patience_ms = match self.closed {
            None => self.linger_ms,
            Some(_) if self.homeless && !self.daemons.is_empty() && !self.attempts.is_empty() => LAST_WORDS_MS,
            Some(_) => 0,
        };
        now >= since.saturating_add(patience_ms)
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

    /// Something in `attempts` is due then.
    fn note_due(&mut self, at_ms: Option<u64>) {
        self.due_ms = self.due_ms.min(at_ms.unwrap_or(u64::MAX));
    }

    /// Whether the directory was removed or emptied, now or before.
    fn is_homeless(&mut self) -> bool {
        self.check_home();
        self.homeless
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
