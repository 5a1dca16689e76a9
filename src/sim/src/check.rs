//! The checkers. Each has the name of the promise it watches; the architecture page lists them.
//!
//! They know what really happened (processes, directories, the disk) and share nothing with the record but its types.

use crate::clock::Clock;
use crate::host::{Happened, Host};
use crate::store::{Fact, Row, Store};
use crate::wire::Key;
use ci_runner_core::change::{Change, Submission, Wish};
use ci_runner_core::id::JobId;
use ci_runner_core::outcome::{AttemptResult, By, LostCause, Outcome};
use ci_runner_core::record::News;
use ci_runner_core::state::{Event, EventKind, Phase};
use std::collections::{BTreeMap, BTreeSet};

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Name of the checker.
    pub invariant: &'static str,
    /// What it saw.
    pub what: String,
}

/// What really happened, and the first promise that was broken.
#[derive(Debug, Default)]
pub struct Truth {
    /// The first broken promise.
    pub violation: Option<Violation>,
    executions: BTreeMap<Key, u32>,
    pub(crate) exited_zero: BTreeSet<Key>,
    /// Results that a witness on this host still vouches for.
    pub(crate) known: BTreeMap<Key, AttemptResult>,
    ever_known: BTreeMap<Key, AttemptResult>,
    /// Attempts whose shim a fault has killed or stopped.
    pub(crate) victims: BTreeSet<Key>,
    /// Attempts that nobody submitted.
    pub(crate) strangers: BTreeSet<Key>,
    voided: BTreeSet<Key>,
    sent: BTreeSet<Key>,
    /// Whom a person or a newer job asked to end, and who was first: failed dependencies aside, which the store tells.
    pub(crate) asked: BTreeMap<JobId, By>,
    pub(crate) claim_limits: BTreeMap<Key, u32>,
    acked: BTreeSet<JobId>,
    keys: BTreeMap<u64, JobId>,
    listener: BTreeMap<JobId, Outcome>,
    /// The wall clock was set: dates prove nothing any more.
    pub(crate) skewed: bool,
}

/// The legal cells, written by hand: the table of `core` must agree.
const LEGAL: [(Phase, EventKind); 18] = [
    (Phase::Queued, EventKind::Claimed),
    (Phase::Queued, EventKind::Dropped),
    (Phase::Starting, EventKind::Started),
    (Phase::Starting, EventKind::Released),
    (Phase::Starting, EventKind::Renewed),
    (Phase::Starting, EventKind::StopRequested),
    (Phase::Starting, EventKind::EndedRetry),
    (Phase::Starting, EventKind::EndedFinish),
    (Phase::Running, EventKind::Refused),
    (Phase::Running, EventKind::Released),
    (Phase::Running, EventKind::Renewed),
    (Phase::Running, EventKind::StopRequested),
    (Phase::Running, EventKind::EndedRetry),
    (Phase::Running, EventKind::EndedFinish),
    (Phase::Stopping, EventKind::Renewed),
    (Phase::Stopping, EventKind::Released),
    (Phase::Stopping, EventKind::EndedRetry),
    (Phase::Stopping, EventKind::EndedFinish),
];

impl Truth {
    /// Notes a broken promise; the first stands.
    pub fn violate(&mut self, invariant: &'static str, what: String) {
        self.violation.get_or_insert(Violation { invariant, what });
    }

    pub(crate) fn require(&mut self, holds: bool, invariant: &'static str, what: impl FnOnce() -> String) {
        if !holds {
            self.violate(invariant, what());
        }
    }

