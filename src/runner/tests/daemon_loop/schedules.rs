//! What the configuration declares, while the store fails.

use crate::begin::schedule;
use crate::harness::{Life, Loop, new_job, wait_for};
use crate::spawner::Spawner;
use ci_runner::daemon::handle::{Action, Refusal, Submitter, Target};
use ci_runner::store::memory::MemoryStore;
use ci_runner::store::{ScheduleRow, Store, Write};
use ci_runner_core::group::{GroupPolicy, GroupSpec};
use ci_runner_core::time::WallTime;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

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

/// Whoever ran it was told that there is none, while lists showed it; nor could it be removed.
#[tokio::test]
async fn a_schedule_that_means_nothing_here_any_more_is_told_and_can_go() {
    let (mut store, reader) = MemoryStore::new();
    let stored_row = |name| Write::Schedule(ScheduleRow { timezone: "Mars/Base".into(), ..schedule(name) });
    store.commit(&["kept", "gone"].map(stored_row), &[]).unwrap();
    let spawner = Spawner::new();
    let the_loop = Loop::start_on(Box::new(store), reader, spawner.runtime(), Life::default()).await;
    let run = |name: &str| the_loop.handle.run_schedule(name.to_owned(), None, "me".to_owned().into());
    let refused = run("kept").await;
    let is_told = |why: &str| why.contains("\"Mars/Base\" is not a time zone");
    assert!(matches!(&refused, Err(Refusal::ScheduleUnread { why, .. }) if is_told(why)), "{refused:?}");
    assert_eq!(run("nope").await, Err(Refusal::NoSchedule("nope".to_owned())), "the control");
    the_loop.tells("\"kept\" is not run").await;
    // Its name is taken until it is replaced or removed.
    let added = the_loop.handle.schedule(schedule("kept"), false).await;
    assert_eq!(added, Err(Refusal::ScheduleExists("kept".to_owned())));
    the_loop.handle.schedule(schedule("kept"), true).await.unwrap();
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
    the_loop.handle.schedule(schedule("mine"), false).await.unwrap();
    hide_schedules(state.path(), true);
    the_loop.fails_a_commit().await;
    the_loop.tells("no such table").await;
    hide_schedules(state.path(), false);
    the_loop.store_recovers().await;
    let again = the_loop.handle.schedule(schedule("mine"), false).await;
    assert_eq!(again, Err(Refusal::ScheduleExists("mine".to_owned())));
    the_loop.stop().await;
    // And so at a start.
    hide_schedules(state.path(), true);
    let spawner = Spawner::new();
    let the_loop = Loop::start_on_disk(state.path(), spawner.runtime(), Life::default()).await;
    the_loop.store_fails().await;
    hide_schedules(state.path(), false);
    the_loop.store_recovers().await;
    let again = the_loop.handle.schedule(schedule("mine"), false).await;
    assert_eq!(again, Err(Refusal::ScheduleExists("mine".to_owned())));
    the_loop.stop().await;
}

