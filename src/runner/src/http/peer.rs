//! Who is at the other end of the unix socket, and what they may do.
//!
//! The kernel says which user connected. Root and the daemon's own user are admins; members of the socket's group operate;
//! nobody else may do anything, even if somebody opened the socket's mode. A user is known by name where `/etc/passwd` has one.

use std::sync::Arc;

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

/// What the kernel tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Process; None where the peer is in another process id namespace.
    pub pid: Option<u32>,
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
    pub fn peer(&self, credentials: Credentials) -> Peer {
        let Credentials { uid, gid, pid } = credentials;
        let name = user_name(uid).unwrap_or_else(|| format!("uid {uid}"));
        let role = if self.is_admin(uid) {
            Some(Role::Admin)
        } else {
            let member = self.group.is_some_and(|group| gid == group || is_member(group, &name, pid));
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

/// Membership by `/etc/group`, or by the groups of the process, which also knows groups from elsewhere (LDAP).
fn is_member(group: u32, user: &str, pid: Option<u32>) -> bool {
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    if names_member(&groups, group, user) {
        return true;
    }
    let status = pid.and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/status")).ok());
    status.is_some_and(|status| has_group(&status, group))
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

/// Whether `Groups:` of a `/proc/PID/status` has the group.
fn has_group(status: &str, group: u32) -> bool {
    let groups = status.lines().find_map(|line| line.strip_prefix("Groups:"));
    groups.is_some_and(|groups| groups.split_whitespace().any(|gid| gid.parse() == Ok(group)))
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
        assert!(has_group("Name:\tx\nGroups:\t4 70 100 \n", 70));
        assert!(!has_group("Name:\tx\nGroups:\t4 700 \n", 70));
    }

    #[test]
    fn roles_follow_user_and_group() {
        let access = Access { owner_uid: 900, group: Some(70) };
        let peer = |uid, gid| access.peer(Credentials { uid, gid, pid: None });
        assert_eq!(peer(0, 0).role, Some(Role::Admin));
        assert_eq!(peer(900, 5).role, Some(Role::Admin));
        assert_eq!(peer(NOBODY_HAS_UID, 70).role, Some(Role::Operator));
        assert_eq!(peer(NOBODY_HAS_UID, 71).role, None);
        assert_eq!(peer(NOBODY_HAS_UID, 70).name.as_ref(), "uid 3999999999");
        assert_eq!(peer(0, 0).name.as_ref(), "root");
        let alone = Access { group: None, ..access };
        assert_eq!(alone.peer(Credentials { uid: NOBODY_HAS_UID, gid: 70, pid: None }).role, None);
    }
}
