//! Everything that can go wrong, as RFC 9457 problem documents.
//!
//! A [`Fail`] says what, which one and what to do next; its `type` is a fixed word that programs may rely on, its text is
//! for people. Answers of the loop become problems here and nowhere else.

use crate::api::Problem;
use crate::daemon::handle::Refusal;
use crate::request::ReadFault;
use crate::store::StoreError;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use ci_runner_core::id::JobId;
use ci_runner_core::job::Fault;

/// Seconds after which a full queue is worth another try: a few jobs have ended by then.
const QUEUE_FULL_RETRY_SECONDS: u32 = 5;
/// Seconds after which somebody may have stopped following.
const STREAMS_RETRY_SECONDS: u32 = 5;
/// Seconds after which a daemon that was going away may be back.
const STOPPING_RETRY_SECONDS: u32 = 1;

/// An answer that is an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fail {
    status: StatusCode,
    kind: &'static str,
    detail: String,
    field: Option<String>,
    index: Option<usize>,
    retry_after: Option<u32>,
}

impl Fail {
    /// A problem with a fixed word for programs and a text for people.
    pub fn new(status: StatusCode, kind: &'static str, detail: impl Into<String>) -> Self {
        Self { status, kind, detail: detail.into(), field: None, index: None, retry_after: None }
    }

    /// 400, about a field.
    pub fn field(field: impl Into<String>, why: impl Into<String>) -> Self {
        Self::of_fault(Fault { field: field.into(), why: why.into() }, None)
    }

    /// 404 for a job.
    pub fn no_job(id: JobId) -> Self {
        Self::new(StatusCode::NOT_FOUND, "no-job", format!("there is no job {id}"))
    }

