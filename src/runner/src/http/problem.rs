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
        let (status, kind, retry_after) = for_programs(&refusal);
        let fail = Self { retry_after, ..Self::new(status, kind, for_people(&refusal)) };
        match refusal {
            Refusal::Fault { index, fault } => Self::of_fault(fault, many.then_some(index)),
            Refusal::KeyReused { key: _, index } => {
                let index = index.filter(|_| many);
                Self { field: index.map(|_| "key".to_owned()), index, ..fail }
            }
            Refusal::ScheduleExists(_) => Self { field: Some("name".to_owned()), ..fail },
            Refusal::NoJob(_)
            | Refusal::NoSchedule(_)
            | Refusal::ScheduleUnread { .. }
            | Refusal::ScheduleDeclared(_)
            | Refusal::SchedulesFull { .. }
            | Refusal::SchedulesLarge { .. }
            | Refusal::QueueFull { .. }
            | Refusal::TooMany { .. }
            | Refusal::ClassesFull { .. }
            | Refusal::ActionsFull { .. }
            | Refusal::DiskFull
            | Refusal::Store(_)
            | Refusal::StopUnrecorded { .. }
            | Refusal::Stopping
            | Refusal::Unknown => fail,
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

/// What programs go by: status, kind and seconds after which to come back.
fn for_programs(refusal: &Refusal) -> (StatusCode, &'static str, Option<u32>) {
    let later = |kind, seconds| (StatusCode::SERVICE_UNAVAILABLE, kind, Some(seconds));
    match refusal {
        Refusal::Fault { .. } => (StatusCode::BAD_REQUEST, "invalid", None),
        Refusal::KeyReused { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "key-reused", None),
        Refusal::NoJob(_) => (StatusCode::NOT_FOUND, "no-job", None),
        Refusal::NoSchedule(_) => (StatusCode::NOT_FOUND, "no-schedule", None),
        Refusal::ScheduleUnread { .. } => (StatusCode::CONFLICT, "schedule-unreadable", None),
        Refusal::ScheduleExists(_) => (StatusCode::CONFLICT, "schedule-exists", None),
        Refusal::ScheduleDeclared(_) => (StatusCode::CONFLICT, "schedule-declared", None),
        Refusal::SchedulesFull { .. } | Refusal::SchedulesLarge { .. } => {
            (StatusCode::UNPROCESSABLE_ENTITY, "schedules-full", None)
        }
        Refusal::QueueFull { .. } | Refusal::ClassesFull { .. } => later("queue-full", QUEUE_FULL_RETRY_SECONDS),
        Refusal::TooMany { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "too-many-jobs", None),
        Refusal::ActionsFull { .. } => later("busy", QUEUE_FULL_RETRY_SECONDS),
        Refusal::DiskFull => (StatusCode::INSUFFICIENT_STORAGE, "disk-full", None),
        Refusal::Store(_) => {
            let kind = "store";
            (StatusCode::INTERNAL_SERVER_ERROR, kind, None)
        }
        Refusal::StopUnrecorded { why, .. } => {
            let (status, _, retry_after) = for_programs(why);
            (status, "stop-unrecorded", retry_after)
        }
        Refusal::Stopping => later("stopping", STOPPING_RETRY_SECONDS),
        Refusal::Unknown => later("unknown", STOPPING_RETRY_SECONDS),
    }
}

/// What people read: the refusal, and what to do about it.
fn for_people(refusal: &Refusal) -> String {
    match refusal {
        Refusal::Fault { .. } | Refusal::NoJob(_) | Refusal::NoSchedule(_) | Refusal::StopUnrecorded { .. } => {
            refusal.to_string()
        }
        Refusal::KeyReused { key, .. } => {
            format!("the idempotency key {key:?} was used with another request in the last 24 h; use a new key")
        }
        Refusal::ScheduleUnread { name, .. } => format!(
            "{refusal}; mend that on this host and restart the daemon, replace it with PUT /api/v1/schedules/{name}, or remove it \
             (`ci-runner schedule rm {name}`)"
        ),
        Refusal::ScheduleExists(name) => format!(
            "there is a schedule {name:?}; remove it first (`ci-runner schedule rm {name}`), or replace it with PUT \
             /api/v1/schedules/{name}"
        ),
        Refusal::ScheduleDeclared(name) => format!(
            "the schedule {name:?} is declared in the configuration ([schedules.{name}], on NixOS \
             services.ci-runner.schedules): change or remove it there and reload; `ci-runner schedule pause {name}` stops it \
             until then"
        ),
        Refusal::SchedulesFull { .. } | Refusal::SchedulesLarge { .. } => {
            format!("{refusal}; remove some with `ci-runner schedule rm NAME`")
        }
        Refusal::QueueFull { .. } | Refusal::ClassesFull { .. } => {
            format!("{refusal}; nothing was queued, try again later")
        }
        Refusal::TooMany { .. } => {
            format!("{refusal}; nothing was queued: queue them in parts, or raise the limit")
        }
        Refusal::ActionsFull { .. } => format!("{refusal}; nothing was done, try again later"),
        Refusal::DiskFull => format!("{refusal}; nothing was kept, free some space and try again"),
        Refusal::Store(_) => format!("{refusal}; nothing was kept"),
        Refusal::Stopping => format!("{refusal}; try again"),
        Refusal::Unknown => format!("{refusal}; whether it was done is not known"),
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
