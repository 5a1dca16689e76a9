//! Reads a log, finished or growing.
//!
//! The cursor is the byte offset: the file only grows, so whoever remembers [`LogReader::offset`] goes on later, in
//! another process, with nothing lost and nothing twice. A log that does not exist yet is one without output yet.
//! Memory is one buffer of [`LINE_PART_BYTES_MAX`] and one for times, whatever the sizes of log and line.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::time::SystemTime;

use super::earlier::{earlier_dirs, open_dir};
use super::files::{Kind, Place};
use super::times::TimesReader;

/// A longer line comes in parts.
pub const LINE_PART_BYTES_MAX: usize = 64 * 1024;
/// Reads go to the disk in this size.
const BUFFER_BYTES: usize = LINE_PART_BYTES_MAX;
/// The times of files may be so much behind the clock: the kernel takes them from its last tick.
const FILE_CLOCK_MS: i64 = 20;

/// What to do with bytes behind the last newline that do not fill a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Partial {
    /// Give them: the log is finished, or a prompt shall be seen. What follows on the line comes as a further part.
    Give,
    /// Leave them until the line is whole or fills a part.
    Leave,
}

/// A line, or a part of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// Where in the log the bytes begin.
    pub offset: u64,
    /// When the first of them was written: wall clock, milliseconds since 1970. For a part in the middle of a line this
    /// is the part's own time.
    pub wall_ms: i64,
    /// Without the newline.
    pub bytes: &'a [u8],
    /// A line begins here; false: these bytes go on with the line before.
    pub begins: bool,
    /// A newline follows the bytes; false: more of this line comes later, or the log ends without one.
    pub terminated: bool,
}

/// What is under the name of a log in a directory where logs were before: it may be of another attempt, whose id was given again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Earlier {
    /// This log.
    Own,
    /// This log, unless it was last written before this time (wall clock, milliseconds since 1970): the attempt began then.
    Since(i64),
    /// Another's: this attempt wrote nothing.
    Others,
}

impl Earlier {
    /// Whether `file`, in a directory where logs were before, is the log that is meant.
    ///
    /// # Errors
    /// It cannot be looked at.
    pub fn is_own(self, file: &File) -> io::Result<bool> {
        let since = match self {
            Earlier::Own => return Ok(true),
            Earlier::Others => return Ok(false),
            Earlier::Since(since) => since,
        };
        let written = file.metadata()?.modified()?.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let written_ms = i64::try_from(written.as_millis()).unwrap_or(i64::MAX);
        Ok(written_ms.saturating_add(FILE_CLOCK_MS) >= since)
    }
}

/// Reads one attempt's log.
pub struct LogReader {
    place: Place,
    earlier: Earlier,
    start_wall_ms: i64,
    file: Option<File>,
    times: TimesReader,
    /// Offset of the next byte to give.
    offset: u64,
    /// The byte before `offset` is a newline, or there is none.
    at_line_start: bool,
    /// Bytes from `offset` on.
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// No newline in the first so many of them.
    searched: usize,
}

impl LogReader {
    /// A reader at the beginning of the log below the log directory `dir`. `start_wall_ms`, the attempt's start, is the
    /// time of all lines of a log without times.
    pub fn new(dir: OwnedFd, job: u64, attempt: u32, start_wall_ms: i64) -> Self {
        Self {
            place: Place { dir, job, attempt },
            earlier: Earlier::Own,
            start_wall_ms,
            file: None,
            times: TimesReader::new(),
            offset: 0,
            at_line_start: true,
            buffer: Box::default(),
            start: 0,
            end: 0,
            searched: 0,
        }
    }

    /// The same, which takes from directories where logs were before only what `earlier` says.
    pub fn taking(self, earlier: Earlier) -> Self {
        Self { earlier, ..self }
    }

    /// A reader of a log whose bytes are in `file`, wherever that came from; its times are below `dir`, as for [`Self::new`].
    pub fn over(dir: OwnedFd, job: u64, attempt: u32, start_wall_ms: i64, file: File) -> Self {
        Self { file: Some(file), ..Self::new(dir, job, attempt, start_wall_ms) }
    }

    /// Another reader of the same log, at its beginning.
    pub fn sibling(&self) -> io::Result<Self> {
        let Place { dir, job, attempt } = &self.place;
        let file = self.file.as_ref().map(File::try_clone).transpose()?;
        let new = Self::new(dir.try_clone()?, *job, *attempt, self.start_wall_ms).taking(self.earlier);
        Ok(Self { file, ..new })
    }

    /// Whether there is a log.
    pub fn is_there(&mut self) -> io::Result<bool> {
        Ok(self.open()?.is_some())
    }

    /// The cursor: where the next line begins, or the rest of one. [`Self::seek`] there to go on another time.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Size of the log now, bytes; 0 while it does not exist.
    pub fn size(&mut self) -> io::Result<u64> {
        match self.open()? {
            Some(file) => Ok(file.metadata()?.len()),
            None => Ok(0),
        }
    }

