//! Looking at the record. Nothing here changes anything.

use super::*;
use crate::busy::Busy;
use crate::time::WallTime;

/// A pool's mean run time before anything ran there: long, so that nothing is claimed ahead. Longer runs count as this.
pub(super) const RUN_MS_UNKNOWN: u64 = 10_000;
/// Claims are made ahead of a free place only while runs are shorter than this: then waiting for the disk would show.
const AHEAD_RUN_MS_MAX: u64 = 250;
/// Only runs younger than this let a claim be made ahead: a place held by a long job frees nothing soon.
pub const AHEAD_AGE_MS_MAX: u64 = 1_000;
/// Claims ahead of free places, per pool.
const AHEAD_MAX: u32 = 16;
/// A commit may take so long, with the wait for more to share it: so many claims are ahead as end meanwhile.
const AHEAD_SPAN_MS: u64 = 10;

/// How many of the oldest waiting jobs are looked at for [`Record::oldest_by_pool`].
const OLDEST_LOOKED_AT: usize = 10_000;

/// A place to claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FreePlace {
    pub pool: PoolId,
    pub slot: u32,
    /// Free now, so that pools with more room are preferred.
    pub room: u32,
}

/// One pool, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolView {
    /// Name.
    pub name: String,
    /// Slots; 0 when the pool was removed while it still had jobs.
    pub slots: u32,
    /// Attempts that were sent to run.
    pub used: u32,
    /// Claims whose turn comes next.
    pub claimed: u32,
    /// What it offers.
    pub labels: Vec<Label>,
    /// Who holds which place.
    pub holders: Vec<(u32, JobId)>,
}

/// One group, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupView {
    /// Name.
    pub name: String,
    /// Limit.
    pub limit: u32,
    /// Who holds it.
    pub holders: Vec<JobId>,
    /// How many could run if it let them.
    pub waiting: usize,
    /// All open jobs of it.
    pub open: usize,
}

/// Open jobs of one pool (or of no certain one) by phase.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Queued.
    pub queued: usize,
    /// Claimed.
    pub starting: usize,
    /// Running.
    pub running: usize,
    /// Told to end.
    pub stopping: usize,
}

impl PoolState {
    fn view(&self) -> PoolView {
        PoolView {
            name: self.name.clone(),
            slots: self.slots,
            used: u32::try_from(self.dispatched.len()).unwrap_or(u32::MAX),
            claimed: u32::try_from(self.claimed.len()).unwrap_or(u32::MAX),
            labels: self.labels.clone(),
            holders: (0u32..).zip(&self.places).filter_map(|(slot, job)| job.map(|job| (slot, job))).collect(),
        }
    }
}

impl Record {
    /// The settings it decides by.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Open jobs.
    pub fn len(&self) -> usize {
        self.jobs.len()
    }

    /// True without open jobs.
    pub fn is_empty(&self) -> bool {
        self.jobs.len() == 0
    }

    /// The latest time it was told.
    pub fn now(&self) -> Now {
        self.now
    }

    /// Limits of the host that are passed.
    pub fn busy(&self) -> &[Busy] {
        &self.busy
    }

    /// True while nothing new may start on this host.
    pub fn is_closed(&self) -> bool {
        self.paused.is_some() || !self.busy.is_empty()
    }

    /// Present pause.
    pub fn paused(&self) -> Option<&Pause> {
        self.paused.as_ref()
    }

    /// Phase of an open job.
    pub fn phase(&self, id: JobId) -> Option<Phase> {
        self.jobs.get(id).map(|job| job.phase)
    }

    /// Priority of an open job.
    pub fn priority(&self, id: JobId) -> Option<i16> {
        self.jobs.get(id).map(|job| i16::from(job.priority))
    }

    /// Tries of an open job that ended.
    pub fn tries(&self, id: JobId) -> Option<u32> {
        self.jobs.get(id).map(|job| u32::from(job.tries))
    }

    /// Last attempt number that was given to an open job; 0 before the first.
    pub fn last_attempt(&self, id: JobId) -> Option<u32> {
        self.jobs.get(id).map(|job| job.attempt)
    }

    /// Retry policy of an open job.
    pub fn retry(&self, id: JobId) -> Option<&RetryPolicy> {
        self.jobs.get(id).map(|job| self.retries.get(job.retry))
    }

