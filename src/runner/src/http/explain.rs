//! Why a job does not run, in words: exact, with the names and numbers that decide.

use crate::api::{ReasonView, WhyView};
use crate::daemon::gauges;
use crate::daemon::handle::Explanation;
use crate::quantity::{show_duration, show_local, show_relative, zone_name};
use ci_runner_core::change::Pause;
use ci_runner_core::explain::{AHEAD_COUNTED_MAX, Reason};
use ci_runner_core::id::JobId;
use ci_runner_core::job::Condition;
use ci_runner_core::labels::Label;
use ci_runner_core::limits::{self, Resource, Shortage};
use ci_runner_core::state::Phase;
use ci_runner_core::time::Now;
use jiff::tz::TimeZone;
use std::time::Duration;

/// Jobs that are named one by one; the rest is a number.
const NAMED_MAX: usize = 16;

/// The answer of `why` for an open job. Times are shown in `zone`.
pub fn why(id: JobId, explanation: &Explanation, zone: &TimeZone) -> WhyView {
    let say = |reason| view(id, reason, (explanation.now, explanation.ahead), zone);
    let is_true = |reason: &&Reason| explanation.store.is_none() || !matches!(reason, Reason::Next);
    let reasons = explanation.reasons.iter().filter(is_true).map(say);
    // It decides only where nothing of the job itself does.
    let decides = explanation.phase != Phase::Running
        && matches!(
            explanation.reasons.first(),
            None | Some(Reason::Next | Reason::Behind { .. } | Reason::Starting { .. } | Reason::Stopping { .. })
        );
    let spawner = explanation.spawner.iter().filter(|_| decides);
    let spawner = spawner.map(|text| ReasonView { kind: "spawner".to_owned(), text: text.clone(), jobs: Vec::new() });
    let store = explanation.store.iter();
    let store = store.map(|text| ReasonView { kind: "store".to_owned(), text: text.clone(), jobs: Vec::new() });
    let trouble = explanation.trouble.iter().map(|text| trouble(text));
    let reasons = store.chain(spawner).chain(reasons).chain(trouble).collect();
    WhyView { id: id.get(), state: explanation.phase.word().to_owned(), reasons }
}

/// What an attempt that has run so long goes through when that is beyond its hard timeout.
pub fn overdue(ran_ms: u64, timeout_ms: u64, grace_ms: u64) -> Option<ReasonView> {
    let over_ms = ran_ms.checked_sub(timeout_ms)?;
    let timeout = show_duration(Duration::from_millis(timeout_ms));
    let end = match grace_ms.saturating_sub(over_ms) {
        0 => "it is being killed".to_owned(),
        left_ms => format!("it was asked to end, and is killed in {}", show_duration(Duration::from_millis(left_ms))),
    };
    let text = format!("its timeout of {timeout} has passed; {end}");
    Some(ReasonView { kind: "overdue".to_owned(), text, jobs: Vec::new() })
}

/// Not the queue's doing.
fn trouble(text: &str) -> ReasonView {
    ReasonView { kind: "executor".to_owned(), text: text.to_owned(), jobs: Vec::new() }
}

/// One reason; `ahead` is how many of its class go before the job.
fn view(id: JobId, reason: &Reason, (now, ahead): (Now, usize), zone: &TimeZone) -> ReasonView {
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
            (
                "not_before",
                format!("not before {} {} ({relative})", minute(at.0, zone), zone_at(at.0, zone)),
                Vec::new(),
            )
        }
        Reason::Delayed { until, tries: 0 } => ("delayed", format!("starts in {} (`in`)", in_time(*until)), Vec::new()),
        Reason::Delayed { until, tries } => ("delayed", format!("retry {tries} in {}", in_time(*until)), Vec::new()),
        Reason::Group { name, limit, holders, ahead, first } => {
            let first = first.as_ref().map(|(first, why)| {
                let why = why.as_ref().map(|why| view(*first, why, (now, 0), zone).text);
                (*first, why)
            });
            group(name, *limit, (holders, *ahead), first)
        }
        Reason::Paused(pause) => ("paused", paused(pause, now, zone), Vec::new()),
        Reason::Busy(busy) => ("busy", format!("the host is too busy: {}", gauges::words(busy)), Vec::new()),
        Reason::NoPool { pool, labels, nearest } => {
            ("no_pool", no_pool(pool.as_deref(), labels, nearest.as_ref()), Vec::new())
        }
        Reason::NoSlot { pools } => no_slot(pools, ahead),
        Reason::Resources(shortage) => ("resources", short(shortage), Vec::new()),
        Reason::MakesWay { job } => {
            let text = format!(
                "memory and CPU are kept for job {job}, which is before this one and does not fit yet; see ci-runner why {job}"
            );
            ("makes_way", text, vec![job.get()])
        }
        Reason::Behind { ahead } => ("behind", format!("{} before this one", go(*ahead)), Vec::new()),
        Reason::Next => ("next", "nothing is in the way: it starts next".to_owned(), Vec::new()),
    };
    ReasonView { kind: kind.to_owned(), text, jobs }
}

