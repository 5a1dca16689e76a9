//! Batches on their way to disk, and the daemon's connection to the spawner.

use crate::check_claim::View;
use crate::daemon::{Act, Batch, Daemon};
use crate::mutant::Mutant;
use crate::wire::Key;
use crate::world::World;
use ci_runner_core::announce::{Announcement, announce};
use ci_runner_core::reconcile::Seen;

/// What becomes of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Kept,
    Refused,
    /// Kept, and the daemon does not hear it.
    ReplyLost,
}

impl World {
    /// The disk takes a batch, whole.
    pub(crate) fn keep(&mut self, batch: &Batch) {
        for fact in &batch.facts {
            self.truth.check_fact(&self.store, &self.host, &self.clock, fact);
            self.store.fold(fact);
        }
        for (key, job) in &batch.keys {
            self.truth.key_kept(*key, *job);
            self.store.keys.insert(*key, *job);
        }
        self.truth.check_store(&self.store);
    }

    pub(crate) fn commit(&mut self, daemon: &mut Daemon) {
        let Some(batch) = daemon.inflight.take() else { return };
        let fate = std::mem::replace(&mut self.fate, Fate::Kept);
        self.note("commit", [batch.facts.len() as u64, fate as u64], || {
            format!("{} facts {fate:?}", batch.facts.len())
        });
        if fate != Fate::Refused {
            self.keep(&batch);
        }
        if fate != Fate::Kept {
            self.coverage.hit(if fate == Fate::Refused { "fault: commit refused" } else { "fault: commit reply lost" });
            return self.read_again(daemon, batch);
        }
        daemon.settle(&batch);
        daemon.acts.extend(batch.acts);
        let committed = if self.is(Mutant::TellBeforeCommit) { daemon.record.news_seq() } else { batch.news };
        self.tell(daemon, committed);
        let saved: Vec<Key> = daemon.looks.keys().copied().filter(|key| daemon.is_saved(key.job)).collect();
        for key in saved {
            if let Some(seen) = daemon.looks.remove(&key) {
                // What was not there may have been started since; the next list tells.
                let settled = !matches!(seen, Seen::Absent | Seen::NotBegan);
                self.observe(daemon, key, seen, settled);
            }
        }
        if daemon.pending.is_empty() && !daemon.wake && self.looks_at_the_record() {
            let (store, settings, places, at) = (&self.store, &*daemon.settings, &*daemon.places, daemon.record.now());
            self.truth.check_record(&daemon.record, View { store, settings, places, at });
        }
    }

    fn tell(&mut self, daemon: &mut Daemon, committed: u64) {
        loop {
            let announcements = announce(&daemon.record, daemon.told, committed);
            if announcements.is_empty() {
                return;
            }
            for announcement in announcements {
                match announcement {
                    Announcement::Job(news) => {
                        daemon.told = news.seq;
                        self.truth.told(&news, &self.store);
                    }
                    Announcement::Gap(next) => {
                        daemon.told = next;
                        if !self.is(Mutant::IgnoreGap) {
                            self.truth.listener_looks_again(&self.store);
                        }
                    }
                }
            }
        }
    }

    /// After a commit that failed, or seemed to: the record is built from the store.
    fn read_again(&mut self, daemon: &mut Daemon, batch: Batch) {
        let pending = std::mem::take(&mut daemon.pending);
        for act in batch.acts.iter().chain(&pending.acts) {
            if let Act::Answer(op, _) = act
                && !self.is(Mutant::LeaveUnanswered)
            {
                self.fail(*op);
            }
        }
        daemon.settle(&batch);
        daemon.settle(&pending);
        if self.is(Mutant::KeepRecordAfterRefusal) {
            return;
        }
        daemon.looks.clear();
        daemon.whole = true;
        let news = daemon.record.news_seq();
        let mut record = self.read_store(&daemon.settings, daemon.record.now());
        if !self.is(Mutant::ForgetPlaces) {
            record.take_over(&daemon.record);
        }
        daemon.record = record;
        daemon.record.resume_news(news);
        daemon.wake = true;
        if daemon.listing.take().is_some() || daemon.up {
            self.ask_list(daemon);
        }
    }

    /// False: the daemon gives up.
    pub(crate) fn connect(&mut self, daemon: &mut Daemon) -> bool {
        if self.host.spawner.is_none() {
            self.note("spawner", [1, 0], || "starts".to_owned());
            self.host.start_spawner(&self.clock);
        }
        self.connections += 1;
        daemon.connection = self.host.connect(self.connections, daemon.generation);
        true
    }

    pub(crate) fn lose_connection(&mut self, daemon: &mut Daemon) {
        self.note("hear", [0, 0], || "end of the connection".to_owned());
        self.host.connections.retain(|connection| Some(connection.id) != daemon.connection);
        daemon.connection = None;
        daemon.up = false;
        daemon.listing = None;
        daemon.lists_due = 0;
    }
}
