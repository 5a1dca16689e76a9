//! Where clients come in: the unix socket, which may be made anew while it is served.

use std::io;
use std::sync::Arc;
use tokio::net::unix::SocketAddr;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

/// The listener that counts now. Whoever took connections of the one before goes on with them.
#[derive(Debug)]
pub struct Door(watch::Receiver<Arc<UnixListener>>);

impl Door {
    /// A door, and the way to put another listener into it.
    pub fn new(listener: UnixListener) -> (watch::Sender<Arc<UnixListener>>, Self) {
        let (change, current) = watch::channel(Arc::new(listener));
        (change, Self(current))
    }

    /// The address of the listener that counts now.
    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.borrow().local_addr()
    }

    /// The next connection. Those that wait at an old listener are taken first.
    pub(super) async fn accept(&self) -> io::Result<(UnixStream, SocketAddr)> {
        let mut current = self.0.clone();
        loop {
            let listener = current.borrow_and_update().clone();
            tokio::select! {
                biased;
                taken = listener.accept() => return taken,
                changed = current.changed() => {
                    if changed.is_err() {
                        return listener.accept().await;
                    }
                }
            }
        }
    }
}

impl From<UnixListener> for Door {
    fn from(listener: UnixListener) -> Self {
        Self::new(listener).1
    }
}
