//! The writer thread: owns the store's writing side. The loop hands it one batch at a time and goes on; what arrives
//! meanwhile becomes the next batch. That is the group commit.

use super::secrets;
use crate::store::{Claimed, CollectLimits, Store, StoreError, Write};
use ci_runner_core::change::OpenJob;
use ci_runner_core::id::{JobId, PoolId};
use ci_runner_core::time::{ClockBase, Now};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::mpsc as answers;

/// What the writer is asked to do.
pub enum Order {
    /// Keep this batch, then tell the specifications of these jobs.
    Commit {
        /// What to keep.
        writes: Vec<Write>,
        /// Secrets to keep before it.
        secrets: Vec<(JobId, Vec<(String, String)>)>,
        /// Whose specification to tell.
        want: Vec<JobId>,
        /// Names of pools by number.
        pools: Vec<String>,
    },
    /// Read all open jobs again, after a commit that failed.
    Reload {
        /// Names of pools by number.
        pools: Vec<String>,
    },
    /// Remove old finished jobs.
    Collect {
        /// How old.
        limits: CollectLimits,
        /// Most jobs in one go.
        most: usize,
    },
    /// The daemon ends in order.
    Close {
        /// Clock to keep.
        base: ClockBase,
        /// Last reading.
        now: Now,
    },
}

/// Specifications that were asked for. One that cannot be read is its own job's trouble: the commit stands.
pub type Works = HashMap<JobId, Result<Claimed, StoreError>>;

/// What it answers, one for each order, in order.
pub enum Answer {
    /// A commit: how long it took; the specifications, when it succeeded.
    Committed(Result<Works, StoreError>, Duration),
    /// All open jobs. Pool numbers beyond the given names are in `pools`.
    Reloaded(Result<Reloaded, StoreError>),
    /// Jobs that were removed.
    Collected(Result<Vec<JobId>, StoreError>),
    /// The store is closed; nothing follows.
    Closed(Result<(), StoreError>),
}

/// The open jobs as the store has them.
pub struct Reloaded {
    /// Open jobs, ids rising.
    pub open: Vec<OpenJob>,
    /// What else the store tells.
    pub loaded: crate::store::Loaded,
    /// Names of pools by number.
    pub pools: Vec<String>,
}

/// The way to the thread.
pub struct Writer {
    orders: mpsc::Sender<Order>,
    /// Answers, one for each order.
    pub answers: answers::UnboundedReceiver<Answer>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts the thread. `secrets_dir` must exist.
    pub fn start(store: Box<dyn Store>, secrets_dir: PathBuf) -> std::io::Result<Self> {
        let (orders, incoming) = mpsc::channel();
        let (outgoing, answers) = answers::unbounded_channel();
        let thread = std::thread::Builder::new()
            .name("writer".to_owned())
            .spawn(move || work(store, &secrets_dir, &incoming, &outgoing))?;
        Ok(Self { orders, answers, thread: Some(thread) })
    }

    /// Hands over an order. False: the thread is gone.
    pub fn order(&self, order: Order) -> bool {
        self.orders.send(order).is_ok()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let (gone, _) = mpsc::channel();
        self.orders = gone;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the writer thread panicked");
        }
    }
}

fn work(
    mut store: Box<dyn Store>,
    secrets_dir: &std::path::Path,
    orders: &mpsc::Receiver<Order>,
    answers: &answers::UnboundedSender<Answer>,
) {
    while let Ok(order) = orders.recv() {
        let answer = match order {
            Order::Commit { writes, secrets, want, pools } => {
                let begin = Instant::now();
                let done = keep_secrets(secrets_dir, &secrets)
                    .and_then(|()| if writes.is_empty() { Ok(()) } else { store.commit(&writes, &pools) })
                    .map(|()| specifications(store.as_mut(), &want));
                Answer::Committed(done, begin.elapsed())
            }
            Order::Reload { pools } => Answer::Reloaded(reload(store.as_mut(), pools)),
            Order::Collect { limits, most } => Answer::Collected(store.collect(&limits, most)),
            Order::Close { base, now } => Answer::Closed(store.close(&base, now)),
        };
        if answers.send(answer).is_err() {
            return;
        }
    }
}

fn keep_secrets(dir: &std::path::Path, secrets: &[(JobId, Vec<(String, String)>)]) -> Result<(), StoreError> {
    for (job, values) in secrets {
        secrets::keep(dir, *job, values).map_err(|source| match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => StoreError::Full,
            _ => StoreError::Io { doing: "keep secrets in", path: dir.display().to_string(), source },
        })?;
    }
    Ok(())
}

fn specifications(store: &mut dyn Store, want: &[JobId]) -> Works {
    want.iter().filter_map(|id| Some((*id, store.claimed(*id).transpose()?))).collect()
}

fn reload(store: &mut dyn Store, mut pools: Vec<String>) -> Result<Reloaded, StoreError> {
    let mut open = Vec::new();
    let loaded = store.reread(&mut |name| pool_number(&mut pools, name), &mut |job| open.push(job))?;
    Ok(Reloaded { open, loaded, pools })
}

/// Number of a pool by name; a new name gets the next number.
pub fn pool_number(pools: &mut Vec<String>, name: &str) -> PoolId {
    let at = pools.iter().position(|known| known == name).unwrap_or_else(|| {
        pools.push(name.to_owned());
        pools.len() - 1
    });
    PoolId(u16::try_from(at).unwrap_or(u16::MAX))
}
