//! The way to a spawner, which outlives the daemon: attempts are processes that it forks (executor `native`), or units that
//! it has started (executor `systemd`). The words are the same, so this side sees no difference but one: a spawner of units
//! is a service of root, which nobody here starts.
//!
//! This side only talks. It connects to the spawner of the runtime directory, starts one where none answers, and connects
//! again whenever the connection is lost; after each connection the loop asks for the list, so nothing that was missed
//! matters.

use ci_runner_core::outcome::{AttemptResult, LostCause, Measured, Receipt};
use ci_runner_core::reconcile::Seen;
use ci_runner_core::time::WallTime;
use ci_runner_spawner::client::Client;
use ci_runner_spawner::protocol::{
    self, AttemptKey, Enforces, ExitRecord, ExitResult, PROTOCOL_VERSION, Reply, Request, Secrets, Spec, Start, Used,
    names,
};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::JoinHandle;

/// A spawner that does not say hello within this is treated as gone.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause before another try to connect, doubled each time.
const RECONNECT_MIN: Duration = Duration::from_millis(50);
/// Longest pause before another try to connect.
const RECONNECT_MAX: Duration = Duration::from_secs(5);

/// After so long without a word the spawner is asked whether it is there.
const PING_AFTER: Duration = Duration::from_secs(10);
/// An answer takes a moment; one that takes so long will perhaps never come.
const PING_PATIENCE: Duration = Duration::from_secs(5);

/// How to reach and start the spawner.
#[derive(Clone, Debug)]
pub struct NativeOptions {
    /// The spawner's program.
    pub program: PathBuf,
    /// Runtime directory; the spawner lives in a part of it.
    pub runtime_dir: PathBuf,
    /// Logs of jobs.
    pub log_dir: PathBuf,
    /// Temporary directories of jobs.
    pub tmp_dir: PathBuf,
    /// Short store id.
    pub store: String,
    /// This start's number.
    pub generation: u64,
    /// How long the spawner stays when neither daemon nor job is left; None: its own default.
    pub linger: Option<Duration>,
    /// Soft limit of open files of jobs; None: our own.
    pub job_open_files: Option<u64>,
    /// The socket of a spawner that is a service of its own; it is never started from here.
    pub service: Option<PathBuf>,
    /// Only where jobs must not outlive us: what the spawner then kills, ends and removes itself by.
    pub lifeline: Option<Arc<Lifeline>>,
}

/// Ties a private spawner to this process: while it is open, the spawner stays. The kernel closes it with us, whatever we end by.
#[derive(Debug)]
pub struct Lifeline {
    theirs: io::PipeReader,
    /// Never written to.
    _ours: io::PipeWriter,
    dir: PathBuf,
}

impl Lifeline {
    /// For a spawner whose directories are all in `dir`, which it removes if we cannot any more.
    ///
    /// # Errors
    /// No pipe can be made.
    pub fn new(dir: PathBuf) -> io::Result<Self> {
        let (theirs, ours) = io::pipe()?;
        Ok(Self { theirs, _ours: ours, dir })
    }
}

/// An attempt to start, with all it needs.
pub struct StartOrder {
    /// What the shim needs.
    pub start: Start,
    /// What the job is.
    pub spec: Spec,
    /// Its secrets.
    pub secrets: Option<Vec<(String, String)>>,
}

/// What the loop is told.
#[derive(Debug)]
pub enum Event {
    /// Connected: everything seen before is void.
    Up {
        /// Life of the spawner's directory.
        epoch: String,
        /// Each attempt has a cgroup.
        cgroup: bool,
        /// Which limits attempts can be made to keep to.
        enforces: Enforces,
    },
    /// The connection is lost; a new one is on its way.
    Down {
        /// In words.
        why: String,
    },
    /// It is connected, but does not answer: it is stopped or hangs.
    Silent {
        /// Its process id.
        pid: u32,
        /// How long it was waited for.
        waited: Duration,
    },
    /// It answers again.
    Answers,
    /// All attempts were told.
    Listed,
    /// An attempt was seen.
    Seen {
        /// Which.
        key: AttemptKey,
        /// What.
        seen: Seen,
        /// What it used, when it ended.
        receipt: Option<Box<Receipt>>,
    },
    /// A `start` could not be; nothing ran.
    RefusedStart {
        /// Which.
        key: AttemptKey,
        /// In words.
        why: String,
        /// This spawner starts nothing at all any more.
        closed: bool,
    },
}

