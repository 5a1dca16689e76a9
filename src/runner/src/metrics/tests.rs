//! The text that Prometheus gets, checked by a reader of our own and, where it is installed, by promtool.

use std::collections::HashMap;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Instant;

use super::*;

const SCRAPE: Scrape = Scrape { now_ms: 100_000, log_records_dropped: 3 };

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

fn filled() -> Metrics {
    let metrics = Metrics::new("1.2.3");
    let pool = metrics.pool("default", "native");
    pool.finished(JobOutcome::Succeeded);
    pool.finished(JobOutcome::Succeeded);
    pool.finished(JobOutcome::TimedOut);
    pool.started(Duration::from_millis(20));
    pool.attempt_ended(
        Duration::from_secs(2),
        Some(AttemptUse { max_rss_bytes: 5_000_000, cpu: Duration::from_secs(1) }),
    );
    pool.attempt_ended(Duration::from_secs(100_000), None);
    pool.set_open(JobState::Queued, 7);
    pool.set_open(JobState::Running, 2);
    pool.set_slots(3, 4);
    pool.set_oldest_queued(Some(40_000));
    metrics.pool("a\"b\\c\nd", "native").finished(JobOutcome::Failed);
    metrics.retried(RetryCause::Lost);
    metrics.committed(Duration::from_micros(300));
    metrics
}

