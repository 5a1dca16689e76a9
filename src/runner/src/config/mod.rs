//! The daemon's configuration: TOML file, command line and environment become one checked [`Config`].
//!
//! Raw first, resolved second: the file is read as written (`file.rs`, `document.rs`), then every value is
//! chosen (command line, else file, else environment, else default), checked and given its source. Nothing
//! is accepted by half: any problem refuses the whole, and all problems are reported at once.
//!
//! The default pool `default` always exists; its slots are `max_parallel_jobs` unless it names its own.

mod capacity;
mod check;
mod document;
mod file;
mod host;
mod limits;
mod metrics;
mod people;
mod places;
mod problem;
mod resolve;
mod schedules;
mod show;
#[cfg(test)]
mod tests;
mod watching;
mod watching_show;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use check::PROFILES;
pub use host::Host;
pub use limits::{BudgetConfig, PoolLimits};
pub use metrics::{ExporterConfig, Protection};
pub use problem::{ConfigError, Problem};
pub use schedules::{ScheduleConfig, schedule_job_fault, schedule_name_fault};
pub use watching::{JobFilter, NotifierConfig, NotifierKind, SecretPlace, WatchConfig};

/// The name of the API's socket in the runtime directory.
pub const SOCKET_NAME: &str = "api.sock";
/// The name of the pool that always exists.
pub const DEFAULT_POOL: &str = "default";
/// Slots one pool may have: each is a process tree, and beyond this one host is no place for them.
pub const SLOTS_MAX: u32 = 1024;
/// Pools a host may have; every pool is a label value in the metrics.
pub const POOLS_MAX: usize = 64;

/// A checked configuration. Paths are absolute.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file it was read from.
    pub file: Option<PathBuf>,
    /// Database, logs, secrets.
    pub state_dir: PathBuf,
    /// Attempts, sockets; lost at a reboot.
    pub runtime_dir: PathBuf,
    /// The API's socket.
    pub socket: PathBuf,
    /// Logs of jobs.
    pub log_dir: PathBuf,
    /// The socket of the spawner that starts units.
    pub spawner_socket: PathBuf,
    /// The socket of a spawner that starts native jobs under users of their own; None: the daemon starts one for itself.
    pub jobs_socket: Option<PathBuf>,
    /// The API's TCP address.
    pub http: Listen,
    /// Whether `/status` and `/runners` answer on TCP without a token.
    pub http_public_status: bool,
    /// Names besides the loopback's that `Host:` may have.
    pub http_hosts: Vec<String>,
    /// Where `/metrics` is served.
    pub metrics: Listen,
    /// What is served there, and to whom.
    pub exporter: ExporterConfig,
    /// Slots of the default pool.
    pub max_parallel_jobs: u32,
    /// What jobs get that do not say otherwise.
    pub retry: RetryDefaults,
    /// Records above it are not written.
    pub log_level: log::LevelFilter,
    /// How the log of the daemon looks.
    pub log_format: crate::telemetry::Format,
    /// The default pool's executor.
    pub executor: Executor,
    /// The hard timeout of jobs that name none.
    pub default_timeout: Duration,
    /// The longest timeout a job may name.
    pub max_timeout: Option<Duration>,
    /// From SIGTERM to the kill.
    pub grace: Duration,
    /// The log cap of an attempt whose job names none, in bytes.
    pub log_max: u64,
    /// Open jobs beyond this are refused.
    pub queue_jobs_max: u64,
    /// `PATH` of jobs.
    pub job_path: String,
    /// Whether what jobs print goes into the journal too, where their pool does not say otherwise.
    pub journal: bool,
    /// By name; always holds [`DEFAULT_POOL`].
    pub pools: BTreeMap<String, PoolConfig>,
    /// Limits of concurrency groups by name.
    pub groups: BTreeMap<String, u32>,
    /// Schedules that are declared here, by name.
    pub schedules: BTreeMap<String, ScheduleConfig>,
    /// What is kept of finished jobs.
    pub gc: GcConfig,
    /// When the host is too busy for more.
    pub admission: AdmissionConfig,
    /// What the host gives to attempts.
    pub budget: BudgetConfig,
    /// What is watched for.
    pub watch: WatchConfig,
    /// Who is told, by name.
    pub notifiers: BTreeMap<String, NotifierConfig>,
    sources: BTreeMap<&'static str, Source>,
    places: places::Places,
}

