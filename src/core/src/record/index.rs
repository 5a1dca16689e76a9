//! Keeping the indexes: where a queued job stands, and moving it when something changed.

use super::*;
use members::Offer;

impl Record {
    /// Where a job belongs at the record's time.
    fn home(&self, job: &Job) -> Place {
        if job.phase != Phase::Queued || job.wish != 0 {
            return Place::Nowhere;
        }
        if job.unmet > 0 {
            return Place::Blocked;
        }
        // Once it was due it stays due, wherever the date is set: a retry does not wait for it again.
        let at = self.extras.get(&job.id).and_then(|extra| extra.at).filter(|_| job.attempt == 0);
        if job.ready_at > self.now.engine || at.is_some_and(|at| at > self.now.wall) {
            return Place::Delayed;
        }
        match (job.group, self.classes[job.class as usize].pools.is_empty()) {
            (NO_GROUP, _) => Place::Ready,
            (_, true) => Place::Stranded,
            (_, false) => Place::Grouped,
        }
    }

    /// Moves a job to where it belongs.
    pub(super) fn settle(&mut self, id: JobId) {
        let Some(job) = self.jobs.get(id) else { return };
        let home = self.home(job);
        if home == job.place && home != Place::Delayed {
            return;
        }
        self.unplace(id);
        self.place(id, home);
    }

    fn place(&mut self, id: JobId, home: Place) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        job.place = home;
        let (order, class, group, ready_at) = (job.order(), job.class, job.group, job.ready_at);
        match home {
            Place::Nowhere | Place::Blocked => {}
            Place::Delayed if ready_at > self.now.engine => {
                self.timers.insert((ready_at, id));
            }
            Place::Delayed => {
                let at = self.extras.get(&id).and_then(|extra| extra.at).unwrap_or_default();
                self.wall_timers.insert((at, id));
            }
            Place::Ready => {
                self.waiting.insert(id);
                self.classes[class as usize].ready.insert((order, id));
            }
            Place::Stranded => self.waiting.insert(id),
            Place::Grouped => {
                self.waiting.insert(id);
                let offer = self.group_mut(group).and_then(|members| members.wait(id));
                self.offer(offer);
                self.settle_group(group);
            }
        }
    }

    /// Takes a job out of whatever index it stands in.
    pub(super) fn unplace(&mut self, id: JobId) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        let place = std::mem::replace(&mut job.place, Place::Nowhere);
        let (order, class, group, ready_at) = (job.order(), job.class, job.group, job.ready_at);
        match place {
            Place::Nowhere | Place::Blocked => {}
            Place::Delayed => {
                self.timers.remove(&(ready_at, id));
                if let Some(at) = self.extras.get(&id).and_then(|extra| extra.at) {
                    self.wall_timers.remove(&(at, id));
                }
            }
            Place::Ready => {
                self.waiting.remove(id);
                self.classes[class as usize].ready.remove(&(order, id));
            }
            Place::Stranded => self.waiting.remove(id),
            Place::Grouped => {
                self.waiting.remove(id);
                self.classes[class as usize].ready.remove(&(order, id));
                if let Some(members) = self.group_mut(group) {
                    members.waiting.remove(&id);
                    members.offered.remove(&id);
                }
                self.settle_group(group);
            }
        }
    }

    pub(super) fn group_mut(&mut self, group: u32) -> Option<&mut Members> {
        self.groups.get_mut(group as usize)?.as_mut()
    }

    pub(super) fn settle_group(&mut self, group: u32) {
        let offers = self.group_mut(group).map(Members::settle).unwrap_or_default();
        self.offer(offers);
    }

    fn offer(&mut self, offers: impl IntoIterator<Item = Offer>) {
        for offer in offers {
            let (id, give) = match offer {
                Offer::Give(id) => (id, true),
                Offer::Withdraw(id) => (id, false),
            };
            let Some(job) = self.jobs.get(id) else { continue };
            let key = (job.order(), id);
            let ready = &mut self.classes[job.class as usize].ready;
            if give {
                ready.insert(key)
            } else {
                ready.remove(&key)
            };
        }
    }

    pub(super) fn set_group_limit(&mut self, group: u32, limit: u32) {
        if let Some(members) = self.group_mut(group) {
            members.limit = limit;
        }
        self.settle_group(group);
    }

    /// Finds out again to which pools a class may go.
    pub(super) fn match_pools(&mut self, number: usize) {
        let Ok(value) = u32::try_from(number) else { return };
        if !self.class_keys.is_live(value) {
            return;
        }
        let key = self.class_keys.get(value);
        let matches = |pool: &PoolState| {
            pool.slots > 0
                && key.pool.as_ref().map_or(!pool.named_only, |name| *name == pool.name)
                && crate::labels::missing(&key.labels, &pool.labels).is_empty()
                && pool.takes(&key.limits)
        };
        let pools = self.preference.iter().copied();
        let pools = pools.filter(|pool| matches(&self.pools[usize::from(pool.0)])).collect();
        self.classes[number].pools = pools;
    }

    /// Takes the time: jobs whose delay is over move on, jobs whose expiry passed ask for attention, queued or claimed and not sent. Engine time never
    /// goes back here; wall time may.
    pub fn advance(&mut self, now: Now) {
        let set_back = now.wall < self.now.wall;
        self.now.wall = now.wall;
        self.now.engine = self.now.engine.max(now.engine);
        while let Some((ready_at, id)) = self.timers.first().copied()
            && ready_at <= self.now.engine
        {
            self.timers.pop_first();
            self.settle(id);
        }
        while let Some((at, id)) = self.wall_timers.first().copied()
            && at <= self.now.wall
        {
            self.wall_timers.pop_first();
            self.settle(id);
        }
        while let Some((at, id)) = self.expiries.first().copied()
            && at <= self.now.wall
        {
            self.expiries.pop_first();
            let unsent = || self.leases.get(&id).is_some_and(Lease::is_unsent);
            if self.jobs.get(id).is_some_and(|job| job.phase == Phase::Queued || unsent()) {
                self.attend_to(id);
            }
        }
        if set_back {
            self.expect_again();
        }
    }

    /// The date was set back: what had expired and is not dropped yet has its time before it once more, and needs its timer.
    fn expect_again(&mut self) {
        let wall = self.now.wall;
        let pending = self.attention.iter().filter_map(|(_, id)| Some((self.extras.get(id)?.expires?, *id)));
        let pending: Vec<_> = pending.filter(|(expires, _)| *expires > wall).collect();
        for (expires, id) in pending {
            self.expiries.insert((expires, id));
            if self.jobs.get(id).is_some_and(|job| job.wish & CANCELLED == 0) {
                self.attended_to(id);
            }
        }
    }

    /// When [`Record::advance`] next changes anything: engine time and wall time.
    pub fn next_times(&self) -> (Option<Instant>, Option<WallTime>) {
        let wall = [self.wall_timers.first(), self.expiries.first()];
        (self.timers.first().map(|(at, _)| *at), wall.into_iter().flatten().map(|(at, _)| *at).min())
    }
}
