//! A store on a disk that a test may fill: then it takes no commit, as SQLite does on a full one.

use ci_runner::store::sqlite::SqliteStore;
use ci_runner::store::{Claimed, CollectLimits, Loaded, Store, StoreError, Write};
use ci_runner_core::change::OpenJob;
use ci_runner_core::id::{JobId, PoolId};
use ci_runner_core::time::{ClockBase, Now};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Mutex;

/// A store, and whether its disk is full. While the test holds `slow`, a commit waits.
pub struct DiskOf {
    pub store: SqliteStore,
    pub full: Arc<AtomicBool>,
    pub slow: Arc<Mutex<()>>,
}

impl DiskOf {
    fn space(&self) -> Result<(), StoreError> {
        if self.full.load(Ordering::SeqCst) { Err(StoreError::Full) } else { Ok(()) }
    }
}

impl Store for DiskOf {
    fn load(
        &mut self,
        pool_id: &mut dyn FnMut(&str) -> PoolId,
        each: &mut dyn FnMut(OpenJob),
    ) -> Result<Loaded, StoreError> {
        self.store.load(pool_id, each)
    }

    fn reread(
        &mut self,
        pool_id: &mut dyn FnMut(&str) -> PoolId,
        each: &mut dyn FnMut(OpenJob),
    ) -> Result<Loaded, StoreError> {
        self.store.reread(pool_id, each)
    }

    fn commit(&mut self, batch: &[Write], pools: &[String]) -> Result<(), StoreError> {
        let _turn = self.slow.blocking_lock();
        self.space()?;
        self.store.commit(batch, pools)
    }

    fn claimed(&mut self, id: JobId) -> Result<Option<Claimed>, StoreError> {
        self.store.claimed(id)
    }

    fn collect(&mut self, limits: &CollectLimits, most: usize) -> Result<Vec<JobId>, StoreError> {
        self.space()?;
        self.store.collect(limits, most)
    }

    fn close(&mut self, base: &ClockBase, now: Now) -> Result<(), StoreError> {
        self.store.close(base, now)
    }
}
