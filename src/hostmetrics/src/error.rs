//! What can go wrong: while setting up ([`Error`]) and while one collector reads ([`CollectError`]).

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// The options cannot be used.
#[derive(Debug)]
pub enum Error {
    /// A pattern is not a regular expression.
    Pattern {
        /// The pattern as given.
        pattern: String,
        /// Where and why it is wrong.
        source: regex_lite::Error,
    },
    /// Nobody is called that.
    UnknownCollector {
        /// The name as given.
        name: String,
    },
    /// It is wanted, but the options give it nothing to ask.
    NothingToAsk {
        /// The collector.
        name: String,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pattern { pattern, .. } => write!(f, "the pattern '{pattern}' is not a regular expression"),
            Self::UnknownCollector { name } => {
                write!(f, "no collector is called '{name}'; there are: {}", crate::collector_names().join(" "))
            }
            Self::NothingToAsk { name } => {
                write!(f, "the collector '{name}' needs a system call that this program does not bring")
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Pattern { source, .. } => Some(source),
            Self::UnknownCollector { .. } | Self::NothingToAsk { .. } => None,
        }
    }
}

/// Why one collector's figures are missing or incomplete in one scrape.
#[derive(Debug)]
pub enum CollectError {
    /// A file could not be read.
    Read {
        /// Which one.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file does not look as the kernel writes it.
    Malformed {
        /// Which one.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// A system call refused.
    System {
        /// Which one.
        call: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
    /// No answer within the limit; it is not asked again until it answers.
    Hangs {
        /// How long it has been waited for.
        since: Duration,
    },
    /// There was no time left for it in this scrape.
    NotAsked,
    /// The collector panicked; it begins anew with the next scrape.
    Panicked,
}

impl fmt::Display for CollectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { path, .. } => write!(f, "cannot read {}", path.display()),
            Self::Malformed { path, detail } => write!(f, "{} is not understood: {detail}", path.display()),
            Self::System { call, .. } => write!(f, "{call} failed"),
            Self::Hangs { since } => {
                write!(f, "no answer for {:.1} s; not asked again until it answers", since.as_secs_f64())
            }
            Self::NotAsked => f.write_str("not asked: others took all the time of this scrape"),
            Self::Panicked => f.write_str("the collector panicked"),
        }
    }
}

impl std::error::Error for CollectError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Read { source, .. } | Self::System { source, .. } => Some(source),
            Self::Malformed { .. } | Self::Hangs { .. } | Self::NotAsked | Self::Panicked => None,
        }
    }
}