/// Limits of the host: while one is passed, nothing new starts. None: no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AdmissionConfig {
    /// Time in which some task waits for a CPU (ten-second average), hundredths of a percent.
    pub cpu_pressure_max: Option<u64>,
    /// The same for memory.
    pub memory_pressure_max: Option<u64>,
    /// The same for disks.
    pub io_pressure_max: Option<u64>,
    /// Load average of a minute for each CPU, hundredths.
    pub load_max: Option<u64>,
    /// Memory that is available, bytes.
    pub memory_free_min: Option<u64>,
    /// Space that is free on the file system of the state directory, bytes.
    pub disk_free_min: Option<u64>,
}

impl AdmissionConfig {
    /// True when there is any limit.
    pub fn is_any(&self) -> bool {
        *self != Self::default()
    }
}

/// Retries of jobs that do not say otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryDefaults {
    /// Re-tries after the first attempt.
    pub attempts: u32,
    /// Before the first re-try.
    pub delay: Duration,
    /// How the delay grows.
    pub backoff: Backoff,
    /// Rules in the words of `--retry-on`, each checked: `exit:2`, `signal:KILL`, `lost`.
    pub on: Vec<String>,
}

/// How the delay between attempts grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backoff {
    /// It does not.
    Fixed,
    /// It doubles.
    Exponential,
}

/// Ways to run an attempt that this version has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Executor {
    /// A process of this host, forked by the spawner.
    Native,
    /// A transient unit of systemd, started by a spawner that is a service of root.
    Systemd,
}

/// A TCP address to serve on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listen {
    /// Not served.
    Off,
    /// Served here. Port 0 takes any free one.
    At(SocketAddr),
}

/// Named capacity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolConfig {
    /// `1..=SLOTS_MAX`
    pub slots: u32,
    /// How attempts run here.
    pub executor: Executor,
    /// `key` or `key=value`, sorted, each once, with the host's own (`os=…`, `arch=…`, `host=…`).
    pub labels: Vec<String>,
    /// `PATH` of jobs here.
    pub path: String,
    /// Whether what they print goes into the journal too.
    pub journal: bool,
    /// The sandbox of jobs here, where the executor has any; None: the first that the spawner's policy allows.
    pub profile: Option<String>,
    /// Sandboxes that jobs may choose; empty: whichever the spawner's policy allows.
    pub profiles: Vec<String>,
    /// As whom jobs here run, by the spawner's policy.
    pub user: Option<String>,
    /// Directories in which they work.
    pub paths: Vec<PathBuf>,
    /// Users who may submit here, beside root; None: whoever may use the daemon.
    pub submitters: Option<Vec<String>>,
    /// What attempts here may use.
    pub limits: PoolLimits,
}

/// What is kept of finished jobs; `None` is "for ever".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GcConfig {
    /// Finished jobs older than this are removed.
    pub finished_max_age: Option<Duration>,
    /// Logs older than this are removed.
    pub log_max_age: Option<Duration>,
    /// Logs older than this are archived.
    pub log_archive_after: Option<Duration>,
    /// The oldest logs go when all together are larger.
    pub log_bytes_max: Option<u64>,
}

/// The daemon's command line, as given. What is `None` was not given.
#[derive(Debug, Clone, Default)]
pub struct ConfigOverrides {
    /// `--state-dir`
    pub state_dir: Option<PathBuf>,
    /// `--runtime-dir`
    pub runtime_dir: Option<PathBuf>,
    /// `--socket`
    pub socket: Option<PathBuf>,
    /// `--http`
    pub http: Option<String>,
    /// `--metrics`; `--listen` of the exporter
    pub metrics: Option<String>,
    /// What only the exporter's command line has.
    pub exporter: ExporterOverrides,
    /// `--max-parallel-jobs`
    pub max_parallel_jobs: Option<i64>,
    /// `--retry-attempts`
    pub retry_attempts: Option<i64>,
    /// `--retry-delay`, a duration's text
    pub retry_delay: Option<String>,
    /// `--log-level`
    pub log_level: Option<String>,
    /// `--log-format`
    pub log_format: Option<String>,
    /// `--executor`
    pub executor: Option<String>,
}

