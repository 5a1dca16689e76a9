//! Taking facts. The only place where a job's state changes.

use super::*;
use crate::change::{Change, Entry, OpenJob, Submission};
use crate::group::GroupPolicy;
use crate::job::Terms;
use crate::outcome::By;
use crate::state::{self, Event, Next};

impl Record {
    /// Takes a fact. An illegal one changes nothing.
    pub fn apply(&mut self, entry: &Entry) -> Result<(), Illegal> {
        match &entry.change {
            Change::Submitted(submission) => self.submit(submission, entry.at),
            Change::Job { id, event } => self.job_event(*id, event, entry.at),
            Change::Wished { id, wish } => self.wished(*id, wish),
            Change::Reprioritized { id, priority } => self.reprioritize(*id, *priority),
            Change::Paused(pause) => {
                self.paused = pause.clone();
                Ok(())
            }
        }
    }

    /// Takes an open job from the store.
    pub fn load(&mut self, open: &OpenJob) -> Result<(), Illegal> {
        if self.jobs.get(open.id).is_some() {
            return Err(Illegal::Id(open.id));
        }
        self.set_last_id(open.id.get());
        self.insert(open);
        if let Some(lease) = &open.lease {
            self.take_lease(open.id, lease.clone())?;
            // A stop that nobody but a newer job wished for stands in the lease only.
            if let Some((by, _)) = &lease.stop {
                self.set_wish_unless_cancelled(open.id, by.clone());
            }
        }
        Ok(())
    }

    /// A job that comes back to the queue while a newer one of its group asked for `latest` waits in vain.
    fn supersede_returned(&mut self, id: JobId) {
        let Some(group) = self.jobs.get(id).map(|job| job.group) else { return };
        let newer =
            self.group_mut(group).and_then(|members| members.newest.range(id..).find(|one| **one > id).copied());
        if let Some(newer) = newer {
            self.set_wish_unless_cancelled(id, By::Newer(newer));
        }
    }

    fn older_members(&mut self, newcomer: JobId) -> Vec<JobId> {
        let Some(group) = self.jobs.get(newcomer).map(|job| job.group) else { return Vec::new() };
        self.group_mut(group).map(|group| group.all.range(..newcomer).copied().collect()).unwrap_or_default()
    }

    fn submit(&mut self, submission: &Submission, at: Now) -> Result<(), Illegal> {
        let id = submission.id;
        if id.get() <= self.last_id {
            return Err(Illegal::Id(id));
        }
        self.last_id = id.get();
        let mut open = opened(submission, at);
        // A dependency that is not open here ended before it was looked up: what is remembered decides.
        let (waits_for, gone) = open.waits_for.into_iter().partition(|(other, _)| self.jobs.get(*other).is_some());
        open.waits_for = waits_for;
        for (other, condition) in gone {
            if !self.ends.get(&other).is_some_and(|success| condition.fulfilled_by(*success)) {
                open.impossible = open.impossible.or(Some(other));
            }
        }
        self.insert(&open);
        self.tell(id, Phase::Queued, None, None);
        if let Some(group) = &submission.spec.terms.group {
            self.supersede(id, group.policy);
        }
        Ok(())
    }

    fn insert(&mut self, open: &OpenJob) {
        let id = open.id;
        let terms = &open.terms;
        let key = ClassKey { pool: terms.pool.clone(), labels: terms.labels.clone() };
        let (class, new) = self.class_keys.take(&key);
        if self.classes.len() <= class as usize {
            self.classes.resize_with(class as usize + 1, Class::default);
        }
        if new {
            self.match_pools(class as usize);
        }
        let (retry, _) = self.retries.take(&terms.retry);
        let group = self.join_group(id, terms, open.group_limit);
        let unmet = open.waits_for.len() + usize::from(open.impossible.is_some());
        let job = Job {
            id,
            submitted: open.submitted,
            ready_at: open.ready_at,
            class,
            group,
            retry,
            attempt: open.attempt,
            tries: u16::try_from(open.tries).unwrap_or(u16::MAX),
            unmet: u16::try_from(unmet).unwrap_or(u16::MAX),
            priority: Job::kept_priority(terms.priority),
            phase: open.phase,
            place: Place::Nowhere,
            wish: 0,
        };
        self.classes[class as usize].queued += usize::from(open.phase == Phase::Queued);
        self.jobs.insert(job);
        self.add_extra(open);
        self.set_wish(id, &open.wish);
        if let Some(other) = open.impossible {
            self.set_wish_unless_cancelled(id, By::Dependency(other));
        }
        self.settle(id);
    }

