//! How values of the core look in the database, and back.
//!
//! The core knows no serialisation; this is the one place that does. What is filtered on has columns, small words have
//! numbers (the schema names them, the views show the words), what only an executor needs is JSON. Forms of our own:
//!
//! - dependencies: `id:condition,id:condition…`; ids of a key: `first-last,single…`;
//! - ends and retry policies, which have files of their own.
//!
//! Nothing here is lenient: what this version did not write it cannot read, and says which field it was.

use crate::store::StoreError;
use ci_runner_core::group::GroupPolicy;
use ci_runner_core::id::JobId;
use ci_runner_core::job::{After, Command, Condition, Work};
use ci_runner_core::labels::Label;
use ci_runner_core::limits::{Limits, Resource};
use ci_runner_core::outcome::Lacks;
use rusqlite::types::{ToSql, ToSqlOutput, Value, ValueRef};
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;

/// A field that cannot be read.
pub(super) fn bad(what: impl Into<String>) -> StoreError {
    StoreError::Row { what: what.into() }
}

/// To a column; what no column can hold becomes the largest it can.
pub(super) fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// From a column.
pub(super) fn uint(value: i64, what: &str) -> Result<u64, StoreError> {
    u64::try_from(value).map_err(|_| bad(what))
}

/// From a column.
pub(super) fn uint32(value: i64, what: &str) -> Result<u32, StoreError> {
    u32::try_from(value).map_err(|_| bad(what))
}

/// From a column.
pub(super) fn job_id(value: i64) -> Result<JobId, StoreError> {
    u64::try_from(value).ok().and_then(JobId::new).ok_or_else(|| bad(format!("job id {value}")))
}

/// From text of ours.
pub(super) fn parse_id(text: &str) -> Result<JobId, StoreError> {
    text.parse().ok().and_then(JobId::new).ok_or_else(|| bad(format!("job id {text:?}")))
}

/// The column `memory_of_all`: its lowest bit is that word, the others are what of its sandbox the attempt lacked. Programs
/// from before the others were there read a peak of memory that is of all processes, which units' peaks are.
pub(super) fn memory_and_lacks(of_all: bool, lacks: Lacks) -> i64 {
    int(lacks.bits() << 1 | u64::from(of_all))
}

/// From that column; NULL in a receipt of before it was.
pub(super) fn of_memory_and_lacks(value: Option<i64>) -> Result<(bool, Lacks), StoreError> {
    let bits = uint(value.unwrap_or(0), "receipt")?;
    let lacks = Lacks::from_bits(bits >> 1).ok_or_else(|| bad("a receipt lacks what is no part of a sandbox"))?;
    Ok((bits & 1 == 1, lacks))
}

/// The three columns of limits: memory, CPU, processes.
pub(super) fn limits_columns(limits: &Limits) -> [Option<i64>; 3] {
    Resource::ALL.map(|resource| limits.get(resource).map(int))
}

/// Limits from their three columns.
pub(super) fn limits(columns: [Option<i64>; 3]) -> Result<Limits, StoreError> {
    let [memory, cpu, pids] = columns;
    let small = |value: Option<i64>| value.map(|value| uint32(value, "limit")).transpose();
    let memory_bytes = memory.map(|value| uint(value, "limit")).transpose()?;
    Ok(Limits { memory_bytes, cpu_milli: small(cpu)?, pids: small(pids)? })
}

#[derive(Serialize)]
struct WorkOut<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    argv: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shell: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    env: &'a [(String, String)],
    #[serde(skip_serializing_if = "Option::is_none")]
    dir: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    soft_timeout_ms: Option<u64>,
    log_bytes_max: u64,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    secrets: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    profile: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    submitter_uid: Option<u32>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    notify: &'a [String],
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WorkIn {
    argv: Option<Vec<String>>,
    shell: Option<String>,
    #[serde(default)]
    env: Vec<(String, String)>,
    dir: Option<String>,
    timeout_ms: Option<u64>,
    soft_timeout_ms: Option<u64>,
    log_bytes_max: u64,
    #[serde(default)]
    secrets: Vec<String>,
    profile: Option<String>,
    submitter_uid: Option<u32>,
    #[serde(default)]
    notify: Vec<String>,
}

/// As JSON.
pub(super) fn work_text(work: &Work) -> Result<String, StoreError> {
    let (argv, shell) = match &work.command {
        Command::Argv(words) => (Some(words.as_slice()), None),
        Command::Shell(text) => (None, Some(text.as_str())),
    };
    let out = WorkOut {
        argv,
        shell,
        env: &work.env,
        dir: work.dir.as_deref(),
        timeout_ms: work.timeout_ms,
        soft_timeout_ms: work.soft_timeout_ms,
        log_bytes_max: work.log_bytes_max,
        secrets: &work.secrets,
        profile: work.profile.as_deref(),
        submitter_uid: work.submitter_uid,
        notify: &work.notify,
    };
    serde_json::to_string(&out).map_err(|_| bad("job's work"))
}

/// From JSON.
pub(super) fn work(text: &str) -> Result<Work, StoreError> {
    let read: WorkIn = serde_json::from_str(text).map_err(|error| bad(format!("job's work ({error})")))?;
    let command = match (read.argv, read.shell) {
        (Some(words), None) => Command::Argv(words),
        (None, Some(text)) => Command::Shell(text),
        (Some(_), Some(_)) | (None, None) => return Err(bad("job's command")),
    };
    Ok(Work {
        command,
        env: read.env,
        dir: read.dir,
        timeout_ms: read.timeout_ms,
        soft_timeout_ms: read.soft_timeout_ms,
        log_bytes_max: read.log_bytes_max,
        secrets: read.secrets,
        profile: read.profile,
        submitter_uid: read.submitter_uid,
        notify: read.notify,
    })
}

