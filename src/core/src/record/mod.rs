//! What is true: all open jobs, behind indexes that make every decision cost O(log n).
//!
//! The record changes in two ways only: [`Record::apply`] takes a fact, [`Record::advance`] takes the time. Both keep the
//! indexes. A job costs 48 bytes here plus its places in the indexes; what few jobs have (a lease, a wish, dependencies)
//! stands in side tables. Finished jobs leave at once; only how they ended is remembered for a while, because a
//! submission may name them before the store can tell.
//!
//! ```text
//! job.place:   Blocked ─▶ Delayed ─▶ Grouped ─▶ (offered) ─▶ Ready ─▶ claimed: no place, a lease
//!                 dependencies   time      group's waiting    class queue
//! ```
//!
//! A job of a group that no pool can take is `Stranded`: it waits outside its group until the settings change.

mod admit;
mod apply;
mod classes;
mod ids;
mod illegal;
mod index;
mod interner;
mod lease;
mod members;
mod pages;
mod room;
mod shut;
mod told;
mod view;
mod why;

use crate::busy::Busy;
use crate::change::{Lease, Pause, Wish};
use crate::id::{AttemptNumber, JobId, PoolId};
use crate::job::{Condition, PRIORITY_MAX};
use crate::labels::Label;
use crate::limits::{Enforced, Limits, Reserved};
use crate::outcome::{AttemptResult, Outcome};
use crate::policy::Settings;
use crate::retry::RetryPolicy;
use crate::state::Phase;
use crate::time::{Instant, Now, WallTime};
use ids::Ids;
use interner::Interner;
use members::Members;
use pages::Pages;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use told::Told;

pub use classes::{CLASSES_MAX, NewClasses};
pub use illegal::Illegal;
pub use room::PASSED_MS_MAX;
pub use view::{Counts, GroupView, PoolView};

/// One point of priority is worth so much waiting time: 1 minute. With [`PRIORITY_MAX`] it bounds starvation: a
/// job can be overtaken only by jobs submitted less than 200 minutes after it, so everything that can run gets its turn.
pub const AGEING_MS_PER_PRIORITY: i64 = 60_000;
/// How many ends are remembered.
const REMEMBERED_ENDS: usize = 65_536;
/// How many announcements are kept for listeners that lag.
const NEWS_MAX: usize = 65_536;

/// In which index a queued job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// In none: it has a lease, is held, or is about to be dropped.
    Nowhere,
    /// In `dependents` of another job.
    Blocked,
    /// In one of the timers.
    Delayed,
    /// In its group's `waiting`; in its class's queue as well while offered.
    Grouped,
    /// In its class's queue.
    Ready,
    /// In none but `waiting`: it has a group, and no pool can take it. Its group passes it over, so that it holds up nobody.
    Stranded,
}

const NO_GROUP: u32 = u32::MAX;
const HELD: u8 = 1;
const CANCELLED: u8 = 2;

/// What scheduling needs of a job.
#[derive(Clone, Debug)]
struct Job {
    id: JobId,
    submitted: Instant,
    ready_at: Instant,
    class: u32,
    group: u32,
    retry: u32,
    attempt: u32,
    tries: u16,
    unmet: u16,
    /// Within [`PRIORITY_MAX`].
    priority: i8,
    phase: Phase,
    place: Place,
    wish: u8,
}

/// What the top of this file says, and what a million of them may take.
const _: () = assert!(size_of::<Option<Job>>() == 48);

impl Job {
    /// A priority as it is kept. Submissions are checked; a store that was written to by hand is not trusted.
    fn kept_priority(priority: i16) -> i8 {
        i8::try_from(priority.clamp(-PRIORITY_MAX, PRIORITY_MAX)).expect("the limit fits")
    }

    /// Position in the queue: lower goes first. Fixed while priority is, because ageing has one slope for all.
    fn order(&self) -> i64 {
        self.submitted.0 - i64::from(self.priority) * AGEING_MS_PER_PRIORITY
    }
}

/// What few jobs have.
#[derive(Clone, Debug, Default)]
struct Extra {
    wish: Wish,
    at: Option<WallTime>,
    expires: Option<WallTime>,
    /// How its last try ended, where it expires.
    last: Option<AttemptResult>,
    waits_for: Vec<(JobId, Condition)>,
}

/// Jobs that may go to the same pools.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct ClassKey {
    pool: Option<String>,
    labels: Vec<Label>,
    limits: Limits,
}

