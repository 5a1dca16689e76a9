//! How the rest of the program talks to the loop: wishes in, answers and snapshots out.
//!
//! `http` and `run` hold a [`Handle`]; they never touch the record or the store's writing side. A wish that was answered
//! `Ok` is on disk. The queue of wishes is bounded: a sender waits, which is the back-pressure of the API.

use super::ends::{self, Ends};
pub use super::refusal::Refusal;
use super::schedule_deeds::ScheduleDeed;
use crate::config::Executor;
pub use crate::request::{IdempotencyKey, NewJob};
use crate::store::{Reader, ScheduleRow};
use ci_runner_core::announce::Announcement;
use ci_runner_core::explain::Reason;
use ci_runner_core::id::JobId;
use ci_runner_core::record::{Counts, GroupView, PoolView};
use ci_runner_core::state::Phase;
use ci_runner_core::time::{Instant, Now};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// Wishes that may wait for the loop.
pub const WISHES_MAX: usize = 4_096;
/// Who asks for the state of the host gets an older one after this: a glance must be possible when the loop is very busy.
const LOOK_PATIENCE: Duration = Duration::from_millis(500);

/// Who submits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submitter {
    /// As it is shown.
    pub name: String,
    /// User id, as the kernel told it; None: nobody of this host.
    pub uid: Option<u32>,
}

impl From<String> for Submitter {
    fn from(name: String) -> Self {
        Self { name, uid: None }
    }
}

/// Which jobs an action is for.
#[derive(Clone, Debug)]
pub enum Target {
    /// These; all of them must exist.
    Ids(Vec<JobId>),
    /// Every open job.
    All,
}

/// What can be wished of existing jobs.
#[derive(Clone, Debug)]
pub enum Action {
    /// End them.
    Cancel,
    /// Keep them in the queue.
    Hold {
        /// In words.
        reason: String,
    },
    /// Let them go.
    Release,
    /// Another priority.
    Priority(i16),
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Acted {
    /// Jobs it was done to.
    pub done: Vec<JobId>,
    /// Jobs that had finished before.
    pub finished: Vec<JobId>,
}

/// What changes the record, and so needs a store that takes commits; and where its answer goes.
pub enum Deed {
    /// Queue jobs, all or none.
    Submit {
        /// The jobs.
        jobs: Vec<NewJob>,
        /// How jobs that they wait for ended.
        ends: Ends,
        /// The request's idempotency key.
        key: Option<IdempotencyKey>,
        /// Who.
        submitter: Submitter,
        /// Ids in order, once they are on disk.
        reply: oneshot::Sender<Result<Vec<JobId>, Refusal>>,
    },
    /// Queue a schedule's job now.
    RunSchedule {
        /// Which.
        name: String,
        /// The request's idempotency key.
        key: Option<IdempotencyKey>,
        /// Who.
        submitter: Submitter,
        /// Its id, once it is on disk.
        reply: oneshot::Sender<Result<Vec<JobId>, Refusal>>,
    },
    /// Do something to jobs.
    Act {
        /// Which.
        target: Target,
        /// Those of them that had finished.
        ends: Ends,
        /// What.
        action: Action,
        /// Who.
        by: String,
        /// What was done.
        reply: oneshot::Sender<Result<Acted, Refusal>>,
    },
    /// Stop claiming (Some: reason and whether it is a drain) or go on (None).
    Pause {
        /// Reason and drain.
        pause: Option<(String, bool)>,
        /// Who.
        by: String,
        /// Done.
        reply: oneshot::Sender<Result<(), Refusal>>,
    },
    /// Change schedules.
    Schedule {
        /// What.
        deed: ScheduleDeed,
        /// The schedule as it is then.
        reply: oneshot::Sender<Result<ScheduleRow, Refusal>>,
    },
}

/// A wish and where its answer goes.
pub enum Wish {
    /// Change something.
    Do(Deed),
    /// Why a job does not run; None: it is not open.
    Explain {
        /// Which.
        id: JobId,
        /// The reasons and, beside them, how many go before it.
        reply: oneshot::Sender<Option<Explanation>>,
    },
    /// A snapshot that shows everything that was answered before.
    Look {
        /// The snapshot, once it is due.
        reply: oneshot::Sender<Arc<Snapshot>>,
    },
}

/// Answer to [`Wish::Explain`].
#[derive(Clone, Debug)]
pub struct Explanation {
    /// Where it stands.
    pub phase: Phase,
    /// The reasons.
    pub reasons: Vec<Reason>,
    /// Why nothing is recorded just now, whatever the job: the store takes no commits.
    pub store: Option<String>,
    /// Why nothing is started or told to end just now, whatever the job: the spawner does not answer.
    pub spawner: Option<String>,
    /// Jobs of its kind that go first.
    pub ahead: usize,
    /// When this was true.
    pub now: Now,
    /// What of the host's holds it up, in words.
    pub trouble: Vec<String>,
}

/// The record at a glance; made anew every 100 ms while something changes (more rarely where one is much work), and sooner for
/// who asks with [`Wish::Look`].
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// When.
    pub now: Now,
    /// Open jobs by pool.
    pub counts: BTreeMap<String, Counts>,
    /// Finished jobs by outcome word, since the store was made.
    pub finished: BTreeMap<String, u64>,
    /// Pools.
    pub pools: Vec<PoolView>,
    /// Groups.
    pub groups: Vec<GroupView>,
    /// Open attempts: job, attempt, pool, slot, phase, since.
    pub leases: Vec<LeaseView>,
    /// Submission of the job that could run and waits longest.
    pub oldest_waiting: Option<Instant>,
    /// Pause.
    pub paused: Option<ci_runner_core::change::Pause>,
    /// Limits of the host that are passed: nothing new starts.
    pub busy: Vec<ci_runner_core::busy::Busy>,
    /// What is wrong, in words; empty: healthy.
    pub problems: Vec<String>,
    /// The daemon is going away.
    pub stopping: bool,
    /// Every executor in use is connected.
    pub executor_up: bool,
    /// Who runs the jobs of each pool.
    pub executors: BTreeMap<String, Executor>,
    /// The spawners in use.
    pub sides: Vec<SideView>,
    /// What is wrong, by a fixed name.
    pub troubles: BTreeMap<&'static str, String>,
    /// A commit failed and none succeeded since.
    pub store_failing: bool,
    /// What was counted up to then.
    pub figures: Arc<crate::metrics::Figures>,
}

