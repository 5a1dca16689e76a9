//! What a spawner knows beyond the store: its state was put back from an older copy while the runtime directory stayed.
//!
//! The attempts it tells of are of jobs that the store has forgotten. A new job with such an id would be answered with the
//! other's result and never run, so ids go on behind them, and an attempt that is there already is never claimed as new.

use super::*;

/// Name of the trouble among the host's.
const PROBLEM: &str = "state";

impl Engine {
    /// Takes an attempt that no job of the store can have had. It is left alone, and people are told.
    pub(super) fn saw_beyond(&mut self, id: JobId, key: &AttemptKey) {
        let highest = self.beyond.entry(id).or_default();
        *highest = key.attempt.max(*highest);
        self.record.set_last_id(id.get());
        log::warn!(job = id.get(); "attempt {key} is of our store, but no job knows it: left alone");
        let text = format!(
            "the spawner has attempts that the store does not know, such as {key}: the state was put back from an older copy. \
             New jobs get ids behind theirs, and they are left alone until the daemon starts again; `ci-runner restore` \
             puts back a state without mixing it with what ran since"
        );
        self.problems.entry(PROBLEM).or_insert(text);
    }

    /// Why this attempt may not be started: another had its name.
    pub(super) fn is_beyond(&self, id: JobId, attempt: u32) -> Option<String> {
        let taken = self.beyond.get(&id).is_some_and(|highest| attempt <= *highest);
        taken.then(|| {
            "an attempt of this name ran already, before the state was put back from an older copy; `ci-runner retry` \
             queues the job anew"
                .to_owned()
        })
    }
}
