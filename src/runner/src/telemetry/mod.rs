//! The daemon's own log: the `log` facade, a bounded queue, one writing thread, one destination.
//!
//! The destination is journald where `$JOURNAL_STREAM` says that our standard error is connected to it, else
//! standard error itself: `<N>`-prefixed lines with date and level in a pipe or a file, coloured lines with the time on a terminal.
//!
//! Invariant: a call of `log::info!` never waits for the destination. journald's socket and a pipe can both
//! block for as long as the other side likes; what does not fit the queue meanwhile is counted and dropped,
//! and the drop is reported in the log once it flows again.
//!
//! Key-values of a record become fields: `log::info!(job = 7, attempt = 1, pool = "default"; "job 7 started")`
//! is found by `journalctl CI_RUNNER_JOB_ID=7`.

pub mod output;
mod queue;
mod record;
mod sink;
#[cfg(test)]
mod tests;

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use log::{LevelFilter, Log, Metadata, Record};

use queue::Queue;
use record::OwnedRecord;
use sink::{EitherSink, JournalSink, LineStyle, Sink, StderrSink};

/// Where records go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// journald's native socket, with fields.
    Journal,
    /// `<N>`-prefixed lines with date and level on standard error.
    PrefixedStderr,
    /// Coloured lines with the time on standard error.
    TerminalStderr,
}

/// How records look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// As the destination likes them.
    #[default]
    Text,
    /// One JSON object a line on standard error, wherever that goes.
    Json,
}

impl Format {
    /// As in the configuration.
    pub fn word(self) -> &'static str {
        match self {
            Format::Text => "text",
            Format::Json => "json",
        }
    }
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// A logger was installed before.
    #[error("a logger is installed already")]
    Installed(#[from] log::SetLoggerError),
    /// No thread, or no copy of standard error.
    #[error("cannot start the log's writing thread")]
    Start(#[source] std::io::Error),
}

/// The handle on the process' log. Clones are the same log.
#[derive(Clone)]
pub struct Telemetry {
    queue: Arc<Queue>,
    destination: Destination,
    json: Arc<AtomicBool>,
    /// Lines of jobs that did not come into the journal.
    output_dropped: Arc<AtomicU64>,
}

struct Logger {
    queue: Arc<Queue>,
}

impl Telemetry {
    /// Chooses the destination, starts the writing thread and installs the logger. Once per process.
    ///
    /// # Errors
    /// A logger is installed already, or the thread could not be started.
    pub fn init(level: LevelFilter) -> Result<Telemetry, TelemetryError> {
        let (destination, sink) = open_destination().map_err(TelemetryError::Start)?;
        let json = Arc::new(AtomicBool::new(false));
        let lines = own_stderr().map_err(TelemetryError::Start)?;
        let sink = EitherSink { json: json.clone(), lines: StderrSink::new(lines, LineStyle::Json), usual: sink };
        let queue = Queue::start(Box::new(sink)).map_err(TelemetryError::Start)?;
        log::set_boxed_logger(Box::new(Logger { queue: Arc::clone(&queue) }))?;
        log::set_max_level(level);
        Ok(Telemetry { queue, destination, json, output_dropped: Arc::default() })
    }

    /// Changes the level of what is written from now on.
    pub fn set_level(&self, level: LevelFilter) {
        log::set_max_level(level);
    }

    /// Changes how what is written from now on looks.
    pub fn set_format(&self, format: Format) {
        self.json.store(format == Format::Json, Ordering::Relaxed);
    }

    /// Where records go.
    pub fn destination(&self) -> Destination {
        self.destination
    }

    /// Records lost since the start, of the daemon's own (the queue was full, or the destination refused them) and of
    /// [`output`].
    pub fn dropped_records(&self) -> u64 {
        self.queue.dropped() + self.output_dropped.load(Ordering::Relaxed)
    }

    /// Where [`output`] counts what did not come.
    pub fn output_dropped(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.output_dropped)
    }

    /// Waits until all that was logged before is written, at most `timeout`. False where time ran out.
    pub fn flush(&self, timeout: Duration) -> bool {
        self.queue.flush(timeout)
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Libraries tell of every packet at "info" and below; their warnings are worth a line.
        let own = metadata.target().starts_with("ci_runner");
        own || metadata.level() <= LevelFilter::Warn
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            self.queue.push(OwnedRecord::of(record));
        }
    }

    fn flush(&self) {
        self.queue.flush(Duration::from_secs(1));
    }
}

/// A descriptor of our own: std's lock on standard error would let us block a panic message.
fn own_stderr() -> std::io::Result<std::fs::File> {
    Ok(std::io::stderr().as_fd().try_clone_to_owned()?.into())
}

fn open_destination() -> std::io::Result<(Destination, Box<dyn Sink>)> {
    let stderr = std::io::stderr();
    let journal = std::env::var("JOURNAL_STREAM").is_ok_and(|stream| is_journal_stream(&stream, stderr.as_fd()));
    if journal && let Ok(sink) = JournalSink::open() {
        return Ok((Destination::Journal, Box::new(sink)));
    }
    let file = own_stderr()?;
    if std::io::IsTerminal::is_terminal(&stderr) {
        let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let style = LineStyle::Terminal { colour, zone: jiff::tz::TimeZone::system() };
        return Ok((Destination::TerminalStderr, Box::new(StderrSink::new(file, style))));
    }
    Ok((Destination::PrefixedStderr, Box::new(StderrSink::new(file, LineStyle::Prefixed))))
}

/// Whether standard output ends in the journal: what the log says need not be said there a second time.
pub fn stdout_is_journal() -> bool {
    std::env::var("JOURNAL_STREAM").is_ok_and(|stream| is_journal_stream(&stream, std::io::stdout().as_fd()))
}

/// Whether standard output and standard error end in the same place, as with `> log 2>&1`.
pub fn stdout_is_stderr() -> bool {
    let place = |descriptor: BorrowedFd<'_>| rustix::fs::fstat(descriptor).map(|stat| (stat.st_dev, stat.st_ino)).ok();
    place(std::io::stdout().as_fd()).is_some_and(|out| place(std::io::stderr().as_fd()) == Some(out))
}

/// Whether `$JOURNAL_STREAM` (`device:inode`, decimal) names the file behind this descriptor. The variable is
/// inherited by children whose standard error may have been redirected since: both numbers must match.
fn is_journal_stream(stream: &str, descriptor: BorrowedFd<'_>) -> bool {
    let Some((device, inode)) = stream.split_once(':') else { return false };
    let (Ok(device), Ok(inode)) = (device.parse::<u64>(), inode.parse::<u64>()) else { return false };
    rustix::fs::fstat(descriptor).is_ok_and(|stat| stat.st_dev == device && stat.st_ino == inode)
}
