//! Where units are that another process started: PID 1 is asked, and only its word makes "nothing there" a proof.

use std::path::Path;

use super::attempt::State;
use super::cgroup::UnitGroup;
use super::judge::Facts;
use super::names::unit_name;
use super::server::Server;
use crate::daemons::Known;
use crate::protocol::AttemptKey;

impl Server {
    /// Where a unit is by PID 1's word about it.
    pub(super) fn placed(&self, key: &AttemptKey, before: &UnitGroup, facts: &Facts) -> UnitGroup {
        placed(&self.mount, self.manager.root(), &unit_name(key), before, facts)
    }

    /// What a look at a unit without a shim showed.
    pub(super) fn found(&mut self, key: &AttemptKey, facts: &Facts) {
        match self.attempts.get(key) {
            None => self.found_forgotten(key, facts),
            Some(State::Leftovers(leftovers)) => {
                let group = self.placed(key, &leftovers.group, facts);
                if let Some(State::Leftovers(leftovers)) = self.attempts.get_mut(key) {
                    (leftovers.group, leftovers.again_ms) = (group, 0);
                }
            }
            Some(_) => {}
        }
    }

    /// Units that no living attempt needs. What no directory of ours knows may be another spawner's, whose result nobody has read
    /// yet: it is looked at where one of our daemons could have asked for it.
    pub(super) fn release_forgotten(&mut self, keys: Vec<AttemptKey>) {
        for key in keys {
            match self.attempts.get(&key) {
                Some(state) if state.is_alive() => {}
                Some(_) => {
                    self.group(&key).kill();
                    self.release(&key);
                }
                None if self.generations.contains_key(&key.store) => self.manager.look(&key),
                None => {}
            }
        }
    }

    /// Released when it is over and in our slice. Processes in it are another's to judge.
    fn found_forgotten(&mut self, key: &AttemptKey, facts: &Facts) {
        let is_ours = self.generations.contains_key(&key.store) && facts.slice == self.policy.slice;
        let is_empty = || self.placed(key, &self.group(key), facts).is_empty().unwrap_or(false);
        if is_ours && facts.is_over() && is_empty() {
            self.release(key);
        }
    }
}

/// Where PID 1 says; else where it was known to be; else in the slice that PID 1 names. A unit that PID 1 does not have, or that
/// does not run, has no processes wherever it was.
fn placed(mount: &Path, root: &str, unit: &str, before: &UnitGroup, facts: &Facts) -> UnitGroup {
    if let Some(told) = UnitGroup::told(mount, &facts.cgroup) {
        return told;
    }
    if before.is_known() || facts.is_absent() {
        return before.clone().known();
    }
    if !facts.slice.is_empty() {
        return UnitGroup::new(mount, root, &facts.slice, unit).known();
    }
    if facts.active_state == "inactive" { before.clone().known() } else { before.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_word_of_pid_1_makes_nothing_there_a_proof() {
        let mount = Path::new("/sys/fs/cgroup");
        let unit = "u.service";
        let guess = UnitGroup::new(mount, "", "new.slice", unit);
        let of = |load: &str, active: &str, slice: &str, cgroup: &str| Facts {
            load_state: load.to_owned(),
            active_state: active.to_owned(),
            slice: slice.to_owned(),
            cgroup: cgroup.to_owned(),
            ..Facts::default()
        };
        let after = |before: &UnitGroup, facts: &Facts| placed(mount, "/box", unit, before, facts);
        let runs = after(&guess, &of("loaded", "active", "old.slice", "/box/old.slice/u.service"));
        assert_eq!(runs, UnitGroup::new(mount, "/box", "old.slice", unit).known());
        // PID 1 has let go of the cgroup: it still says in which slice that was.
        let failed = of("loaded", "failed", "old.slice", "");
        assert_eq!(after(&guess, &failed), runs);
        assert_eq!(after(&runs, &of("loaded", "failed", "other.slice", "")), runs);
        assert_eq!(after(&guess, &of("not-found", "inactive", "system.slice", "")), guess.clone().known());
        assert_eq!(after(&guess, &of("loaded", "inactive", "", "")), guess.clone().known());
        assert!(!after(&guess, &of("loaded", "active", "", "")).is_known());
    }
}
