//! The words between the daemon and a spawner, and the files both read.
//!
//! One `SOCK_SEQPACKET` unix socket, `<runtime-dir>/spawner/socket`, 0600. A packet is a JSON array of messages, at most
//! [`PACKET_BYTES_MAX`] bytes; messages in a packet are handled in order. File descriptors ride on the packet whose **only**
//! message is a `start`: first the sealed specification memfd, then (when `secrets` is true) the secrets memfd.
//!
//! ```text
//! daemon                                   spawner
//!   hello{store, generation}       ──▶      drops every older connection unread, refuses a lower generation
//!                                  ◀──      welcome{epoch, …} or refused{highest}
//!   dirs{log_dir, tmp_dir}         ──▶      a private spawner keeps them for this connection
//!   list                           ──▶
//!                                  ◀──      attempt{…}*  listed
//!   start{…} + memfd(s)            ──▶      takes the start lock, forks a shim
//!                                  ◀──      started | ended | refused_start
//!   signal | kill                  ──▶
//!                                  ◀──      ended{record}
//!   forget                         ──▶      removes the attempt's directory; idempotent, unanswered
//! ```
//!
//! Wake-ups carry no meaning: a lost answer is found again by `list`. `started` and `ended` are sent at most once per
//! connection for an event, and `list` tells the same facts again at any time.

mod resources;

pub use resources::{CPU_MILLI_MIN, Enforces, Limits, Used, WEIGHT_MAX};
use serde::{Deserialize, Serialize};

/// A packet never exceeds this (the default socket buffer holds several).
pub const PACKET_BYTES_MAX: usize = 32 * 1024;
/// A specification (the JSON in the memfd) never exceeds this: architecture page.
pub const SPEC_BYTES_MAX: usize = 1024 * 1024;
/// One word of argv or one `NAME=value` of the environment: the kernel's `MAX_ARG_STRLEN` less its NUL.
pub const WORD_BYTES_MAX: usize = 131_071;
/// `TMPDIR` and, where the job names none, working directory of a job that is a unit: in its own `/var/tmp`.
pub const UNIT_WORKSPACE: &str = "/var/tmp/ci-job";
/// Bumped when an older peer could misread a message. `hello` and `welcome` carry it.
pub const PROTOCOL_VERSION: u32 = 1;

/// Names one attempt of one store; its `Display` (`<store>-<job>-<attempt>`) is the attempt directory's name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AttemptKey {
    /// Short store id: 8 lower-case hex digits.
    pub store: String,
    /// Job id, from 1.
    pub job: u64,
    /// Attempt number, from 1.
    pub attempt: u32,
}

impl std::fmt::Display for AttemptKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}-{}", self.store, self.job, self.attempt)
    }
}

impl std::str::FromStr for AttemptKey {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.splitn(3, '-');
        let store = parts.next().filter(|store| is_store_id(store)).ok_or(())?;
        let job = parts.next().and_then(canonical_number).ok_or(())?;
        let attempt = parts.next().and_then(canonical_number).ok_or(())?;
        let attempt = u32::try_from(attempt).map_err(|_| ())?;
        Ok(Self { store: store.to_owned(), job, attempt })
    }
}

/// True for 8 lower-case hex digits.
pub fn is_store_id(text: &str) -> bool {
    text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// A positive decimal without sign, leading zero or space: one number has one name.
fn canonical_number(text: &str) -> Option<u64> {
    let number: u64 = text.parse().ok()?;
    (number > 0 && number.to_string() == text).then_some(number)
}

/// Daemon to spawner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Must be the first message of a connection.
    Hello {
        /// [`PROTOCOL_VERSION`] of the daemon.
        protocol: u32,
        /// Short store id.
        store: String,
        /// The daemon's start count; a lower one than the highest seen for this store is refused.
        generation: u64,
    },
    /// Run this attempt, at most once. The specification's memfd is attached.
    Start(Start),
    /// Take the start lock without starting; from then on this attempt can never start.
    Void(AttemptKey),
    /// Ask the job to end: SIGTERM to every process of it, and after `grace_ms` everything is killed (by the shim, so it
    /// happens even if daemon and spawner are gone). A second `signal` may shorten the grace, never lengthen it.
    Signal {
        /// Whom.
        key: AttemptKey,
        /// Milliseconds from SIGTERM to the kill.
        grace_ms: u64,
    },
    /// Kill everything of the job now.
    Kill(AttemptKey),
    /// Tell all attempts of my store, then `listed`.
    List,
    /// The end is committed: remove the directory. Ignored while the attempt is alive.
    Forget(AttemptKey),
    /// Attempts of my store that start from now on have their logs and the directories of their slots there. Unanswered, and
    /// only for a spawner whose `welcome` says [`Reply::Welcome::dirs`].
    Dirs {
        /// Absolute.
        log_dir: String,
        /// Absolute.
        tmp_dir: String,
    },
    /// Answered by `pong`: are you there? Only for a spawner whose `welcome` says [`Reply::Welcome::pings`].
    Ping,
}

