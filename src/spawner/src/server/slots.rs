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
use crate::tmpdir;

impl Server {
    /// The slot of a start and, for a service of root, its user.
    pub(super) fn choose_slot(&self, start: &Start, dirs: &Dirs) -> Result<(String, Option<User>), String> {
        if let Some(policy) = &self.service {
            if let Some(why) = self.who_may_be_anybody() {
                return Err(why);
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

    /// Why no user is known to be free: an attempt counts as alive, and whose it is cannot be told. It says which, where that
    /// is to be seen, and what ends it.
    fn who_may_be_anybody(&self) -> Option<String> {
        let unknown = self.attempts.iter().filter_map(|(key, state)| match state {
            State::Unidentified { failure, .. } if !self.users.contains_key(key) => Some((key, failure)),
            _ => None,
        });
        // One that only has not said it yet will, as a rule.
        let (key, failure) = unknown.max_by_key(|(_, failure)| failure.is_some())?;
        let dir = self.home.path.join(names::ATTEMPTS_DIR).join(key.to_string());
        let dir = dir.display();
        Some(match failure {
            Some(failure) => format!(
                "attempt {key} counts as running and its user is not known, for {dir}/lock cannot be looked at: {failure}; \
                 mend that, or remove {dir} when nothing of the attempt runs any more"
            ),
            None => format!(
                "attempt {key} runs and has not yet said which user is its: {dir}/lock is to say so; if it never does, end the \
                 process that has that file open"
            ),
        })
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

    /// Only root makes directories there, and gives the one in it to the user of its job; an earlier version gave the slot's.
    fn owner_of_directory(&self, identity: &Identity) -> Option<Owner> {
        let (root, name) = slot_place(&self.shared.dirs.tmp_dir, &identity.slot);
        let stats = tmpdir::paths(&root.join(name));
        let stats = stats.iter().filter_map(|path| rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW).ok());
        stats.map(|stat| Owner { uid: stat.st_uid, gid: stat.st_gid }).find(|owner| owner.uid != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::service::tests::{policy, start};
    use crate::server::takeover::tests::server;

    /// A service of root with two users, in a directory of its own.
    fn service() -> (tempfile::TempDir, Server) {
        let dir = tempfile::tempdir().expect("a directory");
        let mut server = server(dir.path());
        server.service = Some(policy());
        (dir, server)
    }

    fn chosen(server: &Server) -> Result<(String, u32), String> {
        let (slot, user) = server.choose_slot(&start("default", 0), &server.shared.dirs.clone())?;
        Ok((slot, user.expect("a user").uid))
    }

    fn key() -> AttemptKey {
        "0123abcd-7-1".parse().expect("a key")
    }

    #[test]
    fn attempts_hold_their_users_over_a_change_of_the_policy() {
        let (_dir, mut server) = service();
        let identity = |uid| Identity {
            slot: "default-0".to_owned(),
            owner: Some(Owner { uid, gid: uid }),
            ..Identity::default()
        };
        server.hold_slot(&identity(901), &key());
        assert_eq!(chosen(&server), Ok(("default-1".to_owned(), 900)));
        server.release_slot("default-0", &key());
        assert_eq!(chosen(&server), Ok(("default-0".to_owned(), 900)));
        // Of an earlier version.
        server.hold_slot(&Identity { owner: None, ..identity(0) }, &key());
        assert_eq!(chosen(&server), Ok(("default-1".to_owned(), 901)));
        server.release_slot("default-0", &key());
        // Nobody knows whose it is.
        let state = State::Unidentified { again_ms: 0, pause_ms: 0, wish: None, shim: None, failure: None };
        server.attempts.insert(key(), state);
        let why = chosen(&server).expect_err("refused");
        assert!(why.contains("attempt 0123abcd-7-1 runs and has not yet said"), "{why}");
        server.hold_users(&identity(900), &key());
        assert_eq!(chosen(&server), Ok(("default-1".to_owned(), 901)));
    }

    /// All starts wait for it, and it was not named: nobody could mend it.
    #[test]
    fn an_attempt_that_cannot_be_looked_at_is_named_with_its_path() {
        let (dir, mut server) = service();
        server.shared.attempts.make(&key()).expect("made");
        let lock = dir.path().join("run/spawner/attempts/0123abcd-7-1/lock");
        std::fs::create_dir(&lock).expect("made");
        let hasty = State::Unidentified { again_ms: 0, pause_ms: 0, wish: None, shim: None, failure: None };
        server.attempts.insert("0123abcd-8-1".parse().expect("a key"), hasty);
        server.look_at(&key());
        let why = chosen(&server).expect_err("refused");
        let named = format!("attempt 0123abcd-7-1 counts as running and its user is not known, for {}", lock.display());
        assert!(why.starts_with(&named) && why.contains("Is a directory") && why.contains("mend that"), "{why}");
        assert_eq!(crate::record::shortened(&why), why, "a daemon hears all of it");
        // The control: it was that attempt, and what is said to be done helps.
        server.attempts.remove(&"0123abcd-8-1".parse::<AttemptKey>().expect("a key"));
        std::fs::remove_dir_all(lock.parent().expect("a directory")).expect("removed");
        server.look_at(&key());
        assert_eq!(chosen(&server), Ok(("default-0".to_owned(), 900)));
    }
}
