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
    /// The reader of our output went away (`list | head`): silence, exit 0.
    NobodyListens,
}

impl Failure {
    /// The exit code.
    pub fn code(&self) -> u8 {
        match self {
            Failure::Usage(_) => EXIT_USAGE,
            Failure::Temporary(_) => EXIT_TEMPORARY,
            Failure::Error(_) => EXIT_ERROR,
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
            _ => Failure::Error(format!("cannot write the output: {error}")),
        }
    }
}
