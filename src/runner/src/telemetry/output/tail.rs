//! One log, from where the journal has come.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use ci_runner_spawner::joblog::{Earlier, LogReader};
use rustix::fs::{Mode, OFlags};

use super::cursors::Cursor;
use super::wire::{INFO, Journal, Sent};

/// A longer line comes in parts. With every byte replaced by three it still fits into a datagram.
pub(super) const PART_BYTES_MAX: usize = 32 * 1024;
/// Lines of one log in a row; then it is the others' turn.
const LINES_IN_A_ROW: usize = 64;

/// What became of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// No more lines now.
    Drained,
    /// There may be more.
    More,
    /// journald takes nothing.
    Stalled,
    /// No line may go for a while.
    Spent,
}

/// A log that is followed, or read to its end.
pub(super) struct Tail {
    pub cursor: Cursor,
    /// Only its sizes and bytes are used, which costs no memory; None until it is needed.
    reader: Option<LogReader>,
}

impl Tail {
    pub fn new(cursor: Cursor) -> Self {
        Self { cursor, reader: None }
    }

    /// Bytes that are there and were not handed over.
    pub fn behind(&mut self, log_dir: &Path) -> io::Result<u64> {
        let offset = self.cursor.offset;
        Ok(self.reader(log_dir)?.size()?.saturating_sub(offset))
    }

    fn reader(&mut self, log_dir: &Path) -> io::Result<&mut LogReader> {
        if self.reader.is_none() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let dir: OwnedFd = rustix::fs::open(log_dir, flags, Mode::empty())?;
            let Cursor { source, offset, .. } = &self.cursor;
            // What was read before is its own, whatever the date was set to since.
            let earlier = if *offset > 0 { Earlier::Own } else { Earlier::Since(source.claimed_wall_ms) };
            self.reader = Some(LogReader::new(dir, source.job, source.attempt, 0).taking(earlier));
        }
        self.reader.as_mut().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Hands over the next lines; `may` is asked before and told after each. `lost` counts what will never go.
    pub fn turn(
        &mut self,
        log_dir: &Path,
        buffer: &mut [u8],
        journal: &mut Journal,
        mut may: impl FnMut(bool) -> bool,
        lost: &mut u64,
    ) -> io::Result<Turn> {
        let offset = self.cursor.offset;
        let read = self.reader(log_dir)?.read_at(buffer, offset)?;
        let mut rest = &buffer[..read];
        for _ in 0..LINES_IN_A_ROW {
            let newline = rest.iter().position(|&byte| byte == b'\n');
            let (line, taken) = match newline {
                Some(at) if at <= PART_BYTES_MAX => (&rest[..at], at + 1),
                _ if rest.len() >= PART_BYTES_MAX => (&rest[..PART_BYTES_MAX], PART_BYTES_MAX),
                _ if rest.is_empty() => return Ok(if read == buffer.len() { Turn::More } else { Turn::Drained }),
                // The rest of a line is yet to be written, or to be read.
                _ if read == buffer.len() => return Ok(Turn::More),
                _ if !self.cursor.ended => return Ok(Turn::Drained),
                _ => (rest, rest.len()),
            };
            if !may(false) {
                return Ok(Turn::Spent);
            }
            let text = String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line));
            match journal.send(&self.cursor.source, INFO, self.cursor.offset, &text) {
                Sent::Later => return Ok(Turn::Stalled),
                Sent::Refused => *lost += 1,
                Sent::Taken => drop(may(true)),
            }
            self.cursor.offset += taken as u64;
            rest = &rest[taken..];
        }
        Ok(Turn::More)
    }

    /// Leaves out what is there now; the number of lines.
    pub fn skip(&mut self, log_dir: &Path, buffer: &mut [u8]) -> io::Result<u64> {
        let mut lines = 0;
        let end = self.reader(log_dir)?.size()?;
        while self.cursor.offset < end {
            let most = usize::try_from(end - self.cursor.offset).unwrap_or(usize::MAX).min(buffer.len());
            let offset = self.cursor.offset;
            let read = self.reader(log_dir)?.read_at(&mut buffer[..most], offset)?;
            if read == 0 {
                break;
            }
            lines += buffer[..read].iter().filter(|&&byte| byte == b'\n').count() as u64;
            self.cursor.offset += read as u64;
        }
        Ok(lines.max(1))
    }
}
