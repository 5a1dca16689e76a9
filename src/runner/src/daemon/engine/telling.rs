//! What the log and the figures are told of jobs and schedules: once it is on disk. A fact whose commit failed comes again with the next one,
//! so telling it at once would tell it twice.

use super::correlation::Story;
use super::counting::Begin;
use super::*;
use ci_runner_core::outcome::{AttemptResult, Outcome, Receipt};
use ci_runner_core::state::Next;
use ci_runner_core::time::WallTime;

/// A fact about a job, or a schedule.
#[expect(clippy::large_enum_variant, reason = "it is always behind a box of its own")]
pub(super) enum Telling {
    /// It was queued.
    Queued {
        id: JobId,
        correlation: String,
        submitter: String,
        /// Its name, or the beginning of its command.
        what: String,
    },
    /// An attempt runs.
    Began { about: About, begin: Begin },
    /// An attempt is over.
    Ended { about: About, result: AttemptResult, next: Next, receipt: Option<Receipt> },
    /// It ended without an attempt.
    Dropped { id: JobId, outcome: Outcome },
    /// A run of a schedule could not be queued.
    Refused { schedule: String, why: String },
}

/// Whose attempt it is.
pub(super) struct About {
    pub(super) id: JobId,
    pub(super) attempt: u32,
    /// By the wall clock as it is now.
    pub(super) claimed: WallTime,
    pub(super) pool: String,
    pub(super) executor: Executor,
    pub(super) story: Story,
}

impl Engine {
    /// Puts a fact of the batch into the log and the figures.
    pub(super) fn tell(&mut self, telling: &Telling) {
        // Figures are shown with the next snapshot.
        self.changed = true;
        match telling {
            Telling::Queued { id, correlation, submitter, what } => {
                log::info!(job = id.get(), correlation = correlation.as_str(); "job {id} queued by {submitter}: {what}");
            }
            Telling::Began { about, begin } => {
                self.count_start(&about.pool, begin);
                self.journal_began(about);
                let About { id, attempt, pool, story, .. } = about;
                log::info!(job = id.get(), attempt = *attempt, pool = pool.as_str(), correlation = story.correlation.as_str();
                    "job {id} runs (attempt {attempt}, pool {pool})");
            }
            Telling::Ended { about, result, next, receipt } => {
                self.count_end(about, result, next, *receipt);
                self.journal_ended(about);
                tell_end(about, result, next);
            }
            Telling::Dropped { id, outcome } => {
                self.count_dropped(outcome);
                log::info!(job = id.get(); "job {id} {}", outcome.word());
            }
            Telling::Refused { schedule, why } => {
                self.figures.schedule_refused();
                log::error!("schedule {schedule:?} could not queue its job: {why}");
            }
        }
    }
}

fn tell_end(about: &About, result: &AttemptResult, next: &Next) {
    let About { id, attempt, pool, story, .. } = about;
    let (attempt, pool, correlation) = (*attempt, pool.as_str(), story.correlation.as_str());
    match next {
        Next::Retry { .. } => {
            log::warn!(job = id.get(), attempt = attempt, pool = pool, correlation = correlation;
                "job {id} attempt {attempt}: {result}; it is tried again");
        }
        Next::Finish { outcome: outcome @ Outcome::Succeeded } => {
            log::info!(job = id.get(), attempt = attempt, pool = pool, correlation = correlation; "job {id} {}", outcome.word());
        }
        Next::Finish { outcome } => {
            log::warn!(job = id.get(), attempt = attempt, pool = pool, correlation = correlation;
                "job {id} {}: {result}", outcome.word());
        }
    }
}
