//! Actions on many jobs, taken in slices so that the loop goes on meanwhile and no commit holds more than it should: whoever else waits
//! for a commit waits for a short one. Where several are asked for they take turns, the newest first.

use super::*;
use crate::daemon::handle::{Acted, Action, Refusal};
use ci_runner_core::change::{Change, Entry, Wish as JobWish};
use ci_runner_core::outcome::By;

/// Jobs an action on many jobs takes in one turn: half of what a commit may hold, for schedules and drops are to go on meanwhile.
const BULK_PER_TURN: usize = 1_000;
/// While actions on so many jobs are under way, another one is told to come later: each holds the ids of its jobs, 64 MiB in all.
const IDS_MAX: usize = 8_000_000;

/// An action on many jobs.
pub(super) struct Bulk {
    ids: std::vec::IntoIter<JobId>,
    action: Action,
    by: String,
    acted: Acted,
    reply: oneshot::Sender<Result<Acted, Refusal>>,
}

impl Bulk {
    pub fn new(
        ids: Vec<JobId>,
        acted: Acted,
        action: Action,
        by: String,
        reply: oneshot::Sender<Result<Acted, Refusal>>,
    ) -> Self {
        Self { ids: ids.into_iter(), action, by, acted, reply }
    }

    fn refuse(self, refusal: Refusal) {
        drop(self.reply.send(Err(refusal)));
    }

    fn change(&self, id: JobId) -> Change {
        match &self.action {
            Action::Cancel => Change::Wished { id, wish: JobWish::Cancel { by: By::User(self.by.clone()) } },
            Action::Hold { reason } => {
                Change::Wished { id, wish: JobWish::Hold { by: self.by.clone(), reason: reason.clone() } }
            }
            Action::Release => Change::Wished { id, wish: JobWish::Run },
            Action::Priority(priority) => Change::Reprioritized { id, priority: *priority },
        }
    }
}

impl Engine {
    pub(super) fn act(&mut self, bulk: Bulk) {
        let under_way: usize = self.bulks.iter().map(|other| other.ids.len() + other.acted.done.len()).sum();
        if under_way > 0 && under_way + bulk.ids.len() > IDS_MAX {
            return bulk.refuse(Refusal::ActionsFull { limit: IDS_MAX });
        }
        self.bulks.push_front(bulk);
        self.go_on_with_bulk();
    }

    /// Commits fail: nothing of it is kept, but what runs is told to end when that was asked for.
    pub(super) fn refuse_bulk(&mut self, bulk: Bulk) {
        let Bulk { ids, action, by, acted, reply } = bulk;
        let refusal = match action {
            Action::Cancel => self.stop_unrecorded(acted.done.into_iter().chain(ids).collect(), &by),
            Action::Hold { .. } | Action::Release | Action::Priority(_) => self.refusal(),
        };
        drop(reply.send(Err(refusal)));
    }

    /// What still fits into the batch before it is as large as a commit should be.
    pub(super) fn room_in_batch(&self) -> usize {
        CHANGES_PER_TURN.saturating_sub(self.batch.writes.len())
    }

    /// The next slices of actions on many jobs, as far as the batch has room.
    pub(super) fn go_on_with_bulk(&mut self) {
        let mut slice = BULK_PER_TURN.min(self.room_in_batch());
        while slice > 0
            && let Some(mut bulk) = self.bulks.pop_front()
        {
            let before = bulk.ids.len();
            for id in bulk.ids.by_ref().take(slice).collect::<Vec<_>>() {
                self.act_on(&mut bulk, id);
            }
            slice -= before - bulk.ids.len();
            if bulk.ids.len() > 0 {
                self.bulks.push_back(bulk);
                return;
            }
            let cancelled_by = matches!(bulk.action, Action::Cancel).then_some(bulk.by);
            self.batch.effects.push(batch::Effect::Acted { acted: bulk.acted, cancelled_by, reply: bulk.reply });
        }
    }

    fn act_on(&mut self, bulk: &mut Bulk, id: JobId) {
        let entry = Entry { at: self.clock.now(), change: bulk.change(id) };
        if self.record.apply(&entry).is_ok() {
            self.note(entry);
            bulk.acted.done.push(id);
        } else if matches!(bulk.action, Action::Cancel) && self.record.ended(id) == Some(false) {
            // It was open when the cancelling began, and ended with it: a dependent of one that was cancelled.
            bulk.acted.done.push(id);
        } else {
            bulk.acted.finished.push(id);
        }
    }
}
