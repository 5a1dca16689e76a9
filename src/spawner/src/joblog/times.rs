//! The times of a log: see the format in the module's text. The writer never fails its caller: without room on the disk
//! times get coarser, the log goes on. The reader keeps one buffer, whatever the size of the file.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use super::files::{Kind, Place, Target};

/// Chunks closer to each other than this share an entry.
pub const TICK_MS: u64 = 10;
/// Begins the file: seven letters and the version.
const MAGIC: [u8; 8] = *b"CIRTIME\x01";
/// Magic and start.
const HEADER_BYTES: usize = 16;
/// An entry is two LEB128 numbers of 64 bits.
const ENTRY_BYTES_MAX: usize = 20;
/// The reader's buffer: some two thousand entries a read.
const BUFFER_BYTES: usize = 8192;

/// From this byte on, written at this time after the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Entry {
    offset: u64,
    ms: u64,
}

/// Appends entries.
pub(super) struct TimesWriter {
    start_wall_ms: i64,
    open: Option<OpenTimes>,
    last: Entry,
    /// The next chunk gets an entry however early it comes: the log held bytes of an earlier writer.
    forced: bool,
}

struct OpenTimes {
    file: File,
    /// Length of header and whole entries.
    length: u64,
    /// To be added to our times: the file may have an earlier start than this writer.
    shift_ms: i64,
}

impl TimesWriter {
    pub fn new(start_wall_ms: i64) -> Self {
        Self { start_wall_ms, open: None, last: Entry::default(), forced: false }
    }

    /// The log existed already with some bytes.
    pub fn continues(&mut self) {
        self.forced = true;
    }

    /// The next bytes go to `offset`, now.
    pub fn note(&mut self, target: &Target, offset: u64, elapsed_ms: u64) {
        let due = self.last.ms.saturating_add(TICK_MS);
        let early = match &self.open {
            Some(open) => shifted(elapsed_ms, open.shift_ms) < due,
            None => elapsed_ms < TICK_MS,
        };
        if early && !self.forced {
            return;
        }
        // Failure is silent on purpose: without an entry the bytes have the time of the chunk before.
        let _ = self.append(target, offset, elapsed_ms);
    }

    fn append(&mut self, target: &Target, offset: u64, elapsed_ms: u64) -> io::Result<()> {
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.open(target)?,
        };
        let ms = shifted(elapsed_ms, open.shift_ms).max(self.last.ms);
        let entry = Entry { offset: offset.max(self.last.offset), ms };
        let mut bytes = Vec::with_capacity(ENTRY_BYTES_MAX);
        put_number(&mut bytes, entry.offset - self.last.offset);
        put_number(&mut bytes, entry.ms - self.last.ms);
        if let Err(error) = open.file.write_all(&bytes) {
            // A part of an entry would make nonsense of all that follow.
            open.file.set_len(open.length)?;
            self.open = Some(open);
            return Err(error);
        }
        open.length += bytes.len() as u64;
        self.open = Some(open);
        self.last = entry;
        self.forced = false;
        Ok(())
    }

    fn open(&mut self, target: &Target) -> io::Result<OpenTimes> {
        let (mut file, size) = target.open_append(Kind::Times)?;
        if size > 0 {
            let mut earlier = TimesReader::of(file.try_clone()?);
            earlier.seek_end()?;
            if let Some(start_wall_ms) = earlier.start_wall_ms {
                file.set_len(earlier.parsed)?;
                self.last = earlier.current;
                let shift_ms = self.start_wall_ms.saturating_sub(start_wall_ms);
                return Ok(OpenTimes { file, length: earlier.parsed, shift_ms });
            }
            file.set_len(0)?;
        }
        let mut header = [0; HEADER_BYTES];
        header[..8].copy_from_slice(&MAGIC);
        header[8..].copy_from_slice(&self.start_wall_ms.to_le_bytes());
        if let Err(error) = file.write_all(&header) {
            file.set_len(0)?;
            return Err(error);
        }
        Ok(OpenTimes { file, length: HEADER_BYTES as u64, shift_ms: 0 })
    }
}

fn shifted(elapsed_ms: u64, shift_ms: i64) -> u64 {
    elapsed_ms.saturating_add_signed(shift_ms)
}

