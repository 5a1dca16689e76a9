//! How tests of the loop begin: with a spawner that is there, a job that runs, a schedule; and how a commit fails under them.

use crate::harness::{Loop, new_job, wait_for};
use crate::spawner::Spawner;
use ci_runner::daemon::handle::Refusal;
use ci_runner::store::ScheduleRow;
use ci_runner_core::time::WallTime;
use ci_runner_spawner::protocol::Enforces;

/// A loop and its spawner, which has nothing and can enforce nothing.
pub async fn connected() -> (Loop, Spawner) {
    connected_with(Enforces { why_not: "a spawner of a test".to_owned(), ..Enforces::default() }).await
}

/// The same with a spawner that can enforce this.
pub async fn connected_with(enforces: Enforces) -> (Loop, Spawner) {
    let spawner = Spawner::new();
    let the_loop = Loop::start(spawner.runtime()).await;
    let mut spawner = spawner.welcome_with(enforces);
    spawner.has_nothing();
    wait_for("the spawner is there", || the_loop.handle.snapshot().executor_up).await;
    (the_loop, spawner)
}

/// The same, and one job runs, the first.
pub async fn running() -> (Loop, Spawner) {
    let (the_loop, mut spawner) = connected().await;
    the_loop.handle.submit(vec![new_job()], None, "me".to_owned()).await.unwrap();
    spawner.starts();
    wait_for("it runs", || the_loop.count_running() == 1).await;
    (the_loop, spawner)
}

/// A schedule that is not due for long.
pub fn schedule(name: &str) -> ScheduleRow {
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
        timed_job: None,
        refused: None,
    }
}

impl Loop {
    /// The next commit fails, and whoever waits for it is told so. The record is read again then.
    pub async fn fails_a_commit(&self) {
        self.fail_next_commit();
        let refused = self.handle.pause(Some(("test".to_owned(), false)), "me".to_owned()).await;
        assert!(matches!(refused, Err(Refusal::Store(_))), "{refused:?}");
    }

    /// Until nothing is taken in.
    pub async fn store_fails(&self) {
        wait_for("the store fails", || self.handle.snapshot().store_failing).await;
    }

    /// Until commits succeed again.
    pub async fn store_recovers(&self) {
        wait_for("the store takes commits", || !self.handle.snapshot().store_failing).await;
    }

    /// Until a problem is told that has these words.
    pub async fn tells(&self, words: &str) {
        wait_for("the problem is told", || self.is_problem(words)).await;
    }

    pub fn is_problem(&self, words: &str) -> bool {
        self.handle.snapshot().problems.iter().any(|text| text.contains(words))
    }
}
