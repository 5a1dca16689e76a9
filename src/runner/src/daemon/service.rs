//! `ci-runner daemon`: opens everything, starts the loop, serves, and ends in order.
//!
//! Two threads run: this one serves HTTP and watches signals, the other is the loop, so that no client can hold it up. The
//! store's writer, the log and blocking chores have threads of their own.

use super::clock::Clock;
use super::engine::{self, Control, Engine, Parts};
use super::exporting::{self, Shown};
use super::handle::Handle;
use super::home::{self, Home};
use super::listeners::{Listeners, Taken};
use super::log_dir;
use super::put_back;
use super::runtime_dir;
use super::settings::{host_settings, settings, watch_settings};
use super::signals::{Signals, watch_signals};
use super::spawners::{Spawners, Whereabouts};
use super::watching::{WatchParts, Watching};
use crate::activation::Passed;
use crate::config::{Config, ConfigOverrides, Executor, Source};
use crate::http;
use crate::metrics::{Figures, Keeper};
use crate::store::sqlite::SqliteStore;
use crate::store::{Reader, Store, StoreError};
use crate::systemd::{Notifier, NotifySettings};
use crate::telemetry::output::{CURSORS_NAME, JOURNAL_SOCKET, Options as OutputOptions, Output};
use crate::telemetry::{Destination, Telemetry};
use crate::usage;
use anyhow::{Context, Result};
use ci_runner_core::record::Record;
use std::cell::RefCell;
use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
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
            log::error!("{error:#}");
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

/// A full disk: where, and what may go. `ci-runner gc` needs a daemon.
fn with_advice(error: StoreError, config: &Config) -> anyhow::Error {
    if !matches!(error, StoreError::Full) {
        return error.into();
    }
    let (state, logs) = (config.state_dir.display(), host_settings(config).log_dir);
    let advice = format!(
        "no room in {state}: remove something there, logs of finished jobs in {} for one, and start again; nothing is lost meanwhile",
        logs.display()
    );
    anyhow::Error::new(error).context(advice)
}

