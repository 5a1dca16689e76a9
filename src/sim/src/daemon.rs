//! The daemon, as a loop over the real decisions: facts are applied in memory at once, written in batches, and acted upon
//! when they are on disk. One call of a function here is one action; a crash may come between any two.

use crate::mutant::Mutant;
use crate::places::Places;
use crate::store::Fact;
use crate::wire::{Key, Request};
use crate::world::World;
use ci_runner_core::change::{Change, Entry};
use ci_runner_core::id::{Epoch, JobId};
use ci_runner_core::policy::Settings;
use ci_runner_core::reconcile::Seen;
use ci_runner_core::record::Record;
use ci_runner_core::state::Event;
use ci_runner_core::time::{ClockBase, Instant, Now};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

/// How long an answer may be missing before the daemon asks again.
pub(crate) const ASK_AGAIN_MS: u64 = 5_000;

/// Facts that go to disk together, and what waits for that.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub facts: Vec<Fact>,
    pub keys: Vec<(u64, JobId)>,
    pub acts: Vec<Act>,
    pub news: u64,
}

impl Batch {
    pub fn is_empty(&self) -> bool {
        self.facts.is_empty() && self.acts.is_empty()
    }
}

/// What is done when a fact is on disk.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// Answer a client: yes, with this job.
    Answer(usize, Option<JobId>),
    /// Tell the spawner.
    Send(Request),
    /// A stop is on disk: carry it out.
    Stop(Key),
}

/// An answer to `list` that is coming in.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// Attempts that were open when it was asked.
    pub open: Vec<Key>,
    /// Lines so far.
    pub lines: BTreeMap<Key, Seen>,
    /// Starts sent since.
    pub started: BTreeSet<Key>,
}

/// One life of the daemon.
pub(crate) struct Daemon {
    pub generation: u64,
    pub base: ClockBase,
    pub record: Record,
    pub settings: Rc<Settings>,
    /// What it was told of the places of the host.
    pub places: Rc<Places>,
    pub connection: Option<u64>,
    pub epoch: Option<Epoch>,
    /// The first list after connecting is in.
    pub up: bool,
    pub listing: Option<Listing>,
    pub listed: Instant,
    /// Lists that were asked for on this connection and are not told: an answer belongs to the oldest.
    pub lists_due: u32,
    pub pending: Batch,
    pub inflight: Option<Batch>,
    /// Jobs with facts that are not on disk, and how many.
    pub unsaved: BTreeMap<JobId, u32>,
    /// Attempts whose only start was sent by this daemon: refused, they have certainly not run.
    pub first_starts: BTreeSet<Key>,
    /// Looks to be judged when the job's facts are on disk.
    pub looks: BTreeMap<Key, Seen>,
    pub acts: VecDeque<Act>,
    pub wake: bool,
    /// A turn was taken since the last fact: only then a batch is whole.
    pub whole: bool,
    pub stopping: bool,
    /// What the listener was told last.
    pub told: u64,
}

/// One action of the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Move {
    Read,
    NoticeLoss,
    Connect,
    Serve,
    Turn,
    Write,
    Commit,
    Act,
    Dispatch,
    Timer,
    Exit,
}

impl Daemon {
    pub fn is_saved(&self, job: JobId) -> bool {
        !self.unsaved.contains_key(&job)
    }

    /// The open attempts.
    pub fn open(&self) -> Vec<Key> {
        self.record.leases().map(|(job, lease)| Key { job, attempt: lease.attempt.0 }).collect()
    }

    pub fn is_open(&self, key: Key) -> bool {
        self.record.lease(key.job).is_some_and(|lease| lease.attempt.0 == key.attempt)
    }

    /// When the next kill is due that was not looked after yet.
    fn kill_due(&self) -> Option<Instant> {
        let kills = self.record.leases().filter_map(|(_, lease)| lease.stop.as_ref().map(|(_, at)| *at));
        kills.filter(|at| *at >= self.listed).min()
    }

