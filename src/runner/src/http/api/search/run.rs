//! One search, on its thread: chooses jobs and attempts, reads their logs, sends what is found.
//!
//! It may not decide what is asked (see [`super`]) and holds nothing of the store between two jobs. An answer is whole when
//! its last line is a [`SearchedView`]; one that was stopped ends with an error instead.

use super::Wanted;
use super::grep::Finder;
use crate::api::{FoundView, Searched, SearchedView};
use crate::http::App;
use crate::http::api::log::{log_of, next_line_view};
use crate::joblog;
use crate::store::{AttemptRow, JobFilter, JobRow, Reader, StoreError};
use bytes::Bytes;
use ci_runner_core::id::JobId;
use ci_runner_core::state::Phase;
use ci_runner_spawner::joblog::{LogReader, Partial};
use serde::Serialize;
use std::io;
use std::os::fd::OwnedFd;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

/// Finished jobs whose logs are looked at: their ids are kept, eight bytes each.
const JOBS_MAX: usize = 200_000;
/// Open jobs whose logs are looked at: they are read whole, a few kilobytes each.
const OPEN_JOBS_MAX: usize = 10_000;
/// Lines that were found wait for more of them up to this size, or until the next piece of a log was searched.
const PENDING_BYTES: usize = 32 * 1024;

/// One search.
pub(super) struct Search {
    app: App,
    wanted: Wanted,
    dir: OwnedFd,
    answer: Answer,
    searched: Searched,
    /// As many lines as may be were sent.
    full: bool,
    piece: Vec<u8>,
    _place: OwnedSemaphorePermit,
}

/// The way to the client.
struct Answer {
    app: App,
    sender: mpsc::Sender<io::Result<Bytes>>,
    pending: Vec<u8>,
}

impl Answer {
    fn push(&mut self, line: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.pending, line)?;
        self.pending.push(b'\n');
        Ok(())
    }

    /// Whether there is somebody to search for. Waits while the client reads slower than is found.
    fn go_on(&mut self) -> bool {
        if !self.pending.is_empty() {
            // Whoever is gone is seen below.
            let _ = self.sender.blocking_send(Ok(std::mem::take(&mut self.pending).into()));
        }
        !self.sender.is_closed() && !self.app.shutdown.is_cancelled()
    }

    fn fail(&self, error: io::Error) {
        // The client may be gone, which is the most frequent reason.
        let _ = self.sender.blocking_send(Err(error));
    }
}

impl Search {
    pub(super) fn new(
        app: &App,
        wanted: Wanted,
        dir: OwnedFd,
        sender: mpsc::Sender<io::Result<Bytes>>,
        place: OwnedSemaphorePermit,
    ) -> Self {
        let answer = Answer { app: app.clone(), sender, pending: Vec::new() };
        let (app, searched) = (app.clone(), Searched::default());
        Self { app, wanted, dir, answer, searched, full: false, piece: Vec::new(), _place: place }
    }

    pub(super) fn run(mut self) {
        // A log that was left in its middle counts as searched: who stopped it is asked again.
        let done = self.all().map(|done| done && self.answer.go_on());
        match done {
            Ok(true) => match self.answer.push(&SearchedView { searched: self.searched }) {
                Ok(()) => drop(self.answer.go_on()),
                Err(error) => self.answer.fail(error),
            },
            Ok(false) => self.answer.fail(io::Error::other("the search was stopped")),
            Err(error) => self.answer.fail(io::Error::other(error)),
        }
    }

    /// False: stopped before the end.
    fn all(&mut self) -> Result<bool, StoreError> {
        let reader = self.app.context.handle.reader.clone();
        for id in self.jobs(reader.as_ref())? {
            if !self.answer.go_on() {
                return Ok(false);
            }
            // It may have been removed meanwhile.
            let Some(job) = reader.job(id)?.filter(|job| self.is_wanted(job)) else { continue };
            for attempt in reader.attempts(id)? {
                if attempt.released || !self.overlaps(&attempt) {
                    continue;
                }
                match self.attempt(&job, &attempt) {
                    Ok(true) => {}
                    Ok(false) => return Ok(false),
                    Err(_) => self.searched.unreadable += 1,
                }
                if self.full {
                    return Ok(true);
                }
            }
        }
        Ok(true)
    }

