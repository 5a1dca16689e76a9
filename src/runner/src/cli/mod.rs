//! The command line: what `ci-runner` and `add_job` do with their arguments.
//!
//! A verb is one row of [`verbs::VERBS`]; its arguments are built only when it is the one that was called, because building
//! all of them would cost `add` a good part of its 2.5 ms. Verbs talk to the daemon through [`client::Client`] and never
//! open the database. What a verb prints for people is made by pure functions over the words of [`crate::api`].
//!
//! `daemon`, `run`, `restore` and `openapi` need parts of the program that the command line only starts: [`Hooks`].

mod act;
mod add;
pub mod client;
mod config;
mod context;
mod daemon;
mod doctor;
mod exporter;
mod fail;
mod generate;
mod host;
mod install;
mod interrupt;
mod job_options;
mod jobs_file;
mod list;
mod logs;
mod look;
mod notify;
mod operate;
mod owner;
mod receipt;
pub mod run;
mod schedule;
mod selftest;
mod show;
mod slips;
mod stats;
#[cfg(test)]
mod tests;
mod top;
mod verbs;
mod wait;
mod watch;
mod why;

use context::Context;
pub use fail::{EXIT_DONE, EXIT_ERROR, EXIT_INTERRUPTED, EXIT_TEMPORARY, EXIT_USAGE, Ended, Failure};
pub use owner::refused_to_root;
use serde::Serialize;
use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
pub use verbs::command;

use crate::daemon::service::Origin;

/// What the command line starts but does not contain.
pub struct Hooks {
    /// Runs the service until it is told to stop.
    pub daemon: fn(Origin) -> ExitCode,
    /// Runs jobs here and now; see [`run::Engine`].
    pub run: run::Engine,
    /// Makes the state directory (second) from a backup file (first), of jobs that log here (third) if that is known.
    pub restore: fn(&Path, &Path, Option<&Path>) -> Result<Restored, Failure>,
    /// The OpenAPI document.
    pub openapi: fn() -> String,
}

/// What a restore did.
#[derive(Clone, Debug, Serialize)]
pub struct Restored {
    /// Open jobs that are on hold now and were not before.
    pub held: u64,
    /// Schedules that are paused now.
    pub paused_schedules: u64,
    /// Open attempts that were ended as lost.
    pub lost: u64,
    /// Finished jobs in the backup.
    pub finished: u64,
    /// Where the replaced database is kept.
    pub replaced: Option<PathBuf>,
    /// Where logs and secrets of other jobs that had the same ids are kept.
    pub others: Vec<PathBuf>,
    /// Where secrets of jobs are kept that are not open in the backup.
    pub later_secrets: Option<PathBuf>,
    /// Jobs whose secrets an earlier restore had put aside, and that have them again.
    pub secrets_back: u64,
    /// Who has paused the host in the backup, and why.
    pub pause: Option<String>,
    /// Where the files of the backup, such as the configuration, were put.
    pub files: Vec<PathBuf>,
}

/// `ci-runner`: parses the process's arguments, does what they say, and gives the exit code.
pub fn main(hooks: &Hooks) -> ExitCode {
    exit(words(std::env::args_os()).and_then(|words| verb(hooks, &words)))
}

/// `add_job`: the same for the program that only queues. Nothing of the other verbs may be reached from here.
pub fn add_job() -> ExitCode {
    exit(words(std::env::args_os()).and_then(|words| add::add_job(&words)))
}

fn exit(ended: Ended) -> ExitCode {
    match ended {
        Ok(code) => code,
        Err(failure) => {
            tell(&failure);
            failure.code().into()
        }
    }
}

/// The words behind the program's name. Jobs travel as JSON, so all must be UTF-8.
fn words(words: impl Iterator<Item = OsString>) -> Result<Vec<String>, Failure> {
    let told = |(index, word): (usize, OsString)| {
        word.into_string().map_err(|word| {
            let shown = word.to_string_lossy();
            Failure::Usage(format!("argument {index} ({shown:?}) is not UTF-8: commands, names and paths must be"))
        })
    };
    words.enumerate().skip(1).map(told).collect()
}

fn verb(hooks: &Hooks, words: &[String]) -> Ended {
    let matches = verbs::parse(words)?;
    let (verb, inner) = verbs::called(&matches)?;
    let context = Context::new(inner, hooks)?;
    verb(&context, inner)
}

fn tell(failure: &Failure) {
    // Standard error may be closed; there is nobody left to tell.
    let _ = match failure {
        Failure::NobodyListens => Ok(()),
        Failure::Words(error) => error.print(),
        // In one piece, so that lines of several programs do not mix.
        other => std::io::stderr().write_all(format!("ci-runner: {other}\n").as_bytes()),
    };
}
