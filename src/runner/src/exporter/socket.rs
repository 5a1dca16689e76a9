//! The daemon's end of the way from the exporter: a socket of its own beside the API's.
//!
//! Not the API's socket, because PID 1 may hold that: asking there would start a daemon that somebody stopped. Here nobody
//! listens while the daemon is down. One asks after the other, each has [`TIME_MAX`]; there is one exporter to a daemon.

use super::DaemonPart;
use rustix::event::{PollFd, PollFlags, Timespec};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// For one request and its answer, each.
const TIME_MAX: Duration = Duration::from_secs(2);
/// A request is a line and some headers.
const REQUEST_BYTES_MAX: usize = 8 * 1024;
/// It is looked this often whether the socket's file is still there.
const LOOK_SECONDS: i64 = 10;

/// Beside `api.sock`: `api-metrics.sock`.
pub fn metrics_socket(api: &Path) -> PathBuf {
    let stem = api.file_stem().unwrap_or_default().to_string_lossy();
    api.with_file_name(format!("{stem}-metrics.sock"))
}

/// Why [`serve`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was told to.
    Stopped,
    /// The socket's file is another one, or gone.
    Lost,
}

/// Answers until `stop` closes or somebody removes the file.
pub fn serve(listener: &UnixListener, path: &Path, daemon: &DaemonPart, stop: &UnixStream) -> Ended {
    let place = place_of(path);
    loop {
        let mut waiting = [PollFd::new(listener, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        let timeout = Timespec { tv_sec: LOOK_SECONDS, tv_nsec: 0 };
        match rustix::event::poll(&mut waiting, Some(&timeout)) {
            Ok(_) if !waiting[1].revents().is_empty() => return Ended::Stopped,
            Ok(0) if place_of(path) != place => return Ended::Lost,
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return Ended::Lost,
        }
        if let Ok((stream, _)) = listener.accept() {
            // Who is gone wants no answer.
            let _ = answer(stream, daemon);
        }
    }
}

fn place_of(path: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

fn answer(mut stream: UnixStream, daemon: &DaemonPart) -> io::Result<()> {
    let until = Instant::now() + TIME_MAX;
    let mut bytes = Vec::new();
    let mut buffer = [0; 1024];
    let accept = loop {
        if let Some(accept) = accept_of(&bytes) {
            break accept;
        }
        let left = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero());
        stream.set_read_timeout(Some(left.ok_or(io::ErrorKind::TimedOut)?))?;
        let got = stream.read(&mut buffer)?;
        if got == 0 || bytes.len() + got > REQUEST_BYTES_MAX {
            return Ok(());
        }
        bytes.extend_from_slice(&buffer[..got]);
    };
    let format = super::format_of(&accept);
    let (status, text) = match daemon(format) {
        Ok(text) => ("200 OK", text),
        Err(why) => ("503 Service Unavailable", why),
    };
    stream.set_write_timeout(Some(TIME_MAX))?;
    let (kind, length) = (format.content_type(), text.len());
    let head =
        format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    stream.write_all(text.as_bytes())
}

/// The value of `Accept` of a whole request, empty where it has none. None: it is not whole.
fn accept_of(bytes: &[u8]) -> Option<String> {
    let mut headers = [httparse::EMPTY_HEADER; 16];
    let mut request = httparse::Request::new(&mut headers);
    if !matches!(request.parse(bytes), Ok(httparse::Status::Complete(_))) {
        return None;
    }
    let accept = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case("accept"));
    Some(accept.map_or_else(String::new, |header| String::from_utf8_lossy(header.value).into_owned()))
}
