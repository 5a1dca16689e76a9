//! The HTTP API: the unix socket for people and programs of this host, TCP for health and little else.
//!
//! It reads snapshots and the store's reading side, and sends wishes to the loop; it decides nothing and commits nothing. A
//! 201 leaves only after the loop has said that the job is on disk.
//!
//! - `serve.rs`: connections, their limits, the graceful end. `unasked.rs`: what is no request. `socket.rs`: the socket's file, `door.rs`: the one that counts.
//!   `peer.rs`: who may do what, `quota.rs`: how many connections one user may hold, `shares.rs`: how much of larger bodies and answers,
//!   `places.rs`: how many there are, and who yields.
//! - `guard.rs`: what TCP refuses. `problem.rs`: errors, `answers.rs`: how the document describes them. `extract.rs`: reading requests,
//!   `pieces.rs`: large answers.
//! - `api/`: the routes; `health.rs`: those of supervisors. `view.rs`, `explain.rs`: what they show.
//!
//! `docs/reference/http-api.md` tells the same for people, `/api/v1/openapi.json` for programs.

mod answers;
mod api;
mod components;
mod door;
mod explain;
mod extract;
mod guard;
mod health;
mod metrics;
mod peer;
mod pieces;
mod places;
mod problem;
mod quota;
mod serve;
mod shares;
mod socket;
mod stall;
mod turns;
mod unasked;
mod view;

pub use api::act::CancelRequest;
pub use api::host::CollectedView;
pub use door::Door;
pub use explain::why;
pub use peer::{Access, Credentials, Peer, Role};
pub use problem::Fail;
pub use quota::USER_CONNECTIONS_MAX;
pub use serve::{STREAMS_MAX, TCP_CONNECTIONS_MAX, UNIX_CONNECTIONS_MAX, serve};
pub use socket::{BindError, SOCKET_PATH_BYTES_MAX, bind_unix, listen_on};
pub use stall::STALL_MAX;
pub use view::job_view;

use crate::daemon::engine::Control;
use crate::daemon::handle::Handle;
use crate::daemon::watching::Watching;
use axum::Router;
use axum::http::{StatusCode, header};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// Most bytes of a request's body: 100,000 jobs of 670 bytes each.
pub const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Most jobs in one array: what the loop commits at once.
pub const JOBS_MAX: usize = 100_000;
/// Bodies up to this are read, parsed and answered without further ado; larger ones share [`BODIES_BYTES_MAX`] and are parsed
/// beside the threads that answer.
pub const BODY_BYTES_SMALL: usize = 64 * 1024;
/// Larger bodies together: two of the largest at once. More of them wait.
pub const BODIES_BYTES_MAX: usize = 128 * 1024 * 1024;
/// What larger submissions may take together from their reading to their answer: two of 100,000 jobs at once. More of them wait a
/// moment.
const SUBMISSIONS_BYTES_MAX: usize = 512 * 1024 * 1024;
/// Lists of schedules that are on their way to clients, together. More of them wait.
const ANSWERS_BYTES_MAX: usize = 64 * 1024 * 1024;
/// What one user may hold of either, or one that is larger: it takes several to hold it all.
const OWN_PART: usize = 4;
/// A body arrives within this: 64 MiB at 2 MiB/s over a local socket, and a sender that dawdles is let go.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// Whoever waits for a share sees the dawdlers before it go.
const SHARE_PATIENCE: Duration = Duration::from_secs(45);
/// A large answer is taken within this, or is cut.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// An answer that is no stream leaves within this: a commit may take up to 60 s before the watchdog acts, and a queue of
/// wishes before it.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(90);