/// What the shim needs beside the specification.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Start {
    /// Which attempt.
    pub key: AttemptKey,
    /// Pool name, `[a-z0-9][a-z0-9_-]{0,63}`: with store and `slot` it names the `TMPDIR` and, under root, the user.
    pub pool: String,
    /// Slot in the pool, from 0.
    pub slot: u32,
    /// Hard deadline after the start, milliseconds; then SIGTERM, `grace_ms`, kill. None: no deadline.
    pub timeout_ms: Option<u64>,
    /// Soft deadline after the start, milliseconds: a warning line in the log.
    pub soft_timeout_ms: Option<u64>,
    /// Milliseconds from SIGTERM to the kill when a deadline passes.
    pub grace_ms: u64,
    /// The log keeps at most so many bytes of output.
    pub log_bytes_max: u64,
    /// True when a second memfd with the secrets is attached.
    pub secrets: bool,
    /// Kind `systemd` only: the sandbox, by a name that the spawner's policy allows in this pool; None: the pool's first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// Kind `systemd` only: user id of whoever submitted the job, as the kernel told the daemon; None: nobody on this host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub submitter: Option<u32>,
    /// What it may use. A spawner that cannot make it keep to them does not start it: `welcome` says what it can.
    #[serde(default, skip_serializing_if = "Limits::is_none")]
    pub limits: Limits,
}

/// The JSON in the sealed specification memfd.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// Program and arguments, at least one word; the program is looked up in the job's own `PATH`.
    pub argv: Vec<String>,
    /// The whole environment but `TMPDIR`, `HOME`-like words included; nothing is inherited.
    pub env: Vec<(String, String)>,
    /// Absolute working directory; None: the attempt's `TMPDIR`.
    pub dir: Option<String>,
    /// File mode creation mask.
    pub umask: u32,
}

/// The JSON in the secrets memfd: added to the environment and masked in the log. No `Debug`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secrets(pub Vec<(String, String)>);

/// Spawner to daemon.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// The connection is this daemon's.
    Welcome {
        /// [`PROTOCOL_VERSION`] of the spawner.
        protocol: u32,
        /// `<boot id>/<random hex>`: made together with the runtime directory. Another value: nothing older lives.
        epoch: String,
        /// Program version.
        version: String,
        /// Process id of the spawner.
        pid: u32,
        /// True when each attempt gets a cgroup of its own.
        cgroup: bool,
        /// True when it answers a `ping`.
        #[serde(default)]
        pings: bool,
        /// True when it takes `dirs`. One that does not uses those of its command line or its policy.
        #[serde(default)]
        dirs: bool,
        /// Which limits attempts can be made to keep to.
        #[serde(default)]
        enforces: Enforces,
    },
    /// The answer to `ping`.
    Pong,
    /// `hello` or a message was refused; the connection is closed after it.
    Refused {
        /// In words.
        why: String,
    },
    /// The attempt's shim runs (again said for a repeated `start`).
    Started {
        /// Which.
        key: AttemptKey,
    },
    /// A `start` that cannot be: voided before, or a fault of the spawner's own (out of processes, full disk).
    /// Nothing ran and, until the next `start`, nothing will.
    RefusedStart {
        /// Which.
        key: AttemptKey,
        /// In words.
        why: String,
        /// True when it was voided: no later `start` can succeed either.
        voided: bool,
        /// True when this spawner starts nothing at all any more and ends with its last job.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        closed: bool,
    },
    /// `void` done: it never ran and never will.
    Voided {
        /// Which.
        key: AttemptKey,
    },
    /// The attempt is over: shim gone, nothing of the job left.
    Ended {
        /// Which.
        key: AttemptKey,
        /// The exit record; None: it began, nothing is alive, no valid record: lost.
        record: Option<ExitRecord>,
    },
    /// One attempt, in answer to `list`.
    Attempt {
        /// Which.
        key: AttemptKey,
        /// What is seen of it.
        seen: Seen,
        /// The slot that it holds, where slots are the daemon's to give: for a daemon that knows nothing of the attempt.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        slot: Option<Slot>,
    },
    /// End of the answer to `list`.
    Listed,
}

