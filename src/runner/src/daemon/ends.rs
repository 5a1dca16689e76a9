//! How the jobs that a wish names ended: read before the wish reaches the loop, so that the loop does no work that grows with
//! what a client sends.
//!
//! What is read stays true: a finished job does not change. A job that ends between the reading and its turn is not in it: the
//! loop then looks for itself.

use super::handle::{NewJob, Refusal};
use crate::store::Reader;
use ci_runner_core::id::JobId;
use ci_runner_core::job::Fault;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// Jobs that the jobs of one request may wait for, counted for each of them: the loop takes a request in one turn, and this is
/// some tens of milliseconds.
pub const DEPENDENCIES_MAX: usize = 100_000;
/// So few are left to the loop: a small wish need not wait for what others read.
const FEW: usize = 16;

/// Jobs that had finished: true where they succeeded.
pub type Ends = HashMap<JobId, bool>;

/// What jobs of one request wait for.
pub(super) fn dependencies(jobs: &[NewJob]) -> Result<BTreeSet<JobId>, Refusal> {
    let mut count = 0;
    let mut ids = BTreeSet::new();
    for (index, job) in jobs.iter().enumerate() {
        let after = &job.spec.terms.after;
        count += after.len();
        if count > DEPENDENCIES_MAX {
            let why = format!(
                "up to this job the request has {count} dependencies, at most {DEPENDENCIES_MAX} for all jobs together; send \
                 the jobs in parts, or let one job wait for all and the others for that one"
            );
            return Err(Refusal::Fault { index, fault: Fault { field: "after".to_owned(), why } });
        }
        ids.extend(after.iter().map(|after| after.job));
    }
    Ok(ids)
}

/// Looks many jobs up, on another thread.
pub(super) async fn look_up(reader: &Arc<dyn Reader>, ids: BTreeSet<JobId>) -> Result<Ends, Refusal> {
    if ids.len() <= FEW {
        return Ok(Ends::new());
    }
    let (reader, ids) = (reader.clone(), ids.into_iter().collect::<Vec<_>>());
    match tokio::task::spawn_blocking(move || reader.ended_among(&ids)).await {
        Ok(Ok(ends)) => Ok(ends),
        Ok(Err(error)) => Err(Refusal::Store(super::engine::chain(&error))),
        Err(error) => Err(Refusal::Store(format!("jobs could not be looked up: {error}"))),
    }
}
