//! Which facts to record next.
//!
//! Three questions, each of which names one change or none: whose wish is due, which claim is better given back, which job
//! goes next. [`schedule`] takes decision after decision, applying each to the record in memory, until nothing is left to decide: the caller commits them together and
//! acts only when they are on disk. After a commit that failed the record is read again from the store.

use crate::change::{Change, Entry, Wish};
use crate::id::{AttemptNumber, Epoch, JobId, PoolId};
use crate::outcome::{AttemptResult, Outcome};
use crate::record::{Record, is_final};
use crate::state::{Event, Next, Phase};
use crate::time::Now;
use std::collections::BTreeMap;

/// What the world outside the record allows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permit {
    /// Claims may be made under this life of the spawner's directory; None: no executor, or the daemon is stopping.
    pub claim: Option<Epoch>,
    /// Pools with another executor than most, for which this counts in place of `claim`.
    pub claim_in: BTreeMap<PoolId, Option<Epoch>>,
    /// Most claims and releases in one turn, so that one commit stays short. What a fact implies is never put off, but for the next.
    pub changes_max: usize,
    /// Most jobs dropped in one turn because a dependency ended otherwise than they asked; None: all. A store knows of each as soon as
    /// it knows of that end, so a crash between two turns forgets none.
    pub drops_max: Option<usize>,
}

impl Permit {
    /// Under which life claims may be made in a pool.
    fn epoch(&self, pool: PoolId) -> Option<&Epoch> {
        self.claim_in.get(&pool).unwrap_or(&self.claim).as_ref()
    }
}

/// Decides until there is nothing to decide (or `changes_max` is reached), applying each change.
///
/// Call it between applying facts and writing them: that a newer job of the group takes an older one's place, or that a
/// dependency failed, is known to the record alone until the consequence stands in the same batch.
pub fn schedule(record: &mut Record, permit: &Permit, now: Now) -> Vec<Entry> {
    record.advance(now);
    let mut entries = Vec::new();
    let mut drops = 0;
    while let Some(change) = decide(record, permit, entries.len(), &mut drops) {
        let entry = Entry { at: record.now(), change };
        if record.apply(&entry).is_err() {
            debug_assert!(false, "schedule decided an illegal change: {entry:?}");
            break;
        }
        entries.push(entry);
    }
    entries
}

/// The next decision of a turn that took so many, and so many drops that could have waited among them.
fn decide(record: &Record, permit: &Permit, taken: usize, drops: &mut usize) -> Option<Change> {
    if let Some(change) = attend(record, false) {
        return Some(change);
    }
    if permit.drops_max.is_none_or(|most| *drops < most)
        && let Some(change) = attend(record, true)
    {
        *drops += 1;
        return Some(change);
    }
    let room = taken - *drops < permit.changes_max;
    room.then(|| release(record, permit).or_else(|| claim(record, permit))).flatten()
}

/// Cancelled and expired jobs: those that can wait for a later turn, or those that cannot.
fn attend(record: &Record, can_wait: bool) -> Option<Change> {
    record.attention(can_wait).find_map(|id| {
        let event = match (record.phase(id)?, record.wish(id)?) {
            (Phase::Queued, Wish::Cancel { by }) => Event::Dropped { outcome: Outcome::stopped(by) },
            (Phase::Starting | Phase::Running, Wish::Cancel { by }) => {
                let kill_at = record.now().engine.plus_ms(record.settings().grace_ms);
                Event::StopRequested { attempt: record.lease(id)?.attempt, by: by.clone(), kill_at }
            }
            // Its start was certainly never sent: given back it is dropped next. One that was refused is voided first.
            (Phase::Starting, Wish::Run | Wish::Hold { .. }) if record.is_expired(id) => {
                let lease = record.lease(id).filter(|lease| lease.is_unsent())?;
                Event::Released { attempt: lease.attempt }
            }
            (Phase::Queued, Wish::Run | Wish::Hold { .. }) if record.is_expired(id) => {
                // Once it was tried, its last result is what became of it.
                Event::Dropped { outcome: record.last_result(id).map_or(Outcome::Expired, Outcome::of_failure) }
            }
            _ => return None,
        };
        Some(Change::Job { id, event })
    })
}

/// Claims made ahead that turned out wrong.
fn release(record: &Record, permit: &Permit) -> Option<Change> {
    let id = record.stale_claim(|pool| permit.epoch(pool).is_some())?;
    Some(Change::Job { id, event: Event::Released { attempt: record.lease(id)?.attempt } })
}

/// The best job for a free place.
fn claim(record: &Record, permit: &Permit) -> Option<Change> {
    if record.is_closed() {
        return None;
    }
    let (id, place) = record.best_claim(|pool| permit.epoch(pool).is_some())?;
    let epoch = permit.epoch(place.pool)?;
    let attempt = AttemptNumber(record.last_attempt(id)? + 1);
    let limits = record.limits_in(id, place.pool)?;
    let event = Event::Claimed { attempt, pool: place.pool, slot: place.slot, epoch: epoch.clone(), limits };
    Some(Change::Job { id, event })
}

/// What follows the end of a job's open attempt. The stop reason decides when it was told to stop; a wish to cancel that
/// came too late to be recorded forbids a retry.
pub fn after_end(record: &Record, id: JobId, attempt: AttemptNumber, result: &AttemptResult, now: Now) -> Option<Next> {
    let lease = record.lease(id)?;
    if let Some((by, _)) = &lease.stop {
        return Some(Next::Finish { outcome: Outcome::stopped(by) });
    }
    let outcome = match (result, record.wish(id)?) {
        (result, _) if result.is_success() => Outcome::Succeeded,
        (_, Wish::Cancel { by }) => Outcome::stopped(by),
        (result, Wish::Run | Wish::Hold { .. }) => {
            let retry = record.retry(id)?;
            let tries = record.tries(id)? + 1;
            if !is_final(result, retry, tries) {
                let ready_at = now.engine.plus_ms(retry.delay_after_ms(id, attempt, tries));
                return Some(Next::Retry { ready_at, memory_bytes: record.memory_after(id, result) });
            }
            Outcome::of_failure(result)
        }
    };
    Some(Next::Finish { outcome })
}
