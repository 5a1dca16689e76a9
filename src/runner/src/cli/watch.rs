//! Waiting for jobs to change, across restarts of the daemon.
//!
//! The event stream says *that* something changed; what is true is always asked again. So a lost event costs time at most,
//! and [`LOOK_AGAIN`] bounds that. Lines are server-sent events (WHATWG HTML, "Server-sent events").

use super::client::{Body, Client, ClientError, with_query};
use super::fail::Failure;
use crate::api::{EventView, JobView};
use std::io::{self, Read};
use std::time::{Duration, Instant};

/// The state is asked for again after so long without news.
pub const LOOK_AGAIN: Duration = Duration::from_secs(15);
/// An event longer than this is no event of ours.
const EVENT_BYTES_MAX: usize = 1024 * 1024;
/// More jobs than this are not named in the request.
const FILTER_IDS_MAX: usize = 100;
/// Pauses between attempts to reach a daemon that went away.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Between two questions where there is no place to follow: five hundred who wait so ask 250 short questions a second.
pub const CROWDED_PAUSE: Duration = Duration::from_secs(2);

/// How long a verb that waits looks for a daemon that was never seen, where nothing else bounds it: a start with a long queue
/// or a large database takes seconds, and a daemon that nobody starts must not hang a script.
pub const FIRST_CONTACT: Duration = Duration::from_secs(30);

/// Growing pauses.
#[derive(Debug)]
pub struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Backoff {
        Backoff(PAUSE_MIN)
    }
}

impl Backoff {
    /// Sleeps, at most until `deadline`; the next pause is longer.
    pub fn pause(&mut self, deadline: Option<Instant>) {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        std::thread::sleep(left.map_or(self.0, |left| left.min(self.0)));
        self.0 = (self.0 * 2).min(PAUSE_MAX);
    }
}

/// What the stream tells.
#[derive(Debug)]
pub enum News {
    /// A job has a new state.
    Job(EventView),
    /// Some were missed.
    Gap,
    /// Nothing within the given time.
    Silence,
}

/// An open stream of events.
#[derive(Debug)]
pub struct Watch {
    body: Body,
    ahead: Vec<u8>,
    event: String,
    data: String,
}

impl Watch {
    /// Opens the stream: everything about these jobs from now on is told; without any, about all.
    ///
    /// # Errors
    /// As [`Client::stream`].
    pub fn open(client: &Client, ids: &[u64]) -> Result<Watch, ClientError> {
        // Many ids would make a long request line; then all is told and chosen from here.
        let only = ((1..=FILTER_IDS_MAX).contains(&ids.len()))
            .then(|| ("id", ids.iter().map(u64::to_string).collect::<Vec<_>>().join(",")));
        let pairs: Vec<_> = only.into_iter().collect();
        let body = client.stream(&with_query("/api/v1/events", &pairs))?.body;
        Ok(Watch { body, ahead: Vec::new(), event: String::new(), data: String::new() })
    }

    /// As [`Watch::open`]; None where so many follow already that there is no place for one more.
    ///
    /// # Errors
    /// As [`Client::stream`].
    pub fn open_if_place(client: &Client, ids: &[u64]) -> Result<Option<Watch>, ClientError> {
        match Watch::open(client, ids) {
            Ok(watch) => Ok(Some(watch)),
            Err(error) if error.is_crowded() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The next news, or [`News::Silence`].
    ///
    /// # Errors
    /// The stream is broken or at its end: open another one, then ask for states.
    pub fn next(&mut self, wait: Duration) -> io::Result<News> {
        let until = Instant::now() + wait;
        loop {
            while let Some(line) = self.line() {
                if let Some(news) = self.take(&line) {
                    return Ok(news);
                }
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(News::Silence);
            }
            self.body.wait_at_most(Some(left));
            let mut bytes = [0; 16 * 1024];
            match self.body.read(&mut bytes) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.ahead.extend_from_slice(&bytes[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(News::Silence),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if self.ahead.len() + self.data.len() > EVENT_BYTES_MAX {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "an event without end"));
            }
        }
    }

    fn line(&mut self) -> Option<String> {
        let end = self.ahead.iter().position(|byte| *byte == b'\n')?;
        let line = String::from_utf8_lossy(&self.ahead[..end]).trim_end_matches('\r').to_owned();
        self.ahead.drain(..=end);
        Some(line)
    }

    fn take(&mut self, line: &str) -> Option<News> {
        if line.is_empty() {
            let (event, data) = (std::mem::take(&mut self.event), std::mem::take(&mut self.data));
            return match event.as_str() {
                "job" => serde_json::from_str(&data).ok().map(News::Job),
                "gap" => Some(News::Gap),
                _ => None,
            };
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.event),
            "data" => self.data.push_str(value),
            _ => {}
        }
        None
    }
}

/// Waits a little before asking again, where there is no place to follow; no longer than `deadline`.
pub fn pause_in_crowd(deadline: Option<Instant>) {
    let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    std::thread::sleep(left.map_or(CROWDED_PAUSE, |left| left.min(CROWDED_PAUSE)));
}

/// A job with its attempts.
///
/// # Errors
/// As [`Client::get`]; an unknown id is a 404.
pub fn job(client: &Client, id: u64) -> Result<JobView, ClientError> {
    client.get(&format!("/api/v1/jobs/{id}"))
}

/// The first question to a daemon, which may just be starting: waits for it until `deadline`, or for [`FIRST_CONTACT`] where
/// there is none, and says once on standard error what it waits for.
///
/// # Errors
/// No daemon within that time, a socket that the caller may not use, and what no waiting mends.
pub fn first_contact<T>(
    deadline: Option<Instant>,
    note: &dyn Fn(&str),
    mut ask: impl FnMut() -> Result<T, ClientError>,
) -> Result<T, Failure> {
    let until = deadline.unwrap_or_else(|| Instant::now() + FIRST_CONTACT);
    let mut backoff = Backoff::default();
    let mut said = false;
    loop {
        let error = match ask() {
            Ok(answer) => return Ok(answer),
            Err(error) if error.may_be_starting() => error,
            Err(error) => return Err(error.into()),
        };
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Failure::Temporary(format!("no daemon came: {error}")));
        }
        if !said {
            said = true;
            let seconds = left.as_secs_f64().ceil();
            note(&format!("waiting for a daemon, at most {seconds} s: {}", error.in_one_line()));
        }
        backoff.pause(Some(until));
    }
}

/// Does `ask` until it works, for as long as the daemon is only away: it may be restarting. Says so once.
///
/// # Errors
/// Anything that does not pass by itself, and the time being up.
pub fn patiently<T>(
    deadline: Option<Instant>,
    note: &dyn Fn(&str),
    mut ask: impl FnMut() -> Result<T, ClientError>,
) -> Result<T, Failure> {
    let mut backoff = Backoff::default();
    let mut said = false;
    loop {
        match ask() {
            Ok(answer) => {
                if said {
                    note("the daemon is back");
                }
                return Ok(answer);
            }
            Err(error) if error.is_passing() => {
                if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                    return Err(Failure::Temporary(format!("the time is up: {error}")));
                }
                // One that is busy answers: there is nothing to tell, asking again is all it takes.
                if !said && !error.is_busy() {
                    said = true;
                    note("the daemon is away; waiting for it to come back");
                }
                backoff.pause(deadline);
            }
            Err(error) => return Err(error.into()),
        }
    }
}