    /// What the user wants of an open job.
    pub fn wish(&self, id: JobId) -> Option<&Wish> {
        let job = self.jobs.get(id)?;
        Some(if job.wish == 0 { &Wish::Run } else { self.extras.get(&id).map_or(&Wish::Run, |extra| &extra.wish) })
    }

    /// How a job ended, if it ended not long ago: true for success.
    pub fn ended(&self, id: JobId) -> Option<bool> {
        self.ends.get(&id).copied()
    }

    /// All open attempts, by job.
    pub fn leases(&self) -> impl Iterator<Item = (JobId, &Lease)> {
        self.leases.iter().map(|(id, lease)| (*id, lease))
    }

    /// The open attempt of a job.
    pub fn lease(&self, id: JobId) -> Option<&Lease> {
        self.leases.get(&id)
    }

    /// Name of a pool.
    pub fn pool_name(&self, pool: PoolId) -> &str {
        self.pools.get(usize::from(pool.0)).map_or("?", |pool| pool.name.as_str())
    }

    /// The pools that a job may go to, as the host is configured and spawners told.
    pub fn pools_of(&self, id: JobId) -> &[PoolId] {
        let class = self.jobs.get(id).and_then(|job| self.classes.get(job.class as usize));
        class.map_or(&[], |class| class.pools.as_slice())
    }

    /// Limit of a group that has open jobs.
    pub fn group_limit(&self, name: &str) -> Option<u32> {
        let number = self.group_names.find(&name.to_owned())?;
        self.groups.get(number as usize)?.as_ref().map(|members| members.limit)
    }

    /// Ids of all open jobs, rising.
    pub fn ids(&self) -> impl Iterator<Item = JobId> {
        self.jobs.iter().map(|job| job.id)
    }

    /// All pools by number: the n-th is `PoolId(n)`, gone ones too.
    pub fn pools(&self) -> impl Iterator<Item = PoolView> {
        self.pools.iter().map(PoolState::view)
    }

    /// Pools for people, in order of preference: those of the settings, and those that are gone while open jobs hold or
    /// name them.
    pub fn pools_in_use(&self) -> Vec<PoolView> {
        let mut named: Vec<&str> = Vec::new();
        for (at, _) in self.classes.iter().enumerate().filter(|(_, class)| class.queued > 0) {
            named.extend(self.class_keys.get(u32::try_from(at).unwrap_or(u32::MAX)).pool.as_deref());
        }
        let pools = self.preference.iter().filter_map(|pool| self.pools.get(usize::from(pool.0)));
        let in_use = |pool: &&PoolState| {
            pool.slots > 0
                || !pool.dispatched.is_empty()
                || !pool.claimed.is_empty()
                || named.contains(&pool.name.as_str())
        };
        pools.filter(in_use).map(PoolState::view).collect()
    }

    /// All groups with open jobs.
    pub fn groups(&self) -> impl Iterator<Item = GroupView> {
        let numbered = self.groups.iter().enumerate().filter_map(|(at, group)| Some((at, group.as_ref()?)));
        numbered.map(|(at, members)| GroupView {
            name: self.group_names.get(u32::try_from(at).unwrap_or(u32::MAX)).clone(),
            limit: members.limit,
            holders: members.holders.iter().copied().collect(),
            waiting: members.waiting.len() - members.offered.len(),
            open: members.open,
        })
    }

    /// Open jobs by pool. A queued job counts for the pool it names, else for the first that could take it, else for "".
    pub fn counts(&self) -> BTreeMap<String, Counts> {
        let mut counts: BTreeMap<String, Counts> = BTreeMap::new();
        for pool in self.pools.iter().filter(|pool| pool.slots > 0) {
            counts.entry(pool.name.clone()).or_default();
        }
        for (at, class) in self.classes.iter().enumerate().filter(|(_, class)| class.queued > 0) {
            let key = self.class_keys.get(u32::try_from(at).unwrap_or(u32::MAX));
            let first = class.pools.first().map(|pool| self.pool_name(*pool).to_owned());
            let name = key.pool.clone().or(first).unwrap_or_default();
            counts.entry(name).or_default().queued += class.queued;
        }
        for (id, lease) in self.leases() {
            let counts = counts.entry(self.pool_name(lease.pool).to_owned()).or_default();
            match self.phase(id) {
                Some(Phase::Starting) => counts.starting += 1,
                Some(Phase::Running) => counts.running += 1,
                Some(Phase::Stopping) => counts.stopping += 1,
                Some(Phase::Queued | Phase::Finished) | None => {}
            }
        }
        counts
    }

