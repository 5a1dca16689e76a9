//! Sums against an oracle that counts by hand.

use super::{By, JOBS_MAX, KEYS_MAX, Range, Tally};
use crate::store::EndedJob;
use ci_runner_core::id::JobId;
use ci_runner_core::time::WallTime;
use jiff::tz::TimeZone;

const HOUR_MS: i64 = 3_600_000;

fn range(hours: i64) -> Range {
    Range { since_ms: 0, until_ms: hours * HOUR_MS }
}

fn job(finished_ms: i64) -> EndedJob<'static> {
    EndedJob {
        id: JobId::new(1).unwrap(),
        name: Some("build"),
        pool: Some("default"),
        outcome: 0,
        finished: WallTime(finished_ms),
        tries: 1,
        queue_ms: Some(250),
        run_us: Some(2_000_000),
        cpu_us: 1_500_000,
        peak_memory_bytes: 100 << 20,
    }
}

#[test]
fn rates_leave_out_those_that_nobody_let_end() {
    let mut tally = Tally::new(By::Name, TimeZone::UTC, range(24));
    for outcome in [0, 0, 0, 1, 3, 4, 5] {
        assert!(tally.add(EndedJob { outcome, ..job(5) }));
    }
    assert!(tally.add(EndedJob { tries: 3, ..job(5) }));
    let total = tally.report(10).total;
    assert_eq!((total.jobs, total.succeeded, total.cancelled, total.tries), (8, 4, 1, 10));
    assert_eq!((total.success_rate, total.flaky_rate), (Some(0.8), Some(0.25)));
}

#[test]
fn nothing_finished_gives_no_rates_and_no_suggestions() {
    let stats = Tally::new(By::Day, TimeZone::UTC, range(1)).report(10);
    assert_eq!((stats.total.jobs, stats.jobs_per_hour, stats.rows.len()), (0, 0.0, 0));
    assert_eq!((stats.total.success_rate, stats.total.flaky_rate, stats.total.run_seconds), (None, None, None));
    assert_eq!((stats.total.suggested_timeout_seconds, stats.total.suggested_memory_bytes), (None, None));
}

#[test]
fn percentiles_are_those_of_the_nearest_rank() {
    let mut tally = Tally::new(By::Name, TimeZone::UTC, range(24));
    for second in (1..=100).rev() {
        tally.add(EndedJob { run_us: Some(second * 1_000_000), ..job(5) });
    }
    let run = tally.report(10).total.run_seconds.unwrap();
    assert_eq!((run.p50, run.p95, run.p99, run.max), (50.0, 95.0, 99.0, 100.0));
}

#[test]
fn limits_are_suggested_from_five_good_runs_on_and_hold_all_of_them() {
    let mut tally = Tally::new(By::Name, TimeZone::UTC, range(24));
    for _ in 0..4 {
        tally.add(job(5));
    }
    // One that failed was long and hungry: it suggests nothing.
    tally.add(EndedJob { outcome: 1, run_us: Some(9_000_000_000), peak_memory_bytes: 1 << 40, ..job(5) });
    let mut enough = Tally::new(By::Name, TimeZone::UTC, range(24));
    for _ in 0..5 {
        enough.add(EndedJob { run_us: Some(70_000_000), ..job(5) });
    }
    let (few, enough) = (tally.report(10).total, enough.report(10).total);
    assert_eq!((few.suggested_timeout_seconds, few.suggested_memory_bytes), (None, None));
    assert_eq!(enough.suggested_timeout_seconds, Some(120), "1.5 x 70 s, in whole minutes");
    assert_eq!(enough.suggested_memory_bytes, Some(128 << 20), "100 MiB and a quarter, in whole 16 MiB");
}

#[test]
fn days_are_those_of_the_time_zone_the_latest_first() {
    let berlin = TimeZone::get("Europe/Berlin").unwrap();
    let mut tally = Tally::new(By::Day, berlin, range(48));
    tally.add(job(24 * HOUR_MS));
    tally.add(job(23 * HOUR_MS)); // midnight in Berlin, in January
    tally.add(job(22 * HOUR_MS));
    let rows = tally.report(10).rows;
    let days: Vec<_> = rows.iter().map(|row| (row.key.as_deref().unwrap(), row.figures.jobs)).collect();
    assert_eq!(days, [("1970-01-02", 2), ("1970-01-01", 1)]);
}

#[test]
fn every_job_is_somewhere_on_the_timeline() {
    for hours in [1, 2, 24, 24 * 7, 24 * 365, 24 * 365 * 50] {
        let range = range(hours);
        let mut tally = Tally::new(By::Name, TimeZone::UTC, range);
        let times = [range.since_ms, range.until_ms / 2, range.until_ms - 1];
        for at in times {
            tally.add(EndedJob { outcome: 2, ..job(at) });
        }
        let timeline = tally.report(1).timeline;
        assert!(timeline.finished.len() <= 61, "{hours} h: {} parts", timeline.finished.len());
        assert_eq!(timeline.finished.iter().sum::<u64>(), 3, "{hours} h");
        assert_eq!(timeline.failed, timeline.finished);
        assert_eq!((timeline.finished.first(), timeline.finished.last()), (Some(&1), Some(&1)), "{hours} h");
    }
}

#[test]
fn too_many_jobs_and_names_are_left_out_and_said() {
    let mut tally = Tally::new(By::Name, TimeZone::UTC, range(24));
    for number in 0..=KEYS_MAX {
        let name = format!("job {number}");
        assert!(tally.add(EndedJob { name: Some(&name), ..job(24 * HOUR_MS - 1) }));
    }
    let mut at = 24 * HOUR_MS - 1;
    while tally.add(job(at)) {
        at -= 1;
    }
    let stats = tally.report(5);
    assert_eq!((stats.total.jobs, stats.truncated), (JOBS_MAX as u64, true));
    assert_eq!((stats.rows.len(), stats.rows_left_out), (5, KEYS_MAX as u64 - 5));
    assert_eq!(stats.timeline.finished.iter().sum::<u64>(), JOBS_MAX as u64);
    assert_ne!(stats.since, "1970-01-01T00:00:00.000Z", "the range is the one that was counted");
}
