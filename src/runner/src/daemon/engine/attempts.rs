//! Open attempts: what was last seen of each, and what reconciliation makes of it.

use super::counting::Begin;
use super::journal::wall_of;
use super::telling::{About, Telling};
use super::*;
use crate::fail;
use crate::store::Write;
use ci_runner_core::change::{Change, Lease};
use ci_runner_core::id::AttemptNumber;
use ci_runner_core::outcome::{AttemptResult, LostCause, Receipt};
use ci_runner_core::reconcile::{Observation, Step, reconcile};
use ci_runner_core::state::{Event, Phase};
use ci_runner_spawner::protocol::Request;

/// An answer of the service manager about the system's state holds so long.
const SYSTEM_STATE_KEPT: Duration = Duration::from_secs(1);
/// A native spawner says at the fork that an attempt runs, and what keeps it from beginning a few milliseconds later. After a refusal
/// it is believed only when it has not taken its word back for so long: else such an attempt would run again and again.
const BELIEVED_MS: u64 = 250;

/// What this daemon knows of an open attempt.
pub(super) struct Watch {
    pub(super) attempt: u32,
    pub(super) seen: Seen,
    /// False while a `start` of ours is unanswered.
    pub(super) settled: bool,
    pub(super) receipt: Option<Receipt>,
    /// After a refused start: not before (once a later one was said to run, that is not believed before), and how long the pause was.
    pub(super) refused: Option<(Instant, u64)>,
    /// What it was refused for.
    pub(super) refused_why: Option<String>,
    /// The only `start` that was ever sent of it is this daemon's: refused, it has certainly not run.
    pub(super) first_start: bool,
    pub(super) signalled: bool,
    pub(super) killed: bool,
    pub(super) voided: bool,
}

impl Watch {
    /// It is of this attempt, which was seen alive.
    pub(super) fn lives(&self, attempt: u32) -> bool {
        self.attempt == attempt && self.seen == Seen::Alive
    }

    pub(super) fn new(attempt: u32, seen: Seen) -> Self {
        Self {
            attempt,
            seen,
            settled: true,
            receipt: None,
            refused: None,
            refused_why: None,
            first_start: false,
            signalled: false,
            killed: false,
            voided: false,
        }
    }
}

impl Engine {
    pub(super) fn saw(&mut self, way: Way, key: &AttemptKey, seen: Seen, receipt: Option<Receipt>) {
        let Some(id) = JobId::new(key.job).filter(|_| key.store == self.job_host.store) else { return };
        match &seen {
            Seen::Alive => fail::point(fail::ON_STARTED),
            Seen::Ended(_) | Seen::Gone => fail::point(fail::ON_ENDED),
            Seen::Absent | Seen::NotBegan | Seen::Voided | Seen::Leftovers => {}
        }
        let is_open =
            self.record.lease(id).is_some_and(|l| l.attempt.0 == key.attempt && self.sides.way_of(&l.epoch) == way);
        if !is_open {
            self.saw_stranger(way, id, key, seen);
            return;
        }
        let seen = self.blame_the_host(id, seen);
        let was_sent = self.was_sent_unrecorded(id, key.attempt);
        self.believe_at_its_end(id, key.attempt, &seen);
        let now = self.clock.now().engine;
        let watch = self.watches.entry(id).or_insert_with(|| Watch::new(key.attempt, Seen::Absent));
        if watch.attempt != key.attempt {
            *watch = Watch::new(key.attempt, Seen::Absent);
        }
        watch.seen = seen;
        watch.settled = true;
        watch.receipt = receipt.or(watch.receipt);
        watch.signalled |= was_sent;
        if let (Seen::Alive, Some((until, _))) = (&watch.seen, &mut watch.refused) {
            *until = now.plus_ms(BELIEVED_MS);
        }
        self.send_unrecorded(id);
        self.consider(id);
    }

    /// What has ended did run, although nobody believed it yet.
    fn believe_at_its_end(&mut self, id: JobId, attempt: u32, seen: &Seen) {
        let ran = matches!(seen, Seen::Ended(_) | Seen::Gone | Seen::Leftovers);
        let was_said = self.watches.get(&id).is_some_and(|watch| watch.lives(attempt));
        if self.health == Health::Good && ran && was_said && self.record.phase(id) == Some(Phase::Starting) {
            self.record_event(id, Event::Started { attempt: AttemptNumber(attempt) });
        }
    }

    /// A death by a signal that nobody here sent, while the whole system goes down, is the host's doing: a clean reboot must
    /// not look like a failed job.
    fn blame_the_host(&mut self, id: JobId, seen: Seen) -> Seen {
        let unasked = self.record.lease(id).is_some_and(|lease| lease.stop.is_none());
        match seen {
            Seen::Ended(AttemptResult::Signaled { .. }) if unasked && self.system_is_stopping() => {
                Seen::Ended(AttemptResult::Lost { cause: LostCause::Host })
            }
            seen => seen,
        }
    }

