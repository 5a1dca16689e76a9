//! The loop with a store in memory that can fail.

use ci_runner::api::JobRequest;
use ci_runner::config::{Config, ConfigOverrides, Executor, Host};
use ci_runner::daemon::clock::Clock;
use ci_runner::daemon::engine::{COMMIT_PATIENCE, Control, Engine, Former, Parts, rebuild};
use ci_runner::daemon::handle::{Handle, NewJob};
use ci_runner::daemon::settings::{host_settings, settings};
use ci_runner::executor::native::{Native, NativeOptions};
use ci_runner::metrics::Figures;
use ci_runner::request;
use ci_runner::store::memory::MemoryStore;
use ci_runner::store::sqlite::SqliteStore;
use ci_runner::store::{Claimed, CollectLimits, Loaded, Reader, Store, StoreError, Write};
use ci_runner::systemd::{Notifier, NotifySettings};
use ci_runner_core::change::{Change, Entry, OpenJob};
use ci_runner_core::id::{Epoch, JobId, PoolId};
use ci_runner_core::policy::Settings;
use ci_runner_core::time::{ClockBase, Now};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{OwnedMutexGuard, mpsc};

/// Nothing takes so long, unless it is broken.
const PATIENCE: Duration = Duration::from_secs(20);

/// Polls until it is so.
pub async fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    wait_until(what, async || is_so()).await;
}

/// The same with a question that takes a while to answer.
pub async fn wait_until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let until = tokio::time::Instant::now() + PATIENCE;
    while !is_so().await {
        assert!(tokio::time::Instant::now() < until, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub fn new_job() -> NewJob {
    let request = JobRequest { command: Some(vec!["true".to_owned()]), ..JobRequest::default() };
    request::new_job(request, &Settings::default(), &jiff::Zoned::now()).unwrap()
}

/// What a commit holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    pub writes: usize,
    /// New jobs.
    pub jobs: usize,
    /// Schedules that are written whole, with their requests.
    pub schedules: usize,
}

impl Load {
    fn of(batch: &[Write]) -> Self {
        let count = |is_one: fn(&Write) -> bool| batch.iter().filter(|write| is_one(write)).count();
        Self {
            writes: batch.len(),
            jobs: count(|write| matches!(write, Write::Entry(Entry { change: Change::Submitted(_), .. }))),
            schedules: count(|write| matches!(write, Write::Schedule(_))),
        }
    }

    fn most(self, other: Self) -> Self {
        Self {
            writes: self.writes.max(other.writes),
            jobs: self.jobs.max(other.jobs),
            schedules: self.schedules.max(other.schedules),
        }
    }
}

/// What a store is told by its test, and tells it.
#[derive(Default)]
struct Rule {
    /// So many commits fail.
    fail: AtomicU32,
    /// The most that one commit had of each.
    largest: Mutex<Load>,
    /// Whoever has this holds up all commits.
    gate: Arc<tokio::sync::Mutex<()>>,
    /// A commit is under way.
    is_committing: AtomicBool,
}

/// So many commits fail as it is told to, or wait as long as it is.
struct Failing {
    store: Box<dyn Store>,
    rule: Arc<Rule>,
}

impl Store for Failing {
    fn load(
        &mut self,
        pool_id: &mut dyn FnMut(&str) -> PoolId,
        each: &mut dyn FnMut(OpenJob),
    ) -> Result<Loaded, StoreError> {
        self.store.load(pool_id, each)
    }

    fn reread(
        &mut self,
        pool_id: &mut dyn FnMut(&str) -> PoolId,
        each: &mut dyn FnMut(OpenJob),
    ) -> Result<Loaded, StoreError> {
        self.store.reread(pool_id, each)
    }

    fn commit(&mut self, batch: &[Write], pools: &[String]) -> Result<(), StoreError> {
        let mut largest = self.rule.largest.lock().unwrap();
        *largest = largest.most(Load::of(batch));
        drop(largest);
        self.rule.is_committing.store(true, Ordering::SeqCst);
        drop(self.rule.gate.blocking_lock());
        self.rule.is_committing.store(false, Ordering::SeqCst);
        if self.rule.fail.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
            let source = std::io::Error::other("the test says so");
            return Err(StoreError::Io { doing: "write", path: "nowhere".to_owned(), source });
        }
        self.store.commit(batch, pools)
    }

    fn claimed(&mut self, id: JobId) -> Result<Option<Claimed>, StoreError> {
        self.store.claimed(id)
    }

    fn collect(&mut self, limits: &CollectLimits, most: usize) -> Result<Vec<JobId>, StoreError> {
        self.store.collect(limits, most)
    }

    fn close(&mut self, base: &ClockBase, now: Now) -> Result<(), StoreError> {
        self.store.close(base, now)
    }
}

/// A running loop.
pub struct Loop {
    pub handle: Handle,
    pub secrets_dir: PathBuf,
    control: mpsc::Sender<Control>,
    rule: Arc<Rule>,
    thread: std::thread::JoinHandle<()>,
    _dir: tempfile::TempDir,
}

/// What was before the daemon, beside what its store says.
#[derive(Default)]
pub struct Life<'a> {
    /// The only spawner is that of units.
    pub units_only: bool,
    /// Where native attempts began, and in which life of that runtime directory.
    pub former: Option<(&'a Path, &'a str)>,
    /// Ids up to this one were given, as logs show.
    pub taken_ids: u64,
    /// Who started it, and whether that has a watchdog.
    pub manager: NotifySettings,
    /// How long a commit may take, if not as long as in a daemon.
    pub commit_patience: Option<Duration>,
}

