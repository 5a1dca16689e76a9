//! One HTTP POST, over TLS or not: a deadline for all of it, no redirects, an answer of a bounded size.
//!
//! hyper speaks HTTP; here are the limits. Everything waits in a small runtime of its own on the caller's thread, so that one deadline
//! holds for names, connection, handshake and answer alike. A resolver that hangs is left behind. Errors name the host, never the
//! path or the query: they may hold a secret.

use super::tls;
use axum::http::{Request, Uri, header};
use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

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

/// Sends `body` with these headers besides the usual ones. Blocks; not for threads of an async runtime.
pub(super) fn post(
    url: &str,
    ca_file: Option<&Path>,
    headers: &[(&str, String)],
    body: &str,
    timeout: Duration,
) -> Result<Answer, String> {
    let uri: Uri = url.parse().map_err(|_| "the URL cannot be read".to_owned())?;
    let host = uri.host().unwrap_or_default().to_owned();
    let request = request(&uri, &host, headers, body).map_err(|error| format!("{host}: {error}"))?;
    let connector = match uri.scheme_str() {
        Some("https") => Some(TlsConnector::from(tls::client(ca_file)?)),
        _ => None,
    };
    let port = uri.port_u16().unwrap_or(if connector.is_some() { 443 } else { 80 });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
    let runtime = runtime.map_err(|error| format!("{host}: no way to wait for it: {error}"))?;
    let asked = async { tokio::time::timeout(timeout, ask(&host, port, connector, request)).await };
    let answer = runtime.block_on(asked);
    runtime.shutdown_background();
    match answer {
        Ok(answer) => answer.map_err(|error| format!("{host}: {error}")),
        Err(_) => Err(format!("{host}: no answer within {} s", timeout.as_secs_f64())),
    }
}

fn request(
    uri: &Uri,
    host: &str,
    headers: &[(&str, String)],
    body: &str,
) -> Result<Request<Full<Bytes>>, axum::http::Error> {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let authority = uri.authority().map_or(host, |authority| authority.as_str());
    let mut request = Request::post(path)
        .header(header::HOST, authority)
        .header(header::USER_AGENT, concat!("ci-runner/", env!("CARGO_PKG_VERSION")))
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::CONNECTION, "close");
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    request.body(Full::new(Bytes::from(body.to_owned())))
}

