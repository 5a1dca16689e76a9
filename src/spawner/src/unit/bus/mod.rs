//! A D-Bus connection for a single-threaded loop: it never waits, and its owner polls it.
//!
//! Why not a library: what there is brings an async runtime, threads, or calls that wait; a root program that must look after
//! all its jobs with one thread can have none of them. What is needed here is small: calls with descriptors, their answers,
//! and signals. Answers are matched by serial by the owner. Bounds: a message that is read has at most
//! [`MESSAGE_BYTES_MAX`], what waits to be sent at most [`UNSENT_BYTES_MAX`]; beyond either the connection counts as lost.

mod value;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::{Errno, IoSlice};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

pub(crate) use self::value::{Body, Reader, Value};

/// A list of a thousand units has half a megabyte.
const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// A bus that takes nothing any more is as good as gone.
const UNSENT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The bus is on this machine: it answers at once or is not well.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(1);
/// Descriptors that one message brings.
const FDS_MAX: usize = 2;

const METHOD_CALL: u8 = 1;
const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;
const NO_REPLY_EXPECTED: u8 = 1;

/// Where a call goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target<'a> {
    /// Bus name.
    pub(crate) name: &'a str,
    /// Object path.
    pub(crate) path: &'a str,
    /// Interface.
    pub(crate) interface: &'a str,
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
        /// Of which object.
        path: String,
        /// `interface.member`.
        member: String,
        /// What it says.
        body: Vec<Value>,
    },
}

struct Unsent {
    bytes: Vec<u8>,
    sent: usize,
    fds: Vec<OwnedFd>,
}

/// A connection. Dropping it closes it.
pub(crate) struct Connection {
    socket: OwnedFd,
    serial: u32,
    unsent: VecDeque<Unsent>,
    unsent_bytes: usize,
    received: Vec<u8>,
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Connection {
    /// Connects and says who we are. Waits, but not long.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        rustix::io::ioctl_fionbio(&socket, true)?;
        authenticate(&socket)?;
        let mut connection = Self { socket, serial: 0, unsent: VecDeque::new(), unsent_bytes: 0, received: Vec::new() };
        let bus =
            Target { name: "org.freedesktop.DBus", path: "/org/freedesktop/DBus", interface: "org.freedesktop.DBus" };
        connection.call(bus, "Hello", "", Body::default());
        connection.flush()?;
        Ok(connection)
    }

    /// Queues a call; its serial.
    pub(crate) fn call(&mut self, target: Target<'_>, member: &str, signature: &str, body: Body) -> u32 {
        self.push(target, member, signature, body, 0)
    }

    /// Queues a call whose answer nobody wants.
    pub(crate) fn tell(&mut self, target: Target<'_>, member: &str, signature: &str, body: Body) {
        self.push(target, member, signature, body, NO_REPLY_EXPECTED);
    }

    fn push(&mut self, target: Target<'_>, member: &str, signature: &str, body: Body, flags: u8) -> u32 {
        self.serial = self.serial.checked_add(1).unwrap_or(1);
        let mut message = Body::default();
        for byte in [b'l', METHOD_CALL, flags, 1] {
            message.byte(byte);
        }
        message.u32(u32::try_from(body.bytes.len()).unwrap_or(u32::MAX));
        message.u32(self.serial);
        let text_fields = [(1, "o", target.path), (6, "s", target.name), (2, "s", target.interface), (3, "s", member)];
        message.array(8, |message| {
            for (code, kind, text) in text_fields {
                field(message, code, kind);
                message.string(text);
            }
            if !signature.is_empty() {
                field(message, 8, "g");
                message.signature(signature);
            }
            if !body.fds.is_empty() {
                field(message, 9, "u");
                message.u32(u32::try_from(body.fds.len()).unwrap_or(u32::MAX));
            }
        });
        message.align(8);
        message.bytes.extend_from_slice(&body.bytes);
        self.unsent_bytes += message.bytes.len();
        self.unsent.push_back(Unsent { bytes: message.bytes, sent: 0, fds: body.fds });
        self.serial
    }

