//! A turn of the loop at its edges: sleep, signals, new connections, packets, replies.

use super::attempt::State;
use super::conn::Connection;
use super::{CONNECTIONS_MAX, LAST_WORDS_MS, PACKETS_A_TURN, SHORTAGE_PAUSE, SLEEP_MS_MAX, Server};
use crate::failpoint;
use crate::protocol::{AttemptKey, PACKET_BYTES_MAX, Reply};
use crate::service::Then;
use crate::sys::{self, Reaped};
use crate::wire::{self, Received};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::SocketFlags;

impl Server {
    pub(super) fn sleep(&mut self) -> Woken {
        let mut fds = vec![PollFd::new(&self.signals, PollFlags::IN)];
        let accepts = if self.connections.len() < CONNECTIONS_MAX { PollFlags::IN } else { PollFlags::empty() };
        fds.push(PollFd::new(&self.listener, accepts));
        fds.extend(self.connections.iter().map(|conn| PollFd::new(&conn.socket, conn.interest())));
        let mut adopted: Vec<&AttemptKey> = Vec::new();
        for key in &self.adopted {
            if let Some(State::Alive(shim)) = self.attempts.get(key)
                && let Some(pidfd) = &shim.pidfd
            {
                adopted.push(key);
                fds.push(PollFd::new(pidfd, PollFlags::IN));
            }
        }
        let lifeline = self.lifeline.as_ref().and_then(|lifeline| lifeline.pipe.as_ref());
        fds.extend(lifeline.map(|pipe| PollFd::new(pipe, PollFlags::empty())));
        let ms = self.sleep_ms();
        let timeout = Timespec { tv_sec: (ms / 1000) as i64, tv_nsec: (ms % 1000) as i64 * 1_000_000 };
        match rustix::event::poll(&mut fds, Some(&timeout)) {
            Ok(_) => {}
            Err(Errno::INTR) => return Woken::default(),
            // Out of memory, or the limit of open files was lowered below what is open.
            Err(_) => {
                std::thread::sleep(SHORTAGE_PAUSE);
                return Woken::default();
            }
        }
        let mut ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let daemon_gone = lifeline.is_some() && ready.pop() == Some(true);
        let (of_connections, of_adopted) = ready[2..].split_at(self.connections.len());
        Woken {
            daemon_gone,
            signals: ready[0],
            listener: ready[1],
            connections: (0..of_connections.len()).filter(|&at| of_connections[at]).collect(),
            adopted: (0..of_adopted.len()).filter(|&at| of_adopted[at]).map(|at| adopted[at].clone()).collect(),
        }
    }

    fn sleep_ms(&self) -> u64 {
        let now = sys::boottime_ms();
        let mut until = self.due_ms.min(now.saturating_add(SLEEP_MS_MAX));
        if !self.connections.is_empty() {
            until = until.min(self.home_check_ms);
        }
        until =
            self.connections.iter().filter_map(Connection::send_ms).chain(self.shims_due_ms()).fold(until, u64::min);
        if let Some(since) = self.idle_since_ms {
            let patience_ms = if self.closed.is_some() { LAST_WORDS_MS } else { self.linger_ms };
            until = until.min(since.saturating_add(patience_ms));
        }
        until.saturating_sub(now)
    }

    pub(super) fn read_signals(&mut self) {
        while let Some(arrived) = sys::next_signal(&self.signals) {
            if self.service.is_some() {
                match arrived.signal {
                    libc::SIGTERM | libc::SIGINT => self.then = Some(Then::End),
                    libc::SIGHUP => self.then = Some(Then::Upgrade),
                    _ => {}
                }
            } else if arrived.signal == libc::SIGTERM {
                say!("asked to end: nothing is started any more");
                self.closed.get_or_insert("the spawner was asked to end");
            }
        }
        // Children that are no shims were left by shims that died: `sweep` has ended or will end them.
        while let Reaped::Child(dead) = sys::reap() {
            if let Some(key) = self.shims.remove(&dead.pid) {
                self.shim_gone(&key);
            } else if let Some(key) = self.wipers.remove(&dead.pid) {
                self.lost(&key);
            }
        }
    }

    pub(super) fn accept(&mut self) {
        while self.connections.len() < CONNECTIONS_MAX {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = match rustix::net::accept_with(&self.listener, flags) {
                Ok(socket) => socket,
                // Out of descriptors or memory: poll would wake us again at once.
                Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                    return std::thread::sleep(SHORTAGE_PAUSE);
                }
                Err(_) => return,
            };
            let mut connection = Connection::new(socket);
            let own = rustix::process::geteuid();
            match rustix::net::sockopt::socket_peercred(&connection.socket) {
                Ok(peer) if peer.uid == own || peer.uid.is_root() => {}
                Ok(peer) if self.service.as_ref().is_some_and(|policy| policy.lets_in(peer.uid.as_raw())) => {}
                Ok(peer) => connection.refuse(format!("user {} may not use this spawner", peer.uid.as_raw())),
                Err(error) => connection.refuse(format!("cannot tell who connects: {error}")),
            }
            self.connections.push(connection);
        }
        // Room for the next: whoever has not said who it is goes first.
        if self.connections.len() == CONNECTIONS_MAX
            && let Some(silent) = self.connections.iter_mut().find(|conn| conn.store.is_none())
        {
            silent.closing = true;
        }
    }

    pub(super) fn read_connection(&mut self, at: usize) {
        let mut buffer = [0; PACKET_BYTES_MAX];
        for _ in 0..PACKETS_A_TURN {
            if self.connections[at].closing {
                return;
            }
            match wire::receive(&self.connections[at].socket, &mut buffer) {
                Received::Nothing => return,
                Received::Closed => self.connections[at].closing = true,
                Received::Malformed(why) => self.connections[at].refuse(why),
                Received::Packet(bytes, fds) => self.handle_packet(at, &buffer[..bytes], fds),
            }
        }
    }

    /// Makes listings, sends everything, and lets go of connections that are over.
    pub(super) fn flush(&mut self) {
        for at in 0..self.connections.len() {
            self.connections[at].flush();
            while self.connections[at].wants_listing() {
                self.list_some(at);
                self.connections[at].flush();
            }
        }
        self.connections.retain(|conn| !conn.closing);
        if std::mem::take(&mut self.said_ended) {
            failpoint::hit(failpoint::SPAWNER_AFTER_ENDED);
        }
    }

    /// The next piece of an answer to `list`.
    fn list_some(&mut self, at: usize) {
        let Some(mut listing) = self.connections[at].listing.take() else { return };
        for _ in 0..64 {
            let Some(key) = listing.pop() else {
                self.connections[at].say(Reply::Listed);
                return;
            };
            // Forgotten meanwhile: not there.
            if let Some(seen) = self.seen(&key) {
                self.connections[at].say(Reply::Attempt { key, seen });
            }
        }
        self.connections[at].listing = Some(listing);
    }
}

/// What `poll` found.
#[derive(Default)]
pub(super) struct Woken {
    pub(super) daemon_gone: bool,
    pub(super) signals: bool,
    pub(super) listener: bool,
    pub(super) connections: Vec<usize>,
    pub(super) adopted: Vec<AttemptKey>,
}
