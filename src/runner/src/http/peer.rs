//! Who is at the other end of the unix socket, and what they may do.
//!
//! The kernel says which user connected. Root and the daemon's own user are admins; members of the socket's group operate;
//! nobody else may do anything, even if somebody opened the socket's mode. A user is known by name where `/etc/passwd` has one.

use ci_runner_spawner::peer::peer_groups;
use std::io;
use std::sync::{Arc, Once};
use tokio::net::UnixStream;

/// What a peer may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Everything but what touches files of the host.
    Operator,
    /// Everything.
    Admin,
}

/// Who connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// User name, or `uid 1234`.
    pub name: Arc<str>,
    /// User id.
    pub uid: u32,
    /// None: nothing is allowed.
    pub role: Option<Role>,
}

/// What the kernel tells of a peer, as it was when it connected: nothing is looked up by a process id, which may be another's
/// by now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Further groups; they also tell those that come from elsewhere than `/etc/group` (LDAP). Empty where the kernel does not
    /// tell them: then only `/etc/group` counts.
    pub groups: Vec<u32>,
}

impl Credentials {
    /// Of a connection's other end.
    pub fn of(stream: &UnixStream) -> io::Result<Self> {
        let credentials = stream.peer_cred()?;
        let (uid, gid) = (credentials.uid(), credentials.gid());
        let groups = peer_groups(stream).unwrap_or_else(|error| {
            static SAID: Once = Once::new();
            SAID.call_once(|| {
                log::warn!(
                    "the kernel does not tell the groups of clients ({error}): only members in /etc/group are known"
                );
            });
            Vec::new()
        });
        Ok(Self { uid, gid, groups })
    }
}

/// Who may do what on the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// The daemon's user.
    pub owner_uid: u32,
    /// Members of this group operate; None: nobody but root and the owner.
    pub group: Option<u32>,
}

impl Access {
    /// Root and the daemon's own user.
    pub fn is_admin(&self, uid: u32) -> bool {
        uid == 0 || uid == self.owner_uid
    }

    /// Tells a peer by its credentials.
    pub fn peer(&self, credentials: &Credentials) -> Peer {
        let Credentials { uid, gid, groups } = credentials;
        let (uid, gid) = (*uid, *gid);
        let name = user_name(uid).unwrap_or_else(|| format!("uid {uid}"));
        let role = if self.is_admin(uid) {
            Some(Role::Admin)
        } else {
            let is_one = |group| gid == group || groups.contains(&group) || is_member(group, &name);
            let member = self.group.is_some_and(is_one);
            member.then_some(Role::Operator)
        };
        Peer { name: name.into(), uid, role }
    }
}

fn user_name(uid: u32) -> Option<String> {
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    name_of(&users, uid)
}

/// The name of a user in the text of `/etc/passwd`, or of a group in that of `/etc/group`.
pub(super) fn name_of(lines: &str, id: u32) -> Option<String> {
    lines.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(id)).then(|| name.to_owned())
    })
}

/// Membership by `/etc/group`, which may be newer than the process.
fn is_member(group: u32, user: &str) -> bool {
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    names_member(&groups, group, user)
}

/// Whether a line of `/etc/group` names the user as a member.
fn names_member(groups: &str, group: u32, user: &str) -> bool {
    groups.lines().any(|line| {
        let mut fields = line.split(':').skip(2);
        fields.next().is_some_and(|gid| gid.parse() == Ok(group))
            && fields
                .next()
                .is_some_and(|members| members.split(',').any(|member| !member.is_empty() && member == user))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOBODY_HAS_UID: u32 = 3_999_999_999;

    #[test]
    fn files_tell_names_and_members() {
        let users = "root:x:0:0:root:/root:/bin/sh\nbroken\nanna:x:1000:100::/home/anna:/bin/sh\n";
        assert_eq!(name_of(users, 1000).as_deref(), Some("anna"));
        assert_eq!(name_of(users, 100), None);
        let groups = "root:x:0:\nci-runner:x:70:bob,anna\nempty:x:71:\nshort:x\n";
        assert!(names_member(groups, 70, "anna"));
        assert!(!names_member(groups, 70, "ann"));
        assert!(!names_member(groups, 71, ""), "an empty list has no members");
    }

    #[tokio::test]
    async fn groups_are_those_of_the_connection_not_of_a_process_id() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let mut told = Credentials::of(&ours).unwrap().groups;
        let mut own: Vec<u32> = rustix::process::getgroups().unwrap().iter().map(|gid| gid.as_raw()).collect();
        told.sort_unstable();
        own.sort_unstable();
        assert_eq!(told, own);
    }

    #[test]
    fn roles_follow_user_and_group() {
        let access = Access { owner_uid: 900, group: Some(70) };
        let with = |uid, gid, groups: &[u32]| access.peer(&Credentials { uid, gid, groups: groups.to_vec() });
        let peer = |uid, gid| with(uid, gid, &[]);
        assert_eq!(peer(0, 0).role, Some(Role::Admin));
        assert_eq!(peer(900, 5).role, Some(Role::Admin));
        assert_eq!(peer(NOBODY_HAS_UID, 70).role, Some(Role::Operator));
        assert_eq!(peer(NOBODY_HAS_UID, 71).role, None);
        assert_eq!(peer(NOBODY_HAS_UID, 70).name.as_ref(), "uid 3999999999");
        assert_eq!(peer(0, 0).name.as_ref(), "root");
        assert_eq!(
            with(NOBODY_HAS_UID, 5, &[4, 70]).role,
            Some(Role::Operator),
            "a group that no file of this host names"
        );
        assert_eq!(with(NOBODY_HAS_UID, 5, &[4, 700]).role, None);
        let alone = Access { group: None, ..access };
        assert_eq!(alone.peer(&Credentials { uid: NOBODY_HAS_UID, gid: 70, groups: vec![70] }).role, None);
    }
}