/// A place in a pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    /// Pool name.
    pub pool: String,
    /// Number in the pool, from 0.
    pub number: u32,
}

/// What a look at an attempt's directory and processes shows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seen {
    /// Lock held: its shim lives.
    Alive,
    /// Directory there, lock free, no `began`: may still be started.
    NotBegan,
    /// `void` was done.
    Voided,
    /// Over, with its record.
    Ended(ExitRecord),
    /// `began`, lock free, nothing alive, no valid record.
    Lost,
    /// Lock free, processes left: the spawner is killing them and will send `ended`.
    Leftovers,
}

/// Why and how an attempt ended, as its shim saw it. What a newer shim tells beyond it is passed over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// Whose record this is; another name than the directory's makes it foreign, hence absent.
    pub key: AttemptKey,
    /// The end.
    pub result: ExitResult,
    /// Wall clock at the start of the job's process, milliseconds since 1970.
    pub started_wall_ms: i64,
    /// Wall clock at the end, milliseconds since 1970.
    pub ended_wall_ms: i64,
    /// Run time on CLOCK_BOOTTIME, microseconds.
    pub run_us: u64,
    /// CPU time of all reaped processes, user, microseconds.
    pub cpu_user_us: u64,
    /// CPU time of all reaped processes, system, microseconds.
    pub cpu_system_us: u64,
    /// Largest resident set of one process, bytes.
    pub peak_memory_bytes: u64,
    /// Bytes kept in the log file.
    pub log_bytes: u64,
    /// Output bytes beyond the cap, dropped.
    pub log_dropped_bytes: u64,
    /// Processes of the job that were alive when its main process ended and had to be killed.
    pub leftovers: u32,
    /// What its cgroup told, where it had one that counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<Box<Used>>,
    /// What of its sandbox it ran without, because root's policy lets its pool (`degrade`): [`SEALS`] and what comes to them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lacks: Vec<String>,
}

/// Parts of a sandbox that are looked at from inside before a job runs, by the name of their property.
pub const SEALS: [&str; 5] = ["NoNewPrivileges", "ProtectSystem", "SystemCallFilter", "PrivateUsers", "PrivateNetwork"];

/// How the main process ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitResult {
    /// It exited by itself.
    Exited {
        /// 0 to 255.
        code: u8,
    },
    /// It died of a signal (sent by anyone; a stop that the daemon asked for shows here too).
    Signaled {
        /// Signal number.
        signal: u8,
    },
    /// The hard deadline passed and the shim ended it.
    TimedOut,
    /// The kernel ended it because its memory was used up.
    OomKilled,
    /// Somebody stopped its unit, past the runner: whatever it exited with says nothing, so it counts as lost.
    Stopped,
    /// It never executed: program not found, directory not enterable, …
    FailedToStart {
        /// In words, with the path.
        cause: String,
    },
}

/// Names in the spawner's part of the runtime directory.
pub mod names {
    /// `<runtime-dir>/spawner`, 0700.
    pub const SPAWNER_DIR: &str = "spawner";
    /// Held (`flock`) by the living spawner; its content is the process id.
    pub const SPAWNER_LOCK: &str = "lock";
    /// The listening socket.
    pub const SOCKET: &str = "socket";
    /// `<boot id>/<random hex>`, written once when the directory is made.
    pub const EPOCH: &str = "epoch";
    /// `generations/<store>`: highest generation seen, decimal, replaced atomically.
    pub const GENERATIONS_DIR: &str = "generations";
    /// `attempts/<store>-<job>-<attempt>/`.
    pub const ATTEMPTS_DIR: &str = "attempts";
    /// Start lock of an attempt: held = its shim lives. Content: who the shim is, for a successor of the spawner.
    pub const LOCK: &str = "lock";
    /// Written by the shim just before it lets the job run.
    pub const BEGAN: &str = "began";
    /// Kind `systemd`: how the attempt's unit ended.
    pub const VERDICT: &str = "verdict";
    /// Written by the spawner when nothing is left of an attempt that has no record: nobody has to look for it again.
    pub const LOST: &str = "lost";
    /// Written by `void` under the lock.
    pub const VOIDED: &str = "void";
    /// The exit record: one line of JSON, a newline, and a checksum line.
    pub const EXIT: &str = "exit";
}
