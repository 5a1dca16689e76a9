//! The loop: one thread, one `poll`, no decision of its own.
//!
//! All it must remember is in its directory and with PID 1, so that it can be killed at any moment: a successor finds shims
//! by their locks and units by their names.
//!
//! A turn goes: deaths of shims and their notes, what PID 1 says, packets, new connections, what is due, then all replies.

use std::collections::{HashMap, VecDeque};
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::event::{PollFd, PollFlags, Timespec};

use super::attempt::{Live, State};
use super::cgroup::{self, UnitGroup};
use super::home::Home;
use super::manager::Manager;
use super::names::unit_name;
use super::policy::Policy;
use super::shim::{Note, Shared};
use crate::attempts::Attempts;
use crate::daemons::{Calls, Daemons, Serve};
use crate::notes::Notes;
use crate::policy_file::Names;
use crate::protocol::{AttemptKey, ExitRecord, Reply};
use crate::service::{self, Then};
use crate::sys::{self, Reaped};

/// Longest sleep: deadlines of ours are on a clock that goes on while the machine sleeps, `poll`'s is not.
const SLEEP_MS_MAX: u64 = 60_000;
/// Units that nobody looks after are looked for this often.
const SWEEP_MS: u64 = 60_000;

/// The spawner.
pub(super) struct Server {
    pub(super) policy: Policy,
    pub(super) home: Home,
    pub(super) mount: PathBuf,
    pub(super) manager: Manager,
    pub(super) shared: Shared,
    pub(super) attempts: HashMap<AttemptKey, State>,
    /// Our own children.
    pub(super) shims: HashMap<i32, AttemptKey>,
    /// Notes of shims whose end is not handled yet.
    pub(super) noted: HashMap<AttemptKey, Note>,
    /// Highest generation of each store, as on the disk.
    pub(super) generations: HashMap<String, u64>,
    pub(super) daemons: Daemons,
    /// Filters of system calls that everything here is under.
    pub(super) filters: u32,
    /// Why no attempt is started any more.
    pub(super) closed: Option<&'static str>,
    /// The last word about PID 1, so that the same trouble is said once.
    pub(super) trouble: Option<String>,
    signals: OwnedFd,
    notes: OwnedFd,
    notes_rest: Vec<u8>,
    pub(super) sweep_ms: u64,
    /// When to see whether the directory is still there.
    pub(super) home_check_ms: u64,
    /// Nothing runs any more in a directory that is gone: when the process ends at the latest.
    pub(super) done_ms: Option<u64>,
}

impl Server {
    /// Takes the directory and what is in it.
    pub(super) fn open(policy: Policy, notes: Option<Notes>) -> Result<Self, String> {
        sys::raise_open_files();
        let mount = cgroup::mount().ok_or("no cgroup v2 is mounted: units need it")?;
        let home = Home::enter(&policy)?;
        let mut server = Self::listening(policy, home, mount)?;
        if let Some(Notes { reader, writer }) = notes {
            (server.notes, server.shared.notes) = (reader, writer);
        }
        server.take_over()?;
        say!(
            "spawner {} started, process {}, {} attempts taken over",
            env!("CARGO_PKG_VERSION"),
            std::process::id(),
            server.attempts.len()
        );
        Ok(server)
    }

    /// All that it needs; nothing is looked at yet.
    fn listening(policy: Policy, home: Home, mount: PathBuf) -> Result<Self, String> {
        let fault = |what: &str, error: std::io::Error| format!("{}: {what}: {error}", home.path.display());
        let attempts = Attempts::open(&home.dir).map_err(|error| fault("cannot open the attempts", error))?;
        let notes = Notes::new().map_err(|error| fault("pipe", error))?;
        let signals = sys::signal_fd(&[libc::SIGCHLD, libc::SIGTERM, libc::SIGINT, libc::SIGHUP])
            .map_err(|error| fault("signals", error))?;
        let generations = home.generations().map_err(|error| fault("cannot read the generations", error))?;
        let listener = home.listen(policy.group).map_err(|error| fault("cannot listen", error))?;
        Ok(Self {
            manager: Manager::new(&policy),
            shared: Shared { attempts, notes: notes.writer, log_dir: policy.log_dir.clone() },
            policy,
            home,
            mount,
            attempts: HashMap::new(),
            shims: HashMap::new(),
            noted: HashMap::new(),
            generations,
            daemons: Daemons::new(listener),
            filters: super::seals::filters_of_init(),
            closed: None,
            trouble: None,
            signals,
            notes: notes.reader,
            notes_rest: Vec::new(),
            sweep_ms: 0,
            home_check_ms: 0,
            done_ms: None,
        })
    }