impl Loop {
    /// Begins; its spawner is the one of this runtime directory.
    pub async fn start(runtime_dir: &Path) -> Self {
        let (store, reader) = MemoryStore::new();
        Self::start_on(Box::new(store), reader, runtime_dir, Life::default()).await
    }

    /// On a store in this state directory.
    pub async fn start_on_disk(state: &Path, runtime_dir: &Path, life: Life<'_>) -> Self {
        let (store, reader) = SqliteStore::open(state).unwrap();
        Self::start_on(Box::new(store), Arc::new(reader), runtime_dir, life).await
    }

    /// On this store, after this life of it.
    pub async fn start_on(store: Box<dyn Store>, reader: Arc<dyn Reader>, runtime_dir: &Path, life: Life<'_>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let overrides = ConfigOverrides {
            state_dir: Some(dir.path().join("state")),
            runtime_dir: Some(runtime_dir.to_owned()),
            ..ConfigOverrides::default()
        };
        let config = Config::load(None, &overrides).unwrap();
        let host = host_settings(&config);
        for dir in [&host.log_dir, &host.tmp_dir, &host.secrets_dir] {
            std::fs::create_dir_all(dir).unwrap();
        }
        let secrets_dir = host.secrets_dir.clone();
        let rule = Arc::new(Rule::default());
        let mut store = Failing { store, rule: rule.clone() };
        let mut open = Vec::new();
        let loaded = store.load(&mut |_| PoolId(0), &mut |job| open.push(job)).unwrap();
        let native = NativeOptions {
            program: PathBuf::from("/nonexistent/spawner"),
            runtime_dir: runtime_dir.to_owned(),
            log_dir: host.log_dir.clone(),
            tmp_dir: host.tmp_dir.clone(),
            store: loaded.store_id.clone(),
            generation: loaded.generation,
            linger: None,
            job_open_files: None,
            service: None,
            lifeline: None,
        };
        let former = life.former.map(|(dir, epoch)| Former {
            epochs: vec![Epoch::new(epoch)],
            link: Native::new(NativeOptions { runtime_dir: dir.to_owned(), ..native.clone() }),
        });
        let mut record = rebuild(settings(&config).unwrap(), &["default".to_owned()], &open, &loaded);
        record.set_last_id(life.taken_ids);
        let clock = Clock::resume(loaded.clock.as_ref(), loaded.last);
        let notifier = Notifier::new(&life.manager).unwrap();
        let commit_patience = life.commit_patience.unwrap_or(COMMIT_PATIENCE);
        let figures = Figures::default();
        let executor = if life.units_only { Executor::Systemd } else { Executor::Native };
        let (ready, started) = tokio::sync::oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let (store, sides) = (Box::new(store), vec![(executor, Native::new(native))]);
                let parts = Parts {
                    store,
                    reader,
                    loaded,
                    record,
                    clock,
                    sides,
                    former: former.into_iter().collect(),
                    host,
                    notifier,
                    commit_patience,
                    figures,
                    output: None,
                };
                let (engine, handle, control) = Engine::new(parts).unwrap();
                assert!(ready.send((handle, control)).is_ok());
                engine.run().await;
            });
        });
        let (handle, control) = started.await.unwrap();
        Self { handle, secrets_dir, control, rule, thread, _dir: dir }
    }

    /// Reads another configuration, with another state directory.
    pub async fn reload(&self, state_dir: &Path, text: &str) {
        let overrides = ConfigOverrides { state_dir: Some(state_dir.to_owned()), ..ConfigOverrides::default() };
        let file = state_dir.join("config.toml");
        let config = Config::resolve(&Host::of_process(), Some((&file, text)), &overrides).unwrap();
        let settings = (settings(&config).unwrap(), host_settings(&config));
        self.control.send(Control::Reload(Box::new(settings))).await.unwrap();
    }

    pub fn fail_next_commit(&self) {
        self.fail_commits(1);
    }

    pub fn fail_commits(&self, count: u32) {
        self.rule.fail.store(count, Ordering::SeqCst);
    }

    pub fn commits_to_fail(&self) -> u32 {
        self.rule.fail.load(Ordering::SeqCst)
    }

    /// Holds up the commits that follow, until what this gives is dropped.
    pub async fn stall_commits(&self) -> OwnedMutexGuard<()> {
        self.rule.gate.clone().lock_owned().await
    }

    pub fn is_committing(&self) -> bool {
        self.rule.is_committing.load(Ordering::SeqCst)
    }

    /// The most that one commit had of each since the last call.
    pub fn take_largest_commit(&self) -> Load {
        std::mem::take(&mut *self.rule.largest.lock().unwrap())
    }

    pub fn count_running(&self) -> usize {
        self.handle.snapshot().counts.values().map(|counts| counts.running).sum()
    }

    pub fn count_succeeded(&self) -> u64 {
        self.handle.snapshot().finished.get("succeeded").copied().unwrap_or(0)
    }

    pub async fn stop(self) {
        self.control.send(Control::Stop).await.unwrap();
        drop((self.control, self.handle));
        tokio::task::spawn_blocking(|| self.thread.join().unwrap()).await.unwrap();
    }
}
