//! In which pools something may be started: those whose executor this daemon has a spawner of.
//!
//! The ways to the spawners are made at the start. A pool to which a reload gives an executor that none had by then starts nothing
//! until a restart: another executor would run its jobs without the sandbox, or as another user, than the pool is there for.

use super::*;
use ci_runner_core::explain::Reason;
use ci_runner_core::schedule::Permit;

/// The problem's name.
const PROBLEM: &str = "executors";

impl Engine {
    /// Where claims may be made: in pools whose executor's spawner is connected and has told what it has.
    pub(super) fn permit(&self, now: Now) -> Permit {
        let may = !self.stopping && self.knows_host(now);
        let epoch = |pool| self.epoch_in(pool).filter(|_| may).cloned();
        let claim_in = self.record.pool_ids().map(|pool| (pool, epoch(pool))).collect();
        // No pool is left to what holds for most: there is none for which another executor than its own will do.
        Permit { claim: None, claim_in, changes_max: CHANGES_PER_TURN, drops_max: Some(self.room_in_batch()) }
    }

    /// By whom jobs of a pool are run, as it is configured now.
    pub(super) fn executor_in(&self, pool: PoolId) -> Executor {
        self.host.executor_of(self.record.pool_name(pool))
    }

    /// What attempts begin under in a pool; None: nothing can be started there just now.
    fn epoch_in(&self, pool: PoolId) -> Option<&Epoch> {
        self.sides.get(self.executor_in(pool)).filter(|side| side.takes_starts())?.epoch.as_ref()
    }

    /// Whether something can be started in a pool just now.
    pub(super) fn is_claimed_in(&self, pool: PoolId) -> bool {
        self.epoch_in(pool).is_some()
    }

    /// Says of a pool that its executor came into use after the start.
    fn closed_pool(&self, pool: PoolId) -> Option<String> {
        let executor = self.executor_in(pool);
        let name = self.record.pool_name(pool);
        self.sides.get(executor).is_none().then(|| {
            format!(
                "nothing starts in the pool {name} until the daemon is restarted: its executor {} is new since the daemon started",
                executor.name()
            )
        })
    }

    /// Pools that wait for a restart are a problem.
    pub(super) fn tell_executors(&mut self) {
        let configured =
            self.record.pool_ids().filter(|pool| self.host.pools.contains_key(self.record.pool_name(*pool)));
        let closed: Vec<String> = configured.filter_map(|pool| self.closed_pool(pool)).collect();
        if closed.is_empty() {
            self.problems.remove(PROBLEM);
            return;
        }
        let text = closed.join("; ");
        if self.problems.insert(PROBLEM, text.clone()).as_ref() != Some(&text) {
            log::error!("{text}");
        }
    }

    /// The same for a job that waits; nothing where another pool takes it.
    pub(super) fn closed_pools_of(&self, id: JobId) -> Vec<String> {
        let pools = self.record.pools_of(id);
        let closed: Vec<String> = pools.iter().filter_map(|pool| self.closed_pool(*pool)).collect();
        if closed.len() == pools.len() { closed } else { Vec::new() }
    }

    /// What is in the way of a queued job that the record knows nothing of is not `Next`.
    pub(super) fn settle_next(&self, id: JobId, reasons: &mut Vec<Reason>, trouble: &[String]) {
        let is_claimed = self.record.pools_of(id).iter().any(|pool| self.is_claimed_in(*pool));
        if !is_claimed && !trouble.is_empty() {
            reasons.retain(|reason| *reason != Reason::Next);
        }
    }
}
