//! The checker of claims, and of the record against the store.

use crate::check::Truth;
use crate::check_room::{has_room, promised, taken};
use crate::places::Places;
use crate::store::{Fact, Row, Store};
use crate::wire::Key;
use ci_runner_core::change::{Change, Wish};
use ci_runner_core::explain::Reason;
use ci_runner_core::id::{JobId, PoolId};
use ci_runner_core::limits::Limits;
use ci_runner_core::policy::Settings;
use ci_runner_core::record::{AGEING_MS_PER_PRIORITY, Record};
use ci_runner_core::schedule::Permit;
use ci_runner_core::state::{Event, Phase};
use ci_runner_core::time::Now;

/// Most claims ahead of free places in a pool.
const AHEAD_MAX: usize = 16;

/// What a decision is judged against.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub store: &'a Store,
    pub settings: &'a Settings,
    pub places: &'a Places,
    pub at: Now,
}

impl Truth {
    /// Whether a job could surely be claimed at this time, its group and slots aside.
    pub(crate) fn claimable(&self, id: JobId, row: &Row, at: Now) -> bool {
        self.claimable_but_date(id, row, at)
            && (row.attempt > 0 || row.terms.at.is_none_or(|date| !self.skewed && date <= at.wall))
    }

    pub(crate) fn claimable_but_date(&self, id: JobId, row: &Row, at: Now) -> bool {
        row.phase == Phase::Queued
            && row.wish == Wish::Run
            && row.waits_for.is_empty()
            && row.impossible.is_none()
            && row.ready_at <= at.engine
            && row.terms.expires.is_none_or(|date| date > at.wall)
            && !self.is_superseded(id)
    }

    /// Room in the group before this job, and whether its turn has come. Where the date was set nobody knows whether those
    /// that have a date stand before it: `doubt` says whether they do.
    fn group_lets(&self, view: View<'_>, id: JobId, row: &Row, doubt: bool) -> bool {
        let View { store, settings, at, .. } = view;
        let Some(group) = &row.terms.group else { return true };
        let members = || {
            store.rows.iter().filter(|(_, other)| other.terms.group.as_ref().is_some_and(|one| one.name == group.name))
        };
        let holders = members().filter(|(_, other)| other.lease.is_some()).count();
        let ahead = members().filter(|(other, row)| {
            let before = self.claimable(**other, row, at);
            placeable(view, row)
                && **other < id
                && (before || (doubt && self.skewed && self.claimable_but_date(**other, row, at)))
        });
        let ahead = ahead.count();
        holders + ahead < limit(settings, row) as usize
    }

    pub(crate) fn check_claim(&mut self, store: &Store, fact: &Fact, id: JobId, row: &Row) {
        let Change::Job { event: Event::Claimed { slot, attempt, limits, .. }, .. } = &fact.entry.change else {
            return;
        };
        let (settings, places, at) = (&*fact.settings, &*fact.places, fact.entry.at);
        let view = View { store, settings, places, at };
        let pool = fact.pool.as_deref().unwrap_or_default();
        self.check_place(places, id, (pool, *slot), limits);
        self.claim_limits.insert(Key { job: id, attempt: attempt.0 }, limit(settings, row));
        let what = || format!("job {id}");
        self.require(row.wish == Wish::Run, "a_held_or_cancelled_job_is_not_claimed", what);
        self.require(!self.is_superseded(id), "latest_keeps_the_newest", what);
        let fulfilled = row.waits_for.is_empty() && row.impossible.is_none();
        self.require(fulfilled, "a_dependency_is_fulfilled_before_its_job_starts", what);
        let due = row.ready_at <= at.engine
            && (self.skewed || row.attempt > 0 || row.terms.at.is_none_or(|date| date <= at.wall));
        self.require(due, "nothing_starts_before_its_time", what);
        self.require(store.paused.is_none(), "pause_holds", what);
        self.require(self.group_lets(view, id, row, false), "a_group_never_exceeds_its_limit", what);
        self.require(fits(view, row, pool), "labels_match", what);
        let taken: Vec<u32> = store
            .rows
            .values()
            .filter_map(|row| row.lease.as_ref())
            .filter(|(_, name)| name == pool)
            .map(|(lease, _)| lease.slot)
            .collect();
        let slots = settings.pools.iter().find(|one| one.name == pool).map_or(0, |one| one.slots);
        let usable = places.usable(pool, slots);
        let room = usable > 0 && taken.len() < usable + AHEAD_MAX && !taken.contains(slot);
        self.require(room, "slots_hold", || format!("job {id} slot {slot} of {pool}, taken {taken:?}"));
        self.check_room(view, (id, row), pool);
        let key = order(id, row);
        let waited_for = |row: &Row, other: JobId| {
            store
                .rows
                .iter()
                .any(|(one, late)| order(*one, late) < order(other, row) && self.is_waited_for(view, *one, late))
        };
        let before = store.rows.iter().find(|(other, row)| {
            order(**other, row) < key
                && self.claimable(**other, row, at)
                && fits(view, row, pool)
                && has_room(store, settings, row, pool)
                && self.group_lets(view, **other, row, true)
                && !waited_for(row, **other)
        });
        if let Some((other, _)) = before {
            self.violate("nobody_is_overtaken", format!("job {id} overtakes {other}"));
        }
    }

