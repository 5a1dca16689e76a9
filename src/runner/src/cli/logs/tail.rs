//! Follows the log of one job, line by line, through attempts and restarts of the daemon: for whoever follows several at once.
//!
//! Each line comes once: the cursor is the offset behind the last line that was told, and a stream that breaks is opened again
//! from there. It blocks, and belongs on a thread of its own; it ends within [`LOOK_UP`] after it was told to stop.

use super::super::client::{Client, ClientError, Response, with_query};
use super::super::watch::{Backoff, job, pause_in_crowd};
use crate::api::{JobView, LineView};
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A silent log is left for a moment to see whether to stop.
const LOOK_UP: Duration = Duration::from_millis(300);
/// One line of the answer holds a part of a log's line, of 64 KiB at most, escaped.
const ANSWER_LINE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What a follower is told.
#[derive(Debug)]
pub enum Told {
    /// The log of this attempt comes now.
    Attempt(u32),
    /// A line, or a part of a very long one.
    Line(LineView),
    /// The daemon is away; it is waited for.
    Away,
    /// It is back.
    Back,
    /// The job has finished, and all its output was told.
    Finished(Box<JobView>),
    /// There is no more to come, for this reason.
    Failed(String),
}

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// With the first line of the first attempt.
    First,
    /// With the latest attempt: its last so many lines, or all.
    Latest(Option<u64>),
}

/// Follows one job.
pub struct Tail {
    /// The way to the daemon.
    pub client: Client,
    /// The job.
    pub id: u64,
    /// Where to begin.
    pub begin: Begin,
    /// Set by somebody else to end it.
    pub stop: Arc<AtomicBool>,
}

/// Where the reading stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Position {
    attempt: u32,
    offset: u64,
}

/// How the reading of one stream ended.
enum End {
    /// At the end of what was asked for.
    Whole,
    /// Broken off.
    Broken,
    /// Nobody wants more.
    Stopped,
}

type Tell<'a> = &'a mut dyn FnMut(Told) -> bool;