fn put_number(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// The number at the beginning and its length; None when it is incomplete or has more than 64 bits.
fn take_number(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut number = 0_u64;
    for (index, &byte) in bytes.iter().enumerate().take(10) {
        let bits = u64::from(byte & 0x7f);
        if index == 9 && bits > 1 {
            return None;
        }
        number |= bits << (7 * index);
        if byte & 0x80 == 0 {
            return Some((number, index + 1));
        }
    }
    None
}

/// Reads entries, forwards; going back begins anew.
pub(super) struct TimesReader {
    file: Option<File>,
    /// From the header, once it is there.
    start_wall_ms: Option<i64>,
    /// The entry that holds now.
    current: Entry,
    /// The one after it, if read.
    next: Option<Entry>,
    /// File offset behind the last whole entry read.
    parsed: u64,
    /// What was read behind `parsed` and not yet used is `buffer[used..]`.
    buffer: Vec<u8>,
    used: usize,
    /// No more until the next `refresh`.
    at_end: bool,
}

impl TimesReader {
    pub fn new() -> Self {
        Self {
            file: None,
            start_wall_ms: None,
            current: Entry::default(),
            next: None,
            parsed: 0,
            buffer: Vec::new(),
            used: 0,
            at_end: false,
        }
    }

    fn of(file: File) -> Self {
        Self { file: Some(file), ..Self::new() }
    }

    /// Look for new entries from now on. To be called after log bytes were read: their entries are there by then.
    pub fn refresh(&mut self, place: &Place) -> io::Result<()> {
        if self.file.is_none() {
            self.file = place.open_read(Kind::Times)?;
        }
        self.at_end = false;
        Ok(())
    }

    /// Wall clock of the byte at `offset`; `start_wall_ms` holds where there are no times.
    pub fn wall_ms_at(&mut self, offset: u64, start_wall_ms: i64) -> io::Result<i64> {
        if offset < self.current.offset {
            self.rewind();
        }
        while self.peek()?.is_some_and(|next| next.offset <= offset) {
            self.advance();
        }
        Ok(self.wall_ms(self.current, start_wall_ms))
    }

    /// Offset of the first byte that was written at `wall_ms` or later; None when there is none yet.
    pub fn first_offset_since(&mut self, wall_ms: i64, start_wall_ms: i64) -> io::Result<Option<u64>> {
        self.rewind();
        self.peek()?;
        if self.wall_ms(self.current, start_wall_ms) >= wall_ms {
            return Ok(Some(0));
        }
        while let Some(next) = self.peek()? {
            if self.wall_ms(next, start_wall_ms) >= wall_ms {
                return Ok(Some(next.offset));
            }
            self.advance();
        }
        Ok(None)
    }

    fn wall_ms(&self, entry: Entry, start_wall_ms: i64) -> i64 {
        self.start_wall_ms.unwrap_or(start_wall_ms).saturating_add_unsigned(entry.ms)
    }

    fn seek_end(&mut self) -> io::Result<()> {
        while self.peek()?.is_some() {
            self.advance();
        }
        Ok(())
    }

    fn rewind(&mut self) {
        *self = Self { file: self.file.take(), ..Self::new() };
    }

    fn advance(&mut self) {
        if let Some(next) = self.next.take() {
            self.current = next;
        }
    }

    fn peek(&mut self) -> io::Result<Option<Entry>> {
        while self.next.is_none() && !self.at_end {
            if !self.parse() {
                self.fill()?;
                // The end, an incomplete entry, or nonsense.
                self.at_end = !self.parse();
            }
        }
        Ok(self.next)
    }

    /// Takes a header or an entry from the buffer; false when it holds no whole one.
    fn parse(&mut self) -> bool {
        let bytes = &self.buffer[self.used..];
        if self.start_wall_ms.is_none() {
            let Some((magic, start)) = bytes.get(..HEADER_BYTES).and_then(|header| header.split_first_chunk::<8>())
            else {
                return false;
            };
            if *magic != MAGIC {
                return false;
            }
            let Ok(start) = start.try_into().map(i64::from_le_bytes) else { return false };
            self.start_wall_ms = Some(start);
            self.take(HEADER_BYTES);
            return true;
        }
        let Some((offset, first)) = take_number(bytes) else { return false };
        let Some((ms, second)) = take_number(&bytes[first..]) else { return false };
        let (Some(offset), Some(ms)) = (self.current.offset.checked_add(offset), self.current.ms.checked_add(ms))
        else {
            return false;
        };
        self.next = Some(Entry { offset, ms });
        self.take(first + second);
        true
    }

    fn take(&mut self, bytes: usize) {
        self.used += bytes;
        self.parsed += bytes as u64;
    }

    /// Reads anew behind the last whole entry: what followed may have been cut off and replaced.
    fn fill(&mut self) -> io::Result<()> {
        self.used = 0;
        self.buffer.clear();
        let Some(file) = &self.file else { return Ok(()) };
        self.buffer.resize(BUFFER_BYTES, 0);
        let read = loop {
            match file.read_at(&mut self.buffer, self.parsed) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        self.buffer.truncate(*read.as_ref().unwrap_or(&0));
        read.map(drop)
    }
}
