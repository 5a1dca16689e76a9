//! Taking facts. The only place where a job's state changes. How jobs come in is in `admit.rs`, what they hold in
//! `lease.rs`.

use super::*;
use crate::change::{Change, Entry};
use crate::group::GroupPolicy;
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

    /// A job that comes back to the queue while a newer one of its group asked for `latest` waits in vain.
    fn supersede_returned(&mut self, id: JobId) {
        let Some(group) = self.jobs.get(id).map(|job| job.group) else { return };
        let newer =
            self.group_mut(group).and_then(|members| members.newest.range(id..).find(|one| **one > id).copied());
        if let Some(newer) = newer {
            self.set_wish_unless_cancelled(id, By::Newer(newer));
        }
    }

    /// `Latest` and `Cancel`: the others of the group make way for the newcomer.
    pub(super) fn supersede(&mut self, newcomer: JobId, policy: GroupPolicy) {
        let Some(group) = self.jobs.get(newcomer).map(|job| job.group) else { return };
        let older = self.group_mut(group).map(|members| members.make_way(newcomer, policy)).unwrap_or_default();
        for other in older {
            self.set_wish_unless_cancelled(other, By::Newer(newcomer));
        }
    }

    /// The first reason to end stays the reason.
    pub(super) fn set_wish_unless_cancelled(&mut self, id: JobId, by: By) {
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

    pub(super) fn set_wish(&mut self, id: JobId, wish: &Wish) {
        let bits = match wish {
            Wish::Run => 0,
            Wish::Hold { .. } => HELD,
            Wish::Cancel { .. } => CANCELLED,
        };
        let Some(job) = self.jobs.get_mut(id) else { return };
        job.wish = bits;
        let group = job.group;
        if bits == 0 && !self.extras.contains_key(&id) {
            return;
        }
        self.extras.entry(id).or_default().wish = wish.clone();
        if bits & CANCELLED != 0 {
            self.attend_to(id);
            if let Some(members) = self.group_mut(group) {
                members.cancel(id);
                if matches!(wish, Wish::Cancel { by: By::Dependency(_) }) {
                    members.newest.remove(&id);
                }
            }
        }
        self.settle(id);
    }

    /// From now on this job waits for a change.
    pub(super) fn attend_to(&mut self, id: JobId) {
        self.attended_to(id);
        let wish = self.extras.get(&id).map(|extra| &extra.wish);
        let can_wait = matches!(wish, Some(Wish::Cancel { by: By::Dependency(_) }));
        self.attention.insert((can_wait, id));
    }

    pub(super) fn attended_to(&mut self, id: JobId) {
        self.attention.remove(&(false, id));
        self.attention.remove(&(true, id));
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
            Event::Claimed { attempt, pool, slot, epoch, limits } => {
                let lease = Lease {
                    attempt: *attempt,
                    pool: *pool,
                    slot: *slot,
                    epoch: epoch.clone(),
                    limits: *limits,
                    claimed: at.engine,
                    started: None,
                    stop: None,
                    dispatched: None,
                    refused: None,
                };
                self.take_lease(id, lease)?;
            }
            Event::Started { .. } => {
                let lease = self.lease_mut(id)?;
                (lease.started, lease.refused) = (Some(at.engine), None);
            }
            Event::Refused { .. } => self.lease_mut(id)?.started = None,
            Event::StopRequested { by, kill_at, .. } => self.lease_mut(id)?.stop = Some((by.clone(), *kill_at)),
            Event::Renewed { .. } => return Ok(()),
            Event::Released { .. } => self.give_lease(id, None),
            Event::Ended { result, next, .. } => {
                self.give_lease(id, Some(at.engine));
                if let Some(extra) = self.extras.get_mut(&id).filter(|extra| extra.expires.is_some()) {
                    extra.last = Some(result.clone());
                }
                if let Some(job) = self.jobs.get_mut(id) {
                    job.tries = job.tries.saturating_add(1);
                    if let Next::Retry { ready_at, .. } = next {
                        job.ready_at = *ready_at;
                    }
                }
                if let Next::Retry { memory_bytes: Some(memory_bytes), .. } = next {
                    self.grow(id, *memory_bytes);
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
        let (before, class, group) = (job.phase, job.class as usize, job.group);
        let cancelled = job.wish & CANCELLED != 0;
        job.phase = next;
        self.classes[class].queued += usize::from(next == Phase::Queued);
        self.classes[class].queued -= usize::from(before == Phase::Queued);
        self.tell(id, next, attempt, outcome.clone());
        if let Some(outcome) = outcome {
            self.remove(id, outcome.is_success());
            return;
        }
        if let Some(members) = self.group_mut(group).filter(|_| !cancelled) {
            members.enter(id, next);
        }
        if cancelled && next != Phase::Stopping {
            self.attend_to(id);
        } else {
            self.attended_to(id);
        }
        if next == Phase::Queued
            && let Some(expires) = self.extras.get(&id).and_then(|extra| extra.expires)
        {
            self.expiries.insert((expires, id));
            self.advance(self.now);
        }
        self.settle(id);
    }

    /// Takes a finished job out and lets those go that waited for it.
    fn remove(&mut self, id: JobId, success: bool) {
        self.unplace(id);
        let Some(job) = self.jobs.remove(id) else { return };
        self.attended_to(id);
        if let Some(extra) = self.extras.remove(&id) {
            if let Some(expires) = extra.expires {
                self.expiries.remove(&(expires, id));
            }
            for (other, condition) in extra.waits_for {
                self.dependents.remove(&(other, id, condition));
            }
        }
        if self.class_keys.give(job.class) {
            self.classes[job.class as usize] = Class::default();
        }
        self.retries.give(job.retry);
        self.leave_group(id, job.group);
        self.remember_end(id, success);
        while let Some((waiter, condition)) = self.next_dependent(id) {
            self.dependents.remove(&(id, waiter, condition));
            self.dependency_ended(waiter, id, condition, success);
        }
    }

    fn next_dependent(&self, id: JobId) -> Option<(JobId, Condition)> {
        let next = self.dependents.range((id, JobId::MIN, Condition::MIN)..).next();
        next.filter(|(other, ..)| *other == id).map(|(_, waiter, condition)| (*waiter, *condition))
    }

    fn leave_group(&mut self, id: JobId, group: u32) {
        if group == NO_GROUP {
            return;
        }
        if let Some(members) = self.group_mut(group) {
            members.leave(id);
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
