//! One connection: read a request, answer it, and again. HTTP/1.1 (RFC 9112), the part that scrapers need.
//!
//! Each phase has a deadline for the whole of it, not for each byte, so that nobody can hold a place by dripping: a request
//! arrives within [`REQUEST_TIME_MAX`], an answer leaves within [`ANSWER_TIME_MAX`], a connection waits for its next request at
//! most [`IDLE_TIME_MAX`], and only while there are places enough.

use super::accept;
use super::door::Door;
use super::kitchen::{Form, Kitchen};
use super::server::Seat;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// From its first byte to its last, the handshake of TLS included.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(5);
/// A slow reader has so long for the whole answer.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(30);
/// Longer than between two scrapes of the usual pace.
const IDLE_TIME_MAX: Duration = Duration::from_secs(90);
/// A request is a line and some headers.
const REQUEST_BYTES_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 48;

/// Sent where there is no place for a connection.
pub(super) const BUSY: &str = "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Type: text/plain; charset=utf-8\r\n\
    Content-Length: 44\r\nConnection: close\r\n\r\ntoo many connections; come again in a second";

const PAGE: &str = "<!doctype html><title>ci-runner</title><p><a href=\"/metrics\">/metrics</a>\n";

const NOT_US: &str =
    "on the loopback these figures are for localhost, addresses and the names in `http.hosts` of the configuration";

/// A connection whose operations all end by a deadline.
struct Timed {
    stream: TcpStream,
    until: Instant,
}

impl Timed {
    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero());
        left.map(Some).ok_or_else(|| io::ErrorKind::TimedOut.into())
    }
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        self.stream.read(buffer)
    }
}

impl Write for Timed {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        self.stream.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// With TLS or without.
enum Line {
    Plain(Timed),
    Tls(Box<rustls::StreamOwned<rustls::ServerConnection, Timed>>),
}

impl Line {
    fn within(&mut self, time: Duration) {
        let timed = match self {
            Self::Plain(timed) => timed,
            Self::Tls(tls) => &mut tls.sock,
        };
        timed.until = Instant::now() + time;
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(timed) => timed.read(buffer),
            Self::Tls(tls) => tls.read(buffer),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(timed) => timed.write_all(bytes),
            Self::Tls(tls) => tls.write_all(bytes).and_then(|()| tls.flush()),
        }
    }
}

struct Request {
    method: String,
    path: String,
    accept: String,
    encoding: String,
    authorization: Option<String>,
    host: Option<String>,
    /// The connection is to end, or something follows that nobody here reads.
    last: bool,
}

/// Answers until the connection ends, one way or the other.
pub(super) fn talk(stream: TcpStream, door: &Door, kitchen: &Kitchen, seat: &Seat) {
    let local = stream.local_addr().ok().map(|address| address.ip());
    let timed = Timed { stream, until: Instant::now() + REQUEST_TIME_MAX };
    let mut line = match &door.tls {
        None => Line::Plain(timed),
        Some(config) => match rustls::ServerConnection::new(config.clone()) {
            Ok(connection) => Line::Tls(Box::new(rustls::StreamOwned::new(connection, timed))),
            Err(_) => return,
        },
    };
    let mut ahead = Vec::new();
    loop {
        let request = match read(&mut line, &mut ahead) {
            Ok(Some(request)) => request,
            // Who is gone, or silent, wants no answer.
            Ok(None) | Err(_) => return,
        };
        let stays = match request {
            Ok(request) if !door.is_for_us(local, request.host.as_deref()) => {
                let _ = plain(&mut line, "421 Misdirected Request", "", NOT_US, false);
                false
            }
            Ok(request) => {
                let stays = !request.last && seat.may_stay();
                answer(&mut line, &request, door, kitchen, stays).is_ok() && stays
            }
            Err(why) => {
                let _ = plain(&mut line, "400 Bad Request", "", why, false);
                false
            }
        };
        if !stays {
            return;
        }
    }
}

/// The next request; None at the end. What came after it stays in `ahead`.
fn read(line: &mut Line, ahead: &mut Vec<u8>) -> io::Result<Option<Result<Request, &'static str>>> {
    let mut begun = !ahead.is_empty();
    let mut buffer = [0; 2048];
    loop {
        if let Some(found) = parse(ahead) {
            return Ok(Some(found));
        }
        if ahead.len() >= REQUEST_BYTES_MAX {
            return Ok(Some(Err("the request is too long")));
        }
        let got = line.read(&mut buffer)?;
        if got == 0 {
            return Ok(None);
        }
        ahead.extend_from_slice(&buffer[..got]);
        if !std::mem::replace(&mut begun, true) {
            line.within(REQUEST_TIME_MAX);
        }
    }
}