    /// True while something waits to be sent.
    pub(crate) fn wants_write(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Sends what the bus takes.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        while let Some(front) = self.unsent.front_mut() {
            match send(&self.socket, &front.bytes[front.sent..], &front.fds) {
                Ok(sent) => {
                    front.sent += sent;
                    front.fds.clear();
                    if front.sent == front.bytes.len() {
                        self.unsent_bytes -= front.bytes.len();
                        self.unsent.pop_front();
                    }
                }
                Err(Errno::AGAIN | Errno::TOOMANYREFS) if self.unsent_bytes <= UNSENT_BYTES_MAX => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Everything that has come. Err: the connection is over.
    pub(crate) fn receive(&mut self) -> io::Result<Vec<Message>> {
        let mut piece = [0; 64 * 1024];
        loop {
            // Descriptors that somebody sends are not taken: the kernel closes them.
            match rustix::io::read(&self.socket, &mut piece) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(got) => self.received.extend_from_slice(&piece[..got]),
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let mut messages = Vec::new();
        let mut at = 0;
        while let Some(length) = message_length(&self.received[at..])? {
            if self.received.len() - at < length {
                break;
            }
            messages.extend(parse(&self.received[at..at + length]));
            at += length;
        }
        self.received.drain(..at);
        Ok(messages)
    }
}

fn field(message: &mut Body, code: u8, kind: &str) {
    message.align(8);
    message.byte(code);
    message.signature(kind);
}

fn send(socket: &OwnedFd, bytes: &[u8], fds: &[OwnedFd]) -> Result<usize, Errno> {
    let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(Errno::INVAL);
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)
}

/// The whole length of the message that starts here, once that is known.
fn message_length(bytes: &[u8]) -> io::Result<Option<usize>> {
    let Some(head) = bytes.get(..16) else { return Ok(None) };
    let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]) as usize;
    let length = (16 + number(12)).next_multiple_of(8) + number(4);
    if head[0] != b'l' || head[3] != 1 || length > MESSAGE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the bus sends what is no message"));
    }
    Ok(Some(length))
}

/// A whole message; None for what is of no use (calls to us, bodies that do not fit their signature).
fn parse(bytes: &[u8]) -> Option<Message> {
    let head = Reader::new(bytes).values("yyyyuua(yv)")?;
    let fields = head.get(6)?.list();
    let field = |code: u64| {
        fields.iter().find_map(|field| match field.list() {
            [number, value] if number.number() == Some(code) => Some(value),
            _ => None,
        })
    };
    let text = |code: u64| field(code).and_then(Value::text).unwrap_or_default().to_owned();
    let body_length = usize::try_from(head.get(4)?.number()?).ok()?;
    let body = bytes.get(bytes.len().checked_sub(body_length)?..)?;
    let body = Reader::new(body).values(&text(8))?;
    let serial = field(5).and_then(Value::number).and_then(|serial| u32::try_from(serial).ok());
    match u8::try_from(head.get(1)?.number()?).ok()? {
        METHOD_RETURN => Some(Message::Return { serial: serial?, body }),
        ERROR => {
            let words = body.first().and_then(Value::text).unwrap_or_default().to_owned();
            Some(Message::Error { serial: serial?, name: text(4), text: words })
        }
        SIGNAL => Some(Message::Signal { path: text(1), member: format!("{}.{}", text(2), text(3)), body }),
        _ => None,
    }
}

