//! A small blocking HTTP client over the unix socket: one connection for each request.

use serde_json::Value;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

/// An answer that is not there after this is not coming.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Where to call.
#[derive(Clone)]
pub struct Client {
    socket: PathBuf,
}

/// An answer.
pub struct Response {
    /// HTTP status.
    pub status: u16,
    /// Headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The whole body.
    pub body: Vec<u8>,
}

impl Response {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// A header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// A body that comes in pieces.
pub struct Stream {
    reader: BufReader<UnixStream>,
    left: u64,
    ended: bool,
}

impl Client {
    /// To the daemon of this socket.
    pub fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Asks and reads the whole answer. Err: no answer, or a broken one.
    pub fn call(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> io::Result<Response> {
        let body = body.map(Value::to_string).unwrap_or_default();
        self.call_raw(method, path, headers, body.as_bytes())
    }

    /// As [`Client::call`], with any body.
    pub fn call_raw(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> io::Result<Response> {
        let mut reader = self.send(method, path, headers, body)?;
        let (status, headers) = read_head(&mut reader)?;
        let find = |name: &str| headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
        let mut body = Vec::new();
        if find("transfer-encoding") == Some("chunked") {
            let mut stream = Stream { reader, left: 0, ended: false };
            let mut piece = vec![0; 64 * 1024];
            loop {
                match stream.read(&mut piece)? {
                    0 => break,
                    got => body.extend_from_slice(&piece[..got]),
                }
            }
        } else if let Some(length) = find("content-length").and_then(|text| text.parse().ok()) {
            body.resize(length, 0);
            reader.read_exact(&mut body)?;
        }
        Ok(Response { status, headers, body })
    }

    /// Opens a body that comes in pieces.
    pub fn stream(&self, path: &str) -> io::Result<Stream> {
        let mut reader = self.send("GET", path, &[], &[])?;
        let (status, headers) = read_head(&mut reader)?;
        let chunked = headers.iter().any(|(name, value)| name == "transfer-encoding" && value == "chunked");
        if !chunked {
            return Err(io::Error::other(format!("status {status}, not chunked")));
        }
        Ok(Stream { reader, left: 0, ended: false })
    }

    fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<BufReader<UnixStream>> {
        let mut socket = UnixStream::connect(&self.socket)?;
        socket.set_read_timeout(Some(TIMEOUT))?;
        socket.set_write_timeout(Some(TIMEOUT))?;
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() || method != "GET" {
            head.push_str(&format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        let mut request = head.into_bytes();
        request.extend_from_slice(body);
        socket.write_all(&request)?;
        Ok(BufReader::new(socket))
    }
}

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, what)
}

fn line(reader: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    match line.strip_suffix("\r\n") {
        Some(line) => Ok(line.to_owned()),
        None => Err(broken("the answer is cut off")),
    }
}

fn read_head(reader: &mut impl BufRead) -> io::Result<(u16, Vec<(String, String)>)> {
    let first = line(reader)?;
    let status = first.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(|| broken("no status"))?;
    let mut headers = Vec::new();
    loop {
        let line = line(reader)?;
        if line.is_empty() {
            return Ok((status, headers));
        }
        if let Some((name, value)) = line.split_once(':') {
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
}

impl Read for Stream {
    /// 0: the body is complete. An error: it was cut off.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.ended {
            return Ok(0);
        }
        if self.left == 0 {
            let text = line(&mut self.reader)?;
            self.left = u64::from_str_radix(&text, 16).map_err(|_| broken("no length of a piece"))?;
            if self.left == 0 {
                line(&mut self.reader)?;
                self.ended = true;
                return Ok(0);
            }
        }
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let got = self.reader.read(&mut buffer[..most])?;
        if got == 0 {
            return Err(broken("a piece is cut off"));
        }
        self.left -= got as u64;
        if self.left == 0 {
            line(&mut self.reader)?;
        }
        Ok(got)
    }
}
