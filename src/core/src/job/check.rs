//! What a job must be like to be taken.

use super::{
    AFTER_MAX, Command, DURATION_MS_MAX, ENV_MAX, Fault, JobSpec, LOG_BYTES_MAX, LOG_BYTES_MIN, NAME_BYTES_MAX,
    NOTIFY_MAX, PRIORITY_MAX, SECRETS_MAX, TOKEN_BYTES_MAX, Terms, WORD_BYTES_MAX, WORK_BYTES_MAX, Work,
};
use crate::group::{GROUP_LIMIT_MAX, GROUP_NAME_BYTES_MAX, GroupSpec};
use crate::labels::LABELS_MAX;
use crate::policy::{Settings, is_pool_name};
use crate::retry::{RETRIES_MAX, RETRY_DELAY_MS_MAX, RULES_MAX};

/// What a text takes in a specification, which travels as JSON: quotes, a comma or colon, and each character as it is escaped.
fn json_bytes(text: &str) -> usize {
    let escaped = |byte: u8| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
        0..0x20 => 6,
        _ => 1,
    };
    3 + text.bytes().map(escaped).sum::<usize>()
}

/// A [`Fault`] in the making.
pub(super) fn fault<T>(field: impl Into<String>, why: impl Into<String>) -> Result<T, Fault> {
    Err(Fault { field: field.into(), why: why.into() })
}

impl JobSpec {
    /// Checks every field against its limits and the operator's settings.
    pub fn validate(self, settings: &Settings) -> Result<Self, Fault> {
        if let Some(name) = &self.name {
            check_text("name", name, NAME_BYTES_MAX)?;
        }
        check_text("correlation", &self.correlation, TOKEN_BYTES_MAX)?;
        self.work.check(settings)?;
        self.terms.check(settings)?;
        Ok(self)
    }
}

impl Work {
    fn check(&self, settings: &Settings) -> Result<(), Fault> {
        let mut bytes = self.check_command()?;
        bytes += self.check_env()?;
        if bytes > WORK_BYTES_MAX {
            return fault(
                "command",
                format!(
                    "command and environment have {bytes} bytes as JSON, at most {WORK_BYTES_MAX}; put data into a file"
                ),
            );
        }
        if let Some(dir) = &self.dir {
            check_word("dir", dir)?;
            if !dir.starts_with('/') {
                return fault("dir", format!("{dir:?} is not an absolute path; write it like /srv/build"));
            }
        }
        if self.secrets.len() > SECRETS_MAX {
            return fault("secrets", format!("{} secrets, at most {SECRETS_MAX}", self.secrets.len()));
        }
        for name in &self.secrets {
            check_variable_name(&format!("secrets.{name}"), name)?;
        }
        if !(LOG_BYTES_MIN..=LOG_BYTES_MAX).contains(&self.log_bytes_max) {
            let why = format!("{} bytes; between {LOG_BYTES_MIN} and {LOG_BYTES_MAX}", self.log_bytes_max);
            return fault("log_max", why);
        }
        self.check_notify(settings)?;
        self.check_times(settings)
    }

    fn check_notify(&self, settings: &Settings) -> Result<(), Fault> {
        if self.notify.len() > NOTIFY_MAX {
            return fault("notify", format!("{} notifiers, at most {NOTIFY_MAX}", self.notify.len()));
        }
        let Some(unknown) = self.notify.iter().find(|name| !settings.notifiers.contains(name)) else { return Ok(()) };
        let known = match settings.notifiers.as_slice() {
            [] => "the daemon's configuration has none; add a table [notifiers.NAME]".to_owned(),
            names => format!("there is {}", names.join(", ")),
        };
        fault("notify", format!("there is no notifier {unknown:?}; {known}"))
    }

    fn check_command(&self) -> Result<usize, Fault> {
        match &self.command {
            Command::Argv(words) => {
                if words.first().is_none_or(String::is_empty) {
                    return fault("command", "is empty; give a program, as in [\"make\", \"test\"]");
                }
                for (index, word) in words.iter().enumerate() {
                    check_word(&format!("command[{index}]"), word)?;
                }
                Ok(words.iter().map(|word| json_bytes(word)).sum())
            }
            Command::Shell(text) => {
                if text.trim().is_empty() {
                    return fault("shell", "is empty; give a command, as in \"make test\"");
                }
                check_word("shell", text)?;
                Ok(json_bytes(text))
            }
        }
    }

    fn check_env(&self) -> Result<usize, Fault> {
        if self.env.len() > ENV_MAX {
            return fault("env", format!("{} variables, at most {ENV_MAX}", self.env.len()));
        }
        let mut bytes = 0;
        for (name, value) in &self.env {
            let field = format!("env.{name}");
            check_variable_name(&field, name)?;
            check_word(&field, value)?;
            let length = name.len() + 1 + value.len();
            if length > WORD_BYTES_MAX {
                return fault(field, format!("has {length} bytes, at most {WORD_BYTES_MAX}; put data into a file"));
            }
            bytes += json_bytes(name) + json_bytes(value);
        }
        Ok(bytes)
    }

