//! Writes an attempt's log: masks, caps, keeps times, and never fails its caller.
//!
//! Invariants: memory does not depend on what the job prints; output is cut at chunks, never by line; a byte that the
//! masker has not let go is in no file; the file only grows; whatever could not be kept is counted and said in a mark.
//! Every chunk of the caller is one `write(2)` (with a masker: one per 64 KiB), nothing is buffered here.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;

use super::MARK_PREFIX;
use super::files::{Kind, Place, Target};
use super::masker::Masker;
use super::times::TimesWriter;

/// A mark is cut to so many bytes: it is one line for people.
const MARK_BYTES_MAX: usize = 1024;
/// Marks may exceed the cap by this, then they stop as well: a caller in a loop cannot fill the disk either.
const MARKS_BEYOND_CAP_BYTES_MAX: u64 = 64 * 1024;
/// Marks waiting for room on the disk; more are dropped.
const MARKS_WAITING_BYTES_MAX: usize = 8 * 1024;
/// The masker is fed so much at a time, which bounds the buffer behind it.
const MASKED_PIECE_BYTES: usize = 64 * 1024;

/// What a writer must know. No `Debug`: it holds secrets.
pub struct LogOptions {
    /// Id of the store whose job it is.
    pub store: String,
    /// Job id.
    pub job: u64,
    /// Attempt number.
    pub attempt: u32,
    /// Wall clock at the attempt's start, milliseconds since 1970; all later times are given as elapsed since then.
    pub start_wall_ms: i64,
    /// The log keeps the first so many bytes of output (after masking), the runner's own lines included.
    pub bytes_max: u64,
    /// Where the attempt has secrets.
    pub masker: Option<Masker>,
}

/// What became of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogTotals {
    /// Bytes put into the log file, the runner's own lines included.
    pub bytes: u64,
    /// Bytes of output that are not in it: beyond the cap, or the file could not be written.
    pub dropped_bytes: u64,
}

/// Output that could not be written.
struct Gap {
    bytes: u64,
    error: io::Error,
}

/// The one writer of an attempt's log.
pub struct LogWriter {
    target: Target,
    bytes_max: u64,
    masker: Option<Masker>,
    /// Behind the masker; empty between calls.
    masked: Vec<u8>,
    file: Option<File>,
    times: TimesWriter,
    /// Size of the file.
    length: u64,
    /// Its size when it was opened: all but always 0.
    length_before: u64,
    at_line_start: bool,
    truncated: bool,
    dropped_bytes: u64,
    gap: Option<Gap>,
    /// Marks, or the rest of one, that could not be written yet.
    marks_waiting: Vec<u8>,
}

impl LogWriter {
    /// A writer below the log directory `dir`, or where it puts logs of other stores. Nothing is created before the first byte.
    pub fn new(dir: OwnedFd, options: LogOptions) -> Self {
        Self {
            target: Target { place: Place { dir, job: options.job, attempt: options.attempt }, store: options.store },
            bytes_max: options.bytes_max,
            masker: options.masker,
            masked: Vec::new(),
            file: None,
            times: TimesWriter::new(options.start_wall_ms),
            length: 0,
            length_before: 0,
            at_line_start: true,
            truncated: false,
            dropped_bytes: 0,
            gap: None,
            marks_waiting: Vec::new(),
        }
    }

    /// Output of the job that was read `elapsed_ms` after the start.
    pub fn write(&mut self, elapsed_ms: u64, output: &[u8]) {
        let Some(mut masker) = self.masker.take() else { return self.keep(elapsed_ms, output) };
        let mut masked = std::mem::take(&mut self.masked);
        for piece in output.chunks(MASKED_PIECE_BYTES) {
            if self.truncated {
                self.drop_bytes(piece.len());
                continue;
            }
            masker.feed(piece, &mut masked);
            self.keep(elapsed_ms, &masked);
            masked.clear();
        }
        self.masked = masked;
        self.masker = Some(masker);
    }

    /// A line of the runner's own, on a line of its own. Not masked: `text` holds no secret. Control characters become
    /// spaces. Output that the masker holds back comes after it.
    pub fn mark(&mut self, elapsed_ms: u64, text: &str) {
        if self.written() >= self.bytes_max.saturating_add(MARKS_BEYOND_CAP_BYTES_MAX) {
            return;
        }
        let written = if self.settle(elapsed_ms) {
            let line = self.mark_line(text);
            match self.append(elapsed_ms, &line) {
                Ok(()) => return,
                Err(partial) => line[partial.written..].to_vec(),
            }
        } else {
            self.mark_line(text)
        };
        if self.marks_waiting.len() + written.len() <= MARKS_WAITING_BYTES_MAX {
            self.marks_waiting.extend_from_slice(&written);
        }
    }

    /// Bytes that are held back because they could be the beginning of a secret.
    pub fn held_bytes(&self) -> usize {
        self.masker.as_ref().map_or(0, Masker::held_bytes)
    }

    /// The output has ended: writes what the masker held back, and says what was dropped.
    pub fn finish(self, elapsed_ms: u64) -> LogTotals {
        self.finish_with(elapsed_ms, None)
    }

    /// The same; `footer` is the last line of a log that has any: nobody can write after it.
    pub fn finish_with(mut self, elapsed_ms: u64, footer: Option<&str>) -> LogTotals {
        if let Some(mut masker) = self.masker.take() {
            let mut rest = Vec::new();
            masker.finish(&mut rest);
            self.keep(elapsed_ms, &rest);
        }
        if self.truncated {
            let (limit, dropped) = (size_text(self.bytes_max), self.dropped_bytes);
            self.mark(elapsed_ms, &format!("log truncated at {limit}; {dropped} bytes dropped"));
        }
        if let Some(footer) = footer.filter(|_| self.written() > 0) {
            self.mark(elapsed_ms, footer);
        }
        self.settle(elapsed_ms);
        LogTotals { bytes: self.written(), dropped_bytes: self.dropped_bytes }
    }