/// None: it is not whole yet.
fn parse(bytes: &mut Vec<u8>) -> Option<Result<Request, &'static str>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut headers);
    let length = match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return None,
        Err(_) => return Some(Err("this is not HTTP/1.1")),
    };
    let value = |name: &str| {
        let found = parsed.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        found.and_then(|header| std::str::from_utf8(header.value).ok()).map(str::to_owned)
    };
    let has_body = value("content-length").is_some_and(|length| length != "0") || value("transfer-encoding").is_some();
    let connection = value("connection").unwrap_or_default().to_ascii_lowercase();
    let path = parsed.path.unwrap_or_default();
    let request = Request {
        method: parsed.method.unwrap_or_default().to_owned(),
        path: path.split('?').next().unwrap_or_default().to_owned(),
        accept: value("accept").unwrap_or_default(),
        encoding: value("accept-encoding").unwrap_or_default(),
        authorization: value("authorization"),
        host: value("host"),
        last: has_body || connection.contains("close") || parsed.version != Some(1),
    };
    bytes.drain(..length);
    Some(Ok(request))
}

fn answer(line: &mut Line, request: &Request, door: &Door, kitchen: &Kitchen, stays: bool) -> io::Result<()> {
    if !door.admits(request.authorization.as_deref()) {
        let challenge = format!("WWW-Authenticate: {}\r\n", door.challenge());
        return plain(line, "401 Unauthorized", &challenge, "say who you are", stays);
    }
    let head_only = request.method == "HEAD";
    if request.method != "GET" && !head_only {
        return plain(line, "405 Method Not Allowed", "Allow: GET, HEAD\r\n", "GET and HEAD are taken", stays);
    }
    match request.path.as_str() {
        "/metrics" => metrics(line, request, kitchen, stays, head_only),
        "/" => send(line, "200 OK", "Content-Type: text/html; charset=utf-8\r\n", PAGE.as_bytes(), stays, head_only),
        _ => plain(line, "404 Not Found", "", "there is /metrics", stays),
    }
}

fn metrics(line: &mut Line, request: &Request, kitchen: &Kitchen, stays: bool, head_only: bool) -> io::Result<()> {
    let again = "Retry-After: 1\r\n";
    let Some(_place) = kitchen.place() else {
        return plain(line, "503 Service Unavailable", again, "too many scrapes at once; come again", stays);
    };
    let form: Form = accept::form(&request.accept, &request.encoding);
    let Some(body) = kitchen.ask(form) else {
        return plain(line, "503 Service Unavailable", again, "the figures took too long", stays);
    };
    let packed = if form.gzip { "Content-Encoding: gzip\r\n" } else { "" };
    let kind = form.format.content_type();
    let head = format!("Content-Type: {kind}\r\n{packed}Vary: Accept, Accept-Encoding\r\n");
    send(line, "200 OK", &head, &body, stays, head_only)
}

fn plain(line: &mut Line, status: &str, head: &str, words: &str, stays: bool) -> io::Result<()> {
    let head = format!("Content-Type: text/plain; charset=utf-8\r\n{head}");
    send(line, status, &head, words.as_bytes(), stays, false)
}

fn send(line: &mut Line, status: &str, head: &str, body: &[u8], stays: bool, head_only: bool) -> io::Result<()> {
    line.within(ANSWER_TIME_MAX);
    let connection = if stays { "" } else { "Connection: close\r\n" };
    let length = body.len();
    let mut bytes = format!("HTTP/1.1 {status}\r\n{head}Content-Length: {length}\r\n{connection}\r\n").into_bytes();
    // A short answer leaves in one packet; a long one is shared by all who asked, and is not copied for each.
    if head_only {
        line.write(&bytes)?;
    } else if length < 4096 {
        bytes.extend_from_slice(body);
        line.write(&bytes)?;
    } else {
        line.write(&bytes)?;
        line.write(body)?;
    }
    line.within(IDLE_TIME_MAX);
    Ok(())
}
