//! From a specification back to the words of a request: what `retry` submits again.

use super::rule_words;
use crate::api::{AfterField, AfterParts, GroupField, GroupParts, JobRequest};
use crate::quantity::{DurationField, SizeField, rfc3339_utc};
use ci_runner_core::job::{Command, JobSpec};
use ci_runner_core::retry::Backoff;
use ci_runner_core::time::WallTime;
use std::time::Duration;

/// The request that makes the same specification again. `submitted` is when the first one was acknowledged: `expires` counts
/// from there. What the store does not have cannot come back: the values of secrets, and the idempotency key.
pub fn request_of(spec: &JobSpec, submitted: WallTime) -> JobRequest {
    let (command, shell) = match &spec.work.command {
        Command::Argv(words) => (Some(words.clone()), None),
        Command::Shell(text) => (None, Some(text.clone())),
    };
    let terms = &spec.terms;
    let backoff = match terms.retry.backoff {
        Backoff::Fixed => "fixed",
        Backoff::Exponential => "exponential",
    };
    let group = terms.group.as_ref().map(|group| {
        let policy = Some(group.policy.word().to_owned());
        GroupField::Parts(GroupParts { name: group.name.clone(), limit: group.limit, policy })
    });
    let after = terms
        .after
        .iter()
        .map(|after| AfterField::Parts(AfterParts { id: after.job.get(), on: Some(after.on.word().to_owned()) }));
    let expires = terms.expires.map(|at| u64::try_from(at.0.saturating_sub(submitted.0)).unwrap_or(0));
    JobRequest {
        command,
        shell,
        name: spec.name.clone(),
        pool: terms.pool.clone(),
        profile: spec.work.profile.clone(),
        labels: terms.labels.iter().map(|label| label.as_str().to_owned()).collect(),
        env: spec.work.env.iter().cloned().collect(),
        dir: spec.work.dir.clone(),
        timeout: spec.work.timeout_ms.map(duration),
        soft_timeout: spec.work.soft_timeout_ms.map(duration),
        retry: Some(terms.retry.retries),
        retry_delay: Some(duration(terms.retry.delay_ms)),
        backoff: Some(backoff.to_owned()),
        retry_on: Some(rule_words(&terms.retry.rules)),
        priority: Some(i64::from(terms.priority)),
        group,
        after: after.collect(),
        at: terms.at.map(|at| rfc3339_utc(at.0)),
        delay: terms.delay_ms.map(duration),
        expires: expires.map(duration),
        hold: terms.hold,
        log_max: Some(SizeField(spec.work.log_bytes_max)),
        notify: spec.work.notify.clone(),
        correlation: Some(spec.correlation.clone()),
        memory: terms.limits.memory_bytes.map(SizeField),
        cpu: terms.limits.cpu_milli.map(|milli| f64::from(milli) / 1000.0),
        pids: terms.limits.pids.map(u64::from),
        oom_memory_factor: terms.retry.oom_factor.map(|hundredths| f64::from(hundredths) / 100.0),
        ..JobRequest::default()
    }
}

fn duration(ms: u64) -> DurationField {
    DurationField(Duration::from_millis(ms))
}
