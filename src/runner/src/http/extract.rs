//! Reading requests: every part that is wrong becomes a problem document that names it.

use super::pieces::pieces;
use super::{
    ANSWER_TIMEOUT, ANSWERS_BYTES_MAX, App, BODY_BYTES_MAX, BODY_BYTES_SMALL, BODY_TIMEOUT, Fail, OWN_PART, Peer,
    REQUEST_TIMEOUT, Role, SHARE_PATIENCE,
};
use crate::daemon::handle::Submitter;
use crate::request::read;
use crate::suggest::{did_you_mean, fields_of};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use ci_runner_core::id::JobId;
use futures_util::StreamExt as _;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// The id in the path.
pub(super) struct Id(pub JobId);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Fail;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Fail> {
        let Name(text) = Name::from_request_parts(parts, state).await?;
        let id = text.parse().ok().and_then(JobId::new);
        id.map(Self).ok_or_else(|| Fail::field("id", format!("{text:?} is no job id; ids are whole numbers from 1")))
    }
}

/// The one name in the path.
pub(super) struct Name(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = Fail;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Fail> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(name)) => Ok(Self(name)),
            Err(rejection) => Err(Fail::field("", format!("the path is wrong: {}", rejection.body_text()))),
        }
    }
}

/// The query; `T` refuses unknown keys.
pub(super) struct Params<T>(pub T);

/// Parameters that are whole numbers, each with the least and the most that it may be.
pub(super) trait Numbers {
    const NUMBERS: &'static [(&'static str, u64, u64)] = &[];
}

impl<S: Send + Sync, T: DeserializeOwned + Numbers> FromRequestParts<S> for Params<T> {
    type Rejection = Fail;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Fail> {
        let params = Query::<T>::try_from_uri(&parts.uri);
        params.map(|Query(params)| Self(params)).map_err(|rejection| no_params::<T>(&rejection.body_text()))
    }
}

/// What is wrong with a query, from what the library says of it.
fn no_params<T: DeserializeOwned + Numbers>(text: &str) -> Fail {
    let why = text.rsplit_once("query string: ").map_or(text, |(_, why)| why);
    if let Some((_, name)) = why.split_once("duplicate field `") {
        return Fail::field(name.trim_end_matches('`'), "is given twice; give it once");
    }
    // The path of the field comes first, where there is one.
    let (field, why) = why.split_once(": ").unwrap_or(("", why));
    if why.starts_with("unknown field") {
        let hint = did_you_mean(field, fields_of::<T>().iter().copied());
        return Fail::field(field, format!("there is no such parameter; {hint}"));
    }
    // What Rust says of a text that is no number is not for people.
    match T::NUMBERS.iter().find(|(name, ..)| *name == field) {
        Some((_, least, most)) => Fail::field(field, format!("is no whole number from {least} to {most}")),
        None if why.contains("`true`") => Fail::field(field, "is neither true nor false"),
        None => Fail::field(field, why),
    }
}

/// Who asks.
pub(super) struct Caller(pub Peer);

impl Caller {
    /// The name under which the wish is recorded.
    pub fn name(&self) -> String {
        self.0.name.to_string()
    }

    /// As whom jobs are submitted.
    pub fn submitter(&self) -> Submitter {
        Submitter { name: self.name(), uid: Some(self.0.uid) }
    }

    /// Refuses all but admins.
    pub fn admin(&self, what: &str) -> Result<(), Fail> {
        if self.0.role == Some(Role::Admin) {
            return Ok(());
        }
        Err(Fail::forbidden(format!("{} may not {what}; root and the daemon's own user may", self.0.name)))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Fail;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Fail> {
        match parts.extensions.get::<Peer>() {
            Some(peer) => Ok(Self(peer.clone())),
            None => Err(Fail::forbidden("this needs the unix socket, which tells who asks")),
        }
    }
}

/// A whole body. While a large one is in use, it counts: of what is everybody's, and of what is the sender's.
pub(super) struct Body {
    pub bytes: Bytes,
    _share: Option<(OwnedSemaphorePermit, Option<OwnedSemaphorePermit>)>,
}

impl Body {
    /// Reads it as JSON, a large one beside the threads that answer; an empty body as `{}`.
    pub async fn json<T: DeserializeOwned + Send + 'static>(self) -> Result<T, Fail> {
        match self.bytes.len() {
            0 => Ok(read(b"{}")?),
            1..=BODY_BYTES_SMALL => Ok(read(&self.bytes)?),
            // The whole of it goes along: its share counts for as long as the bytes are there, whether or not the client still is.
            _ => blocking(move || read(&{ self }.bytes)).await,
        }
    }
}

impl FromRequest<App> for Body {
    type Rejection = Fail;

