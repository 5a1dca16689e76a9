//! The options that describe a job, and the request they make. Each is also a key of the JSON, with `_` for `-`.
//!
//! Texts with units are read here, so that a slip is told with the option's name before anything is sent; limits are the
//! daemon's to check, in one place for all clients.

use super::fail::Failure;
use crate::api::{AfterField, GroupField, GroupParts, JobRequest, SecretText};
use crate::quantity::{self, DurationField, SizeField};
use crate::request::parse_dependency;
use ci_runner_core::limits::{CPU_MILLI_MAX, CPU_MILLI_MIN};
use ci_runner_core::retry::{OOM_FACTOR_MAX, OOM_FACTOR_MIN, RETRIES_MAX};
use clap::Args;
use std::io::Read;
use std::path::Path;

/// A secret's file is at most this: keys and tokens, not archives.
const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// Options of a job.
#[derive(Args, Clone, Debug, Default)]
pub struct JobOptions {
    /// Name, for people
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Only in this pool
    #[arg(long, value_name = "POOL")]
    pub pool: Option<String>,
    /// Sandbox, one that the pool allows: build, strict or open
    #[arg(long, value_name = "PROFILE")]
    pub profile: Option<String>,
    /// Only where the pool has this label; may be repeated
    #[arg(long, value_name = "KEY[=VALUE]")]
    pub label: Vec<String>,
    /// Variable of the job; without a value, the caller's. May be repeated. CI, TMPDIR, TRACEPARENT and ci-runner's own CI_… names
    /// are set for every job and win
    #[arg(long, value_name = "KEY[=VALUE]")]
    pub env: Vec<String>,
    /// Working directory [default: the current one where the daemon or the pool runs as you, else an empty workspace]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<String>,
    /// End each attempt after so long [default: 6h unless configured]
    #[arg(long, value_name = "TIME", value_parser = duration, allow_hyphen_values = true)]
    pub timeout: Option<DurationField>,
    /// Warn in the log after so long
    #[arg(long, value_name = "TIME", value_parser = duration, allow_hyphen_values = true)]
    pub soft_timeout: Option<DurationField>,
    /// Tries after the first one that failed [default: 3 unless configured]
    #[arg(long, value_name = "N", value_parser = retries, allow_negative_numbers = true)]
    pub retry: Option<u32>,
    /// Pause before the next try [default: 5s unless configured]
    #[arg(long, value_name = "TIME", value_parser = duration, allow_hyphen_values = true)]
    pub retry_delay: Option<DurationField>,
    /// How the pause grows
    #[arg(long, value_name = "HOW", value_parser = ["fixed", "exponential"])]
    pub backoff: Option<String>,
    /// What is tried again: exit (but codes 3 and 64), exit:CODE, signal[:NAME], lost, timeout, oom, start; `!` before one forbids.
    /// First match wins
    /// [default: exit,signal,lost unless configured]
    #[arg(long, value_name = "RULE,…", value_delimiter = ',')]
    pub retry_on: Option<Vec<String>>,
    /// Higher goes first [default: 0]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub priority: Option<i64>,
    /// Concurrency group, and how many of it may run at once
    #[arg(long, value_name = "NAME[:LIMIT]")]
    pub group: Option<String>,
    /// When the group is full: wait in line, drop all but the latest, or cancel what runs. Others make way as soon as it is queued, also
    /// while it waits for its own time or dependencies
    #[arg(long, value_name = "POLICY", requires = "group", value_parser = ["queue", "latest", "cancel"])]
    pub group_policy: Option<String>,
    /// Start after this job's success, or failure, or always. May be repeated
    #[arg(long, value_name = "ID[:success|failure|always]", value_parser = after, allow_hyphen_values = true)]
    pub after: Vec<String>,
    /// Not before this time: 03:00, "tomorrow 03:00", 2026-11-22T03:00:00Z
    #[arg(long, value_name = "TIME", conflicts_with = "delay", allow_hyphen_values = true)]
    pub at: Option<String>,
    /// Not before so long from now
    #[arg(long = "in", id = "delay", value_name = "TIME", value_parser = duration, allow_hyphen_values = true)]
    pub delay: Option<DurationField>,
    /// Drop it when it has not started so long from now; after that it is not tried again either
    #[arg(long, value_name = "TIME", value_parser = duration, allow_hyphen_values = true)]
    pub expires: Option<DurationField>,
    /// Queue it on hold, until `ci-runner release`
    #[arg(long)]
    pub hold: bool,
    /// Idempotency key: the same call with the same key queues nothing new for 24 h
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,
    /// Secret variable from a file: never stored with the job, masked in its log. May be repeated
    #[arg(long, value_name = "NAME=@FILE")]
    pub secret: Vec<String>,
    /// Memory limit of each attempt: beyond it the attempt is killed (result oom_killed)
    #[arg(long, value_name = "SIZE", value_parser = size, allow_hyphen_values = true)]
    pub memory: Option<SizeField>,
    /// CPU limit, in cores: beyond it the attempt is slowed down
    #[arg(long, value_name = "CORES", value_parser = cores, allow_negative_numbers = true)]
    pub cpu: Option<f64>,
    /// Limit of processes and threads: beyond it none is made
    #[arg(long, value_name = "N", value_parser = pids, allow_negative_numbers = true)]
    pub pids: Option<u64>,
    /// After an attempt that was out of memory give the next one so many times its limit; with `--retry-on oom`
    #[arg(long, value_name = "FACTOR", value_parser = factor, allow_negative_numbers = true)]
    pub oom_memory_factor: Option<f64>,
    /// Keep at most so much of its output [default: 64M unless configured]
    #[arg(long, value_name = "SIZE", value_parser = size, allow_hyphen_values = true)]
    pub log_max: Option<SizeField>,
    /// Tell this notifier of the daemon's configuration when the job ends, however it does; may be repeated
    #[arg(long, value_name = "NOTIFIER")]
    pub notify: Vec<String>,
    /// Correlation id [default: a new one]
    #[arg(long, value_name = "ID")]
    pub correlation: Option<String>,
}

