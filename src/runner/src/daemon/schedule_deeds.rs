//! What is asked of the loop about schedules. It changes its own rows: one that was read before may be gone, or be another by now.

use super::handle::{Deed, Handle, IdempotencyKey, Refusal, Submitter, Wish};
use crate::store::ScheduleRow;
use ci_runner_core::id::JobId;

/// A change of schedules.
pub enum ScheduleDeed {
    /// Add or replace one.
    Keep {
        /// The schedule; already valid. What the present one has done, and whether it is paused, stays.
        row: Box<ScheduleRow>,
        /// False: refuse when one of the name is there.
        replace: bool,
    },
    /// Let it make no jobs.
    Pause {
        /// Which.
        name: String,
        /// Who.
        by: String,
    },
    /// Let it make jobs again.
    Resume {
        /// Which.
        name: String,
    },
    /// Remove it.
    Remove {
        /// Which.
        name: String,
    },
}

impl Handle {
    async fn change_schedule(&self, deed: ScheduleDeed) -> Result<ScheduleRow, Refusal> {
        self.ask(|reply| Wish::Do(Deed::Schedule { deed, reply })).await?
    }

    /// Adds or replaces a schedule: as it is then.
    pub async fn schedule(&self, row: ScheduleRow, replace: bool) -> Result<ScheduleRow, Refusal> {
        self.change_schedule(ScheduleDeed::Keep { row: Box::new(row), replace }).await
    }

    /// Lets a schedule make no jobs: as it is then.
    pub async fn pause_schedule(&self, name: String, by: String) -> Result<ScheduleRow, Refusal> {
        self.change_schedule(ScheduleDeed::Pause { name, by }).await
    }

    /// Lets a schedule make jobs again: as it is then.
    pub async fn resume_schedule(&self, name: String) -> Result<ScheduleRow, Refusal> {
        self.change_schedule(ScheduleDeed::Resume { name }).await
    }

    /// Removes a schedule.
    pub async fn unschedule(&self, name: String) -> Result<(), Refusal> {
        self.change_schedule(ScheduleDeed::Remove { name }).await.map(drop)
    }

    /// Queues a schedule's job now; its id is on disk when it returns.
    pub async fn run_schedule(
        &self,
        name: String,
        key: Option<IdempotencyKey>,
        submitter: Submitter,
    ) -> Result<Vec<JobId>, Refusal> {
        self.ask(|reply| Wish::Do(Deed::RunSchedule { name, key, submitter, reply })).await?
    }
}
