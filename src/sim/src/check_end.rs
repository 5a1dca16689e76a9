//! The checker of ends: who asked for one, what an attempt's end must lead to, and when a retry is due. It works them out from the
//! facts on disk, and asks nothing of the code that decides.

use crate::check::Truth;
use crate::store::{Fact, Row, Store};
use crate::wire::Key;
use ci_runner_core::change::Submission;
use ci_runner_core::group::{GroupPolicy, GroupSpec};
use ci_runner_core::id::JobId;
use ci_runner_core::job::After;
use ci_runner_core::outcome::{AttemptResult, By, Outcome};
use ci_runner_core::retry::{Backoff, Pattern, RetryPolicy};
use ci_runner_core::state::{Next, Phase};
use ci_runner_core::time::{Instant, Now};
use std::ops::RangeInclusive;

/// A delay that doubles ends here, if it did not begin beyond: an hour, as `docs/reference/configuration.md` says.
const DOUBLED_MS_MAX: u64 = 3_600_000;

impl Truth {
    /// Somebody asks for the end of a job; the first reason stays the reason.
    pub(crate) fn asks_for_the_end(&mut self, id: JobId, row: &Row, by: By) {
        if row.impossible.is_none() {
            self.asked.entry(id).or_insert(by);
        }
    }

    /// Who wants the job to end.
    fn asker(&self, id: JobId, row: &Row) -> Option<By> {
        self.asked.get(&id).cloned().or(row.impossible.map(By::Dependency))
    }

    /// Whether a newer job of its group took the place of this one.
    pub(crate) fn is_superseded(&self, id: JobId) -> bool {
        matches!(self.asked.get(&id), Some(By::Newer(_)))
    }

    /// A newcomer takes the places that its group's policy gives it.
    pub(crate) fn takes_places(&mut self, store: &Store, submission: &Submission) {
        let Some(group) = submission.spec.terms.group.as_ref().filter(|group| group.policy != GroupPolicy::Queue)
        else {
            return;
        };
        let in_vain =
            |after: &After| store.ended.get(&after.job).is_some_and(|end| !after.on.fulfilled_by(end.is_success()));
        if submission.spec.terms.after.iter().any(in_vain) {
            return; // it can never run, and takes nobody's place
        }
        for (other, row) in &store.rows {
            let of_group = row.terms.group.as_ref().is_some_and(|one| one.name == group.name);
            if of_group && (row.phase == Phase::Queued || group.policy == GroupPolicy::Cancel) {
                self.asks_for_the_end(*other, row, By::Newer(submission.id));
            }
        }
    }

    /// A job that goes back to the queue makes way for a newer one that asked for `latest`.
    pub(crate) fn returned(&mut self, store: &Store, id: JobId, row: &Row) {
        let Some(group) = &row.terms.group else { return };
        let newer = store.rows.iter().find(|(other, row)| {
            let asks = |one: &GroupSpec| one.name == group.name && one.policy != GroupPolicy::Queue;
            let in_vain = row.impossible.is_some() && !self.asked.contains_key(*other);
            **other > id && !in_vain && row.terms.group.as_ref().is_some_and(asks)
        });
        if let Some((newer, _)) = newer {
            self.asks_for_the_end(id, row, By::Newer(*newer));
        }
    }

    /// Nobody is told to end but by who asked for it.
    pub(crate) fn check_stop(&mut self, id: JobId, row: &Row, by: &By) {
        let asker = self.asker(id, row);
        self.require(asker.as_ref() == Some(by), "who_is_stopped_was_asked_to_end", || {
            format!("job {id} is stopped by {by:?}, asked by {asker:?}")
        });
    }

    /// What follows the end of an attempt.
    pub(crate) fn check_next(&mut self, at: Now, row: &Row, key: Key, result: &AttemptResult, next: &Next) {
        let tries = row.tries + 1;
        let policy = &row.terms.retry;
        let asker = self.asker(key.job, row);
        let may_retry = tries <= policy.retries && allows(policy, result);
        match next {
            Next::Retry { ready_at, .. } => {
                self.require(asker.is_none(), "a_stopped_job_is_not_retried", || {
                    format!("{key:?}, asked by {asker:?}")
                });
                self.require(may_retry, "attempts_within_allowed", || {
                    format!("{key:?} try {tries} of 1+{}, {result}", policy.retries)
                });
                let due = retry_times(policy, tries, at.engine);
                self.require(due.contains(ready_at), "a_retry_waits_as_long_as_it_must", || {
                    format!("{key:?} try {tries} at {:?}: again at {ready_at:?}, due {due:?} by {policy:?}", at.engine)
                });
            }
            Next::Finish { outcome } => {
                let really = *outcome != Outcome::Succeeded || (result.is_success() && self.exited_zero.contains(&key));
                self.require(really, "no_success_without_an_attempt_that_exited_0", || format!("{key:?} {result}"));
                let due = asker.is_none() && may_retry;
                self.require(!due, "a_retry_that_is_due_is_made", || format!("{key:?} {result} {outcome:?}"));
                let expected = expected_outcome(asker.as_ref(), row.phase, result);
                self.require(*outcome == expected, "an_outcome_says_what_happened", || {
                    format!("{key:?} {:?} {result}, asked by {asker:?}: {outcome:?}, not {expected:?}", row.phase)
                });
            }
        }
    }

