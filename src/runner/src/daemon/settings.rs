//! From the configuration to what the loop needs.

use super::engine::{DECLARED, HostSettings, PersonHost, PoolHost};
use super::watching::WatchSettings;
use crate::config::{
    AdmissionConfig, Backoff, BudgetConfig, Config, ConfigError, GcConfig, PoolConfig, ScheduleConfig,
};
use crate::cron::CronSchedule;
use crate::request::{new_job, parse_rules};
use crate::store::ScheduleRow;
use ci_runner_core::job::Fault;
use ci_runner_core::labels::Label;
use ci_runner_core::limits::Budget;
use ci_runner_core::policy::{DEFAULT_POOL, GroupLimit, Pool, Settings};
use ci_runner_core::retry::{self, RetryPolicy};
use ci_runner_core::time::WallTime;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What the pure functions need.
///
/// # Errors
/// Rules, labels or jobs of schedules that the configuration let pass, each with its line and key.
pub fn settings(config: &Config) -> Result<Settings, ConfigError> {
    let settings = without_schedules(config).map_err(|fault| config.refused(vec![fault]))?;
    let faults: Vec<Fault> = config
        .schedules
        .iter()
        .filter_map(|(name, schedule)| {
            let Fault { field, why } = new_job(schedule.job.clone(), &settings, &jiff::Zoned::now()).err()?;
            let table = if is_beside(&field) { "" } else { "job." };
            Some(Fault { field: format!("schedules.{name}.{table}{field}"), why })
        })
        .collect();
    if faults.is_empty() { Ok(settings) } else { Err(config.refused(faults)) }
}

fn without_schedules(config: &Config) -> Result<Settings, Fault> {
    let mut pools = Vec::with_capacity(config.pools.len());
    for (name, pool) in &config.pools {
        let mut labels = Vec::with_capacity(pool.labels.len());
        for text in &pool.labels {
            let label = Label::parse(text);
            labels.push(label.map_err(|why| Fault { field: format!("pools.{name}.labels"), why: why.to_string() })?);
        }
        pools.push(Pool {
            named_only: pool.submitters.is_some(),
            defaults: pool.limits.defaults,
            maxima: pool.limits.maxima,
            ..Pool::new(name, pool.slots, labels)
        });
    }
    let rules = if config.retry.on.is_empty() { RetryPolicy::default_rules() } else { parse_rules(&config.retry.on)? };
    Ok(Settings {
        pools,
        groups: config.groups.iter().map(|(name, limit)| GroupLimit { name: name.clone(), limit: *limit }).collect(),
        grace_ms: milliseconds(config.grace),
        queue_jobs_max: usize::try_from(config.queue_jobs_max).unwrap_or(usize::MAX),
        retry: RetryPolicy {
            retries: config.retry.attempts,
            delay_ms: milliseconds(config.retry.delay),
            backoff: match config.retry.backoff {
                Backoff::Fixed => retry::Backoff::Fixed,
                Backoff::Exponential => retry::Backoff::Exponential,
            },
            rules,
            oom_factor: None,
        },
        default_timeout_ms: Some(milliseconds(config.default_timeout)),
        max_timeout_ms: config.max_timeout.map(milliseconds),
        log_bytes_max: config.log_max,
        budget: budget(&config.budget),
        notifiers: config.notifiers.keys().cloned().collect(),
    })
}

/// Keys of a job that stand in the schedule's own table.
fn is_beside(field: &str) -> bool {
    ["command", "shell"].iter().any(|key| field.starts_with(key))
}

/// What the host gives to attempts: what it has, or is said to have, less what is kept for everything else.
fn budget(config: &BudgetConfig) -> Budget {
    let memory = config.memory_total.or_else(host_memory);
    let cpus = std::thread::available_parallelism().ok().and_then(|cpus| u64::try_from(cpus.get()).ok());
    let cpu = config.cpu_total.map(u64::from).or(cpus.map(|cpus| cpus * 1000));
    Budget {
        memory_bytes: memory.map(|total| total.saturating_sub(config.memory_reserve.unwrap_or(0))),
        cpu_milli: cpu.map(|total| total.saturating_sub(u64::from(config.cpu_reserve.unwrap_or(0)))),
    }
}

/// Memory of the host, bytes.
fn host_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kibibytes| kibibytes * 1024)
}

/// What is watched for, and who is told.
pub fn watch_settings(config: &Config) -> WatchSettings {
    WatchSettings { watch: config.watch.clone(), notifiers: config.notifiers.clone() }
}

/// For `ci-runner run`: one pool, nothing is tried again unless the job says so, and no deadline: somebody watches.
pub fn local_settings(parallel: u32) -> Settings {
    let defaults = Settings::default();
    Settings {
        pools: vec![Pool::new(DEFAULT_POOL, parallel, Vec::new())],
        retry: RetryPolicy { retries: 0, ..defaults.retry.clone() },
        default_timeout_ms: None,
        ..defaults
    }
}

