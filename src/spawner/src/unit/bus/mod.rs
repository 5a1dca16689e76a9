//! A D-Bus connection for a single-threaded loop: it never waits, and its owner polls it.
//!
//! Why not a library: what there is brings an async runtime, threads, or calls that wait; a root program that must look after
//! all its jobs with one thread can have none of them. What is needed here is small: calls with descriptors, their answers,
//! and signals. Answers are matched by serial by the owner; who is heard at all, and what is kept of what comes, is told in
//! [`incoming`]. What waits to be sent has at most [`UNSENT_BYTES_MAX`]; beyond that the connection counts as lost.

mod incoming;
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

use self::incoming::Incoming;
#[cfg(test)]
pub(crate) use self::incoming::tests::Sent;
pub(crate) use self::incoming::{Message, Sender};
#[cfg(test)]
pub(crate) use self::value::Reader;
pub(crate) use self::value::{Body, Value};

/// A bus that takes nothing any more is as good as gone.
const UNSENT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The bus is on this machine: it answers at once or is not well.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(1);
/// Descriptors that one message brings.
const FDS_MAX: usize = 2;

/// So much is read before the owner's loop goes on with other things: whoever floods us shall not have it alone.
const READ_BYTES_MAX: usize = 1024 * 1024;

const METHOD_CALL: u8 = 1;
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
    incoming: Incoming,
    /// Unique name of the one who is heard besides the bus.
    peer: Option<String>,
    /// What may still be read before [`Self::next`] says that nothing came.
    read_bytes_left: usize,
}

/// The bus itself.
pub(crate) const DBUS: Target<'static> =
    Target { name: incoming::BUS, path: "/org/freedesktop/DBus", interface: incoming::BUS };

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Connection {
    /// Connects and says who we are. Waits, but not long.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        // A bus that is stopped, and before which others wait already, would hold us up without a limit.
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        authenticate(&socket)?;
        let mut connection = Self::on(socket);
        connection.call(DBUS, "Hello", "", Body::default());
        connection.flush()?;
        Ok(connection)
    }

    fn on(socket: OwnedFd) -> Self {
        Self {
            socket,
            serial: 0,
            unsent: VecDeque::new(),
            unsent_bytes: 0,
            incoming: Incoming::default(),
            peer: None,
            read_bytes_left: READ_BYTES_MAX,
        }
    }

    /// A connection that needs no greeting, and the bus' end of it.
    #[cfg(test)]
    pub(crate) fn pair() -> (Self, OwnedFd) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).expect("a pair");
        (Self::on(ours), theirs)
    }

    /// Asks who has a well-known name; the serial. Whoever it is is not heard before [`Self::heed`].
    pub(crate) fn ask_owner(&mut self, name: &str) -> u32 {
        let mut body = Body::default();
        body.string(name);
        self.call(DBUS, "GetNameOwner", "s", body)
    }

    /// Finds who has a well-known name, and hears it. Waits; other messages that come meanwhile are lost.
    pub(crate) fn find(&mut self, name: &str, until: Instant) -> io::Result<()> {
        let asked = self.ask_owner(name);
        loop {
            self.flush()?;
            wait(&self.socket, PollFlags::IN, until)?;
            while let Some(message) = self.next()? {
                match message {
                    Message::Return { serial, body } if serial == asked => {
                        self.heed(body.first().and_then(Value::text));
                        return Ok(());
                    }
                    Message::Error { serial, text, .. } if serial == asked => {
                        return Err(io::Error::other(format!("{name} is not on the bus: {text}")));
                    }
                    _ => {}
                }
            }
        }
    }

    /// Hears the one with this unique name, and nobody else but the bus.
    pub(crate) fn heed(&mut self, peer: Option<&str>) {
        self.peer = peer.map(str::to_owned);
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

    /// The next message that has come; None: no more for now. Err: the connection is over.
    pub(crate) fn next(&mut self) -> io::Result<Option<Message>> {
        loop {
            if let Some(message) = self.incoming.next(self.peer.as_deref())? {
                return Ok(Some(message));
            }
            if !self.read()? {
                self.read_bytes_left = READ_BYTES_MAX;
                return Ok(None);
            }
        }
    }

    /// False: there is nothing now, or it was enough for now.
    fn read(&mut self) -> io::Result<bool> {
        let mut piece = [0; 64 * 1024];
        if self.read_bytes_left == 0 {
            return Ok(false);
        }
        // Descriptors that somebody sends are not taken: the kernel closes them.
        match rustix::io::read(&self.socket, &mut piece) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(got) => {
                self.incoming.feed(&piece[..got]);
                self.read_bytes_left = self.read_bytes_left.saturating_sub(got);
                Ok(true)
            }
            Err(Errno::AGAIN) => Ok(false),
            Err(Errno::INTR) => Ok(true),
            Err(error) => Err(error.into()),
        }
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

    #[test]
    fn a_call_is_a_message_and_comes_apart_again() {
        let (mut connection, bus) = Connection::pair();
        let mut body = Body::default();
        body.string("a-unit");
        let target = Target { name: "a.b", path: "/a/b", interface: "a.b.C" };
        assert_eq!(connection.call(target, "Do", "s", body), 1);
        connection.flush().expect("sent");
        let mut got = [0; 1024];
        let length = rustix::io::read(&bus, &mut got).expect("read");
        let head = Reader::new(&got[..length]).values("yyyyuua(yv)").expect("a head");
        assert!(format!("{head:?}").contains("a.b.C"));
    }

    #[test]
    fn messages_are_put_together_from_pieces_and_nonsense_ends_the_connection() {
        let (mut connection, bus) = Connection::pair();
        let mut came = 0;
        for (peer, wanted) in [(None, 0), (Some(":1.1"), 1)] {
            connection.heed(peer);
            for piece in Sent::default().bytes().chunks(7) {
                rustix::io::write(&bus, piece).expect("written");
                while let Some(message) = connection.next().expect("alive") {
                    assert!(matches!(message, Message::Signal { sender: Sender::Peer, .. }), "{message:?}");
                    came += 1;
                }
            }
            assert_eq!(came, wanted, "{peer:?}");
        }
        rustix::io::write(&bus, b"what is this, now?").expect("written");
        assert!(connection.next().is_err());
    }

    /// Whoever sends without a pause does not keep the loop for itself.
    #[test]
    fn so_much_is_read_at_once_and_no_more() {
        let (mut connection, bus) = Connection::pair();
        let mut body = Body::default();
        body.array(1, |body| body.bytes.resize(32 * 1024, 0));
        let flood = Sent { sender: ":1.11", signature: "ay", body, ..Sent::default() }.bytes();
        let (mut written, mut read) = (0_usize, 0_usize);
        connection.read_bytes_left = flood.len();
        while rustix::io::write(&bus, &flood).is_ok_and(|some| some == flood.len()) {
            written += flood.len();
        }
        while connection.incoming.next(None).is_ok_and(|message| message.is_none()) && connection.read().expect("alive")
        {
            read += 1;
        }
        assert!(written > 64 * 1024 && read == 1, "{written} bytes, {read} readings");
        assert!(connection.next().expect("alive").is_none());
        assert_eq!(connection.read_bytes_left, READ_BYTES_MAX);
    }
}
