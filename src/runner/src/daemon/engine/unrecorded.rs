//! Stops that could not be recorded.
//!
//! While the store takes no commits, a running attempt that somebody cancels is told to end all the same: what hurts (a full disk, as
//! a rule) may be its doing. This is the one command that leaves before its record, on purpose: decision 0012. It is what anybody
//! could do with `kill`, so nothing that was acknowledged depends on it; and whoever asked is told that it is not recorded.
//!
//! Who asked is kept in memory. The first thing that is recorded when commits succeed again is the stop, before the end of the
//! attempt is looked at, so that it counts as cancelled. A daemon that ends before forgets it: the next one finds an attempt
//! that a signal ended, and its job's policy decides.

use super::*;
use crate::daemon::handle::{Action, Deed, Refusal, Target};
use ci_runner_core::change::{self, Change, Entry};
use ci_runner_core::outcome::By;
use ci_runner_spawner::protocol::Request;

/// A stop that is not on disk.
pub(super) struct Unrecorded {
    attempt: u32,
    by: String,
    /// To a spawner that is still there.
    sent: bool,
}

impl Engine {
    /// What is answered while the store takes no commits; running attempts that are to be cancelled are told to end.
    pub(super) fn refusal_of(&mut self, deed: &Deed) -> Refusal {
        match deed {
            Deed::Act { target, action: Action::Cancel, by, .. } => {
                let ids = match target {
                    Target::All => self.record.leases().map(|(id, _)| id).collect(),
                    Target::Ids(ids) => ids.clone(),
                };
                self.stop_unrecorded(ids, by)
            }
            Deed::Act { .. }
            | Deed::Submit { .. }
            | Deed::RunSchedule { .. }
            | Deed::Pause { .. }
            | Deed::Schedule { .. } => self.refusal(),
        }
    }

    /// Tells those of the jobs to end that run, now or as soon as the spawner says that they live; what is to be answered.
    pub(super) fn stop_unrecorded(&mut self, ids: Vec<JobId>, by: &str) -> Refusal {
        let mut jobs = Vec::new();
        for id in ids {
            let Some(attempt) = self.may_run(id) else { continue };
            let known = self.unrecorded.get(&id).is_some_and(|stop| stop.attempt == attempt);
            if !known {
                log::warn!(job = id.get(), attempt = attempt; "job {id} is told to end for {by}; that cannot be recorded yet");
                self.unrecorded.insert(id, Unrecorded { attempt, by: by.to_owned(), sent: false });
            }
            self.send_unrecorded(id);
            jobs.push(id);
        }
        if jobs.is_empty() { self.refusal() } else { Refusal::StopUnrecorded { jobs, why: Box::new(self.refusal()) } }
    }

    /// Its open attempt, where that was started and is not known to be over.
    fn may_run(&self, id: JobId) -> Option<u32> {
        let lease = self.record.lease(id).filter(|lease| lease.dispatched.is_some())?;
        let watch = self.watches.get(&id).filter(|watch| watch.attempt == lease.attempt.0);
        let may_live = match watch.map(|watch| &watch.seen) {
            None | Some(Seen::Alive | Seen::Absent | Seen::NotBegan) => true,
            Some(Seen::Ended(_) | Seen::Gone | Seen::Voided | Seen::Leftovers) => false,
        };
        may_live.then_some(lease.attempt.0)
    }

    /// Sends what waits for the spawner to say that an attempt lives: then its claim is on disk, and it is the right one.
    pub(super) fn send_unrecorded(&mut self, id: JobId) {
        let Some(lease) = self.record.lease(id) else { return };
        let (attempt, way) = (lease.attempt.0, self.sides.way_of(&lease.epoch));
        let is_alive = self.watches.get(&id).is_some_and(|watch| watch.lives(attempt));
        let Some(stop) = self.unrecorded.get_mut(&id).filter(|stop| stop.attempt == attempt && !stop.sent) else {
            return;
        };
        if is_alive && self.health != Health::Good {
            stop.sent = true;
            let grace_ms = self.record.settings().grace_ms;
            self.sides.send(way, Request::Signal { key: self.key(id, attempt), grace_ms });
        }
    }

    /// A spawner came: whether its predecessor passed the word on is not known.
    pub(super) fn send_unrecorded_again(&mut self) {
        self.unrecorded.values_mut().for_each(|stop| stop.sent = false);
    }

    /// Whether this attempt has had its signal already: some programs take a second one for impatience.
    pub(super) fn was_sent_unrecorded(&self, id: JobId, attempt: u32) -> bool {
        self.unrecorded.get(&id).is_some_and(|stop| stop.attempt == attempt && stop.sent)
    }

    /// Commits succeed again: what was told to end is cancelled. It is remembered until that attempt is over.
    pub(super) fn record_stops(&mut self) {
        let ids: Vec<JobId> = self.unrecorded.keys().copied().collect();
        for id in ids {
            let Some(stop) = self.unrecorded.get(&id) else { continue };
            match self.record.lease(id).filter(|lease| lease.attempt.0 == stop.attempt) {
                Some(lease) if lease.stop.is_some() => {}
                Some(_) => {
                    let wish = change::Wish::Cancel { by: By::User(stop.by.clone()) };
                    let entry = Entry { at: self.clock.now(), change: Change::Wished { id, wish } };
                    if self.record.apply(&entry).is_ok() {
                        self.note(entry);
                    }
                }
                None if self.uncommitted.contains_key(&id) => {}
                None => drop(self.unrecorded.remove(&id)),
            }
        }
    }
}
