//! `ci-runner daemon`: opens everything, starts the loop, serves, and ends in order.
//!
//! Two threads run: this one serves HTTP and watches signals, the other is the loop, so that no client can hold it up. The
//! store's writer, the log and blocking chores have threads of their own.

use super::engine::{self, Control, Engine, HostSettings, Parts};
use super::exporting::{self, Shown};
use super::ground::Ground;
use super::handle::Handle;
use super::home::{self, Home};
use super::listeners::{Listeners, Taken};
use super::runtime_dir;
use super::settings::{host_settings, settings, watch_settings};
use super::signals::{Signals, watch_signals};
use super::watching::{WatchParts, Watching};
use crate::activation::Passed;
use crate::config::{Config, ConfigOverrides, Executor};
use crate::http;
use crate::metrics::{Figures, Keeper};
use crate::store::{Reader, StoreError};
use crate::systemd::{Notifier, NotifySettings};
use crate::telemetry::output::{CURSORS_NAME, JOURNAL_SOCKET, Options as OutputOptions, Output};
use crate::telemetry::{Destination, Format, Telemetry};
use crate::usage;
use anyhow::{Context, Result};
use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// What the log still holds at the end is waited for so long.
const LOG_FLUSH: Duration = Duration::from_secs(2);
/// The port of the metrics is waited for so long before the line that says it is open.
const METRICS_PATIENCE: Duration = Duration::from_millis(500);
/// At the end lines of jobs that are in their logs go into the journal, for so long.
const OUTPUT_PATIENCE: Duration = Duration::from_millis(500);
/// Exit code: somebody else holds what we need; try again later.
const TEMPORARY: u8 = 2;

/// Where the configuration comes from, for the start and for reloads.
#[derive(Debug)]
pub struct Origin {
    /// `--config`.
    pub file: Option<PathBuf>,
    /// The command line.
    pub overrides: ConfigOverrides,
}

impl Origin {
    /// Reads it.
    pub(super) fn load(&self) -> Result<Config> {
        Ok(Config::load(self.file.as_deref(), &self.overrides)?)
    }
}

/// Runs the daemon until it is told to stop.
pub fn run(origin: Origin) -> ExitCode {
    // Before there is a thread: it changes the environment.
    let passed = Passed::of_process();
    let telemetry = match Telemetry::init(log::LevelFilter::Info) {
        Ok(telemetry) => Arc::new(telemetry),
        Err(error) => {
            eprintln!("ci-runner: the log cannot be opened: {error}");
            return ExitCode::FAILURE;
        }
    };
    let done = passed.map_err(anyhow::Error::new).and_then(|passed| serve(&origin, &telemetry, passed));
    let code = match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A record is one line, and a configuration may have several problems.
            for line in format!("{error:#}").lines() {
                log::error!("{line}");
            }
            exit_code(&error)
        }
    };
    telemetry.flush(LOG_FLUSH);
    code
}

/// 2 where waiting or another address helps, 3 for a configuration that cannot be, else 1.
fn exit_code(error: &anyhow::Error) -> ExitCode {
    let held = matches!(error.downcast_ref(), Some(StoreError::Held { .. } | StoreError::Full));
    if held || error.is::<Taken>() || error.is::<runtime_dir::OutOfReach>() {
        ExitCode::from(TEMPORARY)
    } else if error.is::<crate::config::ConfigError>() {
        ExitCode::from(3)
    } else {
        ExitCode::FAILURE
    }
}

fn serve(origin: &Origin, telemetry: &Arc<Telemetry>, passed: Passed) -> Result<()> {
    let config = origin.load()?;
    telemetry.set_level(config.log_level);
    telemetry.set_format(config.log_format);
    // Secrets of jobs pass through this memory: it is not written to a core file, and no other process of its user reads it.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .context("cannot forbid core files of this process")?;
    if let Some(warning) = crate::fail::warning() {
        log::warn!("{warning}");
    }
    let settings = settings(&config)?;
    let host = host_settings(&config);
    let ground = Ground::prepare(&config, &host, settings)?;
    let (open, generation) = (ground.record.len(), ground.loaded.generation);
    log::info!("ci-runner {} starts: {open} open jobs, start {generation}", version());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(8).build()?;
    runtime.block_on(serve_on(ground, host, &Given { origin, config, telemetry }, passed))
}

