//! The part of `explain` that reads the indexes.

use super::*;
use crate::explain::{AHEAD_COUNTED_MAX, Reason};

impl Record {
    /// Dependencies, times and the group.
    pub(crate) fn explain_waits(&self, id: JobId, open: &dyn Fn(PoolId) -> bool) -> Vec<Reason> {
        let mut reasons = Vec::new();
        let Some(job) = self.jobs.get(id) else { return reasons };
        let extra = self.extras.get(&id);
        for (other, on) in extra.map(|extra| extra.waits_for.as_slice()).unwrap_or_default() {
            reasons.push(Reason::WaitsFor { job: *other, on: *on, phase: self.phase(*other) });
        }
        let was_due = job.attempt > 0 || matches!(job.place, Place::Ready | Place::Grouped | Place::Stranded);
        if let Some(at) = extra.and_then(|extra| extra.at).filter(|at| !was_due && *at > self.now.wall) {
            reasons.push(Reason::NotBefore(at));
        }
        if job.ready_at > self.now.engine {
            reasons.push(Reason::Delayed { until: job.ready_at, tries: u32::from(job.tries) });
        }
        // What no pool can take is outside its group's order: the group is not what it waits for.
        let group = (!self.is_stranded(job)).then(|| self.groups.get(job.group as usize)).flatten();
        if let Some(members) = group.and_then(Option::as_ref) {
            let ahead = members.waiting.range(..id).take(AHEAD_COUNTED_MAX).count();
            if members.holders.len() + ahead >= members.limit as usize {
                let first = members.waiting.first().filter(|_| members.holders.len() < members.limit as usize);
                let waits = |first| {
                    self.explain_placement(first, true, open).filter(|why| !matches!(why, Reason::Behind { .. }))
                };
                reasons.push(Reason::Group {
                    name: self.group_names.get(job.group).clone(),
                    limit: members.limit,
                    holders: members.holders.iter().copied().collect(),
                    ahead,
                    first: first.map(|first| (*first, waits(*first).map(Box::new))),
                });
            }
        }
        reasons
    }

    fn is_stranded(&self, job: &Job) -> bool {
        self.classes.get(job.class as usize).is_none_or(|class| class.pools.is_empty())
    }

    /// Pools, slots and the queue. `free` says that nothing else is in the way: only then does the queue matter.
    pub(crate) fn explain_placement(&self, id: JobId, free: bool, open: &dyn Fn(PoolId) -> bool) -> Option<Reason> {
        let job = self.jobs.get(id)?;
        let class = self.classes.get(job.class as usize)?;
        if class.pools.is_empty() {
            return Some(self.explain_no_pool(job.class));
        }
        if !free {
            return None;
        }
        let any_open = class.pools.iter().any(|pool| open(*pool));
        let in_question = || class.pools.iter().filter(|pool| !any_open || open(**pool));
        let room = |id: &PoolId| {
            let room = self.pools.get(usize::from(id.0))?.room();
            (room > 0).then_some((*id, room))
        };
        let places: Vec<(PoolId, u32)> = in_question().filter_map(room).collect();
        if !places.is_empty() {
            if let Some(reason) = self.explain_room(job.class as usize, &places, open) {
                return Some(reason);
            }
            let ahead = class.ready.range(..(job.order(), id)).take(AHEAD_COUNTED_MAX).count();
            return (ahead > 0).then_some(Reason::Behind { ahead });
        }
        let pools = in_question().filter_map(|pool| self.pools.get(usize::from(pool.0)));
        let pools = pools.map(|pool| (pool.name.clone(), pool.slots, pool.places.iter().flatten().copied().collect()));
        Some(Reason::NoSlot { pools: pools.collect() })
    }

    /// How many of its class go before a queued job; for people who see `NoSlot`.
    pub fn queued_ahead(&self, id: JobId) -> usize {
        let Some(job) = self.jobs.get(id) else { return 0 };
        self.classes[job.class as usize].ready.range(..(job.order(), id)).take(AHEAD_COUNTED_MAX).count()
    }

    fn explain_no_pool(&self, class: u32) -> Reason {
        let key = self.class_keys.get(class);
        let lacks = |pool: &PoolState| -> Vec<Label> {
            crate::labels::missing(&key.labels, &pool.labels).into_iter().cloned().collect()
        };
        let pools = self.preference.iter().filter_map(|pool| self.pools.get(usize::from(pool.0)));
        let candidates = pools.filter(|pool| pool.slots > 0);
        let candidates = candidates.filter(|pool| key.pool.as_ref().is_none_or(|name| *name == pool.name));
        let nearest = candidates.map(|pool| (pool.name.clone(), lacks(pool))).min_by_key(|(_, lacks)| lacks.len());
        Reason::NoPool { pool: key.pool.clone(), labels: key.labels.clone(), nearest }
    }
}
