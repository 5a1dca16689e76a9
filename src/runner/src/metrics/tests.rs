//! The text that Prometheus gets, checked by a reader of our own and, where it is installed, by promtool; and what is kept.

use crate::skipped;
use std::collections::HashMap;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Arc;

use super::*;
use ci_runner_hostmetrics::Format;

const SCRAPE: Scrape<'_> = Scrape { now_ms: 100_000, log_records_dropped: 3, state_dir: None, log_dir: None };

fn text(figures: &Figures, scrape: &Scrape<'_>) -> String {
    let mut text = String::new();
    figures.families("1.2.3", scrape).write(Format::Text, &mut text);
    text
}

/// All samples of a text, by series; checks the form of every line on the way.
fn read(text: &str) -> HashMap<String, f64> {
    let mut series = HashMap::new();
    let mut types: HashMap<&str, &str> = HashMap::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert_eq!(types.insert(name, kind), None, "{name} is typed twice");
            continue;
        }
        if line.starts_with("# HELP ") {
            continue;
        }
        let (name, value) = line.rsplit_once(' ').unwrap();
        let family = name.split('{').next().unwrap();
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| family.strip_suffix(end)).unwrap_or(family);
        assert!(types.contains_key(family) || types.get(base) == Some(&"histogram"), "no type before {line}");
        assert_eq!(series.insert(name.to_owned(), value.parse().unwrap()), None, "twice: {line}");
    }
    series
}

fn now(queued: u64) -> PoolNow {
    PoolNow { open: [queued, 0, 2, 0], used: 3, slots: 4, oldest_queued_ms: Some(40_000), stuck: 1 }
}

fn filled() -> Figures {
    let mut figures = Figures::default();
    figures.set_now("default", "native", now(7));
    figures.finished("default", "native", JobOutcome::Succeeded, 90_000);
    figures.finished("default", "native", JobOutcome::Succeeded, 90_000);
    figures.finished("default", "systemd", JobOutcome::TimedOut, 90_000);
    figures.started("default", Duration::from_millis(3), Some(Duration::from_millis(20)));
    figures.started("default", Duration::from_millis(3), None);
    figures.started_at_once("default", Duration::from_millis(4));
    let used =
        AttemptUse { max_rss_bytes: 5_000_000, cpu: Duration::from_secs(1), log_bytes: 70, log_dropped_bytes: 7 };
    figures.attempt_ended("default", Duration::from_secs(2), used);
    figures.attempt_ended("default", Duration::from_secs(100_000), used);
    figures.finished("a\"b\\c\nd", "native", JobOutcome::Failed, 90_000);
    figures.retried(RetryCause::Lost);
    figures.lost(LossCause::Host);
    figures.adopted("native");
    figures.schedule_refused();
    figures.committed(Duration::from_micros(300));
    figures.succeeded("nightly", 95_500);
    figures.succeeded("na\"me\n", 95_500);
    figures.succeeded("other", 1_000);
    figures
}