    /// Looks at a fact that goes to disk, against what was there before it.
    pub(crate) fn check_fact(&mut self, store: &Store, host: &Host, clock: &Clock, fact: &Fact) {
        match &fact.entry.change {
            Change::Submitted(submission) => self.submitted(store, submission),
            Change::Job { id, event } => {
                let Some(row) = self.open_row(store, *id) else { return };
                self.only_legal_transitions(*id, row, event);
                match event {
                    Event::Claimed { .. } => self.check_claim(store, fact, *id, row),
                    Event::Ended { attempt, result, next } => {
                        let key = Key { job: *id, attempt: attempt.0 };
                        self.nothing_lives_on(host, key);
                        self.check_result(host, clock, row, key, result);
                        self.check_next(fact.entry.at, row, key, result, next);
                        self.returned(store, *id, row);
                    }
                    Event::Released { attempt } => {
                        let key = Key { job: *id, attempt: attempt.0 };
                        self.nothing_lives_on(host, key);
                        self.returned(store, *id, row);
                        let lease = row.lease.as_ref();
                        // What another life of the directory knew of starts no more.
                        let gone = lease.is_some_and(|(lease, _)| *lease.epoch.0 != *host.epoch(clock));
                        let sure = !self.sent.contains(&key) || self.voided.contains(&key) || gone;
                        self.require(sure, "void_before_giving_back", || format!("{key:?}"));
                    }
                    Event::Dropped { outcome } => self.check_drop(fact, *id, row, outcome),
                    Event::StopRequested { by, .. } => self.check_stop(*id, row, by),
                    Event::Started { .. } | Event::Refused { .. } | Event::Renewed { .. } => {}
                }
            }
            Change::Wished { id, wish } => {
                if let (Some(row), Wish::Cancel { by }) = (self.open_row(store, *id), wish) {
                    self.asks_for_the_end(*id, row, by.clone());
                }
            }
            Change::Reprioritized { id, .. } => {
                self.open_row(store, *id);
            }
            Change::Paused(_) => {}
        }
    }