/// Lets the event loop wait for a client's socket.
struct Watched(Client);

impl AsRawFd for Watched {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

enum Link {
    Down { at: tokio::time::Instant },
    Connecting(JoinHandle<io::Result<Connected>>),
    Up(AsyncFd<Watched>),
}

/// What `welcome` told.
struct Connected {
    client: Client,
    epoch: String,
    cgroup: bool,
    enforces: Enforces,
    pulse: Pulse,
}

/// Whether the spawner of this connection is heard from.
struct Pulse {
    pid: u32,
    /// It knows `ping`.
    pings: bool,
    heard: tokio::time::Instant,
    asked: Option<tokio::time::Instant>,
    silent: bool,
}

impl Pulse {
    fn new(pid: u32, pings: bool) -> Self {
        Self { pid, pings, heard: tokio::time::Instant::now(), asked: None, silent: false }
    }

    /// When to do something about it; None: there is only waiting.
    fn due(&self) -> Option<tokio::time::Instant> {
        let at = self.asked.map_or(self.heard + PING_AFTER, |asked| asked + PING_PATIENCE);
        (self.pings && !self.silent).then_some(at)
    }

    /// A word came; true when it had been waited for in vain.
    fn beat(&mut self) -> bool {
        (self.heard, self.asked) = (tokio::time::Instant::now(), None);
        std::mem::take(&mut self.silent)
    }
}

/// The connection to the spawner.
pub struct Native {
    options: NativeOptions,
    link: Link,
    pulse: Pulse,
    pause: Duration,
    events: VecDeque<Event>,
    requests: Vec<Request>,
}

impl Native {
    /// Not yet connected; [`Native::next`] connects.
    pub fn new(options: NativeOptions) -> Self {
        Self {
            options,
            link: Link::Down { at: tokio::time::Instant::now() },
            pulse: Pulse::new(0, false),
            pause: RECONNECT_MIN,
            events: VecDeque::new(),
            requests: Vec::new(),
        }
    }

    /// Sends a command with the next [`Native::flush`]. While there is no connection commands go nowhere: the list after
    /// the next connection shows what is still to be done.
    pub fn send(&mut self, request: Request) {
        if matches!(self.link, Link::Up(_)) {
            self.requests.push(request);
        }
    }

    /// Sends a start, after everything sent before.
    pub fn start(&mut self, order: StartOrder) {
        self.flush();
        let Link::Up(client) = &mut self.link else { return };
        let key = order.start.key.clone();
        let secrets = order.secrets.map(Secrets);
        match client.get_mut().0.send_start(order.start, &order.spec, secrets.as_ref()) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                let seen = Seen::Ended(AttemptResult::FailedToStart { cause: error.to_string() });
                self.events.push_back(Event::Seen { key, seen, receipt: None });
            }
            Err(error) => self.lose(&error.to_string()),
        }
    }

    /// Hands collected commands to the socket.
    pub fn flush(&mut self) {
        if self.requests.is_empty() {
            return;
        }
        let requests = std::mem::take(&mut self.requests);
        let Link::Up(client) = &mut self.link else { return };
        if let Err(error) = client.get_mut().0.send(&requests) {
            self.lose(&error.to_string());
        }
    }

    fn lose(&mut self, why: &str) {
        self.link = Link::Down { at: tokio::time::Instant::now() + self.pause };
        self.pause = (self.pause * 2).min(RECONNECT_MAX);
        self.requests.clear();
        self.events.push_back(Event::Down { why: why.to_owned() });
    }

    /// What was told together with the last [`Native::next`], without waiting.
    pub fn buffered(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The next thing to tell. May be dropped and called again at any time.
    pub async fn next(&mut self) -> Event {
        loop {
            if let Some(event) = self.events.pop_front() {
                return event;
            }
            match &mut self.link {
                Link::Down { at } => {
                    tokio::time::sleep_until(*at).await;
                    let options = self.options.clone();
                    self.link = Link::Connecting(tokio::task::spawn_blocking(move || connect(&options)));
                }
                Link::Connecting(task) => {
                    let done = task.await.unwrap_or_else(|error| Err(io::Error::other(error)));
                    self.connected(done);
                }
                Link::Up(client) => {
                    let interest = if client.get_ref().0.wants_write() {
                        Interest::READABLE | Interest::WRITABLE
                    } else {
                        Interest::READABLE
                    };
                    let due = self.pulse.due();
                    let silence = async move {
                        match due {
                            Some(due) => tokio::time::sleep_until(due).await,
                            None => std::future::pending().await,
                        }
                    };
                    // What is there to be read comes first: after a sleep of this process the answer may be.
                    let done = tokio::select! {
                        biased;
                        guard = client.ready_mut(interest) => guard.and_then(|mut guard| {
                            let done = pump(&mut guard.get_inner_mut().0, &mut self.events);
                            guard.clear_ready();
                            done.map(Some)
                        }),
                        () = silence => Ok(None),
                    };
                    self.pumped(done);
                }
            }
        }
    }

    /// What came of waiting for the spawner: a look at the socket that read something or not, or nothing in all the time.
    fn pumped(&mut self, done: io::Result<Option<bool>>) {
        match done {
            Ok(Some(true)) => {
                if self.pulse.beat() {
                    self.events.push_front(Event::Answers);
                }
            }
            Ok(Some(false)) => {}
            Ok(None) if self.pulse.asked.is_some() => {
                self.pulse.silent = true;
                self.events.push_back(Event::Silent { pid: self.pulse.pid, waited: PING_PATIENCE });
            }
            Ok(None) => {
                self.pulse.asked = Some(tokio::time::Instant::now());
                self.requests.push(Request::Ping);
                self.flush();
            }
            Err(error) => self.lose(&error.to_string()),
        }
    }

    fn connected(&mut self, done: io::Result<Connected>) {
        let made = done.and_then(|Connected { client, epoch, cgroup, enforces, pulse }| {
            // SAFETY: the client owns its socket and gives out the same one until it is dropped.
            let watched = unsafe { AsyncFd::register(Watched(client)) }?;
            Ok((watched, epoch, cgroup, enforces, pulse))
        });
        match made {
            Ok((client, epoch, cgroup, enforces, pulse)) => {
                self.link = Link::Up(client);
                self.pulse = pulse;
                self.pause = RECONNECT_MIN;
                self.events.push_back(Event::Up { epoch, cgroup, enforces });
            }
            Err(error) => self.lose(&error.to_string()),
        }
    }
}

