//! From a request in words to a valid job, and back.
//!
//! [`read`] turns JSON into words, [`new_job`] turns the words into a specification that is whole and valid against the
//! operator's settings. Every [`Fault`] names the field as it stands in the JSON, what is wrong and the mend. Shared by the
//! HTTP API, the command line and schedules, so that a request means the same everywhere. Nothing here reads a clock.

mod back;
mod limits;
mod new;
mod read;
mod reserved;
mod shape;
#[cfg(test)]
mod tests;
mod words;

pub use back::request_of;
pub use limits::milli_cores;
pub use new::{IdempotencyKey, NewJob};
pub use read::{ReadFault, read, read_job, read_jobs, read_schedule};
pub use reserved::{RESERVED, is_reserved};
pub use shape::{Shape, shape};
pub use words::{parse_rules, rule_words, signal_name, signal_number};

use crate::api::{AfterField, GroupField, JobRequest, SecretText};
use crate::config::PROFILES;
use crate::quantity::parse_time;
use crate::suggest::did_you_mean;
use ci_runner_core::group::{GROUP_LIMIT_MAX, GroupPolicy, GroupSpec};
use ci_runner_core::id::JobId;
use ci_runner_core::job::{
    AFTER_MAX, After, Command, Condition, Fault, JobSpec, PRIORITY_MAX, TOKEN_BYTES_MAX, Terms, Work,
};
use ci_runner_core::labels::Label;
use ci_runner_core::policy::Settings;
use ci_runner_core::retry::{Backoff, RetryPolicy};
use ci_runner_core::time::WallTime;
use ci_runner_spawner::joblog::{SecretError, check_secrets};
use jiff::Zoned;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashSet};

/// Longest path that Linux takes (`PATH_MAX`).
const PATH_BYTES_MAX: usize = 4096;

/// A [`Fault`] in the making.
fn fault<T>(field: impl Into<String>, why: impl Into<String>) -> Result<T, Fault> {
    Err(Fault { field: field.into(), why: why.into() })
}

/// Makes a request whole: parses its words, fills in the operator's defaults, checks every limit.
///
/// `now` is the time of submission in the host's time zone: `at` without a zone, `in` and `expires` count from it.
pub fn new_job(request: JobRequest, settings: &Settings, now: &Zoned) -> Result<NewJob, Fault> {
    new_job_of(request, None, settings, now)
}

/// The same of a caller who said in passing under which correlation id a job runs that names none. It is no part of what is
/// asked for: whoever asks again does so under another trace.
pub fn new_job_of(
    mut request: JobRequest,
    caller: Option<&str>,
    settings: &Settings,
    now: &Zoned,
) -> Result<NewJob, Fault> {
    let key = own_key(&mut request, caller)?;
    request.correlation = request.correlation.take().or_else(|| caller.map(str::to_owned));
    let secrets = parse_secrets(std::mem::take(&mut request.secrets), &request.env)?;
    let terms = parse_terms(&mut request, settings, now)?;
    let name = match request.name.take() {
        Some(name) if name.is_empty() => return fault("name", "is empty; leave it out"),
        name => name,
    };
    let correlation = match request.correlation.take() {
        Some(correlation) if correlation.is_empty() => return fault("correlation", "is empty; leave it out"),
        Some(correlation) => correlation,
        None => uuid::Uuid::now_v7().to_string(),
    };
    let caller_dir = request.caller_dir.take();
    check_caller_dir(caller_dir.as_deref().unwrap_or("/"))?;
    let work = Work {
        command: parse_command(request.command.take(), request.shell.take())?,
        env: std::mem::take(&mut request.env).into_iter().collect(),
        dir: request.dir.take(),
        timeout_ms: request.timeout.map(|timeout| timeout.millis()).or_else(|| default_timeout_ms(settings)),
        soft_timeout_ms: request.soft_timeout.map(|timeout| timeout.millis()),
        log_bytes_max: request.log_max.map_or(settings.log_bytes_max, |size| size.0),
        secrets: secrets.iter().map(|(name, _)| name.clone()).collect(),
        profile: request.profile.take().map(parse_profile).transpose()?,
        submitter_uid: None,
        notify: parse_notify(std::mem::take(&mut request.notify)),
    };
    let spec = JobSpec { name, correlation, work, terms }.validate(settings)?;
    Ok(NewJob { spec, key, secrets, caller_dir })
}