    fn ask_due(&self) -> Option<Instant> {
        if !self.up || self.listing.is_some() || self.record.leases().next().is_none() {
            return None;
        }
        let again = self.listed.plus_ms(ASK_AGAIN_MS);
        Some(self.kill_due().map_or(again, |kill| kill.plus_ms(1).min(again)))
    }

    /// When it wants to be woken, by engine time.
    pub fn wake_at(&self, now: Now) -> Option<Instant> {
        let (engine, wall) = self.record.next_times();
        let wall = wall.map(|wall| Instant(now.engine.0 + (wall.0 - now.wall.0).max(0)));
        [engine, wall, self.record.next_stale(), self.ask_due()].into_iter().flatten().min()
    }

    pub fn push(&mut self, entry: Entry) -> Result<(), String> {
        self.record.apply(&entry).map_err(|illegal| format!("{illegal}: {entry:?}"))?;
        self.note(entry);
        Ok(())
    }

    /// Takes a fact that is already in the record.
    pub fn note(&mut self, entry: Entry) {
        let job = match &entry.change {
            Change::Submitted(submission) => Some(submission.id),
            Change::Job { id, .. } | Change::Wished { id, .. } | Change::Reprioritized { id, .. } => Some(*id),
            Change::Paused(_) => None,
        };
        if let Some(job) = job {
            *self.unsaved.entry(job).or_default() += 1;
        }
        let pool = match &entry.change {
            Change::Job { event: Event::Claimed { pool, .. }, .. } => Some(self.record.pool_name(*pool).to_owned()),
            _ => None,
        };
        if let Change::Job { id, event: Event::StopRequested { attempt, .. } } = &entry.change {
            self.pending.acts.push(Act::Stop(Key { job: *id, attempt: attempt.0 }));
        }
        self.whole = false;
        self.pending.facts.push(Fact { entry, settings: self.settings.clone(), places: self.places.clone(), pool });
        self.wake = true;
    }

    /// The batch is on disk (or given up): its jobs have that many unsaved facts less.
    pub fn settle(&mut self, batch: &Batch) {
        for fact in &batch.facts {
            let job = match &fact.entry.change {
                Change::Submitted(submission) => submission.id,
                Change::Job { id, .. } | Change::Wished { id, .. } | Change::Reprioritized { id, .. } => *id,
                Change::Paused(_) => continue,
            };
            if let Some(count) = self.unsaved.get_mut(&job) {
                *count -= 1;
                if *count == 0 {
                    self.unsaved.remove(&job);
                }
            }
        }
    }
}

impl World {
    /// A daemon starts on what is on disk.
    pub(crate) fn start_daemon(&mut self) {
        let clock = &self.clock;
        let stored = self.store.clock.clone();
        let wall = clock.wall();
        let base = ClockBase::resume(stored.as_ref(), self.store.last, &clock.boot_id(), clock.boottime(), wall);
        let now = clock.now(&base);
        let generation = self.store.open(base.clone(), now);
        let settings = Rc::new(self.config().clone());
        self.note("daemon", [generation, 0], || format!("starts, generation {generation}"));
        self.truth.listener_looks_again(&self.store);
        let mut daemon = Daemon {
            generation,
            base,
            record: self.read_store(&settings, now),
            settings,
            places: self.places.clone(),
            connection: None,
            epoch: None,
            up: false,
            listing: None,
            listed: now.engine,
            lists_due: 0,
            pending: Batch::default(),
            inflight: None,
            unsaved: BTreeMap::new(),
            first_starts: BTreeSet::new(),
            looks: BTreeMap::new(),
            acts: VecDeque::new(),
            wake: true,
            whole: true,
            stopping: false,
            told: 0,
        };
        self.tell_places(&mut daemon);
        self.daemon = Some(daemon);
    }