fn serve(origin: &Origin, telemetry: &Arc<Telemetry>, passed: Passed) -> Result<()> {
    let config = origin.load()?;
    telemetry.set_level(config.log_level);
    telemetry.set_format(config.log_format);
    // Secrets of jobs pass through this memory: it is not written to a core file, and no other process of its user reads it.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .context("cannot forbid core files of this process")?;
    if let Some(warning) = super::fail::warning() {
        log::warn!("{warning}");
    }
    let settings = settings(&config)?;
    let host = host_settings(&config);
    make_own_dir(&config.state_dir, 0o700, "--state-dir")?;
    // Where none is named it may be in the state, and then that is what another is to be named for.
    let in_state = config.source("runtime_dir") == Source::Default && config.runtime_dir.starts_with(&config.state_dir);
    make_own_dir(&config.runtime_dir, 0o750, if in_state { "--state-dir" } else { "--runtime-dir" })?;
    for (dir, mode) in [(&host.log_dir, 0o750), (&host.tmp_dir, 0o700), (&host.secrets_dir, 0o700)] {
        make_dir(dir, mode)?;
    }
    log_dir::note(&config.state_dir, &host.log_dir);
    let (mut store, reader) = SqliteStore::open(&config.state_dir).map_err(|error| with_advice(error, &config))?;
    let reader: Arc<dyn Reader> = Arc::new(reader);
    // Job by job: a list of a million would take half a gigabyte beside the record.
    let record = RefCell::new(Record::new(settings));
    let pool_id = &mut |name: &str| record.borrow_mut().ensure_pool(name);
    let mut loaded = store.load(pool_id, &mut |job| engine::load_job(&mut record.borrow_mut(), &job))?;
    let mut record = record.into_inner();
    engine::load_rest(&mut record, &loaded);
    let clock = Clock::resume(loaded.clock.as_ref(), loaded.last);
    let whereabouts = Whereabouts::find(&config, &record)?;
    let traces = put_back::Traces::find(&config, &whereabouts.runtime_dir.dir, &host.log_dir, &loaded);
    if let Some(seen) = traces.starts {
        loaded.generation = store.outnumber(seen)?;
    }
    traces.tell_and_heed(&mut record);
    let spawners = Spawners::new(whereabouts, &config, &host, &record, &loaded)?;
    let output = OutputOptions {
        log_dir: host.log_dir.clone(),
        cursors: config.state_dir.join(CURSORS_NAME),
        store: loaded.store_id.clone(),
        socket: JOURNAL_SOCKET.into(),
        dropped: telemetry.output_dropped(),
    };
    log::info!("ci-runner {} starts: {} open jobs, start {}", version(), record.len(), loaded.generation);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(8).build()?;
    runtime.block_on(async {
        let socket_is_passed = passed.unix.is_some();
        let listeners = Listeners::open(&config, passed).await?;
        let totals = reader.totals()?;
        let figures =
            Figures::resume(&config.state_dir, &loaded.store_id, &totals, engine::NO_POOL, Executor::Native.name());
        let keeper = Keeper::new(&config.state_dir, &loaded.store_id);
        let unclean = loaded.unclean;
        let generation = loaded.generation;
        let store_id = loaded.store_id.clone();
        let places = usage::Places { proc: "/proc".into(), store: store_id, runtime_dir: spawners.runtime_dir.dir };
        let log_dir = host.log_dir.clone();
        // Before anybody is told that we are there: who then says SIGTERM means an orderly end.
        let signals = Signals::new()?;
        let output = Output::start(output)?;
        let watch_clock = clock.clone();
        let (store_id, host_name) = (loaded.store_id.clone(), host.name.clone());
        let notifier = Notifier::new(&NotifySettings::of_process()).context("cannot reach the service manager")?;
        let parts = Parts {
            store: Box::new(store),
            reader: reader.clone(),
            loaded,
            record,
            clock,
            sides: spawners.sides,
            former: spawners.former,
            host,
            notifier,
            figures,
            output: Some(output.clone()),
        };
        let (handle, control, engine) = start_engine(parts).await?;
        let watching = Watching::start(WatchParts {
            handle: handle.clone(),
            clock: watch_clock,
            state_dir: config.state_dir.clone(),
            store_id,
            host: host_name,
            settings: watch_settings(&config),
        });
        let shown = Shown::new(&config, keeper, handle.clone(), telemetry.clone(), watching.clone());
        let shown = Arc::new(shown);
        let context = http::Context {
            metrics: shown.clone().render(),
            handle: handle.clone(),
            control: control.clone(),
            log_dir,
            state_dir: config.state_dir.clone(),
            config_file: origin.file.clone(),
            public_status: config.http_public_status,
            hosts: config.http_hosts.clone(),
            started: std::time::Instant::now(),
            generation,
            places,
            watching: watching.clone(),
        };
        let shutdown = CancellationToken::new();
        let mut tasks = tokio::task::JoinSet::new();
        let beside = exporting::Beside::start(&config.socket, shown.clone().render())?;
        let (tell, metrics) = tokio::sync::oneshot::channel();
        let exporting = exporting::run(config.clone(), shown.clone().render(), control.clone(), shutdown.clone(), tell);
        tasks.spawn(exporting);
        if unclean {
            check_store(reader, control.clone());
        }
        if let Some(problem) = spawners.runtime_dir.problem {
            control.send(Control::Problem(runtime_dir::PROBLEM, Some(problem))).await.ok();
        }
        control.send(Control::Ready).await.ok();
        // A collector may hang, and that is no reason not to be ready.
        let metrics = tokio::time::timeout(METRICS_PATIENCE, metrics).await.ok().and_then(Result::ok).flatten();
        announce_ready(&config, listeners.tcp.as_ref(), metrics, telemetry.destination());
        let (change, door) = http::Door::new(listeners.unix);
        let home = Home::new(&config, socket_is_passed, change, control.clone());
        let home = tokio::spawn(home.keep(shutdown.clone()));
        let server = http::serve(context, door, listeners.tcp, shutdown.clone());
        tasks.spawn(async move {
            if let Err(error) = server.await {
                log::error!("the API stopped: {error:#}");
            }
        });
        watch_signals(signals, origin, (&config, telemetry, &watching), &control, engine).await?;
        watching.stop();
        shutdown.cancel();
        beside.stop();
        tokio::task::spawn_blocking(move || (shown.keep(), output.stop(OUTPUT_PATIENCE))).await.ok();
        tokio::time::timeout(Duration::from_secs(5), async { while tasks.join_next().await.is_some() {} }).await.ok();
        home::remove(&config.socket, home.await?);
        Ok(())
    })
}

/// Program version.
pub fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

fn make_dir(path: &Path, mode: u32) -> Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .with_context(|| format!("cannot make the directory {}", path.display()))
}

/// A directory that an option names.
fn make_own_dir(path: &Path, mode: u32, option: &str) -> Result<()> {
    anyhow::ensure!(
        path.is_dir() || !path.exists(),
        "{} is no directory, and cannot be made one; name another with {option}",
        path.display()
    );
    make_dir(path, mode).with_context(|| format!("{option} names no directory that can be used"))
}

/// The spawner's program: beside this one.
pub fn spawner_program() -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find out where this program is")?;
    let program = own.with_file_name("ci-runner-spawner");
    anyhow::ensure!(program.exists(), "{} is missing: install both programs side by side", program.display());
    Ok(program)
}

type Running = (Handle, mpsc::Sender<Control>, tokio::sync::oneshot::Receiver<()>);

/// Starts the loop on a thread of its own; the receiver ends with it.
async fn start_engine(parts: Parts) -> Result<Running> {
    let (ready, started) = tokio::sync::oneshot::channel();
    let (ended, end) = tokio::sync::oneshot::channel();
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
    // On one terminal it would stand there twice.
    if !(log == Destination::TerminalStderr && std::io::stdout().is_terminal()) {
        log::info!("{}", line.trim_end());
    }
}
