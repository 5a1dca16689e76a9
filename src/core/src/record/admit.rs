//! How a job comes in: submitted, or told by the store at the start.

use super::*;
use crate::change::{OpenJob, Submission};
use crate::group::GroupPolicy;
use crate::outcome::By;

impl Record {
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

    pub(super) fn submit(&mut self, submission: &Submission, at: Now) -> Result<(), Illegal> {
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
        // One that can never run takes nobody's place.
        if let Some(group) = submission.spec.terms.group.as_ref().filter(|_| open.impossible.is_none()) {
            self.supersede(id, group.policy);
        }
        Ok(())
    }

    fn insert(&mut self, open: &OpenJob) {
        let id = open.id;
        let terms = &open.terms;
        let class =
            self.take_class(&ClassKey { pool: terms.pool.clone(), labels: terms.labels.clone(), limits: terms.limits });
        let (retry, _) = self.retries.take(&terms.retry);
        let group = self.join_group(id, open);
        let waits_for = self.wait_for(id, &open.waits_for);
        let unmet = waits_for.len() + usize::from(open.impossible.is_some());
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
        self.add_extra(open, waits_for);
        self.set_wish(id, &open.wish);
        if let Some(other) = open.impossible {
            self.set_wish_unless_cancelled(id, By::Dependency(other));
        }
        self.settle(id);
    }

    /// Notes for whom a job waits; what was asked for twice counts once.
    fn wait_for(&mut self, id: JobId, others: &[(JobId, Condition)]) -> Vec<(JobId, Condition)> {
        let new = |(other, condition): &&(JobId, Condition)| self.dependents.insert((*other, id, *condition));
        others.iter().filter(new).copied().collect()
    }

    fn add_extra(&mut self, open: &OpenJob, waits_for: Vec<(JobId, Condition)>) {
        let terms = &open.terms;
        if terms.at.is_none() && terms.expires.is_none() && waits_for.is_empty() {
            return;
        }
        if let Some(expires) = terms.expires {
            self.expiries.insert((expires, open.id));
        }
        let last = open.last.clone().filter(|_| terms.expires.is_some());
        let extra = Extra { wish: Wish::Run, at: terms.at, expires: terms.expires, last, waits_for };
        self.extras.insert(open.id, extra);
    }

    fn join_group(&mut self, id: JobId, open: &OpenJob) -> u32 {
        let (limit, phase) = (open.group_limit, open.phase);
        let Some(spec) = &open.terms.group else { return NO_GROUP };
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
            members.open += 1;
            members.enter(id, phase);
            if spec.policy != GroupPolicy::Queue {
                members.newest.insert(id);
            }
        }
        group
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
        last: None,
        wish,
        lease: None,
    }
}