    fn open_row<'a>(&mut self, store: &'a Store, id: JobId) -> Option<&'a Row> {
        let row = store.rows.get(&id);
        self.require(row.is_some(), "a_finished_job_never_changes", || format!("job {id} is not open"));
        row
    }

    fn submitted(&mut self, store: &Store, submission: &Submission) {
        let id = submission.id;
        self.require(id.get() > store.last_id, "ids_are_given_once", || format!("{id}"));
        self.takes_places(store, submission);
    }

    fn only_legal_transitions(&mut self, id: JobId, row: &Row, event: &Event) {
        let legal = LEGAL.contains(&(row.phase, event.kind()));
        self.require(legal, "only_legal_transitions", || format!("job {id} {:?} {event:?}", row.phase));
        let number = match event {
            Event::Claimed { .. } => Some(row.attempt + 1),
            Event::Dropped { .. } => None,
            _ => Some(row.attempt),
        };
        let fenced = number == event.attempt().map(|attempt| attempt.0);
        self.require(fenced, "only_legal_transitions", || format!("job {id} attempt {} {event:?}", row.attempt));
    }

    fn nothing_lives_on(&mut self, host: &Host, key: Key) {
        self.require(host.process(key).is_none(), "nothing_lives_on", || format!("{key:?} ended, its processes live"));
    }

    fn check_result(&mut self, host: &Host, clock: &Clock, row: &Row, key: Key, result: &AttemptResult) {
        if result.is_success() {
            let really = self.exited_zero.contains(&key);
            self.require(really, "no_success_without_an_attempt_that_exited_0", || format!("{key:?}"));
        }
        let lost = matches!(result, AttemptResult::Lost { .. });
        let known = self.known.get(&key).cloned();
        if lost && known.is_some() {
            self.violate("a_known_result_is_never_recorded_as_lost", format!("{key:?} {result}, known {known:?}"));
        }
        if let AttemptResult::Lost { cause } = result {
            let epoch = host.epoch(clock);
            let claimed = row.lease.as_ref().map(|(lease, _)| lease.epoch.0.to_string());
            let real = match cause {
                LostCause::Host => claimed.as_deref() != Some(&epoch),
                LostCause::Executor => self.victims.contains(&key),
                // Nobody stops a unit here.
                LostCause::Stopped => false,
            };
            self.require(real, "only_what_was_struck_is_lost", || {
                format!("{key:?} {result}; claimed under {claimed:?}, now {epoch}")
            });
        } else {
            let ever = self.ever_known.get(&key).cloned();
            self.require(ever.as_ref() == Some(result), "a_result_has_a_witness", || {
                format!("{key:?} {result}, witnessed {ever:?}")
            });
        }
    }

    /// Looks at what happened below the daemon.
    pub(crate) fn check_happened(&mut self, happened: Happened, store: &Store, host: &Host) {
        match happened {
            Happened::Forked(start) => {
                let key = start.key;
                let row = store.rows.get(&key.job);
                let lease = row.and_then(|row| row.lease.as_ref());
                let claimed = lease.is_some_and(|(lease, _)| lease.attempt.0 == key.attempt);
                self.require(claimed, "no_process_without_a_committed_claim", || format!("{key:?}"));
                let shims = host.processes.iter().filter(|process| process.start.key == key).count();
                self.require(shims == 1, "an_attempt_is_executed_at_most_once", || {
                    format!("{key:?} has {shims} shims")
                });
                let live = || host.processes.iter().filter(|process| process.start.slots > 0);
                let in_pool = live().filter(|process| process.start.pool == start.pool).count();
                self.require(in_pool <= start.slots as usize, "slots_hold", || {
                    format!("{in_pool} live attempts in {} of {} slots", start.pool, start.slots)
                });
                if start.group.is_some() {
                    let in_group = live().filter(|process| process.start.group == start.group).count();
                    let limit = start.limit.max(self.claim_limits.get(&key).copied().unwrap_or(0));
                    self.require(in_group <= limit as usize, "a_group_never_exceeds_its_limit", || {
                        format!("{in_group} live attempts in {:?}, limit {limit}", start.group)
                    });
                }
            }
            Happened::Executed(key) => {
                let times = self.executions.entry(key).or_default();
                *times += 1;
                let times = *times;
                self.require(times == 1, "an_attempt_is_executed_at_most_once", || format!("{key:?} {times} times"));
            }
            Happened::ExitedZero(key) => {
                self.exited_zero.insert(key);
            }
            Happened::Recorded(key, result) => {
                self.ever_known.insert(key, result.clone());
                self.known.insert(key, result);
            }
            Happened::Voided(key) => {
                self.voided.insert(key);
            }
            Happened::KillAsked(key) => {
                let known = !self.strangers.contains(&key);
                self.require(known, "an_unknown_attempt_is_only_reported", || format!("{key:?} was killed"));
            }
        }
    }

    pub(crate) fn start_sent(&mut self, key: Key, paused: bool) {
        self.sent.insert(key);
        self.require(!paused, "pause_holds", || format!("{key:?} was sent while paused"));
    }

    pub(crate) fn acknowledged(&mut self, job: JobId, store: &Store) {
        self.acked.insert(job);
        self.check_store(store);
    }

    pub(crate) fn key_kept(&mut self, key: u64, job: JobId) {
        let first = *self.keys.entry(key).or_insert(job);
        self.require(first == job, "a_repeated_request_makes_one_job", || format!("{first} and {job}"));
    }

    /// Looks at the whole store.
    pub(crate) fn check_store(&mut self, store: &Store) {
        let lost = self.acked.iter().find(|job| !store.rows.contains_key(job) && !store.ended.contains_key(job));
        if let Some(job) = lost {
            self.violate("no_acknowledged_job_is_lost", format!("job {job}"));
        }
    }

    pub(crate) fn told(&mut self, news: &News, store: &Store) {
        if let Some(outcome) = &news.outcome {
            let durable = store.ended.get(&news.job) == Some(outcome);
            self.require(durable, "only_what_is_on_disk_is_told", || format!("{news:?}"));
            self.listener.insert(news.job, outcome.clone());
        }
    }

    pub(crate) fn listener_looks_again(&mut self, store: &Store) {
        self.listener = store.ended.clone();
    }

    /// At the end: nothing is open, and the listener knows it.
    pub(crate) fn check_end(&mut self, store: &Store) {
        let silent: Vec<&JobId> =
            store.ended.iter().filter(|(id, end)| self.listener.get(id) != Some(end)).map(|(id, _)| id).collect();
        if !silent.is_empty() {
            let what = format!("{silent:?}");
            self.violate("every_end_is_told", what);
        }
    }
}
