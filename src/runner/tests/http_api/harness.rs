//! A daemon in a temporary directory: everything but the process around it.

use crate::client::{Connection, PATIENCE};
use crate::disk::DiskOf;
use ci_runner::config::{Config, ConfigOverrides, Host};
use ci_runner::daemon::clock::Clock;
use ci_runner::daemon::engine::{COMMIT_PATIENCE, Control, Engine, Parts, rebuild};
use ci_runner::daemon::handle::Handle;
use ci_runner::daemon::settings::{host_settings, settings, watch_settings};
use ci_runner::daemon::watching::{WatchParts, Watching};
use ci_runner::daemon::writer::pool_number;
use ci_runner::executor::native::{Native, NativeOptions};
use ci_runner::http;
use ci_runner::metrics::Figures;
use ci_runner::store::sqlite::SqliteStore;
use ci_runner::store::{Reader, Store};
use ci_runner::systemd::{Notifier, NotifySettings};
use ci_runner::usage::Places;
use serde_json::json;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, OwnedMutexGuard, mpsc};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// What differs between tests.
pub struct Options {
    pub config: String,
    pub public_status: bool,
}

const CONFIG: &str = "max_parallel_jobs = 4\n[notifiers.ops]\nkind = \"command\"\ncommand = [\"/bin/sh\", \"-c\", \"cat > /dev/null\"]\n";

impl Default for Options {
    fn default() -> Self {
        Self { config: CONFIG.to_owned(), public_status: false }
    }
}

/// A running daemon.
pub struct Server {
    dir: TempDir,
    life: Option<Life>,
    options: Options,
}

/// From a start to a stop.
struct Life {
    socket: PathBuf,
    tcp: SocketAddr,
    control: mpsc::Sender<Control>,
    handle: Handle,
    shutdown: CancellationToken,
    served: tokio::task::JoinHandle<std::io::Result<()>>,
    full: Arc<AtomicBool>,
    slow: Arc<Mutex<()>>,
    engine: std::thread::JoinHandle<()>,
}

impl Server {
    pub async fn start() -> Self {
        Self::with(Options::default()).await
    }

