//! Watches and notices: a thread of its own beside the loop.
//!
//! It reads what the loop shows (snapshots) and the reading side of the store, decides with `ci_runner_core::watch`, and puts
//! what is to be told into the outbox of `crate::notify`. It sends the loop nothing: whatever hangs or fails here, jobs do
//! not notice. An end of a job is told after its commit, found by a cursor over the finished jobs, which moves in one
//! transaction with the deliveries it made: a crash anywhere tells it again rather than never.

mod ends;
mod families;
mod look;
mod words;

use super::clock::{Clock, wall};
use super::handle::Handle;
use crate::api::{AlarmView, NotifierTested, NotifierView, WatchesView};
use crate::config::{NotifierConfig, WatchConfig};
use crate::fail;
use crate::notify::{Couriers, Event, Outbox, Probe, Source, Step, deliver};
use crate::quantity::rfc3339_utc;
use ci_runner_core::watch::{Alarm, Watch};
use ends::Ends;
use look::Look;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, mpsc};

/// After the first end of a job others are waited for, so that a busy host does not wake us a thousand times a second.
const GATHER: Duration = Duration::from_millis(250);
/// What failed is tried again after this.
const AGAIN: Duration = Duration::from_secs(5);

/// The fail points of deliveries.
const PROBE: Probe = Probe {
    notes_early: || fail::is_control(fail::NOTES_BEFORE_TELLING),
    at: |step| match step {
        Step::NotedEarly => fail::point(fail::NOTES_BEFORE_TELLING),
        Step::Before => fail::point(fail::BEFORE_TELLING),
        Step::Told => fail::point(fail::AFTER_TELLING),
    },
};

/// What is watched for, and who is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchSettings {
    /// Limits.
    pub watch: WatchConfig,
    /// Who, by name.
    pub notifiers: BTreeMap<String, NotifierConfig>,
}

/// What the thread needs.
pub struct WatchParts {
    /// The way to snapshots and the store.
    pub handle: Handle,
    /// Engine time.
    pub clock: Clock,
    /// The state directory.
    pub state_dir: PathBuf,
    /// Short id of the store.
    pub store_id: String,
    /// Name of this host.
    pub host: String,
    /// Settings of the start.
    pub settings: WatchSettings,
}

/// What is shown of it all.
#[derive(Clone, Debug, Default)]
pub struct Board {
    /// Active alarms, the latest first.
    pub active: Vec<AlarmView>,
    /// How many alarms started, by watch.
    pub started: BTreeMap<String, u64>,
    /// When the last look was.
    pub looked: Option<Instant>,
    /// What does not work, in words.
    pub trouble: Option<String>,
    /// Notifiers whose last try failed.
    pub failing: Vec<String>,
    /// Free space on the disk of the state, bytes, as last measured.
    pub disk_free_bytes: Option<u64>,
}

/// The way to the thread. Cheap to clone.
#[derive(Clone, Default)]
pub struct Watching(Option<Arc<Shared>>);

struct Shared {
    source: Source,
    outbox: Arc<Outbox>,
    couriers: Mutex<Couriers>,
    board: Mutex<Arc<Board>>,
    settings: Mutex<Arc<WatchSettings>>,
    wake: mpsc::Sender<()>,
    tests: Semaphore,
}

