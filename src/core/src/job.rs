//! What a job asks for, and what is refused.
//!
//! [`JobSpec`] is a whole, valid wish: it is made by [`JobSpec::validate`] from a draft, and nothing else in the program
//! checks a field again. A [`Fault`] names the field, what is wrong, the limit and the mend.

use crate::group::GroupSpec;
use crate::id::JobId;
use crate::labels::Label;
use crate::limits::Limits;
use crate::retry::RetryPolicy;
use crate::time::WallTime;

/// One word of the command or one `NAME=value`: the kernel's `MAX_ARG_STRLEN` (128 KiB) less the closing NUL.
pub const WORD_BYTES_MAX: usize = 131_071;
/// Command and environment together: what fits a specification of 1 MiB with room for its frame.
pub const WORK_BYTES_MAX: usize = 1_000_000;
/// Most variables of a job.
pub const ENV_MAX: usize = 4_096;
/// Longest job name.
pub const NAME_BYTES_MAX: usize = 200;
/// Most dependencies of one job.
pub const AFTER_MAX: usize = 1_000;
/// Priorities are between minus this and this.
pub const PRIORITY_MAX: i16 = 100;
/// Longest timeout, delay or expiry: 100 years.
pub const DURATION_MS_MAX: u64 = 100 * 366 * 24 * 3600 * 1000;
/// A log cap is at least this, so that a failure's last words fit: 4 KiB.
pub const LOG_BYTES_MIN: u64 = 4 * 1024;
/// A log cap is at most this: 1 TiB.
pub const LOG_BYTES_MAX: u64 = 1 << 40;
/// Most secrets of one job.
pub const SECRETS_MAX: usize = 64;
/// Most notifiers that one job names.
pub const NOTIFY_MAX: usize = 16;
/// Longest correlation id, idempotency key or submitter's name.
pub const TOKEN_BYTES_MAX: usize = 200;

/// When a dependency lets a job go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Condition {
    /// The other job succeeded.
    #[default]
    Success,
    /// The other job finished in any other way.
    Failure,
    /// The other job finished.
    Always,
}

impl Condition {
    /// The first in order.
    pub const MIN: Self = Self::Success;

    /// The word in JSON, on the command line and in the database.
    pub fn word(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Always => "always",
        }
    }

    /// From its word.
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Success, Self::Failure, Self::Always].into_iter().find(|condition| condition.word() == word)
    }

    /// Whether an end in success (or not) fulfils it.
    pub fn fulfilled_by(self, success: bool) -> bool {
        match self {
            Self::Success => success,
            Self::Failure => !success,
            Self::Always => true,
        }
    }
}

/// `--after ID[:condition]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct After {
    /// The other job.
    pub job: JobId,
    /// What must become of it.
    pub on: Condition,
}

/// What to execute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Program and arguments.
    Argv(Vec<String>),
    /// A text for `sh -c`.
    Shell(String),
}

impl Command {
    /// The words to execute.
    pub fn argv(&self) -> Vec<String> {
        match self {
            Self::Argv(words) => words.clone(),
            Self::Shell(text) => vec!["/bin/sh".to_owned(), "-c".to_owned(), text.clone()],
        }
    }

    /// One line for people, at most `bytes_max` bytes.
    pub fn summary(&self, bytes_max: usize) -> String {
        let text = match self {
            Self::Argv(words) => words.join(" "),
            Self::Shell(text) => text.clone(),
        };
        let mut line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
        if line.len() > bytes_max {
            let cut = (0..=bytes_max.saturating_sub(3)).rev().find(|at| line.is_char_boundary(*at)).unwrap_or(0);
            line.truncate(cut);
            line.push('…');
        }
        line
    }
}

/// What only the executor needs; the record never holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Work {
    /// What to execute.
    pub command: Command,
    /// Variables, in order.
    pub env: Vec<(String, String)>,
    /// Absolute working directory; None: the attempt's temporary directory.
    pub dir: Option<String>,
    /// Hard deadline of each attempt, milliseconds.
    pub timeout_ms: Option<u64>,
    /// Soft deadline, milliseconds.
    pub soft_timeout_ms: Option<u64>,
    /// Log cap, bytes.
    pub log_bytes_max: u64,
    /// Names of secrets; their values are kept elsewhere.
    pub secrets: Vec<String>,
    /// Sandbox that the job chose among those of its pool.
    pub profile: Option<String>,
    /// User id of whoever submitted it on this host, as the kernel told it; None: nobody in particular.
    pub submitter_uid: Option<u32>,
    /// Notifiers that are told when the job ends, each once.
    pub notify: Vec<String>,
}

/// What scheduling needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Only this pool, when given.
    pub pool: Option<String>,
    /// Required labels, sorted, without repeats.
    pub labels: Vec<Label>,
    /// Higher first.
    pub priority: i16,
    /// Retry policy.
    pub retry: RetryPolicy,
    /// Concurrency group.
    pub group: Option<GroupSpec>,
    /// Dependencies.
    pub after: Vec<After>,
    /// Not before this date.
    pub at: Option<WallTime>,
    /// Not before so many milliseconds after submission.
    pub delay_ms: Option<u64>,
    /// Dropped when it has not started by then.
    pub expires: Option<WallTime>,
    /// Submitted on hold.
    pub hold: bool,
    /// What each attempt may use at most, where the job says so itself; its pool's defaults fill the rest at the claim.
    pub limits: Limits,
}

/// A whole, valid job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobSpec {
    /// For people; not unique.
    pub name: Option<String>,
    /// Correlation id.
    pub correlation: String,
    /// What to execute.
    pub work: Work,
    /// When and where.
    pub terms: Terms,
}

/// Why a draft is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Field as in JSON: `command`, `env.PATH`, `after[2]`.
    pub field: String,
    /// What is wrong, the limit, the mend.
    pub why: String,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.field, self.why)
    }
}

impl std::error::Error for Fault {}

mod check;
pub mod limits;
#[cfg(test)]
mod tests;
