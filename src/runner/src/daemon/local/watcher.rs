//! Watches the jobs of a `run`: what becomes of them and what they write, told in order as events.

use super::super::engine::Control;
use super::super::handle::{Action, Handle, Target};
use super::{Event, JobResult, Stop};
use crate::store::{JobRow, Reader};
use anyhow::Result;
use ci_runner_core::announce::Announcement;
use ci_runner_core::id::JobId;
use ci_runner_core::outcome::AttemptResult;
use ci_runner_core::state::Phase;
use ci_runner_spawner::joblog::LogReader;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Output of running jobs is looked for this often: below what an eye notices.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Output handed on at once.
const OUTPUT_BYTES: usize = 64 * 1024;

/// How far a job's output was handed on.
struct Shown {
    index: usize,
    attempt: u32,
    log: Option<LogReader>,
    offset: u64,
}

/// Tells what happens to the jobs of a `run`, and hands their output on.
pub(super) struct Watcher {
    handle: Handle,
    control: mpsc::Sender<Control>,
    reader: Arc<dyn Reader>,
    log_dir: PathBuf,
    stop: watch::Receiver<Stop>,
    events: mpsc::Sender<Event>,
    jobs: HashMap<JobId, Shown>,
}

impl Watcher {
    /// Watches nothing yet.
    pub(super) fn new(
        handle: Handle,
        control: mpsc::Sender<Control>,
        reader: Arc<dyn Reader>,
        log_dir: PathBuf,
        stop: watch::Receiver<Stop>,
        events: mpsc::Sender<Event>,
    ) -> Self {
        Self { handle, control, reader, log_dir, stop, events, jobs: HashMap::new() }
    }

    /// Returns when all these jobs have finished.
    ///
    /// # Errors
    /// The loop ended, or a job or its log cannot be read.
    pub(super) async fn watch(mut self, ids: &[JobId]) -> Result<()> {
        let shown = |(index, id): (usize, &JobId)| (*id, Shown { index, attempt: 0, log: None, offset: 0 });
        self.jobs = ids.iter().enumerate().map(shown).collect();
        let mut news = self.handle.news();
        let mut told = 0;
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut asked = Stop::No;
        while !self.jobs.is_empty() {
            tokio::select! {
                announcements = news.after(told) => {
                    anyhow::ensure!(!announcements.is_empty(), "the loop ended by itself");
                    for announcement in announcements {
                        match announcement {
                            Announcement::Job(news) => {
                                told = news.seq;
                                self.changed(news.job, news.phase, news.attempt.map(|number| number.0)).await?;
                            }
                            Announcement::Gap(seq) => {
                                told = seq;
                                self.look_again().await?;
                            }
                        }
                    }
                }
                _ = look.tick() => self.hand_on_all().await?,
                changed = self.stop.changed() => {
                    let wanted = *self.stop.borrow_and_update();
                    if changed.is_ok() && wanted != asked {
                        asked = wanted;
                        self.end(wanted).await;
                    }
                }
            }
        }
        Ok(())
    }

    /// A display that is gone wants nothing; the jobs go on to their end.
    pub(super) async fn tell(&self, event: Event) {
        self.events.send(event).await.ok();
    }

    async fn end(&self, wanted: Stop) {
        if wanted == Stop::No {
            return;
        }
        // Refused only when the loop is gone, which the news tell.
        self.handle.act(Target::All, Action::Cancel, "you".to_owned()).await.ok();
        if wanted == Stop::Kill {
            self.control.send(Control::KillAll).await.ok();
        }
    }

    /// After a gap in the news: every job as the store has it.
    async fn look_again(&mut self) -> Result<()> {
        for id in self.jobs.keys().copied().collect::<Vec<_>>() {
            if let Some(row) = self.reader.job(id)? {
                self.changed(id, row.phase, (row.attempt > 0).then_some(row.attempt)).await?;
            }
        }
        Ok(())
    }