    /// Go on from this byte. One beyond the end gives nothing until the log has grown so far.
    pub fn seek(&mut self, offset: u64) -> io::Result<()> {
        let mut before = [b'\n'];
        if offset > 0 {
            before = [0];
            self.read_at(&mut before, offset - 1)?;
        }
        self.offset = offset;
        self.at_line_start = before == *b"\n";
        (self.start, self.end, self.searched) = (0, 0, 0);
        Ok(())
    }

    /// Go to the beginning of the last `lines` lines; a last line without a newline counts. Reads the file backwards, as
    /// far as these lines go.
    pub fn seek_tail(&mut self, lines: u64) -> io::Result<()> {
        let size = self.size()?;
        let mut block = vec![0; BUFFER_BYTES];
        let mut wanted = lines;
        let mut end = size;
        while end > 0 && lines > 0 {
            let begin = end.saturating_sub(BUFFER_BYTES as u64);
            let bytes = &mut block[..(end - begin) as usize];
            let read = self.read_at(bytes, begin)?;
            for (index, _) in bytes[..read].iter().enumerate().rev().filter(|&(_, &byte)| byte == b'\n') {
                let behind = begin + index as u64 + 1;
                if behind == size {
                    continue;
                }
                wanted -= 1;
                if wanted == 0 {
                    return self.seek(behind);
                }
            }
            end = begin;
        }
        self.seek(if lines == 0 { size } else { 0 })
    }

    /// Go to the first line whose time is `wall_ms` or later; when there is none yet, to the end.
    pub fn seek_since(&mut self, wall_ms: i64) -> io::Result<()> {
        // First the size, then the times: those of all bytes up to it are there then.
        let size = self.size()?;
        self.times.refresh(&self.place)?;
        let offset = self.times.first_offset_since(wall_ms, self.start_wall_ms)?.unwrap_or(size);
        self.seek(offset.min(size))?;
        if !self.at_line_start {
            // The line began earlier.
            while self.next_line(Partial::Give)?.is_some_and(|line| !line.terminated) {}
        }
        Ok(())
    }

    /// Bytes at an offset, as they are, cursor untouched: for whoever passes a log on. 0: no more now.
    pub fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let Some(file) = self.open()? else { return Ok(0) };
        let mut done = 0;
        while done < buffer.len() {
            match file.read_at(&mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    /// The next line; None: no more now. A follower asks again later.
    pub fn next_line(&mut self, partial: Partial) -> io::Result<Option<Line<'_>>> {
        let newline = loop {
            let unsearched = &self.buffer[self.start + self.searched..self.end];
            if let Some(index) = unsearched.iter().position(|&byte| byte == b'\n') {
                break Some(self.searched + index);
            }
            self.searched = self.end - self.start;
            if self.searched == LINE_PART_BYTES_MAX {
                break None;
            }
            if self.fill()? == 0 {
                if self.searched == 0 || partial == Partial::Leave {
                    return Ok(None);
                }
                break None;
            }
        };
        let length = newline.unwrap_or(self.end - self.start);
        let taken = length + usize::from(newline.is_some());
        let (offset, begins, from) = (self.offset, self.at_line_start, self.start);
        let wall_ms = self.times.wall_ms_at(offset, self.start_wall_ms)?;
        self.offset += taken as u64;
        self.start += taken;
        self.searched = 0;
        self.at_line_start = newline.is_some();
        let bytes = &self.buffer[from..from + length];
        Ok(Some(Line { offset, wall_ms, bytes, begins, terminated: newline.is_some() }))
    }

    /// Reads behind the buffered bytes; 0: no more now.
    fn fill(&mut self) -> io::Result<usize> {
        if self.buffer.is_empty() {
            self.buffer = vec![0; BUFFER_BYTES].into_boxed_slice();
        }
        let kept = self.end - self.start;
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, kept);
        let mut buffer = std::mem::take(&mut self.buffer);
        let read = self.read_at(&mut buffer[kept..], self.offset + kept as u64);
        self.buffer = buffer;
        let read = read?;
        self.end += read;
        if read > 0 {
            self.times.refresh(&self.place)?;
        }
        Ok(read)
    }

    /// It may be where logs were before.
    fn open_earlier(&mut self) -> io::Result<()> {
        if self.earlier == Earlier::Others {
            return Ok(());
        }
        for dir in earlier_dirs(&self.place.dir)? {
            let Ok(dir) = open_dir(&dir) else { continue };
            let place = Place { dir, ..self.place };
            let file = place.open_read(Kind::Log)?;
            if let Some(file) = file.filter(|file| self.earlier.is_own(file).unwrap_or(true)) {
                self.place = place;
                self.file = Some(file);
                return Ok(());
            }
        }
        Ok(())
    }

    fn open(&mut self) -> io::Result<Option<&File>> {
        if self.file.is_none() {
            self.file = self.place.open_read(Kind::Log)?;
            if self.file.is_none() {
                self.open_earlier()?;
            }
        }
        Ok(self.file.as_ref())
    }
}
