//! A store that is behind what the host shows of an earlier life.

use crate::begin::running;
use crate::harness::{Life, Loop, new_job, wait_for};
use crate::spawner::Spawner;
use ci_runner::store::memory::MemoryStore;
use ci_runner_core::explain::Reason;
use ci_runner_spawner::protocol::{AttemptKey, Reply, Seen, Slot};

/// The record that is made anew knew of the store's ids only, and gave one that a log had already.
#[tokio::test]
async fn ids_that_logs_show_stay_taken_over_a_failed_commit() {
    let spawner = Spawner::new();
    let (store, reader) = MemoryStore::new();
    let life = Life { taken_ids: 500, ..Life::default() };
    let the_loop = Loop::start_on(Box::new(store), reader, spawner.runtime(), life).await;
    the_loop.fails_a_commit().await;
    the_loop.store_fails().await;
    the_loop.store_recovers().await;
    let ids = the_loop.handle.submit(vec![new_job()], None, "me".to_owned()).await.unwrap();
    assert_eq!(ids[0].get(), 501);
    the_loop.stop().await;
}

/// The pool of the slot came with a reload, and its slot was given away: the spawner refused the start until the other was over.
#[tokio::test]
async fn a_slot_that_a_forgotten_job_holds_stays_shut_in_a_pool_that_a_reload_adds() {
    let (the_loop, spawner) = running().await;
    let forgotten = AttemptKey { job: 900, ..spawner.key.clone().expect("started") };
    let slot = Some(Slot { pool: "later".to_owned(), number: 0 });
    spawner.say(&[Reply::Attempt { key: forgotten, seen: Seen::Alive, slot }]);
    the_loop.tells("attempts that the store does not know").await;
    let dir = tempfile::tempdir().unwrap();
    the_loop.reload(dir.path(), "[pools.default]\nslots = 4\n[pools.later]\nslots = 1\n").await;
    wait_for("the pool is there", || the_loop.handle.snapshot().counts.contains_key("later")).await;
    let mut job = new_job();
    job.spec.terms.pool = Some("later".to_owned());
    let id = the_loop.handle.submit(vec![job], None, "me".to_owned()).await.unwrap()[0];
    let why = the_loop.handle.explain(id).await.unwrap().expect("it is open");
    assert!(matches!(why.reasons[..], [Reason::NoSlot { .. }]), "{:?}", why.reasons);
    the_loop.stop().await;
}