#[derive(Default)]
struct Class {
    /// Pools it may go to.
    pools: Vec<PoolId>,
    /// Claimable now, by order.
    ready: BTreeSet<(i64, JobId)>,
    /// All queued jobs.
    queued: usize,
}

struct PoolState {
    name: String,
    slots: u32,
    labels: Vec<Label>,
    named_only: bool,
    defaults: Limits,
    maxima: Limits,
    told: Told,
    /// Who holds each place; longer than `slots` by the claims made ahead.
    places: Vec<Option<JobId>>,
    /// Leases whose start was sent, by when.
    dispatched: BTreeSet<(Instant, JobId)>,
    /// Leases not yet sent.
    claimed: BTreeSet<(Instant, JobId)>,
    /// Moving mean of run times, milliseconds: says whether claiming ahead pays.
    run_ms: u64,
}

/// A job's new state, for those who watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// Rises by one.
    pub seq: u64,
    /// Which job.
    pub job: JobId,
    /// Where it stands now.
    pub phase: Phase,
    /// Its attempt, when it has one.
    pub attempt: Option<AttemptNumber>,
    /// How it ended, when it has.
    pub outcome: Option<Outcome>,
}

/// All open jobs of one store.
pub struct Record {
    settings: Settings,
    now: Now,
    jobs: Pages,
    last_id: u64,
    leases: BTreeMap<JobId, Lease>,
    extras: HashMap<JobId, Extra>,
    /// Who waits for whom: the other job, who waits, and for which end. One set for all, because a job may have many that
    /// wait, and each may leave before it.
    dependents: BTreeSet<(JobId, JobId, Condition)>,
    class_keys: Interner<ClassKey>,
    classes: Vec<Class>,
    retries: Interner<RetryPolicy>,
    group_names: Interner<String>,
    groups: Vec<Option<Members>>,
    /// By number. A pool that is gone keeps its number.
    pools: Vec<PoolState>,
    /// The same in order of preference: that of the settings, then those that are gone.
    preference: Vec<PoolId>,
    timers: BTreeSet<(Instant, JobId)>,
    wall_timers: BTreeSet<(WallTime, JobId)>,
    expiries: BTreeSet<(WallTime, JobId)>,
    /// Jobs whose wish or expiry asks for a change; true: it may be put off, as the store says the same.
    attention: BTreeSet<(bool, JobId)>,
    /// Jobs that could run if there were room, by age.
    waiting: Ids,
    paused: Option<Pause>,
    busy: Vec<Busy>,
    /// What all leases were promised.
    reserved: Reserved,
    ends: HashMap<JobId, bool>,
    ends_order: VecDeque<JobId>,
    news: VecDeque<News>,
    news_seq: u64,
}

impl Record {
    /// An empty record.
    pub fn new(settings: Settings) -> Self {
        let mut record = Self {
            settings: Settings::default(),
            now: Now::default(),
            jobs: Pages::default(),
            last_id: 0,
            leases: BTreeMap::new(),
            extras: HashMap::new(),
            dependents: BTreeSet::new(),
            class_keys: Interner::default(),
            classes: Vec::new(),
            retries: Interner::default(),
            group_names: Interner::default(),
            groups: Vec::new(),
            pools: Vec::new(),
            preference: Vec::new(),
            timers: BTreeSet::new(),
            wall_timers: BTreeSet::new(),
            expiries: BTreeSet::new(),
            attention: BTreeSet::new(),
            waiting: Ids::default(),
            paused: None,
            busy: Vec::new(),
            reserved: Reserved::default(),
            ends: HashMap::new(),
            ends_order: VecDeque::new(),
            news: VecDeque::new(),
            news_seq: 0,
        };
        record.configure(settings);
        record
    }

    /// Takes new settings. A pool that is gone keeps its number and its running attempts, and takes no more. The order of
    /// the new settings is the order of preference, whatever it was before.
    pub fn configure(&mut self, settings: Settings) {
        for pool in &mut self.pools {
            let kept = settings.pools.iter().find(|wanted| wanted.name == pool.name);
            pool.slots = kept.map_or(0, |kept| kept.slots);
            pool.labels = kept.map(|kept| kept.labels.clone()).unwrap_or_default();
            pool.defaults = kept.map(|kept| kept.defaults).unwrap_or_default();
            pool.maxima = kept.map(|kept| kept.maxima).unwrap_or_default();
        }
        for wanted in &settings.pools {
            let number = self.ensure_pool(&wanted.name);
            let pool = &mut self.pools[usize::from(number.0)];
            pool.slots = wanted.slots;
            pool.labels = wanted.labels.clone();
            pool.named_only = wanted.named_only;
            (pool.defaults, pool.maxima) = (wanted.defaults, wanted.maxima);
        }
        let rank = |pool: &PoolId| {
            let name = &self.pools[usize::from(pool.0)].name;
            settings.pools.iter().position(|wanted| wanted.name == *name).unwrap_or(usize::MAX)
        };
        self.preference.sort_by_cached_key(|pool| (rank(pool), *pool));
        for group in &settings.groups {
            if let Some(number) = self.group_names.find(&group.name) {
                self.set_group_limit(number, group.limit);
            }
        }
        self.settings = settings;
        self.match_all_pools();
    }

