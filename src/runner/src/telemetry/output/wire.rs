//! journald's native protocol, as far as output needs it: one datagram for each line.
//!
//! <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>: `NAME=value\n`, or for values with newlines and any bytes `NAME\n`, the length
//! as 64 bits little endian, the bytes, `\n`. The socket never blocks: who sends too much is told so.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use super::Source;

/// What our lines are called in `journalctl`, apart from the daemon's own.
const IDENTIFIER: &str = "ci-runner-job";
/// Room in the socket for the longest part of a line with its fields.
const SEND_BUFFER_BYTES: usize = 1 << 20;
/// So long a full socket is waited for before words are taken again.
const ROOM_PATIENCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
/// syslog's "informational".
pub(super) const INFO: u8 = 6;
/// syslog's "warning".
pub(super) const WARNING: u8 = 4;

/// What became of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// It is journald's.
    Taken,
    /// journald is slow or not there; again later.
    Later,
    /// It will never go.
    Refused,
}

/// The way to journald.
pub(super) struct Journal {
    path: PathBuf,
    socket: Option<UnixDatagram>,
    datagram: Vec<u8>,
}

impl Journal {
    /// Not yet connected.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), socket: None, datagram: Vec::new() }
    }

    /// Sends a line that begins at `offset` of its log.
    pub fn send(&mut self, source: &Source, priority: u8, offset: u64, line: &str) -> Sent {
        if self.socket.is_none() {
            self.socket = connect(&self.path).ok();
        }
        let Some(socket) = &self.socket else { return Sent::Later };
        write(&mut self.datagram, source, priority, offset, line);
        let mut sent = socket.send(&self.datagram);
        if sent.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) && has_room(socket) {
            sent = socket.send(&self.datagram);
        }
        match sent {
            Ok(_) => Sent::Taken,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Sent::Later,
            Err(error) if error.raw_os_error() == Some(Errno::MSGSIZE.raw_os_error()) => Sent::Refused,
            Err(_) => {
                // Restarted: there is another socket in its place, or will be.
                self.socket = None;
                Sent::Later
            }
        }
    }
}

/// journald takes a queue of datagrams in a moment; one that does not do so by then is waited for elsewhere.
fn has_room(socket: &UnixDatagram) -> bool {
    let mut fds = [PollFd::new(socket, PollFlags::OUT)];
    matches!(rustix::event::poll(&mut fds, Some(&ROOM_PATIENCE)), Ok(1..))
}

fn connect(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    // Less is enough for all but the longest lines.
    rustix::net::sockopt::set_socket_send_buffer_size(&socket, SEND_BUFFER_BYTES).ok();
    socket.connect(path)?;
    Ok(socket)
}

fn write(datagram: &mut Vec<u8>, source: &Source, priority: u8, offset: u64, line: &str) {
    datagram.clear();
    let Source { job, attempt, pool, correlation, .. } = source;
    let mut text = format!(
        "PRIORITY={priority}\nSYSLOG_IDENTIFIER={IDENTIFIER}\nCI_RUNNER_JOB_ID={job}\nCI_RUNNER_ATTEMPT={attempt}\n\
         CI_RUNNER_STREAM=output\nCI_RUNNER_LOG_OFFSET={offset}\n"
    );
    if !pool.contains('\n') {
        text.push_str(&format!("CI_RUNNER_POOL={pool}\n"));
    }
    if !correlation.is_empty() && !correlation.contains('\n') {
        text.push_str(&format!("CI_RUNNER_CORRELATION_ID={correlation}\n"));
    }
    datagram.extend_from_slice(text.as_bytes());
    datagram.extend_from_slice(b"MESSAGE\n");
    datagram.extend_from_slice(&(line.len() as u64).to_le_bytes());
    datagram.extend_from_slice(line.as_bytes());
    datagram.push(b'\n');
}
