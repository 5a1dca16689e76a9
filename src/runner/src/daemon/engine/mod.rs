//! The loop that owns the record.
//!
//! One turn: take what arrived (wishes, commits that are done, words of the spawner, signals, time), decide
//! (`ci_runner_core::schedule`), hand the batch to the writer if it is free, send commands. Two rules hold everywhere:
//!
//! - **Record first, act second.** A decision changes the record in memory at once and goes into the batch. Whatever
//!   leaves this process because of it (an answer, a `start`, a `forget`) waits for the batch to be on disk.
//!   `uncommitted` counts the changes of a job that are not; no command is sent for such a job. One exception has a file of
//!   its own: a cancel while nothing can be recorded (`unrecorded.rs`).
//! - **After a failed commit, re-read.** Nothing of it was kept, so the record is made anew from the store, and nothing
//!   is taken in until a commit succeeds again.
//!
//! Wake-ups carry no meaning: every turn looks at the state. It does no I/O of its own but reads of the store by key,
//! from a connection of its own.

mod admission;
mod attempts;
mod batch;
mod beyond;
mod bulk;
mod commit;
mod correlation;
mod counting;
mod executors;
mod former;
mod hearing;
mod host;
mod journal;
mod limits;
mod places;
mod publish;
mod reload;
mod schedules;
mod sides;
mod start;
mod telling;
mod unrecorded;
mod waking;
mod wishes;

use super::clock::Clock;
use super::handle::{Handle, LeaseView, News, Snapshot, WISHES_MAX, Wish};
use super::job_env::Host;
use super::writer::{Answer, Order, Reloaded, Writer};
use crate::config::Executor;
use crate::executor::native::{Event as Heard, Native};
use crate::metrics::Figures;
use crate::store::{Claimed, Loaded, Reader, Store, Write};
use crate::systemd::Notifier;
use crate::telemetry::output::Output;
use attempts::Watch;
use batch::{Batch, InFlight};
use ci_runner_core::announce::Announcement;
use ci_runner_core::change::OpenJob;
use ci_runner_core::id::{Epoch, JobId, PoolId};
use ci_runner_core::policy::Settings;
use ci_runner_core::reconcile::Seen;
use ci_runner_core::record::Record;
use ci_runner_core::schedule::schedule;
use ci_runner_core::time::{Instant, Now};
use ci_runner_spawner::protocol::AttemptKey;
use sides::{Sides, Way};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use waking::Woken;

pub use crate::error::chain;
pub use commit::NO_POOL;
use commit::{Health, StoreTrouble};
pub use host::{Collected, Control, HostSettings, PersonHost, PoolHost};
pub use reload::{load_job, load_rest, rebuild};
pub use schedules::{DECLARED, REQUESTS_BYTES_MAX, SCHEDULES_MAX};
pub use sides::{Former, executor_of};

/// Wishes taken in one turn: enough to share a commit, few enough to keep a turn under some milliseconds.
const WISHES_PER_TURN: usize = 256;
/// Changes decided in one turn; bounds a commit to about 0.1 s.
const CHANGES_PER_TURN: usize = 2_000;

/// A commit may take this long before the loop counts as hung: a disk can be slow, not dead.
pub const COMMIT_PATIENCE: Duration = Duration::from_secs(60);

/// Everything the loop is made of.
pub struct Parts {
    /// The writing side, already loaded.
    pub store: Box<dyn Store>,
    /// The reading side.
    pub reader: Arc<dyn Reader>,
    /// What the store told at the start.
    pub loaded: Loaded,
    /// The record, with all open jobs.
    pub record: Record,
    /// The engine's clock, already resumed.
    pub clock: Clock,
    /// The ways jobs are run, each executor once.
    pub sides: Vec<(Executor, Native)>,
    /// To spawners that are not configured any more and have open attempts.
    pub former: Vec<Former>,
    /// Where things are, and what jobs find.
    pub host: HostSettings,
    /// The service manager.
    pub notifier: Notifier,
    /// How long a commit may take before its watchdog is fed no more: [`COMMIT_PATIENCE`].
    pub commit_patience: Duration,
    /// What is counted, as far as earlier daemons came.
    pub figures: Figures,
    /// Where what jobs print goes into the journal; None: nowhere.
    pub output: Option<Output>,
}

