//! `exporter`: the metrics process. It asks the daemon over its socket, like any other verb.

use super::client::Client;
use super::context::{Context, print};
use super::fail::{EXIT_DONE, Ended, Failure};
use crate::config::{Config, ConfigOverrides, ExporterOverrides, Host, Listen};
use crate::exporter::{DaemonPart, Exporter, Settings, metrics_socket, once};
use crate::telemetry::Telemetry;
use clap::Args;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// A daemon that does not answer within this counts as down for this scrape.
const DAEMON_PATIENCE: Duration = Duration::from_secs(3);

/// Arguments of `exporter`. The socket is the common option.
#[derive(Args, Debug)]
pub struct ExporterArgs {
    /// TOML file with a table [metrics]; options win over it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where to serve /metrics [default: 127.0.0.1:9100]
    #[arg(long, value_name = "ADDR:PORT|off")]
    listen: Option<String>,
    /// Where procfs is mounted [default: /proc]
    #[arg(long, value_name = "DIR")]
    procfs: Option<PathBuf>,
    /// Where sysfs is mounted [default: /sys]
    #[arg(long, value_name = "DIR")]
    sysfs: Option<PathBuf>,
    /// Where the host's root is mounted [default: /]
    #[arg(long, value_name = "DIR")]
    rootfs: Option<PathBuf>,
    /// udev's database of devices [default: /run/udev/data]
    #[arg(long, value_name = "DIR")]
    udev_data: Option<PathBuf>,
    /// Only these collectors
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    collectors: Option<Vec<String>>,
    /// Write the daemon's figures to ci_runner.prom there, for an exporter that runs already
    #[arg(long, value_name = "DIR")]
    textfile_directory: Option<PathBuf>,
    /// Print one scrape to standard output and end
    #[arg(long)]
    once: bool,
}

/// Serves until a signal ends it, or prints one scrape.
pub fn exporter(context: &Context<'_>, args: ExporterArgs) -> Ended {
    let once_only = args.once;
    let socket = context.socket().map(PathBuf::from);
    let config = config(args)?;
    let named = socket.or_else(|| has_own_socket(&config).then(|| config.socket.clone()));
    let client = Client::new(named.as_deref()).beside(metrics_socket).patience(DAEMON_PATIENCE);
    let daemon: DaemonPart = Arc::new(move |format| {
        let accept = [format!("Accept: {}", format.content_type())];
        client.text("/metrics", &accept).map_err(|error| error.to_string())
    });
    let settings = Settings::of(&config);
    let failure = |error: anyhow::Error| Failure::Error(format!("{error:#}"));
    if once_only {
        let text = once(&settings, daemon).map_err(failure)?;
        return print(&text);
    }
    if settings.listen == Listen::Off && settings.exporter.textfile_directory.is_none() {
        let text = "there is nothing to do: give --listen ADDR:PORT or --textfile-directory DIR, or --once";
        return Err(Failure::Usage(text.to_owned()));
    }
    serve(&config, settings, daemon)
}

fn serve(config: &Config, settings: Settings, daemon: DaemonPart) -> Ended {
    let failure = |error: anyhow::Error| Failure::Error(format!("{error:#}"));
    let telemetry = Telemetry::init(config.log_level).map_err(|error| failure(error.into()))?;
    telemetry.set_format(config.log_format);
    let exporter = Exporter::start(settings, daemon).map_err(|error| match error.root_cause().downcast_ref() {
        Some(cause) if std::io::Error::kind(cause) == std::io::ErrorKind::AddrInUse => {
            Failure::Temporary(format!("{error:#}; stop its owner or choose another with --listen"))
        }
        _ => failure(error),
    })?;
    let place = exporter.address().map_or_else(String::new, |address| format!(" on {address}"));
    let line = format!("ci-runner exporter {} is ready{place}\n", env!("CARGO_PKG_VERSION"));
    if !crate::telemetry::stdout_is_journal() {
        // Nobody may be reading; the log says the same.
        std::io::stdout().lock().write_all(line.as_bytes()).ok();
    }
    log::info!("{}", line.trim_end());
    let notify = crate::systemd::Notifier::new(&crate::systemd::NotifySettings::of_process());
    let mut notify = notify.map_err(|error| failure(error.into()))?;
    notify.ready();
    wait_for_the_end().map_err(|error| failure(error.into()))?;
    notify.stopping();
    exporter.stop();
    telemetry.flush(Duration::from_secs(1));
    Ok(EXIT_DONE)
}

/// SIGTERM or SIGINT.
fn wait_for_the_end() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let (mut end, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        tokio::select! {
            _ = end.recv() => {}
            _ = interrupt.recv() => {}
        }
        Ok(())
    })
}

fn has_own_socket(config: &Config) -> bool {
    config.source("socket") != crate::config::Source::Default
}

/// The file is the daemon's: what it says of the daemon's own places need not be known here.
fn config(args: ExporterArgs) -> Result<Config, Failure> {
    let mut host = Host::of_process();
    host.environment.entry("STATE_DIRECTORY".to_owned()).or_insert_with(|| "/var/lib/ci-runner".to_owned());
    let exporter = ExporterOverrides {
        procfs: args.procfs,
        sysfs: args.sysfs,
        rootfs: args.rootfs,
        udev_data: args.udev_data,
        collectors: args.collectors,
        textfile_directory: args.textfile_directory,
    };
    let overrides = ConfigOverrides { metrics: args.listen, exporter, ..ConfigOverrides::default() };
    Config::load_for(&host, args.config.as_deref(), &overrides).map_err(|error| {
        // The option has another name here than where the daemon has it.
        Failure::Usage(error.to_string().replace("--metrics", "--listen"))
    })
}