    /// Runs until told to end; the process' exit code. Shims and units go on.
    pub(super) fn run(&mut self, words: &[OsString]) -> i32 {
        service::notify_ready();
        loop {
            match self.turn() {
                None if self.is_done() => {
                    say!("nothing runs any more: ends, for a new start in a new directory");
                    return 0;
                }
                None => {}
                Some(Then::End) => {
                    say!("asked to end: jobs go on");
                    return 0;
                }
                // The program anew would find a new directory, and no word of what runs.
                Some(Then::Upgrade) if self.is_homeless() => {
                    say!("asked to upgrade: ends when nothing runs any more, for a new start");
                }
                Some(Then::Upgrade) => {
                    let program = |text: &str| Policy::parse(text, &Names::of_system()).map(|policy| policy.program);
                    if let Some(code) = service::upgrade(words, &self.notes, program) {
                        return code;
                    }
                }
            }
        }
    }

    fn turn(&mut self) -> Option<Then> {
        let woken = self.sleep();
        let then = if woken.signals { self.read_signals() } else { None };
        if woken.notes {
            self.read_notes();
        }
        for key in woken.shims {
            self.shim_gone(&key);
        }
        let mut told = Vec::from_iter(self.manager.connect());
        if woken.manager {
            told.extend(self.manager.receive());
        }
        told.extend(self.manager.overdue(sys::boottime_ms()));
        for told in told {
            self.heard(told);
        }
        self.serve(woken.calls);
        self.do_what_is_due();
        if let Some(told) = self.manager.flush() {
            self.heard(told);
        }
        self.flush();
        then
    }