/// Why a notifier was not tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotTested {
    /// There is none of that name; there are these.
    Unknown(Vec<String>),
    /// Another test runs.
    Busy,
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watching {
    /// Starts the thread and the couriers. Without an outbox nothing is watched, and that is said.
    pub fn start(parts: WatchParts) -> Self {
        match Self::try_start(parts) {
            Ok(watching) => watching,
            Err(error) => {
                log::error!("nothing is watched, and nobody is told of anything: {error:#}");
                Self::default()
            }
        }
    }

    fn try_start(parts: WatchParts) -> anyhow::Result<Self> {
        let WatchParts { handle, clock, state_dir, store_id, host, settings } = parts;
        let outbox = Arc::new(Outbox::open(&state_dir, &store_id)?);
        let source = Source { host, store: store_id.clone() };
        let mut couriers = Couriers::new(outbox.clone(), source.clone(), || wall().0, PROBE);
        couriers.set(&settings.notifiers);
        let (wake, woken) = mpsc::channel(1);
        let shared = Arc::new(Shared {
            source,
            outbox: outbox.clone(),
            couriers: Mutex::new(couriers),
            board: Mutex::default(),
            settings: Mutex::new(Arc::new(settings)),
            wake,
            tests: Semaphore::new(1),
        });
        let watcher = Watcher {
            shared: shared.clone(),
            look: Look::resume(&outbox, state_dir)?,
            ends: Ends::resume(&outbox, store_id)?,
            handle,
            clock,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        std::thread::Builder::new().name("watch".to_owned()).spawn(move || runtime.block_on(watcher.run(woken)))?;
        Ok(Self(Some(shared)))
    }

    /// Other settings from now on.
    pub fn reload(&self, settings: WatchSettings) {
        let Some(shared) = &self.0 else { return };
        lock(&shared.couriers).set(&settings.notifiers);
        *lock(&shared.settings) = Arc::new(settings);
        // One that waits already will see the new ones too.
        shared.wake.try_send(()).ok();
    }

    /// The daemon ends. Nothing is waited for: what is not delivered yet is told after the next start.
    pub fn stop(&self) {
        if let Some(shared) = &self.0 {
            lock(&shared.couriers).stop();
        }
    }

    /// What was last seen.
    pub fn board(&self) -> Arc<Board> {
        self.0.as_ref().map(|shared| lock(&shared.board).clone()).unwrap_or_default()
    }

    /// Whether there is a thread.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// How often it looks.
    pub fn every(&self) -> Duration {
        self.0.as_ref().map(|shared| lock(&shared.settings).watch.every).unwrap_or_default()
    }

    /// Alarms. Blocks for a moment.
    pub fn watches(&self) -> WatchesView {
        let recent = self.0.as_ref().and_then(|shared| shared.outbox.alarms(false).ok()).unwrap_or_default();
        let recent = recent.iter().map(words::view).collect();
        WatchesView { active: self.board().active.clone(), recent }
    }

    /// Those who are told. Blocks for a moment.
    pub fn notifiers(&self) -> Vec<NotifierView> {
        let Some(shared) = &self.0 else { return Vec::new() };
        let settings = lock(&shared.settings).clone();
        let mut tallies = lock(&shared.couriers).tallies();
        let view = |(name, config): (&String, &NotifierConfig)| {
            let tally = tallies.remove(name).unwrap_or_default();
            NotifierView {
                name: name.clone(),
                kind: config.kind.word().to_owned(),
                watches: config.watches.iter().map(|watch| watch.word().to_owned()).collect(),
                outcomes: config.jobs.outcomes.clone(),
                waiting: tally.waiting,
                counts: tally.counts,
                last_error: tally.last_error,
                last_delivered_at: tally.last_delivered_ms.map(rfc3339_utc),
            }
        };
        settings.notifiers.iter().map(view).collect()
    }

    /// Tells a notifier of a test, now, once. Blocks up to its time-out.
    pub fn test(&self, name: &str) -> Result<NotifierTested, NotTested> {
        let shared = self.0.as_ref().ok_or_else(|| NotTested::Unknown(Vec::new()))?;
        let settings = lock(&shared.settings).clone();
        let Some(config) = settings.notifiers.get(name) else {
            return Err(NotTested::Unknown(settings.notifiers.keys().cloned().collect()));
        };
        let _place = shared.tests.try_acquire().map_err(|_| NotTested::Busy)?;
        let begin = Instant::now();
        let event = Event::test(name, &shared.source.host, wall().0);
        let error = deliver(config, &event, &shared.source, wall().0).err().map(|failed| failed.why);
        let seconds = begin.elapsed().as_secs_f64();
        Ok(NotifierTested { delivered: error.is_none(), error, seconds, event: event.id })
    }
}

/// The thread.
struct Watcher {
    shared: Arc<Shared>,
    look: Look,
    ends: Ends,
    handle: Handle,
    clock: Clock,
}

impl Watcher {
    async fn run(mut self, mut woken: mpsc::Receiver<()>) {
        let mut next_look = Instant::now();
        loop {
            let settings = lock(&self.shared.settings).clone();
            let mut pause = settings.watch.every;
            // A reload may have shortened it.
            next_look = next_look.min(Instant::now() + settings.watch.every);
            if let Err(error) = self.ends.tell(&self.handle, &settings, &self.shared, &self.clock) {
                log::warn!("ends of jobs are told later: {error:#}");
                pause = AGAIN;
            }
            if Instant::now() >= next_look {
                if let Err(error) = self.look.look(&self.handle, &settings, &self.shared, &self.clock) {
                    log::warn!("the watches could not look: {error:#}");
                }
                next_look = Instant::now() + settings.watch.every;
            }
            let until = next_look.min(Instant::now() + pause);
            let tells = !settings.notifiers.is_empty();
            tokio::select! {
                changed = self.handle.news.latest.changed(), if tells => match changed {
                    Ok(()) => tokio::time::sleep(GATHER).await,
                    // The loop is gone, and so is the daemon.
                    Err(_) => return,
                },
                more = woken.recv() => if more.is_none() { return },
                () = tokio::time::sleep_until(until.into()) => {}
            }
        }
    }
}

/// Those who are told of an alarm.
fn told_of(settings: &WatchSettings, watch: Watch) -> impl Iterator<Item = &String> {
    settings.notifiers.iter().filter(move |(_, config)| config.watches.contains(&watch)).map(|(name, _)| name)
}

/// How many deliveries may wait for each.
fn queue_max(settings: &WatchSettings) -> impl Fn(&str) -> u32 + '_ {
    |name| settings.notifiers.get(name).map_or(0, |config| config.queue_max)
}

/// The key of an alarm.
fn key(alarm: &Alarm) -> (Watch, String) {
    (alarm.reading.watch, alarm.reading.subject.clone())
}