    fn add_extra(&mut self, open: &OpenJob) {
        let terms = &open.terms;
        for (other, condition) in &open.waits_for {
            self.dependents.entry(*other).or_default().push((open.id, *condition));
        }
        if terms.at.is_none() && terms.expires.is_none() && open.waits_for.is_empty() {
            return;
        }
        if let Some(expires) = terms.expires {
            self.expiries.insert((expires, open.id));
        }
        let extra = Extra { wish: Wish::Run, at: terms.at, expires: terms.expires, waits_for: open.waits_for.clone() };
        self.extras.insert(open.id, extra);
    }

    fn join_group(&mut self, id: JobId, terms: &Terms, limit: Option<u32>) -> u32 {
        let Some(spec) = &terms.group else { return NO_GROUP };
        let (group, new) = self.group_names.take(&spec.name);
        if self.groups.len() <= group as usize {
            self.groups.resize_with(group as usize + 1, || None);
        }
        if new {
            let fixed = self.settings.groups.iter().find(|fixed| fixed.name == spec.name);
            let limit = fixed.map(|fixed| fixed.limit).or(limit).unwrap_or(1);
            self.groups[group as usize] = Some(Members::new(limit));
        }
        if let Some(members) = self.group_mut(group) {
            members.all.insert(id);
            if spec.policy != GroupPolicy::Queue {
                members.newest.insert(id);
            }
        }
        group
    }

    /// `Latest` and `Cancel`: the others of the group make way for the newcomer.
    fn supersede(&mut self, newcomer: JobId, policy: GroupPolicy) {
        if policy == GroupPolicy::Queue {
            return;
        }
        for other in self.older_members(newcomer) {
            let queued = self.jobs.get(other).is_some_and(|job| job.phase == Phase::Queued);
            if queued || policy == GroupPolicy::Cancel {
                self.set_wish_unless_cancelled(other, By::Newer(newcomer));
            }
        }
    }

    /// The first reason to end stays the reason.
    fn set_wish_unless_cancelled(&mut self, id: JobId, by: By) {
        if self.jobs.get(id).is_some_and(|job| job.wish & CANCELLED == 0) {
            self.set_wish(id, &Wish::Cancel { by });
        }
    }

    fn wished(&mut self, id: JobId, wish: &Wish) -> Result<(), Illegal> {
        let job = self.jobs.get(id).ok_or(Illegal::NoJob(id))?;
        if job.wish & CANCELLED != 0 {
            return Ok(()); // a cancelled job stays cancelled
        }
        self.set_wish(id, wish);
        self.settle(id);
        Ok(())
    }

    fn set_wish(&mut self, id: JobId, wish: &Wish) {
        let bits = match wish {
            Wish::Run => 0,
            Wish::Hold { .. } => HELD,
            Wish::Cancel { .. } => CANCELLED,
        };
        let Some(job) = self.jobs.get_mut(id) else { return };
        job.wish = bits;
        if bits == 0 && !self.extras.contains_key(&id) {
            return;
        }
        self.extras.entry(id).or_default().wish = wish.clone();
        if bits & CANCELLED != 0 {
            self.attention.insert(id);
        }
        self.settle(id);
    }

    fn reprioritize(&mut self, id: JobId, priority: i16) -> Result<(), Illegal> {
        self.jobs.get(id).ok_or(Illegal::NoJob(id))?;
        self.unplace(id);
        if let Some(job) = self.jobs.get_mut(id) {
            job.priority = Job::kept_priority(priority);
        }
        self.settle(id);
        Ok(())
    }

