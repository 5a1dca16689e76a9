//! `ci-runner run`: the daemon's own loop over a store in memory and directories of its own, for as long as the jobs last.
//!
//! Nothing is kept: store, logs and temporary directories are gone afterwards. The spawner is a private one and ends with us,
//! whatever we end by: it then kills what runs and removes the directories itself.

mod check;
mod private_dir;
mod watcher;

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
use crate::store::{Reader, Store};
use crate::systemd::Notifier;
use anyhow::{Context, Result, bail};
use ci_runner_core::id::JobId;
use private_dir::PrivateDir;
use serde::Serialize;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use watcher::Watcher;

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
        let ids = match submit(&handle, planned, stop.clone()).await {
            Ok(ids) => ids,
            Err(error) => {
                control.send(Control::Stop).await.ok();
                engine.await?;
                return Err(error);
            }
        };
        let watcher = Watcher::new(handle.clone(), control.clone(), reader, log_dir, stop, events);
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

/// Submits the jobs when the spawner has come: a spawner that cannot start is told instead of waited for, and which limits can
/// be kept is not known before. Who does not want the jobs any more waits for no spawner: the watcher, which hears the same,
/// cancels them.
async fn submit(handle: &Handle, jobs: Vec<NewJob>, mut stop: watch::Receiver<Stop>) -> Result<Vec<JobId>> {
    let mut snapshots = handle.snapshots();
    tokio::select! {
        there = tokio::time::timeout(SPAWNER_COMES, snapshots.wait_for(|snapshot| snapshot.executor_up)) => match there {
            Ok(there) => drop(there.context("the loop ended by itself")?),
            Err(_) => {
                let troubles: Vec<String> = handle.snapshot().troubles.values().cloned().collect();
                bail!("the spawner does not come up: {}", troubles.join("; "));
            }
        },
        Ok(_) = stop.wait_for(|stop| *stop != Stop::No) => {}
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
        commit_patience: engine::COMMIT_PATIENCE,
        figures: Figures::default(),
        output: None,
    };
    Ok((parts, reader))
}