/// What the daemon was started with.
struct Given<'a> {
    origin: &'a Origin,
    config: Config,
    telemetry: &'a Arc<Telemetry>,
}

/// Starts the loop and serves until the end.
async fn serve_on(ground: Ground, host: HostSettings, given: &Given<'_>, passed: Passed) -> Result<()> {
    let Given { origin, config, telemetry } = given;
    let socket_is_passed = passed.unix.is_some();
    let listeners = Listeners::open(config, passed).await?;
    // Before anybody is told that we are there: who then says SIGTERM means an orderly end.
    let signals = Signals::new()?;
    let to_check = ground.loaded.unclean.then(|| ground.reader.clone());
    let problem = ground.spawners.runtime_dir.problem.clone();
    let running = Running::start(ground, host, given).await?;
    let control = &running.control;
    let shutdown = CancellationToken::new();
    let mut tasks = tokio::task::JoinSet::new();
    let beside = exporting::Beside::start(&config.socket, running.shown.clone().render())?;
    let (tell, metrics) = oneshot::channel();
    let figures = running.shown.clone().render();
    tasks.spawn(exporting::run(config.clone(), figures, control.clone(), shutdown.clone(), tell));
    if let Some(reader) = to_check {
        check_store(reader, control.clone());
    }
    if let Some(problem) = problem {
        control.send(Control::Problem(runtime_dir::PROBLEM, Some(problem))).await.ok();
    }
    control.send(Control::Ready).await.ok();
    // A collector may hang, and that is no reason not to be ready.
    let metrics = tokio::time::timeout(METRICS_PATIENCE, metrics).await.ok().and_then(Result::ok).flatten();
    announce_ready(config, listeners.tcp.as_ref(), metrics, telemetry.destination());
    let (change, door) = http::Door::new(listeners.unix);
    let home = Home::new(config, socket_is_passed, change, control.clone());
    let home = tokio::spawn(home.keep(shutdown.clone()));
    let server = http::serve(running.context(given), door, listeners.tcp, shutdown.clone());
    tasks.spawn(async move {
        if let Err(error) = server.await {
            log::error!("the API stopped: {error:#}");
        }
    });
    let Running { control, ended, watching, shown, output, .. } = running;
    watch_signals(signals, origin, (config, telemetry, &watching), &control, ended).await?;
    watching.stop();
    shutdown.cancel();
    beside.stop();
    tokio::task::spawn_blocking(move || (shown.keep(), output.stop(OUTPUT_PATIENCE))).await.ok();
    tokio::time::timeout(Duration::from_secs(5), async { while tasks.join_next().await.is_some() {} }).await.ok();
    home::remove(&config.socket, home.await?);
    Ok(())
}

/// The loop, and what works beside it.
struct Running {
    handle: Handle,
    control: mpsc::Sender<Control>,
    /// Ends with the loop.
    ended: oneshot::Receiver<()>,
    watching: Watching,
    shown: Arc<Shown>,
    output: Output,
    log_dir: PathBuf,
    generation: u64,
    places: usage::Places,
}

impl Running {
    async fn start(ground: Ground, host: HostSettings, given: &Given<'_>) -> Result<Self> {
        let Given { config, telemetry, .. } = given;
        let Ground { store, reader, record, loaded, clock, spawners } = ground;
        let store_id = loaded.store_id.clone();
        let totals = reader.totals()?;
        let figures = Figures::resume(&config.state_dir, &store_id, &totals, engine::NO_POOL, Executor::Native.name());
        let output = Output::start(OutputOptions {
            log_dir: host.log_dir.clone(),
            cursors: config.state_dir.join(CURSORS_NAME),
            store: store_id.clone(),
            socket: JOURNAL_SOCKET.into(),
            dropped: telemetry.output_dropped(),
        })?;
        let notifier = Notifier::new(&NotifySettings::of_process()).context("cannot reach the service manager")?;
        let (generation, log_dir, host_name) = (loaded.generation, host.log_dir.clone(), host.name.clone());
        let parts = Parts {
            store: Box::new(store),
            reader,
            loaded,
            record,
            clock: clock.clone(),
            sides: spawners.sides,
            former: spawners.former,
            host,
            notifier,
            commit_patience: engine::COMMIT_PATIENCE,
            figures,
            output: Some(output.clone()),
        };
        let (handle, control, ended) = start_engine(parts).await?;
        let watching = Watching::start(WatchParts {
            handle: handle.clone(),
            clock,
            state_dir: config.state_dir.clone(),
            store_id: store_id.clone(),
            host: host_name,
            settings: watch_settings(config),
        });
        let keeper = Keeper::new(&config.state_dir, &store_id);
        let shown = Arc::new(Shown::new(config, keeper, handle.clone(), (*telemetry).clone(), watching.clone()));
        let places = usage::Places { proc: "/proc".into(), store: store_id, runtime_dir: spawners.runtime_dir.dir };
        Ok(Self { handle, control, ended, watching, shown, output, log_dir, generation, places })
    }

