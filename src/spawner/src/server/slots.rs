//! Which slots and users are in use.
//!
//! A user is not told by its slot: the policy may have changed since the attempt began. The attempt says whose it is; of one
//! that an earlier version started, its directory does, which belongs to its user from before it begins until it has ended.

use rustix::fs::{AtFlags, CWD};

use super::Server;
use super::attempt::State;
use crate::attempts::{Identity, Owner};
use crate::dirs::{Dirs, slot_place};
use crate::policy_file::User;
use crate::protocol::{AttemptKey, Start, names};
use crate::sys;

impl Server {
    /// The slot of a start and, for a service of root, its user.
    pub(super) fn choose_slot(&self, start: &Start, dirs: &Dirs) -> Result<(String, Option<User>), String> {
        if let Some(policy) = &self.service {
            let is_unknown = |(key, state): (&AttemptKey, &State)| {
                matches!(state, State::Unidentified { .. }) && !self.users.contains_key(key)
            };
            if self.attempts.iter().any(is_unknown) {
                return Err("an attempt that runs has not yet said which user is its".to_owned());
            }
            let is_free = |uid| !self.users.values().flatten().any(|used| *used == uid);
            let since = |uid| is_free(uid).then(|| self.refused_ms.get(&uid).copied());
            let (slot, user) = policy.choose(start, |slot| self.slots.contains_key(slot), since)?;
            return Ok((slot, Some(user.clone())));
        }
        let slot = dirs.slot_of(start);
        match self.slots.get(&slot) {
            Some(holder) => Err(format!("slot {}-{} is still in use by attempt {holder}", start.pool, start.slot)),
            None => Ok((slot, None)),
        }
    }

    /// Nobody else may start there, or as its user. An empty name is of a shim that had not said which slot is its.
    pub(super) fn hold_slot(&mut self, identity: &Identity, key: &AttemptKey) {
        if !identity.slot.is_empty() {
            self.slots.entry(identity.slot.clone()).or_insert_with(|| key.clone());
            self.hold_users(identity, key);
        }
    }

    /// Nobody else may start as its user. One that does not say holds whom its directory belongs to and, as long as it may not
    /// have come to take that, whom its slot has now as well.
    pub(super) fn hold_users(&mut self, identity: &Identity, key: &AttemptKey) {
        let Some(policy) = &self.service else { return };
        let users = match identity.owner {
            Some(owner) => vec![owner.uid],
            None => {
                let owner = self.owner_of_directory(identity).map(|owner| owner.uid);
                let began = matches!(self.shared.attempts.has(key, names::BEGAN), Ok(true));
                let now = policy.user_of(&identity.slot).map(|user| user.uid).filter(|_| !began || owner.is_none());
                owner.into_iter().chain(now).collect()
            }
        };
        self.users.insert(key.clone(), users);
    }

    /// An attempt did start, or could not: perhaps its user cannot be used now, and the next one gets another.
    pub(super) fn note_start_of_users(&mut self, key: &AttemptKey, did: bool) {
        for uid in self.users.get(key).into_iter().flatten() {
            if did {
                self.refused_ms.remove(uid);
            } else {
                self.refused_ms.insert(*uid, sys::boottime_ms());
            }
        }
    }

    pub(super) fn release_slot(&mut self, slot: &str, key: &AttemptKey) {
        if self.slots.get(slot) == Some(key) {
            self.slots.remove(slot);
        }
        self.users.remove(key);
    }

    /// Whose an attempt that began is, where jobs have users.
    pub(super) fn user_of(&self, identity: &Identity) -> Option<User> {
        let policy = self.service.as_ref()?;
        let Some(Owner { uid, gid }) = identity.owner.or_else(|| self.owner_of_directory(identity)) else {
            return policy.user_of(&identity.slot).cloned();
        };
        Some(User { name: format!("user {uid}"), uid, gid, home: "/".into() })
    }

    /// Only root makes directories there, and gives each to the user of its job.
    fn owner_of_directory(&self, identity: &Identity) -> Option<Owner> {
        let (root, name) = slot_place(&self.shared.dirs.tmp_dir, &identity.slot);
        let stat = rustix::fs::statat(CWD, root.join(name), AtFlags::SYMLINK_NOFOLLOW).ok()?;
        (stat.st_uid != 0).then_some(Owner { uid: stat.st_uid, gid: stat.st_gid })
    }
}
