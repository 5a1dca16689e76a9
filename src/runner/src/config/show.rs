//! The resolved configuration as a TOML text for `config show`: readable, and readable back.

use std::fmt::Write as _;
use std::time::Duration;

use super::{AdmissionConfig, Config, DEFAULT_POOL, GcConfig, PoolConfig, limits};
use crate::quantity::{exact_duration, exact_size};

pub(super) fn show(config: &Config) -> String {
    let mut text = String::new();
    if let Some(file) = &config.file {
        line(&mut text, &format!("# from {}", file.display()));
    }
    values(config, &mut text);
    line(&mut text, "\n[http]");
    line(&mut text, &format!("listen = {}  # {}", quoted(&config.http.to_string()), config.source("http")));
    line(&mut text, &format!("public_status = {}", config.http_public_status));
    line(&mut text, &format!("hosts = {}", list(&config.http_hosts)));
    super::metrics::show(config, &mut text);
    gc(&config.gc, &mut text);
    let shown: Vec<_> = admission(&config.admission).into_iter().chain(limits::shown_budget(&config.budget)).collect();
    if !shown.is_empty() {
        line(&mut text, "\n[admission]");
    }
    for (key, value) in shown {
        line(&mut text, &format!("{key} = {value}"));
    }
    for (name, shown) in &config.pools {
        pool(name, shown, &mut text);
    }
    super::schedules::show(config, &mut text);
    for (name, limit) in &config.groups {
        line(&mut text, &format!("\n[groups.{}]\nlimit = {limit}", quoted(name)));
    }
    super::watching_show::show(config, &mut text);
    text
}

/// The keys above all tables, each with its source.
fn values(config: &Config, text: &mut String) {
    let duration = |duration: Duration| quoted(&exact_duration(duration));
    for (key, value) in [
        ("state_dir", quoted(&config.state_dir.to_string_lossy())),
        ("runtime_dir", quoted(&config.runtime_dir.to_string_lossy())),
        ("socket", quoted(&config.socket.to_string_lossy())),
        ("log_dir", quoted(&config.log_dir.to_string_lossy())),
        ("spawner_socket", quoted(&config.spawner_socket.to_string_lossy())),
        ("max_parallel_jobs", config.max_parallel_jobs.to_string()),
        ("retry_attempts", config.retry.attempts.to_string()),
        ("retry_delay", duration(config.retry.delay)),
        ("retry_backoff", quoted(config.retry.backoff.name())),
        ("retry_on", list(&config.retry.on)),
        ("log_level", quoted(&config.log_level.to_string().to_lowercase())),
        ("log_format", quoted(config.log_format.word())),
        ("executor", quoted(config.executor.name())),
        ("default_timeout", duration(config.default_timeout)),
        ("max_timeout", limit(config.max_timeout.map(exact_duration))),
        ("grace", duration(config.grace)),
        ("log_max", quoted(&exact_size(config.log_max))),
        ("queue_jobs_max", config.queue_jobs_max.to_string()),
        ("job_path", quoted(&config.job_path)),
        ("journal", config.journal.to_string()),
    ] {
        line(text, &format!("{key} = {value}  # {}", config.source(key)));
    }
    if let Some(socket) = &config.jobs_socket {
        line(text, &format!("jobs_socket = {}", quoted(&socket.to_string_lossy())));
    }
}

fn gc(gc: &GcConfig, text: &mut String) {
    let age = |age: Option<Duration>| limit(age.map(exact_duration));
    line(text, "\n[gc]");
    line(text, &format!("finished_max_age = {}", age(gc.finished_max_age)));
    line(text, &format!("log_max_age = {}", age(gc.log_max_age)));
    line(text, &format!("log_archive_after = {}", age(gc.log_archive_after)));
    line(text, &format!("log_bytes_max = {}", limit(gc.log_bytes_max.map(exact_size))));
}

fn pool(name: &str, pool: &PoolConfig, text: &mut String) {
    line(text, &format!("\n[pools.{}]", quoted(name)));
    // The default pool's slots are max_parallel_jobs; saying both would be a contradiction after an edit.
    if name != DEFAULT_POOL {
        line(text, &format!("slots = {}", pool.slots));
    }
    line(text, &format!("executor = {}", quoted(pool.executor.name())));
    line(text, &format!("labels = {}", list(&pool.labels)));
    line(text, &format!("path = {}", quoted(&pool.path)));
    line(text, &format!("journal = {}", pool.journal));
    if let Some(profile) = &pool.profile {
        line(text, &format!("profile = {}", quoted(profile)));
    }
    if let Some(user) = &pool.user {
        line(text, &format!("user = {}", quoted(user)));
    }
    let paths: Vec<String> = pool.paths.iter().map(|path| path.to_string_lossy().into_owned()).collect();
    for (key, words) in [("profiles", &pool.profiles), ("paths", &paths)] {
        if !words.is_empty() {
            line(text, &format!("{key} = {}", list(words)));
        }
    }
    if let Some(submitters) = &pool.submitters {
        line(text, &format!("submitters = {}", list(submitters)));
    }
    for (key, value) in limits::shown(&pool.limits) {
        line(text, &format!("{key} = {value}"));
    }
}

/// One that may be lifted.
fn limit(limit: Option<String>) -> String {
    quoted(&limit.unwrap_or_else(|| "unlimited".to_owned()))
}

pub(super) fn line(text: &mut String, line: &str) {
    writeln!(text, "{line}").expect("writing to a String cannot fail");
}

pub(super) fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

pub(super) fn list(words: &[String]) -> String {
    toml::Value::Array(words.iter().cloned().map(toml::Value::String).collect()).to_string()
}

/// Only limits that are set: there is no value for none.
fn admission(limits: &AdmissionConfig) -> Vec<(&'static str, String)> {
    let number = |hundredths: u64| format!("{}.{:02}", hundredths / 100, hundredths % 100);
    let size = |bytes: u64| quoted(&exact_size(bytes));
    let all = [
        ("cpu_pressure_max", limits.cpu_pressure_max.map(number)),
        ("memory_pressure_max", limits.memory_pressure_max.map(number)),
        ("io_pressure_max", limits.io_pressure_max.map(number)),
        ("load_max", limits.load_max.map(number)),
        ("memory_free_min", limits.memory_free_min.map(size)),
        ("disk_free_min", limits.disk_free_min.map(size)),
    ];
    all.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
}
