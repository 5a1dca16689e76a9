//! Single values: from the text as written to the value, or what is wrong with it and the mend. Pure.

use std::net::{Ipv4Addr, SocketAddr};

use super::{Backoff, Executor, Listen};
use crate::request::parse_rules;
use crate::suggest::did_you_mean;
use crate::telemetry::Format;
use ci_runner_core::policy::is_pool_name;

/// Executors that other versions have.
const OTHER_EXECUTORS: [&str; 5] = ["docker", "podman", "kubernetes", "remote", "wasm"];

pub(super) fn listen(text: &str) -> Result<Listen, String> {
    let text = text.trim();
    if text == "off" {
        return Ok(Listen::Off);
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(Listen::At(address));
    }
    let problem = match text.rsplit_once(':') {
        Some((host, port)) => match (host, port.parse::<u16>()) {
            (_, Err(_)) => format!("{port:?} is not a port (0 to 65535)"),
            ("localhost", Ok(port)) => return Ok(Listen::At((Ipv4Addr::LOCALHOST, port).into())),
            (_, Ok(_)) => format!("{host:?} is not an IP address"),
        },
        None if text.parse::<std::net::IpAddr>().is_ok() => "the port is missing".to_owned(),
        None => "it is not an address".to_owned(),
    };
    Err(format!("{text:?}: {problem}; write ADDRESS:PORT like 127.0.0.1:8080 or [::1]:8080, or off"))
}

pub(super) fn log_format(text: &str) -> Result<Format, String> {
    let known = [Format::Text, Format::Json];
    let found = known.into_iter().find(|format| format.word() == text.trim());
    found.ok_or_else(|| format!("{text:?} is no format of the log; {}", did_you_mean(text, known.map(Format::word))))
}

pub(super) fn log_level(text: &str) -> Result<log::LevelFilter, String> {
    const LEVELS: [(&str, log::LevelFilter); 4] = [
        ("error", log::LevelFilter::Error),
        ("warn", log::LevelFilter::Warn),
        ("info", log::LevelFilter::Info),
        ("debug", log::LevelFilter::Debug),
    ];
    let found = LEVELS.iter().find(|(name, _)| *name == text.trim());
    found
        .map(|(_, level)| *level)
        .ok_or_else(|| format!("{text:?} is not a log level; {}", did_you_mean(text, LEVELS.map(|(name, _)| name))))
}

pub(super) fn executor(text: &str) -> Result<Executor, String> {
    match text.trim() {
        "native" => Ok(Executor::Native),
        "systemd" | "local" => Ok(Executor::Systemd),
        other if OTHER_EXECUTORS.contains(&other) => {
            Err(format!("the executor {other:?} is not in this version of ci-runner; use \"native\" or \"systemd\""))
        }
        other => Err(format!("{other:?} is not an executor; {}", did_you_mean(other, ["native", "systemd"]))),
    }
}

pub(super) fn backoff(text: &str) -> Result<Backoff, String> {
    match text.trim() {
        "fixed" => Ok(Backoff::Fixed),
        "exponential" => Ok(Backoff::Exponential),
        other => Err(format!("{other:?} is not a backoff; {}", did_you_mean(other, ["fixed", "exponential"]))),
    }
}

/// Checks the words of a retry rule, by what will read them.
pub(super) fn retry_rule(rule: &str) -> Result<(), String> {
    parse_rules(&[rule]).map(drop).map_err(|fault| fault.why)
}

/// Sandboxes of the systemd executor.
pub const PROFILES: [&str; 3] = ["open", "build", "strict"];

pub(super) fn profile(text: &str) -> Result<String, String> {
    let found = PROFILES.contains(&text).then(|| text.to_owned());
    found.ok_or_else(|| format!("{text:?} is not a profile; {}", did_you_mean(text, PROFILES)))
}

/// Names of pools stand in paths, unit names and metrics.
pub(super) fn pool_name(name: &str) -> Result<(), String> {
    is_pool_name(name).then_some(()).ok_or_else(|| {
        format!(
            "{name:?} cannot name a pool: use 1 to 64 lower-case letters, digits, '-' or '_', the first a letter or digit"
        )
    })
}

/// Group names are free text, within reason.
pub(super) fn group_name(name: &str) -> Result<(), String> {
    let fits = (1..=128).contains(&name.len()) && !name.chars().any(char::is_control);
    fits.then_some(())
        .ok_or_else(|| format!("{name:?} cannot name a group: use 1 to 128 bytes without control characters"))
}

/// `key` or `key=value`.
pub(super) fn label(label: &str) -> Result<(), String> {
    let word = |text: &str| {
        (1..=63).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./".contains(&b))
    };
    let fits = match label.split_once('=') {
        Some((key, value)) => word(key) && word(value),
        None => word(label),
    };
    fits.then_some(()).ok_or_else(|| {
        format!("{label:?} is not a label: write key or key=value, each 1 to 63 letters, digits, '-', '_', '.', '/'")
    })
}

/// A `PATH`: absolute directories between colons.
pub(super) fn search_path(path: &str) -> Result<(), String> {
    match path.split(':').find(|entry| !entry.starts_with('/') || entry.contains('\0')) {
        None => Ok(()),
        Some(entry) => {
            Err(format!("{entry:?} in it is not an absolute directory; write it like /usr/local/bin:/usr/bin:/bin"))
        }
    }
}

/// A name that `Host:` may have: no scheme, no port, no path.
pub(super) fn host_name(name: &str) -> Result<(), String> {
    let fits = (1..=253).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
        || name.parse::<std::net::IpAddr>().is_ok();
    fits.then_some(()).ok_or_else(|| format!("{name:?} is not a host name: write it without scheme, port and path"))
}