    /// When the job that could run and has waited longest was submitted.
    pub fn oldest_waiting(&self) -> Option<Instant> {
        self.waiting.first().and_then(|id| self.jobs.get(id)).map(|job| job.submitted)
    }

    /// As [`Record::oldest_waiting`], by pool: of the jobs that name a pool, or whose first possible pool it is. Looks at the
    /// oldest 10,000 only.
    pub fn oldest_by_pool(&self) -> BTreeMap<String, Instant> {
        let mut oldest = BTreeMap::new();
        for job in self.waiting.iter().take(OLDEST_LOOKED_AT).filter_map(|id| self.jobs.get(id)) {
            let first = self.classes[job.class as usize].pools.first();
            if let Some(pool) = first {
                oldest.entry(self.pool_name(*pool).to_owned()).or_insert(job.submitted);
            }
            if oldest.len() == self.pools.len() {
                break;
            }
        }
        oldest
    }

    /// When an open job was acknowledged.
    pub fn submitted(&self, id: JobId) -> Option<Instant> {
        self.jobs.get(id).map(|job| job.submitted)
    }

    /// Facts for listeners after number `seq`; None when some are no longer kept.
    pub(crate) fn news_after(&self, seq: u64) -> Option<impl Iterator<Item = &News>> {
        let first = self.news.front().map_or(self.news_seq + 1, |news| news.seq);
        let skip = usize::try_from((seq + 1).checked_sub(first)?).ok()?;
        Some(self.news.iter().skip(skip))
    }

    /// Number of the latest news.
    pub fn news_seq(&self) -> u64 {
        self.news_seq
    }

    /// Jobs whose wish or expiry asks for a change, lowest id first.
    pub(crate) fn attention(&self, can_wait: bool) -> impl Iterator<Item = JobId> {
        self.attention
            .range((can_wait, JobId::MIN)..)
            .take_while(move |(waits, _)| *waits == can_wait)
            .map(|(_, id)| *id)
    }

    /// True when the job's expiry has passed.
    pub(crate) fn is_expired(&self, id: JobId) -> bool {
        let expires: Option<WallTime> = self.extras.get(&id).and_then(|extra| extra.expires);
        expires.is_some_and(|expires| expires <= self.now.wall)
    }

    /// How the last try of a job that expires ended.
    pub(crate) fn last_result(&self, id: JobId) -> Option<&AttemptResult> {
        self.extras.get(&id)?.last.as_ref()
    }

    /// The best job to claim and where, if any pool that is `open` has room.
    pub(crate) fn best_claim(&self, open: impl Fn(PoolId) -> bool) -> Option<(JobId, FreePlace)> {
        let kept = self.kept_for(&open);
        let mut best: Option<((i64, JobId), FreePlace)> = None;
        let pools = self.preference.iter().filter_map(|id| Some((*id, self.pools.get(usize::from(id.0))?)));
        for place in pools.filter(|(id, _)| open(*id)).filter_map(|(id, pool)| self.free_place(id, pool)) {
            let Some(head) = self.head(place.pool, place.room, &kept) else { continue };
            let better = best.is_none_or(|(key, taken)| head < key || (head == key && place.room > taken.room));
            if better {
                best = Some((head, place));
            }
        }
        best.map(|((_, id), place)| (id, place))
    }

    fn free_place(&self, id: PoolId, pool: &PoolState) -> Option<FreePlace> {
        let held = u32::try_from(pool.dispatched.len() + pool.claimed.len()).ok()?;
        let slots = pool.usable();
        let free = slots.saturating_sub(held);
        if free == 0 && (slots == 0 || held >= slots + self.ahead(pool)) {
            return None;
        }
        let taken =
            |slot: &u32| pool.told.shut.contains(slot) || pool.places.get(*slot as usize).copied().flatten().is_some();
        let slot = (0..).take(held as usize + pool.told.shut.len() + 1).find(|slot| !taken(slot))?;
        Some(FreePlace { pool: id, slot, room: free })
    }

