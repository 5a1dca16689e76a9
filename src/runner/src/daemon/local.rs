//! `ci-runner run`: the daemon's own loop over a store in memory and directories of its own, for as long as the jobs last.
//!
//! Nothing is kept: store, logs and temporary directories are gone afterwards. The spawner is a private one and ends with us,
//! whatever we end by: it then kills what runs and removes the directories itself.

mod check;
mod private_dir;

pub use check::BadJob;

use super::clock::Clock;
use super::engine::{self, Control, Engine, HostSettings, Parts};
use super::handle::{Action, Handle, NewJob, Refusal, Target};
use super::settings::local_settings;
use crate::api::JobRequest;
use crate::config::Executor;
use crate::executor::native::{Lifeline, Native, NativeOptions};
use crate::metrics::Figures;
use crate::store::memory::MemoryStore;
use crate::store::{JobRow, Reader, Store};
use crate::systemd::Notifier;
use anyhow::{Context, Result};
use ci_runner_core::announce::Announcement;
use ci_runner_core::id::JobId;
use ci_runner_core::limits::Limits;
use ci_runner_core::outcome::AttemptResult;
use ci_runner_core::state::Phase;
use ci_runner_spawner::joblog::LogReader;
use private_dir::PrivateDir;
use serde::Serialize;
use std::collections::HashMap;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Output of running jobs is looked for this often: below what an eye notices.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Output handed on at once.
const OUTPUT_BYTES: usize = 64 * 1024;
/// The private spawner is there after milliseconds; later than this it will not come.
const SPAWNER_COMES: Duration = Duration::from_secs(30);
/// The private spawner stays so long after the last job.
const LINGER: Duration = Duration::from_millis(50);

/// What to run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The jobs; events name them by their place.
    pub jobs: Vec<JobRequest>,
    /// How many at once.
    pub parallel: u32,
}

/// What the user wants now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Go on.
    No,
    /// Start nothing more, and ask what runs to end (cancel: SIGTERM, grace, kill).
    Ask,
    /// Kill it.
    Kill,
}

/// What happened, in order for each job.
#[derive(Clone, Debug)]
pub enum Event {
    /// It starts at a time that was asked for, not now.
    Waiting {
        /// Which job.
        index: usize,
        /// For what, in words.
        text: String,
    },
    /// An attempt runs.
    Started {
        /// Which job.
        index: usize,
        /// Its id in the engine.
        id: u64,
        /// Which attempt.
        attempt: u32,
    },
    /// It wrote something.
    Output {
        /// Which job.
        index: usize,
        /// Bytes as it wrote them.
        bytes: Vec<u8>,
    },
    /// An attempt failed and there will be another one.
    Retrying {
        /// Which job.
        index: usize,
        /// How it failed, in words.
        cause: String,
        /// The pause before the next one.
        delay: Duration,
    },
    /// It has its outcome.
    Finished {
        /// Which job.
        index: usize,
        /// How.
        result: JobResult,
    },
}

/// How a job ended.
#[derive(Clone, Debug, Serialize)]
pub struct JobResult {
    /// Id in the engine.
    pub id: u64,
    /// `succeeded`, `failed`, `timed_out`, `cancelled`, `superseded` or `expired`.
    pub outcome: String,
    /// Exit code of the last attempt, if it exited.
    pub exit_code: Option<u8>,
    /// Signal that ended it, if one did.
    pub signal: Option<u8>,
    /// In words.
    pub cause: Option<String>,
    /// Attempts made.
    pub attempt_count: u32,
    /// Run time of the last attempt.
    pub run_seconds: Option<f64>,
    /// Output of its attempts beyond the cap, which nobody saw.
    pub log_dropped_bytes: u64,
    /// That cap.
    pub log_max: u64,
}

