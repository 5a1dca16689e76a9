//! Memory and CPU: what was promised, who fits, and for whom the host is kept free.
//!
//! Each lease reserves what its limits say. A job whose limits do not fit lets others pass that do, so that no memory lies
//! idle behind it; but only for [`PASSED_MS_MAX`]. From then on it is late, and waited for in two steps:
//!
//! 1. While every place of its pools is taken, or nothing may be claimed in them, room would be of no use to it, and none is
//!    kept. Nobody behind it is claimed ahead of a free place there: the next one that becomes free is its.
//! 2. The first late job in the order that has a free place in a pool that is open keeps the host free: nobody behind it is
//!    promised anything more, and one place of its pools stays free.
//!
//! What runs ends (every attempt has a deadline where one is set): a place becomes free, and from then on it starts at the
//! latest when all that run at that moment have ended. Nothing starves.

use super::*;
use crate::limits::{Resource, grown};

/// How long a job that could run lets others pass because they fit and it does not: 1 minute.
pub const PASSED_MS_MAX: u64 = 60_000;

/// Whom others make way for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Kept {
    /// For whom the host is kept free: its place in the order, and its class.
    host: Option<((i64, JobId), usize)>,
    /// By pool: the first late job whose place will be the next one to become free there.
    next: Vec<Option<(i64, JobId)>>,
}

impl PoolState {
    /// Places that are free now; a claim has one, sent or not.
    pub(super) fn room(&self) -> u32 {
        let held = u32::try_from(self.dispatched.len() + self.claimed.len()).unwrap_or(u32::MAX);
        self.usable().saturating_sub(held)
    }

    /// Whether an attempt with these limits, and this pool's own, is allowed and can be made to keep to them.
    pub(super) fn takes(&self, limits: &Limits) -> bool {
        let kept = self.told.enforced.is_some_and(|enforced| enforced.lacks(&limits.or(self.defaults)).is_none());
        kept && limits.beyond(&self.maxima).is_none()
    }
}

impl Record {
    /// Says which limits attempts of a pool can be made to keep to; None: nothing may start there. No fact: a spawner tells
    /// it again at each connection, and until one has, everything is taken to be possible.
    pub fn set_enforced(&mut self, pool: PoolId, enforced: Option<Enforced>) {
        if let Some(pool) = self.pools.get_mut(usize::from(pool.0)).filter(|pool| pool.told.enforced != enforced) {
            pool.told.enforced = enforced;
            self.match_all_pools();
        }
    }

    /// The limit of a new job that no pool which would take it otherwise can make it keep to, and one of those pools.
    pub fn unenforceable(&self, terms: &crate::job::Terms) -> Option<(Resource, PoolId)> {
        let limits = &terms.limits;
        let mut lacking = None;
        for id in &self.preference {
            let Some(pool) = self.pools.get(usize::from(id.0)).filter(|pool| pool.slots > 0) else { continue };
            let fits = terms.pool.as_ref().map_or(!pool.named_only, |name| *name == pool.name)
                && crate::labels::missing(&terms.labels, &pool.labels).is_empty()
                && limits.beyond(&pool.maxima).is_none();
            match pool.told.enforced.filter(|_| fits).map(|enforced| enforced.lacks(limits)) {
                None => {}
                Some(None) => return None,
                Some(Some(resource)) => lacking = lacking.or(Some((resource, *id))),
            }
        }
        lacking
    }

    /// What all open attempts were promised together.
    pub fn reserved(&self) -> Reserved {
        self.reserved
    }

    /// What the next attempt of a job asks for by itself, without the defaults of a pool.
    pub fn limits(&self, id: JobId) -> Option<Limits> {
        self.jobs.get(id).map(|job| self.class_keys.get(job.class).limits)
    }

    /// What the next attempt of a job gets in a pool.
    pub fn limits_in(&self, id: JobId, pool: PoolId) -> Option<Limits> {
        let defaults = self.pools.get(usize::from(pool.0))?.defaults;
        Some(self.limits(id)?.or(defaults))
    }

    /// The memory limit after an attempt that was out of memory; None: as before.
    pub(crate) fn memory_after(&self, id: JobId, result: &AttemptResult) -> Option<u64> {
        let factor = self.retry(id)?.oom_factor.filter(|_| *result == AttemptResult::OomKilled)?;
        let before = self.lease(id)?.limits.memory_bytes?;
        let pools = &self.classes[self.jobs.get(id)?.class as usize].pools;
        let most = pools.iter().filter_map(|pool| self.pools.get(usize::from(pool.0)));
        // Wherever one allows any, the host's budget is the bound.
        let most = most.map(|pool| pool.maxima.memory_bytes.unwrap_or(u64::MAX)).max();
        let ceiling = most.into_iter().chain(self.settings.budget.memory_bytes).min();
        let after = grown(before, factor, ceiling);
        (after > before).then_some(after)
    }