    pub async fn with(options: Options) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let life = start(dir.path(), &options).await;
        Self { dir, life: Some(life), options }
    }

    fn life(&self) -> &Life {
        self.life.as_ref().expect("it runs")
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn log_dir(&self) -> PathBuf {
        self.dir().join("state/logs")
    }

    pub fn socket(&self) -> &Path {
        &self.life().socket
    }

    /// As the daemon reads.
    pub fn reader(&self) -> Arc<dyn Reader> {
        self.life().handle.reader.clone()
    }

    pub fn tcp(&self) -> SocketAddr {
        self.life().tcp
    }

    pub async fn connect(&self) -> Connection {
        Connection::unix(self.socket()).await
    }

    /// From now on the store takes no commit, as on a full disk; or takes them again.
    pub fn fill_disk(&self, full: bool) {
        self.life().full.store(full, Ordering::SeqCst);
    }

    /// Commits wait while it is held.
    pub async fn hold_commits(&self) -> OwnedMutexGuard<()> {
        self.life().slow.clone().lock_owned().await
    }

    /// Ends the loop alone: HTTP answers for a while longer, as it does when the daemon goes away.
    pub async fn end_loop(&self) {
        let control = &self.life().control;
        control.send(Control::Stop).await.unwrap();
        timeout(PATIENCE, control.closed()).await.expect("it ends");
    }

    /// Ends the rest, where no job runs.
    pub async fn stop_after_loop(mut self) {
        self.end().await;
        end_spawner(self.dir()).await;
    }

    /// Ends HTTP, then the loop; jobs go on.
    pub async fn end(&mut self) {
        let life = self.life.take().expect("it runs");
        life.shutdown.cancel();
        life.served.await.unwrap().unwrap();
        // The loop may have ended already.
        let _ = life.control.send(Control::Stop).await;
        drop((life.handle, life.control));
        tokio::task::spawn_blocking(|| life.engine.join().unwrap()).await.unwrap();
    }

    /// Ends and starts again on the same directory.
    pub async fn restart(&mut self) {
        self.end().await;
        self.restart_after_end().await;
    }

    pub async fn restart_after_end(&mut self) {
        self.life = Some(start(self.dir.path(), &self.options).await);
    }

    /// Ends everything: jobs, loop, spawner.
    pub async fn stop(mut self) {
        let mut client = self.connect().await;
        assert_eq!(client.post("/api/v1/jobs/cancel", &json!({"all": true})).await.status, 200);
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while client.get("/api/v1/jobs?state=starting,running,stopping&limit=1").await.json()["jobs"] != json!([]) {
            assert!(tokio::time::Instant::now() < deadline, "jobs do not end");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        drop(client);
        self.end().await;
        end_spawner(self.dir()).await;
    }
}

/// The spawner would end by itself some seconds after daemon and jobs; a test need not wait for that. Its command line names
/// our directory.
async fn end_spawner(dir: &Path) {
    let text = dir.to_string_lossy().into_owned();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let mut told = false;
    loop {
        let left = processes_of(&text);
        if left.is_empty() {
            return;
        }
        if !std::mem::replace(&mut told, true) {
            for pid in left.into_iter().filter_map(rustix::process::Pid::from_raw) {
                // It may have ended meanwhile.
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            }
        }
        assert!(tokio::time::Instant::now() < deadline, "a process of {text} is left");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn processes_of(text: &str) -> Vec<i32> {
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let ours = processes.filter(|entry| {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(text)
    });
    ours.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

async fn start(dir: &Path, options: &Options) -> Life {
    let overrides = ConfigOverrides {
        state_dir: Some(dir.join("state")),
        runtime_dir: Some(dir.join("run")),
        ..ConfigOverrides::default()
    };
    let file = dir.join("config.toml");
    let config = Config::resolve(&Host::of_process(), Some((&file, &options.config)), &overrides).unwrap();
    let full = Arc::new(AtomicBool::new(false));
    let slow = Arc::new(Mutex::new(()));
    let parts = parts(&config, full.clone(), slow.clone());
    let (generation, store_id) = (parts.loaded.generation, parts.loaded.store_id.clone());
    let (log_dir, clock) = (parts.host.log_dir.clone(), parts.clock.clone());
    let (handle, control, engine) = run(parts).await;
    let watched = WatchParts {
        handle: handle.clone(),
        clock,
        state_dir: config.state_dir.clone(),
        store_id: store_id.clone(),
        host: "host".to_owned(),
        settings: watch_settings(&config),
    };
    let unix = http::bind_unix(&config.socket).unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap();
    let context = http::Context {
        handle: handle.clone(),
        control: control.clone(),
        log_dir,
        state_dir: config.state_dir.clone(),
        config_file: None,
        public_status: options.public_status,
        hosts: vec!["ci.example.org".to_owned()],
        started: std::time::Instant::now(),
        generation,
        places: Places { proc: "/proc".into(), store: store_id, runtime_dir: config.runtime_dir.clone() },
        watching: Watching::start(watched),
        metrics: Arc::new(|_| Ok("ci_runner_build_info 1\n".to_owned())),
    };
    let shutdown = CancellationToken::new();
    let served = tokio::spawn(http::serve(context, unix, Some(tcp), shutdown.clone()));
    Life { socket: config.socket, tcp: address, control, handle, shutdown, served, full, slow, engine }
}

/// What the loop is made of, on a disk that can be full.
fn parts(config: &Config, full: Arc<AtomicBool>, slow: Arc<Mutex<()>>) -> Parts {
    let host = host_settings(config);
    for dir in [&config.state_dir, &config.runtime_dir, &host.log_dir, &host.tmp_dir, &host.secrets_dir] {
        std::fs::create_dir_all(dir).unwrap();
    }
    let (mut store, reader) = SqliteStore::open(&config.state_dir).unwrap();
    let (mut pools, mut open) = (Vec::new(), Vec::new());
    let loaded = store.load(&mut |name| pool_number(&mut pools, name), &mut |job| open.push(job)).unwrap();
    let native = Native::new(NativeOptions {
        program: PathBuf::from(env!("CARGO_BIN_EXE_ci-runner-spawner")),
        runtime_dir: config.runtime_dir.clone(),
        log_dir: host.log_dir.clone(),
        tmp_dir: host.tmp_dir.clone(),
        store: loaded.store_id.clone(),
        generation: loaded.generation,
        linger: None,
        job_open_files: None,
        service: None,
        lifeline: None,
    });
    Parts {
        store: Box::new(DiskOf { store, full, slow }),
        reader: Arc::new(reader),
        record: rebuild(settings(config).unwrap(), &pools, &open, &loaded),
        clock: Clock::resume(loaded.clock.as_ref(), loaded.last),
        loaded,
        sides: vec![(ci_runner::config::Executor::Native, native)],
        former: Vec::new(),
        host,
        notifier: Notifier::new(&NotifySettings { socket: None, watchdog_timeout: None }).unwrap(),
        commit_patience: COMMIT_PATIENCE,
        figures: Figures::default(),
        output: None,
    }
}

/// Runs the loop on a thread of its own.
async fn run(parts: Parts) -> (Handle, mpsc::Sender<Control>, std::thread::JoinHandle<()>) {
    let (ready, started) = tokio::sync::oneshot::channel();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (engine, handle, control) = Engine::new(parts).unwrap();
            assert!(ready.send((handle, control)).is_ok());
            engine.run().await;
        });
    });
    let (handle, control) = started.await.unwrap();
    (handle, control, thread)
}
