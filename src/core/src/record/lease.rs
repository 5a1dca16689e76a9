//! What an open attempt holds: its place in the pool and in the group.

use super::*;

impl Record {
    pub(super) fn lease_mut(&mut self, id: JobId) -> Result<&mut Lease, Illegal> {
        self.leases.get_mut(&id).ok_or(Illegal::NoJob(id))
    }

    pub(super) fn take_lease(&mut self, id: JobId, lease: Lease) -> Result<(), Illegal> {
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
        self.reserved.add(&lease.limits);
        self.leases.insert(id, lease);
        if let Some(members) = self.group_mut(group) {
            members.holders.insert(id);
        }
        self.settle_group(group);
        Ok(())
    }

    /// Frees the place and the group; `ended` tells when an attempt that ran was over.
    pub(super) fn give_lease(&mut self, id: JobId, ended: Option<Instant>) {
        let Some(lease) = self.leases.remove(&id) else { return };
        self.reserved.remove(&lease.limits);
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

    /// A start of this job's attempt was refused. Not a fact of the store.
    pub fn refuse(&mut self, id: JobId) {
        let now = self.now.engine;
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.refused.get_or_insert(now);
        }
    }

    /// Takes [`Self::dispatch`] back: the only `start` that was sent was refused, so nothing of it can ever run. Its place is
    /// another's until its turn comes again.
    pub fn undispatch(&mut self, id: JobId) {
        self.refuse(id);
        let Some(lease) = self.leases.get_mut(&id).filter(|lease| lease.started.is_none()) else { return };
        let Some(at) = lease.dispatched.take() else { return };
        let claimed = lease.claimed;
        if let Some(pool) = self.pools.get_mut(usize::from(lease.pool.0)) {
            pool.dispatched.remove(&(at, id));
            pool.claimed.insert((claimed, id));
        }
    }
}
