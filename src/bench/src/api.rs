//! A client of the API: one connection over the unix socket, kept alive, blocking. Knows as much HTTP as the daemon answers
//! here: a status and a body with its length.

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// No answer takes longer; a batch of jobs on a slow disk takes seconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);

/// A connection.
pub struct Api {
    stream: UnixStream,
    received: Vec<u8>,
}

/// Counts that `status` tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Waiting.
    pub queued: u64,
    /// Starting, running and stopping.
    pub running: u64,
    /// Ended well.
    pub succeeded: u64,
}

/// The bytes of a request.
pub fn request(method: &str, path: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// Length of the first whole answer, its status and its body, if one is there.
pub fn answer(bytes: &[u8]) -> Result<Option<(usize, u16, &[u8])>> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&bytes[..end]).context("the head of an answer is no text")?;
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).context("an answer without status")?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    let whole = end + 4 + length.unwrap_or(0);
    Ok((bytes.len() >= whole).then(|| (whole, status, &bytes[end + 4..whole])))
}

impl Api {
    /// Connects.
    pub fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket).with_context(|| format!("cannot connect to {}", socket.display()))?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        Ok(Self { stream, received: Vec::new() })
    }

    /// Sends a request and reads the answer, which must be a success.
    pub fn call(&mut self, method: &str, path: &str, body: &str) -> Result<Value> {
        self.stream.write_all(&request(method, path, body))?;
        let mut buffer = vec![0; 65_536];
        loop {
            if let Some((length, status, body)) = answer(&self.received)? {
                let text = String::from_utf8_lossy(body).into_owned();
                ensure!((200..300).contains(&status), "{method} {path} was answered {status}: {text}");
                self.received.drain(..length);
                return if text.is_empty() { Ok(Value::Null) } else { Ok(serde_json::from_str(&text)?) };
            }
            let count = self.stream.read(&mut buffer).with_context(|| format!("no answer to {method} {path}"))?;
            ensure!(count > 0, "the daemon closed the connection at {method} {path}");
            self.received.extend_from_slice(&buffer[..count]);
        }
    }

    /// Counts of jobs.
    pub fn counts(&mut self) -> Result<Counts> {
        let status = self.call("GET", "/api/v1/status", "")?;
        let of =
            |name: &str| status["jobs"][name].as_u64().with_context(|| format!("status tells no number of {name}"));
        Ok(Counts { queued: of("queued")?, running: of("running")?, succeeded: of("succeeded")? })
    }

    /// Waits until the counts are so.
    pub fn wait_until(&mut self, what: &str, patience: Duration, done: impl Fn(Counts) -> bool) -> Result<Counts> {
        let until = Instant::now() + patience;
        loop {
            let counts = self.counts()?;
            if done(counts) {
                return Ok(counts);
            }
            if Instant::now() > until {
                bail!("waited {} s for {what}; there is {counts:?}", patience.as_secs());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Starts no more jobs.
    pub fn pause(&mut self) -> Result<()> {
        self.call("POST", "/api/v1/pause", r#"{"reason":"measuring"}"#).map(drop)
    }

    /// Starts jobs again.
    pub fn resume(&mut self) -> Result<()> {
        self.call("POST", "/api/v1/resume", "{}").map(drop)
    }

    /// Queues one job; its id.
    pub fn submit(&mut self, job: &Value) -> Result<u64> {
        let answer = self.call("POST", "/api/v1/jobs", &job.to_string())?;
        answer["id"].as_u64().context("no id was answered")
    }

    /// Queues so many of the same job, in batches.
    pub fn submit_many(&mut self, job: &Value, mut count: usize) -> Result<()> {
        while count > 0 {
            let now = count.min(5_000);
            let batch = Value::Array(vec![job.clone(); now]).to_string();
            let answer = self.call("POST", "/api/v1/jobs", &batch)?;
            ensure!(answer["ids"].as_array().is_some_and(|ids| ids.len() == now), "{now} jobs did not get {now} ids");
            count -= now;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_when_it_is_whole() {
        let text = b"HTTP/1.1 201 Created\r\ncontent-length: 8\r\n\r\n{\"id\":7}HTTP";
        let (length, status, body) = answer(text).unwrap().unwrap();
        assert_eq!((length, status, body), (text.len() - 4, 201, &b"{\"id\":7}"[..]));
        assert!(answer(&text[..length - 1]).unwrap().is_none());
        assert!(answer(b"HTTP/1.1 204").unwrap().is_none());
    }
}