    /// A claim takes no place that is out of order.
    fn check_place(&mut self, places: &Places, id: JobId, (pool, slot): (&str, u32), limits: &Limits) {
        let what = || format!("job {id} in slot {slot} of {pool}: {limits:?}, {places:?}");
        let open = !places.shut.contains(&(pool.to_owned(), slot));
        self.require(open, "a_slot_that_is_shut_is_left_alone", what);
        let kept = limits.memory_bytes.is_none() || !places.loose.contains(pool);
        self.require(kept, "a_limit_is_enforced_or_nothing_starts", what);
        self.require(!places.down.contains(pool), "nothing_is_claimed_without_an_executor", what);
    }

    /// After a turn that left nothing to decide, nobody is told "next" who may go to a pool where claims are made.
    pub(crate) fn check_rest(&mut self, record: &Record, permit: &Permit, now: Now) {
        let open = |pool: &PoolId| permit.claim_in.get(pool).is_some_and(Option::is_some);
        for id in record.ids() {
            let reasons = record.explain_where(id, &|pool| open(&pool)).unwrap_or_default();
            let idle = reasons.iter().any(|reason| matches!(reason, Reason::Next | Reason::Behind { .. }));
            let wrong = reasons.is_empty() || (idle && record.pools_of(id).iter().any(open));
            self.require(!wrong, "explain_tells_the_truth", || format!("job {id}: {reasons:?} after a whole turn"));
        }
        let due = record.next_stale().is_some_and(|at| at <= now.engine);
        self.require(!due, "the_daemon_does_not_spin", || "a claim is stale and stays".to_owned());
        let (engine, wall) = record.next_times();
        let due = engine.is_some_and(|at| at <= now.engine) || wall.is_some_and(|at| at <= now.wall);
        self.require(!due, "the_daemon_does_not_spin", || "a time is over and stays".to_owned());
    }

    /// The record is what a rebuilt one would be, and its reasons are the store's.
    pub(crate) fn check_record(&mut self, record: &Record, view: View<'_>) {
        let View { store, settings, places, at: now } = view;
        let skewed = self.skewed;
        if store.rows.values().any(|row| row.terms.expires.is_some_and(|date| date <= now.wall)) {
            return; // expiries of this very moment are dropped at the next turn
        }
        let wakes = record.next_times().1;
        let waiting = store.rows.iter().filter(|(_, row)| row.phase == Phase::Queued);
        let expiring = waiting.filter_map(|(id, row)| Some((row.terms.expires?, id))).min();
        if let Some((date, id)) = expiring {
            let what = || format!("job {id} expires at {date:?}, the record wakes at {wakes:?}");
            self.require(wakes.is_some_and(|at| at <= date), "every_expiry_wakes", what);
        }
        let mut rebuilt = store.record(settings, now);
        rebuilt.advance(now);
        places.tell(&mut rebuilt, settings);
        let same = record.len() == rebuilt.len() && record.next_id() == rebuilt.next_id();
        self.require(same, "the_record_is_what_the_store_says", || "other jobs".to_owned());
        for (id, row) in &store.rows {
            let of = |record: &Record| {
                let lease = record
                    .lease(*id)
                    .map(|lease| (lease.attempt, record.pool_name(lease.pool).to_owned(), lease.slot, lease.started));
                (
                    record.phase(*id),
                    record.wish(*id).cloned(),
                    record.tries(*id),
                    record.last_attempt(*id),
                    record.priority(*id),
                    lease,
                )
            };
            let (ours, theirs) = (of(record), of(&rebuilt));
            self.require(ours == theirs, "the_record_is_what_the_store_says", || {
                format!("job {id}: {ours:?}, rebuilt {theirs:?}")
            });
            if skewed && (row.terms.at.is_some() || row.terms.expires.is_some() || row.terms.group.is_some()) {
                continue;
            }
            let (ours, theirs) = (explain(record, *id, places), explain(&rebuilt, *id, places));
            let claimable = self.claimable(*id, row, now);
            let told = ours.clone().unwrap_or_default();
            self.require(skewed || ours == theirs, "explain_tells_the_truth", || {
                format!("job {id}: {ours:?}, rebuilt {theirs:?}")
            });
            for reason in &told {
                let holds = self.holds(reason, view, *id, row);
                self.require(holds, "explain_tells_the_truth", || format!("job {id}: {reason:?} does not hold"));
            }
            let deciding = |reason: &Reason| {
                !matches!(
                    reason,
                    Reason::NoSlot { .. }
                        | Reason::NoPool { .. }
                        | Reason::Group { .. }
                        | Reason::Resources(_)
                        | Reason::MakesWay { .. }
                        | Reason::Paused(_)
                        | Reason::Next
                        | Reason::Behind { .. }
                )
            };
            let silent = row.phase == Phase::Queued && !claimable && !told.iter().any(deciding);
            self.require(!silent || skewed, "explain_tells_the_truth", || {
                format!("job {id} cannot be claimed: {told:?}; {row:?}")
            });
        }
    }