    async fn from_request(request: Request, app: &App) -> Result<Self, Fail> {
        let length = request.headers().get(header::CONTENT_LENGTH);
        let length = length.and_then(|value| value.to_str().ok()).and_then(|text| text.parse::<usize>().ok());
        // Without a length (chunked) it may become as large as the limit.
        let expected = length.unwrap_or(BODY_BYTES_MAX);
        if expected > BODY_BYTES_MAX {
            return Err(too_large());
        }
        let peer = request.extensions().get::<Peer>().cloned();
        let mut body = Limited::new(request.into_body(), BODY_BYTES_MAX);
        let mut bytes = Vec::new();
        // Only who has sent more than a small body gets a share: whoever is silent must not hold what others wait for.
        if arrive(&mut body, &mut bytes, BODY_BYTES_SMALL).await? {
            return Ok(Self { bytes: bytes.into(), _share: None });
        }
        let own = app.own_bodies.take(peer.as_ref(), expected, SHARE_PATIENCE).await?;
        let share = share(&app.body_kib, expected, SHARE_PATIENCE).await?;
        bytes.reserve_exact(expected.saturating_sub(bytes.len()));
        arrive(&mut body, &mut bytes, BODY_BYTES_MAX).await?;
        Ok(Self { bytes: bytes.into(), _share: Some((share, own)) })
    }
}

/// Reads until there are more than so many bytes, or until the end: true.
async fn arrive(body: &mut Limited<axum::body::Body>, bytes: &mut Vec<u8>, most: usize) -> Result<bool, Fail> {
    let frames = async {
        while bytes.len() <= most {
            match body.frame().await {
                None => return Ok(true),
                // Trailers say nothing here.
                Some(Ok(frame)) => bytes.extend_from_slice(&frame.into_data().unwrap_or_default()),
                Some(Err(error)) if error.is::<LengthLimitError>() => return Err(too_large()),
                Some(Err(error)) => {
                    let why = format!("the body broke off: {error}");
                    return Err(Fail::new(StatusCode::BAD_REQUEST, "body", why));
                }
            }
        }
        Ok(false)
    };
    timeout(BODY_TIMEOUT, frames).await.unwrap_or_else(|_| {
        let why = format!("the body did not arrive within {} s", BODY_TIMEOUT.as_secs());
        Err(Fail::new(StatusCode::REQUEST_TIMEOUT, "body", why))
    })
}

/// So many bytes of what many requests share; given back when dropped.
pub(super) async fn share(
    kib: &Arc<Semaphore>,
    bytes: usize,
    patience: Duration,
) -> Result<OwnedSemaphorePermit, Fail> {
    let wanted = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
    match timeout(patience, kib.clone().acquire_many_owned(wanted)).await {
        Ok(Ok(permit)) => Ok(permit),
        Ok(Err(_)) | Err(_) => Err(Fail::busy("too many large requests at once; try again", 1)),
    }
}

/// A client's own part of large answers, to be taken before one is made.
pub(super) async fn own_answer(app: &App, caller: &Caller) -> Result<Option<OwnedSemaphorePermit>, Fail> {
    app.own_answers.take(Some(&caller.0), ANSWERS_BYTES_MAX / OWN_PART, SHARE_PATIENCE).await
}

/// An answer that may be large: until the client has taken it, it counts. It goes out in pieces, and the share goes with the last.
pub(super) async fn large_json(app: &App, json: Vec<u8>, own: Option<OwnedSemaphorePermit>) -> Result<Response, Fail> {
    let headers = [(header::CONTENT_TYPE, "application/json")];
    if json.len() <= BODY_BYTES_SMALL {
        return Ok((headers, json).into_response());
    }
    let share = share(&app.answer_kib, json.len().min(ANSWERS_BYTES_MAX), SHARE_PATIENCE).await?;
    let pieces = pieces(share, json, ANSWER_TIMEOUT);
    // One that was cut stays the client's own until its connection goes.
    let pieces = pieces.inspect(move |_| {
        let _own = &own;
    });
    Ok((headers, axum::body::Body::from_stream(pieces)).into_response())
}

fn too_large() -> Fail {
    let why = format!("the body is larger than {BODY_BYTES_MAX} bytes; send the jobs in parts");
    Fail::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", why)
}

/// Bounds the time of an answer that is no stream.
pub(super) async fn in_time<T>(work: impl Future<Output = Result<T, Fail>>) -> Result<T, Fail> {
    match timeout(REQUEST_TIMEOUT, work).await {
        Ok(answer) => answer,
        Err(_) => Err(Fail::new(
            StatusCode::GATEWAY_TIMEOUT,
            "timeout",
            format!(
                "no answer within {} s; what was asked may still happen: ask again with the same Idempotency-Key, or look",
                REQUEST_TIMEOUT.as_secs()
            ),
        )),
    }
}

/// Does reading work beside the threads that answer.
pub(super) async fn blocking<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, Fail>
where
    T: Send + 'static,
    E: Send + 'static,
    Fail: From<E>,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => Ok(result?),
        Err(error) => Err(Fail::internal("finish the work", &error)),
    }
}