    /// How many claims may be made ahead of a free place.
    fn ahead(&self, pool: &PoolState) -> u32 {
        if pool.run_ms > AHEAD_RUN_MS_MAX {
            return 0;
        }
        let since = Instant(self.now.engine.0.saturating_sub_unsigned(AHEAD_AGE_MS_MAX));
        let first = JobId::new(1).expect("one is positive");
        let young = pool.dispatched.range((since, first)..).take(AHEAD_MAX as usize).count() as u64;
        let ends = young * (1 + AHEAD_SPAN_MS / (pool.run_ms + 1));
        u32::try_from(ends).unwrap_or(AHEAD_MAX).min(AHEAD_MAX)
    }

    /// True when the pool may run one attempt more at this moment. Nothing new starts while the host is paused or busy.
    pub fn may_dispatch(&self, pool: PoolId) -> bool {
        let pool = self.pools.get(usize::from(pool.0));
        !self.is_closed() && pool.is_some_and(|pool| pool.dispatched.len() < pool.usable() as usize)
    }

    /// True when an attempt whose `start` may have been sent before, and did not start, may be sent again. After a start of
    /// the daemon all open attempts count as sent, those claimed ahead too, and a pool may have shrunk: while more count
    /// as sent than there are slots, nobody knows yet which of them run.
    pub(crate) fn may_dispatch_again(&self, pool: PoolId) -> bool {
        let pool = self.pools.get(usize::from(pool.0));
        !self.is_closed() && pool.is_some_and(|pool| pool.dispatched.len() <= pool.usable() as usize)
    }

    /// True where a claim may start as soon as one that was sent ends.
    pub(crate) fn waits_for_place(&self, lease: &Lease) -> bool {
        let pool = self.pools.get(usize::from(lease.pool.0));
        !self.is_closed() && pool.is_some_and(|pool| pool.usable() > 0)
    }

    /// Ids of all pools.
    pub fn pool_ids(&self) -> impl Iterator<Item = PoolId> + use<> {
        (0..u16::try_from(self.pools.len()).unwrap_or(u16::MAX)).map(PoolId)
    }

    /// Claims not yet sent, per pool, oldest first.
    pub fn undispatched(&self, pool: PoolId) -> impl Iterator<Item = JobId> {
        let pool = self.pools.get(usize::from(pool.0));
        pool.into_iter().flat_map(|pool| pool.claimed.iter().map(|(_, id)| *id))
    }

    /// A claim that is better given back: not sent (nor refused: that is not for the record alone), and the host was paused or is busy; or made ahead, not sent, and since then either
    /// [`AHEAD_AGE_MS_MAX`] went by or something better came.
    pub(crate) fn stale_claim(&self, open: impl Fn(PoolId) -> bool) -> Option<JobId> {
        if self.is_closed() {
            return self.pools.iter().find_map(|pool| self.unsent(pool).next()).map(|(_, id)| id);
        }
        let kept = self.kept_for(&open);
        (0u16..).zip(&self.pools).find_map(|(at, pool)| {
            if pool.dispatched.len() < pool.usable() as usize {
                return None; // its turn has come
            }
            let (claimed, id) = self.unsent(pool).next_back()?;
            let age = self.now.engine.since_ms(claimed);
            let job = self.jobs.get(id)?;
            let better = || self.head(PoolId(at), 0, &kept).is_some_and(|(order, _)| order < job.order());
            (age >= AHEAD_AGE_MS_MAX || (age >= AHEAD_AGE_MS_MAX / 20 && better())).then_some(id)
        })
    }

    /// When the next claim made ahead becomes stale. A claim whose turn has come never does.
    pub fn next_stale(&self) -> Option<Instant> {
        let full = self.pools.iter().filter(|pool| pool.dispatched.len() >= pool.usable() as usize);
        full.filter_map(|pool| self.unsent(pool).next_back()).map(|(at, _)| at.plus_ms(AHEAD_AGE_MS_MAX)).min()
    }

    /// Claims of a pool that no spawner can know of, oldest first.
    fn unsent(&self, pool: &PoolState) -> impl DoubleEndedIterator<Item = (Instant, JobId)> {
        let is_unsent = |(_, id): &(Instant, JobId)| self.leases.get(id).is_some_and(Lease::is_unsent);
        pool.claimed.iter().copied().filter(is_unsent)
    }
}
