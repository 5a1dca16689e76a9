//! Mutants whose bug would be in what the daemon makes of what it sees, writes and keeps.

use crate::daemon::Daemon;
use crate::mutant::Mutant;
use crate::store::Row;
use crate::wire::Key;
use crate::world::World;
use ci_runner_core::change::{Change, Entry, Wish};
use ci_runner_core::group::{GroupPolicy, GroupSpec};
use ci_runner_core::id::{AttemptNumber, JobId};
use ci_runner_core::outcome::{AttemptResult, By, Outcome};
use ci_runner_core::policy::Settings;
use ci_runner_core::reconcile::{Seen, Step};
use ci_runner_core::record::Record;
use ci_runner_core::retry::Backoff;
use ci_runner_core::state::{Event, Next, Phase};
use ci_runner_core::time::Now;

/// So much too early a job expires.
const EARLY_MS: u64 = 30_000;

impl World {
    /// Mutants that see something else than there is.
    pub(crate) fn misread(&self, daemon: &Daemon, key: Key, seen: Seen) -> (Key, Seen) {
        match (self.mutant, seen) {
            (Some(Mutant::LostWhileAlive), Seen::Leftovers) => (key, Seen::Gone),
            (Some(Mutant::SuccessWithoutRecord), Seen::Gone) => (key, Seen::Ended(AttemptResult::Exited { code: 0 })),
            (Some(Mutant::AcceptStaleEnd), Seen::Ended(result)) => {
                let open = daemon.record.lease(key.job).map_or(key.attempt, |lease| lease.attempt.0);
                (Key { attempt: open, ..key }, Seen::Ended(result))
            }
            (_, seen) => (key, seen),
        }
    }

    /// Mutants that do something else about it.
    pub(crate) fn misjudge(&self, daemon: &Daemon, key: Key, step: Step) -> Step {
        let lease = daemon.record.lease(key.job);
        let unsent = || lease.filter(|lease| lease.refused.is_some() && lease.dispatched.is_none());
        match (self.mutant, step) {
            (Some(Mutant::KeepCallingItRunning), Step::Record(Event::Refused { .. })) => Step::Start,
            (Some(Mutant::ReleaseRefused), Step::Start | Step::Void) if unsent().is_some() => {
                Step::Record(Event::Released { attempt: AttemptNumber(key.attempt) })
            }
            (_, step) => step,
        }
    }

    /// Mutants that draw a wrong consequence.
    pub(crate) fn miscount(&self, daemon: &Daemon, key: Key, event: Event) -> Event {
        let Event::Ended { attempt, result, next } = event else { return event };
        let now = daemon.record.now().engine;
        let again = Next::Retry { ready_at: now, memory_bytes: None };
        let stopped = daemon.record.phase(key.job) == Some(Phase::Stopping);
        let tries = daemon.record.tries(key.job).unwrap_or(0);
        let retry = daemon.record.retry(key.job).filter(|retry| retry.allows(&result));
        let left = retry.map(|retry| i64::from(retry.retries) - i64::from(tries));
        let next = match (self.mutant, next) {
            (Some(Mutant::RetryStopped), _) if stopped => again,
            (Some(Mutant::RetriesOffByOne), _) if left == Some(0) && !stopped => again,
            (Some(Mutant::GiveUpEarly), Next::Retry { .. }) if left == Some(1) => {
                Next::Finish { outcome: Outcome::of_failure(&result) }
            }
            (Some(Mutant::ForgetWhoStopped), Next::Finish { .. }) if stopped => {
                let failed = Outcome::of_failure(&result);
                Next::Finish { outcome: if result.is_success() { Outcome::Succeeded } else { failed } }
            }
            (Some(Mutant::ForgetTheNewer), Next::Finish { outcome: Outcome::Superseded { by } }) => {
                Next::Finish { outcome: Outcome::Cancelled { by: By::Newer(by) } }
            }
            (Some(Mutant::ForgetTheDeadline), Next::Finish { outcome: Outcome::TimedOut }) => {
                Next::Finish { outcome: Outcome::Failed { cause: AttemptResult::TimedOut } }
            }
            (Some(Mutant::RetryAtOnce), Next::Retry { memory_bytes, .. }) => {
                Next::Retry { ready_at: now, memory_bytes }
            }
            (Some(Mutant::DoubleTooOften), Next::Retry { ready_at, memory_bytes }) => {
                Next::Retry { ready_at: ready_at.plus_ms(ready_at.since_ms(now)), memory_bytes }
            }
            (Some(Mutant::DoubleForEver), Next::Retry { ready_at, memory_bytes }) => {
                let doubled = retry.filter(|retry| retry.backoff == Backoff::Exponential);
                let ready_at = doubled.map_or(ready_at, |retry| now.plus_ms(retry.delay_ms << tries));
                Next::Retry { ready_at, memory_bytes }
            }
            (Some(Mutant::CancelASuccess), next) if result.is_success() && !stopped => {
                match (daemon.record.wish(key.job), self.newer_than(key.job)) {
                    (Some(Wish::Cancel { by }), _) => Next::Finish { outcome: Outcome::stopped(by) },
                    (_, Some(newer)) => Next::Finish { outcome: Outcome::Superseded { by: newer } },
                    (_, None) => next,
                }
            }
            (_, next) => next,
        };
        Event::Ended { attempt, result, next }
    }

