//! From what was written to what counts: choose, check, remember the source.

mod job_defaults;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::capacity::Above;
use super::check;
use super::document::Document;
use super::file::{AdmissionFile, ConfigFile, GcFile, HttpFile, MetricsFile};
use super::places::Places;
use super::{
    AdmissionConfig, Config, ConfigError, ConfigOverrides, DEFAULT_POOL, Executor, GcConfig, Host, Listen, Problem,
    SLOTS_MAX, SOCKET_NAME, Source,
};
use crate::quantity::{DurationField, exact_duration};

/// What `sun_path` holds on Linux, less the closing NUL.
const SOCKET_PATH_BYTES_MAX: usize = 107;
/// Beyond it the queue's record would not fit the memory that the design allows.
const QUEUE_JOBS_MAX: i64 = 10_000_000;
/// Where the spawner of units listens.
const SPAWNER_SOCKET: &str = "/run/ci-runner-spawner/socket";
const DAY: Duration = Duration::from_secs(86_400);

/// Gathers problems and sources while values are chosen.
pub(super) struct Resolver<'a> {
    pub(super) host: &'a Host,
    /// Path and places of the file; its values are moved out before.
    document: Option<Document>,
    problems: Vec<Problem>,
    pub(super) sources: BTreeMap<&'static str, Source>,
}

pub(super) fn resolve(
    mut document: Option<Document>,
    overrides: &ConfigOverrides,
    host: &Host,
) -> Result<Config, ConfigError> {
    let file = document.as_mut().map(|document| std::mem::take(&mut document.file)).unwrap_or_default();
    let mut resolver = Resolver { host, document, problems: Vec::new(), sources: BTreeMap::new() };
    let config = resolver.config(file, overrides);
    let Resolver { document, problems: resolved, sources, .. } = resolver;
    let (mut problems, places) = document.map(|document| (document.problems, document.places)).unwrap_or_default();
    // What could not be read is not missing.
    let is_told = |problem: &Problem, told: &[Problem]| {
        told.iter().any(|known| known.file == problem.file && holds(&known.key, &problem.key))
    };
    let new: Vec<Problem> = resolved.into_iter().filter(|problem| !is_told(problem, &problems)).collect();
    problems.extend(new);
    match problems.is_empty() {
        true => Ok(Config { sources, places, ..config }),
        false => Err(ConfigError { problems }.in_order()),
    }
}

