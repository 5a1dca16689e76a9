//! What comes from the bus: bytes become messages, and only messages of those who are heard.
//!
//! Anybody on the machine may send anything to anybody on the system bus: match rules choose among what is broadcast, they
//! keep nothing out. So the bus' word on who sent a message (header field 7, which it writes itself) is read before all
//! else, and a body is only kept and read when it is of the bus or of the peer. Whatever is not (another sender, the other
//! byte order, a header that is too long) is passed over as it streams by: it costs neither memory nor the connection. Only
//! bytes that are no message at all end the connection, for no bus sends them.
//!
//! Invariant: between two calls at most one message is kept, and of that at most [`MESSAGE_BYTES_MAX`] and one reading.

use std::io;

use super::value::{Reader, Value};

/// A body that is read; a list of a thousand units has half a megabyte.
const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// A header that is read: of its texts the longest is the path of a unit, whose name has 255 bytes, three each when escaped.
const HEADER_BYTES_MAX: usize = 16 * 1024;
/// No message is longer: the specification's own limit.
const ANY_MESSAGE_BYTES_MAX: usize = 128 * 1024 * 1024;
/// Room that is kept when nothing waits.
const IDLE_BYTES_MAX: usize = 1024 * 1024;
/// Of every message, up to the length of its header fields.
const FIXED_BYTES: usize = 16;
/// The bus itself, as a sender.
pub(super) const BUS: &str = "org.freedesktop.DBus";

const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;

/// Who is heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sender {
    /// The bus itself.
    Bus,
    /// The one the owner of the connection named, see `heed`.
    Peer,
}

/// What came.
#[derive(Debug)]
pub(crate) enum Message {
    /// An answer to the call with this serial.
    Return {
        /// Of the call.
        serial: u32,
        /// What it says.
        body: Vec<Value>,
    },
    /// A refusal of the call with this serial.
    Error {
        /// Of the call.
        serial: u32,
        /// Machine name.
        name: String,
        /// For people.
        text: String,
    },
    /// A signal.
    Signal {
        /// Who says so.
        sender: Sender,
        /// Of which object.
        path: String,
        /// `interface.member`.
        member: String,
        /// What it says.
        body: Vec<Value>,
    },
}

/// Bytes that are not yet messages.
#[derive(Default)]
pub(super) struct Incoming {
    bytes: Vec<u8>,
    /// Up to here they are done with.
    at: usize,
    /// So many of those to come are passed over.
    skip: usize,
}

impl Incoming {
    /// Takes what was read.
    pub(super) fn feed(&mut self, mut piece: &[u8]) {
        if self.bytes.is_empty() {
            // Nothing of what is passed over is ever copied.
            let over = self.skip.min(piece.len());
            self.skip -= over;
            piece = &piece[over..];
        }
        self.bytes.extend_from_slice(piece);
    }

    /// The next message of the bus or of `peer` (its unique name); None when more must be read first. Err: no bus speaks so.
    pub(super) fn next(&mut self, peer: Option<&str>) -> io::Result<Option<Message>> {
        loop {
            let over = self.skip.min(self.bytes.len() - self.at);
            self.at += over;
            self.skip -= over;
            match judge(&self.bytes[self.at..], peer)? {
                Judged::Incomplete => break,
                Judged::Skip { length, instead } => {
                    self.skip = length;
                    if instead.is_some() {
                        return Ok(instead);
                    }
                }
                Judged::Whole { length, message } => {
                    self.at += length;
                    if message.is_some() {
                        return Ok(message);
                    }
                }
            }
        }
        self.bytes.drain(..self.at);
        self.at = 0;
        if self.bytes.is_empty() {
            self.bytes.shrink_to(IDLE_BYTES_MAX);
        }
        Ok(None)
    }

    /// Bytes that are kept.
    #[cfg(test)]
    fn room(&self) -> usize {
        self.bytes.capacity()
    }
}

