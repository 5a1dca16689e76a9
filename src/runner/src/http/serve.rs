//! Connections: taking them, bounding them, ending them in order.
//!
//! One task for each connection, owned by [`serve`], which returns only when all of them have ended. Limits that hyper does
//! not have by itself are set here, each with its reason.

use super::door::Door;
use super::quota::{self, Quota};
use super::stall::{STALL_MAX, Stall};
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
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections to the unix socket at once, followers and event streams included. Each may hold three descriptors (socket,
/// log, inotify); what comes beyond waits in the kernel's queue.
pub const UNIX_CONNECTIONS_MAX: usize = 512;
/// Connections on TCP at once: health probes need few.
pub const TCP_CONNECTIONS_MAX: usize = 64;
/// A request's head arrives within this, and a kept connection is closed after so much idleness.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Largest head of a request, and piece of a body.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Most header lines.
const HEADERS_MAX: usize = 64;
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

/// Serves [`super::metrics_router`] until `shutdown`.
pub async fn serve_metrics(
    listener: TcpListener,
    render: super::Render,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let tasks = TaskTracker::new();
    take_tcp(&listener, super::metrics_router(render), &tasks, &shutdown).await;
    drop(listener);
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
    let places = Arc::new(Semaphore::new(UNIX_CONNECTIONS_MAX));
    let quota = Quota::default();
    while let Some((stream, place)) = take(&places, shutdown, || async { Ok(listener.accept().await?.0) }).await {
        let (app, routes, shutdown) = (app.clone(), routes.clone(), shutdown.clone());
        // Without credentials nobody is known: the connection is closed.
        let Ok(credentials) = credentials_of(&stream) else { continue };
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
        tasks.spawn(async move {
            let peer = app.access.peer(credentials);
            connection(stream, routes, Some(peer), shutdown).await;
            drop((held, place));
        });
    }
}

async fn take_tcp(listener: &TcpListener, routes: Router, tasks: &TaskTracker, shutdown: &CancellationToken) {
    let places = Arc::new(Semaphore::new(TCP_CONNECTIONS_MAX));
    while let Some((stream, place)) = take(&places, shutdown, || async { Ok(listener.accept().await?.0) }).await {
        let (routes, shutdown) = (routes.clone(), shutdown.clone());
        tasks.spawn(async move {
            no_delay(&stream);
            connection(stream, routes, None, shutdown).await;
            drop(place);
        });
    }
}

fn no_delay(stream: &TcpStream) {
    // It only makes answers faster.
    let _ = stream.set_nodelay(true);
}

/// The next connection, once there is a place for it; None: the end.
async fn take<S, F>(
    places: &Arc<Semaphore>,
    shutdown: &CancellationToken,
    accept: impl Fn() -> F,
) -> Option<(S, OwnedSemaphorePermit)>
where
    F: Future<Output = io::Result<S>>,
{
    let next = async {
        let place = places.clone().acquire_owned().await.ok()?;
        loop {
            match accept().await {
                Ok(stream) => return Some((stream, place)),
                // The peer gave up, or descriptors ran out: neither is a reason to stop serving.
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            }
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => None,
        taken = next => taken,
    }
}

fn credentials_of(stream: &UnixStream) -> io::Result<Credentials> {
    let credentials = stream.peer_cred()?;
    Ok(Credentials {
        uid: credentials.uid(),
        gid: credentials.gid(),
        pid: credentials.pid().and_then(|pid| u32::try_from(pid).ok()),
    })
}

async fn answer(
    mut request: hyper::Request<Incoming>,
    routes: TowerToHyperService<Router>,
    peer: Option<Peer>,
) -> Result<Response, Infallible> {
    use hyper::service::Service as _;
    if let Some(peer) = peer {
        if peer.role.is_none() {
            let why =
                format!("{} is not in the group of the socket; ask an administrator to be added to it", peer.name);
            return Ok(Fail::forbidden(why).into_response());
        }
        request.extensions_mut().insert(peer);
    }
    let request: Request = request.map(Body::new);
    routes.call(request).await
}

async fn connection<S>(stream: S, routes: Router, peer: Option<Peer>, shutdown: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let routes = TowerToHyperService::new(routes);
    let asked = Arc::new(AtomicBool::new(false));
    let asked_by_service = asked.clone();
    let service = service_fn(move |request| {
        asked_by_service.store(true, Ordering::Relaxed);
        answer(request, routes.clone(), peer.clone())
    });
    let stream = TokioIo::new(Stall::new(stream, STALL_MAX));
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX);
    let mut connection = pin!(builder.serve_connection(stream, service));
    // How a connection broke is the peer's affair; what it asked for was answered or not, and it knows.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = shutdown.cancelled() => {}
    }
    // A client that has just come gets to say what it wants, and an answer: closed now, it would never know.
    if !asked.load(Ordering::Relaxed) && timeout(FIRST_WORD, connection.as_mut()).await.is_ok() {
        return;
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(END_TIMEOUT, connection).await;
}
