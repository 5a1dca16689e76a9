//! Why a job does not run, in words: exact, with the names and numbers that decide.

use crate::api::{ReasonView, WhyView};
use crate::daemon::handle::Explanation;
use crate::quantity::{show_duration, show_local, show_relative};
use ci_runner_core::change::Pause;
use ci_runner_core::explain::{AHEAD_COUNTED_MAX, Reason};
use ci_runner_core::id::JobId;
use ci_runner_core::job::Condition;
use ci_runner_core::labels::Label;
use ci_runner_core::state::Phase;
use ci_runner_core::time::Now;
use jiff::tz::TimeZone;
use std::time::Duration;

/// Jobs that are named one by one; the rest is a number.
const NAMED_MAX: usize = 16;

/// The answer of `why` for an open job. Times are shown in `zone`.
pub fn why(id: JobId, explanation: &Explanation, zone: &TimeZone) -> WhyView {
    let say = |reason| view(id, reason, explanation, zone);
    WhyView {
        id: id.get(),
        state: explanation.phase.word().to_owned(),
        reasons: explanation.reasons.iter().map(say).collect(),
    }
}

fn view(id: JobId, reason: &Reason, explanation: &Explanation, zone: &TimeZone) -> ReasonView {
    let now = explanation.now;
    let in_time =
        |until: ci_runner_core::time::Instant| show_duration(Duration::from_millis(until.since_ms(now.engine)));
    let (kind, text, jobs) = match reason {
        Reason::Running { attempt, pool, slot } => {
            ("running", format!("runs as attempt {attempt} in pool {pool}, slot {slot}"), Vec::new())
        }
        Reason::Starting { attempt, pool } => {
            ("starting", format!("attempt {attempt} starts in pool {pool}"), Vec::new())
        }
        Reason::Stopping { by, kill_at } => {
            ("stopping", format!("is being stopped by {by}; it is killed in {}", in_time(*kill_at)), Vec::new())
        }
        Reason::Cancelled { by } => {
            ("cancelled", format!("was cancelled by {by} and is about to be dropped"), Vec::new())
        }
        Reason::Held { by, reason } => {
            let text = format!("on hold by {by}{}; let it go with `ci-runner release {id}`", because(reason));
            ("held", text, Vec::new())
        }
        Reason::WaitsFor { job, on, phase } => ("waits_for", waits_for(*job, *on, *phase), vec![job.get()]),
        Reason::NotBefore(at) => {
            let relative = show_relative(at.0, now.wall.0);
            ("not_before", format!("not before {} ({relative})", minute(at.0, zone)), Vec::new())
        }
        Reason::Delayed { until, tries: 0 } => ("delayed", format!("starts in {} (`in`)", in_time(*until)), Vec::new()),
        Reason::Delayed { until, tries } => ("delayed", format!("retry {tries} in {}", in_time(*until)), Vec::new()),
        Reason::Group { name, limit, holders, ahead } => group(name, *limit, holders, *ahead),
        Reason::Paused(pause) => ("paused", paused(pause, now, zone), Vec::new()),
        Reason::NoPool { pool, labels, nearest } => {
            ("no_pool", no_pool(pool.as_deref(), labels, nearest.as_ref()), Vec::new())
        }
        Reason::NoSlot { pools } => no_slot(pools, explanation.ahead),
        Reason::Behind { ahead } => ("behind", format!("{} before this one", go(*ahead)), Vec::new()),
        Reason::Next => ("next", "nothing is in the way: it starts next".to_owned(), Vec::new()),
    };
    ReasonView { kind: kind.to_owned(), text, jobs }
}

fn because(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(" because {reason}") }
}

/// `2026-11-22 03:00`, with seconds only where they say something.
fn minute(unix_ms: i64, zone: &TimeZone) -> String {
    let text = show_local(unix_ms, zone);
    text.strip_suffix(":00").map_or_else(|| text.clone(), str::to_owned)
}

fn waits_for(job: JobId, on: Condition, phase: Option<Phase>) -> String {
    let until = match on {
        Condition::Success => "succeed",
        Condition::Failure => "fail",
        Condition::Always => "finish",
    };
    let stands = match phase {
        Some(phase @ (Phase::Queued | Phase::Starting | Phase::Running | Phase::Stopping)) => phase.word(),
        Some(Phase::Finished) | None => "finished just now",
    };
    format!("waits for job {job} to {until} (it is {stands})")
}