/// What is to be done with the message at the start of some bytes.
enum Judged {
    /// More of it is needed.
    Incomplete,
    /// It is not for us, whole or not.
    Skip { length: usize, instead: Option<Message> },
    /// All of it is there; None: it is of no use (a call to us, a body that does not fit its signature).
    Whole { length: usize, message: Option<Message> },
}

fn judge(bytes: &[u8], peer: Option<&str>) -> io::Result<Judged> {
    let Some(fixed) = bytes.get(..FIXED_BYTES) else { return Ok(Judged::Incomplete) };
    let (header, body) = lengths(fixed)?;
    let length = header + body;
    let pass_over = Ok(Judged::Skip { length, instead: None });
    if fixed[0] != b'l' || header > HEADER_BYTES_MAX {
        return pass_over;
    }
    let Some(header) = bytes.get(..header) else { return Ok(Judged::Incomplete) };
    let Some(header) = Header::read(header) else { return pass_over };
    let sender = match header.text(7) {
        Some(BUS) => Sender::Bus,
        Some(name) if Some(name) == peer => Sender::Peer,
        _ => return pass_over,
    };
    if length > MESSAGE_BYTES_MAX {
        return Ok(Judged::Skip { length, instead: header.too_long() });
    }
    let Some(whole) = bytes.get(..length) else { return Ok(Judged::Incomplete) };
    Ok(Judged::Whole { length, message: header.message(sender, &whole[length - body..]) })
}

/// Of the header with its padding and of the body, in the message's own byte order.
fn lengths(fixed: &[u8]) -> io::Result<(usize, usize)> {
    let number = |at: usize| {
        let bytes = [fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]];
        let number = if fixed[0] == b'B' { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) };
        number as usize
    };
    let (header, body) = ((FIXED_BYTES + number(12)).next_multiple_of(8), number(4));
    if !matches!(fixed[0], b'l' | b'B') || fixed[3] != 1 || header + body > ANY_MESSAGE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the bus sends what is no message"));
    }
    Ok((header, body))
}

/// What stands before a body.
struct Header {
    kind: u8,
    fields: Value,
}

impl Header {
    fn read(bytes: &[u8]) -> Option<Self> {
        let mut values = Reader::new(bytes).values("yyyyuua(yv)")?;
        let fields = values.pop()?;
        Some(Self { kind: u8::try_from(values.get(1)?.number()?).ok()?, fields })
    }

    fn field(&self, code: u64) -> Option<&Value> {
        self.fields.list().iter().find_map(|field| match field.list() {
            [number, value] if number.number() == Some(code) => Some(value),
            _ => None,
        })
    }

    fn text(&self, code: u64) -> Option<&str> {
        self.field(code).and_then(Value::text)
    }

    fn answers(&self) -> Option<u32> {
        self.field(5)?.number()?.try_into().ok()
    }

    fn message(&self, sender: Sender, body: &[u8]) -> Option<Message> {
        let body = Reader::new(body).values(self.text(8).unwrap_or_default())?;
        let text = |code: u64| self.text(code).unwrap_or_default();
        match self.kind {
            METHOD_RETURN => Some(Message::Return { serial: self.answers()?, body }),
            ERROR => {
                let words = body.first().and_then(Value::text).unwrap_or_default().to_owned();
                Some(Message::Error { serial: self.answers()?, name: text(4).to_owned(), text: words })
            }
            SIGNAL => {
                let member = format!("{}.{}", text(2), text(3));
                Some(Message::Signal { sender, path: text(1).to_owned(), member, body })
            }
            _ => None,
        }
    }

    /// Whoever waits for the answer shall not wait for ever.
    fn too_long(&self) -> Option<Message> {
        if !matches!(self.kind, METHOD_RETURN | ERROR) {
            return None;
        }
        let text = format!("the answer has more than {MESSAGE_BYTES_MAX} bytes");
        Some(Message::Error {
            serial: self.answers()?,
            name: "org.freedesktop.DBus.Error.LimitsExceeded".to_owned(),
            text,
        })
    }
}

#[cfg(test)]
pub(crate) mod tests;