/// Program version.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What the routes need.
pub struct Context {
    /// The way to the loop.
    pub handle: Handle,
    /// The way to the loop for those who operate it.
    pub control: mpsc::Sender<Control>,
    /// Where the logs of jobs are.
    pub log_dir: PathBuf,
    /// Where the state is.
    pub state_dir: PathBuf,
    /// The configuration, which a backup holds too; None: there is no file.
    pub config_file: Option<PathBuf>,
    /// `/status` and `/runners` answer on TCP too.
    pub public_status: bool,
    /// Names besides the loopback's that `Host:` may have on TCP.
    pub hosts: Vec<String>,
    /// When the daemon was ready.
    pub started: std::time::Instant,
    /// Start number of the daemon on this store.
    pub generation: u64,
    /// Alarms and notifiers.
    pub watching: Watching,
    /// Makes the text of the daemon's figures; blocks as long as the disk does.
    pub metrics: crate::exporter::DaemonPart,
    /// Where running attempts are to be found.
    pub places: crate::usage::Places,
}

/// What all requests share.
struct Shared {
    context: Context,
    /// Who may do what on the unix socket.
    access: Access,
    /// Kibibytes of larger bodies that may still come in.
    body_kib: Arc<Semaphore>,
    /// What each user may have of them.
    own_bodies: shares::OwnParts,
    /// Kibibytes that the jobs of larger submissions may still take.
    submission_kib: Arc<Semaphore>,
    /// Kibibytes of larger answers that may still go out.
    answer_kib: Arc<Semaphore>,
    /// What each user may have of them.
    own_answers: shares::OwnParts,
    /// Places of event streams and followed logs.
    streams: Arc<Semaphore>,
    /// Places of searches in logs.
    searches: Arc<Semaphore>,
    /// Turns at figures of finished jobs.
    figures: turns::Turns,
    /// Turns at lists of jobs.
    lists: turns::Turns,
    /// Turns at lists of schedules.
    schedule_lists: turns::Turns,
    /// Measures what attempts use, one at a time.
    meter: Arc<tokio::sync::Mutex<crate::usage::Meter>>,
    /// Told when the server ends: streams close.
    shutdown: CancellationToken,
    alive: health::Alive,
}

type App = Arc<Shared>;

impl Shared {
    fn new(context: Context, access: Access, shutdown: CancellationToken) -> App {
        let body_kib = Arc::new(Semaphore::new(BODIES_BYTES_MAX / 1024));
        let submission_kib = Arc::new(Semaphore::new(SUBMISSIONS_BYTES_MAX / 1024));
        let answer_kib = Arc::new(Semaphore::new(ANSWERS_BYTES_MAX / 1024));
        let streams = Arc::new(Semaphore::new(STREAMS_MAX));
        let searches = Arc::new(Semaphore::new(api::search::SEARCHES_MAX));
        let meter = Arc::new(tokio::sync::Mutex::new(crate::usage::Meter::new(context.places.clone())));
        let alive = health::Alive::default();
        let figures = turns::Turns::new("requests for figures of finished jobs");
        let lists = turns::Turns::new("requests for lists of jobs");
        let schedule_lists = turns::Turns::new("requests for lists of schedules");
        Arc::new(Self {
            context,
            access,
            body_kib,
            own_bodies: shares::OwnParts::of(BODIES_BYTES_MAX / OWN_PART),
            submission_kib,
            answer_kib,
            own_answers: shares::OwnParts::of(ANSWERS_BYTES_MAX / OWN_PART),
            streams,
            searches,
            figures,
            lists,
            schedule_lists,
            meter,
            shutdown,
            alive,
        })
    }

    /// A place for something that is followed; to be held to its end.
    fn stream_place(&self) -> Result<OwnedSemaphorePermit, Fail> {
        self.streams.clone().try_acquire_owned().map_err(|_| Fail::too_many_streams(STREAMS_MAX))
    }
}

/// The document's frame; routes and schemas are collected from the handlers.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "ci-runner",
        description = "The API of a ci-runner daemon on its unix socket. Times are RFC 3339 UTC, durations seconds, sizes \
                       bytes. Errors are RFC 9457 problem documents. On TCP only the health routes answer, and `/status` and \
                       `/runners` where the configuration says so.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0")
    ),
    components(
        schemas(crate::api::Problem, crate::api::EventView, crate::api::LineView),
        responses(
            answers::Invalid,
            answers::NoToken,
            answers::NotAllowed,
            answers::NoJob,
            answers::NoSchedule,
            answers::SchedulesFull,
            answers::Declared,
            answers::Slow,
            answers::TooLarge,
            answers::LongTarget,
            answers::LargeHead,
            answers::WrongHost,
            answers::KeyReused,
            answers::TooMany,
            answers::Failed,
            answers::NotNow,
            answers::NotTaken,
            answers::Late,
            answers::DiskFull,
        )
    )
)]
struct Document;