/// One spawner.
#[derive(Clone, Debug)]
pub struct SideView {
    /// Whose jobs it starts.
    pub executor: Executor,
    /// Another one is configured by now: it only looks after what it started.
    pub former: bool,
    /// It is there.
    pub connected: bool,
    /// It starts what it is told to.
    pub takes_starts: bool,
    /// Why not.
    pub problem: Option<String>,
}

/// One open attempt.
#[derive(Clone, Debug)]
pub struct LeaseView {
    /// Job.
    pub job: JobId,
    /// Attempt number.
    pub attempt: u32,
    /// Pool.
    pub pool: String,
    /// Place.
    pub slot: u32,
    /// Where it stands.
    pub phase: Phase,
    /// Since when it runs, or was claimed.
    pub since: Instant,
}

/// Facts for listeners, in order, only what is on disk.
#[derive(Clone)]
pub struct News {
    pub(super) latest: watch::Receiver<u64>,
    pub(super) ask: mpsc::Sender<(u64, oneshot::Sender<Vec<Announcement>>)>,
}

impl News {
    /// Number of the latest fact: start listening here.
    pub fn latest(&self) -> u64 {
        *self.latest.borrow()
    }

    /// Waits until there is something after `told`; empty when the daemon went away.
    pub async fn after(&mut self, told: u64) -> Vec<Announcement> {
        if self.latest.wait_for(|latest| *latest > told).await.is_err() {
            return Vec::new();
        }
        let (reply, answer) = oneshot::channel();
        if self.ask.send((told, reply)).await.is_err() {
            return Vec::new();
        }
        answer.await.unwrap_or_default()
    }
}

/// The way to the loop. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    pub(super) wishes: mpsc::Sender<Wish>,
    pub(super) snapshot: watch::Receiver<Arc<Snapshot>>,
    pub(super) news: News,
    /// The reading side of the store.
    pub reader: Arc<dyn Reader>,
    /// The settings jobs are validated against; replaced at a reload.
    pub settings: watch::Receiver<Arc<ci_runner_core::policy::Settings>>,
}

impl Handle {
    /// Queues jobs, all or none; the ids are on disk when it returns.
    pub async fn submit(
        &self,
        jobs: Vec<NewJob>,
        key: Option<IdempotencyKey>,
        submitter: impl Into<Submitter>,
    ) -> Result<Vec<JobId>, Refusal> {
        let submitter = submitter.into();
        let ends = ends::look_up(&self.reader, ends::dependencies(&jobs)?).await?;
        self.ask(|reply| Wish::Do(Deed::Submit { jobs, ends, key, submitter, reply })).await?
    }

    /// Does something to jobs.
    pub async fn act(&self, target: Target, action: Action, by: String) -> Result<Acted, Refusal> {
        let ids = match &target {
            Target::Ids(ids) => ids.iter().copied().collect(),
            Target::All => BTreeSet::new(),
        };
        // A job that runs can be ended although the store cannot be read; what is missing here the loop looks up.
        let ends = ends::look_up(&self.reader, ids).await.unwrap_or_default();
        self.ask(|reply| Wish::Do(Deed::Act { target, ends, action, by, reply })).await?
    }

    /// Stops claiming (reason and drain), or goes on.
    pub async fn pause(&self, pause: Option<(String, bool)>, by: String) -> Result<(), Refusal> {
        self.ask(|reply| Wish::Do(Deed::Pause { pause, by, reply })).await?
    }

    /// Why an open job does not run; None: it is not open.
    pub async fn explain(&self, id: JobId) -> Result<Option<Explanation>, Refusal> {
        self.ask(|reply| Wish::Explain { id, reply }).await
    }

    /// The latest snapshot.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.borrow().clone()
    }

    /// A snapshot that shows everything that was answered before this call; the latest one where the loop is too busy to make
    /// another within [`LOOK_PATIENCE`].
    pub async fn fresh_snapshot(&self) -> Arc<Snapshot> {
        match tokio::time::timeout(LOOK_PATIENCE, self.ask(|reply| Wish::Look { reply })).await {
            Ok(Ok(snapshot)) => snapshot,
            Ok(Err(_)) | Err(_) => self.snapshot(),
        }
    }

    /// Snapshots as they are made.
    pub fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshot.clone()
    }

    /// A listener.
    pub fn news(&self) -> News {
        self.news.clone()
    }

    pub(super) async fn ask<T>(&self, wish: impl FnOnce(oneshot::Sender<T>) -> Wish) -> Result<T, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.wishes.send(wish(reply)).await.map_err(|_| Refusal::Stopping)?;
        answer.await.map_err(|_| Refusal::Unknown)
    }
}
