//! What the configuration declares, while the store fails.

use crate::harness::{Loop, wait_for};
use crate::spawner::Spawner;
use ci_runner::daemon::handle::Refusal;

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
