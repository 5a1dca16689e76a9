//! How much the loop takes in one turn: what comes behind long work waits for the next.

use crate::harness::{Life, Loop, new_job, wait_for};
use crate::spawner::Spawner;
use ci_runner::daemon::handle::IdempotencyKey;
use ci_runner::store::memory::MemoryStore;
use ci_runner::store::{
    BackupFile, EndMark, EndedFilter, EndedJob, JobEnd, JobFilter, JobRow, KeyRow, Reader, ScheduleRow, StoreError,
};
use ci_runner_core::id::JobId;
use ci_runner_core::time::Instant;
use futures_util::future::join_all;
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

/// More than the time in which wishes are taken in one turn.
const LONG: Duration = Duration::from_millis(120);

/// A reader of which a look at a key is long work. The first waits for the test.
struct Slow {
    reader: Arc<dyn Reader>,
    gate: Mutex<Option<mpsc::Receiver<()>>>,
}

impl Reader for Slow {
    fn key(&self, key: &str, now: Instant) -> Result<Option<KeyRow>, StoreError> {
        if let Some(gate) = self.gate.lock().unwrap().take() {
            gate.recv().unwrap_err();
        }
        std::thread::sleep(LONG);
        self.reader.key(key, now)
    }

    fn job(&self, id: JobId) -> Result<Option<JobRow>, StoreError> {
        self.reader.job(id)
    }

    fn attempts(&self, id: JobId) -> Result<Vec<ci_runner::store::AttemptRow>, StoreError> {
        self.reader.attempts(id)
    }

    fn each_job(&self, filter: &JobFilter, each: &mut dyn FnMut(JobRow) -> bool) -> Result<(), StoreError> {
        self.reader.each_job(filter, each)
    }

    fn each_ended(&self, filter: &EndedFilter, each: &mut dyn FnMut(EndedJob<'_>) -> bool) -> Result<(), StoreError> {
        self.reader.each_ended(filter, each)
    }

    fn ends_since(&self, from: Instant, most: usize) -> Result<Vec<EndMark>, StoreError> {
        self.reader.ends_since(from, most)
    }

    fn ended(&self, id: JobId) -> Result<Option<bool>, StoreError> {
        self.reader.ended(id)
    }

    fn ended_among(&self, ids: &[JobId]) -> Result<HashMap<JobId, bool>, StoreError> {
        self.reader.ended_among(ids)
    }

    fn ends(&self, first: JobId, last: JobId) -> Result<Vec<JobEnd>, StoreError> {
        self.reader.ends(first, last)
    }

    fn totals(&self) -> Result<Vec<(String, u64)>, StoreError> {
        self.reader.totals()
    }

    fn schedules(&self) -> Result<Vec<ScheduleRow>, StoreError> {
        self.reader.schedules()
    }

    fn schedule(&self, name: &str) -> Result<Option<ScheduleRow>, StoreError> {
        self.reader.schedule(name)
    }

    fn backup(&self, to: &Path, files: &[BackupFile]) -> Result<(), StoreError> {
        self.reader.backup(to, files)
    }

    fn check(&self) -> Result<Vec<String>, StoreError> {
        self.reader.check()
    }
}

/// How many of so many jobs came into one commit, whose submissions all wait when the loop takes the first. With `keyed` each is long
/// work.
async fn most_in_one_commit(jobs: usize, keyed: bool) -> usize {
    let (store, reader) = MemoryStore::new();
    let (release, gate) = mpsc::channel();
    let reader = Slow { reader, gate: Mutex::new(Some(gate)) };
    let the_loop = Loop::start_on(Box::new(store), Arc::new(reader), Spawner::new().runtime(), Life::default()).await;
    // Nothing is claimed: all of them stay in the queue.
    let held = || {
        let mut job = new_job();
        job.spec.terms.hold = true;
        vec![job]
    };
    the_loop.handle.submit(held(), None, "me".to_owned()).await.unwrap();
    the_loop.take_largest_commit();
    let key = |name: String| IdempotencyKey { key: name, body: [0; 32], body_before: None };
    // Whatever waits behind this one waits in the queue of wishes.
    let first = the_loop.handle.submit(held(), Some(key("first".to_owned())), "me".to_owned());
    let submit = |number| {
        let key = keyed.then(|| key(format!("k{number}")));
        the_loop.handle.submit(held(), key, "me".to_owned())
    };
    let (first, others, ()) = tokio::join!(biased; first, join_all((1..jobs).map(submit)), async { drop(release) });
    first.unwrap();
    assert!(others.iter().all(Result::is_ok), "{others:?}");
    wait_for("all of them", || the_loop.handle.snapshot().counts["default"].queued == jobs + 1).await;
    let most = the_loop.take_largest_commit().jobs;
    the_loop.stop().await;
    most
}

/// A turn took whatever waited: after one large array the loop read the next, and the watchdog and all who wait for a commit waited for
/// all of them.
#[tokio::test]
async fn long_work_is_not_taken_in_one_turn() {
    const JOBS: usize = 10;
    let most = most_in_one_commit(JOBS, true).await;
    assert!(most <= JOBS / 2, "{most} of {JOBS}");
    // The control: short work behind one is, and shares a commit.
    let most = most_in_one_commit(JOBS, false).await;
    assert!(most > JOBS / 2, "{most} of {JOBS}");
}