/// SHA-256 of what requests ask for, whatever way their JSON was written. Values of secrets are left out, so that nothing
/// of them reaches the store: a request that differs in them only counts as the same. So do their idempotency keys.
pub fn body_hash(requests: &[JobRequest]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for request in requests {
        let mut value = serde_json::to_value(request).unwrap_or_default();
        if let Some(object) = value.as_object_mut() {
            object.remove("key");
            if !request.secrets.is_empty() {
                object.insert("secrets".to_owned(), request.secrets.keys().cloned().collect());
            }
        }
        hash.update(value.to_string());
        hash.update(b"\n");
    }
    hash.finalize().into()
}

/// SHA-256 of a request that names what to do and to what, rather than say it in a body: `retry` of job `7`. Never that of a
/// body, which is JSON.
pub fn deed_hash(verb: &str, object: &str) -> [u8; 32] {
    Sha256::digest(format!("{verb}\n{object}\n")).into()
}

/// Checks a key: 1 to 200 bytes of visible text.
pub fn check_key(field: &str, key: &str) -> Result<(), Fault> {
    if key.is_empty() || key.len() > TOKEN_BYTES_MAX || key.chars().any(char::is_control) {
        let form = format!("an idempotency key has 1 to {TOKEN_BYTES_MAX} bytes, no control characters");
        let wrong = match key.len() {
            1..=TOKEN_BYTES_MAX => "holds a control character".to_owned(),
            bytes => format!("has {bytes} bytes"),
        };
        return fault(field, format!("{wrong}; {form}"));
    }
    Ok(())
}

/// The job's own key. In earlier versions the correlation id of its caller was part of the body.
fn own_key(request: &mut JobRequest, caller: Option<&str>) -> Result<Option<IdempotencyKey>, Fault> {
    let Some(key) = request.key.take() else { return Ok(None) };
    check_key("key", &key)?;
    let body = body_hash(std::slice::from_ref(request));
    let body_before = caller.filter(|_| request.correlation.is_none()).map(|caller| {
        let request = JobRequest { correlation: Some(caller.to_owned()), ..request.clone() };
        body_hash(&[request])
    });
    Ok(Some(IdempotencyKey { key, body, body_before }))
}

/// In a pool of people it becomes the job's own directory.
fn check_caller_dir(dir: &str) -> Result<(), Fault> {
    if dir.len() > PATH_BYTES_MAX {
        return fault("caller_dir", format!("has {} bytes, at most {PATH_BYTES_MAX}", dir.len()));
    }
    if !dir.starts_with('/') || dir.contains('\0') {
        return fault("caller_dir", format!("{dir:?} is not an absolute path; write it like /srv/build"));
    }
    Ok(())
}

/// Each once; who is told first does not matter.
fn parse_notify(mut names: Vec<String>) -> Vec<String> {
    names.sort();
    names.dedup();
    names
}

fn parse_profile(name: String) -> Result<String, Fault> {
    if PROFILES.contains(&name.as_str()) {
        return Ok(name);
    }
    fault("profile", format!("{name:?} is no profile; {}", did_you_mean(&name, PROFILES)))
}

fn parse_command(command: Option<Vec<String>>, shell: Option<String>) -> Result<Command, Fault> {
    match (command, shell) {
        (Some(words), None) => Ok(Command::Argv(words)),
        (None, Some(text)) => Ok(Command::Shell(text)),
        (Some(_), Some(_)) => fault("shell", "stands beside `command`; give one of them"),
        (None, None) => fault("command", "is missing; give a program as in [\"make\", \"test\"], or `shell`"),
    }
}

