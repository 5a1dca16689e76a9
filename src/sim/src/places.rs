//! What the places of the host are like, which neither a configuration nor a fact says: slots that something unknown holds, pools where
//! nothing keeps an attempt to its memory, pools whose executor is not there. A daemon's record is told when they change and when a daemon
//! starts.

use crate::daemon::Daemon;
use crate::mutant::Mutant;
use crate::world::World;
use ci_runner_core::limits::{Enforced, Limits};
use ci_runner_core::policy::{Pool, Settings};
use ci_runner_core::record::Record;
use ci_runner_core::schedule::Permit;
use std::collections::BTreeSet;
use std::rc::Rc;

/// What is out of order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// Slots that are shut, with the names of their pools.
    pub shut: BTreeSet<(String, u32)>,
    /// Pools where nothing enforces a limit of memory.
    pub loose: BTreeSet<String>,
    /// Pools whose executor is down.
    pub down: BTreeSet<String>,
}

impl Places {
    /// Slots of a pool that are shut.
    pub fn shut_in(&self, pool: &str) -> usize {
        self.shut.iter().filter(|(name, _)| name == pool).count()
    }

    /// Slots of a pool that jobs can have.
    pub fn usable(&self, pool: &str, slots: u32) -> usize {
        (slots as usize).saturating_sub(self.shut_in(pool))
    }

    /// Whether attempts with these limits can be kept to them in a pool, and to the pool's own.
    pub fn keep_to(&self, limits: &Limits, pool: &Pool) -> bool {
        let asks = limits.memory_bytes.or(pool.defaults.memory_bytes).is_some();
        !asks || !self.loose.contains(&pool.name)
    }

    /// Tells a record.
    pub fn tell(&self, record: &mut Record, settings: &Settings) {
        let shut: Vec<_> = self.shut.iter().filter_map(|(pool, slot)| Some((record.pool_id(pool)?, *slot))).collect();
        record.set_shut(shut);
        for pool in record.pool_ids() {
            let name = record.pool_name(pool);
            let configured = settings.pools.iter().find(|one| one.name == name);
            let own = configured.is_some_and(|one| !self.keep_to(&Limits::NONE, one));
            let enforced = Enforced { memory: !self.loose.contains(name), ..Enforced::ALL };
            // A pool whose own limits cannot be enforced starts nothing.
            record.set_enforced(pool, (!own).then_some(enforced));
        }
    }
}

impl World {
    /// What a daemon is told of the places; here are the mutants that forget some of it.
    pub(crate) fn tell_places(&self, daemon: &mut Daemon) {
        daemon.places = self.places.clone();
        let mut told = (*self.places).clone();
        match self.mutant {
            Some(Mutant::ForgetShut) => told.shut.clear(),
            Some(Mutant::ForgetLoose) => told.loose.clear(),
            _ => {}
        }
        told.tell(&mut daemon.record, &daemon.settings);
        daemon.wake = true;
    }

    /// The places are like this from now on.
    pub(crate) fn change_places(&mut self, places: Places) {
        self.places = Rc::new(places);
        if let Some(mut daemon) = self.daemon.take() {
            self.tell_places(&mut daemon);
            self.daemon = Some(daemon);
        }
    }

    /// Where claims may be made: in pools whose executor is there.
    pub(crate) fn permit(&self, daemon: &Daemon) -> Permit {
        let epoch = daemon.epoch.clone().filter(|_| daemon.up && !daemon.stopping);
        let is_up = |name: &str| !daemon.places.down.contains(name) || self.is(Mutant::ForgetDown);
        let epoch_in = |name: &str| epoch.clone().filter(|_| is_up(name));
        let record = &daemon.record;
        let claim_in = record.pool_ids().map(|pool| (pool, epoch_in(record.pool_name(pool)))).collect();
        // As the daemon does it: no pool is left to what holds for most.
        Permit { claim: None, claim_in, changes_max: Self::CHANGES_MAX, drops_max: Some(Self::DROPS_MAX) }
    }
}
