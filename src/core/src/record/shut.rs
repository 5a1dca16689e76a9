//! Places of pools that are taken by what no job knows: attempts of jobs that the store forgot.
//!
//! No fact of the store: whoever sees them says so anew. A place that is shut counts as used, so that a host never runs more at once
//! than it has slots; new attempts go to others.

use super::*;

impl Record {
    /// From now on these places are shut, and no others. One of a pool that is not known is passed over.
    pub fn set_shut(&mut self, shut: impl IntoIterator<Item = (PoolId, u32)>) {
        self.pools.iter_mut().for_each(|pool| pool.told.shut.clear());
        for (pool, slot) in shut {
            if let Some(pool) = self.pools.get_mut(usize::from(pool.0)) {
                pool.told.shut.insert(slot);
            }
        }
    }

    /// The number of the pool of this name, if there is one.
    pub fn pool_id(&self, name: &str) -> Option<PoolId> {
        self.pools.iter().position(|pool| pool.name == name).map(pool_id)
    }
}

impl PoolState {
    /// Slots that jobs can have.
    pub(super) fn usable(&self) -> u32 {
        self.slots.saturating_sub(u32::try_from(self.told.shut.len()).unwrap_or(u32::MAX))
    }
}