    /// Finds out again to which pools every class may go.
    fn match_all_pools(&mut self) {
        let stranded =
            |record: &Self| -> Vec<bool> { record.classes.iter().map(|class| class.pools.is_empty()).collect() };
        let before = stranded(self);
        for number in 0..self.classes.len() {
            self.match_pools(number);
        }
        self.settle_stranded(&before, &stranded(self));
    }

    /// Groups pass over what no pool can take any more, and let in what one can take now.
    fn settle_stranded(&mut self, before: &[bool], now: &[bool]) {
        if before == now {
            return;
        }
        let changed = |job: &&Job| job.group != NO_GROUP && before[job.class as usize] != now[job.class as usize];
        let ids: Vec<JobId> = self.jobs.iter().filter(changed).map(|job| job.id).collect();
        for id in ids {
            self.settle(id);
        }
    }

    /// Number of the pool of this name; one that the settings lack gets no slots.
    pub fn ensure_pool(&mut self, name: &str) -> PoolId {
        let at = self.pools.iter().position(|pool| pool.name == name).unwrap_or_else(|| {
            self.pools.push(PoolState {
                name: name.to_owned(),
                slots: 0,
                labels: Vec::new(),
                named_only: false,
                defaults: Limits::NONE,
                maxima: Limits::NONE,
                told: Told::default(),
                places: Vec::new(),
                dispatched: BTreeSet::new(),
                claimed: BTreeSet::new(),
                run_ms: view::RUN_MS_UNKNOWN,
            });
            self.preference.push(pool_id(self.pools.len() - 1));
            self.pools.len() - 1
        });
        pool_id(at)
    }

    /// The next id to give.
    pub fn next_id(&self) -> JobId {
        JobId::new(self.last_id.saturating_add(1)).expect("one more than something is positive")
    }

    /// Says which ids were given before; for a start from a store.
    pub fn set_last_id(&mut self, last: u64) {
        self.last_id = self.last_id.max(last);
    }

    /// Takes the host's limits that are passed at this moment; while there is one, nothing new starts. No change: it is
    /// measured again and again, and a start from a store begins without.
    pub fn set_busy(&mut self, busy: Vec<Busy>) {
        self.busy = busy;
    }

    /// Sets the pause without a change; for a start from a store.
    pub fn set_paused(&mut self, paused: Option<Pause>) {
        self.paused = paused;
    }

    /// Numbers news from `last` on; for a record that is built anew while somebody listens, or after a start. Whoever knows
    /// of `last` or less is told that there is a gap.
    pub fn resume_news(&mut self, last: u64) {
        self.news.clear();
        self.news_seq = self.news_seq.max(last) + 1;
    }

    fn remember_end(&mut self, id: JobId, success: bool) {
        if self.ends.insert(id, success).is_none() {
            self.ends_order.push_back(id);
        }
        if self.ends_order.len() > REMEMBERED_ENDS
            && let Some(oldest) = self.ends_order.pop_front()
        {
            self.ends.remove(&oldest);
        }
    }

    fn tell(&mut self, job: JobId, phase: Phase, attempt: Option<AttemptNumber>, outcome: Option<Outcome>) {
        self.news_seq += 1;
        self.news.push_back(News { seq: self.news_seq, job, phase, attempt, outcome });
        if self.news.len() > NEWS_MAX {
            self.news.pop_front();
        }
    }
}

fn pool_id(at: usize) -> PoolId {
    PoolId(u16::try_from(at).expect("pools are limited to POOLS_MAX"))
}

/// What is decided about an end, before it is recorded.
pub fn is_final(result: &AttemptResult, retry: &RetryPolicy, tries: u32) -> bool {
    tries > retry.retries || !retry.allows(result)
}

#[cfg(test)]
mod tests;