fn group(name: &str, limit: u32, holders: &[JobId], ahead: usize) -> (&'static str, String, Vec<u64>) {
    let mut text = match holders {
        [] => format!("group {name} (limit {limit}) is full"),
        holders => format!("group {name} (limit {limit}) is held by {}", names(holders)),
    };
    match ahead {
        0 => {}
        1 => text.push_str("; 1 of its jobs goes before this one"),
        ahead => text.push_str(&format!("; {ahead} of its jobs go before this one")),
    }
    ("group", text, holders.iter().map(|id| id.get()).collect())
}

fn paused(pause: &Pause, now: Now, zone: &TimeZone) -> String {
    let since = pause.since.wall.0;
    let shown = minute(since, zone);
    // Of today the time of day is enough.
    let today = show_local(now.wall.0, zone).get(..11).map(str::to_owned).unwrap_or_default();
    let shown = shown.strip_prefix(&today).unwrap_or(&shown);
    let word = if pause.drain { "drained" } else { "paused" };
    format!("{word} by {} since {shown}{}; go on with `ci-runner resume`", pause.by, because(&pause.reason))
}

fn no_pool(pool: Option<&str>, labels: &[Label], nearest: Option<&(String, Vec<Label>)>) -> String {
    let list = |labels: &[Label]| {
        let plural = if labels.len() == 1 { "label" } else { "labels" };
        format!("{plural} {}", labels.iter().map(Label::as_str).collect::<Vec<_>>().join(", "))
    };
    match (pool, nearest) {
        (Some(pool), Some((_, lacks))) if !lacks.is_empty() => format!("pool {pool} lacks {}", list(lacks)),
        (Some(pool), _) => {
            format!("there is no pool {pool} with slots; add it to the configuration, or cancel the job")
        }
        (None, _) if labels.is_empty() => "no pool has slots".to_owned(),
        (None, None) => format!("no pool has {}", list(labels)),
        (None, Some((name, lacks))) => {
            let lacking = if lacks.len() == labels.len() {
                if lacks.len() == 1 { "it".to_owned() } else { "them".to_owned() }
            } else {
                list(lacks)
            };
            format!("no pool has {}; nearest is pool {name}, which lacks {lacking}", list(labels))
        }
    }
}

fn no_slot(pools: &[(String, u32, Vec<JobId>)], ahead: usize) -> (&'static str, String, Vec<u64>) {
    let mut text = String::new();
    for (index, (name, slots, holders)) in pools.iter().enumerate() {
        let start = if index == 0 { "no slot is free in pool " } else { ", nor in pool " };
        text.push_str(&format!("{start}{name} ({} of {slots})", holders.len()));
        if !holders.is_empty() {
            text.push_str(&format!(": held by {}", names(holders)));
        }
    }
    if ahead > 0 {
        text.push_str(&format!("; {} before this one", go(ahead)));
    }
    ("no_slot", text, pools.iter().flat_map(|(_, _, holders)| holders.iter().map(|id| id.get())).collect())
}

/// `1 job goes`, `3 jobs go`.
fn go(count: usize) -> String {
    match count {
        1 => "1 job goes".to_owned(),
        AHEAD_COUNTED_MAX.. => format!("at least {AHEAD_COUNTED_MAX} jobs go"),
        count => format!("{count} jobs go"),
    }
}