    fn check_times(&self, settings: &Settings) -> Result<(), Fault> {
        if let Some(ms) = self.timeout_ms {
            check_duration("timeout", ms, 1)?;
            if let Some(max) = settings.max_timeout_ms.filter(|max| ms > *max) {
                return fault("timeout", format!("{} s; this host allows at most {} s", ms / 1000, max / 1000));
            }
        }
        if let Some(ms) = self.soft_timeout_ms {
            check_duration("soft_timeout", ms, 1)?;
            if let Some(hard) = self.timeout_ms.filter(|hard| ms >= *hard) {
                let why = format!("{} s is not before the hard timeout of {} s", ms / 1000, hard / 1000);
                return fault("soft_timeout", why);
            }
        }
        Ok(())
    }
}

impl Terms {
    fn check(&self, settings: &Settings) -> Result<(), Fault> {
        self.check_placement(settings)?;
        if !(-PRIORITY_MAX..=PRIORITY_MAX).contains(&self.priority) {
            let why = format!("{}; between {} and {PRIORITY_MAX}", self.priority, -PRIORITY_MAX);
            return fault("priority", why);
        }
        if self.retry.retries > RETRIES_MAX {
            return fault("retry", format!("{}; at most {RETRIES_MAX}", self.retry.retries));
        }
        if self.retry.delay_ms > RETRY_DELAY_MS_MAX {
            let why = format!("{} s; at most {} s (7 days)", self.retry.delay_ms / 1000, RETRY_DELAY_MS_MAX / 1000);
            return fault("retry_delay", why);
        }
        if self.retry.rules.len() > RULES_MAX {
            return fault("retry_on", format!("{} rules, at most {RULES_MAX}", self.retry.rules.len()));
        }
        if let Some(group) = &self.group {
            check_group(group, settings)?;
        }
        super::limits::check(self, settings)?;
        if self.after.len() > AFTER_MAX {
            return fault("after", format!("{} dependencies, at most {AFTER_MAX}", self.after.len()));
        }
        if self.at.is_some() && self.delay_ms.is_some() {
            return fault("in", "stands beside `at`; give one of them");
        }
        if let Some(ms) = self.delay_ms {
            check_duration("in", ms, 0)?;
        }
        match (self.at, self.expires) {
            (Some(at), Some(expires)) if expires <= at => {
                fault("expires", "is not after `at`: it could never run; give a longer time, or an earlier `at`")
            }
            _ => Ok(()),
        }
    }

    fn check_placement(&self, settings: &Settings) -> Result<(), Fault> {
        if let Some(name) = &self.pool {
            if !is_pool_name(name) {
                return fault(
                    "pool",
                    format!("{name:?} is no pool name (small letters, digits, `_`, `-`; at most 64)"),
                );
            }
            if !settings.pools.iter().any(|pool| pool.name == *name) {
                let known: Vec<&str> = settings.pools.iter().map(|pool| pool.name.as_str()).collect();
                return fault("pool", format!("there is no pool {name:?}; there is {}", known.join(", ")));
            }
        }
        if self.labels.len() > LABELS_MAX {
            return fault("labels", format!("{} labels, at most {LABELS_MAX}", self.labels.len()));
        }
        Ok(())
    }
}

fn check_group(group: &GroupSpec, settings: &Settings) -> Result<(), Fault> {
    check_text("group", &group.name, GROUP_NAME_BYTES_MAX)?;
    if group.name.is_empty() {
        return fault("group", format!("the name is empty; give 1 to {GROUP_NAME_BYTES_MAX} bytes"));
    }
    if group.limit.is_some_and(|limit| !(1..=GROUP_LIMIT_MAX).contains(&limit)) {
        let limit = group.limit.unwrap_or_default();
        return fault("group", format!("limit {limit}; between 1 and {GROUP_LIMIT_MAX}"));
    }
    let fixed = settings.groups.iter().find(|fixed| fixed.name == group.name);
    match (fixed, group.limit) {
        (Some(fixed), Some(limit)) if fixed.limit != limit => fault(
            "group",
            format!("group {:?} has limit {} in the configuration, not {limit}", group.name, fixed.limit),
        ),
        _ => Ok(()),
    }
}

/// Text for people and databases: bounded, no control characters.
fn check_text(field: &str, text: &str, bytes_max: usize) -> Result<(), Fault> {
    if text.len() > bytes_max {
        return fault(field, format!("has {} bytes, at most {bytes_max}", text.len()));
    }
    match text.chars().find(|c| c.is_control()) {
        Some(c) => {
            let form = format!("give at most {bytes_max} bytes without control characters");
            fault(field, format!("holds the control character {c:?}; {form}"))
        }
        None => Ok(()),
    }
}

/// A word for `execve`.
fn check_word(field: &str, word: &str) -> Result<(), Fault> {
    if word.len() > WORD_BYTES_MAX {
        return fault(field, format!("has {} bytes, at most {WORD_BYTES_MAX}; put data into a file", word.len()));
    }
    if word.contains('\0') {
        return fault(field, "holds a NUL byte, which no program can be given");
    }
    Ok(())
}

fn check_variable_name(field: &str, name: &str) -> Result<(), Fault> {
    if name.is_empty() || name.len() > 256 || name.contains(['=', '\0']) {
        return fault(field, format!("{name:?} is no variable name (1 to 256 bytes without `=` and NUL)"));
    }
    Ok(())
}

fn check_duration(field: &str, ms: u64, min_ms: u64) -> Result<(), Fault> {
    if ms < min_ms {
        return fault(field, "is zero, or less than a millisecond; give a longer time, as in 30m");
    }
    if ms > DURATION_MS_MAX {
        return fault(field, "is longer than 100 years");
    }
    Ok(())
}
