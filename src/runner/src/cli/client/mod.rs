//! The way to the daemon: one request on one connection, blocking, over the Unix socket.
//!
//! No async runtime: `add` has 2.5 ms from start to exit, and building a runtime costs a good part of it
//! (docs/decisions/0003-blocking-client.md). Everything read is bounded, every wait has a limit; a stream that is followed
//! waits for as long as the daemon lives, because a local socket tells at once when its other end is gone.

mod body;
mod error;
mod query;
#[cfg(test)]
mod tests;

use crate::api::Problem;
use crate::config::Host;
pub use body::Body;
pub use error::ClientError;
pub use query::{encoded, with_query};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A daemon that is being restarted is back after this, or something is wrong.
const RESTART_PATIENCE: Duration = Duration::from_secs(15);
/// A daemon that had no place for one more connection has one after this, or is really full: places are freed within milliseconds.
const BUSY_PATIENCE: Duration = Duration::from_secs(2);
/// Between two tries at a daemon that is going away, or busy.
const RESTART_PAUSE: Duration = Duration::from_millis(50);

/// Whole answers beyond this are refused: a page of jobs has a few hundred kilobytes.
const ANSWER_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// How long the daemon may take to accept, to read a request and to answer it. A commit on a slow disk takes seconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// A person is told after this that the answer is still to come.
const SILENCE_TOLD: Duration = Duration::from_secs(3);

/// Where the daemon may be.
#[derive(Clone, Debug)]
pub struct Client {
    candidates: Vec<PathBuf>,
    timeout: Duration,
    verbose: bool,
    /// Whom the daemon waits for before it answers.
    waits_for: Option<&'static str>,
}

/// A connection that no request was sent on yet.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    path: PathBuf,
    /// How long each wait may last.
    timeout: Duration,
    waits_for: Option<&'static str>,
}

/// A request. The body is JSON.
#[derive(Clone, Debug, Default)]
pub struct Request<'a> {
    /// `GET`, `POST`, `DELETE`.
    pub method: &'a str,
    /// Path and query, encoded.
    pub path: &'a str,
    /// More header lines, each whole and without line end.
    pub headers: &'a [String],
    /// JSON, if any.
    pub body: Option<Vec<u8>>,
}

/// An answer whose body is still to be read.
#[derive(Debug)]
pub struct Response {
    /// HTTP status.
    pub status: u16,
    /// Header names in small letters, and their values.
    pub headers: Vec<(String, String)>,
    /// The rest.
    pub body: Body,
}

impl Client {
    /// A client for this socket, or, without one, for the sockets of the interfaces page.
    pub fn new(socket: Option<&Path>) -> Client {
        Client::of(&client_host(), socket)
    }

    /// As [`Client::new`], with the environment given.
    pub fn of(host: &Host, socket: Option<&Path>) -> Client {
        Client { candidates: host.socket_candidates(socket), timeout: ANSWER_TIMEOUT, verbose: false, waits_for: None }
    }

    /// Whether to say on standard error which sockets are tried and what is asked.
    pub fn verbose(self, verbose: bool) -> Client {
        Client { verbose, ..self }
    }

    /// Other sockets, each beside the one it takes the place of.
    pub fn beside(self, other: impl Fn(&Path) -> PathBuf) -> Client {
        let candidates = self.candidates.iter().map(|path| other(path)).collect();
        Client { candidates, ..self }
    }

    /// How long each wait may last.
    pub fn patience(self, timeout: Duration) -> Client {
        Client { timeout, ..self }
    }

    /// For a request whose answer waits for somebody else, `timeout` at most.
    pub fn waiting_for(self, whom: &'static str, timeout: Duration) -> Client {
        Client { timeout, waits_for: Some(whom), ..self }
    }

