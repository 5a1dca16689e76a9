//! The daemon's own Prometheus metrics: cheap to record from the loop, rendered when scraped.
//!
//! A [`Metrics`] belongs to one daemon (no process-wide recorder). Each pool has a recorder of its own, so that its series
//! go with it ([`Metrics::keep_pools`]): a recorder cannot let a single series go. What happens often is recorded through
//! handles that are made once per pool ([`PoolMetrics`]), never by name. What is a matter of "now" (ages,
//! the process itself) is computed at the scrape.
//!
//! Cardinality is bounded: the only free label value is a pool's name, and there are at most [`POOLS_MAX`] of
//! them; everything else is an enum here. Never a job, commit, user or URL.
//! Why this renderer: `docs/decisions/0002-metrics-rendering.md`.

mod families;
mod process;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder, Unit};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

/// The `Content-Type` of what [`Metrics::render`] returns.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Label values that pools can take; a pool beyond is counted as `other`.
pub const POOLS_MAX: usize = 64;

/// Samples of histograms are kept raw until they are put into buckets; doing that after so many of them
/// bounds the memory (16 bytes each) without a timer. It takes about 50 µs.
const SAMPLES_UNTIL_UPKEEP: u64 = 4096;

/// From a tenth of a second to a day: jobs.
const RUN_SECONDS: [f64; 14] =
    [0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 10_800.0, 21_600.0, 86_400.0];
/// From "at once" to a day: waiting.
const QUEUE_SECONDS: [f64; 13] =
    [0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0, 3600.0, 21_600.0, 86_400.0];
/// From a fast disk to a broken one: commits.
const COMMIT_SECONDS: [f64; 12] = [0.000_25, 0.000_5, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 10.0, 60.0];
/// From a shell to a linker: peak memory.
const MEMORY_BYTES: [f64; 8] = [
    1_048_576.0,
    16_777_216.0,
    67_108_864.0,
    268_435_456.0,
    1_073_741_824.0,
    4_294_967_296.0,
    17_179_869_184.0,
    68_719_476_736.0,
];

const METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, None);

/// How a job ended; the label `outcome`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobOutcome {
    /// `succeeded`
    Succeeded,
    /// `failed`
    Failed,
    /// `timed_out`
    TimedOut,
    /// `cancelled`
    Cancelled,
    /// `superseded`
    Superseded,
    /// `expired`
    Expired,
}

/// Why an attempt was tried again; the label `cause`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryCause {
    /// A non-zero exit.
    Exit,
    /// A signal.
    Signal,
    /// Host, spawner or shim was lost.
    Lost,
    /// The hard timeout.
    Timeout,
    /// Out of memory.
    Oom,
    /// It could not be started.
    Start,
}

/// Where an open job stands; the label `state`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobState {
    /// `queued`
    Queued,
    /// `starting`
    Starting,
    /// `running`
    Running,
    /// `stopping`
    Stopping,
}

impl JobOutcome {
    const NAMES: [&str; 6] = ["succeeded", "failed", "timed_out", "cancelled", "superseded", "expired"];
}

impl RetryCause {
    const NAMES: [&str; 6] = ["exit", "signal", "lost", "timeout", "oom", "start"];
}

impl JobState {
    const NAMES: [&str; 4] = ["queued", "starting", "running", "stopping"];
}

/// What only the caller knows at the moment of a scrape.
#[derive(Debug, Clone, Copy)]
pub struct Scrape {
    /// Wall time, milliseconds.
    pub now_ms: i64,
    /// [`crate::telemetry::Telemetry::dropped_records`].
    pub log_records_dropped: u64,
}

/// What an ended attempt used.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttemptUse {
    /// Peak resident memory.
    pub max_rss_bytes: u64,
    /// User and system time.
    pub cpu: Duration,
}

/// All metrics of one daemon. Shared by reference between its loop and the scrape.
pub struct Metrics {
    pools: Mutex<BTreeMap<String, Arc<PoolMetrics>>>,
    samples: Samples,
    retries: [Counter; RetryCause::NAMES.len()],
    commits: Histogram,
    log_records_dropped: Counter,
}

/// Puts raw samples into buckets once enough have gathered.
struct Samples {
    count: AtomicU64,
    handle: PrometheusHandle,
}

impl Samples {
    fn record(&self, histogram: &Histogram, value: f64) {
        histogram.record(value);
        if self.count.fetch_add(1, Ordering::Relaxed) % SAMPLES_UNTIL_UPKEEP == SAMPLES_UNTIL_UPKEEP - 1 {
            self.handle.run_upkeep();
        }
    }
}