/// "EXTERNAL": the bus sees our user by the socket.
fn authenticate(socket: &OwnedFd) -> io::Result<()> {
    let until = Instant::now() + HANDSHAKE_PATIENCE;
    let uid: String =
        rustix::process::geteuid().as_raw().to_string().bytes().map(|digit| format!("{digit:02x}")).collect();
    for (say, want) in
        [(format!("\0AUTH EXTERNAL {uid}\r\n"), "OK "), ("NEGOTIATE_UNIX_FD\r\n".to_owned(), "AGREE_UNIX_FD")]
    {
        write_all(socket, say.as_bytes(), until)?;
        let answer = read_line(socket, until)?;
        if !answer.starts_with(want) {
            let why = format!("the bus answers `{}`", answer.trim_end());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
        }
    }
    write_all(socket, b"BEGIN\r\n", until)
}

fn write_all(socket: &OwnedFd, mut bytes: &[u8], until: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        match send(socket, bytes, &[]) {
            Ok(sent) => bytes = &bytes[sent..],
            Err(Errno::AGAIN) => wait(socket, PollFlags::OUT, until)?,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Byte by byte: what follows the line stays in the socket.
fn read_line(socket: &OwnedFd, until: Instant) -> io::Result<String> {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") && line.len() < 1024 {
        let mut byte = [0];
        match rustix::io::read(socket, &mut byte) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => line.push(byte[0]),
            Err(Errno::AGAIN) => wait(socket, PollFlags::IN, until)?,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(String::from_utf8_lossy(&line).into_owned())
}

fn wait(socket: &OwnedFd, what: PollFlags, until: Instant) -> io::Result<()> {
    let left = until.saturating_duration_since(Instant::now());
    let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
    match rustix::event::poll(&mut [PollFd::new(socket, what)], Some(&timeout)) {
        Ok(0) => Err(io::Error::new(io::ErrorKind::TimedOut, "the bus does not answer")),
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection, and the bus' end of it.
    fn pair() -> (Connection, OwnedFd) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).expect("a pair");
        let made =
            Connection { socket: ours, serial: 0, unsent: VecDeque::new(), unsent_bytes: 0, received: Vec::new() };
        (made, theirs)
    }

    #[test]
    fn a_call_is_a_message_and_comes_apart_again() {
        let (mut connection, bus) = pair();
        let mut body = Body::default();
        body.string("a-unit");
        let target = Target { name: "a.b", path: "/a/b", interface: "a.b.C" };
        assert_eq!(connection.call(target, "Do", "s", body), 1);
        connection.flush().expect("sent");
        let mut got = [0; 1024];
        let length = rustix::io::read(&bus, &mut got).expect("read");
        assert_eq!(message_length(&got[..length]).expect("one"), Some(length));
        let head = Reader::new(&got[..length]).values("yyyyuua(yv)").expect("a head");
        assert!(format!("{head:?}").contains("a.b.C"));
    }

    #[test]
    fn messages_are_put_together_from_pieces_and_nonsense_ends_the_connection() {
        let (mut connection, bus) = pair();
        // A signal of an object: the same layout as a call, by hand.
        let mut message = Body::default();
        for byte in [b'l', SIGNAL, 0, 1] {
            message.byte(byte);
        }
        message.u32(8);
        message.u32(77);
        message.array(8, |message| {
            for (code, kind, text) in [(1, "o", "/x"), (2, "s", "i.f"), (3, "s", "Changed")] {
                field(message, code, kind);
                message.string(text);
            }
            field(message, 8, "g");
            message.signature("t");
        });
        message.align(8);
        message.u64(5);
        for piece in message.bytes.chunks(7) {
            rustix::io::write(&bus, piece).expect("written");
            for message in connection.receive().expect("alive") {
                let Message::Signal { path, member, body } = message else { panic!("no signal") };
                assert_eq!((path.as_str(), member.as_str(), body[0].number()), ("/x", "i.f.Changed", Some(5)));
                connection.serial = 99;
            }
        }
        assert_eq!(connection.serial, 99, "it came");
        rustix::io::write(&bus, b"what is this, now?").expect("written");
        assert!(connection.receive().is_err());
    }
}