#[test]
fn a_scrape_holds_what_was_counted() {
    let text = text(&filled(), &SCRAPE);
    let series = read(&text);
    let expected = "\
ci_runner_jobs_total{executor=\"native\",outcome=\"succeeded\",pool=\"default\"} 2
ci_runner_jobs_total{executor=\"systemd\",outcome=\"timed_out\",pool=\"default\"} 1
ci_runner_jobs_total{executor=\"native\",outcome=\"expired\",pool=\"default\"} 0
ci_runner_jobs{pool=\"default\",state=\"queued\"} 7
ci_runner_jobs{pool=\"default\",state=\"stopping\"} 0
ci_runner_slots{pool=\"default\",state=\"used\"} 3
ci_runner_slots{pool=\"default\",state=\"free\"} 1
ci_runner_runners{pool=\"default\",state=\"busy\"} 3
ci_runner_saturation_ratio{pool=\"default\"} 2.5
ci_runner_stuck_jobs{pool=\"default\"} 1
ci_runner_queue_oldest_age_seconds{pool=\"default\"} 60
ci_runner_job_retries_total{cause=\"lost\"} 1
ci_runner_job_retries_total{cause=\"oom\"} 0
ci_runner_attempts_lost_total{cause=\"host\"} 1
ci_runner_adoptions_total{executor=\"native\"} 1
ci_runner_schedule_refused_total 1
ci_runner_log_records_dropped_total 3
ci_runner_commit_duration_seconds_bucket{le=\"0.0005\"} 1
ci_runner_commit_duration_seconds_bucket{le=\"0.00025\"} 0
ci_runner_job_duration_seconds_bucket{pool=\"default\",le=\"86400\"} 1
ci_runner_job_duration_seconds_bucket{pool=\"default\",le=\"+Inf\"} 2
ci_runner_job_duration_seconds_count{pool=\"default\"} 2
ci_runner_job_duration_seconds_sum{pool=\"default\"} 100002
ci_runner_job_queue_duration_seconds_count{pool=\"default\"} 1
ci_runner_claim_duration_seconds_count{pool=\"default\"} 2
ci_runner_ack_to_start_seconds_count{pool=\"default\"} 1
ci_runner_job_max_rss_bytes_count{pool=\"default\"} 2
ci_runner_job_cpu_seconds_sum{pool=\"default\"} 2
ci_runner_job_log_bytes_total{pool=\"default\"} 140
ci_runner_job_log_dropped_bytes_total{pool=\"default\"} 14
ci_runner_jobs_finished_last_hour 4
ci_runner_job_last_success_timestamp_seconds{job_name=\"nightly\"} 95.5
ci_runner_job_last_success_timestamp_seconds{job_name=\"na\\\"me\\n\"} 95.5
ci_runner_job_last_success_timestamp_seconds{job_name=\"other\"} 1";
    for line in expected.lines() {
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert_eq!(series.get(name), Some(&value.parse().unwrap()), "{name} in\n{text}");
    }
    assert!(text.contains("ci_runner_build_info{") && text.contains("version=\"1.2.3\""), "{text}");
    assert!(text.contains(r#"pool="a\"b\\c\nd""#), "label values are escaped: {text}");
    assert!(series.contains_key("ci_runner_daemon_resident_memory_bytes") && !text.contains("process_"), "{text}");
}

#[test]
fn an_age_is_never_negative_and_ends_with_the_queue() {
    let mut figures = filled();
    let age = |figures: &Figures, now_ms| read(&text(figures, &Scrape { now_ms, ..SCRAPE }))["ci_runner_queue_oldest_age_seconds{pool=\"default\"}"];
    assert_eq!(age(&figures, 41_500), 1.5);
    assert_eq!(age(&figures, -1_000_000), 0.0);
    figures.set_now("default", "native", PoolNow { oldest_queued_ms: None, ..now(0) });
    assert_eq!(age(&figures, 100_000), 0.0);
}

#[test]
fn label_values_are_bounded_whatever_names_come() {
    let mut figures = Figures::default();
    for number in 0..1000 {
        figures.finished(&format!("p{number}"), "native", JobOutcome::Failed, 0);
    }
    for number in 0..100_000_i64 {
        figures.succeeded(&format!("job \"{number}\"\n{}", "x".repeat(number as usize % 200)), number);
    }
    figures.succeeded(&"y".repeat(10_000), 7);
    let text = text(&figures, &SCRAPE);
    let count = |start: &str| text.lines().filter(|line| line.starts_with(start)).count();
    assert_eq!(count("ci_runner_slots{"), (POOLS_MAX + 1) * 2);
    assert_eq!(count("ci_runner_job_last_success_timestamp_seconds{"), NAMES_MAX + 1);
    let other = "ci_runner_jobs_total{executor=\"native\",outcome=\"failed\",pool=\"other\"}";
    assert_eq!(read(&text)[other], (1000 - POOLS_MAX) as f64);
    assert!(text.lines().all(|line| line.len() < 400), "no label has the length of a hostile name");
}

/// A pool that a reload took away used to stay at zero until a restart, and to take one of the names there are.
#[test]
fn a_pool_that_is_gone_has_no_series_and_its_outcomes_are_not_counted_twice() {
    let dir = tempfile::tempdir().unwrap();
    let mut figures = filled();
    figures.keep_pools(|name| name == "default");
    let shown = text(&figures, &SCRAPE);
    read(&shown);
    assert!(shown.contains("pool=\"default\"") && !shown.contains("a\\\"b"), "{shown}");
    Keeper::new(dir.path(), "s").keep(|| Arc::new(figures));
    let totals = [("failed".to_owned(), 1), ("succeeded".to_owned(), 2)];
    let next = Figures::resume(dir.path(), "s", &totals, "none", "native");
    assert!(!text(&next, &SCRAPE).contains("pool=\"none\""), "the store counts it, and so does what was kept");
}

#[test]
fn counters_go_on_where_the_last_daemon_was_seen() {
    let dir = tempfile::tempdir().unwrap();
    let mut figures = filled();
    let keeper = Keeper::new(dir.path(), "s");
    keeper.keep(|| Arc::new(figures.clone()));
    // Nobody sees these two; the store knows of one of them.
    figures.finished("default", "native", JobOutcome::Failed, 90_000);
    figures.retried(RetryCause::Exit);
    let totals = [("succeeded".to_owned(), 2), ("failed".to_owned(), 2), ("timed_out".to_owned(), 1)];
    let next = Figures::resume(dir.path(), "s", &totals, "none", "native");
    let (before, after) = (read(&text(&filled(), &SCRAPE)), read(&text(&next, &SCRAPE)));
    let mut compared = 0;
    for (name, value) in before.iter().filter(|(name, _)| {
        ["_total{", "_bucket{", "_sum", "_count", "_timestamp_seconds{"].iter().any(|part| name.contains(part))
    }) {
        assert!(after.get(name) >= Some(value), "{name} was {value} and is {:?}", after.get(name));
        compared += 1;
    }
    assert!(compared > 100, "{compared}");
    assert_eq!(after["ci_runner_jobs_total{executor=\"native\",outcome=\"failed\",pool=\"none\"}"], 1.0);
    // The control: without what was kept, they do go backwards.
    let other = Figures::resume(dir.path(), "another store", &[], "none", "native");
    assert!(!text(&other, &SCRAPE).contains("ci_runner_jobs_total{"));
}

/// An end that was shown, but not on disk when the daemon was killed, comes again.
#[test]
fn what_was_shown_before_its_commit_is_not_counted_twice() {
    let dir = tempfile::tempdir().unwrap();
    Keeper::new(dir.path(), "s").keep(|| Arc::new(filled()));
    let totals = [("succeeded".to_owned(), 1), ("failed".to_owned(), 1), ("timed_out".to_owned(), 1)];
    let mut next = Figures::resume(dir.path(), "s", &totals, "none", "native");
    next.finished("default", "native", JobOutcome::Succeeded, 0);
    assert_eq!(next.finished_total(JobOutcome::Succeeded), 2);
    next.finished("default", "native", JobOutcome::Succeeded, 0);
    assert_eq!(next.finished_total(JobOutcome::Succeeded), 3);
}

#[test]
fn a_damaged_file_costs_the_counters_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    for damage in ["", "{", "[]", "{\"store\":\"s\",\"figures\":{\"pools\":3}}"] {
        std::fs::write(dir.path().join(FILE_NAME), damage).unwrap();
        let totals = [("succeeded".to_owned(), 5)];
        let figures = Figures::resume(dir.path(), "s", &totals, "none", "native");
        assert_eq!(figures.finished_total(JobOutcome::Succeeded), 5, "{damage}");
    }
}

#[test]
fn promtool_accepts_the_text() {
    let check =
        Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let Ok(mut child) = check else {
        skipped::tell("promtool_accepts_the_text", "promtool (Debian: prometheus) is not installed");
        return;
    };
    child.stdin.take().unwrap().write_all(text(&filled(), &SCRAPE).as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && complaints.is_empty(), "{complaints}");
}
