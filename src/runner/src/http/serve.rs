//! Connections: taking them, bounding them, ending them in order.
//!
//! One task for each connection, owned by [`serve`], which returns only when all of them have ended. Limits that hyper does
//! not have by itself are set here, each with its reason.

use super::door::Door;
use super::places::{Place, Places, Seat};
use super::quota::{self, Quota};
use super::stall::{STALL_MAX, Stall};
use super::unasked::Unasked;
use super::{Access, App, Context, Credentials, Fail, Peer, Shared, tcp_router, unix_router};
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::convert::Infallible;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections to the unix socket at once, followers and event streams included. Each may hold three descriptors (socket,
/// log, inotify). What comes beyond takes the place of one that has not asked yet, or is told at once that there is none.
pub const UNIX_CONNECTIONS_MAX: usize = 512;
/// Event streams and followed logs at once: a quarter of the places is left for commands, which take milliseconds each.
pub const STREAMS_MAX: usize = UNIX_CONNECTIONS_MAX - UNIX_CONNECTIONS_MAX / 4;
/// Connections on TCP at once: health probes need few.
pub const TCP_CONNECTIONS_MAX: usize = 64;
/// A request's head arrives within this, and a kept connection is closed after so much idleness; sooner where its place is
/// wanted.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// The same on TCP, where anybody on this host can connect.
const HEAD_TIMEOUT_TCP: Duration = Duration::from_secs(5);
/// When to come back after all places were taken.
const FULL_RETRY_SECONDS: u32 = 1;
/// Largest head of a request, and piece of a body.
pub(super) const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Most header lines.
pub(super) const HEADERS_MAX: usize = 64;
/// Requests under way have so long to end when the server does: then they are cut. What was acknowledged is on disk anyway.
const END_TIMEOUT: Duration = Duration::from_secs(5);
/// A client that connected just before the end has so long for its request.
const FIRST_WORD: Duration = Duration::from_millis(250);
/// The mode bit that lets the group connect.
const GROUP_WRITE: u32 = 0o020;
/// After a connection could not be taken (no descriptors left) wait for some to be freed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves the API until `shutdown`, then ends every connection in order: streams are closed, requests under way are answered.
pub async fn serve(
    context: Context,
    unix: impl Into<Door>,
    tcp: Option<TcpListener>,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let unix = unix.into();
    let app = Shared::new(context, access_of(&unix)?, shutdown.clone());
    let tasks = TaskTracker::new();
    let unix_routes = unix_router(app.clone());
    let on_unix = take_unix(&unix, app.clone(), unix_routes, &tasks, &shutdown);
    let on_tcp = async {
        if let Some(listener) = &tcp {
            take_tcp(listener, tcp_router(app.clone()), &tasks, &shutdown).await;
        }
    };
    tokio::join!(on_unix, on_tcp);
    drop((unix, tcp));
    tasks.close();
    tasks.wait().await;
    Ok(())
}

/// Who may do what, as the socket's file says: its group operates where the group may write.
fn access_of(listener: &Door) -> io::Result<Access> {
    let address = listener.local_addr()?;
    let group = match address.as_pathname() {
        Some(path) => {
            let file = std::fs::symlink_metadata(path)?;
            (file.mode() & GROUP_WRITE != 0).then_some(file.gid())
        }
        None => None,
    };
    Ok(Access { owner_uid: rustix::process::geteuid().as_raw(), group })
}

async fn take_unix(listener: &Door, app: App, routes: Router, tasks: &TaskTracker, shutdown: &CancellationToken) {
    let places = Places::new(UNIX_CONNECTIONS_MAX);
    let quota = Quota::default();
    while let Some(stream) = accept(shutdown, || async { Ok(listener.accept().await?.0) }).await {
        // Without credentials nobody is known: the connection is closed.
        let Ok(credentials) = Credentials::of(&stream) else { continue };
        let held = match app.access.is_admin(credentials.uid) {
            true => None,
            false => match quota.take(credentials.uid) {
                Some(held) => Some(held),
                None => {
                    quota::refuse(&stream, credentials.uid);
                    continue;
                }
            },
        };
        let Some(place) = places.take() else {
            // The buffer of a new connection takes it whole; a peer that is gone needs no answer.
            let _ = stream.try_write(&full().raw());
            continue;
        };
        let (app, routes, shutdown) = (app.clone(), routes.clone(), shutdown.clone());
        tasks.spawn(async move {
            let peer = Some(app.access.peer(&credentials));
            connection(stream, Terms { routes, peer, head_timeout: HEAD_TIMEOUT, place, shutdown }).await;
            drop(held);
        });
    }
}

async fn take_tcp(listener: &TcpListener, routes: Router, tasks: &TaskTracker, shutdown: &CancellationToken) {
    let places = Places::new(TCP_CONNECTIONS_MAX);
    while let Some(stream) = accept(shutdown, || async { Ok(listener.accept().await?.0) }).await {
        let Some(place) = places.take() else {
            // As above.
            let _ = stream.try_write(&full().raw());
            continue;
        };
        no_delay(&stream);
        let (routes, shutdown) = (routes.clone(), shutdown.clone());
        let terms = Terms { routes, peer: None, head_timeout: HEAD_TIMEOUT_TCP, place, shutdown };
        tasks.spawn(connection(stream, terms));
    }
}

fn no_delay(stream: &TcpStream) {
    // It only makes answers faster.
    let _ = stream.set_nodelay(true);
}

/// For whom there is no place.
fn full() -> Fail {
    Fail::busy("all connections of the daemon are in use; nothing was taken, try again", FULL_RETRY_SECONDS)
}

/// The next connection; None: the end.
async fn accept<S, F>(shutdown: &CancellationToken, accept: impl Fn() -> F) -> Option<S>
where
    F: Future<Output = io::Result<S>>,
{
    let next = async {
        loop {
            match accept().await {
                Ok(stream) => return stream,
                // The peer gave up, or descriptors ran out: neither is a reason to stop serving.
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            }
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => None,
        stream = next => Some(stream),
    }
}

async fn answer(
    mut request: hyper::Request<Incoming>,
    routes: TowerToHyperService<Router>,
    peer: Option<Peer>,
    seat: Seat,
) -> Result<Response, Infallible> {
    use hyper::service::Service as _;
    if let Some(peer) = peer {
        if peer.role.is_none() {
            let why =
                format!("{} is not in the group of the socket; ask an administrator to be added to it", peer.name);
            seat.turn.asked();
            return Ok(Fail::forbidden(why).into_response().map(|body| seat.response(body)));
        }
        request.extensions_mut().insert(peer);
    }
    let request: Request = request.map(|body| seat.request(Body::new(body)));
    routes.call(request).await.map(|response| response.map(|body| seat.response(body)))
}

/// What a connection is served with.
struct Terms {
    routes: Router,
    /// None on TCP.
    peer: Option<Peer>,
    head_timeout: Duration,
    place: Place,
    shutdown: CancellationToken,
}

async fn connection<S>(stream: S, terms: Terms)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Terms { routes, peer, head_timeout, place, shutdown } = terms;
    let routes = TowerToHyperService::new(routes);
    let asked = Arc::new(AtomicBool::new(false));
    let (asked_by_service, seat) = (asked.clone(), place.seat.clone());
    let service = service_fn(move |request| {
        asked_by_service.store(true, Ordering::Relaxed);
        answer(request, routes.clone(), peer.clone(), seat.clone())
    });
    let stream = TokioIo::new(Unasked::new(Stall::new(stream, STALL_MAX), place.seat.turn.clone()));
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(head_timeout)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX);
    let mut connection = builder.serve_connection(stream, service);
    // A request that is there already is seen before a word to yield.
    let yields = tokio::select! {
        biased;
        ended = &mut connection => {
            let parts = connection.into_parts();
            return refuse(parts.io.into_inner(), ended, &parts.read_buf, head_timeout).await;
        }
        () = shutdown.cancelled() => false,
        () = place.leave.cancelled() => true,
    };
    if yields && !asked.load(Ordering::Relaxed) {
        let mut stream = connection.into_parts().io.into_inner().into_stream();
        // Nothing was answered yet: this is the first word. A peer that does not take it has lost nothing.
        let _ = timeout(FIRST_WORD, stream.write_all(&full().raw())).await;
        return;
    }
    let mut ended = None;
    // A client that has just come gets to say what it wants, and an answer: closed now, it would never know.
    if !yields && !asked.load(Ordering::Relaxed) {
        ended = timeout(FIRST_WORD, &mut connection).await.ok();
    }
    if ended.is_none() {
        Pin::new(&mut connection).graceful_shutdown();
        ended = timeout(if yields { FIRST_WORD } else { END_TIMEOUT }, &mut connection).await.ok();
    }
    if ended.is_none() && yields && place.is_served() {
        ended = timeout(END_TIMEOUT, &mut connection).await.ok();
    }
    if let Some(ended) = ended {
        let parts = connection.into_parts();
        refuse(parts.io.into_inner(), ended, &parts.read_buf, head_timeout).await;
    }
}