/// The loop's state.
pub struct Engine {
    record: Record,
    clock: Clock,
    writer: Writer,
    /// The loop's own: it waits for nobody else's reading.
    reader: Arc<dyn Reader>,
    /// Everybody's, for chores on other threads.
    common_reader: Arc<dyn Reader>,
    sides: Sides,
    host: HostSettings,
    job_host: Host,
    notifier: Notifier,
    commit_patience: Duration,
    figures: Figures,
    output: Option<Output>,
    batch: Batch,
    in_flight: Option<InFlight>,
    flushed: Option<std::time::Instant>,
    uncommitted: HashMap<JobId, u32>,
    works: HashMap<JobId, Claimed>,
    /// Of open attempts.
    stories: HashMap<JobId, correlation::Story>,
    /// Sides whose adopted attempts were counted.
    counted_adoptions: Vec<Way>,
    watches: HashMap<JobId, Watch>,
    /// Attempts that are not the open ones of their jobs, seen while something of those was not on disk.
    strangers: Vec<(Way, AttemptKey, Seen)>,
    beyond: beyond::Beyond,
    /// Ids up to this one are taken, whatever the store says, as logs and spawners have shown.
    taken_ids: u64,
    bulks: VecDeque<bulk::Bulk>,
    /// Attempts that were told to end while nothing could be recorded.
    unrecorded: BTreeMap<JobId, unrecorded::Unrecorded>,
    schedules: schedules::Schedules,
    users: places::Users,
    health: Health,
    trouble: Option<StoreTrouble>,
    stopping: bool,
    closing: bool,
    closed: bool,
    finished: BTreeMap<String, u64>,
    committed_news: u64,
    wishes: mpsc::Receiver<Wish>,
    control: mpsc::Receiver<Control>,
    news_asked: mpsc::Receiver<(u64, oneshot::Sender<Vec<Announcement>>)>,
    news: watch::Sender<u64>,
    snapshot: watch::Sender<Arc<Snapshot>>,
    settings: watch::Sender<Arc<Settings>>,
    published: Option<std::time::Instant>,
    /// What making the last snapshot took.
    publish_cost: Duration,
    /// Who waits for a snapshot.
    looks: Vec<oneshot::Sender<Arc<Snapshot>>>,
    changed: bool,
    next_collect: Instant,
    collecting: bool,
    collect_asked: Vec<oneshot::Sender<Collected>>,
    /// Finished jobs that went and whose logs go next.
    collected_jobs: Vec<JobId>,
    problems: BTreeMap<&'static str, String>,
    watchdog_at: Option<tokio::time::Instant>,
    system_stopping: Option<(std::time::Instant, bool)>,
    admission: admission::Admission,
    /// For the loop's own chores.
    own_control: mpsc::WeakSender<Control>,
}

/// The loop's ends of what a [`Handle`] holds.
struct Ways {
    wishes: mpsc::Receiver<Wish>,
    news_asked: mpsc::Receiver<(u64, oneshot::Sender<Vec<Announcement>>)>,
    news: watch::Sender<u64>,
    snapshot: watch::Sender<Arc<Snapshot>>,
    settings: watch::Sender<Arc<Settings>>,
}

fn ways(record: &Record, reader: &Arc<dyn Reader>) -> (Handle, Ways) {
    let (wishes_in, wishes) = mpsc::channel(WISHES_MAX);
    let (news_ask, news_asked) = mpsc::channel(1_024);
    let (news, news_latest) = watch::channel(record.news_seq());
    let (snapshot, snapshot_out) = watch::channel(Arc::new(Snapshot::default()));
    let (settings, settings_out) = watch::channel(Arc::new(record.settings().clone()));
    let handle = Handle {
        wishes: wishes_in,
        snapshot: snapshot_out,
        news: News { latest: news_latest, ask: news_ask },
        reader: reader.clone(),
        settings: settings_out,
    };
    (handle, Ways { wishes, news_asked, news, snapshot, settings })
}

