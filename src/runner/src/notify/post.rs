//! One HTTP POST, over TLS or not: a deadline for all of it, no redirects, an answer of a bounded size.
//!
//! Errors name the host, never the path or the query: they may hold a secret.

use super::tls;
use axum::http::Uri;
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::path::Path;
use std::time::{Duration, Instant};

/// Status line and header of an answer; the rest is not read.
const HEAD_BYTES_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 64;
/// A peer that says when to come again is believed up to this.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3_600);

/// What a peer said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// HTTP status.
    pub(super) status: u16,
    /// When it wants to be asked again.
    pub(super) retry_after: Option<Duration>,
}

/// A stream with a deadline: whatever the peer does, no call lasts longer.
struct Timed {
    stream: TcpStream,
    deadline: Instant,
}

impl Timed {
    fn left(&self) -> io::Result<Duration> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }
}

impl Read for Timed {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(self.left()?))?;
        self.stream.read(into)
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(self.left()?))?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// Sends `body` with these headers besides the usual ones.
pub(super) fn post(
    url: &str,
    ca_file: Option<&Path>,
    headers: &[(&str, String)],
    body: &str,
    timeout: Duration,
) -> Result<Answer, String> {
    let uri: Uri = url.parse().map_err(|_| "the URL cannot be read".to_owned())?;
    let host = uri.host().unwrap_or_default().to_owned();
    let is_tls = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
    let deadline = Instant::now() + timeout;
    let told = |error: io::Error| match error.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => {
            format!("{host}: no answer within {} s", timeout.as_secs_f64())
        }
        _ => format!("{host}: {error}"),
    };
    let timed = Timed { stream: connect(&host, port, deadline).map_err(told)?, deadline };
    let request = request(&uri, &host, headers, body);
    if !is_tls {
        return exchange(timed, &request).map_err(told);
    }
    let name =
        ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).map_err(|_| format!("{host}: is no name"))?;
    let session = ClientConnection::new(tls::client(ca_file)?, name).map_err(|error| format!("{host}: {error}"))?;
    exchange(StreamOwned::new(session, timed), &request).map_err(told)
}

fn connect(host: &str, port: u16, deadline: Instant) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in (host.trim_matches(['[', ']']), port).to_socket_addrs()? {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match TcpStream::connect_timeout(&address, left) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn request(uri: &Uri, host: &str, headers: &[(&str, String)], body: &str) -> String {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let authority = uri.authority().map_or(host, |authority| authority.as_str());
    let mut text = format!(
        "POST {path} HTTP/1.1\r\nhost: {authority}\r\nuser-agent: ci-runner/{}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\nconnection: close\r\n",
        env!("CARGO_PKG_VERSION"),
        body.len()
    );
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    text.push_str(body);
    text
}

fn exchange(mut stream: impl Read + Write, request: &str) -> io::Result<Answer> {
    stream.write_all(request.as_bytes())?;
    stream.flush()?;
    let mut head = Vec::new();
    let mut part = [0; 4_096];
    loop {
        let count = match stream.read(&mut part) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        head.extend_from_slice(&part[..count]);
        if let Some(answer) = parse(&head)? {
            return Ok(answer);
        }
        if count == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it closed without an answer"));
        }
        if head.len() > HEAD_BYTES_MAX {
            return Err(strange("the header of its answer is too long"));
        }
    }
}

fn strange(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// The answer, once its header is whole. Interim answers (1xx) are passed over.
fn parse(mut bytes: &[u8]) -> io::Result<Option<Answer>> {
    loop {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut response = httparse::Response::new(&mut headers);
        let length = match response.parse(bytes) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(_) => return Err(strange("its answer is no HTTP")),
        };
        let status = response.code.unwrap_or(0);
        if (100..200).contains(&status) {
            bytes = &bytes[length..];
            continue;
        }
        let after = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("retry-after"));
        let seconds = after.and_then(|header| std::str::from_utf8(header.value).ok()?.trim().parse::<u64>().ok());
        let retry_after = seconds.map(|seconds| Duration::from_secs(seconds).min(RETRY_AFTER_MAX));
        return Ok(Some(Answer { status, retry_after }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_to_the_end_of_their_header() {
        let status = |text: &str| parse(text.as_bytes()).unwrap().map(|answer| (answer.status, answer.retry_after));
        assert_eq!(status("HTTP/1.1 200 OK\r\n"), None);
        assert_eq!(status("HTTP/1.1 200 OK\r\n\r\nbody"), Some((200, None)));
        assert_eq!(
            status("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 No\r\nRetry-After: 7\r\n\r\n"),
            Some((503, Some(Duration::from_secs(7))))
        );
        assert_eq!(status("HTTP/1.1 429 No\r\nRetry-After: 99999999\r\n\r\n"), Some((429, Some(RETRY_AFTER_MAX))));
        assert!(parse(b"SSH-2.0-x\r\n\r\n").is_err());
    }

    #[test]
    fn errors_do_not_tell_the_path() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/s3cret?token=s3cret", listener.local_addr().unwrap());
        let error = post(&url, None, &[], "{}", Duration::from_millis(100)).unwrap_err();
        assert!(error.contains("no answer within 0.1 s") && !error.contains("s3cret"), "{error}");
    }
}
