//! What many jobs or schedules ask for at once goes to the disk in pieces: whoever else waits for a commit waits for a short one.

use crate::begin::schedule;
use crate::harness::{Life, Loop, new_job, wait_for};
use crate::spawner::Spawner;
use ci_runner::daemon::engine::SCHEDULES_MAX;
use ci_runner::daemon::handle::{Action, NewJob, Refusal, Target};
use ci_runner::store::memory::MemoryStore;
use ci_runner::store::{ScheduleRow, Store, Write};
use ci_runner_core::id::JobId;
use ci_runner_core::job::{After, Condition};
use ci_runner_core::time::WallTime;

const JOBS: usize = 12_000;
/// A slice, what follows from each of its changes, and some more: a commit of everything would be three times as large.
const WRITES_MAX: usize = 4_500;

fn waiting(change: impl Fn(&mut NewJob)) -> Vec<NewJob> {
    let mut job = new_job();
    change(&mut job);
    vec![job; 2_000]
}

async fn with_jobs(the_loop: &Loop, change: impl Fn(&mut NewJob)) {
    for _ in 0..JOBS / 2_000 {
        the_loop.handle.submit(waiting(&change), None, "me".to_owned()).await.unwrap();
    }
    the_loop.take_largest_commit();
}

/// The next slice was taken each millisecond while a commit was under way, and a second action finished the first in one go.
#[tokio::test]
async fn actions_on_many_jobs_make_no_large_commit() {
    let the_loop = Loop::start(Spawner::new().runtime()).await;
    with_jobs(&the_loop, |job| job.spec.terms.hold = true).await;
    let act = |action| the_loop.handle.act(Target::All, action, "me".to_owned());
    let few = async {
        let ids = the_loop.handle.submit(vec![new_job()], None, "me".to_owned()).await.unwrap();
        the_loop.handle.act(Target::Ids(ids), Action::Cancel, "me".to_owned()).await
    };
    let (one, other, few) = tokio::join!(act(Action::Priority(5)), act(Action::Cancel), few);
    let one = one.unwrap();
    assert_eq!((one.done.len() + one.finished.len(), few.unwrap().done.len()), (JOBS, 1));
    assert_eq!(other.unwrap().done.len(), JOBS);
    let largest = the_loop.take_largest_commit().writes;
    assert!((1_000..=WRITES_MAX).contains(&largest), "{largest}");
    wait_for("all are gone", || the_loop.handle.snapshot().counts["default"].queued == 0).await;
    the_loop.stop().await;
}

/// All that waited for a job ended in the commit of its end.
#[tokio::test]
async fn an_end_that_many_waited_for_makes_no_large_commit() {
    let the_loop = Loop::start(Spawner::new().runtime()).await;
    let first = JobId::new(1).unwrap();
    let mut held = new_job();
    held.spec.terms.hold = true;
    the_loop.handle.submit(vec![held], None, "me".to_owned()).await.unwrap();
    with_jobs(&the_loop, |job| job.spec.terms.after = vec![After { job: first, on: Condition::Success }]).await;
    the_loop.handle.act(Target::Ids(vec![first]), Action::Cancel, "me".to_owned()).await.unwrap();
    let gone = || the_loop.handle.snapshot().finished.get("cancelled").copied() == Some(JOBS as u64 + 1);
    wait_for("all are gone", gone).await;
    let largest = the_loop.take_largest_commit().writes;
    assert!((1_000..=WRITES_MAX).contains(&largest), "{largest}");
    the_loop.stop().await;
}

/// One that had a run a minute ago, while no daemon was there.
fn missed(name: &str) -> ScheduleRow {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let after = WallTime(i64::try_from(now.as_millis()).unwrap() - 90_000);
    ScheduleRow {
        calendar: "* * * * *".into(),
        missed: "once".into(),
        request: r#"{"command":["true"],"hold":true}"#.into(),
        after,
        ..schedule(name)
    }
}

/// There was no limit, and all that were due were run in one turn.
#[tokio::test]
async fn schedules_have_a_limit_and_run_in_pieces() {
    let (mut store, reader) = MemoryStore::new();
    let rows = (0..SCHEDULES_MAX).map(|number| Write::Schedule(missed(&format!("s{number}"))));
    store.commit(&rows.collect::<Vec<_>>(), &[]).unwrap();
    let the_loop = Loop::start_on(Box::new(store), reader, Spawner::new().runtime(), Life::default()).await;
    let queued = || the_loop.handle.snapshot().counts["default"].queued;
    wait_for("a run of each", || queued() == SCHEDULES_MAX).await;
    let largest = the_loop.take_largest_commit().writes;
    assert!((200..=WRITES_MAX).contains(&largest), "{largest}");
    let add = |number: usize, replace| the_loop.handle.schedule(missed(&format!("s{number}")), replace);
    assert_eq!(add(SCHEDULES_MAX, false).await, Err(Refusal::SchedulesFull { limit: SCHEDULES_MAX }));
    assert_eq!(add(7, true).await.map(drop), Ok(()), "the control: one that is there is replaced");
    the_loop.stop().await;
}

/// Each may ask for a megabyte: all that were due went to the disk in one commit, and each run wrote its schedule again.
#[tokio::test]
async fn schedules_that_ask_for_much_run_in_small_commits() {
    const SCHEDULES: usize = 12;
    /// So many of these have more than 4 MiB.
    const JOBS_MAX: usize = 5;
    let word = "x".repeat(131_000);
    let request = serde_json::json!({"command": vec![word; 7], "hold": true}).to_string();
    let (mut store, reader) = MemoryStore::new();
    let row = |number| ScheduleRow { request: request.clone(), ..missed(&format!("s{number}")) };
    let rows = (0..SCHEDULES).map(|number| Write::Schedule(row(number)));
    store.commit(&rows.collect::<Vec<_>>(), &[]).unwrap();
    let the_loop = Loop::start_on(Box::new(store), reader, Spawner::new().runtime(), Life::default()).await;
    wait_for("a run of each", || the_loop.handle.snapshot().counts["default"].queued == SCHEDULES).await;
    // All of that is on disk once this is.
    the_loop.handle.pause(None, "me".to_owned()).await.unwrap();
    let largest = the_loop.take_largest_commit();
    assert!((2..=JOBS_MAX).contains(&largest.jobs), "{largest:?}");
    assert_eq!(largest.schedules, 0, "a run writes what it changes");
    // The control: who adds one writes it.
    the_loop.handle.schedule(schedule("mine"), false).await.unwrap();
    assert_eq!(the_loop.take_largest_commit().schedules, 1);
    the_loop.stop().await;
}