    /// `GET` of a text.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn text(&self, path: &str, headers: &[String]) -> Result<String, ClientError> {
        let connection = self.connect()?;
        let socket = connection.path().to_owned();
        let mut response = connection.send(&Request { method: "GET", path, headers, body: None })?.checked()?;
        let bytes = response.whole(&socket)?;
        String::from_utf8(bytes).map_err(|error| ClientError::Garbled { path: socket, what: error.to_string() })
    }

    /// The sockets that are tried, in order.
    pub fn candidates(&self) -> &[PathBuf] {
        &self.candidates
    }

    /// Connects to the first candidate that somebody listens on.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] with everything that was tried.
    pub fn connect(&self) -> Result<Connection, ClientError> {
        let mut tried = Vec::new();
        for path in &self.candidates {
            let dialled = dial(path, self.timeout);
            if self.verbose {
                let how = dialled.as_ref().map_or_else(ToString::to_string, |_| "connected".to_owned());
                // Nobody may listen there.
                let _ = writeln!(io::stderr(), "{}: {how}", path.display());
            }
            match dialled {
                Ok(stream) => {
                    return Ok(Connection {
                        stream,
                        path: path.clone(),
                        timeout: self.timeout,
                        waits_for: self.waits_for,
                    });
                }
                Err(error) => tried.push((path.clone(), error)),
            }
        }
        Err(ClientError::Unreachable { tried })
    }

    /// Sends a request and reads the whole answer as JSON.
    ///
    /// # Errors
    /// No daemon, a broken connection, or the problem that the daemon answers with. One that is going away and took nothing is
    /// asked again, and its successor, for [`RESTART_PATIENCE`]; one that was busy and took nothing, for [`BUSY_PATIENCE`].
    pub fn call<T: DeserializeOwned>(&self, request: &Request<'_>) -> Result<T, ClientError> {
        self.call_on(self.connect()?, request)
    }

    /// As [`Client::call`], first on a connection that is there.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn call_on<T: DeserializeOwned>(
        &self,
        connection: Connection,
        request: &Request<'_>,
    ) -> Result<T, ClientError> {
        let mut told = connection.call(request);
        let started = Instant::now();
        let mut refused = false;
        loop {
            refused |= told.as_ref().is_err_and(ClientError::is_stopping);
            let again = match &told {
                Err(ClientError::Unreachable { .. }) => refused,
                Err(error) => error.is_stopping() || error.is_busy(),
                Ok(_) => false,
            };
            let busy = told.as_ref().is_err_and(ClientError::is_busy);
            if !again || started.elapsed() > if busy { BUSY_PATIENCE } else { RESTART_PATIENCE } {
                return told;
            }
            std::thread::sleep(RESTART_PAUSE);
            told = self.connect().and_then(|connection| connection.call(request));
        }
    }

    /// `GET`.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.call(&Request { method: "GET", path, ..Request::default() })
    }

    /// `POST` of a JSON body.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ClientError> {
        self.call(&Request { method: "POST", path, body: Some(to_json(body)?), ..Request::default() })
    }

    /// `GET` of something that is read as it comes. Waits for ever between two pieces.
    ///
    /// # Errors
    /// As [`Client::call`], up to the first byte of the body.
    pub fn stream(&self, path: &str) -> Result<Response, ClientError> {
        let request = Request { method: "GET", path, ..Request::default() };
        let started = Instant::now();
        loop {
            match self.connect()?.send(&request)?.checked() {
                Ok(response) => {
                    response.body.wait_at_most(None);
                    return Ok(response);
                }
                Err(error) if error.is_busy() && started.elapsed() <= BUSY_PATIENCE => {
                    std::thread::sleep(RESTART_PAUSE);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl Connection {
    /// The socket's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the daemon runs as the user who calls. The kernel says so, not the daemon; of a socket that PID 1 holds for the
    /// daemon it says PID 1, and such a daemon is a service with a user of its own.
    pub fn is_same_user(&self) -> bool {
        sockopt::socket_peercred(&self.stream)
            .is_ok_and(|peer| peer.uid == rustix::process::geteuid() && !peer.pid.is_init())
    }

    /// Sends a request and reads the whole answer as JSON.
    ///
    /// # Errors
    /// A broken connection, or the problem that the daemon answers with.
    pub fn call<T: DeserializeOwned>(self, request: &Request<'_>) -> Result<T, ClientError> {
        let path = self.path.clone();
        let mut response = self.send(request)?.checked()?;
        let bytes = response.whole(&path)?;
        // 204 has no body; `()` and options read `null`.
        let text: &[u8] = if bytes.is_empty() { b"null" } else { &bytes };
        serde_json::from_slice(text)
            .map_err(|error| ClientError::Garbled { path, what: format!("the answer to {}: {error}", request.path) })
    }

    /// A daemon that is stopped or hangs takes a request and says nothing: whoever waits shall know for what.
    fn tell_of_silence(&self) {
        let Some(rest) = self.timeout.checked_sub(SILENCE_TOLD).filter(|rest| !rest.is_zero()) else { return };
        let mut fds = [PollFd::new(&self.stream, PollFlags::IN)];
        let wait = Timespec { tv_sec: SILENCE_TOLD.as_secs() as i64, tv_nsec: 0 };
        if rustix::event::poll(&mut fds, Some(&wait)) == Ok(0) {
            let text = match self.waits_for {
                Some(whom) => format!("waiting for {whom}, up to {} s", rest.as_secs()),
                None => format!(
                    "the daemon took the request and has not answered for {} s: it is busy, stopped or hangs; waiting up to {} s \
                     more",
                    SILENCE_TOLD.as_secs(),
                    rest.as_secs()
                ),
            };
            // Nobody may listen there.
            let _ = writeln!(io::stderr(), "ci-runner: {text}");
        }
    }

    /// Sends a request and reads the head of the answer, whatever its status.
    ///
    /// # Errors
    /// A broken connection or something that is not HTTP.
    pub fn send(mut self, request: &Request<'_>) -> Result<Response, ClientError> {
        let message = message(request);
        let written = self.stream.write_all(&message);
        // A daemon may answer (413, 503) and close before it has read everything: the answer is what counts.
        let early = match written {
            Ok(()) => None,
            Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
                Some(error)
            }
            Err(error) => return Err(ClientError::broken(&self.path, "while the request was sent", error)),
        };
        self.tell_of_silence();
        match body::read_head(self.stream) {
            Ok(response) => Ok(response),
            Err(body::HeadError::Io(error)) => {
                let error = early.unwrap_or(error);
                Err(ClientError::broken(&self.path, "before an answer came", error))
            }
            Err(body::HeadError::Garbled(what)) => Err(ClientError::Garbled { path: self.path, what }),
        }
    }
}

impl Response {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// An answer that is no success becomes the problem it tells of.
    fn checked(mut self) -> Result<Response, ClientError> {
        if (200..300).contains(&self.status) {
            return Ok(self);
        }
        let status = self.status;
        let retry_after = self.header("retry-after").and_then(|value| value.parse().ok());
        let bytes = self.whole(Path::new("")).unwrap_or_default();
        let problem = serde_json::from_slice::<Problem>(&bytes).unwrap_or_else(|_| Problem {
            kind: "about:blank".to_owned(),
            title: format!("HTTP {status}"),
            status,
            detail: String::from_utf8_lossy(&bytes[..bytes.len().min(500)]).trim().to_owned(),
            field: None,
            index: None,
        });
        Err(ClientError::Refused { problem: Box::new(problem), retry_after })
    }

    fn whole(&mut self, path: &Path) -> Result<Vec<u8>, ClientError> {
        let mut bytes = Vec::new();
        (&mut self.body)
            .take(ANSWER_BYTES_MAX + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| ClientError::broken(path, "in the middle of the answer", error))?;
        if bytes.len() as u64 > ANSWER_BYTES_MAX {
            let what = format!("the answer has more than {ANSWER_BYTES_MAX} bytes; ask for less with --limit");
            return Err(ClientError::Garbled { path: path.to_owned(), what });
        }
        Ok(bytes)
    }
}

/// What the client needs of process and machine. [`Host::of_process`] also reads the user database and all of the
/// environment, which `add` has no time for.
fn client_host() -> Host {
    let names = ["CI_RUNNER_SOCKET", "RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR", "XDG_STATE_HOME", "HOME"];
    let value = |name: &str| Some((name.to_owned(), std::env::var(name).ok()?));
    Host {
        environment: names.into_iter().filter_map(value).collect(),
        current_dir: std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
        ..Host::default()
    }
}

/// Connects, and bounds every wait on the connection, that for a full backlog among them.
fn dial(path: &Path, timeout: Duration) -> io::Result<UnixStream> {
    let address = SocketAddrUnix::new(path)?;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(timeout))?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(timeout))?;
    rustix::net::connect(&socket, &address)?;
    Ok(UnixStream::from(socket))
}

fn message(request: &Request<'_>) -> Vec<u8> {
    let mut head = format!("{} {} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n", request.method, request.path);
    for line in request.headers {
        head.push_str(line);
        head.push_str("\r\n");
    }
    if let Some(body) = &request.body {
        head.push_str(&format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len()));
    } else if request.method != "GET" {
        head.push_str("Content-Length: 0\r\n");
    }
    head.push_str("\r\n");
    let mut message = head.into_bytes();
    message.extend_from_slice(request.body.as_deref().unwrap_or_default());
    message
}

/// A value as JSON.
///
/// # Errors
/// A value that JSON cannot hold (a map with keys that are no texts).
pub fn to_json(value: &impl Serialize) -> Result<Vec<u8>, ClientError> {
    serde_json::to_vec(value)
        .map_err(|error| ClientError::Garbled { path: PathBuf::new(), what: format!("the request: {error}") })
}