    fn job_event(&mut self, id: JobId, event: &Event, at: Now) -> Result<(), Illegal> {
        let job = self.jobs.get(id).ok_or(Illegal::NoJob(id))?;
        let phase = job.phase;
        let next = state::next(phase, event.kind()).ok_or(Illegal::Transition(id, phase, event.kind()))?;
        self.check_attempt(id, job.attempt, event)?;
        match event {
            Event::Claimed { attempt, pool, slot, epoch } => {
                let lease = Lease {
                    attempt: *attempt,
                    pool: *pool,
                    slot: *slot,
                    epoch: epoch.clone(),
                    claimed: at.engine,
                    started: None,
                    stop: None,
                    dispatched: None,
                };
                self.take_lease(id, lease)?;
            }
            Event::Started { .. } => self.lease_mut(id)?.started = Some(at.engine),
            Event::StopRequested { by, kill_at, .. } => self.lease_mut(id)?.stop = Some((by.clone(), *kill_at)),
            Event::Renewed { .. } => return Ok(()),
            Event::Released { .. } => self.give_lease(id, None),
            Event::Ended { next, .. } => {
                self.give_lease(id, Some(at.engine));
                if let Some(job) = self.jobs.get_mut(id) {
                    job.tries = job.tries.saturating_add(1);
                    if let Next::Retry { ready_at } = next {
                        job.ready_at = *ready_at;
                    }
                }
            }
            Event::Dropped { .. } => {}
        }
        self.enter_phase(id, next, event);
        Ok(())
    }

    fn check_attempt(&self, id: JobId, last: u32, event: &Event) -> Result<(), Illegal> {
        let Some(attempt) = event.attempt() else { return Ok(()) };
        let expected = match event {
            Event::Claimed { .. } => last.checked_add(1),
            _ => Some(last),
        };
        if expected == Some(attempt.0) { Ok(()) } else { Err(Illegal::Attempt(id, attempt)) }
    }

    fn lease_mut(&mut self, id: JobId) -> Result<&mut Lease, Illegal> {
        self.leases.get_mut(&id).ok_or(Illegal::NoJob(id))
    }

    fn enter_phase(&mut self, id: JobId, next: Phase, event: &Event) {
        let attempt = event.attempt();
        let outcome = match event {
            Event::Dropped { outcome } | Event::Ended { next: Next::Finish { outcome }, .. } => Some(outcome.clone()),
            _ => None,
        };
        if next == Phase::Queued {
            self.supersede_returned(id);
        }
        let Some(job) = self.jobs.get_mut(id) else { return };
        let (before, class, cancelled) = (job.phase, job.class as usize, job.wish & CANCELLED != 0);
        job.phase = next;
        self.classes[class].queued += usize::from(next == Phase::Queued);
        self.classes[class].queued -= usize::from(before == Phase::Queued);
        self.tell(id, next, attempt, outcome.clone());
        if let Some(outcome) = outcome {
            self.remove(id, outcome.is_success());
            return;
        }
        if cancelled && next != Phase::Stopping {
            self.attention.insert(id);
        } else {
            self.attention.remove(&id);
        }
        if next == Phase::Queued
            && let Some(expires) = self.extras.get(&id).and_then(|extra| extra.expires)
        {
            self.expiries.insert((expires, id));
            self.advance(self.now);
        }
        self.settle(id);
    }

    fn take_lease(&mut self, id: JobId, lease: Lease) -> Result<(), Illegal> {
        let pool = self.pools.get_mut(usize::from(lease.pool.0)).ok_or(Illegal::Place(id))?;
        let slot = lease.slot as usize;
        if slot >= crate::policy::SLOTS_MAX as usize * 2 {
            return Err(Illegal::Place(id));
        }
        if pool.places.len() <= slot {
            pool.places.resize(slot + 1, None);
        }
        if pool.places[slot].is_some() {
            return Err(Illegal::Place(id));
        }
        pool.places[slot] = Some(id);
        match lease.dispatched {
            Some(at) => pool.dispatched.insert((at, id)),
            None => pool.claimed.insert((lease.claimed, id)),
        };
        self.unplace(id);
        let Some(job) = self.jobs.get_mut(id) else { return Err(Illegal::NoJob(id)) };
        job.attempt = lease.attempt.0;
        let group = job.group;
        self.leases.insert(id, lease);
        if let Some(members) = self.group_mut(group) {
            members.holders.insert(id);
        }
        self.settle_group(group);
        Ok(())
    }

