//! Open attempts: what was last seen of each, and what reconciliation makes of it.

use super::counting::Begin;
use super::telling::{About, Telling};
use super::*;
use crate::daemon::fail;
use crate::daemon::job_env::{Where, specification};
use crate::executor::native::StartOrder;
use crate::store::{StoreError, Write};
use ci_runner_core::change::Change;
use ci_runner_core::outcome::{AttemptResult, LostCause, Receipt};
use ci_runner_core::reconcile::{Observation, Step, reconcile};
use ci_runner_core::state::{Event, Phase};
use ci_runner_spawner::protocol::{Request, Start, UNIT_WORKSPACE};
use std::io::ErrorKind;

/// An answer of the service manager about the system's state holds so long.
const SYSTEM_STATE_KEPT: Duration = Duration::from_secs(1);
/// A refused start is tried again after this, doubled each time up to the maximum.
const REFUSED_MS: u64 = 100;
/// The longest pause between two tries of a refused start.
const REFUSED_MS_MAX: u64 = 10_000;

/// A spawner in messages.
fn spawner_of(executor: Executor) -> &'static str {
    match executor {
        Executor::Native => "the spawner",
        Executor::Systemd => "the spawner of units",
    }
}

/// Name of its troubles among the host's.
pub(super) fn spawner_problem(executor: Executor) -> &'static str {
    match executor {
        Executor::Native => "spawner",
        Executor::Systemd => "systemd spawner",
    }
}

/// What this daemon knows of an open attempt.
pub(super) struct Watch {
    attempt: u32,
    seen: Seen,
    /// False while a `start` of ours is unanswered.
    settled: bool,
    receipt: Option<Receipt>,
    /// After a refused start: not before, and how long the pause was.
    refused: Option<(Instant, u64)>,
    /// What it was refused for.
    pub(super) refused_why: Option<String>,
    /// The only `start` that was ever sent of it is this daemon's: refused, it has certainly not run.
    first_start: bool,
    signalled: bool,
    killed: bool,
    voided: bool,
}

impl Watch {
    /// It is of this attempt, which was seen alive.
    pub(super) fn lives(&self, attempt: u32) -> bool {
        self.attempt == attempt && self.seen == Seen::Alive
    }

