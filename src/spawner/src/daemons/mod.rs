//! Daemons as a spawner sees them: who may connect, whose attempts they speak of, what they may ask and in which order.
//!
//! [`Daemons`] has the connections, [`Serve`] is what a spawner of either kind does about a request; the words, their checks
//! and the order of replies are the same for both. Nothing here blocks, and nothing a daemon says is believed before it was
//! checked.

mod check;
mod conn;
mod serve;

use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::SocketFlags;

pub(crate) use self::conn::Connection;
pub(crate) use self::serve::{Introduction, Known, Serve, Standing, Table, Wish};
use crate::protocol::{PACKET_BYTES_MAX, Reply};

/// One daemon, its successor, and a few that only look.
const CONNECTIONS_MAX: usize = 32;
/// How long to wait when there is no memory or descriptor: `poll` would wake us again at once.
pub(crate) const SHORTAGE_PAUSE: std::time::Duration = std::time::Duration::from_millis(10);

/// The socket that daemons connect to, and those that did.
pub(crate) struct Daemons {
    listener: OwnedFd,
    connections: Vec<Connection>,
    /// Where packets are read to, one at a time. Made once: every page that is written between two forks is copied.
    buffer: Vec<u8>,
}

/// What `poll` found of [`Daemons::polled`].
#[derive(Default)]
pub(crate) struct Calls {
    new: bool,
    known: Vec<usize>,
}

impl Calls {
    /// Of the descriptors' readiness, in the order of [`Daemons::polled`].
    pub(crate) fn of(ready: &[bool]) -> Self {
        let Some((&new, known)) = ready.split_first() else { return Self::default() };
        Self { new, known: (0..known.len()).filter(|&at| known[at]).collect() }
    }
}

impl Daemons {
    pub(crate) fn new(listener: OwnedFd) -> Self {
        Self { listener, connections: Vec::new(), buffer: vec![0; PACKET_BYTES_MAX] }
    }

    /// True when no daemon is connected.
    pub(crate) fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }

    /// What to wait for: the listener, then each connection.
    pub(crate) fn polled(&self) -> Vec<PollFd<'_>> {
        let accepts = if self.connections.len() < CONNECTIONS_MAX { PollFlags::IN } else { PollFlags::empty() };
        let known = self.connections.iter().map(|conn| PollFd::new(&conn.socket, conn.interest()));
        std::iter::once(PollFd::new(&self.listener, accepts)).chain(known).collect()
    }

    /// When the first reply that waits for company must go, CLOCK_BOOTTIME.
    pub(crate) fn send_ms(&self) -> Option<u64> {
        self.connections.iter().filter_map(Connection::send_ms).min()
    }

    /// The next who waits, if there is room, and who that is.
    fn accept(&self) -> Option<(Connection, Result<u32, Errno>)> {
        if self.connections.len() >= CONNECTIONS_MAX {
            return None;
        }
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = match rustix::net::accept_with(&self.listener, flags) {
            Ok(socket) => socket,
            Err(error) => {
                if matches!(error, Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) {
                    std::thread::sleep(SHORTAGE_PAUSE);
                }
                return None;
            }
        };
        let uid = rustix::net::sockopt::socket_peercred(&socket).map(|peer| peer.uid.as_raw());
        Some((Connection::new(socket), uid))
    }

    /// Room for the next: whoever has not said who it is goes first.
    fn make_room(&mut self) {
        if self.connections.len() == CONNECTIONS_MAX
            && let Some(silent) = self.connections.iter_mut().find(|conn| conn.store.is_none())
        {
            silent.closing = true;
        }
    }

    /// Says it to the daemon of this store, at the end of the turn or `soon`; false when it is not there.
    pub(crate) fn tell(&mut self, store: &str, reply: Reply, soon: bool) -> bool {
        let of_store = |conn: &&mut Connection| conn.store.as_deref() == Some(store) && !conn.closing;
        let Some(conn) = self.connections.iter_mut().find(of_store) else { return false };
        if soon {
            conn.say_soon(reply);
        } else {
            conn.say(reply);
        }
        true
    }
}
