//! Correlation ids for the log: every record of an attempt carries its job's, so that one search tells one story.
//!
//! The record of open jobs does not hold them, it is kept small. They come along when an attempt is started, and are read from
//! the store for attempts that an earlier daemon started. What cannot be read costs the field, never the log record.

use super::*;

/// Whose log record it is.
pub(super) struct About<'a> {
    pub(super) id: JobId,
    pub(super) attempt: u32,
    pub(super) pool: &'a str,
    pub(super) executor: Executor,
    pub(super) correlation: &'a str,
}

impl Engine {
    /// The job's correlation id; empty when nobody knows it.
    pub(super) fn correlation(&mut self, id: JobId) -> String {
        if let Some(known) = self.correlations.get(&id) {
            return known.clone();
        }
        let read = self.reader.job(id).ok().flatten().map(|job| job.spec.correlation).unwrap_or_default();
        self.correlations.insert(id, read.clone());
        read
    }
}
