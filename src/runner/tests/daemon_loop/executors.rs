//! Executors that came into use after the start: whose spawner is not there runs nothing, and nobody else runs it instead.

use crate::begin::connected;
use crate::harness::{Life, Loop, new_job, wait_for, wait_until};
use crate::spawner::Spawner;
use ci_runner::daemon::handle::{Explanation, NewJob};
use ci_runner::store::memory::MemoryStore;
use ci_runner_core::announce::Announcement;
use ci_runner_core::explain::Reason;
use ci_runner_core::id::JobId;
use ci_runner_core::state::Phase;
use ci_runner_spawner::protocol::{Reply, Request};

const BOXED: &str =
    "[pools.default]\nslots = 4\n[pools.boxed]\nslots = 2\nexecutor = \"systemd\"\nprofile = \"strict\"\n";

fn in_pool(name: &str) -> NewJob {
    let mut job = new_job();
    job.spec.terms.pool = Some(name.to_owned());
    job
}

async fn submit(the_loop: &Loop, job: NewJob) -> JobId {
    the_loop.handle.submit(vec![job], None, "me".to_owned()).await.unwrap()[0]
}

async fn why(the_loop: &Loop, id: JobId) -> Explanation {
    the_loop.handle.explain(id).await.unwrap().expect("it is open")
}

/// The next start is of this job.
fn hears_start_of(spawner: &mut Spawner, id: JobId) {
    let heard = spawner.heard();
    assert!(matches!(&heard[..], [Request::Start(start)] if start.key.job == id.get()), "{heard:?}");
}

/// Jobs of a sandboxed pool that a reload added used to run natively, without the sandbox, as the daemon's own user.
#[tokio::test]
async fn a_sandboxed_pool_that_a_reload_adds_starts_nothing_natively() {
    let (the_loop, mut spawner) = connected().await;
    let dir = tempfile::tempdir().unwrap();
    the_loop.reload(dir.path(), BOXED).await;
    let needed = "the pool boxed until the daemon is restarted";
    the_loop.tells(needed).await;
    let boxed = submit(&the_loop, in_pool("boxed")).await;
    let free = submit(&the_loop, new_job()).await;
    hears_start_of(&mut spawner, free);
    let why = why(&the_loop, boxed).await;
    assert!(why.reasons.is_empty(), "{:?}", why.reasons);
    assert!(why.trouble.iter().any(|text| text.contains(needed)), "{:?}", why.trouble);
    // The control: named native by another reload, it runs.
    the_loop.reload(dir.path(), "[pools.default]\nslots = 4\n[pools.boxed]\nslots = 2\nexecutor = \"native\"\n").await;
    hears_start_of(&mut spawner, boxed);
    wait_for("it is mended", || !the_loop.is_problem(needed)).await;
    the_loop.stop().await;
}

/// What was claimed before the reload kept the executor that it was claimed for.
#[tokio::test]
async fn a_claim_for_another_executor_than_its_pool_has_by_now_is_given_back() {
    let (the_loop, mut spawner) = connected().await;
    let id = submit(&the_loop, new_job()).await;
    let heard = spawner.heard();
    let [Request::Start(start)] = &heard[..] else { panic!("{heard:?}") };
    let key = start.key.clone();
    let dir = tempfile::tempdir().unwrap();
    the_loop.reload(dir.path(), "[pools.default]\nslots = 2\nexecutor = \"systemd\"\nprofile = \"strict\"\n").await;
    let needed = "the pool default until the daemon is restarted";
    the_loop.tells(needed).await;
    let why_not = "no processes left".to_owned();
    spawner.say(&[Reply::RefusedStart { key: key.clone(), why: why_not, voided: false, closed: false }]);
    assert_eq!(spawner.heard(), [Request::Void(key.clone())], "not started again");
    spawner.say(&[Reply::Voided { key }]);
    wait_for("it is queued", || the_loop.handle.snapshot().counts["default"].queued == 1).await;
    let why = why(&the_loop, id).await;
    assert!(why.trouble.iter().any(|text| text.contains(needed)), "{:?}", why.trouble);
    the_loop.stop().await;
}

/// The reverse: a native pool beside those of units. Its jobs waited for ever, and `why` said that they start next.
#[tokio::test]
async fn a_native_pool_that_a_reload_adds_waits_and_says_for_what() {
    let spawner = Spawner::new();
    let (store, reader) = MemoryStore::new();
    let life = Life { units_only: true, ..Life::default() };
    let the_loop = Loop::start_on(Box::new(store), reader, spawner.runtime(), life).await;
    let mut spawner = spawner.welcome();
    spawner.has_nothing();
    let dir = tempfile::tempdir().unwrap();
    let text = "[pools.default]\nslots = 2\nexecutor = \"systemd\"\n[pools.plain]\nslots = 2\nexecutor = \"native\"\n";
    the_loop.reload(dir.path(), text).await;
    let plain = submit(&the_loop, in_pool("plain")).await;
    let unit = submit(&the_loop, in_pool("default")).await;
    hears_start_of(&mut spawner, unit);
    let why = why(&the_loop, plain).await;
    assert!(!why.reasons.contains(&Reason::Next), "{:?}", why.reasons);
    let needed = "the pool plain until the daemon is restarted: its executor native";
    assert!(why.trouble.iter().any(|text| text.contains(needed)), "{:?}", why.trouble);
    the_loop.tells(needed).await;
    the_loop.stop().await;
}

