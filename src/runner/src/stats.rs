//! Adds finished jobs up: success, waiting, running, cost, by name, pool or day. Reads no clock and no store.
//!
//! Bounded: at most [`JOBS_MAX`] jobs, of which a few numbers are kept while they are added up, and [`KEYS_MAX`] names.

use crate::api::{Percentiles, StatsFigures, StatsRow, StatsView, Timeline};
use crate::quantity::rfc3339_utc;
use crate::store::EndedJob;
use ci_runner_core::outcome::Outcome;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::collections::HashMap;

/// Jobs that are counted; with more in the range, the newest.
pub const JOBS_MAX: usize = 200_000;
/// Names, pools or days that get a row; jobs of further ones count in the total only.
pub const KEYS_MAX: usize = 10_000;
/// Parts of the timeline at most.
const BUCKETS_MAX: u64 = 60;
/// Lengths of its parts that people like, seconds.
const BUCKETS: [u64; 9] = [60, 300, 900, 3_600, 10_800, 21_600, 86_400, 7 * 86_400, 28 * 86_400];
/// Fewer runs suggest nothing.
const RUNS_MIN: usize = 5;
const MIB: u64 = 1 << 20;

/// What makes a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The job's name.
    Name,
    /// Its pool.
    Pool,
    /// The day it finished, in a time zone.
    Day,
}

impl By {
    /// The words of the API, in the order of the help.
    pub const WORDS: [&'static str; 3] = ["name", "pool", "day"];

    /// From a word.
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Name, Self::Pool, Self::Day].into_iter().find(|by| by.word() == word)
    }

    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Pool => "pool",
            Self::Day => "day",
        }
    }
}

/// A range of finished times, Unix milliseconds, the end excluded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Begin.
    pub since_ms: i64,
    /// End, after the begin.
    pub until_ms: i64,
}

/// Jobs being added up.
#[derive(Debug)]
pub struct Tally {
    by: By,
    zone: TimeZone,
    range: Range,
    bucket_ms: i64,
    timeline: Timeline,
    total: Sums,
    rows: HashMap<Option<String>, Sums>,
    truncated: bool,
    oldest_ms: i64,
}

#[derive(Debug, Default)]
struct Sums {
    outcomes: [u64; Outcome::WORDS.len()],
    flaky: u64,
    tries: u64,
    cpu_us: u64,
    peak: u64,
    good_peak: u64,
    good_peaks: usize,
    good_runs: usize,
    longest_good_run: f32,
    queue_seconds: Vec<f32>,
    run_seconds: Vec<f32>,
    /// Whether the job that was judged before succeeded.
    last_good: Option<bool>,
    changes: u64,
}

impl Tally {
    /// Nothing yet. Days are those of `zone`.
    pub fn new(by: By, zone: TimeZone, range: Range) -> Self {
        let seconds = u64::try_from(range.until_ms.saturating_sub(range.since_ms)).unwrap_or(0).div_ceil(1_000).max(1);
        let fits = |length: &u64| seconds.div_ceil(*length) <= BUCKETS_MAX;
        let bucket_seconds = BUCKETS.into_iter().find(fits).unwrap_or_else(|| seconds.div_ceil(BUCKETS_MAX));
        let buckets = usize::try_from(seconds.div_ceil(bucket_seconds)).unwrap_or(1);
        Self {
            by,
            zone,
            range,
            bucket_ms: i64::try_from(bucket_seconds).unwrap_or(i64::MAX / 1_000).saturating_mul(1_000),
            timeline: Timeline { bucket_seconds, finished: vec![0; buckets], failed: vec![0; buckets] },
            total: Sums::default(),
            rows: HashMap::new(),
            truncated: false,
            oldest_ms: range.until_ms,
        }
    }

    /// Adds a job of the range, the last that finished first; false: no more are taken, this one is not counted.
    pub fn add(&mut self, job: EndedJob<'_>) -> bool {
        if self.total.jobs() >= JOBS_MAX as u64 {
            self.truncated = true;
            return false;
        }
        self.oldest_ms = self.oldest_ms.min(job.finished.0);
        self.total.add(&job);
        let bucket = usize::try_from((job.finished.0 - self.range.since_ms).div_euclid(self.bucket_ms));
        if let Some(at) = bucket.ok().filter(|at| *at < self.timeline.finished.len()) {
            self.timeline.finished[at] += 1;
            self.timeline.failed[at] +=
                u64::from(matches!(Outcome::WORDS.get(job.outcome), Some(&("failed" | "timed_out"))));
        }
        let key = match self.by {
            By::Name => job.name.map(str::to_owned),
            By::Pool => job.pool.map(str::to_owned),
            By::Day => self.day(job.finished.0),
        };
        if self.rows.len() < KEYS_MAX || self.rows.contains_key(&key) {
            self.rows.entry(key).or_default().add(&job);
        } else {
            self.truncated = true;
        }
        true
    }

