//! The store without a disk, for `ci-runner run` and for tests: it forgets everything when it is dropped.
//!
//! It keeps the rules of the store on disk, written a second time in plain collections. The contract suite holds the two
//! against each other and against the core's record, so neither may learn something that the other does not.

mod job;
mod read;

use super::{
    Claimed, CollectLimits, KEY_KEPT_MS, KeyRow, Loaded, Reader, Receipt, ScheduleRow, Store, StoreError, Write,
};
use crate::store::{AttemptRow, JobRow};
use ci_runner_core::change::{Change, Entry, OpenJob, Pause, Submission, Wish};
use ci_runner_core::group::GroupPolicy;
use ci_runner_core::id::{AttemptNumber, JobId, PoolId};
use ci_runner_core::job::Condition;
use ci_runner_core::outcome::{By, Outcome};
use ci_runner_core::state::{Event, Next};
use ci_runner_core::time::{ClockBase, Instant, Now};
use job::Job;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The writing side.
pub struct MemoryStore {
    shared: Arc<Shared>,
}

/// Both sides.
struct Shared(Mutex<State>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
struct State {
    store_id: String,
    generation: u64,
    running: bool,
    unclean: bool,
    last_id: u64,
    last: Now,
    clock: Option<ClockBase>,
    paused: Option<Pause>,
    jobs: BTreeMap<JobId, Job>,
    open: BTreeSet<JobId>,
    /// Who waits for a job, and for what of it.
    dependents: HashMap<JobId, BTreeSet<(JobId, Condition)>>,
    /// Open jobs by group.
    groups: HashMap<String, BTreeSet<JobId>>,
    /// Those of them that a newcomer may have to cancel. Who was cancelled leaves when the next newcomer looks.
    uncancelled: HashMap<String, BTreeSet<JobId>>,
    totals: [u64; 6],
    keys: BTreeMap<String, KeyRow>,
    schedules: BTreeMap<String, ScheduleRow>,
}

impl MemoryStore {
    /// An empty store and its reading side.
    pub fn new() -> (Self, Arc<dyn Reader>) {
        let id = uuid::Uuid::now_v7();
        let store_id = id.as_bytes()[12..].iter().map(|byte| format!("{byte:02x}")).collect();
        let shared = Arc::new(Shared(Mutex::new(State { store_id, ..State::default() })));
        let reader = Arc::clone(&shared);
        (Self { shared }, reader)
    }
}

impl Store for MemoryStore {
    fn load(
        &mut self,
        pool_id: &mut dyn FnMut(&str) -> PoolId,
        each: &mut dyn FnMut(OpenJob),
    ) -> Result<Loaded, StoreError> {
        let mut state = self.shared.lock();
        state.generation += 1;
        state.unclean = std::mem::replace(&mut state.running, true);
        Ok(state.tell(pool_id, each))
    }

    fn reread(
        &mut self,
        pool_id: &mut dyn FnMut(&str) -> PoolId,
        each: &mut dyn FnMut(OpenJob),
    ) -> Result<Loaded, StoreError> {
        Ok(self.shared.lock().tell(pool_id, each))
    }

    fn commit(&mut self, batch: &[Write], pools: &[String]) -> Result<(), StoreError> {
        let mut state = self.shared.lock();
        for write in batch.iter().filter(|write| !matches!(write, Write::Receipt { .. })) {
            state.write(write, pools);
        }
        // Last, because an attempt's row must be there, wherever in the batch its end stands.
        for write in batch {
            if let Write::Receipt { job, attempt, receipt } = write {
                state.receipt(*job, *attempt, receipt);
            }
        }
        Ok(())
    }

    fn claimed(&mut self, id: JobId) -> Result<Option<Claimed>, StoreError> {
        let state = self.shared.lock();
        let job = state.jobs.get(&id).filter(|job| job.finished.is_none());
        Ok(job.map(|job| Claimed { spec: job.spec.clone(), submitter: job.submitter.clone() }))
    }

    fn collect(&mut self, limits: &CollectLimits, most: usize) -> Result<Vec<JobId>, StoreError> {
        let mut state = self.shared.lock();
        let ended = |(id, job): (&JobId, &Job)| job.ended.map(|at| (at, *id));
        let kept = |job: &Job| job.keyed && job.submitted.engine > limits.keyed_since;
        let jobs = state.jobs.iter().filter(|(_, job)| !kept(job));
        let mut old: Vec<(Instant, JobId)> =
            jobs.filter_map(ended).filter(|(at, _)| *at < limits.finished_before).collect();
        old.sort_unstable();
        old.truncate(most);
        for (_, id) in &old {
            state.jobs.remove(id);
        }
        Ok(old.into_iter().map(|(_, id)| id).collect())
    }

    fn close(&mut self, base: &ClockBase, now: Now) -> Result<(), StoreError> {
        let mut state = self.shared.lock();
        state.write(&Write::Clock { base: base.clone(), now }, &[]);
        state.running = false;
        Ok(())
    }
}

impl State {
    fn tell(&self, pool_id: &mut dyn FnMut(&str) -> PoolId, each: &mut dyn FnMut(OpenJob)) -> Loaded {
        for id in &self.open {
            if let Some(job) = self.jobs.get(id) {
                each(job.as_open(*id, pool_id));
            }
        }
        Loaded {
            store_id: self.store_id.clone(),
            former: Vec::new(),
            generation: self.generation,
            last_id: self.last_id,
            paused: self.paused.clone(),
            clock: self.clock.clone(),
            last: self.last,
            unclean: self.unclean,
        }
    }

    fn write(&mut self, write: &Write, pools: &[String]) {
        match write {
            Write::Entry(entry) => self.entry(entry, pools),
            Write::Receipt { job, attempt, receipt } => self.receipt(*job, *attempt, receipt),
            Write::Key(row) => {
                self.keys.retain(|_, kept| is_kept(kept, row.at));
                self.keys.insert(row.key.clone(), row.clone());
                for id in &row.jobs {
                    if let Some(job) = self.jobs.get_mut(id) {
                        job.keyed = true;
                    }
                }
            }
            Write::Schedule(row) => {
                self.schedules.insert(row.name.clone(), row.clone());
            }
            Write::ScheduleRan(ran) => {
                if let Some(row) = self.schedules.get_mut(&ran.name) {
                    (row.after, row.refused) = (ran.after, ran.refused.clone());
                    (row.last_job, row.timed_job) = (ran.last_job, ran.timed_job);
                }
            }
            Write::ScheduleRemoved { name } => {
                self.schedules.remove(name);
            }
            Write::Clock { base, now } => {
                self.read(*now);
                self.clock = Some(base.clone());
            }
        }
    }

    /// The latest reading of the clocks is the one with the highest engine time.
    fn read(&mut self, now: Now) {
        if now.engine >= self.last.engine {
            self.last = now;
        }
    }

    fn receipt(&mut self, id: JobId, attempt: AttemptNumber, receipt: &Receipt) {
        let job = self.jobs.get_mut(&id);
        let row = job.and_then(|job| job.attempts.iter_mut().find(|row| row.number == attempt && row.ended.is_some()));
        if let Some(row) = row {
            row.receipt = Some(*receipt);
        }
    }

    fn entry(&mut self, entry: &Entry, pools: &[String]) {
        self.read(entry.at);
        match &entry.change {
            Change::Submitted(submission) => self.submit(submission, entry.at),
            Change::Job { id, event } => self.event(*id, event, entry.at, pools),
            Change::Wished { id, wish } => {
                if let Some(job) = self.open_job(*id).filter(|job| !job.is_cancelled()) {
                    job.wish = wish.clone();
                }
            }
            Change::Reprioritized { id, priority } => {
                if let Some(job) = self.jobs.get_mut(id) {
                    job.spec.terms.priority = *priority;
                }
            }
            Change::Paused(pause) => self.paused = pause.clone(),
        }
    }

    fn open_job(&mut self, id: JobId) -> Option<&mut Job> {
        self.jobs.get_mut(&id).filter(|job| job.finished.is_none())
    }

    fn submit(&mut self, submission: &Submission, at: Now) {
        let id = submission.id;
        let terms = &submission.spec.terms;
        self.last_id = self.last_id.max(id.get());
        let (waits_for, never) = self.depend(submission);
        for (other, on) in &waits_for {
            self.dependents.entry(*other).or_default().insert((id, *on));
        }
        let wish = match never {
            Some(other) => Wish::Cancel { by: By::Dependency(other) },
            None if terms.hold => {
                Wish::Hold { by: submission.submitter.clone(), reason: "submitted on hold".to_owned() }
            }
            None => Wish::Run,
        };
        let job = Job {
            spec: submission.spec.clone(),
            group_limit: submission.group_limit,
            submitter: submission.submitter.clone(),
            submitted: at,
            ready_at: at.engine.plus_ms(terms.delay_ms.unwrap_or(0)),
            tries: 0,
            wish,
            waits_for,
            grown: None,
            held_by: None,
            attempts: Vec::new(),
            started: None,
            finished: None,
            ended: None,
            keyed: false,
        };
        self.jobs.insert(id, job);
        self.open.insert(id);
        if let Some(group) = &terms.group {
            self.groups.entry(group.name.clone()).or_default().insert(id);
            // One that can never run takes nobody's place.
            if never.is_none() {
                self.supersede(id, &group.name, group.policy);
            }
            self.uncancelled.entry(group.name.clone()).or_default().insert(id);
        }
    }

    /// What it waits for, and what it waits for in vain.
    fn depend(&self, submission: &Submission) -> (Vec<(JobId, Condition)>, Option<JobId>) {
        let mut waits_for = Vec::new();
        let (mut told, mut known) = (None, None);
        for (after, end) in submission.spec.terms.after.iter().zip(&submission.finished) {
            match (end, self.jobs.get(&after.job).map(|job| job.finished.as_ref())) {
                (Some(success), _) if after.on.fulfilled_by(*success) => {}
                (Some(_), _) => told = told.or(Some(after.job)),
                (None, Some(None)) => waits_for.push((after.job, after.on)),
                (None, Some(Some((_, outcome)))) if after.on.fulfilled_by(outcome.is_success()) => {}
                (None, Some(Some(_)) | None) => known = known.or(Some(after.job)),
            }
        }
        (waits_for, told.or(known))
    }

    fn supersede(&mut self, newcomer: JobId, group: &str, policy: GroupPolicy) {
        if policy == GroupPolicy::Queue {
            return;
        }
        let Some(members) = self.uncancelled.get_mut(group) else { return };
        members.retain(|other| {
            let Some(job) = self.jobs.get_mut(other) else { return false };
            if !job.is_cancelled() && (policy == GroupPolicy::Cancel || job.held_by.is_none()) {
                job.wish = Wish::Cancel { by: By::Newer(newcomer) };
            }
            !job.is_cancelled()
        });
    }

    /// A job that comes back to the queue while a newer one of its group asked for `latest` waits in vain.
    fn supersede_returned(&mut self, id: JobId) {
        let group = |job: &Job| job.spec.terms.group.clone();
        let open = self.jobs.get(&id).and_then(group).and_then(|group| self.groups.get(&group.name));
        let can_run = |job: &&Job| !matches!(job.wish, Wish::Cancel { by: By::Dependency(_) });
        let asks = |other: &JobId| {
            let group = self.jobs.get(other).filter(can_run).and_then(group);
            *other > id && group.is_some_and(|group| group.policy != GroupPolicy::Queue)
        };
        let newer = open.and_then(|open| open.range(id..).copied().find(asks));
        if let (Some(newer), Some(job)) = (newer, self.jobs.get_mut(&id))
            && !job.is_cancelled()
        {
            job.wish = Wish::Cancel { by: By::Newer(newer) };
        }
    }

    fn event(&mut self, id: JobId, event: &Event, at: Now, pools: &[String]) {
        let Some(job) = self.open_job(id) else { return };
        match event {
            Event::Claimed { attempt, pool, slot, epoch, limits } => {
                let pool = pools.get(usize::from(pool.0)).cloned().unwrap_or_default();
                job.claim(AttemptRow::open(*attempt, pool, *slot, *limits, at.wall), epoch, at.engine);
            }
            Event::Started { .. } => job.start(at),
            Event::Refused { .. } => job.refuse(),
            Event::Renewed { .. } => {}
            Event::StopRequested { by, kill_at, .. } => {
                if let Some(open) = &mut job.held_by {
                    open.stop = Some((by.clone(), *kill_at));
                }
            }
            Event::Released { .. } => {
                job.end(None, at);
                self.supersede_returned(id);
            }
            Event::Ended { result, next, .. } => {
                job.end(Some(result), at);
                match next {
                    Next::Retry { ready_at, memory_bytes } => {
                        job.ready_at = *ready_at;
                        job.grown = memory_bytes.or(job.grown);
                        self.supersede_returned(id);
                    }
                    Next::Finish { outcome } => self.finish(id, outcome, at),
                }
            }
            Event::Dropped { outcome } => self.finish(id, outcome, at),
        }
    }

    fn finish(&mut self, id: JobId, outcome: &Outcome, at: Now) {
        let Some(job) = self.open_job(id) else { return };
        job.finished = Some((at.wall, outcome.clone()));
        job.ended = Some(at.engine);
        let waited_for: Vec<(JobId, Condition)> = std::mem::take(&mut job.waits_for);
        let group = job.spec.terms.group.as_ref().map(|group| group.name.clone());
        self.open.remove(&id);
        if let Some(at) = Outcome::WORDS.iter().position(|word| *word == outcome.word()) {
            self.totals[at] += 1;
        }
        for (other, on) in waited_for {
            if let Some(waiting) = self.dependents.get_mut(&other) {
                waiting.remove(&(id, on));
            }
        }
        if let Some(name) = group
            && let Some(open) = self.groups.get_mut(&name)
        {
            open.remove(&id);
            if open.is_empty() {
                self.groups.remove(&name);
                self.uncancelled.remove(&name);
            } else if let Some(members) = self.uncancelled.get_mut(&name) {
                members.remove(&id);
            }
        }
        for (waiter, on) in self.dependents.remove(&id).unwrap_or_default() {
            let Some(job) = self.open_job(waiter) else { continue };
            job.waits_for.retain(|wait| *wait != (id, on));
            if !on.fulfilled_by(outcome.is_success()) && !job.is_cancelled() {
                job.wish = Wish::Cancel { by: By::Dependency(id) };
            }
        }
    }

    fn row(&self, id: JobId) -> Option<JobRow> {
        Some(self.jobs.get(&id)?.as_row(id))
    }
}

fn is_kept(row: &KeyRow, now: Instant) -> bool {
    row.at.plus_ms(KEY_KEPT_MS) > now
}