impl HostSettings {
    /// For `ci-runner run`: everything below one private directory, jobs find the caller's `PATH`.
    pub fn local(dir: &Path) -> Self {
        let (user, home) = user_and_home();
        Self {
            log_dir: log_dir(dir),
            tmp_dir: dir.join("tmp"),
            secrets_dir: dir.join("secrets"),
            pools: BTreeMap::new(),
            job_path: std::env::var("PATH").unwrap_or_else(|_| "/usr/bin:/bin".to_owned()),
            name: host_name(),
            home,
            user,
            jobs_have_users: false,
            finished_max_age_ms: None,
            log_max_age: None,
            log_archive_after: None,
            log_bytes_max: None,
            admission: AdmissionConfig::default(),
            schedules: Vec::new(),
        }
    }
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Where things are, and what jobs find.
pub fn host_settings(config: &Config) -> HostSettings {
    let GcConfig { finished_max_age, log_max_age, log_archive_after, log_bytes_max } = &config.gc;
    let (user, home) = user_and_home();
    HostSettings {
        log_dir: config.log_dir.clone(),
        tmp_dir: config.state_dir.join("tmp"),
        secrets_dir: config.state_dir.join("secrets"),
        pools: config.pools.iter().map(|(name, pool)| (name.clone(), pool_host(pool))).collect(),
        job_path: config.job_path.clone(),
        name: host_name(),
        home,
        user,
        jobs_have_users: config.jobs_socket.is_some(),
        finished_max_age_ms: finished_max_age.map(milliseconds),
        log_max_age: *log_max_age,
        log_archive_after: *log_archive_after,
        log_bytes_max: *log_bytes_max,
        admission: config.admission.clone(),
        schedules: config.schedules.iter().filter_map(|(name, schedule)| schedule_row(name, schedule)).collect(),
    }
}

/// A declared schedule as it is stored. Its calendar was checked.
fn schedule_row(name: &str, schedule: &ScheduleConfig) -> Option<ScheduleRow> {
    let cron = CronSchedule::parse(&schedule.calendar, schedule.timezone.as_deref()).ok()?;
    Some(ScheduleRow {
        name: name.to_owned(),
        calendar: cron.expression().to_owned(),
        // A host whose zone has no name has none: its time is UTC.
        timezone: schedule.timezone.as_deref().or(cron.time_zone_name()).unwrap_or("UTC").to_owned(),
        overlap: schedule.overlap.name().to_owned(),
        missed: schedule.missed.name().to_owned(),
        request: serde_json::to_string(&schedule.job).ok()?,
        by: DECLARED.to_owned(),
        paused: None,
        after: WallTime(0),
        last_job: None,
        timed_job: None,
        refused: None,
    })
}

fn pool_host(pool: &PoolConfig) -> PoolHost {
    PoolHost {
        path: pool.path.clone(),
        journal: pool.journal,
        executor: pool.executor,
        profile: pool.profile.clone(),
        profiles: pool.profiles.clone(),
        person: pool.user.clone().map(|user| PersonHost { user, paths: pool.paths.clone() }),
        submitters: pool.submitters.clone(),
        limits: pool.limits.clone(),
    }
}

/// Logs of jobs in a state directory.
pub fn log_dir(state_dir: &Path) -> std::path::PathBuf {
    state_dir.join("logs")
}

/// Jobs of the native executor run as the daemon's own user: its name and home from the user database.
fn user_and_home() -> (String, String) {
    let uid = rustix::process::getuid().as_raw().to_string();
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let found =
        passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|row| row.get(2) == Some(&uid.as_str()));
    let field = |at: usize| found.as_ref().and_then(|row| row.get(at)).map(|text| (*text).to_owned());
    let variable = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
    let user = field(0).or_else(|| variable("USER")).unwrap_or_else(|| uid.clone());
    let home = variable("HOME").or_else(|| field(5)).unwrap_or_else(|| "/".to_owned());
    (user, home)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ConfigOverrides, Host};

    /// They had no line, and the first of them hid the others.
    #[test]
    fn what_a_declared_schedule_cannot_have_is_told_with_its_line() {
        let text = "grace = 1\n\
                    [schedules.a]\ncalendar = \"daily\"\nshell = \"x\"\njob = { retry = 2, pool = \"nope\" }\n\
                    [schedules.\"b.c\"]\ncalendar = \"daily\"\nshell = \"x\"\n\
                    [schedules.\"b.c\".job]\nretry = 1\nlabels = [\"x y\"]\n\
                    [schedules.d]\ncalendar = \"daily\"\ncommand = [\"\"]\n\
                    [schedules.e]\ncalendar = \"daily\"\n";
        let host = Host::of_process();
        let overrides = ConfigOverrides { state_dir: Some("/srv/state".into()), ..ConfigOverrides::default() };
        let config = Config::resolve(&host, Some((Path::new("c.toml"), text)), &overrides).unwrap();
        let refused = settings(&config).unwrap_err().to_string();
        let lines: Vec<&str> = refused.lines().collect();
        let expected = [
            "c.toml:5: schedules.a.job.pool: there is no pool \"nope\"",
            "c.toml:11: schedules.b.c.job.labels[0]: a label cannot hold ' '",
            "c.toml:14: schedules.d.command: is empty",
            "c.toml:15: schedules.e.command: is missing",
        ];
        assert_eq!(lines.len(), expected.len(), "{refused}");
        for (line, expected) in lines.iter().zip(expected) {
            assert!(line.starts_with(expected), "{line} and not {expected}");
        }
    }
}
