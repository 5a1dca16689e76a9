//! What this host must do so that reality follows the record: the recovery table of the promises page, row by row.
//!
//! [`reconcile`] judges one attempt. It is asked when a claim is on disk, when the spawner tells something, and for every
//! open attempt after the daemon or the spawner started. It never acts on hope: what it did not see it asks for.

use crate::change::Lease;
use crate::id::JobId;
use crate::outcome::{AttemptResult, LostCause};
use crate::record::Record;
use crate::schedule::after_end;
use crate::state::{Event, Phase};
use crate::time::Now;

/// What a look at one attempt shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The spawner knows nothing of it.
    Absent,
    /// Its start lock is held, or its unit runs.
    Alive,
    /// Prepared, lock free, never let run.
    NotBegan,
    /// Its start lock was taken by `void`: it can never run.
    Voided,
    /// Over, with a result that a witness vouches for.
    Ended(AttemptResult),
    /// It began, nothing is alive, no witness.
    Gone,
    /// Its shim is gone, its processes are being killed.
    Leftovers,
}

/// How one look is to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// What was seen.
    pub seen: Seen,
    /// True when the spawner's directory is the one the attempt was claimed under.
    pub same_epoch: bool,
    /// True when this daemon has no `start` of the attempt on its way: what is absent was not just overlooked.
    pub settled: bool,
}

/// What to do about one attempt. Commands are never stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing; it goes its way.
    Leave,
    /// Record this; acting waits for the commit.
    Record(Event),
    /// Send `start` for the same attempt.
    Start,
    /// Send `void`.
    Void,
    /// Ask it to end; everything is killed after so many milliseconds.
    Signal {
        /// From SIGTERM to the kill.
        grace_ms: u64,
    },
    /// Kill everything of it.
    Kill,
    /// Nobody waits for it: remove what is left of it.
    Forget,
    /// Alive without a job that knows it: tell people, touch nothing.
    Report,
}

/// Judges attempt number `attempt` of job `id`.
pub fn reconcile(record: &Record, id: JobId, attempt: u32, observation: &Observation, now: Now) -> Step {
    match record.lease(id) {
        Some(lease) if lease.attempt.0 == attempt => judge(record, id, lease, observation, now),
        Some(_) | None => stranger(record, id, attempt, &observation.seen),
    }
}

/// An attempt that is not the open one of its job.
fn stranger(record: &Record, id: JobId, attempt: u32, seen: &Seen) -> Step {
    let known = record.last_attempt(id).is_some_and(|last| attempt <= last)
        || (record.last_attempt(id).is_none() && id < record.next_id());
    match seen {
        Seen::Absent | Seen::Leftovers => Step::Leave,
        Seen::Alive if known => Step::Kill,
        Seen::Alive => Step::Report,
        Seen::NotBegan | Seen::Voided | Seen::Ended(_) | Seen::Gone if known => Step::Forget,
        Seen::NotBegan | Seen::Voided | Seen::Ended(_) | Seen::Gone => Step::Report,
    }
}

fn judge(record: &Record, id: JobId, lease: &Lease, observation: &Observation, now: Now) -> Step {
    let ended = |result: AttemptResult| match after_end(record, id, lease.attempt, &result, now) {
        Some(next) => Step::Record(Event::Ended { attempt: lease.attempt, result, next }),
        None => Step::Leave,
    };
    let stopping = record.phase(id) == Some(Phase::Stopping);
    if !observation.same_epoch {
        return match &observation.seen {
            Seen::Ended(result) => ended(result.clone()),
            Seen::Alive | Seen::Leftovers => Step::Kill,
            // Its start was certainly never sent: nothing was lost with the old life.
            Seen::Absent | Seen::NotBegan if lease.dispatched.is_none() => {
                Step::Record(Event::Released { attempt: lease.attempt })
            }
            // It never ran and never will, in whichever life it was voided.
            Seen::Voided if lease.started.is_none() => Step::Record(Event::Released { attempt: lease.attempt }),
            Seen::Absent | Seen::NotBegan | Seen::Voided | Seen::Gone => {
                ended(AttemptResult::Lost { cause: LostCause::Host })
            }
        };
    }
    match &observation.seen {
        Seen::Ended(result) => ended(result.clone()),
        Seen::Gone => ended(AttemptResult::Lost { cause: LostCause::Executor }),
        Seen::Leftovers => Step::Leave,
        Seen::Voided => Step::Record(Event::Released { attempt: lease.attempt }),
        Seen::Alive if stopping => stop(lease, now),
        Seen::Alive if lease.started.is_none() => Step::Record(Event::Started { attempt: lease.attempt }),
        Seen::Alive => Step::Leave,
        Seen::Absent | Seen::NotBegan if lease.is_unsent() => turn(record, lease, stopping),
        Seen::Absent | Seen::NotBegan if !observation.settled => Step::Leave,
        // Its start may stand unread in a dead daemon's socket: void makes sure before it is given back.
        Seen::Absent | Seen::NotBegan if stopping => Step::Void,
        // The spawner said that it runs, or an earlier one did: it does not.
        Seen::NotBegan if lease.started.is_some() => Step::Record(Event::Refused { attempt: lease.attempt }),
        // It did not begin in time: so it never does.
        Seen::Absent | Seen::NotBegan if lease.started.is_none() && record.is_expired(id) => Step::Void,
        // It ran by the record, yet its directory is gone: not ours to guess, and never to run again.
        Seen::Absent if lease.started.is_some() => ended(AttemptResult::Lost { cause: LostCause::Executor }),
        Seen::Absent | Seen::NotBegan if has_place(record, lease) => Step::Start,
        // Only a claim made ahead has its place just now: given back, it would be claimed again at once, and again.
        Seen::Absent | Seen::NotBegan if lease.dispatched.is_none() && record.waits_for_place(lease) => Step::Leave,
        // Paused, or its slot may be another's: it never ran, and void makes sure that it never will.
        Seen::Absent | Seen::NotBegan => Step::Void,
    }
}

/// True when the place of an attempt that did not begin is still its own. One whose only start was refused has none for the moment.
fn has_place(record: &Record, lease: &Lease) -> bool {
    match lease.dispatched {
        Some(_) => record.may_dispatch_again(lease.pool),
        None => record.may_dispatch(lease.pool),
    }
}

/// A claim whose `start` was never sent.
fn turn(record: &Record, lease: &Lease, stopping: bool) -> Step {
    if stopping {
        Step::Record(Event::Released { attempt: lease.attempt })
    } else if record.may_dispatch(lease.pool) {
        Step::Start
    } else {
        Step::Leave
    }
}

/// It runs and was told to end: what is left of its grace, or the kill.
fn stop(lease: &Lease, now: Now) -> Step {
    let Some((_, kill_at)) = &lease.stop else { return Step::Leave };
    match kill_at.since_ms(now.engine) {
        0 => Step::Kill,
        grace_ms => Step::Signal { grace_ms },
    }
}