/// The exporter's command line, as given.
#[derive(Debug, Clone, Default)]
pub struct ExporterOverrides {
    /// `--procfs`
    pub procfs: Option<PathBuf>,
    /// `--sysfs`
    pub sysfs: Option<PathBuf>,
    /// `--rootfs`
    pub rootfs: Option<PathBuf>,
    /// `--udev-data`
    pub udev_data: Option<PathBuf>,
    /// `--collectors`
    pub collectors: Option<Vec<String>>,
    /// `--textfile-directory`
    pub textfile_directory: Option<PathBuf>,
}

/// Where a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Built in.
    Default,
    /// This environment variable.
    Environment(&'static str),
    /// This line of the file.
    File(usize),
    /// The command line.
    Option,
}

impl Config {
    /// True when some pool runs its jobs this way.
    pub fn uses(&self, executor: Executor) -> bool {
        self.pools.values().any(|pool| pool.executor == executor)
    }

    /// Reads the file, if any, and resolves everything against this process and machine.
    ///
    /// # Errors
    /// All problems found, each with file, line, key, limit and the mend.
    pub fn load(path: Option<&Path>, overrides: &ConfigOverrides) -> Result<Config, ConfigError> {
        Self::load_for(&Host::of_process(), path, overrides)
    }

    /// As [`Config::load`], for another process than this one.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_for(host: &Host, path: Option<&Path>, overrides: &ConfigOverrides) -> Result<Config, ConfigError> {
        let document = path.map(document::Document::read).transpose()?;
        resolve::resolve(document, overrides, host)
    }

    /// As [`Config::load`] with the file's text and the host given: pure.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn resolve(
        host: &Host,
        file: Option<(&Path, &str)>,
        overrides: &ConfigOverrides,
    ) -> Result<Config, ConfigError> {
        let document = file.map(|(path, text)| document::Document::parse(path, text)).transpose()?;
        resolve::resolve(document, overrides, host)
    }

    /// Where the value of a top-level key (`http`, `grace`) comes from.
    pub fn source(&self, key: &str) -> Source {
        self.sources.get(key).copied().unwrap_or(Source::Default)
    }

    /// The resolved configuration as TOML that [`Config::load`] reads back, with the source of each value.
    pub fn show(&self) -> String {
        show::show(self)
    }

    /// True when the command line says `--metrics off`: an exporter beside this daemon does it all.
    pub fn exports_elsewhere(&self) -> bool {
        self.metrics == Listen::Off && self.source("metrics") == Source::Option
    }

    /// The keys in which `new` differs and which a reload cannot change: they need a restart.
    pub fn needs_restart(&self, new: &Config) -> Vec<&'static str> {
        [
            ("state_dir", self.state_dir != new.state_dir),
            ("runtime_dir", self.runtime_dir != new.runtime_dir),
            ("socket", self.socket != new.socket),
            // With another state directory it is another one by itself.
            ("log_dir", self.log_dir != new.log_dir && self.state_dir == new.state_dir),
            ("spawner_socket", self.spawner_socket != new.spawner_socket),
            ("jobs_socket", self.jobs_socket != new.jobs_socket),
            ("executor", Executor::ALL.into_iter().any(|executor| new.uses(executor) && !self.uses(executor))),
            ("http", self.http != new.http),
            ("http.public_status", self.http_public_status != new.http_public_status),
            ("http.hosts", self.http_hosts != new.http_hosts),
            ("metrics", self.metrics != new.metrics || (!self.exports_elsewhere() && self.exporter != new.exporter)),
        ]
        .into_iter()
        .filter_map(|(key, differs)| differs.then_some(key))
        .collect()
    }
}

impl Executor {
    /// All there are.
    pub const ALL: [Self; 2] = [Self::Native, Self::Systemd];

    /// The word in configuration, output and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Executor::Native => "native",
            Executor::Systemd => "systemd",
        }
    }
}

impl Backoff {
    /// The word in configuration and output.
    pub fn name(self) -> &'static str {
        match self {
            Backoff::Fixed => "fixed",
            Backoff::Exponential => "exponential",
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listen::Off => formatter.write_str("off"),
            Listen::At(address) => address.fmt(formatter),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Default => formatter.write_str("default"),
            Source::Environment(variable) => write!(formatter, "${variable}"),
            Source::File(line) => write!(formatter, "line {line}"),
            Source::Option => formatter.write_str("command line"),
        }
    }
}
