//! Reads the log of one attempt for an export: its bytes as they are now, or a part of them, or its lines with their times.
//!
//! A whole log is passed on as it comes: how long it is, is known before. Of a part that is not known, so it is fetched to an
//! unnamed file first. A daemon that restarts meanwhile is waited for; no byte is lost or comes twice, because bytes of a log
//! never change and each request says from where on.

use super::super::super::client::{Client, ClientError, Response, with_query};
use super::super::super::fail::Failure;
use super::super::super::watch::{Backoff, patiently};
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::Path;

/// Read at once.
const PIECE_BYTES: usize = 128 * 1024;
/// A daemon that restarts breaks off once; one that breaks off so often at the same byte cannot read on.
const BREAKS_MAX: u32 = 20;

/// Which log, and which of it.
pub struct Asked<'a> {
    /// The way to the daemon.
    pub client: &'a Client,
    /// The job.
    pub id: u64,
    /// Which of its attempts.
    pub attempt: u32,
    /// From this time on, RFC 3339.
    pub since: Option<&'a str>,
    /// Up to this time.
    pub until: Option<&'a str>,
    /// Lines with their times instead of bytes.
    pub lines: bool,
    /// Remarks for whoever waits.
    pub note: &'a dyn Fn(&str),
}

/// A log that can be read, and how long it is.
pub enum Opened<'a> {
    /// From the daemon as it is read.
    Whole(Whole<'a>),
    /// Fetched: the file at its beginning, and its size.
    Part(File, u64),
}

/// A whole log on its way.
pub struct Whole<'a> {
    asked: &'a Asked<'a>,
    response: Response,
    /// Received.
    at: u64,
    /// To be received.
    size: u64,
    breaks: Breaks,
}

/// How often an answer broke off without anything new in between.
#[derive(Default)]
struct Breaks {
    count: u32,
    backoff: Backoff,
}

/// Why a log is not in the archive.
pub enum Missing {
    /// It was removed.
    Removed,
    /// It cannot be read.
    Unreadable(String),
}

impl<'a> Asked<'a> {
    /// Opens it. `room`: a directory with room for a part.
    ///
    /// # Errors
    /// The export cannot go on; what only this log lacks is told in the inner error.
    pub fn open(&'a self, room: &Path) -> Result<Result<Opened<'a>, Missing>, Failure> {
        let whole = self.since.is_none() && self.until.is_none() && !self.lines;
        let response = match self.request(&[])? {
            Ok(response) => response,
            Err(error) => return missing(error).map(Err),
        };
        if !whole {
            let (file, size) = self.fetch(response, room)?;
            return Ok(Ok(Opened::Part(file, size)));
        }
        let size = response.header("content-length").and_then(|size| size.parse().ok());
        let Some(size) = size else {
            return Err(Failure::Error("the daemon does not say how long the log is".to_owned()));
        };
        Ok(Ok(Opened::Whole(Whole { asked: self, response, at: 0, size, breaks: Breaks::default() })))
    }

    /// Asks, for as long as the daemon is only away; the inner error is its no.
    fn request(&self, more: &[(&'static str, String)]) -> Result<Result<Response, ClientError>, Failure> {
        let mut pairs = vec![("attempt", self.attempt.to_string())];
        pairs.extend_from_slice(more);
        for (name, time) in [("since", self.since), ("until", self.until)] {
            pairs.extend(time.map(|time| (name, time.to_owned())));
        }
        pairs.extend(self.lines.then(|| ("format", "ndjson".to_owned())));
        let path = with_query(&format!("/api/v1/jobs/{}/log", self.id), &pairs);
        patiently(None, &self.note, || match self.client.stream(&path) {
            Err(error) if !error.is_passing() => Ok(Err(error)),
            answer => answer.map(Ok),
        })
    }

    /// To a file without a name; from the beginning again when the answer breaks off.
    fn fetch(&self, mut response: Response, room: &Path) -> Result<(File, u64), Failure> {
        let cannot = |error: io::Error| match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Failure::Temporary(format!("there is no room in {} for a part of a log", room.display()))
            }
            _ => Failure::Error(format!("cannot keep a part of a log in {}: {error}", room.display())),
        };
        let mut file = unnamed(room).or_else(|_| unnamed(&std::env::temp_dir())).map_err(cannot)?;
        let mut breaks = Breaks::default();
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            match response.body.read(&mut piece) {
                Ok(0) => break,
                Ok(count) => file.write_all(&piece[..count]).map_err(cannot)?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    file.set_len(0).and_then(|()| file.rewind()).map_err(cannot)?;
                    response = breaks.again(self, &[])?;
                }
            }
        }
        let size = file.stream_position().map_err(cannot)?;
        file.rewind().map_err(cannot)?;
        Ok((file, size))
    }
}

impl Opened<'_> {
    /// Bytes that come.
    pub fn size(&self) -> u64 {
        match self {
            Self::Whole(whole) => whole.size,
            Self::Part(_, size) => *size,
        }
    }

    /// The next of them; 0 at the end.
    ///
    /// # Errors
    /// It cannot be read to its end.
    pub fn read(&mut self, piece: &mut [u8]) -> Result<usize, Failure> {
        match self {
            Self::Whole(whole) => whole.read(piece),
            Self::Part(file, _) => {
                file.read(piece).map_err(|error| Failure::Error(format!("cannot read a part of a log: {error}")))
            }
        }
    }
}

impl Whole<'_> {
    fn read(&mut self, piece: &mut [u8]) -> Result<usize, Failure> {
        while self.at < self.size {
            let most = usize::try_from(self.size - self.at).unwrap_or(usize::MAX).min(piece.len());
            match self.response.body.read(&mut piece[..most]) {
                Ok(0) => {
                    let what = format!("the log of job {} is shorter than the daemon said", self.asked.id);
                    return Err(Failure::Error(what));
                }
                Ok(count) => {
                    self.at += count as u64;
                    self.breaks = Breaks::default();
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    let from = [("offset", self.at.to_string())];
                    self.response = self.breaks.again(self.asked, &from)?;
                }
            }
        }
        Ok(0)
    }
}

impl Breaks {
    /// Asks again. Without the rest there is no going on: the beginning may be in the archive already.
    fn again(&mut self, asked: &Asked<'_>, from: &[(&'static str, String)]) -> Result<Response, Failure> {
        let broken = |why: &dyn std::fmt::Display| {
            let (attempt, id) = (asked.attempt, asked.id);
            Failure::Temporary(format!("the log of attempt {attempt} of job {id} could not be read to its end: {why}"))
        };
        self.count += 1;
        if self.count > BREAKS_MAX {
            return Err(broken(&"the daemon breaks off again and again"));
        }
        self.backoff.pause(None);
        asked.request(from)?.map_err(|error| broken(&error))
    }
}

fn missing(error: ClientError) -> Result<Missing, Failure> {
    match error.status() {
        // Job and attempt were there: they were removed meanwhile.
        Some(404 | 410) => Ok(Missing::Removed),
        Some(500) => Ok(Missing::Unreadable(error.to_string())),
        _ => Err(error.into()),
    }
}

fn unnamed(dir: &Path) -> io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    Ok(rustix::fs::open(dir, flags, Mode::RUSR | Mode::WUSR)?.into())
}