/// A sum over what is executed, where and for whom (FNV-1a, 64 bits, <http://www.isthe.com/chongo/tech/comp/fnv/>): a disk
/// that turned a bit must not make another command of it. Fields are parted by a byte that UTF-8 never has.
pub(super) fn sum(id: i64, fields: [Option<&str>; 4]) -> i64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut take = |byte: u8| hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    id.to_le_bytes().into_iter().for_each(&mut take);
    for field in fields {
        take(if field.is_some() { 0xfe } else { 0xff });
        field.unwrap_or_default().bytes().for_each(&mut take);
    }
    i64::from_le_bytes(hash.to_le_bytes())
}

/// A correlation id: a UUID in its usual form takes 16 bytes, anything else is text.
pub(super) enum Correlation<'a> {
    Uuid([u8; 16]),
    Text(&'a str),
}

impl<'a> Correlation<'a> {
    pub fn of(text: &'a str) -> Self {
        let lower = |byte: &u8| !byte.is_ascii_uppercase();
        match uuid::Uuid::try_parse(text) {
            Ok(uuid) if text.len() == 36 && text.as_bytes().iter().all(lower) => Self::Uuid(*uuid.as_bytes()),
            Ok(_) | Err(_) => Self::Text(text),
        }
    }
}

impl ToSql for Correlation<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Uuid(bytes) => ValueRef::Blob(bytes),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
        }))
    }
}

impl From<Correlation<'_>> for Value {
    fn from(correlation: Correlation<'_>) -> Self {
        match correlation {
            Correlation::Uuid(bytes) => Self::Blob(bytes.to_vec()),
            Correlation::Text(text) => Self::Text(text.to_owned()),
        }
    }
}

/// From a column.
pub(super) fn correlation(value: ValueRef<'_>) -> Result<String, StoreError> {
    match value {
        ValueRef::Blob(bytes) => {
            let uuid = uuid::Uuid::from_slice(bytes).map_err(|_| bad("correlation id"))?;
            Ok(uuid.hyphenated().to_string())
        }
        ValueRef::Text(text) => String::from_utf8(text.to_vec()).map_err(|_| bad("correlation id")),
        ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) => Err(bad("correlation id")),
    }
}

/// None for no labels.
pub(super) fn labels_text(labels: &[Label]) -> Option<String> {
    (!labels.is_empty()).then(|| labels.iter().map(Label::as_str).collect::<Vec<_>>().join(" "))
}

/// From text.
pub(super) fn labels(text: Option<&str>) -> Result<Vec<Label>, StoreError> {
    let words = text.into_iter().flat_map(|text| text.split(' '));
    words.map(|word| Label::parse(word).map_err(|_| bad(format!("label {word:?}")))).collect()
}

/// Number of a condition.
pub(super) fn condition_number(condition: Condition) -> i64 {
    match condition {
        Condition::Success => 0,
        Condition::Failure => 1,
        Condition::Always => 2,
    }
}

/// From its number.
pub(super) fn condition(number: i64) -> Result<Condition, StoreError> {
    let all = [Condition::Success, Condition::Failure, Condition::Always];
    all.into_iter().find(|condition| condition_number(*condition) == number).ok_or_else(|| bad("condition"))
}

/// None for no dependencies.
pub(super) fn after_text(after: &[After]) -> Option<String> {
    (!after.is_empty()).then(|| {
        let words: Vec<String> = after.iter().map(|after| format!("{}:{}", after.job, after.on.word())).collect();
        words.join(",")
    })
}

/// From text.
pub(super) fn after(text: Option<&str>) -> Result<Vec<After>, StoreError> {
    let words = text.into_iter().flat_map(|text| text.split(','));
    words
        .map(|word| {
            let (id, on) = word.split_once(':').ok_or_else(|| bad("dependency"))?;
            Ok(After { job: parse_id(id)?, on: Condition::from_word(on).ok_or_else(|| bad("dependency"))? })
        })
        .collect()
}

/// Number of a policy.
pub(super) fn policy_number(policy: GroupPolicy) -> i64 {
    match policy {
        GroupPolicy::Queue => 0,
        GroupPolicy::Latest => 1,
        GroupPolicy::Cancel => 2,
    }
}

/// From its number.
pub(super) fn policy(number: i64) -> Result<GroupPolicy, StoreError> {
    let all = [GroupPolicy::Queue, GroupPolicy::Latest, GroupPolicy::Cancel];
    all.into_iter().find(|policy| policy_number(*policy) == number).ok_or_else(|| bad("group policy"))
}

/// Ids of a key, runs of them as `first-last`.
pub(super) fn ids_text(ids: &[JobId]) -> String {
    let mut text = String::new();
    let mut at = 0;
    while let Some(first) = ids.get(at) {
        let follows = |pair: &[JobId]| pair[1].get() == pair[0].get() + 1;
        let run = 1 + ids[at..].windows(2).take_while(|pair| follows(pair)).count();
        let comma = if at == 0 { "" } else { "," };
        let written = match run {
            1 => write!(text, "{comma}{first}"),
            _ => write!(text, "{comma}{first}-{}", ids[at + run - 1]),
        };
        written.expect("a String takes everything");
        at += run;
    }
    text
}

/// From text.
pub(super) fn ids(text: &str) -> Result<Vec<JobId>, StoreError> {
    let mut ids = Vec::new();
    for word in text.split(',').filter(|word| !word.is_empty()) {
        match word.split_once('-') {
            Some((first, last)) => {
                for id in parse_id(first)?.get()..=parse_id(last)?.get() {
                    ids.push(JobId::new(id).ok_or_else(|| bad("job id 0"))?);
                }
            }
            None => ids.push(parse_id(word)?),
        }
    }
    Ok(ids)
}