#[test]
fn a_scrape_holds_what_was_recorded() {
    let text = filled().render(&SCRAPE);
    let series = read(&text);
    let total = "ci_runner_jobs_total{pool=\"default\",executor=\"native\",outcome=";
    for (name, value) in [
        (format!("{total}\"succeeded\"}}"), 2.0),
        (format!("{total}\"timed_out\"}}"), 1.0),
        (format!("{total}\"expired\"}}"), 0.0),
        ("ci_runner_jobs{pool=\"default\",state=\"queued\"}".to_owned(), 7.0),
        ("ci_runner_jobs{pool=\"default\",state=\"stopping\"}".to_owned(), 0.0),
        ("ci_runner_slots{pool=\"default\",state=\"used\"}".to_owned(), 3.0),
        ("ci_runner_slots{pool=\"default\",state=\"free\"}".to_owned(), 1.0),
        ("ci_runner_queue_oldest_age_seconds{pool=\"default\"}".to_owned(), 60.0),
        ("ci_runner_job_retries_total{cause=\"lost\"}".to_owned(), 1.0),
        ("ci_runner_job_retries_total{cause=\"oom\"}".to_owned(), 0.0),
        ("ci_runner_log_records_dropped_total".to_owned(), 3.0),
        ("ci_runner_commit_duration_seconds_bucket{le=\"0.0005\"}".to_owned(), 1.0),
        ("ci_runner_commit_duration_seconds_bucket{le=\"0.00025\"}".to_owned(), 0.0),
        ("ci_runner_job_duration_seconds_bucket{pool=\"default\",le=\"86400\"}".to_owned(), 1.0),
        ("ci_runner_job_duration_seconds_bucket{pool=\"default\",le=\"+Inf\"}".to_owned(), 2.0),
        ("ci_runner_job_duration_seconds_count{pool=\"default\"}".to_owned(), 2.0),
        ("ci_runner_job_duration_seconds_sum{pool=\"default\"}".to_owned(), 100_002.0),
        ("ci_runner_job_queue_duration_seconds_count{pool=\"default\"}".to_owned(), 1.0),
        ("ci_runner_job_max_rss_bytes_count{pool=\"default\"}".to_owned(), 1.0),
        ("ci_runner_job_cpu_seconds_sum{pool=\"default\"}".to_owned(), 1.0),
    ] {
        assert_eq!(series.get(&name), Some(&value), "{name} in\n{text}");
    }
    assert!(text.contains("ci_runner_build_info{version=\"1.2.3\""), "{text}");
    assert!(text.contains(r#"pool="a\"b\\c\nd""#), "label values are escaped: {text}");
    assert!(series.contains_key("process_resident_memory_bytes"));
    let names = ["ci_runner_jobs", "ci_runner_job_duration_seconds", "ci_runner_build_info", "process_open_fds"];
    for name in names {
        assert!(text.contains(&format!("# HELP {name} ")) && text.contains(&format!("# TYPE {name} ")), "{name}");
    }
}

#[test]
fn two_scrapes_agree() {
    let metrics = filled();
    let own =
        |text: String| text.lines().filter(|line| !line.contains("process_")).map(str::to_owned).collect::<Vec<_>>();
    let (mut one, mut other) = (own(metrics.render(&SCRAPE)), own(metrics.render(&SCRAPE)));
    one.sort();
    other.sort();
    assert_eq!(one, other);
}

#[test]
fn an_age_is_never_negative_and_ends_with_the_queue() {
    let metrics = filled();
    let age = |now_ms| {
        let text = metrics.render(&Scrape { now_ms, ..SCRAPE });
        read(&text)["ci_runner_queue_oldest_age_seconds{pool=\"default\"}"]
    };
    assert_eq!(age(41_500), 1.5);
    assert_eq!(age(-1_000_000), 0.0);
    metrics.pool("default", "native").set_oldest_queued(None);
    assert_eq!(age(100_000), 0.0);
}

#[test]
fn label_values_are_bounded() {
    let metrics = Metrics::new("1");
    for number in 0..1000 {
        metrics.pool(&format!("p{number}"), "native").finished(JobOutcome::Failed);
    }
    let text = metrics.render(&SCRAPE);
    let pools = text.lines().filter(|line| line.starts_with("ci_runner_jobs{") && line.contains("queued")).count();
    assert_eq!(pools, POOLS_MAX + 1);
    let other = "ci_runner_jobs_total{pool=\"other\",executor=\"native\",outcome=\"failed\"}";
    assert_eq!(read(&text)[other], (1000 - POOLS_MAX) as f64);
}

/// A pool that a reload took away used to stay at zero until a restart, and to take one of the names there are.
#[test]
fn a_pool_that_is_gone_has_no_series() {
    let metrics = filled();
    metrics.keep_pools(|name| name == "default");
    let text = metrics.render(&SCRAPE);
    read(&text);
    assert!(text.contains("pool=\"default\"") && !text.contains("a\\\"b"), "{text}");
    for number in 0..1000 {
        metrics.pool(&format!("p{number}"), "native").finished(JobOutcome::Failed);
        metrics.keep_pools(|name| name == "default");
    }
    assert!(!metrics.render(&SCRAPE).contains("pool=\"other\""), "names are free again");
}

#[test]
fn samples_do_not_gather_without_a_scrape() {
    const NAME: &str = "metrics::tests::samples_do_not_gather_without_a_scrape";
    // Memory is a matter of the whole process: a child runs this test alone.
    if std::env::var("CI_RUNNER_TEST_CHILD").is_err() {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", NAME, "--test-threads=1"]).env("CI_RUNNER_TEST_CHILD", NAME);
        let output = child.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        return;
    }
    let resident = || {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
    };
    let metrics = Metrics::new("1");
    let before = resident();
    for _ in 0..500_000 {
        metrics.committed(Duration::from_millis(1));
    }
    let grown = resident().saturating_sub(before);
    let text = metrics.render(&SCRAPE);
    assert_eq!(read(&text)["ci_runner_commit_duration_seconds_count"], 500_000.0);
    // The control: the same samples past our guard stay raw.
    let before = resident();
    for _ in 0..500_000 {
        metrics.commits.record(0.001);
    }
    let raw = resident().saturating_sub(before);
    assert!(grown < 2_000_000 && raw > 4_000_000, "guarded {grown} bytes, raw {raw} bytes");
}

#[test]
fn promtool_accepts_the_text() {
    let check =
        Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let Ok(mut child) = check else {
        eprintln!("SKIPPED metrics::tests::promtool_accepts_the_text: promtool (Debian: prometheus) is not installed");
        return;
    };
    let metrics = filled();
    child.stdin.take().unwrap().write_all(metrics.render(&SCRAPE).as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && complaints.is_empty(), "{complaints}");
}

#[test]
fn recording_is_cheap() {
    let metrics = Metrics::new("1");
    let pool = metrics.pool("default", "native");
    let start = Instant::now();
    for _ in 0..100_000 {
        pool.finished(JobOutcome::Succeeded);
    }
    let counter = start.elapsed() / 100_000;
    let start = Instant::now();
    for _ in 0..100_000 {
        pool.started(Duration::from_millis(1));
    }
    // Printed, not judged: a busy machine is no bug. What is judged is in the bench.
    println!("unoptimised: counter {counter:?}, histogram with upkeep {:?}", start.elapsed() / 100_000);
}
