//! Sockets that the service manager opened for us (socket activation, `sd_listen_fds(3)`): while the daemon restarts, clients
//! wait in the socket's queue instead of being refused.
//!
//! A passed socket is taken only if it is where the configuration says that the daemon listens; anything else is an error
//! that names both, because a client would look in the other place.

use listenfd::ListenFd;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;

/// What was passed at the start of this process: at most one socket of each kind.
#[derive(Debug, Default)]
pub struct Passed {
    /// For the API.
    pub unix: Option<UnixListener>,
    /// For the health routes.
    pub tcp: Option<TcpListener>,
}

/// A passed descriptor that we have no use for.
#[derive(Debug, thiserror::Error)]
pub enum ActivationError {
    /// Neither a unix nor a TCP stream socket, or one too many.
    #[error(
        "the service manager passed descriptor {number} (of {count}), which is no further unix or TCP stream socket; \
         a socket unit of the daemon has one ListenStream= path and at most one ListenStream= port"
    )]
    Unknown {
        /// From 1.
        number: usize,
        /// How many were passed.
        count: usize,
    },
    /// It cannot be used.
    #[error("a socket that the service manager passed cannot be used")]
    Io(#[from] std::io::Error),
}

impl Passed {
    /// Takes what was passed to this process, and the variables that say so. To be called before other threads run.
    ///
    /// # Errors
    /// Something was passed that is no socket for us.
    pub fn of_process() -> Result<Self, ActivationError> {
        // Without a process id the variables may have been inherited, and the descriptors be anybody's.
        if std::env::var("LISTEN_PID").is_ok_and(|pid| pid.parse() == Ok(std::process::id())) {
            Self::take(&mut ListenFd::from_env())
        } else {
            Ok(Self::default())
        }
    }

    fn take(fds: &mut ListenFd) -> Result<Self, ActivationError> {
        let mut passed = Self::default();
        for index in 0..fds.len() {
            let unknown = ActivationError::Unknown { number: index + 1, count: fds.len() };
            if let Ok(Some(socket)) = fds.take_unix_listener(index) {
                socket.set_nonblocking(true)?;
                if passed.unix.replace(socket).is_some() {
                    return Err(unknown);
                }
            } else if let Ok(Some(socket)) = fds.take_tcp_listener(index) {
                socket.set_nonblocking(true)?;
                if passed.tcp.replace(socket).is_some() {
                    return Err(unknown);
                }
            } else {
                return Err(unknown);
            }
        }
        Ok(passed)
    }
}
