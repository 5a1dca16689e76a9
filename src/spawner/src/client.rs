//! The daemon's end of the socket: a small client that never blocks.
//!
//! What the socket does not take at once waits here in order; [`Client::flush`] sends it on when the socket is writable.
//! [`AsFd`] lets an event loop wait: for reading always, for writing while [`Client::wants_write`].

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::memfd;
use crate::protocol::{PACKET_BYTES_MAX, Reply, Request, SPEC_BYTES_MAX, Secrets, Spec, Start};
use crate::wire::{self, Received};

/// A packet that waits, with its descriptors.
struct Waiting {
    packet: Vec<u8>,
    fds: Vec<OwnedFd>,
}

/// A connection to a spawner. Dropping it closes it; jobs do not mind.
pub struct Client {
    socket: OwnedFd,
    waiting: VecDeque<Waiting>,
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Client {
    /// Connects to a spawner's socket (a path of any length). `NotFound` and `ConnectionRefused` mean that none is there.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        let (address, _dir) = wire::address(path)?;
        loop {
            match rustix::net::connect(&socket, &address) {
                Ok(()) => return Ok(Self { socket, waiting: VecDeque::new() }),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends messages in order, in as few packets as possible. A [`Request::Start`] needs its specification: it goes by
    /// [`Self::send_start`] and is refused here.
    pub fn send(&mut self, requests: &[Request]) -> io::Result<()> {
        if requests.iter().any(|request| matches!(request, Request::Start(_))) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a start goes by send_start"));
        }
        for packet in wire::pack(requests)? {
            self.waiting.push_back(Waiting { packet, fds: Vec::new() });
        }
        self.flush().map(drop)
    }

    /// Sends a start with its specification and secrets; sets [`Start::secrets`] by itself. `InvalidInput`: a specification
    /// beyond [`SPEC_BYTES_MAX`]; nothing was sent.
    pub fn send_start(&mut self, start: Start, spec: &Spec, secrets: Option<&Secrets>) -> io::Result<()> {
        let mut fds = vec![sealed("ci-job-spec", spec)?];
        if let Some(secrets) = secrets {
            fds.push(sealed("ci-job-secrets", secrets)?);
        }
        let start = Start { secrets: secrets.is_some(), ..start };
        for packet in wire::pack(&[Request::Start(start)])? {
            self.waiting.push_back(Waiting { packet, fds: std::mem::take(&mut fds) });
        }
        self.flush().map(drop)
    }

    /// Sends what waits; true when nothing waits any more.
    pub fn flush(&mut self) -> io::Result<bool> {
        while let Some(waiting) = self.waiting.front() {
            let fds: Vec<BorrowedFd<'_>> = waiting.fds.iter().map(AsFd::as_fd).collect();
            match wire::send(&self.socket, &waiting.packet, &fds) {
                Ok(()) => {
                    self.waiting.pop_front();
                }
                // TOOMANYREFS: too many descriptors are on their way; the spawner takes them off.
                Err(Errno::AGAIN | Errno::TOOMANYREFS) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }

    /// True while something waits to be sent.
    pub fn wants_write(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The replies of one packet. `WouldBlock`: none is there; `UnexpectedEof`: the spawner has gone, or a newer daemon has
    /// taken over; `InvalidData`: it speaks another language.
    pub fn recv(&mut self) -> io::Result<Vec<Reply>> {
        let mut buffer = [0; PACKET_BYTES_MAX];
        match wire::receive(&self.socket, &mut buffer) {
            Received::Packet(bytes, _) => Ok(serde_json::from_slice(&buffer[..bytes])?),
            Received::Nothing => Err(io::ErrorKind::WouldBlock.into()),
            Received::Closed => Err(io::ErrorKind::UnexpectedEof.into()),
            Received::Malformed(why) => Err(io::Error::new(io::ErrorKind::InvalidData, why)),
        }
    }

    /// Waits until there is something to read (or nothing will come any more), sending what waits meanwhile; false when
    /// the time is over. For callers without an event loop.
    pub fn wait(&mut self, timeout: Duration) -> io::Result<bool> {
        let until = std::time::Instant::now() + timeout;
        loop {
            let write = if self.wants_write() { PollFlags::OUT } else { PollFlags::empty() };
            let mut fds = [PollFd::new(&self.socket, PollFlags::IN | write)];
            let rest = until.saturating_duration_since(std::time::Instant::now());
            let rest = Timespec { tv_sec: rest.as_secs() as i64, tv_nsec: i64::from(rest.subsec_nanos()) };
            match rustix::event::poll(&mut fds, Some(&rest)) {
                Ok(0) => return Ok(false),
                Ok(_) if fds[0].revents().intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) => {
                    return Ok(true);
                }
                Ok(_) => {
                    self.flush()?;
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn sealed<T: serde::Serialize>(name: &str, value: &T) -> io::Result<OwnedFd> {
    let text = serde_json::to_vec(value)?;
    if text.len() > SPEC_BYTES_MAX {
        let why = format!("{} bytes, the limit is {SPEC_BYTES_MAX}", text.len());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    memfd::sealed(name, &text)
}
