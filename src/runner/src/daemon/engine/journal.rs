//! Whose output goes into the journal: the loop only says who runs and who has ended, once that is on disk.

use super::telling::About;
use super::*;
use crate::telemetry::output::Source;

impl Engine {
    /// Tells of attempts that an earlier daemon started.
    pub(super) fn journal_known(&mut self) {
        if self.output.is_none() {
            return;
        }
        let running: Vec<(JobId, u32, String)> = self
            .record
            .leases()
            .filter(|(_, lease)| lease.started.is_some())
            .map(|(id, lease)| (id, lease.attempt.0, self.record.pool_name(lease.pool).to_owned()))
            .filter(|(_, _, pool)| self.is_journaled(pool))
            .collect();
        for (id, attempt, pool) in running {
            let source = Source { job: id.get(), attempt, pool, correlation: self.story(id).correlation };
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

fn source(about: &About) -> Source {
    Source {
        job: about.id.get(),
        attempt: about.attempt,
        pool: about.pool.clone(),
        correlation: about.story.correlation.clone(),
    }
}
