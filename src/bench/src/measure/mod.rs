//! What is measured, one file for each kind.

mod acknowledge;
mod dispatch;
mod follower;
mod masker;
mod rest;
mod running;
mod search;
mod start;

use crate::home::Home;
use crate::report::Report;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// A measurement adds lines to the report.
type Measure = fn(&Bench, &mut Report) -> Result<()>;

/// Name, what it is, how it is done.
pub const MEASUREMENTS: &[(&str, &str, Measure)] = &[
    ("peers", "the machine's own limit and other programs that start processes", dispatch::peers),
    ("dispatch", "no-op jobs a second, with more and more queued behind", dispatch::no_op),
    ("output", "jobs a second that print a line", dispatch::output),
    ("ack-cli", "one call of `ci-runner add`, durable", acknowledge::cli),
    ("ack-api", "durable submissions of 64 clients", acknowledge::api),
    ("start", "from the client's start to the job's first instruction", start::first_instruction),
    ("idle", "wake-ups and growth while nothing happens", rest::idle),
    ("queued", "memory with a long queue, and starts of the daemon on it", rest::queued),
    ("running", "memory of 100 running jobs, and their adoption", running::running),
    ("masker", "secrets masked, bytes a second", masker::masker),
    ("follower", "delay of a followed log while another job floods", follower::follower),
    ("search", "bytes of plain text searched a second by `logs --grep`", search::search),
];

/// What all measurements share.
pub struct Bench {
    runner: PathBuf,
    /// Two minutes for all.
    pub short: bool,
}

impl Bench {
    /// The programs must be there.
    pub fn new(bin: &Path, short: bool) -> Result<Self> {
        let find = |name: &str| -> Result<_> {
            let path = bin.join(name);
            ensure!(path.is_file(), "{} is missing: build it, or tell its directory with --bin", path.display());
            path.canonicalize().with_context(|| format!("cannot use {}", path.display()))
        };
        find("ci-runner-spawner")?;
        Ok(Self { runner: find("ci-runner")?, short })
    }

    /// A new daemon with so many slots.
    fn home(&self, slots: u32) -> Result<Home> {
        Home::start(&self.runner, slots)
    }

    /// One number for short runs, another for long ones.
    fn pick<T>(&self, short: T, long: T) -> T {
        if self.short { short } else { long }
    }
}

/// A job that does nothing.
fn no_op_job() -> Value {
    json!({"command": ["/bin/true"]})
}

/// Bytes as megabytes of people who buy memory.
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
