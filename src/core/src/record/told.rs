//! What the world tells of the host and no fact of the store says. Whoever knows says it when it changes, not again and again: a record
//! that is made anew while the daemon lives takes all of it over from the one before.

use super::*;

/// What is told of one pool.
#[derive(Clone, Debug)]
pub(super) struct Told {
    /// Which limits can be kept to here; None: nothing may start here.
    pub enforced: Option<Enforced>,
    /// Places that nobody gets: something that no job knows is there.
    pub shut: BTreeSet<u32>,
}

impl Default for Told {
    fn default() -> Self {
        Self { enforced: Some(Enforced::ALL), shut: BTreeSet::new() }
    }
}

impl Record {
    /// Holds what the record before this one had been told, of all pools that both know by name.
    pub fn take_over(&mut self, before: &Record) {
        self.busy.clone_from(&before.busy);
        for pool in &mut self.pools {
            if let Some(known) = before.pools.iter().find(|known| known.name == pool.name) {
                pool.told = known.told.clone();
            }
        }
        self.match_all_pools();
    }
}
