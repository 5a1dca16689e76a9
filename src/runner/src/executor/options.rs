//! How to reach a spawner, or to start one, and what ties a private one to this process.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

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
    pub(super) theirs: io::PipeReader,
    /// Never written to.
    _ours: io::PipeWriter,
    pub(super) dir: PathBuf,
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
