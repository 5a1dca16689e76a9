//! One concurrency group's open jobs.
//!
//! `offered` is always the first `limit - holders` of `waiting`, in order of id: only they stand in a queue from which
//! they can be claimed. So the limit holds however many claims are made in one turn, and the order is first in, first out
//! among those that some pool can take: the record keeps the others out of `waiting`.

use crate::group::GroupPolicy;
use crate::id::JobId;
use crate::state::Phase;
use std::collections::BTreeSet;
use std::ops::Bound::{Excluded, Unbounded};

/// Members and who may go.
pub(super) struct Members {
    pub limit: u32,
    /// Open jobs of the group.
    pub open: usize,
    /// Those that stand in the queue and that nobody cancelled.
    queued: BTreeSet<JobId>,
    /// Those that have an attempt and that nobody cancelled.
    under_way: BTreeSet<JobId>,
    /// Open jobs that older ones make way for: their policy is `latest` or `cancel`, and no dependency has failed them.
    pub newest: BTreeSet<JobId>,
    /// Those that run, or are claimed.
    pub holders: BTreeSet<JobId>,
    /// Those that could run if the group let them.
    pub waiting: BTreeSet<JobId>,
    /// Those of `waiting` that stand in a queue.
    pub offered: BTreeSet<JobId>,
}

/// A change of what is offered.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Offer {
    Give(JobId),
    Withdraw(JobId),
}

impl Members {
    pub fn new(limit: u32) -> Self {
        Self {
            limit,
            open: 0,
            queued: BTreeSet::new(),
            under_way: BTreeSet::new(),
            newest: BTreeSet::new(),
            holders: BTreeSet::new(),
            waiting: BTreeSet::new(),
            offered: BTreeSet::new(),
        }
    }

    /// `id`, which nobody cancelled, is in this phase from now on.
    pub fn enter(&mut self, id: JobId, phase: Phase) {
        let (into, from) = match phase {
            Phase::Queued => (&mut self.queued, &mut self.under_way),
            _ => (&mut self.under_way, &mut self.queued),
        };
        from.remove(&id);
        into.insert(id);
    }

    /// `id` was cancelled: it makes way for nobody a second time.
    pub fn cancel(&mut self, id: JobId) {
        self.queued.remove(&id);
        self.under_way.remove(&id);
    }

    /// `id` ended.
    pub fn leave(&mut self, id: JobId) {
        self.open -= 1;
        self.newest.remove(&id);
        self.cancel(id);
    }

    /// Takes out whom the newcomer's policy cancels. Each is looked at once, however many newcomers there are: else an
    /// array of one group would cost the square of its length.
    #[must_use]
    pub fn make_way(&mut self, newcomer: JobId, policy: GroupPolicy) -> Vec<JobId> {
        let mut out = Vec::new();
        let sets = match policy {
            GroupPolicy::Queue => return out,
            GroupPolicy::Latest => vec![&mut self.queued],
            GroupPolicy::Cancel => vec![&mut self.queued, &mut self.under_way],
        };
        for set in sets {
            while let Some(older) = set.first().copied().filter(|one| *one < newcomer) {
                set.pop_first();
                out.push(older);
            }
        }
        out
    }

    /// `id` could run from now on. Call [`Self::settle`] next.
    #[must_use]
    pub fn wait(&mut self, id: JobId) -> Option<Offer> {
        self.waiting.insert(id);
        // One that came back (a retry) may be older than one already offered: it goes first.
        let overtaken = self.offered.last().is_some_and(|last| id < *last);
        (overtaken && self.offered.insert(id)).then_some(Offer::Give(id))
    }

    /// Brings `offered` in line after `waiting`, `holders` or `limit` changed.
    #[must_use]
    pub fn settle(&mut self) -> Vec<Offer> {
        let room = (self.limit as usize).saturating_sub(self.holders.len());
        let mut offers = Vec::new();
        while self.offered.len() > room {
            let Some(last) = self.offered.pop_last() else { break };
            offers.push(Offer::Withdraw(last));
        }
        while self.offered.len() < room {
            let next = match self.offered.last() {
                Some(last) => self.waiting.range((Excluded(last), Unbounded)).next().copied(),
                None => self.waiting.first().copied(),
            };
            let Some(next) = next else { break };
            self.offered.insert(next);
            offers.push(Offer::Give(next));
        }
        offers
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever happens, `offered` is the prefix, and the offers told are exactly its changes.
        #[test]
        fn offered_is_the_first_of_the_waiting(limit in 1u32..4, steps in prop::collection::vec((0u8..4, 1u64..20), 1..80)) {
            let mut members = Members::new(limit);
            let mut told = BTreeSet::new();
            for (step, id) in steps {
                let id = JobId::new(id).expect("positive");
                match step {
                    0 if !members.holders.contains(&id) => {
                        if let Some(Offer::Give(id)) = members.wait(id) { told.insert(id); }
                    }
                    1 => { members.waiting.remove(&id); if members.offered.remove(&id) { told.remove(&id); } }
                    2 if members.offered.contains(&id) => {
                        members.offered.remove(&id); members.waiting.remove(&id); told.remove(&id);
                        members.holders.insert(id);
                    }
                    3 => { members.holders.remove(&id); }
                    _ => {}
                }
                for offer in members.settle() {
                    match offer {
                        Offer::Give(id) => prop_assert!(told.insert(id)),
                        Offer::Withdraw(id) => prop_assert!(told.remove(&id)),
                    }
                }
                let room = (limit as usize).saturating_sub(members.holders.len());
                let expected: BTreeSet<_> = members.waiting.iter().take(room).copied().collect();
                prop_assert_eq!(&members.offered, &expected);
                prop_assert_eq!(&told, &expected);
            }
        }
    }
}