    /// What becomes of a job that ends in the queue.
    pub(crate) fn check_drop(&mut self, fact: &Fact, id: JobId, row: &Row, outcome: &Outcome) {
        let expired = row.terms.expires.is_some_and(|expires| expires <= fact.entry.at.wall);
        let asker = self.asker(id, row);
        let (name, holds) = match outcome {
            Outcome::Expired => ("only_expired_jobs_expire", expired && row.last.is_none()),
            // What was tried ends as its last attempt did.
            Outcome::Failed { cause } => {
                let last = row.last.as_ref().filter(|last| **last != AttemptResult::TimedOut);
                ("only_expired_jobs_expire", expired && last == Some(cause))
            }
            Outcome::TimedOut => ("only_expired_jobs_expire", expired && row.last == Some(AttemptResult::TimedOut)),
            Outcome::Cancelled { .. } => {
                let wanted = matches!(asker, Some(By::User(_) | By::Dependency(_)));
                ("only_cancelled_jobs_are_cancelled", wanted)
            }
            Outcome::Superseded { .. } => ("latest_keeps_the_newest", self.is_superseded(id)),
            Outcome::Succeeded => ("no_success_without_an_attempt_that_exited_0", false),
        };
        self.require(holds, name, || format!("job {id} dropped as {outcome:?}"));
        let expected = asker.as_ref().map(outcome_for);
        let same = expected.as_ref().is_none_or(|expected| expected == outcome);
        self.require(same, "an_outcome_says_what_happened", || {
            format!("job {id} dropped as {outcome:?}, asked by {asker:?}")
        });
    }
}

/// How a job ends whose end somebody asked for.
fn outcome_for(by: &By) -> Outcome {
    match by {
        By::Newer(job) => Outcome::Superseded { by: *job },
        By::User(_) | By::Dependency(_) => Outcome::Cancelled { by: by.clone() },
    }
}

/// How a job ends with an attempt that is not tried again. Once it was told to stop, that is what ended it, whatever its last words were;
/// a wish that it did not hear of leaves its success alone.
fn expected_outcome(asker: Option<&By>, phase: Phase, result: &AttemptResult) -> Outcome {
    match (asker, result) {
        (Some(by), _) if phase == Phase::Stopping => outcome_for(by),
        (_, AttemptResult::Exited { code: 0 }) => Outcome::Succeeded,
        (Some(by), _) => outcome_for(by),
        (None, AttemptResult::TimedOut) => Outcome::TimedOut,
        (None, result) => Outcome::Failed { cause: result.clone() },
    }
}

/// Whether the first rule that speaks of this result says "again".
fn allows(policy: &RetryPolicy, result: &AttemptResult) -> bool {
    let speaks = |pattern: Pattern| match result {
        AttemptResult::Exited { code: 0 } => false,
        AttemptResult::Exited { code } => [Pattern::Exit(None), Pattern::Exit(Some(*code))].contains(&pattern),
        AttemptResult::Signaled { signal } => {
            [Pattern::Signal(None), Pattern::Signal(Some(*signal))].contains(&pattern)
        }
        AttemptResult::OomKilled => pattern == Pattern::Oom,
        AttemptResult::TimedOut => pattern == Pattern::Timeout,
        AttemptResult::FailedToStart { .. } => pattern == Pattern::Start,
        AttemptResult::Lost { .. } => pattern == Pattern::Lost,
    };
    policy.rules.iter().find(|rule| speaks(rule.pattern)).is_some_and(|rule| rule.retry)
}

/// When a retry may become ready after so many tries.
fn retry_times(policy: &RetryPolicy, tries: u32, ended: Instant) -> RangeInclusive<Instant> {
    let (least, most) = match policy.backoff {
        Backoff::Fixed => (policy.delay_ms, policy.delay_ms),
        Backoff::Exponential => {
            let mut delay = policy.delay_ms;
            for _ in 1..tries {
                delay = delay.saturating_mul(2).min(DOUBLED_MS_MAX.max(policy.delay_ms));
            }
            (delay - delay / 10, delay)
        }
    };
    ended.plus_ms(least)..=ended.plus_ms(most)
}
