//! The daemon's figures for whoever scrapes: over the socket, and on a port of its own where the daemon runs by hand.
//!
//! Everything here works on snapshots, on threads that the loop does not know; it may be slow, and it may hang.

use super::engine::Control;
use super::handle::Handle;
use super::watching::Watching;
use crate::config::{Config, Listen};
use crate::exporter::{DaemonPart, Exporter, Settings, SocketEnded, metrics_socket, serve_socket};
use crate::http;
use crate::metrics::{Figures, Keeper, Scrape};
use crate::telemetry::Telemetry;
use ci_runner_hostmetrics::Format;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// A taken metrics port is tried again this often.
const RETRY: Duration = Duration::from_secs(10);

/// The figures as they are shown, and what keeps them.
pub(super) struct Shown {
    keeper: Keeper,
    handle: Handle,
    telemetry: Arc<Telemetry>,
    watching: Watching,
    state_dir: PathBuf,
    log_dir: PathBuf,
}

impl Shown {
    pub(super) fn new(
        config: &Config,
        keeper: Keeper,
        handle: Handle,
        telemetry: Arc<Telemetry>,
        watching: Watching,
    ) -> Self {
        let (state_dir, log_dir) = (config.state_dir.clone(), config.log_dir.clone());
        Self { keeper, handle, telemetry, watching, state_dir, log_dir }
    }

    /// Writes the counters down; gives the figures that may be shown now.
    pub(super) fn keep(&self) -> Arc<Figures> {
        self.keeper.keep(|| self.handle.snapshot().figures.clone())
    }

    /// What makes the text of a scrape. Blocks as long as the disk does.
    pub(super) fn render(self: Arc<Self>) -> DaemonPart {
        Arc::new(move |format: Format| {
            let figures = self.keep();
            let scrape = Scrape {
                now_ms: super::clock::wall().0,
                log_records_dropped: self.telemetry.dropped_records(),
                state_dir: Some(&self.state_dir),
                log_dir: Some(&self.log_dir),
            };
            let mut text = String::with_capacity(32 << 10);
            let mut families = figures.families(super::service::version(), &scrape);
            self.watching.families(&mut families);
            families.write(format, &mut text);
            Ok(text)
        })
    }
}

/// The socket for an exporter beside this daemon, on a thread of its own.
pub(super) struct Beside {
    stop: UnixStream,
    path: PathBuf,
}

impl Beside {
    /// Opens it. What is in the way is said, and costs the exporter the daemon's figures, nothing else.
    pub(super) fn start(api: &Path, daemon: DaemonPart) -> std::io::Result<Self> {
        let path = metrics_socket(api);
        let (stop, told) = UnixStream::pair()?;
        let at = path.clone();
        std::thread::Builder::new().name("metrics".to_owned()).spawn(move || keep_socket(&at, &daemon, &told))?;
        Ok(Self { stop, path })
    }

    /// Closes it.
    pub(super) fn stop(self) {
        drop(self.stop);
        // It may be gone already.
        std::fs::remove_file(&self.path).ok();
    }
}

/// Somebody may empty the runtime directory while the daemon lives.
fn keep_socket(path: &Path, daemon: &DaemonPart, told: &UnixStream) {
    let mut failing = false;
    loop {
        match http::listen_on(path) {
            Ok(listener) => {
                failing = false;
                if serve_socket(&listener, path, daemon, told) == SocketEnded::Stopped {
                    return;
                }
            }
            Err(error) if !std::mem::replace(&mut failing, true) => {
                log::warn!("an exporter cannot ask this daemon: {}", super::engine::chain(&error));
            }
            Err(_) => {}
        }
        if is_told(told) {
            return;
        }
    }
}

/// Whether the other end was closed; waits a moment for it.
fn is_told(told: &UnixStream) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let timeout = Timespec { tv_sec: RETRY.as_secs() as i64, tv_nsec: 0 };
    poll(&mut [PollFd::new(told, PollFlags::IN)], Some(&timeout)).is_ok_and(|ready| ready > 0)
}

/// Runs the exporter inside the daemon until `shutdown`; a taken port is said, tried again, and stops nothing else. `first` is
/// told how the first try went: where it listens.
pub(super) async fn run(
    config: Config,
    daemon: DaemonPart,
    control: mpsc::Sender<Control>,
    shutdown: CancellationToken,
    first: oneshot::Sender<Option<SocketAddr>>,
) {
    let mut first = Some(first);
    let mut tell = move |address| {
        if let Some(first) = first.take() {
            // Who starts may have stopped waiting.
            let _ = first.send(address);
        }
    };
    let has_file = config.exporter.textfile_directory.is_some();
    if config.exports_elsewhere() || (config.metrics == Listen::Off && !has_file) {
        return;
    }
    let mut told = false;
    let exporter = loop {
        let (settings, daemon) = (Settings::of(&config), daemon.clone());
        let started = tokio::task::spawn_blocking(move || Exporter::start(settings, daemon)).await;
        match started {
            Ok(Ok(exporter)) => break exporter,
            Ok(Err(error)) if !told => {
                told = true;
                tell(None);
                let text = format!("metrics are not served: {error:#}");
                log::warn!("{text}; tried again every {} s", RETRY.as_secs());
                control.send(Control::Problem("metrics", Some(text))).await.ok();
            }
            Ok(Err(_)) => {}
            Err(_) => return,
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(RETRY) => {}
        }
    };
    tell(exporter.address());
    if told {
        log::info!("metrics are served on {}", config.metrics);
        control.send(Control::Problem("metrics", None)).await.ok();
    }
    shutdown.cancelled().await;
    exporter.stop();
}
