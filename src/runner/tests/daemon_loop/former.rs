//! A spawner that is not the configured one any more, and whose attempts are open.

use crate::harness::{Life, Loop, new_job, wait_for};
use crate::spawner::{EPOCH, Spawner};
use ci_runner_core::id::JobId;
use ci_runner_core::outcome::AttemptResult;
use ci_runner_spawner::protocol::{Reply, Request, Seen};
use std::path::Path;

async fn on_disk(state: &Path, runtime_dir: &Path, former: Option<(&Path, &str)>) -> Loop {
    Loop::start_on_disk(state, runtime_dir, Life { former, ..Life::default() }).await
}

/// The commit of the last end failed, and the record, which was ahead of the store, let the spawner go: what it had to tell was lost, and
/// with it the result.
#[tokio::test]
async fn a_result_is_not_lost_with_the_commit_that_it_was_in() {
    let state = tempfile::tempdir().unwrap();
    let first = Spawner::new();
    let before = on_disk(state.path(), first.runtime(), None).await;
    let mut first = first.welcome();
    first.has_nothing();
    before.handle.submit(vec![new_job()], None, "me".to_owned()).await.unwrap();
    first.starts();
    wait_for("it runs", || before.count_running() == 1).await;
    before.stop().await;

    let second = Spawner::new();
    let the_loop = on_disk(state.path(), second.runtime(), Some((first.runtime(), EPOCH))).await;
    let mut second = second.welcome_of("boot/other");
    second.has_nothing();
    let mut first = first.welcome();
    assert_eq!(first.heard(), [Request::List]);
    first.say(&[first.attempt(Seen::Alive), Reply::Listed]);
    wait_for("it is looked after", || the_loop.count_running() == 1).await;
    the_loop.fail_next_commit();
    first.end_well();
    // Asked again, for the record was made anew; and it is there to answer.
    while first.heard() == [Request::List] {
        first.say(&[first.attempt(Seen::Alive), Reply::Listed]);
        first.end_well();
    }
    wait_for("it succeeded", || the_loop.count_succeeded() == 1).await;
    let attempts = the_loop.handle.reader.attempts(JobId::new(1).unwrap()).unwrap();
    assert_eq!(
        attempts.iter().map(|attempt| attempt.result.clone()).collect::<Vec<_>>(),
        [Some(AttemptResult::Exited { code: 0 })]
    );
    the_loop.stop().await;
}
