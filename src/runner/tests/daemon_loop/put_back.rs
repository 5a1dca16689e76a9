//! A store that is behind what the host shows of an earlier life.

use crate::harness::{Life, Loop, new_job, wait_for};
use crate::spawner::Spawner;
use ci_runner::daemon::handle::Refusal;
use ci_runner::store::memory::MemoryStore;

/// The record that is made anew knew of the store's ids only, and gave one that a log had already.
#[tokio::test]
async fn ids_that_logs_show_stay_taken_over_a_failed_commit() {
    let spawner = Spawner::new();
    let (store, reader) = MemoryStore::new();
    let life = Life { taken_ids: 500, ..Life::default() };
    let the_loop = Loop::start_on(Box::new(store), reader, spawner.runtime(), life).await;
    the_loop.fail_next_commit();
    let refused = the_loop.handle.pause(Some(("test".to_owned(), false)), "me".to_owned()).await;
    assert!(matches!(refused, Err(Refusal::Store(_))), "{refused:?}");
    wait_for("the store fails", || the_loop.handle.snapshot().store_failing).await;
    wait_for("the store takes commits", || !the_loop.handle.snapshot().store_failing).await;
    let ids = the_loop.handle.submit(vec![new_job()], None, "me".to_owned()).await.unwrap();
    assert_eq!(ids[0].get(), 501);
    the_loop.stop().await;
}
