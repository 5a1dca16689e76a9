//! The daemon's loop, real code, between a store that fails when it is told to and a spawner of paper.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod begin;
mod executors;
mod former;
mod harness;
mod limits;
mod missed;
mod put_back;
mod refused;
mod schedules;
mod slices;
mod spawner;
mod turns;
mod watchdog;

use ci_runner::daemon::handle::{IdempotencyKey, NewJob, Refusal};
use ci_runner_core::id::JobId;
use ci_runner_core::outcome::{AttemptResult, LostCause};
use ci_runner_spawner::protocol::{Enforces, Reply, Request, Seen};
use harness::{Loop, new_job, wait_for};
use spawner::Spawner;
use std::io::BufRead as _;

/// A job runs, and a commit fails: the record is read again and the spawner asked what there is, twice, for the store
/// recovers meanwhile. Leaves at the moment where the first of the two answers is told by half.
async fn amid_an_answer() -> (Loop, Spawner) {
    let (the_loop, mut spawner) = begin::running().await;
    the_loop.fails_a_commit().await;
    assert_eq!(spawner.heard(), [Request::List], "after the record was read again");
    // Told, and forgotten again when the store has recovered: then another list is wanted.
    the_loop.store_fails().await;
    spawner.say(&[spawner.attempt(Seen::Alive)]);
    the_loop.store_recovers().await;
    (the_loop, spawner)
}

/// The end of an answer that was forgotten half-way used to be taken for the whole: what ran was "absent", hence lost.
#[tokio::test]
async fn the_end_of_a_list_that_was_forgotten_half_way_says_nothing() {
    let (the_loop, mut spawner) = amid_an_answer().await;
    spawner.say(&[Reply::Listed]);
    assert_eq!(spawner.heard(), [Request::List], "nothing but the other list");
    spawner.say(&[spawner.attempt(Seen::Alive), Reply::Listed]);
    spawner.end_well();
    assert!(matches!(&spawner.heard()[..], [Request::Forget(_)]), "the first command after it, and the right one");
    wait_for("it succeeded", || the_loop.count_succeeded() == 1).await;
    the_loop.stop().await;
}

/// The control: were that end believed, it would be seen. Here the spawner itself leaves the job out.
#[tokio::test]
async fn a_list_without_a_job_that_runs_would_be_acted_on() {
    let (the_loop, mut spawner) = amid_an_answer().await;
    spawner.say(&[Reply::Listed]);
    spawner.has_nothing();
    assert!(matches!(&spawner.heard()[..], [Request::Forget(_)]));
    let attempts = the_loop.handle.reader.attempts(JobId::new(1).unwrap()).unwrap();
    assert_eq!(attempts[0].result, Some(AttemptResult::Lost { cause: LostCause::Executor }));
    the_loop.stop().await;
}

/// Writer and spawner keep their directories until a restart. A reload that named others used to part the loop from them:
/// secrets were kept in one place and looked for in another.
#[tokio::test]
async fn a_reload_that_names_other_directories_changes_none() {
    let (the_loop, mut spawner) = begin::connected().await;
    let elsewhere = tempfile::tempdir().unwrap();
    the_loop.reload(elsewhere.path(), "[pools.default]\nslots = 7\n").await;
    wait_for("the rest of it holds", || the_loop.handle.snapshot().pools[0].slots == 7).await;
    let secrets = vec![("TOKEN".to_owned(), "a long enough secret".to_owned())];
    the_loop.handle.submit(vec![NewJob { secrets, ..with_secret(new_job()) }], None, "me".to_owned()).await.unwrap();
    let heard = spawner.heard();
    assert!(matches!(&heard[..], [Request::Start(start)] if start.secrets), "{heard:?}");
    let kept = |dir: &std::path::Path| std::fs::read_dir(dir).map_or(0, Iterator::count);
    assert_eq!((kept(&the_loop.secrets_dir), kept(&elsewhere.path().join("secrets"))), (1, 0));
    the_loop.stop().await;
}

fn with_secret(mut job: NewJob) -> NewJob {
    job.spec.work.secrets = vec!["TOKEN".to_owned()];
    job
}

/// One of an earlier version, which is not sent what it does not know. It used to write elsewhere without a word of anybody's.
#[tokio::test]
async fn a_spawner_that_puts_logs_elsewhere_and_cannot_be_told_is_a_problem() {
    let spawner = Spawner::new();
    let the_loop = Loop::start(spawner.runtime()).await;
    let mut process = std::process::Command::new("sh")
        .args(["-c", "echo; read x; exit", "sh", "--log-dir", "/of/another/store"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // `spawn` returns before the kernel shows the words of the new program: until it has said something they may be missing.
    std::io::BufReader::new(process.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
    let mut spawner = spawner.welcome_as(process.id(), Enforces::default());
    assert_eq!(spawner.heard(), [Request::List], "no word that it does not know");
    spawner.say(&[Reply::Listed]);
    let is_told = || the_loop.handle.snapshot().problems.iter().any(|text| text.contains("/of/another/store"));
    wait_for("the problem is told", is_told).await;
    the_loop.stop().await;
    drop(process.stdin.take());
    process.wait().unwrap();
}

/// A key that an earlier version kept, with the caller's trace in it, stands for the same job after the upgrade.
#[tokio::test]
async fn a_key_of_an_earlier_version_is_honoured() {
    let the_loop = Loop::start(Spawner::new().runtime()).await;
    let submit = async |body, body_before| {
        let key = Some(IdempotencyKey { key: "k".to_owned(), body: [body; 32], body_before });
        the_loop.handle.submit(vec![NewJob { key, ..new_job() }], None, "me".to_owned()).await
    };
    let first = submit(1, None).await.unwrap();
    assert_eq!(submit(2, Some([1; 32])).await, Ok(first));
    assert_eq!(submit(2, Some([3; 32])).await, Err(Refusal::KeyReused { key: "k".to_owned(), index: Some(0) }));
    the_loop.stop().await;
}