    fn sleep(&self) -> Woken {
        let mut fds = vec![PollFd::new(&self.signals, PollFlags::IN), PollFd::new(&self.notes, PollFlags::IN)];
        fds.extend(self.daemons.polled());
        let manager_at = fds.len();
        if let Some((fd, writes)) = self.manager.interest() {
            let interest = if writes { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
            fds.push(PollFd::from_borrowed_fd(fd, interest));
        }
        let shims_at = fds.len();
        let mut keys = Vec::new();
        for (key, state) in &self.attempts {
            if let State::Live(Live { pidfd: Some(pidfd), .. }) = state {
                keys.push(key);
                fds.push(PollFd::new(pidfd, PollFlags::IN));
            }
        }
        let ms = self.sleep_ms();
        let timeout = Timespec { tv_sec: (ms / 1000) as i64, tv_nsec: (ms % 1000) as i64 * 1_000_000 };
        if rustix::event::poll(&mut fds, Some(&timeout)).is_err() {
            return Woken::default();
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        Woken {
            signals: ready[0],
            notes: ready[1],
            calls: Calls::of(&ready[2..manager_at]),
            manager: manager_at < shims_at && ready[manager_at],
            shims: keys
                .into_iter()
                .enumerate()
                .filter(|(at, _)| ready[shims_at + at])
                .map(|(_, key)| key.clone())
                .collect(),
        }
    }

    fn sleep_ms(&self) -> u64 {
        let now = sys::boottime_ms();
        let until = now.saturating_add(SLEEP_MS_MAX).min(self.sweep_ms).min(self.home_check_ms);
        let until = self.done_ms.map_or(until, |at| at.min(until));
        let until = self.attempts.values().filter_map(State::due_ms).fold(until, u64::min);
        let until = self.manager.due_ms().map_or(until, |at| at.min(until));
        let until = self.daemons.send_ms().map_or(until, |at| at.min(until));
        until.saturating_sub(now)
    }

    fn read_signals(&mut self) -> Option<Then> {
        let mut then = None;
        while let Some(arrived) = sys::next_signal(&self.signals) {
            match arrived.signal {
                libc::SIGTERM | libc::SIGINT => then = Some(Then::End),
                libc::SIGHUP => then = Some(Then::Upgrade),
                _ => {}
            }
        }
        while let Reaped::Child(dead) = sys::reap() {
            if let Some(key) = self.shims.remove(&dead.pid) {
                self.shim_gone(&key);
            }
        }
        then
    }

    /// A note is written before its shim ends, so after a death its note is there.
    pub(super) fn read_notes(&mut self) {
        let mut piece = [0; 4096];
        while let Ok(got @ 1..) = rustix::io::read(&self.notes, &mut piece) {
            self.notes_rest.extend_from_slice(&piece[..got]);
        }
        let end = self.notes_rest.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        let lines: VecDeque<Note> = self.notes_rest[..end]
            .split(|&byte| byte == b'\n')
            .filter_map(|line| serde_json::from_slice(line).ok())
            .collect();
        self.notes_rest.drain(..end);
        for note in lines {
            match note {
                Note::Began(key) => drop(self.daemons.tell(&key.store.clone(), Reply::Started { key }, true)),
                Note::Record(record) => drop(self.noted.insert(record.key.clone(), Note::Record(record))),
                Note::Refused(key, why) => drop(self.noted.insert(key.clone(), Note::Refused(key, why))),
            }
        }
    }

    /// Where the job of an attempt is, if this policy's slice was asked for. A guess.
    pub(super) fn group(&self, key: &AttemptKey) -> UnitGroup {
        UnitGroup::new(&self.mount, self.manager.root(), &self.policy.slice, &unit_name(key))
    }

    /// True when the sweep for forgotten units is due.
    pub(super) fn take_sweep(&mut self, now: u64) -> bool {
        let due = now >= self.sweep_ms;
        if due {
            self.sweep_ms = now + SWEEP_MS;
        }
        due
    }

    /// An ended attempt whose record cannot be read now is looked at again; until then it counts as alive.
    pub(super) fn check_record(&mut self, key: &AttemptKey) {
        if matches!(self.attempts.get(key), Some(State::Ended(None)))
            && let Err(error) = self.shared.attempts.read_exit(key)
        {
            say!("{key}: its record cannot be read: {error}; tried again");
            let again_ms = sys::boottime_ms() + super::watch::UNREADABLE_PAUSE_MS;
            self.attempts.insert(key.clone(), State::Unidentified { again_ms, wish: None });
        }
    }

    /// The record of an attempt that has ended, after [`Self::check_record`].
    pub(super) fn record_of(&self, key: &AttemptKey) -> Option<ExitRecord> {
        self.shared.attempts.read_exit(key).ok().flatten()
    }
}

/// What `poll` found.
#[derive(Default)]
struct Woken {
    signals: bool,
    notes: bool,
    manager: bool,
    calls: Calls,
    shims: Vec<AttemptKey>,
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::policy_file::User;

    /// A spawner in a directory of its own, which has asked nobody.
    pub(in crate::unit) fn server(dir: &std::path::Path) -> Server {
        let text = r#"{"kind": "systemd", "dir": "DIR/run", "group": "own", "users": ["root"], "log_dir": "DIR/log",
            "program": "DIR/program", "pools": {"default": {"profiles": ["build"]}}}"#;
        let root = User { name: "root".to_owned(), uid: 0, gid: 0, home: "/".into() };
        let names = Names { users: vec![root], groups: vec![("own".to_owned(), rustix::process::getegid().as_raw())] };
        let policy = Policy::parse(&text.replace("DIR", &dir.display().to_string()), &names).expect("a policy");
        let home = Home::enter(&policy).expect("a home");
        Server::listening(policy, home, dir.join("cgroup")).expect("a server")
    }
}