    /// What the API needs of all this.
    fn context(&self, given: &Given<'_>) -> http::Context {
        let config = &given.config;
        http::Context {
            metrics: self.shown.clone().render(),
            handle: self.handle.clone(),
            control: self.control.clone(),
            log_dir: self.log_dir.clone(),
            state_dir: config.state_dir.clone(),
            config_file: given.origin.file.clone(),
            public_status: config.http_public_status,
            hosts: config.http_hosts.clone(),
            started: std::time::Instant::now(),
            generation: self.generation,
            places: self.places.clone(),
            watching: self.watching.clone(),
        }
    }
}

/// Program version.
pub fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

/// The spawner's program: beside this one.
pub fn spawner_program() -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find out where this program is")?;
    let program = own.with_file_name("ci-runner-spawner");
    anyhow::ensure!(program.exists(), "{} is missing: install both programs side by side", program.display());
    Ok(program)
}

/// Starts the loop on a thread of its own; the receiver ends with it.
async fn start_engine(parts: Parts) -> Result<(Handle, mpsc::Sender<Control>, oneshot::Receiver<()>)> {
    let (ready, started) = oneshot::channel();
    let (ended, end) = oneshot::channel();
    let body = move || -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(4).build()?;
        runtime.block_on(async {
            let (engine, handle, control) = Engine::new(parts)?;
            drop(ready.send((handle, control)));
            engine.run().await;
            Ok::<_, anyhow::Error>(())
        })?;
        // A connect to a spawner that does not answer must not hold up the end.
        runtime.shutdown_background();
        Ok(())
    };
    std::thread::Builder::new().name("engine".to_owned()).spawn(move || {
        if let Err(error) = body() {
            log::error!("the loop ended: {error:#}");
        }
        ended.send(()).ok();
    })?;
    let (handle, control) = started.await.context("the loop did not start")?;
    Ok((handle, control, end))
}

/// After an unclean stop the database is looked at while everything goes on.
fn check_store(reader: Arc<dyn Reader>, control: mpsc::Sender<Control>) {
    tokio::task::spawn_blocking(move || match reader.check() {
        Ok(damage) if damage.is_empty() => {
            log::info!("the last stop was unclean; the database was checked and is sound")
        }
        Ok(damage) => {
            let text = format!("the database is damaged: {}; restore a backup", damage.join("; "));
            log::error!("{text}");
            drop(control.blocking_send(Control::Problem("database", Some(text))));
        }
        Err(error) => log::warn!("the database could not be checked: {error}"),
    });
}

/// The one line on standard output, and in the log. It names what is open.
fn announce_ready(config: &Config, tcp: Option<&TcpListener>, metrics: Option<SocketAddr>, log: Destination) {
    let tcp =
        tcp.and_then(|tcp| tcp.local_addr().ok()).map_or_else(String::new, |address| format!(", http://{address}"));
    let metrics = metrics.map_or_else(String::new, |address| format!(", metrics on {address}"));
    let line = format!("ci-runner {} is ready: {}{tcp}{metrics}\n", version(), config.socket.display());
    if !crate::telemetry::stdout_is_journal() {
        // Nobody may be reading; the log says the same.
        std::io::stdout().lock().write_all(line.as_bytes()).ok();
    }
    // On one terminal, or in one file, it would stand there twice.
    let once = match log {
        Destination::Journal => false,
        Destination::TerminalStderr => std::io::stdout().is_terminal(),
        Destination::PrefixedStderr => config.log_format == Format::Text && crate::telemetry::stdout_is_stderr(),
    };
    if !once {
        log::info!("{}", line.trim_end());
    }
}
