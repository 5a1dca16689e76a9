//! Whose output goes into the journal: the loop only says who runs and who has ended, once that is on disk.

use super::telling::About;
use super::*;
use crate::telemetry::output::Source;
use ci_runner_core::time::WallTime;

impl Engine {
    /// Tells of attempts that an earlier daemon started.
    pub(super) fn journal_known(&mut self) {
        if self.output.is_none() {
            return;
        }
        let now = self.clock.now();
        let running: Vec<(JobId, u32, WallTime, String)> = self
            .record
            .leases()
            .filter(|(_, lease)| lease.started.is_some())
            .map(|(id, lease)| {
                (id, lease.attempt.0, wall_of(now, lease.claimed), self.record.pool_name(lease.pool).to_owned())
            })
            .filter(|(.., pool)| self.is_journaled(pool))
            .collect();
        for (id, attempt, claimed, pool) in running {
            let correlation = self.story(id).correlation;
            let source = Source { job: id.get(), attempt, pool, correlation, claimed_wall_ms: claimed.0 };
            self.output.iter().for_each(|output| output.began(source.clone()));
        }
        self.output.iter().for_each(crate::telemetry::output::Output::known);
    }

    /// An attempt runs.
    pub(super) fn journal_began(&self, about: &About) {
        if let Some(output) = self.output.as_ref().filter(|_| self.is_journaled(&about.pool)) {
            output.began(source(about));
        }
    }

    /// An attempt is over: its log is complete.
    pub(super) fn journal_ended(&self, about: &About) {
        if let Some(output) = &self.output {
            output.ended(source(about), self.is_journaled(&about.pool));
        }
    }

    fn is_journaled(&self, pool: &str) -> bool {
        self.host.pools.get(pool).is_some_and(|pool| pool.journal)
    }
}

/// What the wall clock, as it is now, said then.
pub(super) fn wall_of(now: Now, then: Instant) -> WallTime {
    WallTime(now.wall.0.saturating_sub_unsigned(now.engine.since_ms(then)))
}

fn source(about: &About) -> Source {
    Source {
        job: about.id.get(),
        attempt: about.attempt,
        pool: about.pool.clone(),
        correlation: about.story.correlation.clone(),
        claimed_wall_ms: about.claimed.0,
    }
}
