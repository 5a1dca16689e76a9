//! Correlation ids for the log: every record of an attempt carries its job's, so that one search tells one story. With them the
//! names, by which successes are told.
//!
//! The record of open jobs does not hold them, it is kept small. They come along when an attempt is started, and are read from
//! the store for attempts that an earlier daemon started. What cannot be read costs the field, never the log record.

use super::*;

/// What the record does not hold of a job with an open attempt.
#[derive(Clone, Default)]
pub(super) struct Story {
    /// Empty when nobody knows it.
    pub(super) correlation: String,
    pub(super) name: Option<String>,
}

impl Story {
    pub(super) fn of(spec: ci_runner_core::job::JobSpec) -> Self {
        Self { correlation: spec.correlation, name: spec.name }
    }
}

impl Engine {
    /// The job's story; an empty one when nobody knows it.
    pub(super) fn story(&mut self, id: JobId) -> Story {
        if let Some(known) = self.stories.get(&id) {
            return known.clone();
        }
        let read = self.reader.job(id).ok().flatten().map(|job| Story::of(job.spec)).unwrap_or_default();
        self.stories.insert(id, read.clone());
        read
    }
}
