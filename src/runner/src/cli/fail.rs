//! How a verb fails, and the exit code that goes with it. The codes are those of the promises: 0 done, 1 an error or not
//! all succeeded, 2 temporary, 3 usage or bad input, 130 after Ctrl-C.

use std::fmt;
use std::io;
use std::process::ExitCode;

/// Done, and everything succeeded.
pub const EXIT_DONE: ExitCode = ExitCode::SUCCESS;
/// An error; for `wait` and `run`: not all succeeded.
pub const EXIT_ERROR: u8 = 1;
/// Try again later: no daemon, queue or disk full, a timeout.
pub const EXIT_TEMPORARY: u8 = 2;
/// Usage or bad input: the same call will never work.
pub const EXIT_USAGE: u8 = 3;
/// Ended by Ctrl-C.
pub const EXIT_INTERRUPTED: u8 = 130;

/// What a verb returns: the exit code, or why it could not do its work.
pub type Ended = Result<ExitCode, Failure>;

/// Why a verb ended without doing its work. The text says what, which one, and what to do next.
#[derive(Debug)]
pub enum Failure {
    /// Bad input: exit 3.
    Usage(String),
    /// May work later: exit 2.
    Temporary(String),
    /// Anything else: exit 1.
    Error(String),
    /// What clap says, help and version among it.
    Words(Box<clap::Error>),
    /// Our own output cannot be written: exit 1. Where something was changed before, `done` says what.
    Unwritten {
        /// Why not.
        error: io::Error,
        /// As "job 7 is queued, but its id".
        done: Option<String>,
    },
    /// The reader of our output went away (`list | head`): silence, exit 0.
    NobodyListens,
}

impl Failure {
    /// The exit code.
    pub fn code(&self) -> u8 {
        match self {
            Failure::Usage(_) => EXIT_USAGE,
            Failure::Temporary(_) => EXIT_TEMPORARY,
            Failure::Error(_) | Failure::Unwritten { .. } => EXIT_ERROR,
            Failure::Words(error) if error.use_stderr() => EXIT_USAGE,
            Failure::Words(_) | Failure::NobodyListens => 0,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Usage(text) | Failure::Temporary(text) | Failure::Error(text) => formatter.write_str(text),
            Failure::Words(error) => error.fmt(formatter),
            Failure::Unwritten { error, done: None } => write!(formatter, "cannot write the output: {error}"),
            Failure::Unwritten { error, done: Some(done) } => {
                write!(formatter, "{done} could not be written: {error}")
            }
            Failure::NobodyListens => formatter.write_str("nobody reads the output"),
        }
    }
}

impl std::error::Error for Failure {}

impl From<clap::Error> for Failure {
    fn from(error: clap::Error) -> Failure {
        Failure::Words(Box::new(error))
    }
}

/// Only for writing our own output: other I/O is reported with what was being done.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::NobodyListens,
            _ => Failure::Unwritten { error, done: None },
        }
    }
}

/// The end of a verb that has changed something: where that cannot be written, it is said all the same what was done, so that
/// nobody does it twice. `done` is like "job 7 is queued, but its id".
pub fn after(ended: Ended, done: impl FnOnce() -> String) -> Ended {
    ended.map_err(|failure| match failure {
        Failure::Unwritten { error, done: None } => Failure::Unwritten { error, done: Some(done()) },
        other => other,
    })
}

/// What [`after`] says of one new job.
pub fn queued(id: u64) -> String {
    format!("job {id} is queued, but its id")
}
