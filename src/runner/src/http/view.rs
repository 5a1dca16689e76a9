//! What the API shows of jobs: rows of the store and the snapshot, in the words of `crate::api`.

use crate::api::{AfterParts, AttemptView, GroupParts, JobView};
use crate::daemon::handle::Snapshot;
use crate::quantity::rfc3339_utc;
use crate::store::{AttemptRow, JobRow};
use ci_runner_core::id::JobId;
use ci_runner_core::job::Command;
use ci_runner_core::outcome::{AttemptResult, Outcome};
use ci_runner_core::record::is_final;
use ci_runner_core::state::Phase;
use ci_runner_core::time::WallTime;
use std::collections::HashMap;

/// Longest one-line summary of a command.
const SUMMARY_BYTES_MAX: usize = 200;

/// Since when attempts run, by job, from the snapshot: the store knows the first start only.
pub(super) fn running_since(snapshot: &Snapshot) -> HashMap<JobId, WallTime> {
    let now = snapshot.now;
    let running = snapshot.leases.iter().filter(|lease| matches!(lease.phase, Phase::Running | Phase::Stopping));
    running
        .map(|lease| {
            let age_ms = i64::try_from(now.engine.since_ms(lease.since)).unwrap_or(i64::MAX);
            (lease.job, WallTime(now.wall.0.saturating_sub(age_ms)))
        })
        .collect()
}

/// A job without attempts and reason. `since` is when its present attempt started to run, `now` the time of the answer.
pub fn job_view(row: JobRow, since: Option<WallTime>, now: WallTime) -> JobView {
    let queue_end = row.started.or(row.finished).unwrap_or(now);
    let (exit_code, signal) = codes(row.result.as_ref());
    let cause = cause(&row);
    let terms = row.spec.terms;
    let work = row.spec.work;
    let group_limit = row.group_limit;
    let seconds = |ms: Option<u64>| ms.map(|ms| ms as f64 / 1e3);
    JobView {
        id: row.id.get(),
        name: row.spec.name,
        state: row.phase.word().to_owned(),
        outcome: row.outcome.as_ref().map(|outcome| outcome.word().to_owned()),
        exit_code,
        signal,
        cause,
        attempts: None,
        attempt_count: row.attempt,
        priority: terms.priority,
        labels: terms.labels.iter().map(|label| label.as_str().to_owned()).collect(),
        pool: row.ran_in.or(terms.pool),
        group: terms.group.map(|group| GroupParts {
            name: group.name,
            limit: group_limit.or(group.limit),
            policy: Some(group.policy.word().to_owned()),
        }),
        after: terms
            .after
            .iter()
            .map(|after| AfterParts { id: after.job.get(), on: Some(after.on.word().to_owned()) })
            .collect(),
        summary: work.command.summary(SUMMARY_BYTES_MAX),
        env_names: work.env.into_iter().map(|(name, _)| name).collect(),
        dir: work.dir,
        profile: work.profile,
        timeout_seconds: seconds(work.timeout_ms),
        soft_timeout_seconds: seconds(work.soft_timeout_ms),
        retry: terms.retry.retries,
        memory_bytes: terms.limits.memory_bytes,
        cpu: terms.limits.cpu_milli.map(cores),
        pids: terms.limits.pids.map(u64::from),
        oom_memory_factor: terms.retry.oom_factor.map(|hundredths| f64::from(hundredths) / 100.0),
        notify: work.notify,
        correlation: row.spec.correlation,
        submitter: row.submitter,
        held_by: row.held.map(|(by, _)| by),
        submitted_at: rfc3339_utc(row.submitted.0),
        started_at: row.started.map(|at| rfc3339_utc(at.0)),
        finished_at: row.own_end.or(row.finished).map(|at| rfc3339_utc(at.0)),
        queue_seconds: seconds(row.queue_ms).unwrap_or_else(|| between(row.submitted, queue_end)),
        run_seconds: since.map(|since| between(since, now)).or(row.run_us.map(|us| us as f64 / 1e6)),
        reason: None,
        command: match &work.command {
            Command::Argv(words) => Some(words.clone()),
            Command::Shell(_) => None,
        },
        shell: match work.command {
            Command::Argv(_) => None,
            Command::Shell(text) => Some(text),
        },
    }
}