    /// From now on the job asks for so much memory. It has just given its lease back, and counts as queued only when it is placed again.
    pub(super) fn grow(&mut self, id: JobId, memory_bytes: u64) {
        let Some(job) = self.jobs.get(id) else { return };
        let old = job.class;
        let mut key = self.class_keys.get(old).clone();
        key.limits.memory_bytes = Some(memory_bytes);
        let new = self.take_class(&key);
        if let Some(job) = self.jobs.get_mut(id) {
            job.class = new;
        }
        if self.class_keys.give(old) {
            self.classes[old as usize] = Class::default();
        }
    }

    /// The number of a class, with one user more.
    pub(super) fn take_class(&mut self, key: &ClassKey) -> u32 {
        let (class, new) = self.class_keys.take(key);
        if self.classes.len() <= class as usize {
            self.classes.resize_with(class as usize + 1, Class::default);
        }
        if new {
            self.match_pools(class as usize);
        }
        class
    }

    /// First job in the order that may go to this pool, of whose places `room` are free.
    pub(super) fn head(&self, pool: PoolId, room: u32, kept: &Kept) -> Option<(i64, JobId)> {
        let classes = self.classes.iter().enumerate();
        let fitting = classes.filter(|(_, class)| !class.ready.is_empty() && class.pools.contains(&pool));
        fitting
            .filter_map(|(number, class)| {
                let key = *class.ready.first()?;
                self.lets(number, (pool, room), key, kept).then_some(key)
            })
            .min()
    }

    /// True when a job of this class, at this place in the order, may go to this pool: it fits, and nobody is waited for.
    pub(super) fn lets(&self, class: usize, (pool, room): (PoolId, u32), key: (i64, JobId), kept: &Kept) -> bool {
        let budget = &self.settings.budget;
        let Some(limits) = self.class_limits(class, pool) else { return true };
        if self.reserved.shortage(&limits, budget).is_some() {
            return false;
        }
        let next = kept.next.get(usize::from(pool.0)).copied().flatten();
        if room == 0 && next.is_some_and(|next| next < key) {
            return false;
        }
        let Some((_, late)) = kept.host.filter(|(host, _)| *host < key) else { return true };
        !budget.counts(&limits) && (room > 1 || !self.classes[late].pools.contains(&pool))
    }

    /// What a class asks for in a pool; None where nothing is counted.
    fn class_limits(&self, class: usize, pool: PoolId) -> Option<Limits> {
        if self.settings.budget == crate::limits::Budget::default() {
            return None;
        }
        let limits = self.class_keys.get(u32::try_from(class).ok()?).limits;
        Some(limits.or(self.pools.get(usize::from(pool.0))?.defaults))
    }

    /// Whether a class fits into none of its pools that are open, and one is.
    fn is_short(&self, class: usize, open: &dyn Fn(PoolId) -> bool) -> bool {
        let short = |pool: &PoolId| {
            let limits = self.class_limits(class, *pool);
            limits.is_some_and(|limits| self.reserved.shortage(&limits, &self.settings.budget).is_some())
        };
        let mut pools = self.classes[class].pools.iter().filter(|pool| open(**pool)).peekable();
        pools.peek().is_some() && pools.all(short)
    }

    /// Whom others make way for, where claims are made in pools that are `open`.
    pub(super) fn kept_for(&self, open: &dyn Fn(PoolId) -> bool) -> Kept {
        let mut kept = Kept::default();
        if self.settings.budget == crate::limits::Budget::default() {
            return kept;
        }
        let waited =
            |id: JobId| self.jobs.get(id).is_some_and(|job| self.now.engine.since_ms(job.ready_at) >= PASSED_MS_MAX);
        let has_place = |id: &PoolId| self.pools.get(usize::from(id.0)).is_some_and(|pool| pool.room() > 0);
        let heads = self.classes.iter().enumerate().filter_map(|(class, of)| Some((class, *of.ready.first()?)));
        for (class, key) in heads.filter(|(class, (_, id))| waited(*id) && self.is_short(*class, open)) {
            let pools = &self.classes[class].pools;
            if pools.iter().any(|pool| open(*pool) && has_place(pool)) {
                let first = kept.host.is_none_or(|(host, _)| key < host);
                kept.host = if first { Some((key, class)) } else { kept.host };
                continue;
            }
            kept.next.resize(self.pools.len(), None);
            for pool in pools {
                let next = &mut kept.next[usize::from(pool.0)];
                *next = next.map_or(Some(key), |next| Some(next.min(key)));
            }
        }
        kept
    }

    /// Why a job whose pools have free places is not claimed; None: its class goes on.
    pub(super) fn explain_room(
        &self,
        class: usize,
        pools: &[(PoolId, u32)],
        open: &dyn Fn(PoolId) -> bool,
    ) -> Option<crate::explain::Reason> {
        use crate::explain::Reason;
        let key = *self.classes[class].ready.first()?;
        let kept = self.kept_for(open);
        if pools.iter().any(|place| self.lets(class, *place, key, &kept)) {
            return None;
        }
        let short = |(pool, _): &(PoolId, u32)| {
            self.reserved.shortage(&self.class_limits(class, *pool)?, &self.settings.budget)
        };
        match (pools.iter().find_map(short), kept.host) {
            (Some(shortage), _) => Some(Reason::Resources(shortage)),
            (None, Some(((_, job), _))) => Some(Reason::MakesWay { job }),
            (None, None) => None,
        }
    }
}