/// The handles of one pool. Ask [`Metrics::pool`] once and keep it.
pub struct PoolMetrics {
    samples: Samples,
    finished: [Counter; JobOutcome::NAMES.len()],
    open: [Gauge; JobState::NAMES.len()],
    slots_used: Gauge,
    slots_free: Gauge,
    oldest_age: Gauge,
    /// When the oldest queued job was submitted, wall milliseconds; `NONE_QUEUED` where the queue is empty.
    oldest_queued_ms: AtomicI64,
    run_seconds: Histogram,
    queue_seconds: Histogram,
    max_rss_bytes: Histogram,
    cpu_seconds: Histogram,
}

/// Pools beyond [`POOLS_MAX`], together.
const OTHER: &str = "other";
const NONE_QUEUED: i64 = i64::MIN;

impl Metrics {
    /// Metrics at zero. `version` is the program's, for `ci_runner_build_info`.
    pub fn new(version: &str) -> Metrics {
        let (recorder, samples) = recorder();
        let counter = |name: &'static str, labels: &[(&'static str, &str)]| {
            recorder.register_counter(&key(name, labels), &METADATA)
        };
        let built = [("version", version), ("rust", env!("CARGO_PKG_RUST_VERSION")), ("arch", std::env::consts::ARCH)];
        recorder.register_gauge(&key("ci_runner_build_info", &built), &METADATA).set(1.0);
        Metrics {
            pools: Mutex::new(BTreeMap::new()),
            samples,
            retries: RetryCause::NAMES.map(|cause| counter("ci_runner_job_retries_total", &[("cause", cause)])),
            commits: recorder.register_histogram(&key("ci_runner_commit_duration_seconds", &[]), &METADATA),
            log_records_dropped: counter("ci_runner_log_records_dropped_total", &[]),
        }
    }

    /// The handles of a pool, made at the first call with all their series at zero. Beyond [`POOLS_MAX`] names
    /// all further ones share `other`.
    pub fn pool(&self, name: &str, executor: &str) -> Arc<PoolMetrics> {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = pools.get(name) {
            return Arc::clone(pool);
        }
        let name = if pools.len() < POOLS_MAX { name } else { OTHER };
        let make = || Arc::new(PoolMetrics::new(name, executor));
        Arc::clone(pools.entry(name.to_owned()).or_insert_with(make))
    }

    /// Lets the series of all other pools go. One that comes back begins at zero, which Prometheus takes for a restart.
    pub fn keep_pools(&self, keep: impl Fn(&str) -> bool) {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        pools.retain(|name, _| name == OTHER || keep(name));
    }

    /// An attempt ended and the job is tried again.
    pub fn retried(&self, cause: RetryCause) {
        self.retries[cause as usize].increment(1);
    }

    /// A group commit reached the disk.
    pub fn committed(&self, took: Duration) {
        self.samples.record(&self.commits, took.as_secs_f64());
    }

    /// The text of `/metrics`, format 0.0.4 ([`CONTENT_TYPE`]), with `process_*` of this process.
    pub fn render(&self, scrape: &Scrape) -> String {
        self.log_records_dropped.absolute(scrape.log_records_dropped);
        let mut families = families::Families::default();
        families.add(&self.samples.handle.render());
        for pool in self.pools.lock().unwrap_or_else(PoisonError::into_inner).values() {
            let oldest = pool.oldest_queued_ms.load(Ordering::Relaxed);
            // A clock that was set back must not give a negative age.
            let age_ms = if oldest == NONE_QUEUED { 0 } else { scrape.now_ms.saturating_sub(oldest).max(0) };
            pool.oldest_age.set(age_ms as f64 / 1000.0);
            families.add(&pool.samples.handle.render());
        }
        let mut text = families.text();
        process::render_into(&mut text);
        text
    }
}

impl PoolMetrics {
    fn new(pool: &str, executor: &str) -> PoolMetrics {
        let (recorder, samples) = recorder();
        let gauge = |name: &'static str, state: Option<&'static str>| {
            let labels = [("pool", pool), ("state", state.unwrap_or_default())];
            recorder.register_gauge(&key(name, &labels[..1 + usize::from(state.is_some())]), &METADATA)
        };
        let histogram = |name: &'static str| recorder.register_histogram(&key(name, &[("pool", pool)]), &METADATA);
        PoolMetrics {
            finished: JobOutcome::NAMES.map(|outcome| {
                let labels = [("pool", pool), ("executor", executor), ("outcome", outcome)];
                recorder.register_counter(&key("ci_runner_jobs_total", &labels), &METADATA)
            }),
            open: JobState::NAMES.map(|state| gauge("ci_runner_jobs", Some(state))),
            slots_used: gauge("ci_runner_slots", Some("used")),
            slots_free: gauge("ci_runner_slots", Some("free")),
            oldest_age: gauge("ci_runner_queue_oldest_age_seconds", None),
            oldest_queued_ms: AtomicI64::new(NONE_QUEUED),
            run_seconds: histogram("ci_runner_job_duration_seconds"),
            queue_seconds: histogram("ci_runner_job_queue_duration_seconds"),
            max_rss_bytes: histogram("ci_runner_job_max_rss_bytes"),
            cpu_seconds: histogram("ci_runner_job_cpu_seconds"),
            samples,
        }
    }

