//! What one schedule missed comes in pieces: nobody may grow a commit, or the memory of the loop, by what a daemon slept through.

use crate::harness::{Life, Loop, new_job, wait_for};
use crate::spawner::Spawner;
use ci_runner::store::memory::MemoryStore;
use ci_runner::store::{Claimed, CollectLimits, Loaded, ScheduleRow, Store, StoreError, Write};
use ci_runner_core::change::{Change, Entry, OpenJob};
use ci_runner_core::id::{JobId, PoolId};
use ci_runner_core::job::Command;
use ci_runner_core::time::{ClockBase, Now, WallTime};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What a commit of runs may take.
const BYTES_MAX: usize = 4 * 1024 * 1024;
/// Missed runs.
const MISSED: usize = 30;

/// A store that weighs what new jobs take in memory, for which a short word is long.
struct Weighing {
    store: MemoryStore,
    heaviest: Arc<AtomicUsize>,
}

fn weight(write: &Write) -> usize {
    match write {
        Write::Entry(Entry { change: Change::Submitted(submission), .. }) => match &submission.spec.work.command {
            Command::Argv(words) => words.iter().map(|word| word.len() + 56).sum(),
            Command::Shell(text) => text.len(),
        },
        _ => 0,
    }
}

impl Store for Weighing {
    fn load(
        &mut self,
        pool_id: &mut dyn FnMut(&str) -> PoolId,
        each: &mut dyn FnMut(OpenJob),
    ) -> Result<Loaded, StoreError> {
        self.store.load(pool_id, each)
    }

    fn reread(
        &mut self,
        pool_id: &mut dyn FnMut(&str) -> PoolId,
        each: &mut dyn FnMut(OpenJob),
    ) -> Result<Loaded, StoreError> {
        self.store.reread(pool_id, each)
    }

    fn commit(&mut self, batch: &[Write], pools: &[String]) -> Result<(), StoreError> {
        self.heaviest.fetch_max(batch.iter().map(weight).sum(), Ordering::SeqCst);
        self.store.commit(batch, pools)
    }

    fn claimed(&mut self, id: JobId) -> Result<Option<Claimed>, StoreError> {
        self.store.claimed(id)
    }

    fn collect(&mut self, limits: &CollectLimits, most: usize) -> Result<Vec<JobId>, StoreError> {
        self.store.collect(limits, most)
    }

    fn close(&mut self, base: &ClockBase, now: Now) -> Result<(), StoreError> {
        self.store.close(base, now)
    }
}

fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// All that it missed was queued in one turn and went to the disk in one commit: a hundred requests of a megabyte, whose short words take
/// fourteen megabytes each, ended the daemon at each of its starts.
#[tokio::test]
async fn what_one_schedule_missed_comes_in_small_commits_and_others_come_between() {
    let mut words = vec!["true"];
    words.resize(40_000, "a");
    let after = now_ms() - i64::try_from(MISSED).unwrap() * 1_000;
    let row = ScheduleRow {
        name: "often".into(),
        calendar: "* * * * * *".into(),
        timezone: "UTC".into(),
        overlap: "allow".into(),
        missed: "all".into(),
        request: serde_json::json!({"command": words, "hold": true}).to_string(),
        by: "me".into(),
        paused: None,
        after: WallTime(after),
        last_job: None,
        timed_job: None,
        refused: None,
    };
    let (mut store, reader) = MemoryStore::new();
    store.commit(&[Write::Schedule(row)], &[]).unwrap();
    let heaviest = Arc::new(AtomicUsize::new(0));
    let store = Weighing { store, heaviest: heaviest.clone() };
    let the_loop = Loop::start_on(Box::new(store), reader, Spawner::new().runtime(), Life::default()).await;
    let mut held = new_job();
    held.spec.terms.hold = true;
    let ours = the_loop.handle.submit(vec![held], None, "me".to_owned()).await.unwrap();
    assert!(ours[0].get() < 10, "it waited for {} runs", ours[0].get() - 1);
    let queued = || the_loop.handle.snapshot().counts["default"].queued;
    wait_for("all that was missed", || queued() > MISSED).await;
    let heaviest = heaviest.load(Ordering::SeqCst);
    assert!((BYTES_MAX / 2..=BYTES_MAX).contains(&heaviest), "{heaviest}");
    // Each time once, none left out.
    let paused = the_loop.handle.pause_schedule("often".to_owned(), "me".to_owned()).await.unwrap();
    let runs = paused.after.0.div_euclid(1_000) - after.div_euclid(1_000);
    let last = the_loop.handle.submit(vec![new_job()], None, "me".to_owned()).await.unwrap();
    assert_eq!(last[0].get(), u64::try_from(runs).unwrap() + 2, "with ours and this one");
    the_loop.stop().await;
}