/// A duration, as clap wants it.
///
/// # Errors
/// What is wrong with it.
pub fn duration(text: &str) -> Result<DurationField, quantity::QuantityError> {
    quantity::parse_duration(text).map(DurationField)
}

/// The id of a job.
///
/// # Errors
/// It is none.
pub fn job_id(text: &str) -> Result<u64, &'static str> {
    text.parse().ok().filter(|id| *id > 0).ok_or("no job id; ids are whole numbers from 1")
}

/// A whole number of this range; what it is not gets our words.
fn whole(text: &str, range: std::ops::RangeInclusive<u64>) -> Result<u64, String> {
    let value = text.parse::<u64>().ok().filter(|value| range.contains(value));
    value.ok_or_else(|| {
        let (least, most) = range.into_inner();
        let most = if most == u64::MAX { "up".to_owned() } else { format!("to {most}") };
        format!("give a whole number from {least} {most}")
    })
}

fn retries(text: &str) -> Result<u32, String> {
    let number = whole(text, 0..=u64::from(RETRIES_MAX))?;
    u32::try_from(number).map_err(|error| error.to_string())
}

fn pids(text: &str) -> Result<u64, String> {
    whole(text, 1..=u64::MAX)
}

/// A number that JSON has. It has neither `nan` nor `inf`: they would travel as if nothing had been said, and the limit be lost.
fn number(text: &str, wanted: &str) -> Result<f64, String> {
    text.parse::<f64>().ok().filter(|number| number.is_finite()).ok_or_else(|| format!("give {wanted}"))
}

fn cores(text: &str) -> Result<f64, String> {
    number(text, &format!("a number of cores from {} to {}, like 1.5", milli(CPU_MILLI_MIN), milli(CPU_MILLI_MAX)))
}

fn factor(text: &str) -> Result<f64, String> {
    let [least, most] = [OOM_FACTOR_MIN, OOM_FACTOR_MAX].map(|hundredths| f64::from(hundredths) / 100.0);
    number(text, &format!("a factor from {least} to {most}, like 2"))
}