async fn ask(
    host: &str,
    port: u16,
    connector: Option<TlsConnector>,
    request: Request<Full<Bytes>>,
) -> anyhow::Result<Answer> {
    let name = host.trim_matches(['[', ']']);
    let stream = TcpStream::connect((name, port)).await?;
    stream.set_nodelay(true)?;
    match connector {
        None => exchange(stream, request).await,
        Some(connector) => {
            let name = ServerName::try_from(name.to_owned())?;
            exchange(connector.connect(name, stream).await?, request).await
        }
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> anyhow::Result<Answer> {
    let mut settings = http1::Builder::new();
    settings.max_buf_size(HEAD_BYTES_MAX).max_headers(HEADERS_MAX);
    let (mut sender, connection) = settings.handshake(TokioIo::new(stream)).await?;
    // Dropped with the runtime, whatever of the answer's body is still to come.
    tokio::spawn(connection);
    let response = sender.send_request(request).await?;
    let after = response.headers().get(header::RETRY_AFTER);
    let seconds = after.and_then(|value| value.to_str().ok()?.trim().parse::<u64>().ok());
    let retry_after = seconds.map(|seconds| Duration::from_secs(seconds).min(RETRY_AFTER_MAX));
    Ok(Answer { status: response.status().as_u16(), retry_after })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::thread::JoinHandle;
    use std::time::Instant;

    /// A peer that reads until the body `{}` has come, says this, and keeps the connection open until it is dropped.
    fn peer(says: impl Into<Vec<u8>>) -> (String, JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/s3cret?token=s3cret", listener.local_addr().unwrap());
        let says = says.into();
        let heard = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let (mut heard, mut part) = (Vec::new(), [0; 1_024]);
            while !heard.ends_with(b"{}") {
                let count = stream.read(&mut part).unwrap();
                assert!(count > 0);
                heard.extend_from_slice(&part[..count]);
            }
            // Whoever has heard enough hangs up.
            let _ = stream.write_all(&says);
            let _ = stream.read(&mut part);
            String::from_utf8(heard).unwrap()
        });
        (url, heard)
    }

    fn told(says: impl Into<Vec<u8>>) -> Result<(u16, Option<Duration>), String> {
        let (url, heard) = peer(says);
        let answer = post(&url, None, &[("webhook-id", "7".to_owned())], "{}", Duration::from_secs(20));
        let heard = heard.join().unwrap();
        assert!(heard.starts_with("POST /s3cret?token=s3cret HTTP/1.1\r\n"), "{heard}");
        for line in ["host: 127.0.0.1:", "content-length: 2\r\n", "connection: close\r\n", "webhook-id: 7\r\n"] {
            assert!(heard.contains(line), "no {line} in {heard}");
        }
        answer.map(|answer| (answer.status, answer.retry_after))
    }

    #[test]
    fn an_answer_is_read_to_the_end_of_its_header_and_no_further() {
        // The body never comes, nor does the peer hang up.
        assert_eq!(told("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nbody"), Ok((200, None)));
        assert_eq!(told("HTTP/1.1 204 No Content\r\n\r\n"), Ok((204, None)));
        assert_eq!(told("HTTP/1.1 302 Else\r\nlocation: http://127.0.0.1:1/\r\n\r\n"), Ok((302, None)));
        let later = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 No\r\nRetry-After: 7\r\n\r\n";
        assert_eq!(told(later), Ok((503, Some(Duration::from_secs(7)))));
        assert_eq!(told("HTTP/1.1 429 No\r\nRetry-After: 99999999\r\n\r\n"), Ok((429, Some(RETRY_AFTER_MAX))));
        assert_eq!(told("HTTP/1.1 429 No\r\nRetry-After: Fri, 31 Dec 1999 23:59:59 GMT\r\n\r\n"), Ok((429, None)));
    }

    #[test]
    fn what_is_no_answer_or_too_much_of_one_is_an_error_and_tells_no_path() {
        let long = |line: String| format!("HTTP/1.1 200 OK\r\n{line}\r\n\r\n");
        let many: Vec<String> = (0..=HEADERS_MAX).map(|number| format!("h{number}: x")).collect();
        for says in [
            "SSH-2.0-x\r\n\r\n".to_owned(),
            String::new() + "HTTP/1.1 2",
            long(format!("x: {}", "y".repeat(2 * HEAD_BYTES_MAX))),
            long(many.join("\r\n")),
        ] {
            let cut = says.len() < 15;
            let begin = Instant::now();
            let error = if cut { hangs_up(&says) } else { told(says.clone()).unwrap_err() };
            assert!(error.starts_with("127.0.0.1: ") && !error.contains("s3cret"), "{error}");
            assert!(begin.elapsed() < Duration::from_secs(10), "{error}: {:?}", begin.elapsed());
        }
    }

    /// The error about a peer that hangs up in the middle.
    fn hangs_up(says: &str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/s3cret", listener.local_addr().unwrap());
        let says = says.to_owned();
        let peer = std::thread::spawn(move || listener.accept().unwrap().0.write_all(says.as_bytes()).unwrap());
        let error = post(&url, None, &[], "{}", Duration::from_secs(20)).unwrap_err();
        peer.join().unwrap();
        error
    }

    #[test]
    fn the_deadline_is_for_all_of_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        // Nobody accepts; and a peer that sends a byte now and then does not make it longer.
        let slow = TcpListener::bind("127.0.0.1:0").unwrap();
        let drip = format!("http://{}/s3cret", slow.local_addr().unwrap());
        let drips = std::thread::spawn(move || {
            let (mut stream, _) = slow.accept().unwrap();
            let _ = stream.read(&mut [0; 1_024]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nx: ");
            while stream.write_all(b"y").is_ok() {
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        for url in [format!("http://{address}/s3cret?token=s3cret"), drip] {
            let begin = Instant::now();
            let error = post(&url, None, &[], "{}", Duration::from_millis(300)).unwrap_err();
            assert_eq!(error, "127.0.0.1: no answer within 0.3 s");
            assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
        }
        drips.join().unwrap();
    }
}
