//! What one user may hold of what larger bodies and answers share: so that no member of the socket's group can hold up the rest.
//!
//! As with connections (`quota.rs`) root and the daemon's own user have no bound: they are who mends things.

use super::problem::Fail;
use super::{Peer, Role};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// A part of everything for each user.
pub(super) struct OwnParts {
    part_kib: usize,
    users: Mutex<HashMap<u32, Arc<Semaphore>>>,
}

impl OwnParts {
    /// So many bytes for each.
    pub fn of(bytes: usize) -> Self {
        Self { part_kib: bytes / 1024, users: Mutex::default() }
    }

    /// So much of this user's part; what is larger than the part takes all of it. Whoever has used it up waits for themselves, and holds
    /// nothing of what is everybody's meanwhile.
    pub async fn take(
        &self,
        peer: Option<&Peer>,
        bytes: usize,
        patience: Duration,
    ) -> Result<Option<OwnedSemaphorePermit>, Fail> {
        let Some(peer) = peer.filter(|peer| peer.role != Some(Role::Admin)) else { return Ok(None) };
        let wanted = u32::try_from(bytes.div_ceil(1024).min(self.part_kib)).unwrap_or(u32::MAX);
        match timeout(patience, self.part(peer.uid).acquire_many_owned(wanted)).await {
            Ok(Ok(permit)) => Ok(Some(permit)),
            Ok(Err(_)) | Err(_) => {
                let why = format!("too many large requests of uid {} at once; try again", peer.uid);
                Err(Fail::busy(why, 1))
            }
        }
    }

    fn part(&self, uid: u32) -> Arc<Semaphore> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        // Who holds nothing and waits for nothing leaves nothing behind.
        users.retain(|_, part| Arc::strong_count(part) > 1);
        users.entry(uid).or_insert_with(|| Arc::new(Semaphore::new(self.part_kib))).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FEW: Duration = Duration::from_millis(1);

    fn peer(uid: u32, role: Role) -> Peer {
        Peer { name: "somebody".into(), uid, role: Some(role) }
    }

    #[tokio::test]
    async fn a_member_has_a_part_others_have_theirs_and_admins_have_no_bound() {
        let parts = OwnParts::of(64 * 1024);
        let (ada, bob, root) = (peer(7, Role::Operator), peer(8, Role::Operator), peer(0, Role::Admin));
        let half = parts.take(Some(&ada), 32 * 1024, FEW).await.unwrap();
        assert!(half.is_some());
        let refused = parts.take(Some(&ada), 33 * 1024, FEW).await.unwrap_err();
        assert_eq!(refused.document().status, 503);
        let all = parts.take(Some(&bob), 1024 * 1024, FEW).await.expect("what is larger takes all of it");
        assert!(parts.take(Some(&bob), 1, FEW).await.is_err());
        assert!(parts.take(Some(&root), 1024 * 1024, FEW).await.unwrap().is_none());
        drop((half, all));
        drop(parts.take(Some(&bob), 64 * 1024, FEW).await.expect("it was given back"));
        assert_eq!(parts.users.lock().unwrap().len(), 1, "who is gone leaves nothing behind");
    }
}