    /// Asks the service manager at most once a second: many jobs may die at once.
    fn system_is_stopping(&mut self) -> bool {
        let now = std::time::Instant::now();
        match self.system_stopping {
            Some((asked, answer)) if now.duration_since(asked) < SYSTEM_STATE_KEPT => answer,
            _ => {
                let answer = crate::systemd::system_is_stopping();
                self.system_stopping = Some((now, answer));
                answer
            }
        }
    }

    /// Another attempt than the open one: cleaned up, or reported when no job knows it.
    fn saw_stranger(&mut self, way: Way, id: JobId, key: &AttemptKey, seen: Seen) {
        if self.uncommitted.contains_key(&id) {
            // Its end may be on its way to the disk: judged when that is there, for nobody may tell of it again.
            self.strangers.push((way, key.clone(), seen));
            return;
        }
        if self.is_set_aside(id) {
            // What the row should say is not known, so neither is what may be done about its attempts.
            log::warn!(job = id.get(); "attempt {key} is of job {id}, of which the store holds an impossible state: left alone");
            return;
        }
        if self.is_of_beyond(id, key.attempt) {
            self.saw_beyond(way, id, key, &seen);
            return;
        }
        let observation = Observation { seen, same_epoch: true, settled: true };
        match reconcile(&self.record, id, key.attempt, &observation, self.clock.now()) {
            Step::Forget => self.sides.send(way, Request::Forget(key.clone())),
            Step::Kill => self.sides.send(way, Request::Kill(key.clone())),
            Step::Report => self.saw_beyond(way, id, key, &observation.seen),
            Step::Leave | Step::Record(_) | Step::Start | Step::Void | Step::Signal { .. } => {}
        }
    }

    /// An open job whose claim could not be taken from the store: it has no lease although its phase needs one.
    fn is_set_aside(&self, id: JobId) -> bool {
        let needs_lease = match self.record.phase(id) {
            Some(Phase::Starting | Phase::Running | Phase::Stopping) => true,
            Some(Phase::Queued | Phase::Finished) | None => false,
        };
        needs_lease && self.record.lease(id).is_none()
    }

    /// Judges the strangers that had to wait for a commit.
    pub(super) fn judge_strangers(&mut self) {
        for (way, key, seen) in std::mem::take(&mut self.strangers) {
            if let Some(id) = JobId::new(key.job) {
                self.saw_stranger(way, id, &key, seen);
            }
        }
    }

    pub(super) fn consider_all(&mut self, ids: Vec<JobId>) {
        for id in ids {
            self.consider(id);
        }
    }

    /// Brings one open attempt in line with the record.
    pub(super) fn consider(&mut self, id: JobId) {
        if self.health != Health::Good {
            return;
        }
        let Some(lease) = self.record.lease(id) else { return };
        let way = self.sides.way_of(&lease.epoch);
        if !self.sides.listed(way) {
            return;
        }
        let attempt = lease.attempt.0;
        let same_epoch = self.sides.is_present(&lease.epoch);
        let watch = self.watches.get(&id).filter(|watch| watch.attempt == attempt);
        let seen = watch.map_or(Seen::Absent, |watch| watch.seen.clone());
        let settled = watch.is_none_or(|watch| watch.settled);
        let observation = Observation { seen, same_epoch, settled };
        let now = self.clock.now();
        let step = reconcile(&self.record, id, attempt, &observation, now);
        let key = self.key(id, attempt);
        match step {
            Step::Leave | Step::Report => {}
            Step::Record(Event::Started { .. }) if self.is_doubted(id, now) => {}
            Step::Record(event) => {
                if observation.seen == Seen::Absent && same_epoch {
                    log_unknown_end(&key, &event);
                }
                self.record_event(id, event);
            }
            // What is not on disk is not acted on; the commit asks again.
            _ if self.uncommitted.contains_key(&id) => {}
            Step::Start => self.start(id, attempt, now),
            Step::Void => self.command(id, attempt, Request::Void(key), |watch| &mut watch.voided),
            Step::Kill => self.command(id, attempt, Request::Kill(key), |watch| &mut watch.killed),
            Step::Signal { grace_ms } => {
                self.command(id, attempt, Request::Signal { key, grace_ms }, |watch| &mut watch.signalled);
            }
            Step::Forget => self.sides.send(way, Request::Forget(key)),
        }
    }

    /// True while an attempt whose start was refused before is said to run, and that is not believed yet.
    fn is_doubted(&mut self, id: JobId, now: Now) -> bool {
        let Some(watch) = self.watches.get_mut(&id) else { return false };
        if watch.refused.is_some_and(|(until, _)| until > now.engine) {
            return true;
        }
        (watch.refused, watch.refused_why) = (None, None);
        false
    }