fn milli(cores: u32) -> f64 {
    f64::from(cores) / 1000.0
}

fn after(text: &str) -> Result<String, String> {
    parse_dependency(AfterField::Text(text.to_owned())).map(|_| text.to_owned())
}

fn size(text: &str) -> Result<SizeField, quantity::QuantityError> {
    quantity::parse_size(text).map(SizeField)
}

impl JobOptions {
    /// The request, still without a command.
    ///
    /// # Errors
    /// The option that cannot be, with what is wrong.
    pub fn request(self) -> Result<JobRequest, Failure> {
        let group = self.group.map(|group| group_field(group, self.group_policy)).transpose()?;
        let mut request = JobRequest {
            name: self.name,
            pool: self.pool,
            profile: self.profile,
            labels: self.label,
            dir: self.dir.map(|dir| absolute(&dir)).transpose()?,
            timeout: self.timeout,
            soft_timeout: self.soft_timeout,
            retry: self.retry,
            retry_delay: self.retry_delay,
            backoff: self.backoff,
            retry_on: self.retry_on.map(|rules| rules.iter().map(|rule| rule.trim().to_owned()).collect()),
            priority: self.priority,
            group,
            at: self.at.map(|text| at(&text)).transpose()?,
            delay: self.delay,
            expires: self.expires,
            hold: self.hold,
            key: self.key,
            memory: self.memory,
            cpu: self.cpu,
            pids: self.pids,
            oom_memory_factor: self.oom_memory_factor,
            log_max: self.log_max,
            notify: self.notify,
            correlation: self.correlation,
            ..JobRequest::default()
        };
        for text in self.after {
            request.after.push(AfterField::Text(text));
        }
        for text in &self.env {
            let (name, value) = variable(text)?;
            request.env.insert(name, value);
        }
        for text in &self.secret {
            let (name, value) = secret(text)?;
            request.secrets.insert(name, value);
        }
        Ok(request)
    }
}

fn usage<T>(text: String) -> Result<T, Failure> {
    Err(Failure::Usage(text))
}

/// `KEY=VALUE`, or `KEY` with the caller's own value.
fn variable(text: &str) -> Result<(String, String), Failure> {
    match text.split_once('=') {
        Some(("", _)) => usage(format!("--env {text}: the name is missing; write KEY=VALUE, or KEY to pass on yours")),
        Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
        None if text.is_empty() => usage("--env: is empty; write KEY=VALUE, or KEY to pass on yours".to_owned()),
        None => match std::env::var(text) {
            Ok(value) => Ok((text.to_owned(), value)),
            Err(std::env::VarError::NotPresent) => {
                usage(format!("--env {text}: you have no such variable to pass on; write {text}=VALUE"))
            }
            Err(std::env::VarError::NotUnicode(_)) => usage(format!("--env {text}: your value is not UTF-8")),
        },
    }
}

/// `NAME=@FILE`. One line end at the end of the file is not part of the secret.
fn secret(text: &str) -> Result<(String, SecretText), Failure> {
    let Some((name, file)) = text.split_once("=@").filter(|(name, file)| !name.is_empty() && !file.is_empty()) else {
        // The text is not repeated: it may hold the secret itself.
        return usage(
            "--secret: write NAME=@FILE; a value on the command line can be read by anybody on this machine".to_owned(),
        );
    };
    let mut value = String::new();
    let read = std::fs::File::open(file).and_then(|open| open.take(SECRET_BYTES_MAX + 1).read_to_string(&mut value));
    if let Err(error) = read {
        return usage(format!("--secret {name}: cannot read {file}: {error}"));
    }
    if value.len() as u64 > SECRET_BYTES_MAX {
        return usage(format!("--secret {name}: {file} has more than {SECRET_BYTES_MAX} bytes, which no secret has"));
    }
    if value.ends_with('\n') {
        value.pop();
        if value.ends_with('\r') {
            value.pop();
        }
    }
    Ok((name.to_owned(), SecretText(value)))
}

