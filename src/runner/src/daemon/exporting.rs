//! The daemon's figures for whoever scrapes: over the socket, and on a port of its own where the daemon runs by hand.
//!
//! Everything here works on snapshots, on threads that the loop does not know; it may be slow, and it may hang.

use super::engine::Control;
use super::handle::Handle;
use crate::config::{Config, Listen};
use crate::exporter::{DaemonPart, Exporter, Settings};
use crate::metrics::{Figures, Keeper, Scrape};
use crate::telemetry::Telemetry;
use ci_runner_hostmetrics::Format;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// A taken metrics port is tried again this often.
const RETRY: Duration = Duration::from_secs(10);

/// The figures as they are shown, and what keeps them.
pub(super) struct Shown {
    keeper: Keeper,
    handle: Handle,
    telemetry: Arc<Telemetry>,
    state_dir: PathBuf,
    log_dir: PathBuf,
}

impl Shown {
    pub(super) fn new(config: &Config, keeper: Keeper, handle: Handle, telemetry: Arc<Telemetry>) -> Self {
        let (state_dir, log_dir) = (config.state_dir.clone(), config.log_dir.clone());
        Self { keeper, handle, telemetry, state_dir, log_dir }
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
            figures.families(super::service::version(), &scrape).write(format, &mut text);
            Ok(text)
        })
    }
}

/// Runs the exporter inside the daemon until `shutdown`; a taken port is said, tried again, and stops nothing else.
pub(super) async fn run(
    config: Config,
    daemon: DaemonPart,
    control: mpsc::Sender<Control>,
    shutdown: CancellationToken,
) {
    if config.metrics == Listen::Off && config.exporter.textfile_directory.is_none() {
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
    if told {
        log::info!("metrics are served on {}", config.metrics);
        control.send(Control::Problem("metrics", None)).await.ok();
    }
    shutdown.cancelled().await;
    exporter.stop();
}