fn cores(milli: u32) -> f64 {
    f64::from(milli) / 1000.0
}

/// An attempt.
fn attempt_view(row: &AttemptRow, now: WallTime) -> AttemptView {
    let (exit_code, signal) = codes(row.result.as_ref());
    let receipt = row.receipt.as_ref();
    let result = match &row.result {
        Some(result) => Some(result.word().to_owned()),
        None => row.released.then(|| "released".to_owned()),
    };
    let started = receipt.map(|receipt| receipt.started).or(row.started);
    let ended = receipt.map(|receipt| receipt.ended).or(row.ended);
    let micros = |us: u64| us as f64 / 1e6;
    let measured = receipt.map(|receipt| receipt.measured).unwrap_or_default();
    AttemptView {
        number: row.number.0,
        pool: row.pool.clone(),
        slot: row.slot,
        result,
        exit_code,
        signal,
        cause: row.result.as_ref().filter(|result| !result.is_success()).map(ToString::to_string),
        started_at: started.map(|at| rfc3339_utc(at.0)),
        finished_at: ended.map(|at| rfc3339_utc(at.0)),
        run_seconds: match receipt {
            Some(receipt) => Some(micros(receipt.run_us)),
            None => started.map(|started| between(started, row.ended.unwrap_or(now))),
        },
        cpu_user_seconds: receipt.map(|receipt| micros(receipt.cpu_user_us)),
        cpu_system_seconds: receipt.map(|receipt| micros(receipt.cpu_system_us)),
        peak_memory_bytes: receipt.map(|receipt| receipt.peak_memory_bytes),
        peak_memory_of: receipt.map(|_| if measured.memory_of_all { "attempt" } else { "process" }.to_owned()),
        log_bytes: receipt.map(|receipt| receipt.log_bytes),
        log_dropped_bytes: receipt.map(|receipt| receipt.log_dropped_bytes),
        leftover_processes: receipt.map(|receipt| receipt.leftovers),
        memory_limit_bytes: row.limits.memory_bytes,
        cpu_limit: row.limits.cpu_milli.map(cores),
        pids_limit: row.limits.pids.map(u64::from),
        pids_peak: measured.pids_peak,
        io_read_bytes: measured.io_read_bytes,
        io_written_bytes: measured.io_written_bytes,
        memory_stall_seconds: measured.memory_stall_us.map(micros),
        cpu_stall_seconds: measured.cpu_stall_us.map(micros),
        io_stall_seconds: measured.io_stall_us.map(micros),
        oom_kills: measured.oom_kills,
        disk_bytes: measured.disk_bytes,
        lacks: receipt.map(|receipt| receipt.lacks.names().map(str::to_owned).collect()).unwrap_or_default(),
    }
}

/// The store notes when it is told of a start or an end; the attempt's own record is some milliseconds more exact. Beside its
/// attempts a job shows their times, or its figures would not fit together.
pub(super) fn show_attempts(view: &mut JobView, row: &JobTimes, attempts: &[AttemptRow], now: WallTime) {
    let shown: Vec<AttemptView> = attempts.iter().map(|attempt| attempt_view(attempt, now)).collect();
    for (attempt, shown) in attempts.iter().zip(&shown) {
        if attempt.started.is_some() && attempt.started == row.started {
            view.started_at.clone_from(&shown.started_at);
        }
        // A job may also end later than its last attempt: cancelled before the next one.
        if attempt.ended.is_some() && attempt.ended == row.finished {
            view.finished_at.clone_from(&shown.finished_at);
        }
    }
    view.attempts = Some(shown);
}

/// When a job started and ended by the store.
pub(super) struct JobTimes {
    pub started: Option<WallTime>,
    pub finished: Option<WallTime>,
}

/// Seconds from one date to another; 0 when the clock was set back in between.
fn between(from: WallTime, to: WallTime) -> f64 {
    to.0.saturating_sub(from.0).max(0) as f64 / 1e3
}

fn codes(result: Option<&AttemptResult>) -> (Option<u8>, Option<u8>) {
    match result {
        Some(AttemptResult::Exited { code }) => (Some(*code), None),
        Some(AttemptResult::Signaled { signal }) => (None, Some(*signal)),
        Some(
            AttemptResult::OomKilled
            | AttemptResult::TimedOut
            | AttemptResult::FailedToStart { .. }
            | AttemptResult::Lost { .. },
        )
        | None => (None, None),
    }
}

