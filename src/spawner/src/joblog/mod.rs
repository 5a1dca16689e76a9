//! The log of an attempt: its files, who writes them, who reads them.
//!
//! This module is the one place that knows the format. The shim writes with [`LogWriter`], the daemon and the CLI read
//! with [`LogReader`], and whoever prints to a terminal passes the bytes through [`Defuse`]. It uses no threads, no async,
//! no clock (times are arguments) and memory that does not grow with the log. `docs/reference/job-log.md` tells the
//! same for people.
//!
//! **Where.** `<job / 1000>/<job>-<attempt>.log` below the log directory, and beside it `<job>-<attempt>.times`. The
//! directories are 0750, the files 0640; where the group must be another than the writer's, the log directory is
//! setgid. A file is created at its first byte, so a job that prints nothing leaves nothing; when the directory has become another
//! store's by then, below `replaced-<store>` in it. Nothing is flushed to the disk: a power cut may take the end of a log.
//!
//! **The log file** is what the job wrote to its standard output and error, byte for byte in the order of arrival, with
//! secrets replaced by `***`. Nothing is added to a line, nothing is escaped, bytes that are not UTF-8 stay: `cat`,
//! `grep` and `less` work. Its only foreign content are whole lines of the runner itself, each starting with
//! [`MARK_PREFIX`]. A job can print the same text: a mark informs people, programs ask the daemon.
//! The file only ever grows, so a byte offset is a cursor that holds over restarts of reader, daemon and host.
//!
//! **The times file** says when bytes were written, a chunk at a time:
//!
//! ```text
//! "CIRTIME" 0x01   8 bytes, magic and version
//! start            8 bytes, little endian, signed: wall clock of the attempt's start, milliseconds since 1970
//! entry*           two LEB128 numbers: offset delta (bytes), time delta (milliseconds), both since the entry before;
//!                  the entry before the first is (0, 0)
//! ```
//!
//! An entry says: the bytes from this offset on were written at start + time. There is none for a chunk that comes less
//! than [`TICK_MS`] after the entry before, so that a million lines a second cost at most 100 entries. An entry is written
//! before its bytes; when those could not be written, the next entry has an offset delta of 0 and is the valid one.
//! The file is made with the first entry: a log without times was written wholly within a tick of the attempt's start.
//! An incomplete entry at the end (a crash) counts as absent. Bytes which the masker held back have the time at which
//! they were let go.
//!
//! **A line's time** is the time of the chunk which holds the line's first byte.

mod defuse;
mod earlier;
mod files;
mod masker;
mod owner;
mod reader;
#[cfg(test)]
mod tests;
mod times;
mod writer;

pub use defuse::{Defuse, defuse};
pub use earlier::{come_after, earlier_dirs, earlier_dirs_of};
pub(crate) use files::make_way;
pub use files::{ARCHIVED, log_path, times_path};
pub use masker::{Masker, SECRET_BYTES_MIN, SECRETS_BYTES_MAX, SecretError, check_secrets};
pub use owner::{change_owner, disown, others_path, set_owner};
pub use reader::{Earlier, LINE_PART_BYTES_MAX, Line, LogReader, Partial};
pub use times::TICK_MS;
pub use writer::{LogOptions, LogTotals, LogWriter};

/// What the log of an attempt says of processes that were left behind.
pub(crate) fn left_behind(count: u64) -> String {
    let plural = if count == 1 { "process" } else { "processes" };
    format!("killed {count} {plural} that the job left behind")
}

/// Begins each line of the runner's own in a log. A job can print it as well.
pub const MARK_PREFIX: &str = "[ci-runner] ";
