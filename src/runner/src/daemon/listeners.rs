//! The sockets of the API: passed by the service manager, or opened here.

use crate::activation::Passed;
use crate::config::{Config, Listen};
use crate::http;
use anyhow::Result;
use std::path::Path;
use tokio::net::{TcpListener, UnixListener};

/// A socket or port that somebody else has.
#[derive(Debug, thiserror::Error)]
#[error("{what} is in use; stop its owner or choose another with {option}")]
pub(super) struct Taken {
    what: String,
    option: &'static str,
}

/// Where the daemon listens.
pub(super) struct Listeners {
    /// The API.
    pub(super) unix: UnixListener,
    /// The health routes.
    pub(super) tcp: Option<TcpListener>,
}

impl Listeners {
    /// Takes what the service manager opened, and opens the rest.
    pub(super) async fn open(config: &Config, passed: Passed) -> Result<Self> {
        let unix = match passed.unix {
            Some(socket) => {
                let address = socket.local_addr()?;
                let path = address.as_pathname().unwrap_or(Path::new("(no path)"));
                same_place(path.display(), config.socket.display(), path == config.socket, "--socket")?;
                UnixListener::from_std(socket)?
            }
            None => http::bind_unix(&config.socket).map_err(|error| match error {
                http::BindError::InUse { .. } => {
                    anyhow::Error::new(Taken { what: config.socket.display().to_string(), option: "--socket" })
                }
                other => anyhow::Error::new(other),
            })?,
        };
        let tcp = match (passed.tcp, config.http) {
            (Some(socket), Listen::At(address)) => {
                let passed = socket.local_addr()?;
                same_place(passed, address, passed == address, "--http")?;
                Some(TcpListener::from_std(socket)?)
            }
            (Some(socket), Listen::Off) => {
                same_place(socket.local_addr()?, "off", false, "--http")?;
                None
            }
            (None, Listen::Off) => None,
            (None, Listen::At(address)) => {
                Some(TcpListener::bind(address).await.map_err(|error| taken(error, address, "--http"))?)
            }
        };
        Ok(Self { unix, tcp })
    }
}

/// A socket unit that listens elsewhere than the configuration says would leave clients in front of a closed door.
fn same_place(
    passed: impl std::fmt::Display,
    configured: impl std::fmt::Display,
    is_same: bool,
    option: &str,
) -> Result<()> {
    anyhow::ensure!(
        is_same,
        "the service manager passed a socket at {passed}, but {option} says {configured}: change ListenStream= of the \
         socket unit, or {option}"
    );
    Ok(())
}

fn taken(error: std::io::Error, address: std::net::SocketAddr, option: &'static str) -> anyhow::Error {
    if error.kind() == std::io::ErrorKind::AddrInUse {
        anyhow::Error::new(Taken { what: format!("address {address}"), option })
    } else {
        anyhow::Error::new(error).context(format!("cannot listen on {address} ({option})"))
    }
}