/// All routes of the unix socket with their document.
fn routes() -> OpenApiRouter<App> {
    let api = OpenApiRouter::new()
        .routes(routes!(api::jobs::submit, api::jobs::list))
        .routes(routes!(api::act::cancel_many))
        .routes(routes!(api::jobs::show))
        .routes(routes!(api::log::log))
        .routes(routes!(api::jobs::why))
        .routes(routes!(api::act::cancel))
        .routes(routes!(api::act::retry))
        .routes(routes!(api::act::hold))
        .routes(routes!(api::act::release))
        .routes(routes!(api::act::priority))
        .routes(routes!(api::host::pools))
        .routes(routes!(api::host::groups))
        .routes(routes!(api::host::runners))
        .routes(routes!(api::host::status))
        .routes(routes!(api::usage::usage))
        .routes(routes!(api::host::pause))
        .routes(routes!(api::host::drain))
        .routes(routes!(api::host::resume))
        .routes(routes!(api::host::backup))
        .routes(routes!(api::host::gc))
        .routes(routes!(api::schedules::list, api::schedules::add))
        .routes(routes!(api::schedules::show, api::schedules::replace, api::schedules::remove))
        .routes(routes!(api::schedules::pause))
        .routes(routes!(api::schedules::resume))
        .routes(routes!(api::schedules::run))
        .routes(routes!(api::events::events))
        .routes(routes!(api::stats::stats))
        .routes(routes!(api::search::search))
        .routes(routes!(api::watches::watches))
        .routes(routes!(api::watches::notifiers))
        .routes(routes!(api::watches::test))
        .routes(routes!(openapi));
    let router = OpenApiRouter::with_openapi(Document::openapi()).merge(health_routes()).merge(status_routes());
    router.routes(routes!(metrics::metrics)).nest("/api/v1", api)
}

fn health_routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(health::health))
        .routes(routes!(health::livez))
        .routes(routes!(health::readyz))
        .routes(routes!(health::startupz))
}

fn status_routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(api::host::root_status)).routes(routes!(api::host::root_runners))
}

/// This document.
#[utoipa::path(get, path = "/openapi.json", tag = "host",
    responses(answers::Served, (status = 200, body = serde_json::Value, description = "OpenAPI 3.1")))]
async fn openapi() -> impl axum::response::IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], openapi_json())
}

/// The OpenAPI document, as the server serves it.
pub fn openapi_json() -> String {
    let mut document = routes().into_openapi();
    document.info.version = VERSION.to_owned();
    document.to_pretty_json().unwrap_or_default()
}

async fn no_route(uri: axum::http::Uri) -> Fail {
    let why = format!("there is no {}; /api/v1/openapi.json tells what there is", uri.path());
    Fail::new(StatusCode::NOT_FOUND, "no-route", why)
}

async fn no_method(method: axum::http::Method, uri: axum::http::Uri) -> Fail {
    Fail::new(StatusCode::METHOD_NOT_ALLOWED, "no-method", format!("{} does not take {method}", uri.path()))
}

/// What answers on the unix socket.
fn unix_router(app: App) -> Router {
    let (router, _) = routes().split_for_parts();
    router.fallback(no_route).method_not_allowed_fallback(no_method).with_state(app)
}

/// What answers on TCP.
fn tcp_router(app: App) -> Router {
    let mut routes = health_routes();
    if app.context.public_status {
        routes = routes.merge(status_routes());
    }
    let (router, _) = routes.split_for_parts();
    let check = axum::middleware::from_fn_with_state(app.clone(), guard::check);
    router.fallback(guard::no_token).method_not_allowed_fallback(no_method).layer(check).with_state(app)
}
