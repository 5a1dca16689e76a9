//! Signals: the daemon ends, or reads its configuration again.

use super::engine::Control;
use super::service::Origin;
use super::settings::{host_settings, settings, watch_settings};
use super::watching::Watching;
use crate::config::Config;
use crate::telemetry::Telemetry;
use anyhow::Result;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

/// What the process is told by signals.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// From now on they do what [`watch_signals`] says.
    pub(super) fn new() -> std::io::Result<Self> {
        let [terminate, interrupt, hangup] =
            [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(signal);
        Ok(Self { terminate: terminate?, interrupt: interrupt?, hangup: hangup? })
    }
}

/// SIGTERM and SIGINT end, a second one ends at once, SIGHUP reads the configuration again.
pub(super) async fn watch_signals(
    signals: Signals,
    origin: &Origin,
    reloaded: (&Config, &Telemetry, &Watching),
    control: &mpsc::Sender<Control>,
    mut engine: tokio::sync::oneshot::Receiver<()>,
) -> Result<()> {
    let Signals { mut terminate, mut interrupt, mut hangup } = signals;
    let mut stopping = false;
    loop {
        tokio::select! {
            _ = &mut engine => return if stopping { Ok(()) } else { Err(anyhow::anyhow!("the loop ended by itself")) },
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hangup.recv() => {
                reload(origin, reloaded, control).await;
                continue;
            }
        }
        if stopping {
            log::warn!("told to stop a second time: ending at once; nothing acknowledged is lost");
            return Ok(());
        }
        stopping = true;
        control.send(Control::Stop).await.ok();
    }
}

async fn reload(
    origin: &Origin,
    (old, telemetry, watching): (&Config, &Telemetry, &Watching),
    control: &mpsc::Sender<Control>,
) {
    let read = || -> Result<_> {
        let config = origin.load()?;
        let settings = settings(&config)?;
        Ok((config, settings))
    };
    let message = match read() {
        Ok((config, settings)) => {
            let restart = old.needs_restart(&config);
            if !restart.is_empty() {
                log::warn!("these changes need a restart of the daemon: {}", restart.join(", "));
            }
            telemetry.set_level(config.log_level);
            telemetry.set_format(config.log_format);
            watching.reload(watch_settings(&config));
            Control::Reload(Box::new((settings, host_settings(&config))))
        }
        Err(error) => Control::ReloadFailed(format!("{error:#}")),
    };
    control.send(message).await.ok();
}