/// Its free slots counted: `why` said that a job starts next which waited for a slot of the other pool.
#[tokio::test]
async fn a_free_slot_of_a_pool_that_starts_nothing_is_none() {
    let (the_loop, mut spawner) = connected().await;
    let dir = tempfile::tempdir().unwrap();
    the_loop.reload(dir.path(), &BOXED.replacen("slots = 4", "slots = 1", 1)).await;
    the_loop.tells("the pool boxed until the daemon is restarted").await;
    let holder = submit(&the_loop, new_job()).await;
    hears_start_of(&mut spawner, holder);
    let waits = submit(&the_loop, new_job()).await;
    let why = why(&the_loop, waits).await;
    assert_eq!(why.reasons, [Reason::NoSlot { pools: vec![("default".to_owned(), 1, vec![holder])] }]);
    the_loop.stop().await;
}

/// The native spawner says `Started` at the fork, and only then that nothing began: `why` and `show` said that it runs, for ever.
#[tokio::test]
async fn an_attempt_whose_every_start_is_refused_does_not_run() {
    let (the_loop, mut spawner) = connected().await;
    let mut news = the_loop.handle.news();
    let before = news.latest();
    let id = submit(&the_loop, new_job()).await;
    spawner.starts();
    wait_for("it runs", || the_loop.count_running() == 1).await;
    // The control: so far it does.
    let runs = why(&the_loop, id).await;
    assert!(matches!(runs.reasons[..], [Reason::Running { .. }]), "{:?}", runs.reasons);
    assert!(runs.trouble.is_empty(), "{:?}", runs.trouble);
    let key = spawner.key.clone().unwrap();
    for round in 0..3 {
        let why_not = "no processes left".to_owned();
        let refusal = Reply::RefusedStart { key: key.clone(), why: why_not, voided: false, closed: false };
        // Its word at the next fork is no better than the one before.
        let started = (round > 0).then(|| Reply::Started { key: key.clone() });
        spawner.say(&started.into_iter().chain([refusal]).collect::<Vec<_>>());
        // It is asked for again after a pause: the refusal is known by then, and counts until the attempt is known to live.
        hears_start_of(&mut spawner, id);
        let refused = why(&the_loop, id).await;
        assert_eq!(refused.phase, Phase::Starting);
        // What `list`, `show`, `status` and the figures tell.
        assert_eq!(the_loop.handle.reader.job(id).unwrap().unwrap().phase, Phase::Starting);
        let snapshot = the_loop.handle.fresh_snapshot().await;
        assert_eq!((snapshot.counts["default"].starting, snapshot.counts["default"].running), (1, 0));
        assert_eq!(snapshot.leases[0].phase, Phase::Starting);
    }
    spawner.say(&[Reply::Started { key: key.clone() }]);
    wait_until("somebody says that it runs at last", async || why(&the_loop, id).await.phase == Phase::Running).await;
    assert!(why(&the_loop, id).await.trouble.is_empty());
    let row = || the_loop.handle.reader.job(id).unwrap().unwrap();
    wait_for("its start is kept", || row().started.is_some()).await;
    let told = news
        .after(before)
        .await
        .into_iter()
        .filter(|told| matches!(told, Announcement::Job(news) if news.phase == Phase::Running));
    assert_eq!(told.count(), 2, "at the first fork, when nobody knew better, and at last");
    the_loop.stop().await;
}

/// The spawner kept a place for each, and with 5,000 of them it took no start any more.
#[tokio::test]
async fn a_claim_whose_start_was_refused_is_forgotten_when_its_job_expires() {
    let (the_loop, mut spawner) = connected().await;
    let mut soon_over = new_job();
    let expires = jiff::Timestamp::now().as_millisecond() + 2_000;
    soon_over.spec.terms.expires = Some(ci_runner_core::time::WallTime(expires));
    let id = submit(&the_loop, soon_over).await;
    let heard = spawner.heard();
    let [Request::Start(start)] = &heard[..] else { panic!("{heard:?}") };
    let key = start.key.clone();
    let why = "no processes left".to_owned();
    let refusal = Reply::RefusedStart { key: key.clone(), why, voided: false, closed: false };
    spawner.say(std::slice::from_ref(&refusal));
    // It is asked for again now and then, and refused, until its time is over.
    loop {
        match &spawner.heard()[..] {
            [Request::Start(again)] if again.key == key => spawner.say(std::slice::from_ref(&refusal)),
            heard => break assert_eq!(heard, [Request::Void(key.clone())]),
        }
    }
    spawner.say(&[Reply::Voided { key: key.clone() }]);
    assert_eq!(spawner.heard(), [Request::Forget(key)]);
    wait_until("it is over", async || the_loop.handle.explain(id).await.unwrap().is_none()).await;
    the_loop.stop().await;
}
