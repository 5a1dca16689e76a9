//! What queues jobs: a request, its fields that have several forms, and the answer.

use super::bounded;
use crate::quantity::{DurationField, SizeField, WordsField};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// A job to queue. Exactly one of `command` and `shell`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct JobRequest {
    /// Program and arguments.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "bounded::command")]
    pub command: Option<Vec<String>>,
    /// A text for `sh -c`, instead of `command`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shell: Option<String>,
    /// For people; not unique.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Only this pool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// Sandbox, one that its pool allows: `build`, `strict` or `open`. For pools whose jobs are units of systemd.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// Labels a pool must carry, all of them: `key` or `key=value`.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "bounded::labels")]
    pub labels: Vec<String>,
    /// Variables for the job.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "bounded::env")]
    pub env: BTreeMap<String, String>,
    /// Absolute working directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dir: Option<String>,
    /// Where the caller is. It becomes `dir` where none is given and the job goes to a pool that runs as a person, with this
    /// directory among its paths; else it says nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caller_dir: Option<String>,
    /// Hard deadline of each attempt: seconds, or a text such as `30m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<DurationSchema>)]
    pub timeout: Option<DurationField>,
    /// Soft deadline: a warning in the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<DurationSchema>)]
    pub soft_timeout: Option<DurationField>,
    /// Re-tries after the first attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<u32>,
    /// Delay before a re-try.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<DurationSchema>)]
    pub retry_delay: Option<DurationField>,
    /// `fixed` or `exponential`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backoff: Option<String>,
    /// Rules, first match wins: `exit`, `exit:2`, `signal`, `signal:KILL`, `lost`, `timeout`, `oom`, `start`; `!` before one
    /// forbids. A list, or a text with commas.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "WordsField::words")]
    #[schema(value_type = Option<WordsSchema>)]
    pub retry_on: Option<Vec<String>>,
    /// Higher goes first; 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<i64>,
    /// Concurrency group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupField>,
    /// Jobs it waits for.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "bounded::after")]
    pub after: Vec<AfterField>,
    /// Not before this date.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    /// Not before so long after submission.
    #[serde(rename = "in", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<DurationSchema>)]
    pub delay: Option<DurationField>,
    /// Dropped when it has not started so long after submission. Once tried it is not tried again after that, and ends as its
    /// last attempt did.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<DurationSchema>)]
    pub expires: Option<DurationField>,
    /// Queue it on hold.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub hold: bool,
    /// Idempotency key of this one job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Secrets by name: given to the job as variables, masked in its log, never stored with it. Never sent back.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "bounded::secrets")]
    pub secrets: BTreeMap<String, SecretText>,
    /// Memory limit of each attempt. Refused where nothing can enforce it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<SizeSchema>)]
    pub memory: Option<SizeField>,
    /// CPU limit in cores. Refused where nothing can enforce it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<f64>,
    /// Limit of processes. Refused where nothing can enforce it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids: Option<u64>,
    /// After an attempt that was out of memory the next one gets so many times its limit, up to what its pool allows. Needs
    /// `oom` in `retry_on`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_memory_factor: Option<f64>,
    /// Cap of the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<SizeSchema>)]
    pub log_max: Option<SizeField>,
    /// Notifiers of the daemon's configuration that are told when the job ends.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "bounded::notify")]
    pub notify: Vec<String>,
    /// Correlation id; made when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correlation: Option<String>,
}

impl JobRequest {
    /// What it has of things of which a job may have many.
    pub fn entries(&self) -> usize {
        let words = [&self.command, &self.retry_on].into_iter().flatten().map(Vec::len).sum::<usize>();
        let lists = self.labels.len() + self.after.len() + self.notify.len();
        words + lists + self.env.len() + self.secrets.len()
    }
}

/// Seconds as a number, or a text such as `1h30m`.
#[derive(ToSchema)]
#[schema(description = "Seconds as a number, or a text such as `1h30m`.")]
#[serde(untagged)]
#[derive(Serialize)]
pub enum DurationSchema {
    /// Seconds.
    Seconds(f64),
    /// Text.
    Text(String),
}

/// Bytes as a number, or a text such as `64M`.
#[derive(ToSchema, Serialize)]
#[serde(untagged)]
pub enum SizeSchema {
    /// Bytes.
    Bytes(u64),
    /// Text.
    Text(String),
}

/// Words as a list, or as a text such as `exit:2,lost`.
#[derive(ToSchema, Serialize)]
#[serde(untagged)]
pub enum WordsSchema {
    /// List.
    List(Vec<String>),
    /// Text with commas.
    Text(String),
}

/// A secret's value: can be sent and used, never shown.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct SecretText(pub String);

impl std::fmt::Debug for SecretText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// `NAME`, `NAME:LIMIT`, or an object.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum GroupField {
    /// `NAME[:LIMIT]`.
    Text(String),
    /// All parts.
    Parts(GroupParts),
}

/// A group as an object.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GroupParts {
    /// Name.
    pub name: String,
    /// How many of it run at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// `queue`, `latest` or `cancel`. With the latter two the others make way as soon as the job is queued, also while it waits for
    /// its time or for other jobs; one whose dependency has failed already takes nobody's place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
}

/// An id, `ID:condition`, or an object.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum AfterField {
    /// After this job's success.
    Id(u64),
    /// `ID[:success|failure|always]`.
    Text(String),
    /// All parts.
    Parts(AfterParts),
}

/// A dependency as an object.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AfterParts {
    /// The other job.
    pub id: u64,
    /// `success` (when absent), `failure` or `always`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on: Option<String>,
}

/// One job or several; several are queued all or none.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum Submit {
    /// Several.
    Many(Vec<JobRequest>),
    /// One.
    One(Box<JobRequest>),
}

/// Answer to one job.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct SubmittedOne {
    /// Its id.
    pub id: u64,
}

/// Answer to a submission, which may have been an array.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum Submitted {
    /// Of an array.
    Many(SubmittedMany),
    /// Of one job.
    One(SubmittedOne),
}

/// Answer to several jobs.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct SubmittedMany {
    /// Their ids, in order.
    pub ids: Vec<u64>,
}