/// Sends what waits and reads until the socket is empty; true when there was something.
fn pump(client: &mut Client, events: &mut VecDeque<Event>) -> io::Result<bool> {
    client.flush()?;
    let mut any = false;
    loop {
        match client.recv() {
            Ok(replies) => {
                any = true;
                for reply in replies {
                    events.extend(event(reply)?);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(any),
            Err(error) => return Err(error),
        }
    }
}

fn event(reply: Reply) -> io::Result<Option<Event>> {
    let seen = |key, seen| Some(Event::Seen { key, seen, receipt: None });
    Ok(match reply {
        Reply::Welcome { .. } | Reply::Pong => None,
        Reply::Refused { why } => return Err(io::Error::other(why)),
        Reply::Started { key } => seen(key, Seen::Alive),
        Reply::RefusedStart { key, voided: true, .. } | Reply::Voided { key } => seen(key, Seen::Voided),
        Reply::RefusedStart { key, why, voided: false, closed } => Some(Event::RefusedStart { key, why, closed }),
        Reply::Ended { key, record: Some(record) } => Some(ended(key, record)),
        Reply::Ended { key, record: None } => seen(key, Seen::Gone),
        Reply::Listed => Some(Event::Listed),
        Reply::Attempt { key, seen: protocol::Seen::Ended(record) } => Some(ended(key, record)),
        Reply::Attempt { key, seen: protocol::Seen::Alive } => seen(key, Seen::Alive),
        Reply::Attempt { key, seen: protocol::Seen::NotBegan } => seen(key, Seen::NotBegan),
        Reply::Attempt { key, seen: protocol::Seen::Voided } => seen(key, Seen::Voided),
        Reply::Attempt { key, seen: protocol::Seen::Lost } => seen(key, Seen::Gone),
        Reply::Attempt { key, seen: protocol::Seen::Leftovers } => seen(key, Seen::Leftovers),
    })
}

fn ended(key: AttemptKey, record: ExitRecord) -> Event {
    let result = match &record.result {
        ExitResult::Exited { code } => AttemptResult::Exited { code: *code },
        ExitResult::Signaled { signal } => AttemptResult::Signaled { signal: *signal },
        ExitResult::TimedOut => AttemptResult::TimedOut,
        ExitResult::OomKilled => AttemptResult::OomKilled,
        ExitResult::Stopped => AttemptResult::Lost { cause: LostCause::Stopped },
        ExitResult::FailedToStart { cause } => AttemptResult::FailedToStart { cause: cause.clone() },
    };
    let receipt = Receipt {
        started: WallTime(record.started_wall_ms),
        ended: WallTime(record.ended_wall_ms),
        run_us: record.run_us,
        cpu_user_us: record.cpu_user_us,
        cpu_system_us: record.cpu_system_us,
        peak_memory_bytes: record.peak_memory_bytes,
        log_bytes: record.log_bytes,
        log_dropped_bytes: record.log_dropped_bytes,
        leftovers: record.leftovers,
        measured: measured(record.used.as_deref()),
    };
    Event::Seen { key, seen: Seen::Ended(result), receipt: Some(Box::new(receipt)) }
}

/// What only a cgroup tells, if one was there to tell it.
fn measured(used: Option<&Used>) -> Measured {
    let Some(used) = used else { return Measured::default() };
    Measured {
        memory_of_all: used.memory_peak.is_some(),
        io_read_bytes: used.io_read_bytes,
        io_written_bytes: used.io_written_bytes,
        pids_peak: used.pids_peak,
        memory_stall_us: used.memory_stall_us,
        cpu_stall_us: used.cpu_stall_us,
        io_stall_us: used.io_stall_us,
        oom_kills: used.oom_kills,
        disk_bytes: used.disk_bytes,
    }
}

/// Connects to the spawner, starting one where none answers, and says hello. Blocks.
fn connect(options: &NativeOptions) -> io::Result<Connected> {
    let own = || options.runtime_dir.join(names::SPAWNER_DIR).join(names::SOCKET);
    let socket = options.service.clone().unwrap_or_else(own);
    let mut client = match Client::connect(&socket) {
        Ok(client) => client,
        Err(error) if options.service.is_some() => {
            return Err(io::Error::new(error.kind(), format!("{}: {error}", socket.display())));
        }
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            launch(options)?;
            Client::connect(&socket)?
        }
        Err(error) => return Err(error),
    };
    let hello =
        Request::Hello { protocol: PROTOCOL_VERSION, store: options.store.clone(), generation: options.generation };
    client.send(&[hello])?;
    let until = std::time::Instant::now() + HELLO_TIMEOUT;
    loop {
        let left = until.saturating_duration_since(std::time::Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the spawner does not answer"));
        }
        client.wait(left)?;
        match client.recv() {
            Ok(replies) => {
                for reply in replies {
                    match reply {
                        Reply::Welcome { epoch, cgroup, pid, pings, enforces, .. } => {
                            return Ok(Connected { client, epoch, cgroup, enforces, pulse: Pulse::new(pid, pings) });
                        }
                        Reply::Refused { why } => return Err(io::Error::other(why)),
                        _ => {}
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// Starts a spawner; returns when its socket is open (it puts itself into the background).
/// All that a spawner needs of our environment: what else is there may be secret, and every job could read it of its parents.
const KEPT_VARIABLES: [&str; 3] = ["PATH", "CI_RUNNER_FAIL", "CI_RUNNER_FAIL_DIR"];

fn launch(options: &NativeOptions) -> io::Result<()> {
    let linger = options.linger.map(|linger| ["--linger-ms".to_owned(), linger.as_millis().to_string()]);
    let open_files = options.job_open_files.map(|number| ["--job-open-files".to_owned(), number.to_string()]);
    let mut command = Command::new(&options.program);
    let kept = |name: &&str| std::env::var_os(name).map(|value| ((*name).to_owned(), value));
    command.env_clear().envs(KEPT_VARIABLES.iter().filter_map(kept)).stdin(Stdio::null());
    if let Some(lifeline) = &options.lifeline {
        command.arg("--die-with-daemon").arg(&lifeline.dir).stdin(lifeline.theirs.try_clone()?);
    }
    let done = command
        .args(linger.into_iter().chain(open_files).flatten())
        .arg("--runtime-dir")
        .arg(&options.runtime_dir)
        .arg("--log-dir")
        .arg(&options.log_dir)
        .arg("--tmp-dir")
        .arg(&options.tmp_dir)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .map_err(|error| io::Error::new(error.kind(), format!("cannot run {}: {error}", options.program.display())))?;
    if done.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&done.stderr);
    Err(io::Error::other(format!("{} did not start ({}): {}", options.program.display(), done.status, why.trim())))
}