/// The last word to a peer that sent no request. How a connection broke otherwise is the peer's affair; what it asked for was
/// answered or not, and it knows.
async fn refuse<S>(stream: Unasked<S>, ended: hyper::Result<()>, head: &[u8], head_timeout: Duration)
where
    S: AsyncWrite + Unpin,
{
    let Some(fail) = ended.err().and_then(|error| stream.refusal(&error, head, head_timeout)) else { return };
    let mut stream = stream.into_stream();
    // A peer that does not take it has lost nothing.
    let _ = timeout(FIRST_WORD, stream.write_all(&fail.raw())).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, DuplexStream};

    /// A connection whose daemon ends while half a head is there, and its peer.
    async fn ending() -> (impl Future<Output = ()>, DuplexStream) {
        let (ours, mut theirs) = tokio::io::duplex(64 * 1024);
        let shutdown = CancellationToken::new();
        let place = Places::new(1).take().unwrap();
        let terms = Terms { routes: Router::new(), peer: None, head_timeout: HEAD_TIMEOUT, place, shutdown };
        terms.shutdown.cancel();
        theirs.write_all(b"GET /").await.unwrap();
        let mut connection = Box::pin(connection(ours, terms));
        // Its first word has had its time.
        assert!(timeout(FIRST_WORD * 2, &mut connection).await.is_err());
        (connection, theirs)
    }

    async fn said(rest: &[u8]) -> String {
        let (connection, mut theirs) = ending().await;
        theirs.write_all(rest).await.unwrap();
        let mut text = String::new();
        let _ = tokio::join!(connection, theirs.read_to_string(&mut text));
        text
    }

    /// The library's own answer was kept from the peer, and no other came in its place.
    #[tokio::test]
    async fn a_bad_head_is_answered_in_words_while_the_daemon_ends() {
        let text = said(b"<> HTTP/1.1\r\n\r\n").await;
        assert!(text.starts_with("HTTP/1.1 400 ") && text.contains("urn:ci-runner:problem:no-http"), "{text}");
        let text = said(b" HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(text.starts_with("HTTP/1.1 404 "), "the control: {text}");
    }
}
