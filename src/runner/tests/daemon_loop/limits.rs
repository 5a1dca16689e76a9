//! What cannot be enforced is refused, or waits and is a problem; what can is said to the spawner.

use crate::begin::connected_with;
use crate::harness::{new_job, wait_for};
use ci_runner::daemon::handle::{NewJob, Refusal};
use ci_runner_core::id::JobId;
use ci_runner_core::labels::Label;
use ci_runner_core::limits::Limits;
use ci_runner_core::record::CLASSES_MAX;
use ci_runner_spawner::protocol::{Enforces, Request};

fn limited(memory_bytes: u64) -> NewJob {
    let mut job = new_job();
    job.spec.terms.limits = Limits { memory_bytes: Some(memory_bytes), ..Limits::NONE };
    job
}

fn everything() -> Enforces {
    Enforces { memory: true, cpu: true, pids: true, ..Enforces::default() }
}

#[tokio::test]
async fn a_limit_that_nothing_enforces_is_refused_with_the_reason() {
    let why = "no cgroups on paper";
    let (the_loop, _spawner) = connected_with(Enforces { why_not: why.to_owned(), ..Enforces::default() }).await;
    let refused = the_loop.handle.submit(vec![limited(1 << 30)], None, "me".to_owned()).await;
    let Err(Refusal::Fault { index: 0, fault }) = refused else { panic!("{refused:?}") };
    assert!(fault.field == "memory" && fault.why.contains(why), "{fault}");
    the_loop.stop().await;
}

#[tokio::test]
async fn a_limit_that_can_be_enforced_reaches_the_spawner_without_swap_beside_it() {
    let (the_loop, mut spawner) = connected_with(everything()).await;
    the_loop.handle.submit(vec![limited(1 << 30)], None, "me".to_owned()).await.unwrap();
    let heard = spawner.heard();
    let [Request::Start(start)] = &heard[..] else { panic!("{heard:?}") };
    assert_eq!((start.limits.memory_max, start.limits.swap_max, start.limits.pids_max), (Some(1 << 30), Some(0), None));
    the_loop.stop().await;
}

/// A default of the configuration is not left out in silence where it cannot be enforced: the pool stands still until it can.
#[tokio::test]
async fn a_pool_whose_own_limits_cannot_be_enforced_starts_nothing_and_is_a_problem() {
    let (the_loop, mut spawner) = connected_with(Enforces { memory: false, ..everything() }).await;
    let dir = tempfile::tempdir().unwrap();
    the_loop.reload(dir.path(), "[pools.default]\nmemory = \"1G\"\n").await;
    the_loop.tells("pool default").await;
    the_loop.handle.submit(vec![new_job()], None, "me".to_owned()).await.unwrap();
    let why = the_loop.handle.explain(JobId::new(1).unwrap()).await.unwrap().unwrap();
    assert!(matches!(why.reasons[..], [ci_runner_core::explain::Reason::NoPool { .. }]), "{:?}", why.reasons);
    the_loop.reload(dir.path(), "[pools.default]\npids = 9\n").await;
    let heard = spawner.heard();
    assert!(matches!(&heard[..], [Request::Start(start)] if start.limits.pids_max == Some(9)), "{heard:?}");
    wait_for("it is mended", || !the_loop.is_problem("pool default")).await;
    the_loop.stop().await;
}

/// The record that is made anew after a failed commit took every limit to be possible: what waited was started, refused by the spawner and
/// ended as failed.
#[tokio::test]
async fn what_cannot_be_enforced_waits_over_a_failed_commit() {
    let (the_loop, mut spawner) = connected_with(Enforces { memory: false, ..everything() }).await;
    let dir = tempfile::tempdir().unwrap();
    the_loop.reload(dir.path(), "[pools.default]\nmemory = \"1G\"\n").await;
    the_loop.handle.submit(vec![new_job()], None, "me".to_owned()).await.unwrap();
    the_loop.fails_a_commit().await;
    spawner.has_nothing();
    the_loop.store_fails().await;
    the_loop.store_recovers().await;
    spawner.has_nothing();
    let why = the_loop.handle.explain(JobId::new(1).unwrap()).await.unwrap().unwrap();
    assert!(matches!(why.reasons[..], [ci_runner_core::explain::Reason::NoPool { .. }]), "{:?}", why.reasons);
    the_loop.reload(dir.path(), "[pools.default]\npids = 9\n").await;
    let heard = spawner.heard();
    assert!(matches!(&heard[..], [Request::Start(start)] if start.limits.pids_max == Some(9)), "{heard:?}");
    the_loop.stop().await;
}

fn labelled(number: usize) -> NewJob {
    let mut job = new_job();
    job.spec.terms.labels = vec![Label::parse(&format!("l{number}")).unwrap()];
    job.spec.terms.hold = true;
    job
}

/// One array used to step over the limit, and whoever reached it locked everybody out, plain jobs too.
#[tokio::test]
async fn many_sets_of_labels_lock_out_no_plain_job() {
    let (the_loop, _spawner) = connected_with(everything()).await;
    let submit = async |jobs: Vec<NewJob>| the_loop.handle.submit(jobs, None, "me".to_owned()).await;
    let refused = Err(Refusal::ClassesFull { limit: CLASSES_MAX });
    assert_eq!(submit((0..=CLASSES_MAX).map(labelled).collect()).await, refused, "one array over the limit");
    assert_eq!(submit((0..CLASSES_MAX).map(labelled).collect()).await.unwrap().len(), CLASSES_MAX);
    assert_eq!(submit(vec![labelled(CLASSES_MAX)]).await, refused);
    assert_eq!(submit(vec![new_job(), labelled(7)]).await.unwrap().len(), 2, "a plain one, and one of a set in use");
    the_loop.stop().await;
}
