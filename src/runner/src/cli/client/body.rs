//! Reading an HTTP/1.1 answer: the head whole, the body as it comes. RFC 9112, the part that one request on one
//! connection needs: a length, chunks, or everything up to the end.
//!
//! Invariant: a body that ends early is an error ([`io::ErrorKind::UnexpectedEof`]), never a short success: `logs -f` and
//! `wait` tell a daemon's death from the end by it.

use super::Response;
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// A longer head is refused.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// More header lines are refused.
const HEADERS_MAX: usize = 64;
/// A chunk's size line is at most this.
const SIZE_LINE_BYTES_MAX: usize = 128;

pub(super) enum HeadError {
    Io(io::Error),
    Garbled(String),
}

/// The body of an answer.
#[derive(Debug)]
pub struct Body {
    stream: UnixStream,
    /// Read, not yet given out: `ahead[at..]`.
    ahead: Vec<u8>,
    at: usize,
    framing: Framing,
}

#[derive(Debug)]
enum Framing {
    /// So many bytes are to come.
    Length(u64),
    /// So many bytes of the present chunk are to come.
    Chunk(u64),
    /// A chunk's size line comes next; behind a chunk, its line end stands before it.
    ChunkSize { behind_chunk: bool },
    /// Everything up to the end of the connection.
    ToEnd,
    /// All was read.
    Done,
}

pub(super) fn read_head(mut stream: UnixStream) -> Result<Response, HeadError> {
    let mut bytes = Vec::with_capacity(1024);
    loop {
        let mut lines = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut head = httparse::Response::new(&mut lines);
        if !bytes.is_empty() {
            match head.parse(&bytes) {
                Ok(httparse::Status::Complete(length)) => {
                    let status = head.code.unwrap_or_default();
                    let headers: Vec<(String, String)> = head
                        .headers
                        .iter()
                        .map(|line| (line.name.to_lowercase(), String::from_utf8_lossy(line.value).into_owned()))
                        .collect();
                    let framing = framing(status, &headers).map_err(HeadError::Garbled)?;
                    let body = Body { stream, ahead: bytes, at: length, framing };
                    return Ok(Response { status, headers, body });
                }
                Ok(httparse::Status::Partial) => {}
                Err(error) => return Err(HeadError::Garbled(format!("the head of the answer: {error}"))),
            }
        }
        if bytes.len() >= HEAD_BYTES_MAX {
            return Err(HeadError::Garbled(format!("a head of more than {HEAD_BYTES_MAX} bytes")));
        }
        if fill(&mut stream, &mut bytes).map_err(HeadError::Io)? == 0 {
            return Err(HeadError::Io(io::ErrorKind::UnexpectedEof.into()));
        }
    }
}

fn framing(status: u16, headers: &[(String, String)]) -> Result<Framing, String> {
    let value = |name: &str| headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    if status == 204 || status == 304 {
        return Ok(Framing::Done);
    }
    match (value("transfer-encoding"), value("content-length")) {
        (Some(coding), _) if coding.eq_ignore_ascii_case("chunked") => Ok(Framing::ChunkSize { behind_chunk: false }),
        (Some(coding), _) => Err(format!("the transfer coding {coding:?} is not known")),
        (None, Some(length)) => match length.parse() {
            Ok(0) => Ok(Framing::Done),
            Ok(length) => Ok(Framing::Length(length)),
            Err(_) => Err(format!("a length of {length:?}")),
        },
        (None, None) => Ok(Framing::ToEnd),
    }
}

/// One read, behind what is there. Interrupted reads are repeated.
fn fill(stream: &mut UnixStream, bytes: &mut Vec<u8>) -> io::Result<usize> {
    const STEP: usize = 16 * 1024;
    let before = bytes.len();
    bytes.resize(before + STEP, 0);
    let result = loop {
        match stream.read(&mut bytes[before..]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => break other,
        }
    };
    bytes.truncate(before + *result.as_ref().unwrap_or(&0));
    result
}

impl Body {
    /// How long a read may wait; `None` is for ever. Passing it is [`io::ErrorKind::WouldBlock`], and nothing is lost:
    /// the next read goes on where this one stood.
    pub fn wait_at_most(&self, wait: Option<Duration>) {
        // Zero means "for ever" to the kernel and is refused by the library. Only an invalid time can fail.
        let _ = self.stream.set_read_timeout(wait.map(|wait| wait.max(Duration::from_millis(1))));
    }

    /// The next size line, taken off; `None` while it is not whole.
    fn size_line(&mut self, behind_chunk: bool) -> io::Result<Option<u64>> {
        let garbled = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        let mut rest = &self.ahead[self.at..];
        if behind_chunk {
            match rest {
                [b'\r', b'\n', after @ ..] => rest = after,
                [] | [b'\r'] => return Ok(None),
                _ => return Err(garbled("a chunk is longer than its size")),
            }
        }
        match httparse::parse_chunk_size(rest) {
            Ok(httparse::Status::Complete((used, size))) => {
                self.at = self.ahead.len() - rest.len() + used;
                Ok(Some(size))
            }
            Ok(httparse::Status::Partial) if rest.len() > SIZE_LINE_BYTES_MAX => {
                Err(garbled("a chunk size without end"))
            }
            Ok(httparse::Status::Partial) => Ok(None),
            Err(_) => Err(garbled("a chunk size that is no number")),
        }
    }

    /// Makes sure that something is read ahead; `false` at the end of the connection.
    fn more(&mut self) -> io::Result<bool> {
        self.ahead.drain(..self.at);
        self.at = 0;
        Ok(fill(&mut self.stream, &mut self.ahead)? > 0)
    }

    /// Gives out at most `most` bytes of what is read ahead or can be read now.
    fn give(&mut self, out: &mut [u8], most: u64) -> io::Result<usize> {
        if self.at == self.ahead.len() && !self.more()? {
            return Ok(0);
        }
        let rest = &self.ahead[self.at..];
        let count = rest.len().min(out.len()).min(usize::try_from(most).unwrap_or(usize::MAX));
        out[..count].copy_from_slice(&rest[..count]);
        self.at += count;
        Ok(count)
    }
}

impl Read for Body {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        loop {
            match self.framing {
                Framing::Done => return Ok(0),
                Framing::ToEnd => return self.give(out, u64::MAX),
                Framing::Length(left) | Framing::Chunk(left) => {
                    let count = self.give(out, left)?;
                    if count == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    let left = left - count as u64;
                    self.framing = match (&self.framing, left) {
                        (Framing::Chunk(_), 0) => Framing::ChunkSize { behind_chunk: true },
                        (Framing::Chunk(_), left) => Framing::Chunk(left),
                        (_, 0) => Framing::Done,
                        (_, left) => Framing::Length(left),
                    };
                    return Ok(count);
                }
                Framing::ChunkSize { behind_chunk } => match self.size_line(behind_chunk)? {
                    // Trailers may follow; nobody here wants them, and the connection is used once.
                    Some(0) => self.framing = Framing::Done,
                    Some(size) => self.framing = Framing::Chunk(size),
                    None if !self.more()? => return Err(io::ErrorKind::UnexpectedEof.into()),
                    None => {}
                },
            }
        }
    }
}
