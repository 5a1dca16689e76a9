//! What an installation that did not end leaves to the one that repeats it.
//!
//! Files are compared with files: what came with the try before is as it shall be, and yet nobody enabled, started or reloaded
//! anything for it. So the list of what is ours has this mark, from before the first change until after the last command. It says
//! what was to be changed, which the repeat asks of the service manager as if it changed it itself, and how jobs ran before, who
//! may still run so.

use super::Jobs;
use super::manifest::Manifest;
use super::plan::{Action, Plan};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// The mark.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unfinished {
    /// Files that were not as they should be, since the last installation that ended: what the service manager was not told.
    pub changes: Plan,
    /// [`Manifest::jobs`] of the installation that ended last, and of the tries since.
    pub jobs: BTreeSet<Jobs>,
}

impl Unfinished {
    /// The mark of an installation that begins. One that starts nothing tells the service manager nothing: what waits goes on
    /// waiting.
    pub fn begin(before: Option<&Manifest>, plan: &Plan, starts: bool) -> Unfinished {
        let earlier = before.and_then(|before| before.unfinished.clone()).unwrap_or_default();
        let is_change = |action: &Action| !matches!(action, Action::Same | Action::Keep);
        let changes = match starts {
            true => earlier.untold(plan).into_iter().filter(|(_, action)| is_change(action)).collect(),
            false => earlier.changes,
        };
        Unfinished { changes, jobs: jobs(before) }
    }

    /// The plan, with what earlier tries did, or left half done, as still to be done.
    pub fn untold(&self, plan: &Plan) -> Plan {
        let mut whole = plan.clone();
        for (path, was) in &self.changes {
            let Some(action) = whole.get_mut(path) else { continue };
            *action = match (was, *action) {
                (_, Action::Remove) => Action::Remove,
                // A unit that was to go, and is wanted again, was stopped and disabled all the same.
                (Action::Create | Action::Remove, _) => Action::Create,
                (_, Action::Same | Action::Keep) => Action::Update,
                (_, now) => now,
            };
        }
        whole
    }

    /// What stays of it when the installation has ended.
    pub fn end(self, starts: bool) -> Option<Unfinished> {
        (!starts && !self.changes.is_empty()).then_some(self)
    }
}

/// How jobs ran at the end of the last installation and in the tries since; they may still.
pub fn jobs(before: Option<&Manifest>) -> BTreeSet<Jobs> {
    let tries = before.and_then(|before| before.unfinished.as_ref()).map(|unfinished| &unfinished.jobs);
    tries.into_iter().flatten().copied().chain(before.map(Manifest::jobs)).collect()
}
