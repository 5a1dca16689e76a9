//! Alarms and ends of jobs in words.

use crate::api::{AlarmView, JobEnded, JobView};
use crate::notify::{Event, KeptAlarm};
use crate::quantity::{rfc3339_utc, show_duration};
use ci_runner_core::watch::{Reading, Watch};
use serde_json::{Value, json};
use std::time::Duration;

/// What is known of the attempt that an alarm is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) job: u64,
    pub(super) attempt: u32,
    pub(super) name: Option<String>,
    pub(super) pool: String,
    pub(super) correlation: String,
}

/// What is kept of an alarm beside its figures.
pub(super) fn details(reading: &Reading, facts: Option<&Facts>) -> Value {
    match facts {
        Some(Facts { job, attempt, name, pool, correlation }) => {
            json!({"job": job, "attempt": attempt, "name": name, "pool": pool, "correlation": correlation})
        }
        None if reading.watch == Watch::Flapping => json!({"name": reading.subject}),
        None => json!({}),
    }
}

/// An alarm as it is shown.
pub(super) fn view(kept: &KeptAlarm) -> AlarmView {
    let reading = &kept.alarm.reading;
    let (divisor, unit) = match reading.watch {
        Watch::StuckJob | Watch::SlowJob | Watch::QueueAge => (1e3, "seconds"),
        Watch::FailureRate => (100.0, "percent"),
        Watch::Flapping => (1.0, "changes"),
    };
    let text = |key: &str| kept.details.get(key).and_then(Value::as_str).map(str::to_owned);
    let number = |key: &str| kept.details.get(key).and_then(Value::as_u64);
    AlarmView {
        id: kept.id.clone(),
        watch: reading.watch.word().to_owned(),
        text: sentence(
            reading,
            kept.ended_ms.is_none().then_some(kept.alarm.latest),
            number("job"),
            text("name").as_deref(),
        ),
        started_at: rfc3339_utc(kept.since_ms),
        ended_at: kept.ended_ms.map(rfc3339_utc),
        measured: reading.measured as f64 / divisor,
        limit: reading.limit as f64 / divisor,
        unit: unit.to_owned(),
        job: number("job"),
        attempt: number("attempt").and_then(|attempt| u32::try_from(attempt).ok()),
        name: text("name"),
        pool: text("pool"),
        correlation: text("correlation"),
    }
}

/// `latest`: how it is now; None for what is over.
fn sentence(reading: &Reading, latest: Option<u64>, job: Option<u64>, name: Option<&str>) -> String {
    let time = |ms: u64| show_duration(Duration::from_millis(ms));
    let percent = |hundredths: u64| format!("{}.{} %", hundredths / 100, hundredths % 100 / 10);
    let Reading { watch, measured, limit, .. } = reading;
    let name = name.map(|name| format!(" ({name})")).unwrap_or_default();
    let job = job.map_or_else(|| "a job".to_owned(), |job| format!("job {job}{name}"));
    match watch {
        Watch::StuckJob => format!("{job} runs for {}; beyond {} it counts as stuck", time(*measured), time(*limit)),
        Watch::SlowJob => format!("{job} runs for {}; more than {} is slow for it", time(*measured), time(*limit)),
        Watch::FailureRate => {
            let (worst, limit) = (percent(*measured), percent(*limit));
            match latest {
                None => format!("{worst} of jobs failed at worst; the limit is {limit}"),
                Some(now) if now < *measured => {
                    format!("{} of jobs fail ({worst} at worst); the limit is {limit}", percent(now))
                }
                Some(_) => format!("{worst} of jobs fail; the limit is {limit}"),
            }
        }
        Watch::QueueAge => format!("a job that could run waits for {}; the limit is {}", time(*measured), time(*limit)),
        Watch::Flapping => {
            format!("jobs{name} changed {measured} times between success and failure; the limit is {limit}")
        }
    }
}

/// What notifiers are told of an alarm.
pub(super) fn alarm_event(kept: &KeptAlarm, host: &str) -> Event {
    let view = view(kept);
    let (kind, word, at_ms) = match kept.ended_ms {
        None => ("watch.started", "", kept.since_ms),
        Some(at) => ("watch.ended", "over: ", at),
    };
    let title = format!("{host}: {word}{}", view.text);
    let mut data = serde_json::to_value(view).unwrap_or_default();
    if let Some(object) = data.as_object_mut() {
        object.insert("host".to_owned(), host.into());
    }
    let id = format!("alarm-{}-{}", kept.id, if kept.ended_ms.is_none() { "started" } else { "ended" });
    Event { id, kind: kind.to_owned(), at_ms, title, data }
}

/// What notifiers are told of the end of a job. The command and its variables stay here: they may hold secrets.
pub(super) fn end_event(view: JobView, at_ms: i64, store_id: &str, host: &str) -> Event {
    let outcome = view.outcome.unwrap_or_default();
    let name = view.name.as_deref().map(|name| format!(" ({name})")).unwrap_or_default();
    let cause = view.cause.as_deref().map(|cause| format!(": {cause}")).unwrap_or_default();
    let title = format!("{host}: job {}{name} {}{cause}", view.id, outcome.replace('_', " "));
    let id = format!("job-{store_id}-{}-ended", view.id);
    let data = JobEnded {
        host: host.to_owned(),
        id: view.id,
        name: view.name,
        outcome,
        exit_code: view.exit_code,
        signal: view.signal,
        cause: view.cause,
        attempt_count: view.attempt_count,
        pool: view.pool,
        labels: view.labels,
        correlation: view.correlation,
        submitter: view.submitter,
        submitted_at: view.submitted_at,
        started_at: view.started_at,
        finished_at: view.finished_at,
        queue_seconds: view.queue_seconds,
        run_seconds: view.run_seconds,
    };
    Event { id, kind: "job.ended".to_owned(), at_ms, title, data: serde_json::to_value(data).unwrap_or_default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It told the worst figure as if it were the present one.
    #[test]
    fn a_failure_rate_is_told_as_it_is_and_as_it_was_at_worst() {
        let reading = Reading { watch: Watch::FailureRate, subject: String::new(), measured: 5_330, limit: 2_000 };
        let told = |latest| sentence(&reading, latest, None, None);
        assert_eq!(told(Some(5_330)), "53.3 % of jobs fail; the limit is 20.0 %");
        assert_eq!(told(Some(2_860)), "28.6 % of jobs fail (53.3 % at worst); the limit is 20.0 %");
        assert_eq!(told(None), "53.3 % of jobs failed at worst; the limit is 20.0 %");
    }
}