fn parse_secrets(
    secrets: BTreeMap<String, SecretText>,
    env: &BTreeMap<String, String>,
) -> Result<Vec<(String, String)>, Fault> {
    let secrets: Vec<(String, String)> = secrets.into_iter().map(|(name, text)| (name, text.0)).collect();
    for (name, value) in &secrets {
        if value.contains('\0') {
            return fault(format!("secrets.{name}"), "holds a NUL byte, which no variable can");
        }
        if is_reserved(name) {
            let why = "is a name that every job is given, and no secret may hide that; give it another name";
            return fault(format!("secrets.{name}"), why);
        }
        if env.contains_key(name) {
            return fault(format!("secrets.{name}"), "stands in `env` as well; give it in one of them");
        }
    }
    match check_secrets(secrets.iter().map(|(name, value)| (name.as_str(), value.as_bytes()))) {
        Ok(()) => Ok(secrets),
        Err(error) => {
            let why = error.to_string();
            let field = match error {
                SecretError::TooShort { name, .. }
                | SecretError::Uniform { name }
                | SecretError::TooLarge { name, .. } => format!("secrets.{name}"),
                SecretError::TooComplex => "secrets".to_owned(),
            };
            fault(field, why)
        }
    }
}

fn parse_terms(request: &mut JobRequest, settings: &Settings, now: &Zoned) -> Result<Terms, Fault> {
    let wall = WallTime(now.timestamp().as_millisecond());
    let at = match request.at.take() {
        None => None,
        Some(text) => match parse_time(&text, now) {
            Ok(at) => Some(WallTime(at.as_millisecond())),
            Err(error) => return fault("at", error.to_string()),
        },
    };
    let expires = match request.expires.map(|expires| expires.millis()) {
        Some(0) => {
            return fault(
                "expires",
                "is zero, or less than a millisecond: it could never run; give a longer time, as in 2h",
            );
        }
        expires => expires.map(|ms| wall.plus_ms(ms)),
    };
    let delay_ms = request.delay.map(|delay| delay.millis());
    if let (Some(delay_ms), Some(expires)) = (delay_ms, expires)
        && expires <= wall.plus_ms(delay_ms)
    {
        return fault("expires", "is not after `in`: it could never run; give a longer time, or a shorter `in`");
    }
    Ok(Terms {
        pool: request.pool.take(),
        labels: parse_labels(&request.labels)?,
        priority: parse_priority(request.priority)?,
        retry: parse_retry(request, settings)?,
        group: request.group.take().map(parse_group).transpose()?,
        after: parse_after(std::mem::take(&mut request.after))?,
        at,
        delay_ms,
        expires,
        hold: request.hold,
        limits: limits::parse(request)?,
    })
}

fn default_timeout_ms(settings: &Settings) -> Option<u64> {
    match (settings.default_timeout_ms, settings.max_timeout_ms) {
        (Some(default), Some(max)) => Some(default.min(max)),
        (default, max) => default.or(max),
    }
}

fn parse_labels(texts: &[String]) -> Result<Vec<Label>, Fault> {
    let mut labels = Vec::with_capacity(texts.len());
    for (index, text) in texts.iter().enumerate() {
        match Label::parse(text) {
            Ok(label) => labels.push(label),
            Err(error) => return fault(format!("labels[{index}]"), error.to_string()),
        }
    }
    labels.sort();
    labels.dedup();
    Ok(labels)
}

fn parse_priority(priority: Option<i64>) -> Result<i16, Fault> {
    let priority = priority.unwrap_or(0);
    let Ok(priority) = i16::try_from(priority) else {
        return fault("priority", format!("{priority}; between {} and {PRIORITY_MAX}", -PRIORITY_MAX));
    };
    Ok(priority)
}

