//! Figures as families: names, labels, help. The one place that knows what the series are called.

use super::histogram::Histogram;
use super::{Figures, JobOutcome, JobState, LossCause, OTHER, PoolFigures, RetryCause};
use ci_runner_hostmetrics::exposition::{Families, Kind};
use std::path::Path;

/// What only the caller knows at the moment of a scrape.
#[derive(Debug, Clone, Copy)]
pub struct Scrape<'a> {
    /// Wall time, milliseconds.
    pub now_ms: i64,
    /// [`crate::telemetry::Telemetry::dropped_records`].
    pub log_records_dropped: u64,
    /// Where the state is, if it is to be looked at.
    pub state_dir: Option<&'a Path>,
    /// Where logs of jobs are, if it is to be looked at.
    pub log_dir: Option<&'a Path>,
}

type Labels<'a> = &'a [(&'static str, &'a str)];

fn histogram(families: &mut Families, name: &'static str, help: &'static str, labels: Labels<'_>, of: &Histogram) {
    let labels = labels.iter().map(|(name, value)| ((*name).into(), (*value).to_owned())).collect();
    families.family(name, Kind::Histogram, help).add_owned(labels, of.value());
}

impl Figures {
    /// All series but those of the process itself. Looks at the disks of the directories given.
    pub fn families(&self, version: &str, scrape: &Scrape<'_>) -> Families {
        let mut families = Families::default();
        let built = [("version", version), ("rust", env!("CARGO_PKG_RUST_VERSION")), ("arch", std::env::consts::ARCH)];
        families.gauge("ci_runner_build_info", "Always 1; the labels tell what runs here.").add(&built, 1.0);
        for (name, pool) in &self.pools {
            pool.counters(name, &mut families);
            pool.present(name, scrape.now_ms, &mut families);
        }
        self.of_host(&mut families, scrape);
        disks(&mut families, scrape);
        let dropped = families.counter(
            "ci_runner_log_records_dropped_total",
            "Records of the daemon's own log that were lost since it started.",
        );
        dropped.add(&[], scrape.log_records_dropped as f64);
        super::process::daemon_families(&mut families);
        families
    }

    fn of_host(&self, families: &mut Families, scrape: &Scrape<'_>) {
        let mut counter = |name: &'static str, help: &'static str, label: &'static str, value: &str, count: u64| {
            families.counter(name, help).add(&[(label, value)], count as f64);
        };
        let help = "Attempts after which the job was tried again, by what ended them.";
        for (cause, count) in RetryCause::NAMES.iter().zip(self.retries) {
            counter("ci_runner_job_retries_total", help, "cause", cause, count);
        }
        let help = "Attempts whose result nobody knows, by what was lost.";
        for (cause, count) in LossCause::NAMES.iter().zip(self.losses) {
            counter("ci_runner_attempts_lost_total", help, "cause", cause, count);
        }
        let help = "Attempts that a daemon found alive when it started, and took over.";
        for (executor, count) in &self.adoptions {
            counter("ci_runner_adoptions_total", help, "executor", executor, *count);
        }
        let help = "Runs of schedules that could not be queued.";
        families.counter("ci_runner_schedule_refused_total", help).add(&[], self.schedule_refusals as f64);
        let help = "Time a group commit took to reach the disk.";
        histogram(families, "ci_runner_commit_duration_seconds", help, &[], &self.commits);
        let last = families.gauge(
            "ci_runner_job_last_success_timestamp_seconds",
            "When a job of this name succeeded last; names beyond the limit together as 'other'.",
        );
        for (name, at) in self.names.iter() {
            // A job that is itself called so has its time told with all the others'.
            let label = name.filter(|name| *name != OTHER);
            if label.is_some() {
                last.add(&[("job_name", label.unwrap_or(OTHER))], at as f64 / 1000.0);
            }
        }
        let others = self.names.iter().filter(|(name, _)| name.is_none_or(|name| name == OTHER)).map(|(_, at)| at);
        if let Some(at) = others.max() {
            last.add(&[("job_name", OTHER)], at as f64 / 1000.0);
        }
        let help = "Jobs that reached an outcome in the last sixty minutes, since the daemon started.";
        families.gauge("ci_runner_jobs_finished_last_hour", help).add(&[], self.hour.total(scrape.now_ms) as f64);
        if let Some(bytes) = self.log_file_bytes {
            disk_used(families, "logs", bytes);
        }
    }
}

