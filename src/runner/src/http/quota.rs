//! How many connections of the unix socket one user may hold: so that no member of the socket's group can shut out the rest.
//!
//! Root and the daemon's own user have none: they are who mends things, and in unprivileged mode there is nobody else. A
//! connection beyond the quota is answered at once, unread, and closed: it may not even wait for its own head, for waiting
//! takes a place.

use super::UNIX_CONNECTIONS_MAX;
use super::problem::Fail;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::net::UnixStream;

/// Connections of one user at once, followers and event streams included: a quarter of all, so that it takes four to fill
/// the socket, and more than a person with two screens full of followers needs.
pub const USER_CONNECTIONS_MAX: usize = UNIX_CONNECTIONS_MAX / 4;
/// When to come back: followers are long, everything else takes milliseconds.
const RETRY_SECONDS: u32 = 1;

/// Who holds how many.
#[derive(Clone, Default)]
pub(super) struct Quota(Arc<Mutex<HashMap<u32, usize>>>);

/// One place of a user's; given back when dropped.
pub(super) struct Held {
    quota: Quota,
    uid: u32,
}

impl Quota {
    /// A place for this user, if one is left.
    pub fn take(&self, uid: u32) -> Option<Held> {
        let mut users = self.users();
        let held = users.entry(uid).or_default();
        if *held >= USER_CONNECTIONS_MAX {
            return None;
        }
        *held += 1;
        drop(users);
        Some(Held { quota: self.clone(), uid })
    }

    fn users(&self) -> MutexGuard<'_, HashMap<u32, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut users = self.quota.users();
        if let Some(held) = users.get_mut(&self.uid) {
            *held -= 1;
            if *held == 0 {
                users.remove(&self.uid);
            }
        }
    }
}

/// Says why; the caller hangs up. Names the user by number: to look a name up for everybody who tries in a loop is work that
/// they can make us do.
pub(super) fn refuse(stream: &UnixStream, uid: u32) {
    let why = format!(
        "uid {uid} holds {USER_CONNECTIONS_MAX} connections, the most that one user may have; end some (`logs -f`, event streams)"
    );
    let answer = Fail::too_many_connections(why, RETRY_SECONDS).raw();
    // The buffer of a new connection takes it whole; a peer that is gone needs no answer.
    let _ = stream.try_write(&answer);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_so_many_places_and_others_have_theirs() {
        let quota = Quota::default();
        let mut held: Vec<Held> = (0..USER_CONNECTIONS_MAX).map(|_| quota.take(7).unwrap()).collect();
        assert!(quota.take(7).is_none());
        assert!(quota.take(8).is_some());
        held.pop();
        held.push(quota.take(7).expect("one was given back"));
        assert!(quota.take(7).is_none());
        drop(held);
        assert!(quota.users().is_empty(), "who is gone leaves nothing behind");
    }
}