fn group_field(text: String, policy: Option<String>) -> Result<GroupField, Failure> {
    if policy.is_none() {
        return Ok(GroupField::Text(text));
    }
    let (name, limit) = match text.rsplit_once(':') {
        None => (text, None),
        Some((name, limit)) => match limit.parse() {
            Ok(limit) => (name.to_owned(), Some(limit)),
            Err(_) => {
                return usage(format!("--group {text}: {limit:?} is not a limit; write NAME:LIMIT like deploy:1"));
            }
        },
    };
    Ok(GroupField::Parts(GroupParts { name, limit, policy }))
}

/// A local time means the caller's time zone, so it is resolved here.
fn at(text: &str) -> Result<String, Failure> {
    match quantity::parse_time(text, &jiff::Zoned::now()) {
        Ok(time) => Ok(quantity::rfc3339_utc(time.as_millisecond())),
        Err(error) => usage(format!("--at: {error}")),
    }
}

fn absolute(dir: &str) -> Result<String, Failure> {
    if dir.is_empty() {
        return usage("--dir: is empty".to_owned());
    }
    if Path::new(dir).is_absolute() {
        return Ok(dir.to_owned());
    }
    let path = std::path::absolute(dir).map_err(|error| Failure::Usage(format!("--dir {dir}: {error}")))?;
    match path.into_os_string().into_string() {
        Ok(path) => Ok(path),
        Err(path) => usage(format!("--dir {dir}: {} is not UTF-8", path.to_string_lossy())),
    }
}

/// The current directory, for jobs that name none.
///
/// # Errors
/// It is gone or not UTF-8.
pub fn current_dir() -> Result<String, Failure> {
    current_dir_or("give another one with --dir")
}

/// The same with what is to be done where it cannot be told.
///
/// # Errors
/// As [`current_dir`].
pub fn current_dir_or(mend: &str) -> Result<String, Failure> {
    let path = std::env::current_dir()
        .map_err(|error| Failure::Usage(format!("the current directory cannot be told ({error}); {mend}")))?;
    path.into_os_string().into_string().map_err(|path| {
        Failure::Usage(format!("the current directory {} is not UTF-8; {mend}", path.to_string_lossy()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_values_are_named_without_telling_a_secret() {
        for (text, part) in [("=x", "name is missing"), ("", "is empty"), ("CI_RUNNER_NO_SUCH", "no such variable")] {
            assert!(variable(text).unwrap_err().to_string().contains(part), "{text}");
        }
        assert_eq!(variable("A=b=c").unwrap(), ("A".to_owned(), "b=c".to_owned()));
        assert_eq!(variable("A=").unwrap(), ("A".to_owned(), String::new()));
        for text in ["TOKEN=hunter2", "TOKEN", "=@f", "TOKEN=@"] {
            let error = secret(text).unwrap_err().to_string();
            assert!(error.contains("NAME=@FILE") && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn secrets_lose_one_line_end() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (content, value) in [("s3cret\n", "s3cret"), ("s\r\n", "s"), ("two\nlines\n\n", "two\nlines\n"), ("x", "x")]
        {
            std::fs::write(file.path(), content).unwrap();
            let (name, secret) = secret(&format!("TOKEN=@{}", file.path().display())).unwrap();
            assert_eq!((name.as_str(), secret.0.as_str()), ("TOKEN", value));
        }
        std::fs::write(file.path(), vec![b'x'; 70_000]).unwrap();
        let error = secret(&format!("TOKEN=@{}", file.path().display())).unwrap_err();
        assert!(error.to_string().contains("65536"), "{error}");
    }

    #[test]
    fn groups_have_limits_and_policies() {
        let text = |text: &str, policy: Option<&str>| {
            serde_json::to_string(&group_field(text.to_owned(), policy.map(str::to_owned)).unwrap()).unwrap()
        };
        assert_eq!(text("g:2", None), r#""g:2""#);
        assert_eq!(text("g:2", Some("latest")), r#"{"name":"g","limit":2,"policy":"latest"}"#);
        assert_eq!(text("g", Some("cancel")), r#"{"name":"g","policy":"cancel"}"#);
        assert!(group_field("g:x".to_owned(), Some("queue".to_owned())).is_err());
    }
}
