//! Mutants whose bug would be in the schedule: a wrong claim is made beside the right ones.

use crate::daemon::Daemon;
use crate::mutant::Mutant;
use crate::world::World;
use ci_runner_core::change::{Change, Entry};
use ci_runner_core::explain::Reason;
use ci_runner_core::id::{AttemptNumber, JobId, PoolId};
use ci_runner_core::schedule::Permit;
use ci_runner_core::state::{Event, Phase};

impl World {
    pub(crate) fn misdecide(&mut self, daemon: &mut Daemon, permit: &Permit, before: bool) {
        let epoch = permit.claim_in.values().flatten().next().cloned();
        let (Some(mutant), Some(epoch)) = (self.mutant, epoch) else { return };
        if (mutant == Mutant::YoungestFirst) != before || daemon.record.paused().is_some() {
            return;
        }
        daemon.record.advance(self.clock.now(&daemon.base));
        let mut ids: Vec<JobId> = daemon.record.ids().collect();
        if mutant == Mutant::YoungestFirst {
            ids.reverse();
        }
        for id in ids {
            if daemon.record.phase(id) != Some(Phase::Queued) {
                continue;
            }
            let Some(pool) = self.tempting(daemon, permit, id, mutant) else { continue };
            let taken: Vec<u32> =
                daemon.record.leases().filter(|(_, lease)| lease.pool == pool).map(|(_, lease)| lease.slot).collect();
            let shut = |slot: u32| daemon.places.shut.contains(&(daemon.record.pool_name(pool).to_owned(), slot));
            let Some(slot) = (0..64).find(|slot| !taken.contains(slot) && !shut(*slot)) else { continue };
            let attempt = AttemptNumber(daemon.record.last_attempt(id).unwrap_or(0) + 1);
            let limits = daemon.record.limits_in(id, pool).unwrap_or_default();
            let event = Event::Claimed { attempt, pool, slot, epoch, limits };
            let entry = Entry { at: daemon.record.now(), change: Change::Job { id, event } };
            if let Err(illegal) = daemon.push(entry) {
                self.truth.violate("only_legal_transitions", illegal);
            }
            return;
        }
    }

    /// Where the mutant would claim this job, if it would.
    fn tempting(&self, daemon: &Daemon, permit: &Permit, id: JobId, mutant: Mutant) -> Option<PoolId> {
        let record = &daemon.record;
        let reasons = record.explain(id)?;
        let [reason] = &reasons[..] else { return None };
        let starting = |job: &JobId| record.phase(*job) == Some(Phase::Starting);
        let wanted = match (mutant, reason) {
            (Mutant::GroupFreeWhileStarting, Reason::Group { holders, ahead: 0, .. }) => {
                !holders.is_empty() && holders.iter().all(starting)
            }
            (Mutant::IgnoreHold, Reason::Held { .. }) | (Mutant::IgnoreLabels, Reason::NoPool { pool: None, .. }) => {
                true
            }
            (Mutant::DependencyReleasedOnClaim, Reason::WaitsFor { phase, .. }) => *phase != Some(Phase::Queued),
            (Mutant::YoungestFirst, Reason::Next | Reason::Behind { .. })
            | (Mutant::IgnoreTime, Reason::NotBefore(_) | Reason::Delayed { .. }) => true,
            (Mutant::SlotFreeWhileStopping, Reason::NoSlot { pools }) => {
                let holders = pools.iter().flat_map(|(_, _, holders)| holders);
                holders.clone().any(|job| record.phase(*job) == Some(Phase::Stopping))
            }
            (Mutant::SlotsOffByOne, Reason::NoSlot { .. })
            | (Mutant::PromiseTwice, Reason::Resources(_))
            | (Mutant::LetOthersPass, Reason::MakesWay { .. }) => true,
            _ => false,
        };
        if !wanted {
            return None;
        }
        let row = self.store.rows.get(&id);
        let maxima = |name: &str| {
            let pool = daemon.settings.pools.iter().find(|pool| pool.name == name);
            pool.map(|pool| pool.maxima).unwrap_or_default()
        };
        let fits = |name: &str, labels: &[ci_runner_core::labels::Label]| {
            mutant == Mutant::IgnoreLabels
                || row.is_some_and(|row| {
                    row.terms.pool.as_ref().is_none_or(|pool| pool == name)
                        && row.terms.labels.iter().all(|label| labels.contains(label))
                        && row.terms.limits.beyond(&maxima(name)).is_none()
                })
        };
        let usable = |name: &str, slots| u32::try_from(daemon.places.usable(name, slots)).unwrap_or(u32::MAX);
        let room = |used: u32, slots: u32| match mutant {
            Mutant::SlotFreeWhileStopping | Mutant::SlotsOffByOne => slots > 0 && used <= slots,
            _ => used < slots,
        };
        let is_up = |pool: PoolId| permit.claim_in.get(&pool).is_some_and(Option::is_some);
        let pools = record.pool_ids().zip(record.pools()).filter(|(pool, _)| is_up(*pool));
        let mut fitting = pools.filter(|(_, pool)| {
            fits(&pool.name, &pool.labels) && room(pool.used + pool.claimed, usable(&pool.name, pool.slots))
        });
        fitting.next().map(|(pool, _)| pool)
    }
}