/// Due at once, also where it replaces another: its last time is a minute old at most, and its calendar is written as no other, so that
/// none of its times was run yet.
fn due(name: &str, pool: &str) -> ScheduleRow {
    static WRITTEN: AtomicUsize = AtomicUsize::new(1);
    let spaces = " ".repeat(WRITTEN.fetch_add(1, Ordering::Relaxed));
    ScheduleRow {
        calendar: format!("* * * *{spaces}*"),
        overlap: "cancel".into(),
        missed: "once".into(),
        request: format!(r#"{{"command":["true"],"pool":"{pool}"}}"#),
        after: WallTime(0),
        ..schedule(name)
    }
}

/// The running job used to be cancelled for a run that was refused then.
#[tokio::test]
async fn a_run_that_is_refused_cancels_nothing() {
    let spawner = Spawner::new();
    let the_loop = Loop::start(spawner.runtime()).await;
    let row = || the_loop.handle.reader.schedules().unwrap().pop().unwrap();
    the_loop.handle.pause(Some(("test".to_owned(), false)), "me".to_owned()).await.unwrap();
    the_loop.handle.schedule(due("mine", "default"), false).await.unwrap();
    wait_for("its first run", || row().last_job.is_some()).await;
    let first = row().last_job.unwrap();
    the_loop.handle.schedule(due("mine", "gone"), true).await.unwrap();
    wait_for("a run that is refused", || row().refused.is_some()).await;
    assert!(the_loop.handle.explain(first).await.unwrap().is_some(), "it is open");
    // The control: a run that is taken cancels it.
    the_loop.handle.schedule(due("mine", "default"), true).await.unwrap();
    wait_for("its second run", || row().last_job != Some(first)).await;
    assert!(the_loop.handle.explain(first).await.unwrap().is_none(), "it was dropped");
    the_loop.stop().await;
}

/// A run by hand took the place of the last run in the memory: the next time began beside a job of the time before, or left it running.
#[tokio::test]
async fn a_run_by_hand_does_not_hide_the_last_run_of_its_times() {
    let spawner = Spawner::new();
    let the_loop = Loop::start(spawner.runtime()).await;
    let handle = &the_loop.handle;
    let row = || handle.reader.schedules().unwrap().pop().unwrap();
    let is_open = async |id| handle.explain(id).await.unwrap().is_some();
    let is_due_again = async |overlap: &str| {
        handle.schedule(ScheduleRow { overlap: overlap.into(), ..due("mine", "default") }, true).await.unwrap();
    };
    handle.pause(Some(("test".to_owned(), false)), "me".to_owned()).await.unwrap();
    is_due_again("skip").await;
    wait_for("its first run", || row().timed_job.is_some()).await;
    let timed = row().timed_job.unwrap();
    let run = async || handle.run_schedule("mine".to_owned(), None, "me".to_owned().into()).await.unwrap()[0];
    let by_hand = run().await;
    assert_eq!((row().last_job, row().timed_job), (Some(by_hand), Some(timed)));
    // While one of the two is open no other begins.
    for over in [by_hand, timed] {
        is_due_again("skip").await;
        wait_for("a time that is left out", || row().after > WallTime(0)).await;
        assert_eq!((row().last_job, row().timed_job), (Some(by_hand), Some(timed)));
        handle.act(Target::Ids(vec![over]), Action::Cancel, "me".to_owned()).await.unwrap();
    }
    // The control: both are over.
    is_due_again("skip").await;
    wait_for("its second run", || row().timed_job != Some(timed)).await;
    assert_eq!(row().last_job, row().timed_job);
    // And both are cancelled for the next.
    let timed = row().timed_job.unwrap();
    let by_hand = run().await;
    is_due_again("cancel").await;
    wait_for("its third run", || row().timed_job != Some(timed)).await;
    assert_eq!((is_open(timed).await, is_open(by_hand).await), (false, false));
    assert!(is_open(row().timed_job.unwrap()).await);
    the_loop.stop().await;
}

/// The time from which its runs are due was read by whoever asked, before the loop ran the time that had come meanwhile: that one ran twice.
#[tokio::test]
async fn a_time_that_came_while_its_schedule_was_replaced_runs_once() {
    let spawner = Spawner::new();
    let the_loop = Loop::start(spawner.runtime()).await;
    let row = || the_loop.handle.reader.schedules().unwrap().pop().unwrap();
    the_loop.handle.pause(Some(("test".to_owned(), false)), "me".to_owned()).await.unwrap();
    let asked = due("mine", "default");
    the_loop.handle.schedule(asked.clone(), false).await.unwrap();
    wait_for("its run", || row().last_job.is_some()).await;
    let ran = row();
    assert!(ran.after > asked.after);
    let replaced = the_loop.handle.schedule(asked, true).await.unwrap();
    assert_eq!((replaced.after, replaced.last_job), (ran.after, ran.last_job), "what was run stays run");
    // The control: the times of another calendar are due from when it says.
    let other = due("mine", "default");
    let replaced = the_loop.handle.schedule(other.clone(), true).await.unwrap();
    assert_eq!(replaced.after, other.after);
    wait_for("its second run", || row().last_job != ran.last_job).await;
    the_loop.stop().await;
}

/// They wrote a row that they had read before: one that was removed meanwhile came back.
#[tokio::test]
async fn a_pause_does_not_bring_a_removed_schedule_back() {
    let spawner = Spawner::new();
    let the_loop = Loop::start(spawner.runtime()).await;
    let handle = &the_loop.handle;
    handle.schedule(schedule("mine"), false).await.unwrap();
    assert_eq!(
        handle.pause_schedule("mine".to_owned(), "ada".to_owned()).await.unwrap().paused.as_deref(),
        Some("ada")
    );
    let again = handle.pause_schedule("mine".to_owned(), "bob".to_owned()).await.unwrap();
    assert_eq!(again.paused.as_deref(), Some("ada"), "the first pause stays");
    let replaced = handle.schedule(schedule("mine"), true).await.unwrap();
    assert_eq!(replaced.paused.as_deref(), Some("ada"), "and stays where it is replaced");
    let resumed = handle.resume_schedule("mine".to_owned()).await.unwrap();
    assert!(resumed.paused.is_none() && resumed.after < schedule("mine").after, "what was missed stays missed");
    let (removed, paused, resumed) = tokio::join!(
        handle.unschedule("mine".to_owned()),
        handle.pause_schedule("mine".to_owned(), "ada".to_owned()),
        handle.resume_schedule("mine".to_owned()),
    );
    assert_eq!(removed, Ok(()));
    let gone = Err(Refusal::NoSchedule("mine".to_owned()));
    assert_eq!((paused, resumed), (gone.clone(), gone));
    assert!(stored(&the_loop).is_empty());
    the_loop.stop().await;
}

/// A job on hold in the group of a schedule's runs, with another limit, had every run refused.
#[tokio::test]
async fn nobody_gives_the_group_of_a_schedule_another_limit() {
    let spawner = Spawner::new();
    let the_loop = Loop::start(spawner.runtime()).await;
    the_loop.handle.pause(Some(("test".to_owned(), false)), "me".to_owned()).await.unwrap();
    let submit = async |name: &str, limit: Option<u32>| {
        let mut job = new_job();
        job.spec.terms.group = Some(GroupSpec { name: name.to_owned(), limit, policy: GroupPolicy::Queue });
        let me = Submitter { name: "me".to_owned(), uid: None };
        the_loop.handle.submit(vec![job], None, me).await
    };
    let refused = submit("schedule mine", Some(2)).await;
    assert!(matches!(&refused, Err(Refusal::Fault { fault, .. }) if fault.field == "group"), "{refused:?}");
    submit("schedules", Some(2)).await.expect("the control: another name");
    submit("schedule mine", None).await.expect("it goes with the runs");
    the_loop.handle.schedule(ScheduleRow { overlap: "queue".into(), ..due("mine", "default") }, false).await.unwrap();
    let row = || the_loop.handle.reader.schedules().unwrap().pop().unwrap();
    wait_for("its run", || row().last_job.is_some()).await;
    assert_eq!(row().refused, None);
    the_loop.stop().await;
}