    async fn changed(&mut self, id: JobId, phase: Phase, attempt: Option<u32>) -> Result<()> {
        let Some(shown) = self.jobs.get_mut(&id) else { return Ok(()) };
        let index = shown.index;
        match phase {
            Phase::Running => {
                let attempt = attempt.unwrap_or(1);
                self.open_log(id, attempt)?;
                self.tell(Event::Started { index, id: id.get(), attempt }).await;
            }
            Phase::Queued | Phase::Finished => {
                if let Some(attempt) = attempt.filter(|attempt| shown.attempt != *attempt) {
                    // It ended before its start was told; what it wrote is there all the same.
                    self.open_log(id, attempt)?;
                }
                self.hand_on(id).await?;
                self.after_attempt(id, index, phase).await?;
            }
            Phase::Starting | Phase::Stopping => {}
        }
        Ok(())
    }

    async fn after_attempt(&mut self, id: JobId, index: usize, phase: Phase) -> Result<()> {
        let Some(row) = self.reader.job(id)? else { return Ok(()) };
        if phase == Phase::Finished {
            self.jobs.remove(&id);
            let receipts = self.reader.attempts(id)?.into_iter().filter_map(|attempt| attempt.receipt);
            let dropped = receipts.map(|receipt| receipt.log_dropped_bytes).sum();
            self.tell(Event::Finished { index, result: job_result(&row, dropped) }).await;
        } else if let Some(result) = row.result.filter(|_| row.tries > 0) {
            let delay = Duration::from_millis(row.spec.terms.retry.delay_after_ms(
                id,
                ci_runner_core::id::AttemptNumber(row.attempt),
                row.tries,
            ));
            self.tell(Event::Retrying { index, cause: result.to_string(), delay }).await;
        }
        Ok(())
    }

    fn open_log(&mut self, id: JobId, attempt: u32) -> Result<()> {
        let Some(shown) = self.jobs.get_mut(&id) else { return Ok(()) };
        let dir = std::fs::File::open(&self.log_dir)?;
        shown.attempt = attempt;
        shown.offset = 0;
        shown.log = Some(LogReader::new(dir.into(), id.get(), attempt, 0));
        Ok(())
    }

    async fn hand_on_all(&mut self) -> Result<()> {
        for id in self.jobs.keys().copied().collect::<Vec<_>>() {
            self.hand_on(id).await?;
        }
        Ok(())
    }

    /// Hands on what a job wrote since the last look.
    async fn hand_on(&mut self, id: JobId) -> Result<()> {
        let Some(shown) = self.jobs.get_mut(&id) else { return Ok(()) };
        let Some(log) = &mut shown.log else { return Ok(()) };
        let mut buffer = vec![0; OUTPUT_BYTES];
        loop {
            let count = log.read_at(&mut buffer, shown.offset)?;
            if count == 0 {
                return Ok(());
            }
            shown.offset += count as u64;
            let event = Event::Output { index: shown.index, bytes: buffer[..count].to_vec() };
            self.events.send(event).await.ok();
        }
    }
}

fn job_result(row: &JobRow, log_dropped_bytes: u64) -> JobResult {
    let (exit_code, signal) = match &row.result {
        Some(AttemptResult::Exited { code }) => (Some(*code), None),
        Some(AttemptResult::Signaled { signal }) => (None, Some(*signal)),
        _ => (None, None),
    };
    JobResult {
        id: row.id.get(),
        outcome: row.outcome.as_ref().map_or("failed", |outcome| outcome.word()).to_owned(),
        exit_code,
        signal,
        cause: row.result.as_ref().filter(|result| !result.is_success()).map(ToString::to_string),
        attempt_count: row.attempt,
        run_seconds: row.run_us.map(|run_us| Duration::from_micros(run_us).as_secs_f64()),
        log_dropped_bytes,
        log_max: row.spec.work.log_bytes_max,
    }
}