impl PoolFigures {
    fn counters(&self, pool: &str, families: &mut Families) {
        let finished = families.counter("ci_runner_jobs_total", "Jobs that reached an outcome.");
        for (executor, counts) in &self.finished {
            for (outcome, count) in JobOutcome::NAMES.iter().zip(counts) {
                finished.add(&[("pool", pool), ("executor", executor), ("outcome", outcome)], *count as f64);
            }
        }
        let of_pool = [("pool", pool)];
        for (name, help, figures) in [
            ("ci_runner_job_duration_seconds", "Run time of attempts.", &self.run),
            ("ci_runner_job_queue_duration_seconds", "Time jobs waited before their first attempt began.", &self.queue),
            (
                "ci_runner_claim_duration_seconds",
                "Time from an attempt's claim to its beginning, the commit of the claim included.",
                &self.claim,
            ),
            (
                "ci_runner_ack_to_start_seconds",
                "Time from a job's submission to the beginning of its first attempt, of jobs that found a free slot.",
                &self.ack_to_start,
            ),
            ("ci_runner_job_max_rss_bytes", "Peak resident memory of attempts.", &self.max_rss),
            ("ci_runner_job_cpu_seconds", "User and system CPU time of attempts.", &self.cpu),
        ] {
            histogram(families, name, help, &of_pool, figures);
        }
        for (name, help, count) in [
            ("ci_runner_job_log_bytes_total", "Bytes that jobs wrote to their logs.", self.log_bytes),
            (
                "ci_runner_job_log_dropped_bytes_total",
                "Bytes of output that jobs wrote beyond the limit of their logs.",
                self.log_dropped_bytes,
            ),
        ] {
            families.counter(name, help).add(&of_pool, count as f64);
        }
    }

    fn present(&self, pool: &str, now_ms: i64, families: &mut Families) {
        let jobs = families.gauge("ci_runner_jobs", "Open jobs by state.");
        for (state, count) in JobState::NAMES.iter().zip(self.now.open) {
            jobs.add(&[("pool", pool), ("state", state)], count as f64);
        }
        let (used, slots) = (f64::from(self.now.used), f64::from(self.now.slots));
        let free = (slots - used).max(0.0);
        let places = families.gauge("ci_runner_slots", "Places for attempts, used and free.");
        places.add(&[("pool", pool), ("state", "used")], used);
        places.add(&[("pool", pool), ("state", "free")], free);
        let runners =
            families.gauge("ci_runner_runners", "Runners (slots of this host) that work, and that wait for work.");
        runners.add(&[("pool", pool), ("state", "busy")], used);
        runners.add(&[("pool", pool), ("state", "idle")], free);
        // A clock that was set back must not give a negative age.
        let age_ms = self.now.oldest_queued_ms.map_or(0, |oldest| now_ms.saturating_sub(oldest).max(0));
        let queued = self.now.open[JobState::Queued as usize] as f64;
        let saturation = if slots > 0.0 { (used + queued) / slots } else { 0.0 };
        for (name, help, value) in [
            (
                "ci_runner_queue_oldest_age_seconds",
                "Time since the oldest queued job was submitted; 0 when none is queued.",
                age_ms as f64 / 1000.0,
            ),
            (
                "ci_runner_saturation_ratio",
                "Open jobs for each slot: above 1 jobs wait. 0 in a pool without slots.",
                saturation,
            ),
            (
                "ci_runner_stuck_jobs",
                "Jobs that have been starting for over a minute, or that were to be gone over a minute ago.",
                self.now.stuck as f64,
            ),
        ] {
            families.gauge(name, help).add(&[("pool", pool)], value);
        }
    }
}

fn disk_used(families: &mut Families, what: &str, bytes: u64) {
    let help = "Space taken: 'state' is the database with its write-ahead log, 'logs' the logs of jobs when they were last looked through.";
    families.gauge("ci_runner_disk_used_bytes", help).add(&[("what", what)], bytes as f64);
}

/// What cannot be read is left out.
fn disks(families: &mut Families, scrape: &Scrape<'_>) {
    let entries = scrape.state_dir.and_then(|dir| std::fs::read_dir(dir).ok()).into_iter().flatten().flatten();
    let files = entries.filter_map(|entry| entry.metadata().ok().filter(std::fs::Metadata::is_file));
    if scrape.state_dir.is_some() {
        disk_used(families, "state", files.map(|file| file.len()).sum());
    }
    for (what, dir) in [("state", scrape.state_dir), ("logs", scrape.log_dir)] {
        let Some(space) = dir.and_then(|dir| rustix::fs::statvfs(dir).ok()) else { continue };
        let labels = [("what", what)];
        let free = families
            .gauge("ci_runner_disk_free_bytes", "Space that is free on the file system of the state or the logs.");
        free.add(&labels, (space.f_bavail.saturating_mul(space.f_frsize)) as f64);
        let size = families.gauge("ci_runner_disk_size_bytes", "Size of the file system of the state or the logs.");
        size.add(&labels, (space.f_blocks.saturating_mul(space.f_frsize)) as f64);
    }
}
