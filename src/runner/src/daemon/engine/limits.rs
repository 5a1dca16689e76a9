//! Limits of attempts: what each spawner can make them keep to, what that means for pools, and what a start says.

use super::*;
use crate::config::PoolLimits;
use ci_runner_core::id::PoolId;
use ci_runner_core::job::{Fault, Terms};
use ci_runner_core::limits::{Enforced, Limits};
use ci_runner_spawner::protocol;

/// The problem's name.
const PROBLEM: &str = "limits";

impl Engine {
    /// Brings the record in line with what the spawners say they can enforce. A pool whose own limits nobody can enforce
    /// starts nothing and is a problem: they are never left out in silence.
    pub(super) fn tell_enforced(&mut self) {
        let mut problems = Vec::new();
        let pools: Vec<String> = self.record.pools().map(|pool| pool.name).collect();
        for (number, name) in (0u16..).zip(&pools) {
            let executor = self.host.executor_of(name);
            let Some(can) = self.sides.get(executor).and_then(|side| side.enforces.clone()) else { continue };
            let limits = self.host.pools.get(name).map(|pool| pool.limits.clone()).unwrap_or_default();
            let lacking = start_limits(&limits.defaults, &limits).lacks(&can);
            if let Some(lacking) = lacking {
                problems.push(format!("pool {name}: no controller {lacking} ({})", can.why_not));
            }
            let enforced = Enforced { memory: can.memory, cpu: can.cpu, pids: can.pids };
            self.record.set_enforced(PoolId(number), lacking.is_none().then_some(enforced));
        }
        if problems.is_empty() {
            self.problems.remove(PROBLEM);
            return;
        }
        let text = format!(
            "limits that the configuration gives to pools cannot be enforced, so nothing starts there: {}; mend it, or take \
             the limits out",
            problems.join("; ")
        );
        if self.problems.insert(PROBLEM, text.clone()).as_ref() != Some(&text) {
            log::error!("{text}");
        }
    }

    /// A limit that nothing here can enforce is refused, not forgotten.
    pub(super) fn check_enforceable(&self, terms: &Terms) -> Result<(), Fault> {
        let Some((resource, pool)) = self.record.unenforceable(terms) else { return Ok(()) };
        let pool = self.record.pool_name(pool);
        let side = self.sides.get(self.host.executor_of(pool));
        let why = side.and_then(|side| side.enforces.as_ref()).map_or("", |can| can.why_not.as_str());
        let why = format!("nothing on this host enforces it (pool {pool}: {why}); leave it out, or mend that");
        Err(Fault { field: resource.word().to_owned(), why })
    }

    /// What a start of this attempt says.
    pub(super) fn limits_of_start(&self, limits: &Limits, pool: &str) -> protocol::Limits {
        let none = PoolLimits::default();
        start_limits(limits, self.host.pools.get(pool).map_or(&none, |pool| &pool.limits))
    }
}

fn start_limits(limits: &Limits, pool: &PoolLimits) -> protocol::Limits {
    protocol::Limits {
        memory_max: limits.memory_bytes,
        memory_high: pool.memory_high,
        // A limit of memory that lets the rest go to the disk would be none.
        swap_max: pool.swap.or(limits.memory_bytes.map(|_| 0)),
        cpu_milli: limits.cpu_milli,
        cpu_weight: pool.cpu_weight,
        pids_max: limits.pids,
        io_weight: pool.io_weight,
    }
}