    fn day(&self, unix_ms: i64) -> Option<String> {
        let at = Timestamp::from_millisecond(unix_ms).ok()?;
        Some(at.to_zoned(self.zone.clone()).date().to_string())
    }

    /// The figures, with at most `limit` rows.
    pub fn report(self, limit: usize) -> StatsView {
        let full = self.total.jobs() >= JOBS_MAX as u64 && self.truncated;
        let since_ms = if full { self.oldest_ms } else { self.range.since_ms };
        let hours = (self.range.until_ms.saturating_sub(since_ms)) as f64 / 3_600_000.0;
        let total = self.total.figures();
        let figures = |(key, sums): (Option<String>, Sums)| StatsRow { key, figures: sums.figures() };
        let mut rows: Vec<StatsRow> = self.rows.into_iter().map(figures).collect();
        match self.by {
            By::Day => rows.sort_by(|a, b| b.key.cmp(&a.key)),
            By::Name | By::Pool => rows.sort_by(|a, b| (b.figures.jobs, &a.key).cmp(&(a.figures.jobs, &b.key))),
        }
        let rows_left_out = rows.len().saturating_sub(limit) as u64;
        rows.truncate(limit);
        StatsView {
            since: rfc3339_utc(since_ms),
            until: rfc3339_utc(self.range.until_ms),
            by: self.by.word().to_owned(),
            truncated: self.truncated,
            jobs_per_hour: if hours > 0.0 { rounded(total.jobs as f64 / hours) } else { 0.0 },
            total,
            timeline: self.timeline,
            rows,
            rows_left_out,
        }
    }
}

impl Sums {
    fn jobs(&self) -> u64 {
        self.outcomes.iter().sum()
    }

    fn add(&mut self, job: &EndedJob<'_>) {
        if let Some(count) = self.outcomes.get_mut(job.outcome) {
            *count += 1;
        }
        self.tries += u64::from(job.tries);
        self.cpu_us = self.cpu_us.saturating_add(job.cpu_us);
        self.peak = self.peak.max(job.peak_memory_bytes);
        if matches!(Outcome::WORDS.get(job.outcome), Some(&("succeeded" | "failed" | "timed_out"))) {
            let before = self.last_good.replace(job.succeeded());
            self.changes += u64::from(before.is_some_and(|before| before != job.succeeded()));
        }
        self.queue_seconds.extend(job.queue_ms.map(|ms| (ms as f64 / 1e3) as f32));
        let run = job.run_us.map(|us| (us as f64 / 1e6) as f32);
        self.run_seconds.extend(run);
        if job.succeeded() {
            self.flaky += u64::from(job.tries > 1);
            self.good_peak = self.good_peak.max(job.peak_memory_bytes);
            self.good_peaks += usize::from(job.peak_memory_bytes > 0);
            self.good_runs += usize::from(run.is_some());
            self.longest_good_run = self.longest_good_run.max(run.unwrap_or(0.0));
        }
    }

    fn figures(self) -> StatsFigures {
        let jobs = self.jobs();
        let [succeeded, failed, timed_out, cancelled, superseded, expired] = self.outcomes;
        let timeout = (f64::from(self.longest_good_run) * 1.5 / 60.0).ceil().max(1.0) as u64 * 60;
        let memory = (self.good_peak + self.good_peak / 4).div_ceil(16 * MIB) * 16 * MIB;
        StatsFigures {
            jobs,
            succeeded,
            failed,
            timed_out,
            cancelled,
            superseded,
            expired,
            success_rate: part(succeeded, succeeded + failed + timed_out),
            flaky_rate: part(self.flaky, succeeded),
            changes: self.changes,
            tries: self.tries,
            queue_seconds: percentiles(self.queue_seconds),
            run_seconds: percentiles(self.run_seconds),
            cpu_seconds: rounded(self.cpu_us as f64 / 1e6),
            peak_memory_bytes: (self.peak > 0).then_some(self.peak),
            suggested_timeout_seconds: (self.good_runs >= RUNS_MIN).then_some(timeout),
            suggested_memory_bytes: (self.good_peaks >= RUNS_MIN).then_some(memory),
        }
    }
}

fn part(of: u64, all: u64) -> Option<f64> {
    (all > 0).then(|| (of as f64 / all as f64 * 1e4).round() / 1e4)
}

/// To a thousandth.
fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

/// By the nearest-rank method: the smallest value that so many parts of all values do not exceed.
fn percentiles(mut values: Vec<f32>) -> Option<Percentiles> {
    values.sort_unstable_by(f32::total_cmp);
    let max = *values.last()?;
    let rank = |percent: usize| {
        let at = (values.len() * percent).div_ceil(100).max(1) - 1;
        rounded(f64::from(values[at]))
    };
    Some(Percentiles { p50: rank(50), p95: rank(95), p99: rank(99), max: rounded(f64::from(max)) })
}

#[cfg(test)]
mod tests;