    /// A newer job of its group that takes others' places.
    fn newer_than(&self, id: JobId) -> Option<JobId> {
        let group = |row: &Row| row.terms.group.clone();
        let own = group(self.store.rows.get(&id)?)?;
        let takes = |one: GroupSpec| one.name == own.name && one.policy != GroupPolicy::Queue;
        self.store
            .rows
            .iter()
            .find(|(other, row)| **other > id && group(row).is_some_and(takes))
            .map(|(other, _)| *other)
    }

    /// Mutants that write what the record does not take, or takes no notice of.
    pub(crate) fn passes_by(&self, daemon: &Daemon, change: &Change) -> bool {
        match (self.mutant, change) {
            (Some(Mutant::ForgetPriority), Change::Reprioritized { .. }) => true,
            (Some(Mutant::CancelEnded), Change::Wished { id, wish: Wish::Cancel { .. } }) => {
                daemon.record.phase(*id).is_none()
            }
            _ => false,
        }
    }

    /// Mutants that take `latest` for something else. `members`: the group's before the newcomer.
    pub(crate) fn mistake_latest(&mut self, daemon: &mut Daemon, newcomer: JobId, members: &[JobId]) {
        let now = daemon.record.now();
        let changed = match self.mutant {
            Some(Mutant::LatestDropsNewest) => members.last().map(|older| {
                let event = Event::Dropped { outcome: Outcome::Superseded { by: *older } };
                Change::Job { id: newcomer, event }
            }),
            Some(Mutant::LatestStopsRunning) => members.iter().find_map(|id| {
                let runs = daemon.record.phase(*id) == Some(Phase::Running);
                let attempt = daemon.record.lease(*id).filter(|_| runs)?.attempt;
                let event = Event::StopRequested { attempt, by: By::Newer(newcomer), kill_at: now.engine };
                Some(Change::Job { id: *id, event })
            }),
            _ => None,
        };
        if let Some(change) = changed {
            drop(daemon.push(Entry { at: now, change }));
        }
    }

    /// Mutants that drop a job which is to stay.
    pub(crate) fn misdrop(&mut self, daemon: &mut Daemon) {
        let Some(mutant) = self.mutant else { return };
        let soon = daemon.record.now().wall.plus_ms(EARLY_MS);
        let drop = daemon.record.ids().filter(|id| daemon.record.phase(*id) == Some(Phase::Queued)).find_map(|id| {
            let expires = self.store.rows.get(&id).and_then(|row| row.terms.expires);
            match (mutant, daemon.record.wish(id)?) {
                (Mutant::ExpireEarly, Wish::Run) => expires.filter(|at| *at <= soon).map(|_| (id, Outcome::Expired)),
                (Mutant::DropHeld, Wish::Hold { by, .. }) => {
                    Some((id, Outcome::Cancelled { by: By::User(by.clone()) }))
                }
                _ => None,
            }
        });
        let Some((id, outcome)) = drop else { return };
        let entry = Entry { at: daemon.record.now(), change: Change::Job { id, event: Event::Dropped { outcome } } };
        if let Err(illegal) = daemon.push(entry) {
            self.truth.violate("only_legal_transitions", illegal);
        }
    }

    /// The record as the store tells it, and the mutants that forget some of it.
    pub(crate) fn read_store(&self, settings: &Settings, now: Now) -> Record {
        if !matches!(self.mutant, Some(Mutant::ForgetLastId | Mutant::ForgetExpiries)) {
            return self.store.record(settings, now);
        }
        let mut store = self.store.clone();
        if self.is(Mutant::ForgetLastId) {
            store.last_id = 0;
        } else {
            store.rows.values_mut().for_each(|row| row.terms.expires = None);
        }
        store.record(settings, now)
    }
}