    /// Whose logs are looked at, the newest first.
    fn jobs(&mut self, reader: &dyn Reader) -> Result<Vec<JobId>, StoreError> {
        let mut ids = self.wanted.jobs.clone();
        let mut more = false;
        if ids.is_empty() {
            if self.wanted.outcomes.is_empty() {
                let open = JobFilter {
                    phases: vec![Phase::Queued, Phase::Starting, Phase::Running, Phase::Stopping],
                    tried: true,
                    name: self.wanted.filter.name.clone(),
                    pool: self.wanted.filter.pool.clone(),
                    ..JobFilter::all(OPEN_JOBS_MAX)
                };
                reader.each_job(&open, &mut |job| {
                    ids.push(job.id);
                    true
                })?;
                more = ids.len() >= OPEN_JOBS_MAX;
            }
            let most = ids.len() + JOBS_MAX;
            reader.each_ended(&self.wanted.filter, &mut |job| {
                let room = ids.len() < most;
                if room {
                    ids.push(job.id);
                }
                more |= !room;
                room
            })?;
        }
        self.searched.more = more;
        ids.sort_unstable();
        ids.dedup();
        ids.reverse();
        Ok(ids)
    }

    fn is_wanted(&self, job: &JobRow) -> bool {
        let Wanted { filter, outcomes, .. } = &self.wanted;
        let filter = JobFilter {
            outcomes: outcomes.clone(),
            name: filter.name.clone(),
            pool: filter.pool.clone(),
            ..JobFilter::all(1)
        };
        filter.matches(job)
    }

    /// Whether it ran in the time asked for.
    fn overlaps(&self, attempt: &AttemptRow) -> bool {
        let Wanted { since, until, .. } = &self.wanted;
        since.is_none_or(|since| attempt.ended.is_none_or(|ended| ended >= since))
            && until.is_none_or(|until| attempt.claimed < until)
    }

    /// False: stopped before the end.
    fn attempt(&mut self, job: &JobRow, attempt: &AttemptRow) -> io::Result<bool> {
        let mut log = joblog::open(self.dir.try_clone()?, log_of(job.id, attempt))?;
        let lines = log.sibling()?;
        if log.size()? == 0 {
            let kept = attempt.receipt.as_ref().map_or(0, |receipt| receipt.log_bytes);
            self.searched.removed += u64::from(kept > 0);
            return Ok(true);
        }
        if let Some(since) = self.wanted.since {
            log.seek_since(since.0)?;
        }
        let from = log.offset();
        let Self { wanted, answer, searched, full, piece, .. } = self;
        let mut finding = Finding { wanted, answer, searched, full, job, attempt: attempt.number.0, lines };
        let Some(bytes) = wanted.grep.search(&mut log, from, piece, &mut finding)? else { return Ok(false) };
        self.searched.logs += 1;
        self.searched.bytes += bytes;
        Ok(true)
    }
}

/// The search of one log.
struct Finding<'a> {
    wanted: &'a Wanted,
    answer: &'a mut Answer,
    searched: &'a mut Searched,
    full: &'a mut bool,
    job: &'a JobRow,
    attempt: u32,
    /// A second reader, for the lines that are found.
    lines: LogReader,
}

impl Finder for Finding<'_> {
    fn go_on(&mut self) -> bool {
        self.answer.go_on()
    }

    fn found(&mut self, offset: u64) -> io::Result<bool> {
        self.lines.seek(offset)?;
        let Some((line, wall_ms)) = next_line_view(&mut self.lines, Partial::Give)? else { return Ok(true) };
        if self.wanted.since.is_some_and(|since| wall_ms < since.0) {
            return Ok(true);
        }
        if self.wanted.until.is_some_and(|until| wall_ms >= until.0) {
            return Ok(false);
        }
        if self.searched.lines >= self.wanted.limit as u64 {
            (*self.full, self.searched.more) = (true, true);
            return Ok(false);
        }
        self.searched.lines += 1;
        let (job, name) = (self.job.id.get(), self.job.spec.name.clone());
        self.answer.push(&FoundView { job, attempt: self.attempt, name, line })?;
        // Whether anybody is there is asked again before the next piece; that waits for a slow reader, too.
        if self.answer.pending.len() >= PENDING_BYTES { Ok(self.answer.go_on()) } else { Ok(true) }
    }
}