fn parse_retry(request: &JobRequest, settings: &Settings) -> Result<RetryPolicy, Fault> {
    let rules = match &request.retry_on {
        None => settings.retry.rules.clone(),
        Some(words) => parse_rules(words)?,
    };
    let backoff = match request.backoff.as_deref() {
        None => settings.retry.backoff,
        Some("fixed") => Backoff::Fixed,
        Some("exponential") => Backoff::Exponential,
        Some(other) => {
            let hint = did_you_mean(other, ["fixed", "exponential"]);
            return fault("backoff", format!("{other:?} is no backoff; {hint}"));
        }
    };
    Ok(RetryPolicy {
        retries: request.retry.unwrap_or(settings.retry.retries),
        delay_ms: request.retry_delay.map_or(settings.retry.delay_ms, |delay| delay.millis()),
        backoff,
        rules,
        oom_factor: limits::parse_factor(request.oom_memory_factor)?,
    })
}

/// Parses `NAME[:LIMIT]` or the object.
pub fn parse_group(field: GroupField) -> Result<GroupSpec, Fault> {
    match field {
        GroupField::Text(text) => match text.rsplit_once(':') {
            None => Ok(GroupSpec { name: text, limit: None, policy: GroupPolicy::default() }),
            Some((name, limit)) => match limit.parse() {
                Ok(limit) => {
                    Ok(GroupSpec { name: name.to_owned(), limit: Some(limit), policy: GroupPolicy::default() })
                }
                Err(_) => fault(
                    "group",
                    format!(
                        "{text:?}: {limit:?} is no limit, which is 1 to {GROUP_LIMIT_MAX}; write NAME:LIMIT as in deploy:2 (a name with a \
                         colon needs the object form)"
                    ),
                ),
            },
        },
        GroupField::Parts(parts) => {
            let policy = match parts.policy.as_deref() {
                None => GroupPolicy::default(),
                Some(word) => match GroupPolicy::from_word(word) {
                    Some(policy) => policy,
                    None => {
                        let hint = did_you_mean(word, ["queue", "latest", "cancel"]);
                        return fault("group.policy", format!("{word:?} is no policy; {hint}"));
                    }
                },
            };
            Ok(GroupSpec { name: parts.name, limit: parts.limit, policy })
        }
    }
}

/// Each once, in the order in which they were given.
fn parse_after(fields: Vec<AfterField>) -> Result<Vec<After>, Fault> {
    let mut seen = HashSet::with_capacity(fields.len().min(AFTER_MAX));
    let mut after = Vec::with_capacity(fields.len().min(AFTER_MAX));
    for (index, field) in fields.into_iter().enumerate() {
        let dependency = parse_dependency(field).or_else(|why| fault(format!("after[{index}]"), why))?;
        if seen.insert(dependency) {
            after.push(dependency);
        }
    }
    Ok(after)
}

/// Parses an id, `ID[:success|failure|always]` or the object.
pub fn parse_dependency(field: AfterField) -> Result<After, String> {
    let (id, on) = match field {
        AfterField::Id(id) => (id, None),
        AfterField::Parts(parts) => (parts.id, parts.on),
        AfterField::Text(text) => {
            let (id, on) = match text.split_once(':') {
                Some((id, on)) => (id, Some(on.to_owned())),
                None => (text.as_str(), None),
            };
            let id = id.parse().map_err(|_| format!("{text:?}: write ID or ID:success, ID:failure, ID:always"))?;
            (id, on)
        }
    };
    let job = JobId::new(id).ok_or_else(|| "0 is no job; ids begin with 1".to_owned())?;
    let on = match on.as_deref() {
        None => Condition::Success,
        Some(word) => Condition::from_word(word).ok_or_else(|| {
            format!("{word:?} is no condition; {}", did_you_mean(word, ["success", "failure", "always"]))
        })?,
    };
    Ok(After { job, on })
}