    /// A job reached its outcome.
    pub fn finished(&self, outcome: JobOutcome) {
        self.finished[outcome as usize].increment(1);
    }

    /// An attempt began after its job had waited so long.
    pub fn started(&self, waited: Duration) {
        self.samples.record(&self.queue_seconds, waited.as_secs_f64());
    }

    /// An attempt ended after so long; `used` where it was measured.
    pub fn attempt_ended(&self, ran: Duration, used: Option<AttemptUse>) {
        self.samples.record(&self.run_seconds, ran.as_secs_f64());
        if let Some(used) = used {
            self.samples.record(&self.max_rss_bytes, used.max_rss_bytes as f64);
            self.samples.record(&self.cpu_seconds, used.cpu.as_secs_f64());
        }
    }

    /// How many open jobs stand in a state now.
    pub fn set_open(&self, state: JobState, count: u64) {
        self.open[state as usize].set(count as f64);
    }

    /// How many slots are taken now, of how many.
    pub fn set_slots(&self, used: u32, total: u32) {
        self.slots_used.set(f64::from(used));
        self.slots_free.set(f64::from(total.saturating_sub(used)));
    }

    /// When the oldest queued job was submitted (wall milliseconds), if any is queued.
    pub fn set_oldest_queued(&self, submitted_ms: Option<i64>) {
        self.oldest_queued_ms.store(submitted_ms.unwrap_or(NONE_QUEUED), Ordering::Relaxed);
    }
}

/// A recorder with our buckets and descriptions, and what bounds its samples.
fn recorder() -> (PrometheusRecorder, Samples) {
    let recorder = [
        ("ci_runner_job_duration_seconds", &RUN_SECONDS[..]),
        ("ci_runner_job_queue_duration_seconds", &QUEUE_SECONDS),
        ("ci_runner_commit_duration_seconds", &COMMIT_SECONDS),
        ("ci_runner_job_max_rss_bytes", &MEMORY_BYTES),
        ("ci_runner_job_cpu_seconds", &RUN_SECONDS),
    ]
    .into_iter()
    .fold(PrometheusBuilder::new(), |builder, (name, buckets)| {
        builder.set_buckets_for_metric(Matcher::Full(name.to_owned()), buckets).expect("the buckets are not empty")
    })
    .build_recorder();
    describe(&recorder);
    let samples = Samples { count: AtomicU64::new(0), handle: recorder.handle() };
    (recorder, samples)
}

fn key(name: &'static str, labels: &[(&'static str, &str)]) -> Key {
    let labels: Vec<Label> = labels.iter().map(|(key, value)| Label::new(*key, (*value).to_owned())).collect();
    Key::from_parts(name, labels)
}

fn describe(recorder: &PrometheusRecorder) {
    let seconds = Some(Unit::Seconds);
    for (name, help) in [
        ("ci_runner_jobs_total", "Jobs that reached an outcome."),
        ("ci_runner_job_retries_total", "Attempts after which the job was tried again, by what ended them."),
        ("ci_runner_log_records_dropped_total", "Records of the daemon's own log that were lost."),
    ] {
        recorder.describe_counter(name.into(), None, help.into());
    }
    for (name, help) in [
        ("ci_runner_build_info", "Always 1; the labels tell what runs here."),
        ("ci_runner_jobs", "Open jobs by state."),
        ("ci_runner_slots", "Places for attempts, used and free."),
        (
            "ci_runner_queue_oldest_age_seconds",
            "Time since the oldest queued job was submitted; 0 when none is queued.",
        ),
    ] {
        recorder.describe_gauge(name.into(), None, help.into());
    }
    for (name, unit, help) in [
        ("ci_runner_job_duration_seconds", seconds, "Run time of attempts."),
        ("ci_runner_job_queue_duration_seconds", seconds, "Time jobs waited before an attempt began."),
        ("ci_runner_commit_duration_seconds", seconds, "Time a group commit took to reach the disk."),
        ("ci_runner_job_max_rss_bytes", Some(Unit::Bytes), "Peak resident memory of attempts."),
        ("ci_runner_job_cpu_seconds", seconds, "User and system CPU time of attempts."),
    ] {
        recorder.describe_histogram(name.into(), unit, help.into());
    }
}
