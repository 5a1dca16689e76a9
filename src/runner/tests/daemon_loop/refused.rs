//! A commit fails under an action on many jobs: nothing of it is kept, but what runs is told to end when that was asked for.

use crate::begin::running;
use crate::harness::{Loop, new_job};
use crate::spawner::Spawner;
use ci_runner::daemon::handle::{Action, Refusal, Target};
use ci_runner_core::id::JobId;
use ci_runner_spawner::protocol::Request;

/// More than the commit that fails and the one after it hold: the action is under way when it fails.
const JOBS: u64 = 12_000;

fn id(number: u64) -> JobId {
    JobId::new(number).unwrap()
}

/// One job runs, the first, and so many are on hold; a commit that follows fails.
async fn about_to_fail() -> (Loop, Spawner) {
    let (the_loop, spawner) = running().await;
    let mut held = new_job();
    held.spec.terms.hold = true;
    for _ in 0..JOBS / 2_000 {
        // What was noted before is on disk with the last of these: the next commit is the action's.
        the_loop.handle.submit(vec![held.clone(); 2_000], None, "me".to_owned()).await.unwrap();
    }
    the_loop.fail_next_commit();
    (the_loop, spawner)
}

/// What the spawner hears before it is asked what there is, which it is when the record was read again.
fn heard_before_list(spawner: &mut Spawner) -> Vec<Request> {
    let mut all = Vec::new();
    while !all.contains(&Request::List) {
        all.extend(spawner.heard());
    }
    all.retain(|request| *request != Request::List);
    all
}

/// It was only refused: the job that filled the disk ran on, when many others were cancelled with it.
#[tokio::test]
async fn a_refused_cancel_of_many_ends_what_runs() {
    let first = (1..=JOBS + 1).map(id).collect();
    let last = (1..=JOBS + 1).rev().map(id).collect();
    let targets = [
        ("all", Target::All),
        ("in the slice that was taken", Target::Ids(first)),
        ("in one that was not", Target::Ids(last)),
    ];
    for (what, target) in targets {
        let (the_loop, mut spawner) = about_to_fail().await;
        let refused = the_loop.handle.act(target, Action::Cancel, "me".to_owned()).await;
        let Err(Refusal::StopUnrecorded { jobs, why }) = refused else { panic!("{what}: {refused:?}") };
        assert!(jobs == [id(1)] && matches!(*why, Refusal::Store(_)), "{what}: {jobs:?} {why:?}");
        let heard = heard_before_list(&mut spawner);
        let of_the_job = |key| Some(key) == spawner.key.as_ref();
        assert!(matches!(&heard[..], [Request::Signal { key, .. }] if of_the_job(key)), "{what}: {heard:?}");
        the_loop.stop().await;
    }
}

/// The control: what asks for no end ends nothing.
#[tokio::test]
async fn another_refused_action_on_many_ends_nothing() {
    let (the_loop, mut spawner) = about_to_fail().await;
    let refused = the_loop.handle.act(Target::All, Action::Priority(5), "me".to_owned()).await;
    assert!(matches!(refused, Err(Refusal::Store(_))), "{refused:?}");
    assert_eq!(heard_before_list(&mut spawner), []);
    the_loop.stop().await;
}