    /// Sends a command once for each time that its attempt was listed.
    pub(super) fn command(
        &mut self,
        id: JobId,
        attempt: u32,
        request: Request,
        done: impl FnOnce(&mut Watch) -> &mut bool,
    ) {
        let Some(way) = self.record.lease(id).map(|lease| self.sides.way_of(&lease.epoch)) else { return };
        let watch = self.watches.entry(id).or_insert_with(|| Watch::new(attempt, Seen::Absent));
        if !std::mem::replace(done(watch), true) {
            match &request {
                Request::Signal { .. } => fail::point(fail::BEFORE_SIGNAL),
                Request::Void(_) => fail::point(fail::BEFORE_VOID),
                _ => {}
            }
            self.sides.send(way, request);
        }
    }

    pub(super) fn key(&self, id: JobId, attempt: u32) -> AttemptKey {
        AttemptKey { store: self.job_host.store.clone(), job: id.get(), attempt }
    }

    /// Told once it is kept that the attempt is over: its spawner may forget it.
    pub(super) fn forgetting(&self, id: JobId, lease: &Lease) -> batch::Effect {
        let (way, key) = (self.sides.way_of(&lease.epoch), self.key(id, lease.attempt.0));
        match self.sides.is_present(&lease.epoch) {
            true => batch::Effect::Forget(way, id, key),
            false => batch::Effect::Sweep(way, id, key),
        }
    }

    pub(super) fn record_event(&mut self, id: JobId, event: Event) {
        let Some(lease) = self.record.lease(id) else { return };
        let (attempt, executor, forget) = (lease.attempt, executor_of(&lease.epoch), self.forgetting(id, lease));
        let pool = self.record.pool_name(lease.pool).to_owned();
        let watch = self.watches.get(&id).filter(|watch| watch.attempt == attempt.0);
        let receipt = watch.and_then(|watch| watch.receipt);
        let ended = match &event {
            Event::Ended { result, next, .. } => Some((result.clone(), next.clone())),
            _ => None,
        };
        let began = matches!(event, Event::Started { .. });
        let released = matches!(event, Event::Released { .. });
        let begin = Begin::of(lease.claimed, self.record.submitted(id));
        let claimed = wall_of(self.record.now(), lease.claimed);
        if !self.record_change(Change::Job { id, event }) {
            return;
        }
        let number = attempt.0;
        let about = || About { id, attempt: number, claimed, pool, executor, story: self.story(id) };
        if let Some((result, next)) = ended {
            let telling = Telling::Ended { about: about(), result, next, receipt };
            if let Some(receipt) = receipt {
                self.batch.writes.push(Write::Receipt { job: id, attempt, receipt });
            }
            self.batch.tell(telling);
        } else if began {
            let telling = Telling::Began { about: about(), begin: begin.now(&self.record, id) };
            self.batch.tell(telling);
        }
        if released || self.record.lease(id).is_none() {
            self.stories.remove(&id);
            self.batch.effects.push(forget);
        }
    }

    /// Kills what was told to end, before its grace is over.
    pub(super) fn kill_stopping(&mut self) {
        let stopping = self.record.leases().filter(|(_, lease)| lease.stop.is_some());
        for (id, attempt) in stopping.map(|(id, lease)| (id, lease.attempt.0)).collect::<Vec<_>>() {
            let key = self.key(id, attempt);
            self.command(id, attempt, Request::Kill(key), |watch| &mut watch.killed);
        }
    }

    /// Stopping attempts whose grace is over, and refused starts whose pause is.
    pub(super) fn press_stopping(&mut self, now: Now) {
        let due: Vec<JobId> = self
            .record
            .leases()
            .filter(|(id, lease)| {
                let over = lease.stop.as_ref().is_some_and(|(_, kill_at)| *kill_at <= now.engine);
                let refused = self.watches.get(id).and_then(|watch| watch.refused);
                over || refused.is_some_and(|(until, _)| until <= now.engine)
            })
            .map(|(id, _)| id)
            .collect();
        self.consider_all(due);
    }

    /// When [`Engine::press_stopping`] has something to do. What cannot be done now comes with an event, not with time.
    pub(super) fn next_press(&self) -> Option<Instant> {
        if self.health != Health::Good {
            return None;
        }
        let now = self.record.now().engine;
        let stops = self.record.leases().filter_map(|(id, lease)| {
            let (_, kill_at) = lease.stop.as_ref().filter(|_| self.sides.listed(self.sides.way_of(&lease.epoch)))?;
            let watch = self.watches.get(&id);
            let told = watch.is_some_and(|watch| watch.killed || watch.voided || !watch.settled);
            (!told).then_some(*kill_at)
        });
        let refused = self.watches.values().filter_map(|watch| watch.refused).map(|(until, _)| until);
        stops.chain(refused.filter(|until| *until > now)).min()
    }
}

/// The record says that it began, in this life of the spawner's directory, yet there is nothing of it.
fn log_unknown_end(key: &AttemptKey, event: &Event) {
    if let Event::Ended { result: AttemptResult::Lost { .. }, .. } = event {
        log::warn!(job = key.job, attempt = key.attempt;
            "attempt {key} began, but the spawner has nothing of it any more: the state was put back from an older copy, and it \
             ended since, or its directory was removed. How it ended is not known, so it counts as lost");
    }
}