    /// The daemon is gone, with all it had in memory.
    pub(crate) fn end_daemon(&mut self) {
        let Some(daemon) = self.daemon.take() else { return };
        let late_until = self.clock.time + self.rng.pick(&[0, 0, 20_000, 100_000]);
        if let Some(connection) = daemon.connection.and_then(|id| self.host.connection(id)) {
            connection.daemon_open = false;
            // What a dead daemon sent may stand unread for long, if nobody drops it.
            connection.late_until = late_until;
            connection.to_daemon.clear();
        }
        self.host.connections.retain(|connection| connection.daemon_open || connection.spawner_open);
        self.clients.hang_up();
    }

    /// What the daemon could do next.
    pub(crate) fn daemon_moves(&self) -> Vec<Move> {
        let Some(daemon) = &self.daemon else { return Vec::new() };
        let mut moves = Vec::new();
        let connection = daemon.connection.and_then(|id| self.host.connections.iter().find(|one| one.id == id));
        match (daemon.connection, connection) {
            (None, _) => moves.push(Move::Connect),
            (Some(_), Some(connection)) if !connection.to_daemon.is_empty() => moves.push(Move::Read),
            (Some(_), Some(connection)) if connection.spawner_open => {}
            (Some(_), _) => moves.push(Move::NoticeLoss),
        }
        if !self.clients.waiting.is_empty() && !daemon.stopping {
            moves.push(Move::Serve);
        }
        if daemon.wake {
            moves.push(Move::Turn);
        }
        match &daemon.inflight {
            Some(_) => moves.push(Move::Commit),
            None if !daemon.pending.is_empty() && daemon.whole => moves.push(Move::Write),
            None => {}
        }
        if !daemon.acts.is_empty() {
            moves.push(Move::Act);
        }
        if self.next_dispatch(daemon).is_some() {
            moves.push(Move::Dispatch);
        }
        let now = self.clock.now(&daemon.base);
        let due = daemon.wake_at(now).is_some_and(|at| at <= now.engine);
        if due && !daemon.wake && !self.is(Mutant::DropWakeUps) {
            moves.push(Move::Timer);
        }
        let idle = daemon.inflight.is_none() && daemon.pending.is_empty() && daemon.acts.is_empty();
        if daemon.stopping && idle {
            moves.push(Move::Exit);
        }
        moves
    }

    /// Does it.
    pub(crate) fn daemon_move(&mut self, what: Move) {
        let Some(mut daemon) = self.daemon.take() else { return };
        let now = self.clock.now(&daemon.base);
        if !self.sleeps_on(what) {
            daemon.record.advance(now);
        }
        let mut stays = true;
        match what {
            Move::Read => self.read_reply(&mut daemon),
            Move::NoticeLoss => self.lose_connection(&mut daemon),
            Move::Connect => stays = self.connect(&mut daemon),
            Move::Serve => self.serve(&mut daemon),
            Move::Turn => self.turn(&mut daemon, now),
            Move::Write => {
                let mut batch = std::mem::take(&mut daemon.pending);
                batch.news = daemon.record.news_seq();
                self.note("write", [batch.facts.len() as u64, 0], || format!("{} facts", batch.facts.len()));
                daemon.inflight = Some(batch);
            }
            Move::Commit => self.commit(&mut daemon),
            Move::Act => self.act(&mut daemon),
            Move::Dispatch => self.dispatch(&mut daemon),
            Move::Timer => self.timer(&mut daemon, now),
            Move::Exit => stays = false,
        }
        self.daemon = Some(daemon);
        if !stays {
            self.note("daemon", [0, 0], || "ends".to_owned());
            self.end_daemon();
        }
    }

    /// The mutant that does not look at the clock when it wakes.
    fn sleeps_on(&self, what: Move) -> bool {
        self.is(Mutant::DecideByOldTime) && matches!(what, Move::Turn | Move::Timer)
    }

    fn timer(&mut self, daemon: &mut Daemon, now: Now) {
        daemon.wake = true;
        if daemon.ask_due().is_none_or(|due| due > now.engine) {
            return;
        }
        self.ask_list(daemon);
    }
}