    /// Frees the place and the group; `ended` tells when an attempt that ran was over.
    fn give_lease(&mut self, id: JobId, ended: Option<Instant>) {
        let Some(lease) = self.leases.remove(&id) else { return };
        if let Some(pool) = self.pools.get_mut(usize::from(lease.pool.0)) {
            pool.places[lease.slot as usize] = None;
            pool.claimed.remove(&(lease.claimed, id));
            if let Some(at) = lease.dispatched {
                pool.dispatched.remove(&(at, id));
            }
            if let Some(ended) = ended {
                let ran = ended.since_ms(lease.started.unwrap_or(lease.claimed)).min(view::RUN_MS_UNKNOWN);
                pool.run_ms = (pool.run_ms * 3 + ran) / 4;
            }
        }
        let Some(group) = self.jobs.get(id).map(|job| job.group) else { return };
        if let Some(members) = self.group_mut(group) {
            members.holders.remove(&id);
        }
        self.settle_group(group);
    }

    /// Notes that a `start` for this job's lease may be on its way from now on. Not a fact of the store.
    pub fn dispatch(&mut self, id: JobId) {
        let at = self.now.engine;
        let Some(lease) = self.leases.get_mut(&id) else { return };
        if lease.dispatched.is_some() {
            return;
        }
        lease.dispatched = Some(at);
        let claimed = lease.claimed;
        if let Some(pool) = self.pools.get_mut(usize::from(lease.pool.0)) {
            pool.claimed.remove(&(claimed, id));
            pool.dispatched.insert((at, id));
        }
    }

    /// Takes a finished job out and lets those go that waited for it.
    fn remove(&mut self, id: JobId, success: bool) {
        self.unplace(id);
        let Some(job) = self.jobs.remove(id) else { return };
        self.attention.remove(&id);
        if let Some(extra) = self.extras.remove(&id) {
            if let Some(expires) = extra.expires {
                self.expiries.remove(&(expires, id));
            }
            for (other, _) in extra.waits_for {
                if let Some(waiting) = self.dependents.get_mut(&other) {
                    waiting.retain(|(waiter, _)| *waiter != id);
                    if waiting.is_empty() {
                        self.dependents.remove(&other);
                    }
                }
            }
        }
        if self.class_keys.give(job.class) {
            self.classes[job.class as usize] = Class::default();
        }
        self.retries.give(job.retry);
        self.leave_group(id, job.group);
        self.remember_end(id, success);
        for (waiter, condition) in self.dependents.remove(&id).unwrap_or_default() {
            self.dependency_ended(waiter, id, condition, success);
        }
    }

    fn leave_group(&mut self, id: JobId, group: u32) {
        if group == NO_GROUP {
            return;
        }
        if let Some(members) = self.group_mut(group) {
            members.all.remove(&id);
            members.newest.remove(&id);
        }
        if self.group_names.give(group) {
            self.groups[group as usize] = None;
        }
    }

    fn dependency_ended(&mut self, waiter: JobId, other: JobId, condition: Condition, success: bool) {
        if let Some(extra) = self.extras.get_mut(&waiter) {
            extra.waits_for.retain(|wait| *wait != (other, condition));
        }
        if !condition.fulfilled_by(success) {
            self.set_wish_unless_cancelled(waiter, By::Dependency(other));
            return;
        }
        if let Some(job) = self.jobs.get_mut(waiter) {
            job.unmet = job.unmet.saturating_sub(1);
        }
        self.settle(waiter);
    }
}

/// A submission as an open job.
fn opened(submission: &Submission, at: Now) -> OpenJob {
    let terms = &submission.spec.terms;
    let mut waits_for = Vec::new();
    let mut impossible = None;
    for (after, finished) in terms.after.iter().zip(&submission.finished) {
        match finished {
            None => waits_for.push((after.job, after.on)),
            Some(success) if !after.on.fulfilled_by(*success) => impossible = impossible.or(Some(after.job)),
            Some(_) => {}
        }
    }
    let wish = if terms.hold {
        Wish::Hold { by: submission.submitter.clone(), reason: "submitted on hold".to_owned() }
    } else {
        Wish::Run
    };
    OpenJob {
        id: submission.id,
        submitted: at.engine,
        terms: terms.clone(),
        group_limit: submission.group_limit,
        waits_for,
        impossible,
        phase: Phase::Queued,
        ready_at: at.engine.plus_ms(terms.delay_ms.unwrap_or(0)),
        attempt: 0,
        tries: 0,
        wish,
        lease: None,
    }
}