    /// Masked output: up to the cap into the file.
    fn keep(&mut self, elapsed_ms: u64, output: &[u8]) {
        if output.is_empty() {
            return;
        }
        if self.truncated {
            return self.drop_bytes(output.len());
        }
        // Opening tells the length, which the cap needs; a failure shows again below.
        let _ = self.open();
        let room = usize::try_from(self.bytes_max.saturating_sub(self.written())).unwrap_or(usize::MAX);
        let (kept, beyond) = output.split_at(room.min(output.len()));
        self.put(elapsed_ms, kept);
        if beyond.is_empty() {
            return;
        }
        self.drop_bytes(beyond.len());
        match &mut self.gap {
            // There is room left after a failed write, and the next chunk finds it: the cap is not reached.
            Some(gap) => gap.bytes = gap.bytes.saturating_add(beyond.len() as u64),
            None => {
                self.truncated = true;
                let limit = size_text(self.bytes_max);
                self.mark(elapsed_ms, &format!("log truncated at {limit}; output from here on is dropped"));
            }
        }
    }

    /// Bytes into the file; what cannot be written is counted.
    fn put(&mut self, elapsed_ms: u64, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if !self.settle(elapsed_ms) {
            match &mut self.gap {
                Some(gap) => gap.bytes = gap.bytes.saturating_add(bytes.len() as u64),
                None => self.gap = Some(Gap { bytes: bytes.len() as u64, error: io::ErrorKind::StorageFull.into() }),
            }
            return self.drop_bytes(bytes.len());
        }
        if let Err(partial) = self.append(elapsed_ms, bytes) {
            let lost = bytes.len() - partial.written;
            self.gap = Some(Gap { bytes: lost as u64, error: partial.error });
            self.drop_bytes(lost);
        }
    }

    /// Writes what must stand before the next byte: waiting marks, and the mark of a gap. False: not possible yet.
    fn settle(&mut self, elapsed_ms: u64) -> bool {
        if !self.marks_waiting.is_empty() {
            let waiting = std::mem::take(&mut self.marks_waiting);
            if let Err(partial) = self.append(elapsed_ms, &waiting) {
                self.marks_waiting = waiting[partial.written..].to_vec();
                return false;
            }
        }
        let Some(gap) = self.gap.take() else { return true };
        let line = self.mark_line(&format!("{} bytes of output lost here: {}", gap.bytes, gap.error));
        match self.append(elapsed_ms, &line) {
            Ok(()) => true,
            // Not a byte of it: the gap goes on, and its mark will tell the whole number.
            Err(partial) if partial.written == 0 => {
                self.gap = Some(gap);
                false
            }
            Err(partial) => {
                self.marks_waiting = line[partial.written..].to_vec();
                false
            }
        }
    }

    fn mark_line(&self, text: &str) -> Vec<u8> {
        let mut line = Vec::with_capacity(MARK_PREFIX.len() + text.len() + 2);
        if !self.at_line_start && self.marks_waiting.is_empty() {
            line.push(b'\n');
        }
        line.extend_from_slice(MARK_PREFIX.as_bytes());
        let clean = text.chars().map(|char| if char.is_control() { ' ' } else { char });
        let mut utf8 = [0; 4];
        for char in clean {
            let bytes = char.encode_utf8(&mut utf8).as_bytes();
            if line.len() + bytes.len() >= MARK_BYTES_MAX {
                break;
            }
            line.extend_from_slice(bytes);
        }
        line.push(b'\n');
        line
    }

    fn append(&mut self, elapsed_ms: u64, bytes: &[u8]) -> Result<(), PartialWrite> {
        self.open().map_err(|error| PartialWrite { written: 0, error })?;
        self.times.note(&self.target, self.length, elapsed_ms);
        let mut rest = bytes;
        while let (Some(file), false) = (&mut self.file, rest.is_empty()) {
            let error = match file.write(rest) {
                Ok(0) => io::ErrorKind::WriteZero.into(),
                Ok(written) => {
                    self.length += written as u64;
                    self.at_line_start = rest[written - 1] == b'\n';
                    rest = &rest[written..];
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => error,
            };
            return Err(PartialWrite { written: bytes.len() - rest.len(), error });
        }
        Ok(())
    }

    fn open(&mut self) -> io::Result<()> {
        if self.file.is_none() {
            let (file, size) = self.target.open_append(Kind::Log)?;
            self.file = Some(file);
            self.length = size;
            self.length_before = size;
            if size > 0 {
                // Of an earlier life of this job number (a restored backup): kept, and told apart by its times.
                self.at_line_start = false;
                self.times.continues();
            }
        }
        Ok(())
    }

    fn written(&self) -> u64 {
        self.length - self.length_before
    }

    fn drop_bytes(&mut self, bytes: usize) {
        self.dropped_bytes = self.dropped_bytes.saturating_add(bytes as u64);
    }
}

/// A write that ended early.
struct PartialWrite {
    written: usize,
    error: io::Error,
}

/// `64.0 MiB`; below one KiB exact: `100 B`.
fn size_text(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut size = bytes as f64 / 1024.0;
    let mut unit = 0;
    while size >= 1024.0 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    format!("{size:.1} {}", UNITS[unit])
}
