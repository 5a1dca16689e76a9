//! How attempts and jobs end, and what an attempt used.

use crate::id::JobId;
use crate::time::WallTime;
use std::fmt;

/// How one attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttemptResult {
    /// The main process exited by itself.
    Exited {
        /// Exit code, 0 to 255.
        code: u8,
    },
    /// The main process died of a signal.
    Signaled {
        /// Signal number.
        signal: u8,
    },
    /// The kernel killed it for its memory limit.
    OomKilled,
    /// The hard deadline passed.
    TimedOut,
    /// It never executed.
    FailedToStart {
        /// In words, naming the program or the directory.
        cause: String,
    },
    /// Nobody knows: the machine or the executor failed, not the job.
    Lost {
        /// Who failed.
        cause: LostCause,
    },
}

/// Who failed when an attempt is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LostCause {
    /// The host went down, or everything on it was swept away.
    Host,
    /// The process that watched over the job was killed.
    Executor,
    /// Somebody stopped the unit that it was, past the runner.
    Stopped,
}

impl AttemptResult {
    /// True only for an exit with code 0.
    pub fn is_success(&self) -> bool {
        matches!(self, Self::Exited { code: 0 })
    }

    /// The word users and the database see.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Exited { .. } => "exited",
            Self::Signaled { .. } => "signaled",
            Self::OomKilled => "oom_killed",
            Self::TimedOut => "timed_out",
            Self::FailedToStart { .. } => "failed_to_start",
            Self::Lost { .. } => "lost",
        }
    }
}

impl fmt::Display for AttemptResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited { code } => write!(f, "exit code {code}"),
            Self::Signaled { signal } => write!(f, "killed by signal {signal}"),
            Self::OomKilled => f.write_str("out of memory"),
            Self::TimedOut => f.write_str("timed out"),
            Self::FailedToStart { cause } => write!(f, "failed to start: {cause}"),
            Self::Lost { cause: LostCause::Host } => f.write_str("lost with the host"),
            Self::Lost { cause: LostCause::Executor } => {
                f.write_str("lost: its shim was killed, or its record is gone")
            }
            Self::Lost { cause: LostCause::Stopped } => f.write_str("lost: its unit was stopped by hand"),
        }
    }
}

/// Who ended a job that was told to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum By {
    /// A person or program, as the peer credentials name them.
    User(String),
    /// A job it depends on can no longer fulfil the condition.
    Dependency(JobId),
    /// A newer job of its concurrency group.
    Newer(JobId),
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(name) => f.write_str(name),
            Self::Dependency(job) => write!(f, "dependency on job {job}"),
            Self::Newer(job) => write!(f, "newer job {job}"),
        }
    }
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An attempt exited 0.
    Succeeded,
    /// The last attempt failed.
    Failed {
        /// The last attempt's result.
        cause: AttemptResult,
    },
    /// The last attempt passed its hard deadline.
    TimedOut,
    /// Somebody, or an impossible dependency, ended it.
    Cancelled {
        /// Who.
        by: By,
    },
    /// A newer job of its group took its place.
    Superseded {
        /// Which.
        by: JobId,
    },
    /// It had never been tried when its `--expires` passed. One that had been ends as its last attempt did.
    Expired,
}

impl Outcome {
    /// All words, in the order people read them.
    pub const WORDS: [&'static str; 6] = ["succeeded", "failed", "timed_out", "cancelled", "superseded", "expired"];

    /// That of a job whose last attempt failed like this.
    pub fn of_failure(result: &AttemptResult) -> Self {
        match result {
            AttemptResult::TimedOut => Self::TimedOut,
            other => Self::Failed { cause: other.clone() },
        }
    }

    /// The word users and the database see.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed { .. } => "failed",
            Self::TimedOut => "timed_out",
            Self::Cancelled { .. } => "cancelled",
            Self::Superseded { .. } => "superseded",
            Self::Expired => "expired",
        }
    }

    /// What the end means for jobs that wait for this one.
    pub fn is_success(&self) -> bool {
        matches!(self, Self::Succeeded)
    }

    /// The outcome of a job that was told to end.
    pub fn stopped(by: &By) -> Self {
        match by {
            By::Newer(job) => Self::Superseded { by: *job },
            By::User(_) | By::Dependency(_) => Self::Cancelled { by: by.clone() },
        }
    }
}

/// Resource use of one attempt, as whoever ran it measured. Nothing is decided by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Receipt {
    /// Start of the job's process, for people.
    pub started: WallTime,
    /// End of it, for people.
    pub ended: WallTime,
    /// Run time, microseconds.
    pub run_us: u64,
    /// CPU time, user, microseconds.
    pub cpu_user_us: u64,
    /// CPU time, system, microseconds.
    pub cpu_system_us: u64,
    /// Most memory, bytes: of all processes together where a cgroup counted ([`Measured::memory_of_all`]), else the largest
    /// resident set of one process.
    pub peak_memory_bytes: u64,
    /// Kept output, bytes.
    pub log_bytes: u64,
    /// Output beyond the cap, bytes.
    pub log_dropped_bytes: u64,
    /// Processes that had to be killed when the main process had ended.
    pub leftovers: u32,
    /// What of its sandbox it ran without.
    pub lacks: Lacks,
    /// What only a cgroup tells.
    pub measured: Measured,
}

/// Parts of a sandbox that an attempt ran without, because its pool allows that (`degrade`): systemd's properties.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lacks(u8);

impl Lacks {
    /// By bit, from the lowest. The last stands for all that a newer spawner names.
    const NAMES: [&'static str; 6] =
        ["NoNewPrivileges", "ProtectSystem", "SystemCallFilter", "PrivateUsers", "PrivateNetwork", "another part"];

    /// Those that are named.
    pub fn of<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let bit = |name: &str| {
            let number = Self::NAMES.iter().position(|known| *known == name).unwrap_or(Self::NAMES.len() - 1);
            1 << number
        };
        Self(names.into_iter().fold(0, |bits, name| bits | bit(name)))
    }

    /// From [`Self::bits`]; None: these bits are none.
    pub fn from_bits(bits: u64) -> Option<Self> {
        let bits = u8::try_from(bits).ok()?;
        (bits >> Self::NAMES.len() == 0).then_some(Self(bits))
    }

    /// To keep.
    pub fn bits(self) -> u64 {
        self.0.into()
    }

    /// Their names.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.into_iter().enumerate().filter(move |(number, _)| self.0 >> number & 1 == 1).map(|(_, name)| name)
    }
}

/// What only a cgroup tells of an attempt. None: nobody measured it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// True when the peak of memory is that of all processes together, with their files and kernel memory.
    pub memory_of_all: bool,
    /// Read from disks, bytes.
    pub io_read_bytes: Option<u64>,
    /// Written to disks, bytes.
    pub io_written_bytes: Option<u64>,
    /// Most processes and threads at once.
    pub pids_peak: Option<u64>,
    /// Time in which some process waited for memory, microseconds.
    pub memory_stall_us: Option<u64>,
    /// Time in which some process waited for a CPU, its own limit included, microseconds.
    pub cpu_stall_us: Option<u64>,
    /// Time in which some process waited for a disk, microseconds.
    pub io_stall_us: Option<u64>,
    /// Processes that the kernel killed because memory was used up.
    pub oom_kills: Option<u64>,
    /// Space that the attempt's temporary directory took when it ended, bytes.
    pub disk_bytes: Option<u64>,
}