    /// 404 for a schedule.
    pub fn no_schedule(name: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "no-schedule", format!("there is no schedule {name:?}"))
    }

    /// 403.
    pub fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", detail)
    }

    /// 500; the cause is told in full, the client is on this host.
    pub fn internal(doing: &str, error: &dyn std::error::Error) -> Self {
        let mut detail = format!("cannot {doing}: {error}");
        let mut source = error.source();
        while let Some(error) = source {
            detail.push_str(&format!(": {error}"));
            source = error.source();
        }
        log::error!("a request failed: {detail}");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
    }

    /// A refusal of the loop. Where one job was submitted alone, its index says nothing.
    pub fn of_refusal(refusal: Refusal, many: bool) -> Self {
        let unavailable = |kind, seconds, detail: String| Self {
            retry_after: Some(seconds),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, kind, detail)
        };
        match refusal {
            Refusal::Fault { index, fault } => Self::of_fault(fault, many.then_some(index)),
            Refusal::KeyReused { key, index } => {
                let index = index.filter(|_| many);
                let detail = format!(
                    "the idempotency key {key:?} was used with another request in the last 24 h; use a new key"
                );
                let field = index.map(|_| "key".to_owned());
                Self { field, index, ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, "key-reused", detail) }
            }
            Refusal::NoJob(id) => Self::no_job(id),
            Refusal::NoSchedule(name) => Self::no_schedule(&name),
            Refusal::ScheduleExists(name) => Self {
                field: Some("name".to_owned()),
                ..Self::new(
                    StatusCode::CONFLICT,
                    "schedule-exists",
                    format!(
                        "there is a schedule {name:?}; remove it first (`ci-runner schedule rm {name}`), or replace it with \
                         PUT /api/v1/schedules/{name}"
                    ),
                )
            },
            Refusal::ScheduleDeclared(name) => Self::new(
                StatusCode::CONFLICT,
                "schedule-declared",
                format!(
                    "the schedule {name:?} is declared in the configuration ([schedules.{name}], on NixOS \
                     services.ci-runner.schedules): change or remove it there and reload; `ci-runner schedule pause {name}` \
                     stops it until then"
                ),
            ),
            Refusal::SchedulesFull { .. } => Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "schedules-full",
                format!("{refusal}; remove some with `ci-runner schedule rm NAME`"),
            ),
            Refusal::QueueFull { limit } => unavailable(
                "queue-full",
                QUEUE_FULL_RETRY_SECONDS,
                format!(
                    "the queue is full: {limit} open jobs are the limit (`queue_jobs_max`); nothing was queued, try again later"
                ),
            ),
            Refusal::TooMany { .. } => Self::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "too-many-jobs",
                format!("{refusal}; nothing was queued: queue them in parts, or raise the limit"),
            ),
            Refusal::ClassesFull { .. } => {
                let detail = format!("{refusal}; nothing was queued, try again later");
                unavailable("queue-full", QUEUE_FULL_RETRY_SECONDS, detail)
            }
            Refusal::ActionsFull { .. } => {
                unavailable("busy", QUEUE_FULL_RETRY_SECONDS, format!("{refusal}; nothing was done, try again later"))
            }
            Refusal::DiskFull => Self::new(
                StatusCode::INSUFFICIENT_STORAGE,
                "disk-full",
                "the disk of the state directory is full; nothing was kept, free some space and try again",
            ),
            Refusal::Store(why) => Self::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "store",
                format!("the store failed: {why}; nothing was kept"),
            ),
            Refusal::StopUnrecorded { ref why, .. } => {
                let detail = refusal.to_string();
                Self { detail, kind: "stop-unrecorded", ..Self::of_refusal(why.as_ref().clone(), many) }
            }
            Refusal::Stopping => {
                unavailable("stopping", STOPPING_RETRY_SECONDS, "the daemon is going away; try again".to_owned())
            }
            Refusal::Unknown => unavailable(
                "unknown",
                STOPPING_RETRY_SECONDS,
                "the daemon went away before the answer; whether it was done is not known".to_owned(),
            ),
        }
    }

    /// 503 with a time to come back.
    pub fn busy(detail: impl Into<String>, retry_after: u32) -> Self {
        Self { retry_after: Some(retry_after), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", detail) }
    }

    /// 503: so many are followed already.
    pub fn too_many_streams(max: usize) -> Self {
        let detail = format!(
            "{max} event streams and followed logs are open, the most there may be; commands are answered as ever: ask from \
             time to time instead of following, or come back"
        );
        let kind = "too-many-streams";
        Self { retry_after: Some(STREAMS_RETRY_SECONDS), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, kind, detail) }
    }

    /// 429 with a time to come back.
    pub fn too_many_connections(detail: impl Into<String>, retry_after: u32) -> Self {
        let kind = "too-many-connections";
        Self { retry_after: Some(retry_after), ..Self::new(StatusCode::TOO_MANY_REQUESTS, kind, detail) }
    }

    /// The whole answer, for a connection that is closed behind it without being read.
    pub fn raw(&self) -> Vec<u8> {
        let body = serde_json::to_string(&self.document()).unwrap_or_default();
        let retry = self.retry_after.map(|seconds| format!("retry-after: {seconds}\r\n")).unwrap_or_default();
        format!(
            "HTTP/1.1 {}\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\n{retry}connection: close\r\n\r\n{body}",
            self.status,
            body.len(),
        )
        .into_bytes()
    }

    fn of_fault(fault: Fault, index: Option<usize>) -> Self {
        let detail = if fault.field.is_empty() { fault.why.clone() } else { fault.to_string() };
        let field = (!fault.field.is_empty()).then_some(fault.field);
        Self { field, index, ..Self::new(StatusCode::BAD_REQUEST, "invalid", detail) }
    }

    /// The document.
    pub fn document(&self) -> Problem {
        let title = self.status.canonical_reason().unwrap_or("Error").to_owned();
        Problem {
            kind: format!("urn:ci-runner:problem:{}", self.kind),
            title,
            status: self.status.as_u16(),
            detail: self.detail.clone(),
            field: self.field.clone(),
            index: self.index,
        }
    }
}

impl From<Fault> for Fail {
    fn from(fault: Fault) -> Self {
        Self::of_fault(fault, None)
    }
}

impl From<ReadFault> for Fail {
    fn from(read: ReadFault) -> Self {
        Self::of_fault(read.fault, read.index)
    }
}

impl From<Refusal> for Fail {
    fn from(refusal: Refusal) -> Self {
        Self::of_refusal(refusal, false)
    }
}

impl From<StoreError> for Fail {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Full => Self::of_refusal(Refusal::DiskFull, false),
            error => Self::internal("read the store", &error),
        }
    }
}

impl IntoResponse for Fail {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self.document()).unwrap_or_default();
        let mut response = (self.status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
