//! One connection of a daemon: its packets in, its replies out, bounded both ways.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use rustix::event::PollFlags;
use rustix::io::Errno;

use crate::dirs::Dirs;
use crate::protocol::{AttemptKey, Reply};
use crate::{sys, wire};

/// A daemon that leaves this much unread is dropped; it finds everything again by `list`.
const UNSENT_BYTES_MAX: usize = 8 * 1024 * 1024;
/// The answer to `list` is made piece by piece, while less than this waits to be sent.
const LISTING_BYTES_AHEAD: usize = 256 * 1024;

/// `started` is news for nobody in a hurry: it waits so long for company, which halves the packets of short jobs.
const PATIENCE_MS: u64 = 3;

/// A connection.
pub(crate) struct Connection {
    pub(crate) socket: OwnedFd,
    /// Whose it is, after `hello`.
    pub(crate) store: Option<String>,
    /// Where its attempts' logs and slots are, if it said so.
    pub(crate) dirs: Option<Dirs>,
    /// Attempts that `list` has still to tell, last first.
    pub(crate) listing: Option<Vec<AttemptKey>>,
    /// To be closed at the end of this turn; nothing more is read.
    pub(crate) closing: bool,
    replies: Vec<Reply>,
    /// When the replies must go, CLOCK_BOOTTIME; None when there are none.
    send_ms: Option<u64>,
    unsent: VecDeque<Vec<u8>>,
    unsent_bytes: usize,
}

impl Connection {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            store: None,
            dirs: None,
            listing: None,
            closing: false,
            replies: Vec::new(),
            send_ms: None,
            unsent: VecDeque::new(),
            unsent_bytes: 0,
        }
    }

    /// What to wait for.
    pub(crate) fn interest(&self) -> PollFlags {
        if self.unsent.is_empty() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT }
    }

    /// Says something at the end of this turn.
    pub(crate) fn say(&mut self, reply: Reply) {
        self.replies.push(reply);
        self.send_ms = Some(0);
    }

    /// Says something soon.
    pub(crate) fn say_soon(&mut self, reply: Reply) {
        self.replies.push(reply);
        self.send_ms.get_or_insert_with(|| sys::boottime_ms() + PATIENCE_MS);
    }

    /// When replies must go at the latest.
    pub(crate) fn send_ms(&self) -> Option<u64> {
        self.send_ms
    }

    /// Says that it is over, and why.
    pub(crate) fn refuse(&mut self, why: impl Into<String>) {
        let why = crate::record::shortened(&why.into());
        say!("connection refused: {why}");
        self.say(Reply::Refused { why });
        self.closing = true;
    }

    /// True when the next piece of a listing should be made.
    pub(crate) fn wants_listing(&self) -> bool {
        self.listing.is_some() && self.unsent_bytes < LISTING_BYTES_AHEAD && !self.closing
    }

    /// Packs what was said and sends what the peer takes.
    pub(crate) fn flush(&mut self) {
        if self.send_ms.is_some_and(|at| at == 0 || at <= sys::boottime_ms()) {
            self.send_ms = None;
            match wire::pack(&self.replies) {
                Ok(packets) => {
                    self.unsent_bytes += packets.iter().map(Vec::len).sum::<usize>();
                    self.unsent.extend(packets);
                }
                Err(error) => {
                    say!("a reply cannot be sent: {error}");
                    self.closing = true;
                }
            }
            self.replies.clear();
        }
        while let Some(packet) = self.unsent.front() {
            match wire::send(&self.socket, packet, &[]) {
                Ok(()) => {
                    self.unsent_bytes -= packet.len();
                    self.unsent.pop_front();
                }
                Err(Errno::AGAIN) => break,
                Err(_) => {
                    self.closing = true;
                    break;
                }
            }
        }
        if self.unsent_bytes > UNSENT_BYTES_MAX {
            say!("a daemon does not read: connection dropped");
            self.closing = true;
        }
    }
}