/// `job 41`, `jobs 12, 13, 14`, `jobs 1, … and 20 more`.
fn names(ids: &[JobId]) -> String {
    let named: Vec<String> = ids.iter().take(NAMED_MAX).map(ToString::to_string).collect();
    let plural = if ids.len() == 1 { "job" } else { "jobs" };
    let more = ids.len().saturating_sub(NAMED_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{plural} {}{more}", named.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ci_runner_core::id::AttemptNumber;
    use ci_runner_core::outcome::By;
    use ci_runner_core::time::{Instant, WallTime};

    /// 2026-11-21 11:00:00 UTC.
    const NOW: Now = Now { engine: Instant(1_000_000), wall: WallTime(1_795_258_800_000) };

    fn id(id: u64) -> JobId {
        JobId::new(id).unwrap()
    }

    fn labels(texts: &[&str]) -> Vec<Label> {
        texts.iter().map(|text| Label::parse(text).unwrap()).collect()
    }

    fn pause(drain: bool, ago_ms: i64) -> Reason {
        let since = Now { wall: WallTime(NOW.wall.0 - ago_ms), ..NOW };
        Reason::Paused(Pause { by: "anna".into(), reason: "disk swap".into(), since, drain })
    }

    #[test]
    fn every_reason_is_a_sentence() {
        let ids = |numbers: &[u64]| numbers.iter().map(|number| id(*number)).collect::<Vec<_>>();
        let hour_ms = 3_600_000;
        for (reason, ahead, kind, text) in [
            (
                Reason::Running { attempt: AttemptNumber(2), pool: "default".into(), slot: 3 },
                0,
                "running",
                "runs as attempt 2 in pool default, slot 3",
            ),
            (
                Reason::Starting { attempt: AttemptNumber(1), pool: "default".into() },
                0,
                "starting",
                "attempt 1 starts in pool default",
            ),
            (
                Reason::Stopping { by: By::User("anna".into()), kill_at: NOW.engine.plus_ms(8_000) },
                0,
                "stopping",
                "is being stopped by anna; it is killed in 8.0s",
            ),
            (
                Reason::Cancelled { by: By::Dependency(id(3)) },
                0,
                "cancelled",
                "was cancelled by dependency on job 3 and is about to be dropped",
            ),
            (
                Reason::Held { by: "anna".into(), reason: String::new() },
                0,
                "held",
                "on hold by anna; let it go with `ci-runner release 7`",
            ),
            (
                Reason::WaitsFor { job: id(3), on: Condition::Success, phase: Some(Phase::Running) },
                0,
                "waits_for",
                "waits for job 3 to succeed (it is running)",
            ),
            (
                Reason::NotBefore(WallTime(NOW.wall.0 + 16 * hour_ms)),
                0,
                "not_before",
                "not before 2026-11-22 03:00 (in 16h)",
            ),
            (Reason::Delayed { until: NOW.engine.plus_ms(4_000), tries: 2 }, 0, "delayed", "retry 2 in 4.0s"),
            (Reason::Delayed { until: NOW.engine.plus_ms(90_000), tries: 0 }, 0, "delayed", "starts in 1m 30s (`in`)"),
            (
                Reason::Group { name: "deploy".into(), limit: 1, holders: ids(&[41]), ahead: 2 },
                0,
                "group",
                "group deploy (limit 1) is held by job 41; 2 of its jobs go before this one",
            ),
            (
                pause(false, hour_ms),
                0,
                "paused",
                "paused by anna since 10:00 because disk swap; go on with `ci-runner resume`",
            ),
            (
                pause(true, 24 * hour_ms),
                0,
                "paused",
                "drained by anna since 2026-11-20 11:00 because disk swap; go on with `ci-runner resume`",
            ),
            (
                Reason::NoPool {
                    pool: None,
                    labels: labels(&["tpu"]),
                    nearest: Some(("default".into(), labels(&["tpu"]))),
                },
                0,
                "no_pool",
                "no pool has label tpu; nearest is pool default, which lacks it",
            ),
            (
                Reason::NoPool {
                    pool: None,
                    labels: labels(&["gpu", "tpu"]),
                    nearest: Some(("big".into(), labels(&["tpu"]))),
                },
                0,
                "no_pool",
                "no pool has labels gpu, tpu; nearest is pool big, which lacks label tpu",
            ),
            (
                Reason::NoPool {
                    pool: Some("big".into()),
                    labels: labels(&["tpu"]),
                    nearest: Some(("big".into(), labels(&["tpu"]))),
                },
                0,
                "no_pool",
                "pool big lacks label tpu",
            ),
            (
                Reason::NoPool { pool: Some("gone".into()), labels: Vec::new(), nearest: None },
                0,
                "no_pool",
                "there is no pool gone with slots; add it to the configuration, or cancel the job",
            ),
            (
                Reason::NoSlot { pools: vec![("default".into(), 4, ids(&[12, 13, 14, 15]))] },
                3,
                "no_slot",
                "no slot is free in pool default (4 of 4): held by jobs 12, 13, 14, 15; 3 jobs go before this one",
            ),
            (
                Reason::NoSlot { pools: vec![("a".into(), 1, ids(&[1])), ("b".into(), 1, ids(&[2]))] },
                1,
                "no_slot",
                "no slot is free in pool a (1 of 1): held by job 1, nor in pool b (1 of 1): held by job 2; 1 job goes before this one",
            ),
            (Reason::Behind { ahead: 10_000 }, 0, "behind", "at least 10000 jobs go before this one"),
            (Reason::Next, 0, "next", "nothing is in the way: it starts next"),
        ] {
            let explanation = Explanation { phase: Phase::Queued, reasons: vec![reason], ahead, now: NOW };
            let view = why(id(7), &explanation, &TimeZone::UTC);
            assert_eq!((view.reasons[0].kind.as_str(), view.reasons[0].text.as_str()), (kind, text));
        }
    }

    #[test]
    fn many_jobs_are_a_number() {
        let many: Vec<JobId> = (1..=20).map(id).collect();
        assert!(names(&many).ends_with("15, 16 and 4 more"), "{}", names(&many));
    }
}