impl Tail {
    /// Tells everything to `tell`, until the job has finished, `tell` says false, or it is stopped.
    pub fn run(&self, tell: Tell<'_>) {
        if let Err(error) = self.follow(tell) {
            tell(Told::Failed(error.to_string()));
        }
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn follow(&self, tell: Tell<'_>) -> Result<(), ClientError> {
        let mut position = match self.begin {
            Begin::Latest(_) => None,
            Begin::First => match self.next_attempt(0, tell)? {
                Some(attempt) => Some(Position { attempt, offset: 0 }),
                None => return Ok(()),
            },
        };
        let mut announced = 0;
        let mut backoff = Backoff::default();
        while !self.stopped() {
            let Some((response, all)) = self.open(position, tell)? else { return Ok(()) };
            let mut at = position_of(&response, position);
            if announced != at.attempt {
                announced = at.attempt;
                if !tell(Told::Attempt(at.attempt)) {
                    return Ok(());
                }
            }
            let from = at;
            let end = self.copy(response, &mut at, tell);
            position = Some(at);
            match end {
                End::Stopped => return Ok(()),
                End::Broken if at == from => backoff.pause(None),
                End::Broken => backoff = Backoff::default(),
                // Not followed, for want of a place: more may come.
                End::Whole if !all => pause_in_crowd(None),
                End::Whole => match self.next_attempt(at.attempt, tell)? {
                    Some(attempt) => position = Some(Position { attempt, offset: 0 }),
                    None => return Ok(()),
                },
            }
        }
        Ok(())
    }

    /// The stream, and whether its end is the attempt's; None: there is nothing to follow, which was told.
    fn open(&self, position: Option<Position>, tell: Tell<'_>) -> Result<Option<(Response, bool)>, ClientError> {
        let mut pairs = vec![("format", "ndjson".to_owned())];
        match (position, self.begin) {
            (Some(at), _) => pairs.extend([("attempt", at.attempt.to_string()), ("offset", at.offset.to_string())]),
            (None, Begin::Latest(Some(lines))) => pairs.push(("tail", lines.to_string())),
            (None, Begin::Latest(None) | Begin::First) => {}
        }
        let path = format!("/api/v1/jobs/{}/log", self.id);
        let followed: Vec<_> = pairs.iter().cloned().chain([("follow", "true".to_owned())]).collect();
        let opened = self.patiently(tell, || match self.client.stream(&with_query(&path, &followed)) {
            Err(error) if error.is_crowded() => Ok(None),
            answer => answer.map(Some),
        })?;
        match opened {
            None => Ok(None),
            Some(Some(response)) => Ok(Some((response, true))),
            Some(None) => {
                // Whether it has ended must be known before what is there is read.
                let Some(view) = self.patiently(tell, || job(&self.client, self.id))? else { return Ok(None) };
                let attempts = view.attempts.unwrap_or_default();
                let ours = |number| attempts.iter().find(|attempt| Some(attempt.number) == number);
                let number = position.map(|at| at.attempt).or(attempts.iter().map(|attempt| attempt.number).max());
                let ended = view.state == "finished" || ours(number).is_some_and(|attempt| attempt.result.is_some());
                let response = self.patiently(tell, || self.client.stream(&with_query(&path, &pairs)))?;
                Ok(response.map(|response| (response, ended)))
            }
        }
    }

    /// Does `ask` until it works, for as long as the daemon is only away; None: it was stopped.
    fn patiently<T>(
        &self,
        tell: Tell<'_>,
        mut ask: impl FnMut() -> Result<T, ClientError>,
    ) -> Result<Option<T>, ClientError> {
        let mut backoff = Backoff::default();
        let mut away = false;
        while !self.stopped() {
            match ask() {
                Ok(answer) => {
                    if away && !tell(Told::Back) {
                        return Ok(None);
                    }
                    return Ok(Some(answer));
                }
                Err(error) if error.is_passing() => {
                    if !away && !error.is_busy() {
                        away = true;
                        if !tell(Told::Away) {
                            return Ok(None);
                        }
                    }
                    backoff.pause(None);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Tells lines to the end of the stream, and keeps count of where it stands.
    fn copy(&self, mut response: Response, at: &mut Position, tell: Tell<'_>) -> End {
        response.body.wait_at_most(Some(LOOK_UP));
        let (mut bytes, mut half) = (vec![0; 64 * 1024], Vec::new());
        loop {
            if self.stopped() {
                return End::Stopped;
            }
            let read = match response.body.read(&mut bytes) {
                Ok(0) => return End::Whole,
                Ok(read) => read,
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => continue,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return End::Broken,
            };
            half.extend_from_slice(&bytes[..read]);
            let Some(end) = half.iter().rposition(|byte| *byte == b'\n') else {
                if half.len() > ANSWER_LINE_BYTES_MAX {
                    return End::Broken;
                }
                continue;
            };
            let rest = half.split_off(end + 1);
            for json in std::mem::replace(&mut half, rest).split(|byte| *byte == b'\n').filter(|json| !json.is_empty())
            {
                let Ok(line) = serde_json::from_slice::<LineView>(json) else { return End::Broken };
                at.offset = line.next;
                if !tell(Told::Line(line)) {
                    return End::Stopped;
                }
            }
        }
    }

    /// The attempt behind `after`, once there is one; None: the job has finished without another, or it was stopped.
    fn next_attempt(&self, after: u32, tell: Tell<'_>) -> Result<Option<u32>, ClientError> {
        let mut backoff = Backoff::default();
        while !self.stopped() {
            let Some(view) = self.patiently(tell, || job(&self.client, self.id))? else { return Ok(None) };
            // A claim that was given back has no output.
            let attempts = view.attempts.iter().flatten();
            let tried = attempts.filter(|attempt| attempt.result.as_deref() != Some("released"));
            let next = tried.map(|attempt| attempt.number).filter(|number| *number > after).min();
            if next.is_some() {
                return Ok(next);
            }
            if view.state == "finished" {
                tell(Told::Finished(Box::new(view)));
                return Ok(None);
            }
            backoff.pause(None);
        }
        Ok(None)
    }
}

/// Where a stream begins: what the daemon says, else what was asked for.
fn position_of(response: &Response, asked: Option<Position>) -> Position {
    let number = |name: &str| response.header(name).and_then(|value| value.parse::<u64>().ok());
    let attempt = number("ci-runner-attempt").and_then(|attempt| u32::try_from(attempt).ok());
    Position {
        attempt: attempt.or(asked.map(|at| at.attempt)).unwrap_or(1),
        offset: number("ci-runner-log-offset").or(asked.map(|at| at.offset)).unwrap_or(0),
    }
}