/// Runs jobs and tells what happens; returns when all have finished and nothing of them is left.
///
/// # Errors
/// What made running impossible, a wrong job ([`BadJob`]) among it; nothing runs any more.
pub fn run(plan: Plan, events: mpsc::Sender<Event>, stop: watch::Receiver<Stop>) -> Result<()> {
    let path = PrivateDir::name();
    // Outlives the directory: while we live, only we remove that.
    let lifeline = Arc::new(Lifeline::new(path.clone()).context("cannot make a pipe")?);
    let dir = PrivateDir::make(path)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let settings = local_settings(plan.parallel);
        let now = jiff::Zoned::now();
        let planned = check::plan(plan.jobs, &settings, &now)?;
        let waits = check::waits(&planned, &now);
        let (parts, reader) = parts(&dir.path, settings, lifeline.clone())?;
        let log_dir = parts.host.log_dir.clone();
        let (engine, handle, control) = Engine::new(parts)?;
        let engine = tokio::spawn(engine.run());
        let ids = match submit(&handle, planned).await {
            Ok(ids) => ids,
            Err(error) => {
                control.send(Control::Stop).await.ok();
                engine.await?;
                return Err(error);
            }
        };
        let watcher = Watcher {
            handle: handle.clone(),
            control: control.clone(),
            reader,
            log_dir,
            stop,
            events,
            jobs: HashMap::new(),
        };
        for (index, text) in waits {
            watcher.tell(Event::Waiting { index, text }).await;
        }
        let done = watcher.watch(&ids).await;
        if done.is_err() {
            end_all(&handle, &control).await;
        }
        control.send(Control::Stop).await.ok();
        engine.await?;
        done
    })
}

/// Submits the jobs. Which limits can be kept is known when the spawner has come: before, every limit passes, and a job with
/// one that cannot be kept would wait for ever.
async fn submit(handle: &Handle, jobs: Vec<NewJob>) -> Result<Vec<JobId>> {
    if jobs.iter().any(|job| job.spec.terms.limits != Limits::NONE) {
        let mut snapshots = handle.snapshots();
        let there = tokio::time::timeout(SPAWNER_COMES, snapshots.wait_for(|snapshot| snapshot.executor_up));
        there.await.context("the spawner does not come up")?.context("the loop ended by itself")?;
    }
    handle.submit(jobs, None, "run".to_owned()).await.map_err(refused)
}

/// Watching failed: nothing may go on unseen. Waits until no attempt is left.
async fn end_all(handle: &Handle, control: &mpsc::Sender<Control>) {
    handle.act(Target::All, Action::Cancel, "you".to_owned()).await.ok();
    control.send(Control::KillAll).await.ok();
    let mut snapshots = handle.snapshots();
    snapshots.wait_for(|snapshot| snapshot.leases.is_empty()).await.ok();
}

fn refused(refusal: Refusal) -> anyhow::Error {
    match refusal {
        Refusal::Fault { index, fault } => BadJob { index, fault }.into(),
        other => anyhow::anyhow!("the jobs were refused: {other:?}"),
    }
}

fn parts(
    dir: &Path,
    settings: ci_runner_core::policy::Settings,
    lifeline: Arc<Lifeline>,
) -> Result<(Parts, Arc<dyn Reader>)> {
    let host = HostSettings::local(dir);
    for part in [&host.log_dir, &host.tmp_dir, &host.secrets_dir] {
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(part)
            .with_context(|| format!("cannot make {}", part.display()))?;
    }
    let (mut store, reader) = MemoryStore::new();
    let loaded = store.load(&mut |_| ci_runner_core::id::PoolId(0), &mut |_| {})?;
    let native = NativeOptions {
        program: super::service::spawner_program()?,
        runtime_dir: dir.join("run"),
        log_dir: host.log_dir.clone(),
        tmp_dir: host.tmp_dir.clone(),
        store: loaded.store_id.clone(),
        generation: loaded.generation,
        linger: Some(LINGER),
        job_open_files: None,
        service: None,
        lifeline: Some(lifeline),
    };
    std::fs::create_dir(&native.runtime_dir)?;
    let clock = Clock::resume(None, loaded.last);
    let record = engine::rebuild(settings, &[], &[], &loaded);
    let parts = Parts {
        store: Box::new(store),
        reader: reader.clone(),
        loaded,
        record,
        clock,
        sides: vec![(Executor::Native, Native::new(native))],
        former: Vec::new(),
        host,
        notifier: Notifier::silent(),
        figures: Figures::default(),
        output: None,
    };
    Ok((parts, reader))
}

/// How far a job's output was handed on.
struct Shown {
    index: usize,
    attempt: u32,
    log: Option<LogReader>,
    offset: u64,
}

struct Watcher {
    handle: Handle,
    control: mpsc::Sender<Control>,
    reader: Arc<dyn Reader>,
    log_dir: PathBuf,
    stop: watch::Receiver<Stop>,
    events: mpsc::Sender<Event>,
    jobs: HashMap<JobId, Shown>,
}

impl Watcher {
    async fn watch(mut self, ids: &[JobId]) -> Result<()> {
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
    async fn tell(&self, event: Event) {
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
