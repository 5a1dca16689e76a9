//! Taking connections, so many and no more; each has a thread that ends with it.

use super::door::Door;
use super::kitchen::Kitchen;
use super::talk;
use rustix::event::{PollFd, PollFlags};
use std::io::{self, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Connections at once: all scrapes there may be, and some that keep their connection for the next one.
pub const CONNECTIONS_MAX: usize = 64;
/// A thread that answers needs little: its answer is shared.
const STACK_BYTES: usize = 256 * 1024;
/// After a failure to accept (no descriptors left), so that it is no busy loop.
const PAUSE: Duration = Duration::from_millis(100);

/// One connection's place.
pub(super) struct Seat(Arc<AtomicUsize>);

impl Seat {
    fn take(taken: &Arc<AtomicUsize>) -> Option<Self> {
        let before = taken.fetch_add(1, Ordering::Relaxed);
        let seat = Self(taken.clone());
        (before < CONNECTIONS_MAX).then_some(seat)
    }

    /// Whether a connection may wait for a next request: not when every second place is taken.
    pub(super) fn may_stay(&self) -> bool {
        self.0.load(Ordering::Relaxed) <= CONNECTIONS_MAX / 2
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Serves until `stop` closes.
pub(super) fn run(listener: TcpListener, door: Door, kitchen: Arc<Kitchen>, stop: &UnixStream) {
    let door = Arc::new(door);
    let taken = Arc::new(AtomicUsize::new(0));
    loop {
        let mut waiting = [PollFd::new(&listener, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        match rustix::event::poll(&mut waiting, None) {
            Ok(_) if !waiting[1].revents().is_empty() => return,
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                log::error!("metrics are not served any more: {error}");
                return;
            }
        }
        match listener.accept() {
            Ok((stream, _)) => serve(stream, &door, &kitchen, &taken),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => {
                log::warn!("a connection to the metrics could not be taken: {error}");
                std::thread::sleep(PAUSE);
            }
        }
    }
}

fn serve(stream: TcpStream, door: &Arc<Door>, kitchen: &Arc<Kitchen>, taken: &Arc<AtomicUsize>) {
    // Of the listener's it may have inherited that it does not wait.
    if stream.set_nonblocking(false).is_err() || stream.set_nodelay(true).is_err() {
        return;
    }
    let Some(seat) = Seat::take(taken) else {
        refuse(&stream, door);
        return;
    };
    let (door, kitchen) = (door.clone(), kitchen.clone());
    let thread = std::thread::Builder::new().name("exporter-answer".to_owned()).stack_size(STACK_BYTES);
    if let Err(error) = thread.spawn(move || talk::talk(stream, &door, &kitchen, &seat)) {
        log::warn!("a scrape could not be answered: {error}");
    }
}

/// A new connection's buffer takes this whole; who speaks TLS is just closed.
fn refuse(mut stream: &TcpStream, door: &Door) {
    if door.tls.is_none() && stream.set_nonblocking(true).is_ok() {
        // Nobody may be reading.
        let _ = stream.write(talk::BUSY.as_bytes());
    }
}