    fn new(attempt: u32, seen: Seen) -> Self {
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
    /// Asks the spawner what there is; until it has told, nothing is claimed or commanded.
    pub(super) fn list_again(&mut self) {
        for executor in Executor::ALL {
            self.list_side(executor);
        }
    }

    /// The same for one side: only what was seen of its attempts is forgotten.
    fn list_side(&mut self, executor: Executor) {
        let record = &self.record;
        let of_side = |id: &JobId| record.lease(*id).is_some_and(|lease| executor_of(&lease.epoch) == executor);
        self.watches.retain(|id, _| record.lease(*id).is_some() && !of_side(id));
        self.strangers.retain(|(side, ..)| *side != executor);
        let Some(side) = self.sides.get_mut(executor) else { return };
        side.listed = false;
        if side.epoch.is_some() {
            side.lists += 1;
            if side.lists == 1 {
                side.link.send(Request::List);
            }
        }
    }

    /// Takes a word of a spawner.
    pub(super) fn heard(&mut self, executor: Executor, heard: Heard) {
        self.changed = true;
        let Some(side) = self.sides.get_mut(executor) else { return };
        match heard {
            Heard::Up { epoch, cgroup, enforces } => {
                self.problems.remove(spawner_problem(executor));
                let what = if cgroup { "cgroups" } else { "sessions only" };
                log::info!("{} spawner connected, attempts have {what}", executor.name());
                side.epoch = Some(side.named_epoch(&epoch));
                side.why_down = None;
                side.closed = None;
                side.lists = 0;
                side.enforces = Some(enforces);
                self.tell_enforced();
                self.list_side(executor);
            }
            Heard::Down { why } => {
                let hint = match executor {
                    Executor::Native if self.host.jobs_have_users => {
                        "connecting again; see systemctl status ci-runner-jobs"
                    }
                    Executor::Native => "it is started again",
                    Executor::Systemd => "connecting again; see systemctl status ci-runner-spawner",
                };
                if side.why_down.as_ref() != Some(&why) {
                    log::warn!("the {} spawner is gone ({why}); jobs go on, {hint}", executor.name());
                }
                self.problems.remove(spawner_problem(executor));
                side.why_down = Some(why);
                side.epoch = None;
                side.listed = false;
            }
            Heard::Silent { pid, waited } => {
                let text = format!(
                    "{} (process {pid}) has not answered for {} s: it is stopped or hangs. Jobs go on, but none is \
                     started or told to end; `kill -CONT {pid}` wakes it if it is stopped",
                    spawner_of(executor),
                    waited.as_secs()
                );
                log::error!("{text}");
                self.problems.insert(spawner_problem(executor), text);
            }
            Heard::Answers => {
                log::info!("{} answers again", spawner_of(executor));
                self.problems.remove(spawner_problem(executor));
            }
            Heard::Listed => {
                // One list is on its way at a time. Where another was wanted meanwhile, what this one told was forgotten
                // half-way, so its end says nothing.
                if std::mem::take(&mut side.lists) > 1 {
                    self.list_side(executor);
                    return;
                }
                side.listed = true;
                let of_side = self.record.leases().filter(|(_, lease)| executor_of(&lease.epoch) == executor);
                let open: Vec<JobId> = of_side.map(|(id, _)| id).collect();
                self.count_adopted(executor, &open);
                if !open.is_empty() {
                    log::info!("looking after {} open attempts of the {} spawner", open.len(), executor.name());
                }
                self.consider_all(open);
            }
            Heard::Seen { key, seen, receipt } => self.saw(executor, &key, seen, receipt.map(|receipt| *receipt)),
            Heard::RefusedStart { key, why, closed } => {
                if closed && side.closed.is_none() {
                    log::warn!("the {} spawner starts nothing any more ({why}); jobs that run go on", executor.name());
                    side.closed = Some(why.clone());
                }
                self.start_refused(&key, &why);
            }
        }
    }

    fn saw(&mut self, executor: Executor, key: &AttemptKey, seen: Seen, receipt: Option<Receipt>) {
        let Some(id) = JobId::new(key.job).filter(|_| key.store == self.job_host.store) else { return };
        match &seen {
            Seen::Alive => fail::point(fail::ON_STARTED),
            Seen::Ended(_) | Seen::Gone => fail::point(fail::ON_ENDED),
            Seen::Absent | Seen::NotBegan | Seen::Voided | Seen::Leftovers => {}
        }
        let is_open =
            self.record.lease(id).is_some_and(|l| l.attempt.0 == key.attempt && executor_of(&l.epoch) == executor);
        if !is_open {
            self.saw_stranger(executor, id, key, seen);
            return;
        }
        let seen = self.blame_the_host(id, seen);
        let watch = self.watches.entry(id).or_insert_with(|| Watch::new(key.attempt, Seen::Absent));
        if watch.attempt != key.attempt {
            *watch = Watch::new(key.attempt, Seen::Absent);
        }
        watch.seen = seen;
        watch.settled = true;
        watch.receipt = receipt.or(watch.receipt);
        self.consider(id);
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
    fn saw_stranger(&mut self, executor: Executor, id: JobId, key: &AttemptKey, seen: Seen) {
        if self.uncommitted.contains_key(&id) {
            // Its end may be on its way to the disk: judged when that is there, for nobody may tell of it again.
            self.strangers.push((executor, key.clone(), seen));
            return;
        }
        if self.is_set_aside(id) {
            // What the row should say is not known, so neither is what may be done about its attempts.
            log::warn!(job = id.get(); "attempt {key} is of job {id}, of which the store holds an impossible state: left alone");
            return;
        }
        let observation = Observation { seen, same_epoch: true, settled: true };
        match reconcile(&self.record, id, key.attempt, &observation, self.clock.now()) {
            Step::Forget => self.sides.send(executor, Request::Forget(key.clone())),
            Step::Kill => self.sides.send(executor, Request::Kill(key.clone())),
            Step::Report => {
                log::warn!(job = id.get(); "attempt {key} is of our store, but no job knows it: left alone")
            }
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
        for (executor, key, seen) in std::mem::take(&mut self.strangers) {
            if let Some(id) = JobId::new(key.job) {
                self.saw_stranger(executor, id, &key, seen);
            }
        }
    }

    pub(super) fn consider_all(&mut self, ids: Vec<JobId>) {
        for id in ids {
            self.consider(id);
        }
    }

    /// Brings one open attempt in line with the record.
    fn consider(&mut self, id: JobId) {
        if self.health != Health::Good {
            return;
        }
        let Some(lease) = self.record.lease(id) else { return };
        let executor = executor_of(&lease.epoch);
        if !self.sides.listed(executor) {
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
            Step::Record(event) => self.record_event(id, event),
            // What is not on disk is not acted on; the commit asks again.
            _ if self.uncommitted.contains_key(&id) => {}
            Step::Start => self.start(id, attempt, now),
            Step::Void => self.command(id, attempt, Request::Void(key), |watch| &mut watch.voided),
            Step::Kill => self.command(id, attempt, Request::Kill(key), |watch| &mut watch.killed),
            Step::Signal { grace_ms } => {
                self.command(id, attempt, Request::Signal { key, grace_ms }, |watch| &mut watch.signalled);
            }
            Step::Forget => self.sides.send(executor, Request::Forget(key)),
        }
    }

    /// Sends a command once for each time that its attempt was listed.
    fn command(&mut self, id: JobId, attempt: u32, request: Request, done: impl FnOnce(&mut Watch) -> &mut bool) {
        let Some(executor) = self.record.lease(id).map(|lease| executor_of(&lease.epoch)) else { return };
        let watch = self.watches.entry(id).or_insert_with(|| Watch::new(attempt, Seen::Absent));
        if !std::mem::replace(done(watch), true) {
            match &request {
                Request::Signal { .. } => fail::point(fail::BEFORE_SIGNAL),
                Request::Void(_) => fail::point(fail::BEFORE_VOID),
                _ => {}
            }
            self.sides.send(executor, request);
        }
    }

    fn key(&self, id: JobId, attempt: u32) -> AttemptKey {
        AttemptKey { store: self.job_host.store.clone(), job: id.get(), attempt }
    }

    fn record_event(&mut self, id: JobId, event: Event) {
        let Some(lease) = self.record.lease(id) else { return };
        let (attempt, epoch_is_present) = (lease.attempt, self.sides.is_present(&lease.epoch));
        let executor = executor_of(&lease.epoch);
        let pool = self.record.pool_name(lease.pool).to_owned();
        let watch = self.watches.get(&id).filter(|watch| watch.attempt == attempt.0);
        let receipt = watch.and_then(|watch| watch.receipt);
        let ended = match &event {
            Event::Ended { result, next, .. } => Some((result.clone(), next.clone())),
            _ => None,
        };
        let released = matches!(event, Event::Released { .. });
        let begin = Begin::of(lease.claimed, self.record.submitted(id));
        if !self.record_change(Change::Job { id, event }) {
            return;
        }
        let number = attempt.0;
        if !released {
            let about = About { id, attempt: number, pool, executor, story: self.story(id) };
            let telling = match ended {
                Some((result, next)) => {
                    if let Some(receipt) = receipt {
                        self.batch.writes.push(Write::Receipt { job: id, attempt, receipt });
                    }
                    Telling::Ended { about, result, next, receipt }
                }
                None => Telling::Began { about, begin: begin.now(&self.record, id) },
            };
            self.batch.tell(telling);
        }
        if released || self.record.lease(id).is_none() {
            self.stories.remove(&id);
            let key = self.key(id, number);
            let effect = if epoch_is_present {
                commit::Effect::Forget(executor, id, key)
            } else {
                commit::Effect::Sweep(executor, id, key)
            };
            self.batch.effects.push(effect);
        }
    }

    /// Sends claims whose turn has come.
    pub(super) fn dispatch(&mut self) {
        if self.stopping {
            return;
        }
        for pool in self.record.pool_ids() {
            let ready: Vec<JobId> =
                self.record.undispatched(pool).filter(|id| !self.uncommitted.contains_key(id)).collect();
            for id in ready {
                if !self.record.may_dispatch(pool) {
                    break;
                }
                self.consider(id);
            }
        }
    }

    /// Before an orderly end: what was claimed and never sent goes back to the queue. A later daemon could not tell it from
    /// what ran, and after a reboot would have to call it lost with the host.
    pub(super) fn give_back_claims(&mut self) {
        if !self.stopping || self.health != Health::Good {
            return;
        }
        for pool in self.record.pool_ids() {
            let never_sent: Vec<JobId> = self.record.undispatched(pool).collect();
            for id in never_sent {
                if let Some(attempt) = self.record.lease(id).map(|lease| lease.attempt) {
                    self.record_event(id, Event::Released { attempt });
                }
            }
        }
    }

    fn start(&mut self, id: JobId, attempt: u32, now: Now) {
        if self.stopping {
            return;
        }
        let watch = self.watches.get(&id).filter(|watch| watch.attempt == attempt);
        if watch.and_then(|watch| watch.refused).is_some_and(|(until, _)| until > now.engine) {
            return;
        }
        let executor = self.record.lease(id).map(|lease| executor_of(&lease.epoch));
        if executor.and_then(|executor| self.sides.get(executor)).is_some_and(|side| side.closed.is_some()) {
            return;
        }
        let Some(claimed) = self.works.get(&id) else {
            if !self.batch.want.contains(&id) {
                self.batch.want.push(id);
                self.batch.ask_again(id);
            }
            return;
        };
        let Some(lease) = self.record.lease(id) else { return };
        let pool = self.record.pool_name(lease.pool).to_owned();
        let secrets = match secrets_of(&self.host, id, claimed).map(|(dir, id)| crate::daemon::secrets::read(&dir, id))
        {
            None => None,
            Some(Ok(secrets)) => Some(secrets),
            // What a parser says of a damaged file may quote it.
            Some(Err(error)) if error.kind() == ErrorKind::InvalidData => {
                self.never_starts(id, "its secrets are damaged: their file does not hold what was written".to_owned());
                return;
            }
            Some(Err(error)) if error.kind() == ErrorKind::NotFound => {
                self.never_starts(id, "its secrets are gone: their file was removed".to_owned());
                return;
            }
            Some(Err(error)) => {
                self.start_later(id, attempt, &format!("its secrets cannot be read: {error}"));
                return;
            }
        };
        let executor = executor_of(&lease.epoch);
        let tmp = match executor {
            Executor::Native => self.host.tmp_dir.join(format!("{pool}-{}", lease.slot)),
            Executor::Systemd => PathBuf::from(UNIT_WORKSPACE),
        };
        let is_native = executor == Executor::Native;
        let as_us = is_native && !self.host.jobs_have_users;
        let at = Where { pool: &pool, path: self.host.path_of(&pool), tmp: &tmp, as_us };
        let work = &claimed.spec.work;
        if let Some(profile) = work.profile.as_ref().filter(|_| is_native) {
            // The pool was another when the job was queued.
            let why =
                format!("the pool {pool:?} runs native jobs, without the sandbox {profile:?} that the job asks for");
            return self.never_starts(id, why);
        }
        let of_pool = self.host.pools.get(&pool);
        let profile = work.profile.clone().or_else(|| of_pool.and_then(|pool| pool.profile.clone()));
        let restricted = of_pool.is_some_and(|pool| pool.submitters.is_some());
        let order = StartOrder {
            start: Start {
                key: self.key(id, attempt),
                pool: pool.clone(),
                slot: lease.slot,
                timeout_ms: work.timeout_ms,
                soft_timeout_ms: work.soft_timeout_ms,
                grace_ms: self.record.settings().grace_ms,
                log_bytes_max: work.log_bytes_max,
                secrets: secrets.is_some(),
                profile: profile.filter(|_| !is_native),
                submitter: work.submitter_uid.filter(|_| restricted),
                limits: self.limits_of_start(&lease.limits, &pool),
            },
            spec: specification(&self.job_host, at, id, lease.attempt, claimed),
            secrets,
        };
        fail::point(fail::BEFORE_START);
        let first_start = lease.dispatched.is_none();
        let refused = watch.and_then(|watch| watch.refused);
        let refused_why = watch.and_then(|watch| watch.refused_why.clone());
        let watch = self.watches.entry(id).or_insert_with(|| Watch::new(attempt, Seen::Absent));
        *watch = Watch { settled: false, refused, refused_why, first_start, ..Watch::new(attempt, Seen::Absent) };
        self.record.dispatch(id);
        if let Some(claimed) = self.works.remove(&id) {
            self.stories.insert(id, correlation::Story::of(claimed.spec));
        }
        if let Some(side) = self.sides.get_mut(executor) {
            side.link.start(order);
        }
        fail::point(fail::AFTER_START);
    }

    /// Something of ours makes a start impossible; it never ran.
    fn never_starts(&mut self, id: JobId, cause: String) {
        let Some(lease) = self.record.lease(id) else { return };
        let attempt = lease.attempt;
        let result = AttemptResult::FailedToStart { cause };
        if let Some(next) = ci_runner_core::schedule::after_end(&self.record, id, attempt, &result, self.clock.now()) {
            self.record_event(id, Event::Ended { attempt, result, next });
        }
    }

    /// What a claim needs could not be read: a damaged specification ends its job, anything else is tried again.
    pub(super) fn unreadable(&mut self, id: JobId, error: &StoreError) {
        let Some(attempt) = self.record.lease(id).map(|lease| lease.attempt.0) else { return };
        let text = commit::chain(error);
        match error {
            StoreError::Damaged { .. } | StoreError::Row { .. } => {
                self.never_starts(id, format!("its specification cannot be read: {text}"));
            }
            _ => self.start_later(id, attempt, &text),
        }
    }

    /// Something of ours makes a start impossible for now.
    fn start_later(&mut self, id: JobId, attempt: u32, why: &str) {
        self.watches.entry(id).or_insert_with(|| Watch::new(attempt, Seen::Absent));
        let key = self.key(id, attempt);
        self.start_refused(&key, why);
    }

    fn start_refused(&mut self, key: &AttemptKey, why: &str) {
        let Some(id) = JobId::new(key.job) else { return };
        let Some(watch) = self.watches.get_mut(&id).filter(|watch| watch.attempt == key.attempt) else { return };
        let pause = watch.refused.map_or(REFUSED_MS, |(_, pause)| (pause * 2).min(REFUSED_MS_MAX));
        watch.refused = Some((self.clock.now().engine.plus_ms(pause), pause));
        watch.refused_why = Some(why.to_owned());
        watch.seen = Seen::NotBegan;
        watch.settled = true;
        // The refusal may have been the answer to a `void`: that is asked for again, too.
        let answers_start = !std::mem::take(&mut watch.voided);
        if answers_start && watch.first_start {
            self.record.undispatch(id);
        }
        let story = self.story(id);
        log::warn!(job = id.get(), attempt = key.attempt, correlation = story.correlation.as_str();
            "job {id} could not be started, tried again in {pause} ms: {why}");
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
            let (_, kill_at) = lease.stop.as_ref().filter(|_| self.sides.listed(executor_of(&lease.epoch)))?;
            let watch = self.watches.get(&id);
            let told = watch.is_some_and(|watch| watch.killed || watch.voided || !watch.settled);
            (!told).then_some(*kill_at)
        });
        let refused = self.watches.values().filter_map(|watch| watch.refused).map(|(until, _)| until);
        stops.chain(refused.filter(|until| *until > now)).min()
    }
}
