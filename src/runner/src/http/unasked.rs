//! Answers to what is no request: a head that is too large, a line that is no HTTP. The library answers them by itself and
//! without a body, before any route is asked; here they become problem documents like all other errors.
//!
//! hyper takes up the next head only when the answer to the request before is written and flushed whole. So what it writes while
//! no request is being answered is an answer of its own, and the last word on the connection: [`Unasked`] keeps it from the peer
//! and notes its status, and when the library has given up, the owner of the connection writes [`Unasked::refusal`] instead.
//! Where a body of a request is still read behind its answer, the two may meet; then the library's answer goes out as it is.
//!
//! Nothing else is ever kept: an answer that a route gave passes untouched, whatever it looks like.

use super::Fail;
use super::serve::{HEAD_BYTES_MAX, HEADERS_MAX};
use axum::http::StatusCode;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Longest path with its query: hyper's own limit.
const TARGET_BYTES_MAX: usize = u16::MAX as usize - 1;

/// No request is being answered.
const IDLE: u8 = 0;
/// A request is at its route, or its answer is being written.
const ASKED: u8 = 1;
/// All of the answer is made, and may be in the library's buffer.
const MADE: u8 = 2;

/// Where a connection is between two requests. Who answers tells, the stream listens.
#[derive(Clone, Debug, Default)]
pub(super) struct Turn(Arc<AtomicU8>);

impl Turn {
    /// A request is given to its route.
    pub fn asked(&self) {
        self.0.store(ASKED, Ordering::Release);
    }

    /// The body of the answer has ended.
    pub fn made(&self) {
        self.0.store(MADE, Ordering::Release);
    }

    fn flushed(&self) {
        let _ = self.0.compare_exchange(MADE, IDLE, Ordering::AcqRel, Ordering::Acquire);
    }

    fn is_idle(&self) -> bool {
        self.0.load(Ordering::Acquire) == IDLE
    }
}

/// A stream that keeps the library's own answers.
pub(super) struct Unasked<S> {
    stream: S,
    turn: Turn,
    /// Of the answer that was kept.
    status: Option<StatusCode>,
}

impl<S> Unasked<S> {
    pub fn new(stream: S, turn: Turn) -> Self {
        Self { stream, turn, status: None }
    }

    /// The stream, to write to it past the library.
    pub fn into_stream(self) -> S {
        self.stream
    }

    /// What the peer is told after the library gave up with this error, before which it had read so much of a head; None: nothing.
    pub fn refusal(&self, error: &hyper::Error, head: &[u8], head_timeout: Duration) -> Option<Fail> {
        let begun = self.turn.is_idle() && !head.is_empty();
        match self.status {
            Some(status) => Some(in_words(status)),
            None if error.is_parse_version_h2() => Some(no_http("HTTP/2 is not spoken here; use HTTP/1.1")),
            None if error.is_timeout() && begun => {
                let why = format!("the head of the request did not arrive within {} s", head_timeout.as_secs());
                Some(Fail::new(StatusCode::REQUEST_TIMEOUT, "head", why))
            }
            None if error.is_incomplete_message() && begun => Some(no_http("the head of the request broke off")),
            None => None,
        }
    }

    /// Whether these bytes are of an answer that nobody asked a route for.
    fn keeps(&mut self, bytes: &[u8]) -> bool {
        if self.status.is_none() && self.turn.is_idle() {
            self.status = status_of(bytes);
        }
        self.status.is_some()
    }
}

/// The status of an answer that refuses; None: it is something else.
fn status_of(bytes: &[u8]) -> Option<StatusCode> {
    let code = bytes.strip_prefix(b"HTTP/1.")?.get(2..5)?;
    StatusCode::from_bytes(code).ok().filter(StatusCode::is_client_error)
}

fn in_words(status: StatusCode) -> Fail {
    match status {
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => {
            let why = format!(
                "the head of the request, its line and its headers, is larger than {HEAD_BYTES_MAX} bytes or has more than \
                 {HEADERS_MAX} headers"
            );
            Fail::new(status, "head-too-large", why)
        }
        StatusCode::URI_TOO_LONG => {
            let why = format!("the path with its query is longer than {TARGET_BYTES_MAX} bytes");
            Fail::new(status, "target-too-long", why)
        }
        _ => no_http("what was sent is no request of HTTP/1.1, as in: GET /api/v1/status HTTP/1.1"),
    }
}

fn no_http(why: &str) -> Fail {
    Fail::new(StatusCode::BAD_REQUEST, "no-http", why)
}

impl<S: AsyncRead + Unpin> AsyncRead for Unasked<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Unasked<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.keeps(bytes) {
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let first = slices.iter().find(|slice| !slice.is_empty());
        if first.is_some_and(|first| self.keeps(first)) {
            return Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()));
        }
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        if matches!(flushed, Poll::Ready(Ok(()))) {
            self.turn.flushed();
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The word that replaces what was kept is still to be written.
        if self.status.is_some() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    const REFUSED: &[u8] = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\n\r\n";

    /// What the peer gets of the library's answer, written in this state of the connection.
    async fn passed(prepare: impl AsyncFnOnce(&Turn, &mut Unasked<Vec<u8>>)) -> Vec<u8> {
        let turn = Turn::default();
        let mut stream = Unasked::new(Vec::new(), turn.clone());
        prepare(&turn, &mut stream).await;
        stream.write_all(REFUSED).await.unwrap();
        stream.flush().await.unwrap();
        stream.into_stream()
    }

    #[tokio::test]
    async fn an_answer_is_kept_only_while_no_request_is_answered() {
        assert!(passed(async |_, _| ()).await.is_empty(), "the first request");
        let next = async |turn: &Turn, stream: &mut Unasked<Vec<u8>>| {
            turn.asked();
            turn.made();
            stream.flush().await.unwrap();
        };
        assert!(passed(next).await.is_empty(), "the request behind one that was answered whole");
        let at_its_route = async |turn: &Turn, stream: &mut Unasked<Vec<u8>>| {
            turn.asked();
            stream.flush().await.unwrap();
        };
        assert_eq!(passed(at_its_route).await, REFUSED, "a route's own answer");
        let unflushed = async |turn: &Turn, _: &mut Unasked<Vec<u8>>| {
            turn.asked();
            turn.made();
        };
        assert_eq!(passed(unflushed).await, REFUSED, "the tail of a body that looks like one");
    }

    #[tokio::test]
    async fn other_words_pass() {
        for word in [&b"HTTP/1.1 200 OK\r\n\r\n"[..], b"HTTP/1.1 503 x\r\n\r\n", b"431", b""] {
            let mut stream = Unasked::new(Vec::new(), Turn::default());
            stream.write_all(word).await.unwrap();
            assert_eq!(stream.into_stream(), word);
        }
    }
}
