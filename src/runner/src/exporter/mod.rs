//! The exporter: the host's figures and the daemon's, on one port, for Prometheus.
//!
//! As a service it is a process of its own (`ci-runner exporter`), because a hardened daemon would see a falsified host and a
//! dead mount would hang it; it asks the daemon over its socket, and goes on with the host's figures while that is down. Run
//! by hand, `ci-runner daemon` has it inside. Either way it has threads of its own and no async runtime:
//!
//! - one collects (`kitchen.rs`), one takes connections (`server.rs`), one for each open connection answers (`talk.rs`),
//!   one writes the text file where that is wanted (`textfile.rs`);
//! - scrapes that arrive while figures are collected share the next collection: however many ask, there is one at a time;
//! - everything is bounded: connections, scrapes at once, bytes and time of a request, time of an answer.
//!
//! It knows of the daemon only [`DaemonPart`], and locks nothing that the daemon's loop takes.

mod accept;
mod door;
mod kitchen;
mod rebind;
mod server;
mod socket;
pub mod sources;
mod talk;
mod textfile;

use crate::config::{Config, ExporterConfig, Listen};
use anyhow::{Context as _, Result};
use ci_runner_hostmetrics::{Format, HostMetrics};
use door::Door;
use kitchen::Kitchen;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;

pub use kitchen::{SCRAPE_TIME_MAX, SCRAPES_MAX};
pub use server::CONNECTIONS_MAX;
pub use socket::{Ended as SocketEnded, metrics_socket, serve as serve_socket};
pub use textfile::FILE_NAME;

/// Makes the text of the daemon's own figures, or says why there are none. May block for seconds.
pub type DaemonPart = Arc<dyn Fn(Format) -> Result<String, String> + Send + Sync>;

/// What an exporter serves, and how.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where.
    pub listen: Listen,
    /// What of the host, who may ask, and the rest.
    pub exporter: ExporterConfig,
    /// Further names of this host, which requests to the loopback may be for.
    pub hosts: Vec<String>,
}

impl Settings {
    /// Those of a configuration.
    pub fn of(config: &Config) -> Self {
        Self { listen: config.metrics, exporter: config.exporter.clone(), hosts: config.http_hosts.clone() }
    }
}

/// One that runs. Dropping it lets it run on; see [`Exporter::stop`].
pub struct Exporter {
    address: Option<SocketAddr>,
    stops: Vec<UnixStream>,
    threads: Vec<JoinHandle<()>>,
}

impl Exporter {
    /// Opens the port and starts the threads.
    ///
    /// # Errors
    /// A taken port, secrets that cannot be read, threads that cannot be started.
    pub fn start(settings: Settings, daemon: DaemonPart) -> Result<Self> {
        let mut running = Self { address: None, stops: Vec::new(), threads: Vec::new() };
        if let Listen::At(address) = settings.listen {
            let door = Door::open(&settings.exporter.protection, settings.hosts)?;
            let listener = TcpListener::bind(address).with_context(|| format!("address {address}"))?;
            listener.set_nonblocking(true)?;
            running.address = Some(listener.local_addr()?);
            let kitchen = Kitchen::start(host(&settings.exporter)?, daemon.clone())?;
            let (stop, told) = UnixStream::pair()?;
            running.spawn("exporter", stop, move || server::run(listener, door, kitchen, &told))?;
        }
        if let Some(dir) = settings.exporter.textfile_directory {
            let (stop, told) = UnixStream::pair()?;
            running.spawn("exporter-file", stop, move || textfile::run(&dir, &daemon, &told))?;
        }
        Ok(running)
    }

    fn spawn(&mut self, name: &str, stop: UnixStream, run: impl FnOnce() + Send + 'static) -> Result<()> {
        self.threads.push(std::thread::Builder::new().name(name.to_owned()).spawn(run)?);
        self.stops.push(stop);
        Ok(())
    }

    /// Where it listens, if it does.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Takes no more connections. Answers under way are finished by their threads, a collection that hangs stays behind.
    pub fn stop(self) {
        drop(self.stops);
        for thread in self.threads {
            // One that panicked has said so.
            drop(thread.join());
        }
    }
}

/// The format that an `Accept` header asks for.
pub fn format_of(accept: &str) -> Format {
    accept::form(accept, "").format
}

/// One scrape as text.
///
/// # Errors
/// Options that cannot be.
pub fn once(settings: &Settings, daemon: DaemonPart) -> Result<String> {
    Ok(kitchen::once(host(&settings.exporter)?, daemon))
}

fn host(config: &ExporterConfig) -> Result<Option<HostMetrics>> {
    let made = config.host.then(|| HostMetrics::new(config.options.clone()));
    Ok(made.transpose()?)
}
