//! What the configuration declares, while the store fails.

use crate::harness::{Life, Loop, wait_for};
use crate::spawner::Spawner;
use ci_runner::daemon::handle::Refusal;
use ci_runner::store::memory::MemoryStore;
use ci_runner::store::{ScheduleRow, Store, Write};
use ci_runner_core::time::WallTime;
use std::path::Path;

const TICK: &str = "[schedules.tick]\ncalendar = \"yearly\"\nshell = \"true\"\n";

fn stored(the_loop: &Loop) -> Vec<String> {
    the_loop.handle.reader.schedules().unwrap().into_iter().map(|row| row.name).collect()
}

/// The record was read again, and what the reload had declared was gone from it for good.
#[tokio::test]
async fn a_schedule_whose_commit_failed_is_declared_again() {
    let spawner = Spawner::new();
    let the_loop = Loop::start(spawner.runtime()).await;
    let dir = tempfile::tempdir().unwrap();
    the_loop.handle.pause(None, "me".to_owned()).await.expect("the first commit");
    the_loop.fail_next_commit();
    the_loop.reload(dir.path(), TICK).await;
    wait_for("the schedule", || stored(&the_loop) == ["tick"]).await;
    assert_eq!(the_loop.commits_to_fail(), 0, "the control: one did fail");
    // And so is the end of one.
    the_loop.fail_next_commit();
    the_loop.reload(dir.path(), "").await;
    wait_for("its end", || stored(&the_loop).is_empty()).await;
    the_loop.stop().await;
}

/// What came while commits failed anyhow went with the next of them.
#[tokio::test]
async fn a_schedule_declared_while_commits_fail_comes_with_the_first_that_succeeds() {
    let spawner = Spawner::new();
    let the_loop = Loop::start(spawner.runtime()).await;
    the_loop.handle.pause(None, "me".to_owned()).await.expect("the first commit");
    the_loop.fail_commits(2);
    let refused = the_loop.handle.pause(Some(("test".to_owned(), false)), "me".to_owned()).await;
    assert!(matches!(refused, Err(Refusal::Store(_))), "{refused:?}");
    let dir = tempfile::tempdir().unwrap();
    the_loop.reload(dir.path(), TICK).await;
    wait_for("another commit to fail", || the_loop.commits_to_fail() == 0).await;
    wait_for("the schedule", || stored(&the_loop) == ["tick"]).await;
    the_loop.stop().await;
}

fn yearly(name: &str) -> ScheduleRow {
    ScheduleRow {
        name: name.into(),
        calendar: "yearly".into(),
        timezone: "UTC".into(),
        overlap: "skip".into(),
        missed: "skip".into(),
        request: r#"{"command":["true"]}"#.into(),
        by: "me".into(),
        paused: None,
        after: WallTime(i64::MAX / 4),
        last_job: None,
        refused: None,
    }
}

/// Whoever ran it was told that there is none, while lists showed it; nor could it be removed.
#[tokio::test]
async fn a_schedule_that_means_nothing_here_any_more_is_told_and_can_go() {
    let (mut store, reader) = MemoryStore::new();
    let stored_row = |name| Write::Schedule(ScheduleRow { timezone: "Mars/Base".into(), ..yearly(name) });
    store.commit(&["kept", "gone"].map(stored_row), &[]).unwrap();
    let spawner = Spawner::new();
    let the_loop = Loop::start_on(Box::new(store), reader, spawner.runtime(), Life::default()).await;
    let run = |name: &str| the_loop.handle.run_schedule(name.to_owned(), None, "me".to_owned().into());
    let refused = run("kept").await;
    let is_told = |why: &str| why.contains("\"Mars/Base\" is not a time zone");
    assert!(matches!(&refused, Err(Refusal::ScheduleUnread { why, .. }) if is_told(why)), "{refused:?}");
    assert_eq!(run("nope").await, Err(Refusal::NoSchedule("nope".to_owned())), "the control");
    let is_told = || the_loop.handle.snapshot().problems.iter().any(|text| text.contains("\"kept\" is not run"));
    wait_for("the status names it", is_told).await;
    // Its name is taken until it is replaced or removed.
    let added = the_loop.handle.schedule(yearly("kept"), false).await;
    assert_eq!(added, Err(Refusal::ScheduleExists("kept".to_owned())));
    the_loop.handle.schedule(yearly("kept"), true).await.unwrap();
    assert_eq!(run("kept").await.map(|ids| ids.len()), Ok(1));
    the_loop.handle.unschedule("gone".to_owned()).await.unwrap();
    assert_eq!(stored(&the_loop), ["kept"]);
    the_loop.stop().await;
}

/// The schedules of a store cannot be read, or can again.
fn hide_schedules(state: &Path, is_hidden: bool) {
    let (from, to) = if is_hidden { ("schedule", "away") } else { ("away", "schedule") };
    let store = rusqlite::Connection::open(state.join("queue.db")).unwrap();
    store.execute_batch(&format!("PRAGMA busy_timeout = 10000; ALTER TABLE {from} RENAME TO {to}")).unwrap();
}

/// They were forgotten first and read then: where that failed they were gone from the loop until its end, and one of the same name could
/// be added.
#[tokio::test]
async fn schedules_that_cannot_be_read_again_are_not_forgotten() {
    let state = tempfile::tempdir().unwrap();
    let spawner = Spawner::new();
    let the_loop = Loop::start_on_disk(state.path(), spawner.runtime(), Life::default()).await;
    the_loop.handle.schedule(yearly("mine"), false).await.unwrap();
    the_loop.fail_next_commit();
    hide_schedules(state.path(), true);
    let refused = the_loop.handle.pause(Some(("test".to_owned(), false)), "me".to_owned()).await;
    assert!(matches!(refused, Err(Refusal::Store(_))), "{refused:?}");
    wait_for("the store fails", || the_loop.handle.snapshot().store_failing).await;
    let is_told = || the_loop.handle.snapshot().problems.iter().any(|text| text.contains("no such table"));
    wait_for("a try in vain", is_told).await;
    hide_schedules(state.path(), false);
    wait_for("the store takes commits", || !the_loop.handle.snapshot().store_failing).await;
    let again = the_loop.handle.schedule(yearly("mine"), false).await;
    assert_eq!(again, Err(Refusal::ScheduleExists("mine".to_owned())));
    the_loop.stop().await;
    // And so at a start.
    hide_schedules(state.path(), true);
    let spawner = Spawner::new();
    let the_loop = Loop::start_on_disk(state.path(), spawner.runtime(), Life::default()).await;
    wait_for("nothing is taken in", || the_loop.handle.snapshot().store_failing).await;
    hide_schedules(state.path(), false);
    wait_for("the store takes commits", || !the_loop.handle.snapshot().store_failing).await;
    let again = the_loop.handle.schedule(yearly("mine"), false).await;
    assert_eq!(again, Err(Refusal::ScheduleExists("mine".to_owned())));
    the_loop.stop().await;
}