impl Engine {
    /// Makes the loop and the ways to it.
    pub fn new(parts: Parts) -> std::io::Result<(Self, Handle, mpsc::Sender<Control>)> {
        let (control_in, control) = mpsc::channel(64);
        let (handle, Ways { wishes, news_asked, news, snapshot, settings }) = ways(&parts.record, &parts.reader);
        let job_host = parts.host.job_host(parts.loaded.store_id, parts.loaded.former);
        let now = parts.clock.now();
        let reader = parts.reader.apart().unwrap_or_else(|| parts.reader.clone());
        let finished = reader.totals().unwrap_or_default().into_iter().collect();
        let taken_ids = parts.record.next_id().get() - 1;
        let mut engine = Self {
            committed_news: parts.record.news_seq(),
            record: parts.record,
            writer: Writer::start(parts.store, parts.host.secrets_dir.clone())?,
            clock: parts.clock,
            reader,
            common_reader: parts.reader,
            sides: Sides::new(parts.sides, parts.former),
            host: parts.host,
            job_host,
            notifier: parts.notifier,
            commit_patience: parts.commit_patience,
            figures: parts.figures,
            output: parts.output,
            batch: Batch::default(),
            in_flight: None,
            flushed: None,
            uncommitted: HashMap::new(),
            works: HashMap::new(),
            stories: HashMap::new(),
            counted_adoptions: Vec::new(),
            watches: HashMap::new(),
            strangers: Vec::new(),
            beyond: beyond::Beyond::default(),
            taken_ids,
            bulks: VecDeque::new(),
            unrecorded: BTreeMap::new(),
            schedules: schedules::Schedules::default(),
            users: places::Users::default(),
            health: Health::Good,
            trouble: None,
            stopping: false,
            closing: false,
            closed: false,
            finished,
            wishes,
            control,
            news_asked,
            news,
            snapshot,
            settings,
            published: None,
            publish_cost: Duration::ZERO,
            looks: Vec::new(),
            changed: true,
            next_collect: now.engine,
            collecting: false,
            collect_asked: Vec::new(),
            collected_jobs: Vec::new(),
            problems: BTreeMap::new(),
            watchdog_at: None,
            system_stopping: None,
            admission: admission::Admission::default(),
            own_control: control_in.downgrade(),
        };
        // Whoever asks before the first turn sees the truth, not an empty host.
        engine.publish(now);
        Ok((engine, handle, control_in))
    }

    /// Runs until told to stop; everything that was acknowledged is on disk when it returns.
    pub async fn run(mut self) {
        self.begin_schedules();
        self.journal_known();
        self.sweep_secrets();
        // With the first commit the store knows this boot's clock, however this daemon ends.
        self.batch.writes.push(Write::Clock { base: self.clock.base().clone(), now: self.clock.now() });
        loop {
            let now = self.clock.now();
            self.turn(now);
            self.publish(now);
            if self.closed {
                // Who came too late is told so: not taken is not unknown.
                self.wishes.close();
                while let Ok(wish) = self.wishes.try_recv() {
                    self.wish(wish);
                }
                return;
            }
            match self.wait(now).await {
                Woken::Wish(wish) => self.wish_all(wish),
                Woken::Answer(answer) => self.answered(answer),
                Woken::Heard(way, heard) => self.heard_all(way, heard),
                Woken::Control(control) => self.control(control),
                Woken::News(told, reply) => self.tell_news(told, reply),
                Woken::Time => {}
                Woken::Gone => return,
            }
        }
    }

    /// Takes what the spawner said in one go: one decision, one message and one commit serve all of it.
    fn heard_all(&mut self, way: Way, first: Heard) {
        self.heard(way, first);
        for _ in 1..WISHES_PER_TURN {
            let Some((way, heard)) = self.sides.buffered() else { return };
            self.heard(way, heard);
        }
    }

    /// Decides, hands over the batch, sends commands.
    fn turn(&mut self, now: Now) {
        self.record.advance(now);
        self.users.forget();
        if !self.stopping {
            self.collect(now);
        }
        if self.health == Health::Good {
            self.record_stops();
            self.go_on_with_bulk();
            if !self.stopping {
                self.run_schedules(now);
                self.look_at_host(now);
            }
            self.decide(now);
            self.dispatch();
            self.press_stopping(now);
            self.settle_beyond();
        }
        self.give_back_claims();
        self.flush(now);
        self.sides.flush();
        self.let_go_of_former();
        self.feed();
    }

    fn decide(&mut self, now: Now) {
        let permit = self.permit(now);
        for entry in schedule(&mut self.record, &permit, now) {
            self.note(entry);
        }
    }
}
