//! What was visited: every row of the recovery table, and every fault.

use ci_runner_core::reconcile::{Observation, Seen, Step};
use ci_runner_core::state::Phase;
use std::collections::BTreeMap;

/// Rows of the recovery table on the promises page, one for each phase that a row names.
pub const ROWS: [&str; 24] = [
    "starting | alive | same: adopt",
    "running | alive | same: adopt",
    "starting | exit record | same: record it",
    "running | exit record | same: record it",
    "stopping | exit record | same: the stop reason decides",
    "starting | never began | same: start the same attempt",
    "starting | began, nothing left | same: lost",
    "running | began, nothing left | same: lost",
    "starting | processes left | same: kill until empty",
    "running | processes left | same: kill until empty",
    "stopping | processes left | same: kill until empty",
    "stopping | alive | same: go on, grace left",
    "stopping | alive | same: go on, kill",
    "stopping | never began | same: void",
    "stopping | voided | same: the stop reason decides",
    "starting | exit record | other: record it",
    "running | exit record | other: record it",
    "stopping | exit record | other: record it",
    "open | something lives | other: kill what is left",
    "starting | otherwise | other: lost with the host",
    "running | otherwise | other: lost with the host",
    "stopping | otherwise | other: lost with the host",
    "none | old directory | any: clean up only",
    "no row | our store id | any: report",
];

/// Faults that a campaign must have seen.
pub const FAULTS: [&str; 22] = [
    "fault: daemon crashed",
    "fault: daemon stopped in order",
    "fault: commit in flight was kept",
    "fault: commit in flight was lost",
    "fault: commit refused",
    "fault: commit reply lost",
    "fault: wall clock set",
    "fault: reboot, directory gone",
    "fault: reboot, directory kept",
    "fault: record torn",
    "fault: directory emptied",
    "fault: spawner killed",
    "fault: shim killed",
    "fault: shim stopped",
    "fault: fork failed",
    "fault: message lost",
    "fault: message doubled",
    "fault: configuration changed",
    "fault: start doubled",
    "fault: slot shut",
    "fault: memory not enforced",
    "fault: executor down",
];

/// Claims that a campaign must have seen: what is out of order in one place leaves the others.
pub const CLAIMS: [&str; 3] =
    ["claim: beside a slot that is shut", "claim: where memory is not enforced", "claim: while an executor is down"];

/// A start that the spawner refused.
pub const REFUSED: &str = "start: refused";

/// Counters.
#[derive(Clone, Debug, Default)]
pub struct Coverage(pub BTreeMap<&'static str, u64>);

impl Coverage {
    /// One visit more.
    pub fn hit(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }

    /// Adds another's.
    pub fn add(&mut self, other: &Self) {
        for (what, times) in &other.0 {
            *self.0.entry(what).or_default() += times;
        }
    }

    /// What was not visited.
    pub fn missing(&self) -> Vec<&'static str> {
        ROWS.iter()
            .chain(&FAULTS)
            .chain(&CLAIMS)
            .chain([&REFUSED])
            .filter(|what| !self.0.contains_key(*what))
            .copied()
            .collect()
    }

    pub(crate) fn judged(&mut self, phase: Option<Phase>, look: &Observation, unsent: bool, known: bool, step: &Step) {
        let Some(phase) = phase else {
            match step {
                Step::Report if !known => self.hit(ROWS[23]),
                Step::Forget | Step::Kill => self.hit(ROWS[22]),
                _ => {}
            }
            return;
        };
        let row = match (look.same_epoch, phase, &look.seen) {
            (true, Phase::Starting, Seen::Alive) => 0,
            (true, Phase::Running, Seen::Alive) => 1,
            (true, Phase::Starting, Seen::Ended(_)) => 2,
            (true, Phase::Running, Seen::Ended(_)) => 3,
            (true, Phase::Stopping, Seen::Ended(_)) => 4,
            (true, Phase::Starting, Seen::Absent | Seen::NotBegan) if *step == Step::Start && !unsent => 5,
            (true, Phase::Starting, Seen::Gone) => 6,
            (true, Phase::Running, Seen::Gone) => 7,
            (true, Phase::Starting, Seen::Leftovers) => 8,
            (true, Phase::Running, Seen::Leftovers) => 9,
            (true, Phase::Stopping, Seen::Leftovers) => 10,
            (true, Phase::Stopping, Seen::Alive) if *step == Step::Kill => 12,
            (true, Phase::Stopping, Seen::Alive) => 11,
            (true, Phase::Stopping, Seen::Absent | Seen::NotBegan) if *step == Step::Void => 13,
            (true, Phase::Stopping, Seen::Voided) => 14,
            (false, Phase::Starting, Seen::Ended(_)) => 15,
            (false, Phase::Running, Seen::Ended(_)) => 16,
            (false, Phase::Stopping, Seen::Ended(_)) => 17,
            (false, _, Seen::Alive | Seen::Leftovers) => 18,
            (false, Phase::Starting, _) if !unsent => 19,
            (false, Phase::Running, _) => 20,
            (false, Phase::Stopping, _) => 21,
            _ => return,
        };
        self.hit(ROWS[row]);
    }
}
