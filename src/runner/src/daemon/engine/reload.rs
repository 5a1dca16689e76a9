//! The record made from what the store told: at the start, and again after a failed commit.

use super::*;
use crate::store::StoreError;

impl Engine {
    /// Makes the record anew from what the store told. Err: it did not tell all, and nothing is changed.
    pub(super) fn take_reloaded(&mut self, reloaded: Reloaded) -> Result<(), StoreError> {
        self.load_schedules()?;
        let seq = self.record.news_seq();
        let mut record = rebuild(self.record.settings().clone(), &reloaded.pools, &reloaded.open, &reloaded.loaded);
        record.resume_news(seq);
        record.advance(self.clock.now());
        record.take_over(&self.record);
        record.set_last_id(self.taken_ids);
        self.record = record;
        self.committed_news = self.record.news_seq();
        self.news.send_replace(self.committed_news);
        self.finished = self.reader.totals().unwrap_or_default().into_iter().collect();
        self.uncommitted.clear();
        self.works.clear();
        self.stories.clear();
        self.watches.clear();
        self.bulks.clear();
        // Secrets are kept before the commit. Only now is it certain which jobs it did not keep.
        self.sweep_secrets();
        self.list_again();
        Ok(())
    }
}

/// The record of what a store told. Facts that cannot be are left out and logged: one bad row must not stop the rest.
pub fn rebuild(settings: Settings, pools: &[String], open: &[OpenJob], loaded: &Loaded) -> Record {
    let mut record = Record::new(settings);
    let numbers: Vec<_> = pools.iter().map(|name| record.ensure_pool(name)).collect();
    for job in open {
        let mut job = job.clone();
        if let Some(lease) = &mut job.lease {
            lease.pool = numbers.get(usize::from(lease.pool.0)).copied().unwrap_or(lease.pool);
        }
        load_job(&mut record, &job);
    }
    load_rest(&mut record, loaded);
    record
}

/// Takes an open job of a store into a new record.
pub fn load_job(record: &mut Record, job: &OpenJob) {
    if let Err(error) = record.load(job) {
        log::error!(job = job.id.get(); "the store holds an impossible state: {error}");
    }
}

/// Takes what a store told beside its jobs.
pub fn load_rest(record: &mut Record, loaded: &Loaded) {
    record.set_last_id(loaded.last_id);
    record.set_paused(loaded.paused.clone());
}

/// Hands a reloading order the names of the pools.
pub(super) fn reload_order(record: &Record) -> Order {
    Order::Reload { pools: record.pools().map(|pool| pool.name).collect() }
}