/// The same key, or one in its table.
fn holds(outer: &str, key: &str) -> bool {
    key.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

impl Resolver<'_> {
    fn config(&mut self, mut file: ConfigFile, overrides: &ConfigOverrides) -> Config {
        let (state_dir, runtime_dir, socket) = self.directories(&file, overrides);
        let log_dir = self.path("log_dir", &None, &file.log_dir).unwrap_or_else(|| state_dir.join("logs"));
        let spawner_socket = self.path("spawner_socket", &None, &file.spawner_socket);
        let jobs_socket = self.path("jobs_socket", &None, &file.jobs_socket);
        let http = file.http.take().map(|field| field.0).unwrap_or_default();
        let more = file.metrics.take().map(|field| field.0).unwrap_or_default();
        let (http_listen, metrics) = self.addresses(&http, &more, overrides);
        let max_parallel_jobs = self.whole(
            "max_parallel_jobs",
            (overrides.max_parallel_jobs, file.max_parallel_jobs, 4),
            1..=i64::from(SLOTS_MAX),
        ) as u32;
        let level = (overrides.log_level.clone(), file.log_level.take(), "info");
        let log_level = self.word("log_level", level, check::log_level).unwrap_or(log::LevelFilter::Info);
        let format = (overrides.log_format.clone(), file.log_format.take(), "text");
        let log_format = self.word("log_format", format, check::log_format).unwrap_or_default();
        let executor = (overrides.executor.clone(), file.executor.take(), "native");
        let executor = self.word("executor", executor, check::executor).unwrap_or(Executor::Native);
        let retry = self.retry(&mut file, overrides);
        let (default_timeout, max_timeout) = self.timeouts(&file);
        let grace =
            self.duration("grace", file.grace, Duration::from_secs(10), Duration::ZERO..=Duration::from_secs(3600));
        let log_max = self.log_max(&file);
        let queue_jobs_max = self.whole("queue_jobs_max", (None, file.queue_jobs_max, 2_000_000), 1..=QUEUE_JOBS_MAX);
        let job_path = self.job_path(file.job_path.take());
        let journal = self.choose("journal", None, file.journal).unwrap_or(false);
        let above = Above { max_parallel_jobs, executor, job_path: &job_path, journal };
        let pools = self.pools(std::mem::take(&mut file.pools), &above);
        Config {
            file: self.document.as_ref().map(|document| document.path.clone()),
            state_dir,
            runtime_dir,
            socket,
            log_dir,
            spawner_socket: spawner_socket.unwrap_or_else(|| PathBuf::from(SPAWNER_SOCKET)),
            jobs_socket,
            http: http_listen,
            http_public_status: http.public_status.unwrap_or(false),
            http_hosts: self.http_hosts(http.hosts),
            metrics,
            exporter: self.exporter(more, &overrides.exporter),
            max_parallel_jobs: pools[DEFAULT_POOL].slots,
            retry,
            log_level,
            log_format,
            executor,
            default_timeout,
            max_timeout,
            grace,
            log_max,
            queue_jobs_max: queue_jobs_max as u64,
            job_path,
            journal,
            pools,
            groups: self.groups(std::mem::take(&mut file.groups)),
            schedules: self.schedules(std::mem::take(&mut file.schedules)),
            gc: self.gc(&file.gc),
            admission: self.admission(&file.admission),
            budget: self.budget(&file.admission),
            watch: self.watch(&file.watch),
            notifiers: self.notifiers(std::mem::take(&mut file.notifiers)),
            sources: BTreeMap::new(),
            places: Places::default(),
        }
    }

    /// Reports a problem with a key of the file's, at its line.
    pub(super) fn file_problem(&mut self, key: &[&str], text: String) {
        let (file, line) = match &self.document {
            Some(document) => (Some(document.path.clone()), document.places.line(key)),
            None => (None, None),
        };
        self.problems.push(Problem { file, line, key: key.join("."), text });
    }

    /// Reports a problem with a top-level value, at its source.
    fn problem(&mut self, key: &'static str, text: String) {
        let name = match self.sources.get(key) {
            Some(Source::File(_)) => return self.file_problem(&[key], text),
            Some(Source::Option) => format!("--{}", key.replace('_', "-")),
            Some(Source::Environment(variable)) => format!("${variable}"),
            _ => key.to_owned(),
        };
        self.problems.push(Problem { file: None, line: None, key: name, text });
    }

    /// The command line before the file before the default; remembers which it was.
    fn choose<T>(&mut self, key: &'static str, option: Option<T>, file: Option<T>) -> Option<T> {
        let source = match (&option, &file) {
            (Some(_), _) => Source::Option,
            (None, Some(_)) => Source::File(self.document.as_ref().and_then(|d| d.places.line(&[key])).unwrap_or(0)),
            (None, None) => Source::Default,
        };
        self.sources.insert(key, source);
        option.or(file)
    }

    fn whole(
        &mut self,
        key: &'static str,
        (option, file, default): (Option<i64>, Option<i64>, i64),
        range: RangeInclusive<i64>,
    ) -> i64 {
        let value = self.choose(key, option, file).unwrap_or(default);
        if range.contains(&value) {
            return value;
        }
        self.problem(key, out_of_range(value, &range));
        default
    }

    fn word<T>(
        &mut self,
        key: &'static str,
        (option, file, default): (Option<String>, Option<String>, &str),
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = self.choose(key, option, file).unwrap_or_else(|| default.to_owned());
        read(&text).map_err(|problem| self.problem(key, problem)).ok()
    }

    fn duration(
        &mut self,
        key: &'static str,
        file: Option<DurationField>,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        let value = self.choose(key, None, file).map_or(default, |field| field.0);
        if range.contains(&value) {
            return value;
        }
        self.problem(key, duration_out_of_range(value, &range));
        default
    }

    fn directories(&mut self, file: &ConfigFile, overrides: &ConfigOverrides) -> (PathBuf, PathBuf, PathBuf) {
        let state_dir = self.path("state_dir", &overrides.state_dir, &file.state_dir).unwrap_or_else(|| {
            let (directory, variable) = self.host.state_dir().unwrap_or_else(|| {
                let text = "none of STATE_DIRECTORY, XDG_STATE_HOME and HOME names a directory; give --state-dir";
                self.problem("state_dir", text.to_owned());
                (PathBuf::from("/"), "HOME")
            });
            self.sources.insert("state_dir", Source::Environment(variable));
            directory
        });
        let runtime_dir = self.path("runtime_dir", &overrides.runtime_dir, &file.runtime_dir).unwrap_or_else(|| {
            let (directory, variable) = self.host.runtime_dir(&state_dir);
            if let Some(variable) = variable {
                self.sources.insert("runtime_dir", Source::Environment(variable));
            }
            directory
        });
        let socket = self.path("socket", &overrides.socket, &file.socket);
        let explicit = socket.is_some();
        let socket = socket.unwrap_or_else(|| runtime_dir.join(SOCKET_NAME));
        let bytes = socket.as_os_str().len();
        if bytes > SOCKET_PATH_BYTES_MAX {
            let mend = if explicit { "a shorter --socket" } else { "a shorter --runtime-dir, or --socket" };
            let text = format!(
                "the socket {} has {bytes} bytes, the kernel takes {SOCKET_PATH_BYTES_MAX}; give {mend}",
                socket.display()
            );
            self.problem(if explicit { "socket" } else { "runtime_dir" }, text);
        }
        (state_dir, runtime_dir, socket)
    }

    /// A path of the command line may be relative to the current directory; one of the file must be absolute,
    /// or it would mean another directory each time.
    fn path(&mut self, key: &'static str, option: &Option<PathBuf>, file: &Option<String>) -> Option<PathBuf> {
        let file = file.as_ref().map(PathBuf::from);
        let path = self.choose(key, option.clone(), file)?;
        let absolute = self.host.current_dir.join(&path);
        if path.as_os_str().is_empty() {
            self.problem(key, "is empty; give a directory".to_owned());
        } else if path.is_relative() && option.is_none() {
            self.problem(key, format!("{} is relative; write an absolute path", path.display()));
        }
        Some(absolute)
    }

    fn addresses(&mut self, http: &HttpFile, more: &MetricsFile, overrides: &ConfigOverrides) -> (Listen, Listen) {
        let api = (overrides.http.clone(), http.listen.clone(), "127.0.0.1:8080");
        let api = self.word("http", api, check::listen).unwrap_or(Listen::Off);
        let metrics = (overrides.metrics.clone(), more.listen.clone(), "127.0.0.1:9100");
        let metrics = self.word("metrics", metrics, check::listen).unwrap_or(Listen::Off);
        if let (Listen::At(one), Listen::At(other)) = (api, metrics)
            && one == other
            && one.port() != 0
        {
            self.problem("metrics", format!("{one} is the address of http too; give it another port"));
        }
        (api, metrics)
    }

    fn http_hosts(&mut self, hosts: Vec<String>) -> Vec<String> {
        for host in &hosts {
            if let Err(problem) = check::host_name(host) {
                self.file_problem(&["http", "hosts"], problem);
            }
        }
        hosts.into_iter().map(|host| host.to_lowercase()).collect()
    }

    fn admission(&mut self, file: &AdmissionFile) -> AdmissionConfig {
        let mut hundredths = |key: &str, value: Option<f64>, most: f64| {
            let value = value?;
            if value > 0.0 && value <= most {
                return Some((value * 100.0).round() as u64);
            }
            self.file_problem(
                &["admission", key],
                format!("{value} is out of range; give more than 0, at most {most}"),
            );
            None
        };
        AdmissionConfig {
            cpu_pressure_max: hundredths("cpu_pressure_max", file.cpu_pressure_max, 100.0),
            memory_pressure_max: hundredths("memory_pressure_max", file.memory_pressure_max, 100.0),
            io_pressure_max: hundredths("io_pressure_max", file.io_pressure_max, 100.0),
            load_max: hundredths("load_max", file.load_max, 1_000.0),
            memory_free_min: file.memory_free_min.map(|field| field.0),
            disk_free_min: file.disk_free_min.map(|field| field.0),
        }
    }

    fn gc(&mut self, file: &GcFile) -> GcConfig {
        const MONTH: Duration = Duration::from_secs(30 * 86_400);
        const LOG_BYTES: u64 = 10 << 30;
        // As `gc` leaves younger logs alone, whatever the limits say.
        const LOG_AGE_MIN: Duration = Duration::from_secs(3_600);
        let age = |limit: Option<_>| match limit {
            None => Some(MONTH),
            Some(limit) => crate::quantity::LimitField::into_option(limit).map(|field: DurationField| field.0),
        };
        let log_bytes_max = match file.log_bytes_max {
            None => Some(LOG_BYTES),
            Some(limit) => limit.into_option().map(|field| field.0),
        };
        let after = file.log_archive_after.and_then(|limit| limit.into_option()).map(|field: DurationField| field.0);
        let log_max_age = age(file.log_max_age);
        for (key, age) in [("log_archive_after", after), ("log_max_age", log_max_age)] {
            if age.is_some_and(|age| age < LOG_AGE_MIN) {
                let why = "is too soon; give at least 1h: somebody may be about to read them";
                self.file_problem(&["gc", key], why.to_owned());
            }
        }
        GcConfig { finished_max_age: age(file.finished_max_age), log_max_age, log_archive_after: after, log_bytes_max }
    }
}

pub(super) fn out_of_range(value: i64, range: &RangeInclusive<i64>) -> String {
    let (least, most) = (range.start(), range.end());
    format!("{value} is out of range; give a whole number from {least} to {most}")
}

fn duration_out_of_range(value: Duration, range: &RangeInclusive<Duration>) -> String {
    let value = exact_duration(value);
    let least = exact_duration(*range.start());
    if *range.end() == Duration::MAX {
        return format!("{value} is too short; give at least {least}");
    }
    format!("{value} is out of range; give {least} to {}", exact_duration(*range.end()))
}