fn short(shortage: &Shortage) -> String {
    let [asked, reserved, budget] =
        [shortage.asked, shortage.reserved, shortage.budget].map(|value| limits::words(shortage.resource, value));
    let what = match shortage.resource {
        Resource::Memory => "of memory",
        Resource::Cpu => "cores",
        Resource::Pids => "processes",
    };
    format!(
        "it needs {asked} {what}, and of the {budget} that this host gives to jobs {reserved} are reserved by others"
    )
}

fn because(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(" because {reason}") }
}

/// `2026-11-22 03:00`, with seconds only where they say something.
fn minute(unix_ms: i64, zone: &TimeZone) -> String {
    let text = show_local(unix_ms, zone);
    text.strip_suffix(":00").map_or_else(|| text.clone(), str::to_owned)
}

/// `CET`, `+03`: the zone is the daemon's, and whoever reads may live in another.
fn zone_at(unix_ms: i64, zone: &TimeZone) -> String {
    // A host that says none has UTC.
    if zone.is_unknown() { "UTC".to_owned() } else { zone_name(unix_ms, zone) }
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

/// `first`: who goes first although the holders leave room, and what that one waits for.
fn group(
    name: &str,
    limit: u32,
    (holders, ahead): (&[JobId], usize),
    first: Option<(JobId, Option<String>)>,
) -> (&'static str, String, Vec<u64>) {
    let mut text = match holders {
        [] => format!("group {name} (limit {limit})"),
        holders => format!("group {name} (limit {limit}) is held by {}", names(holders)),
    };
    let mut jobs: Vec<u64> = holders.iter().map(|id| id.get()).collect();
    if let Some((first, why)) = &first {
        let separator = if holders.is_empty() { ": " } else { "; " };
        let why = why.as_ref().map(|why| format!(", and waits: {why}")).unwrap_or_default();
        text.push_str(&format!("{separator}job {first} goes first{why}"));
        jobs.push(first.get());
    }
    match ahead {
        0 => {}
        1 if first.is_some() => {}
        1 => text.push_str("; 1 of its jobs goes before this one"),
        ahead => text.push_str(&format!("; {ahead} of its jobs go before this one")),
    }
    ("group", text, jobs)
}

fn paused(pause: &Pause, now: Now, zone: &TimeZone) -> String {
    let since = pause.since.wall.0;
    let shown = minute(since, zone);
    // Of today the time of day is enough.
    let today = show_local(now.wall.0, zone).get(..11).map(str::to_owned).unwrap_or_default();
    let shown = shown.strip_prefix(&today).unwrap_or(&shown);
    let word = if pause.drain { "drained" } else { "paused" };
    format!(
        "{word} by {} since {shown} {}{}; go on with `ci-runner resume`",
        pause.by,
        zone_at(since, zone),
        because(&pause.reason)
    )
}

fn no_pool(pool: Option<&str>, labels: &[Label], nearest: Option<&(String, Vec<Label>)>) -> String {
    let list = |labels: &[Label]| {
        let plural = if labels.len() == 1 { "label" } else { "labels" };
        format!("{plural} {}", labels.iter().map(Label::as_str).collect::<Vec<_>>().join(", "))
    };
    match (pool, nearest) {
        (_, Some((name, lacks))) if lacks.is_empty() => {
            format!(
                "pool {name} cannot take its limits: it allows less, or nothing there enforces them (ci-runner status)"
            )
        }
        (Some(pool), Some((_, lacks))) => format!("pool {pool} lacks {}", list(lacks)),
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

    const HOUR_MS: i64 = 3_600_000;

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

    fn ids(numbers: &[u64]) -> Vec<JobId> {
        numbers.iter().map(|number| id(*number)).collect()
    }

    fn check(reason: Reason, ahead: usize, kind: &str, text: &str) {
        let explanation = Explanation {
            phase: Phase::Queued,
            reasons: vec![reason],
            store: None,
            spawner: None,
            ahead,
            now: NOW,
            trouble: Vec::new(),
        };
        let view = why(id(7), &explanation, &TimeZone::UTC);
        assert_eq!((view.reasons[0].kind.as_str(), view.reasons[0].text.as_str()), (kind, text));
    }

    #[test]
    fn attempts_are_told() {
        let (pool, attempt) = ("default".to_owned(), AttemptNumber(2));
        let text = "runs as attempt 2 in pool default, slot 3";
        check(Reason::Running { attempt, pool: pool.clone(), slot: 3 }, 0, "running", text);
        check(Reason::Starting { attempt, pool }, 0, "starting", "attempt 2 starts in pool default");
        let reason = Reason::Stopping { by: By::User("anna".into()), kill_at: NOW.engine.plus_ms(8_000) };
        check(reason, 0, "stopping", "is being stopped by anna; it is killed in 8.0s");
        let text = "was cancelled by dependency on job 3 and is about to be dropped";
        check(Reason::Cancelled { by: By::Dependency(id(3)) }, 0, "cancelled", text);
    }

    #[test]
    fn waits_are_told() {
        let held = |reason: &str| Reason::Held { by: "anna".into(), reason: reason.into() };
        check(held(""), 0, "held", "on hold by anna; let it go with `ci-runner release 7`");
        check(held("it is hot"), 0, "held", "on hold by anna because it is hot; let it go with `ci-runner release 7`");
        let reason = Reason::WaitsFor { job: id(3), on: Condition::Success, phase: Some(Phase::Running) };
        check(reason, 0, "waits_for", "waits for job 3 to succeed (it is running)");
        let at = WallTime(NOW.wall.0 + 16 * HOUR_MS);
        check(Reason::NotBefore(at), 0, "not_before", "not before 2026-11-22 03:00 UTC (in 16h)");
        let delayed = |ms, tries| Reason::Delayed { until: NOW.engine.plus_ms(ms), tries };
        check(delayed(4_000, 2), 0, "delayed", "retry 2 in 4.0s");
        check(delayed(90_000, 0), 0, "delayed", "starts in 1m 30s (`in`)");
        let text = "paused by anna since 10:00 UTC because disk swap; go on with `ci-runner resume`";
        check(pause(false, HOUR_MS), 0, "paused", text);
        let text = "drained by anna since 2026-11-20 11:00 UTC because disk swap; go on with `ci-runner resume`";
        check(pause(true, 24 * HOUR_MS), 0, "paused", text);
    }

    /// They were told in the daemon's zone, without its name.
    #[test]
    fn times_have_the_name_of_their_zone() {
        let berlin = TimeZone::get("Europe/Berlin").unwrap();
        let told = |reason, zone: &TimeZone| view(id(7), &reason, (NOW, 0), zone).text;
        let at = |hours: i64| Reason::NotBefore(WallTime(NOW.wall.0 + hours * HOUR_MS));
        assert_eq!(told(at(16), &berlin), "not before 2026-11-22 04:00 CET (in 16h)");
        // That of the time itself.
        assert!(told(at(24 * 200), &berlin).contains(" 13:00 CEST (in"), "{}", told(at(24 * 200), &berlin));
        assert!(told(pause(false, HOUR_MS), &berlin).starts_with("paused by anna since 11:00 CET because"));
        let fixed = TimeZone::fixed(jiff::tz::offset(3));
        assert_eq!(told(at(16), &fixed), "not before 2026-11-22 06:00 +03 (in 16h)");
        assert_eq!(told(at(16), &TimeZone::unknown()), "not before 2026-11-22 03:00 UTC (in 16h)");
    }

    #[test]
    fn a_spawner_that_does_not_answer_is_told_where_it_decides() {
        let kinds = |phase, reason| {
            let spawner = Some("it hangs".to_owned());
            let (reasons, trouble) = (vec![reason], Vec::new());
            let explanation = Explanation { phase, reasons, store: None, spawner, ahead: 0, now: NOW, trouble };
            let view = why(id(7), &explanation, &TimeZone::UTC);
            view.reasons.into_iter().map(|reason| reason.kind).collect::<Vec<_>>()
        };
        assert_eq!(kinds(Phase::Queued, Reason::Next), ["spawner", "next"]);
        assert_eq!(kinds(Phase::Queued, pause(false, 0)), ["paused"]);
    }

    #[test]
    fn groups_and_queues_are_told() {
        let group = |ahead| {
            let holders = ids(&[41]);
            Reason::Group { name: "deploy".into(), limit: 1, holders, ahead, first: None }
        };
        let text = "group deploy (limit 1) is held by job 41";
        check(group(0), 0, "group", text);
        check(group(1), 0, "group", &format!("{text}; 1 of its jobs goes before this one"));
        check(group(2), 0, "group", &format!("{text}; 2 of its jobs go before this one"));
        let slots = Reason::NoSlot { pools: vec![("big".into(), 1, ids(&[1]))] };
        let behind = |limit, holders: &[u64], ahead| {
            let first = Some((id(2), Some(Box::new(slots.clone()))));
            Reason::Group { name: "g".into(), limit, holders: ids(holders), ahead, first }
        };
        let waits = "job 2 goes first, and waits: no slot is free in pool big (1 of 1): held by job 1";
        check(behind(1, &[], 1), 3, "group", &format!("group g (limit 1): {waits}"));
        let text = format!("group g (limit 3) is held by job 9; {waits}; 2 of its jobs go before this one");
        check(behind(3, &[9], 2), 3, "group", &text);
        check(Reason::Behind { ahead: 10_000 }, 0, "behind", "at least 10000 jobs go before this one");
        check(Reason::Next, 0, "next", "nothing is in the way: it starts next");
    }

    #[test]
    fn pools_and_slots_are_told() {
        let no_pool = |pool: Option<&str>, wanted: &[&str], nearest: Option<(&str, &[&str])>| Reason::NoPool {
            pool: pool.map(str::to_owned),
            labels: labels(wanted),
            nearest: nearest.map(|(name, lacks)| (name.to_owned(), labels(lacks))),
        };
        let text = "no pool has label tpu; nearest is pool default, which lacks it";
        check(no_pool(None, &["tpu"], Some(("default", &["tpu"]))), 0, "no_pool", text);
        let text = "no pool has labels gpu, tpu; nearest is pool big, which lacks label tpu";
        check(no_pool(None, &["gpu", "tpu"], Some(("big", &["tpu"]))), 0, "no_pool", text);
        check(no_pool(Some("big"), &["tpu"], Some(("big", &["tpu"]))), 0, "no_pool", "pool big lacks label tpu");
        let text = "there is no pool gone with slots; add it to the configuration, or cancel the job";
        check(no_pool(Some("gone"), &[], None), 0, "no_pool", text);
        let slots = |pools: &[(&str, u32, &[u64])]| Reason::NoSlot {
            pools: pools.iter().map(|(name, slots, holders)| ((*name).to_owned(), *slots, ids(holders))).collect(),
        };
        let text = "no slot is free in pool default (4 of 4): held by jobs 12, 13, 14, 15; 3 jobs go before this one";
        check(slots(&[("default", 4, &[12, 13, 14, 15])]), 3, "no_slot", text);
        let text = "no slot is free in pool a (1 of 1): held by job 1, nor in pool b (1 of 1): held by job 2; \
                    1 job goes before this one";
        check(slots(&[("a", 1, &[1]), ("b", 1, &[2])]), 1, "no_slot", text);
    }

    #[test]
    fn an_attempt_beyond_its_timeout_is_told() {
        let text = |ran_ms| overdue(ran_ms, 2_000, 10_000).map(|reason| reason.text);
        assert_eq!(text(1_999), None);
        let asked = "its timeout of 2.0s has passed; it was asked to end, and is killed in 8.0s";
        assert_eq!(text(4_000).as_deref(), Some(asked));
        assert_eq!(text(60_000).as_deref(), Some("its timeout of 2.0s has passed; it is being killed"));
    }

    #[test]
    fn many_jobs_are_a_number() {
        let many: Vec<JobId> = (1..=20).map(id).collect();
        assert!(names(&many).ends_with("15, 16 and 4 more"), "{}", names(&many));
    }
}