/// Why it ended so; for an open job, how its last attempt ended.
fn cause(row: &JobRow) -> Option<String> {
    let cause = cause_but_expiry(row.outcome.as_ref(), row.result.as_ref())?;
    Some(if expired_before_a_try(row) { format!("{cause}; it expired before its next try") } else { cause })
}

/// A retry was due, and only the expiry can have prevented it: whoever stops a job is its outcome.
fn expired_before_a_try(row: &JobRow) -> bool {
    let failed = matches!(row.outcome, Some(Outcome::Failed { .. } | Outcome::TimedOut));
    let terms = &row.spec.terms;
    let due = |result| !is_final(result, &terms.retry, row.tries);
    failed && terms.expires.is_some() && row.result.as_ref().is_some_and(due)
}

fn cause_but_expiry(outcome: Option<&Outcome>, result: Option<&AttemptResult>) -> Option<String> {
    match outcome {
        Some(Outcome::Succeeded) => None,
        Some(Outcome::Failed { cause }) => Some(cause.to_string()),
        Some(Outcome::TimedOut) => Some("passed its hard timeout".to_owned()),
        Some(Outcome::Cancelled { by }) => Some(format!("cancelled by {by}")),
        Some(Outcome::Superseded { by }) => Some(format!("superseded by job {by}")),
        Some(Outcome::Expired) => Some("had not started when it expired".to_owned()),
        None => result.filter(|result| !result.is_success()).map(ToString::to_string),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{new_job, read_job};
    use ci_runner_core::policy::Settings;
    use ci_runner_core::state::Phase;

    /// "had not started" was said of jobs that had.
    #[test]
    fn a_job_that_expired_after_a_try_says_what_became_of_it() {
        let request = read_job(br#"{"command":["x"],"expires":3,"retry":2}"#).unwrap();
        let spec = new_job(request, &Settings::default(), &jiff::Zoned::now()).unwrap().spec;
        let row = |outcome, result, tries| JobRow {
            id: JobId::MIN,
            spec: spec.clone(),
            group_limit: None,
            submitter: "me".to_owned(),
            phase: Phase::Finished,
            outcome: Some(outcome),
            result,
            attempt: tries,
            tries,
            ran_in: None,
            held: None,
            submitted: WallTime(0),
            started: None,
            finished: Some(WallTime(3_000)),
            queue_ms: None,
            run_us: None,
            own_end: None,
        };
        let seven = AttemptResult::Exited { code: 7 };
        let failed = |tries| cause(&row(Outcome::of_failure(&seven), Some(seven.clone()), tries)).unwrap();
        assert_eq!(failed(1), "exit code 7; it expired before its next try");
        assert_eq!(failed(3), "exit code 7", "no try was left");
        let never = cause(&row(Outcome::Expired, None, 0));
        assert_eq!(never.as_deref(), Some("had not started when it expired"));
    }

    /// It showed one time in `show` and another in `list` and `why`: when the daemon, started again, had heard of the end.
    #[test]
    fn a_job_has_ended_when_its_attempt_has() {
        let request = read_job(br#"{"command":["x"]}"#).unwrap();
        let spec = new_job(request, &Settings::default(), &jiff::Zoned::now()).unwrap().spec;
        let row = |own_end| JobRow {
            id: JobId::MIN,
            spec: spec.clone(),
            group_limit: None,
            submitter: "me".to_owned(),
            phase: Phase::Finished,
            outcome: Some(Outcome::Succeeded),
            result: Some(AttemptResult::Exited { code: 0 }),
            attempt: 1,
            tries: 1,
            ran_in: None,
            held: None,
            submitted: WallTime(0),
            started: Some(WallTime(1_000)),
            finished: Some(WallTime(20_000)),
            queue_ms: None,
            run_us: Some(1_000_000),
            own_end,
        };
        let finished = |own_end| job_view(row(own_end), None, WallTime(30_000)).finished_at.unwrap();
        assert_eq!(finished(Some(WallTime(2_000))), "1970-01-01T00:00:02.000Z");
        assert_eq!(finished(None), "1970-01-01T00:00:20.000Z", "cancelled before its next try, for one");
    }
}