    fn holds(&self, reason: &Reason, view: View<'_>, id: JobId, row: &Row) -> bool {
        let View { store, places, at: now, .. } = view;
        match reason {
            Reason::Running { .. } => row.phase == Phase::Running,
            Reason::Starting { .. } => row.phase == Phase::Starting,
            Reason::Stopping { .. } => row.phase == Phase::Stopping,
            Reason::Cancelled { .. } => matches!(row.wish, Wish::Cancel { .. }) || row.impossible.is_some(),
            Reason::Held { .. } => matches!(row.wish, Wish::Hold { .. }),
            Reason::WaitsFor { job, on, .. } => row.waits_for.contains(&(*job, *on)) && store.rows.contains_key(job),
            Reason::NotBefore(at) => *at > now.wall,
            Reason::Delayed { until, .. } => *until > now.engine,
            Reason::Group { holders, first, .. } => {
                let waits = |(job, why): &(JobId, Option<Box<Reason>>)| {
                    let other = store.rows.get(job).filter(|_| *job < id);
                    let holds = |why: &Reason, other| self.holds(why, view, *job, other);
                    other.is_some_and(|other| why.as_ref().is_none_or(|why| holds(why, other)))
                };
                first.as_ref().is_none_or(waits)
                    && holders.iter().all(|job| store.rows.get(job).is_some_and(|row| row.lease.is_some()))
                    && !self.group_lets(view, id, row, true)
            }
            Reason::Paused(_) => store.paused.is_some(),
            // Simulated hosts have no limits to pass.
            Reason::Busy(_) => false,
            Reason::NoPool { .. } => !placeable(view, row),
            Reason::NoSlot { pools } => {
                pools.iter().all(|(name, slots, _)| taken(store, name) >= places.usable(name, *slots))
            }
            Reason::Resources(short) => {
                short.reserved == promised(store, short.resource) && short.reserved + short.asked > short.budget
            }
            Reason::MakesWay { job } => store
                .rows
                .get(job)
                .is_some_and(|late| order(*job, late) < order(id, row) && self.is_waited_for(view, *job, late)),
            Reason::Behind { .. } | Reason::Next => true,
        }
    }
}

/// Why a job waits, as a daemon tells it that knows of these places.
fn explain(record: &Record, id: JobId, places: &Places) -> Option<Vec<Reason>> {
    record.explain_where(id, &|pool| !places.down.contains(record.pool_name(pool)))
}

pub(crate) fn order(id: JobId, row: &Row) -> (i64, JobId) {
    (row.submitted.0 - i64::from(row.terms.priority) * AGEING_MS_PER_PRIORITY, id)
}

fn limit(settings: &Settings, row: &Row) -> u32 {
    let Some(group) = &row.terms.group else { return u32::MAX };
    let fixed = settings.groups.iter().find(|fixed| fixed.name == group.name);
    fixed.map(|fixed| fixed.limit).or(row.group_limit).unwrap_or(1)
}

/// Whether any pool can take it. What none can take holds up nobody of its group.
pub(crate) fn placeable(view: View<'_>, row: &Row) -> bool {
    view.settings.pools.iter().any(|pool| fits(view, row, &pool.name))
}

pub(crate) fn fits(view: View<'_>, row: &Row, pool: &str) -> bool {
    view.settings.pools.iter().find(|one| one.name == pool).is_some_and(|one| {
        one.slots > 0
            && row.terms.pool.as_ref().is_none_or(|name| name == pool)
            && row.terms.labels.iter().all(|label| one.labels.contains(label))
            && row.terms.limits.beyond(&one.maxima).is_none()
            && view.places.keep_to(&row.terms.limits, one)
    })
}
