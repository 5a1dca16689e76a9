//! The directory of a slot whose jobs have a user of their own.
//!
//! The job may do with its directory what it likes, open it to all as well; neighbours may not come near it all the same:
//! they could take its lock, put there what takes long to remove, or run what the job left for them to run as its user. So it
//! lies in one that is root's and that only the user's group can pass through, and not read: nobody but root can lock it.
//! Between two jobs there is none: who was handed the one of the first sees nothing of the second.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Gid, Mode, Uid};

use super::{ASIDE_MAX, cleared, lock, open_below, opened};
use crate::policy_file::User;

/// The job's own, in the slot's.
pub(super) const INNER: &str = "tmp";
/// Root's, and open to the group only for those who know what is in it.
const PASSAGE: u32 = 0o710;

/// The slot's directory, locked as long as it is open, and a new one in it for a job of this user.
///
/// # Errors
/// Another job still uses it; something in it can be neither removed nor set aside; a directory cannot be made.
pub(super) fn prepare(root: BorrowedFd<'_>, name: &str, user: &User) -> io::Result<(OwnedFd, OwnedFd)> {
    let gid = Gid::from_raw(user.gid);
    let outer = outer(root, name)?;
    let stat = rustix::fs::fstat(&outer)?;
    if (stat.st_gid, stat.st_mode & 0o7777) != (user.gid, PASSAGE) {
        rustix::fs::fchown(&outer, None, Some(gid))?;
        rustix::fs::fchmod(&outer, Mode::from_raw_mode(PASSAGE))?;
    }
    let inner = made(outer.as_fd(), user)?;
    Ok((outer, inner))
}

/// The directory for a job of this user in the slot's, empty and new.
pub(super) fn made(outer: BorrowedFd<'_>, user: &User) -> io::Result<OwnedFd> {
    cleared(outer, INNER)?;
    rustix::fs::mkdirat(outer, INNER, Mode::RWXU)?;
    let inner = open_below(outer, c"tmp")?;
    rustix::fs::fchown(&inner, Some(Uid::from_raw(user.uid)), Some(Gid::from_raw(user.gid)))?;
    Ok(inner)
}

/// Opens the slot's, locked. One of an earlier version, which gave it to the job, goes first.
fn outer(root: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    for _ in 0..=ASIDE_MAX {
        let (dir, _) = opened(root, name)?;
        lock(&dir)?;
        let stat = rustix::fs::fstat(&dir)?;
        if stat.st_nlink == 0 {
            continue;
        }
        if stat.st_uid == rustix::process::geteuid().as_raw() {
            return Ok(dir);
        }
        cleared(root, name)?;
    }
    Err(io::ErrorKind::ResourceBusy.into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    use std::path::Path;
    use std::process::{Command, Stdio};

    use rustix::fs::{FlockOperation, flock};

    use super::super::SlotDir;
    use super::*;
    use crate::skipped;

    /// Users that are nobody's.
    const JOBS: u32 = 61_838;
    const NEIGHBOURS: u32 = 61_839;

    fn user() -> User {
        User { name: "job".to_owned(), uid: JOBS, gid: JOBS, home: "/".into() }
    }

    /// A directory for slots that all can pass through, as a service's is. None: only root can give directories away.
    fn root(test: &str) -> Option<(tempfile::TempDir, OwnedFd)> {
        if !rustix::process::geteuid().is_root() {
            skipped::tell(test, "only root can give directories to users");
            return None;
        }
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o711)).expect("opened");
        let root = std::fs::File::open(dir.path()).expect("opens").into();
        Some((dir, root))
    }

    fn prepared(root: &OwnedFd, path: &Path) -> io::Result<SlotDir> {
        SlotDir::prepare(root.as_fd(), path, "p-0", Some(&user()))
    }

    fn lists_as(uid: u32, path: &Path) -> bool {
        let mut command = Command::new("ls");
        command.arg(path).uid(uid).gid(uid).current_dir("/").stdout(Stdio::null()).stderr(Stdio::null());
        command.status().expect("ls runs").success()
    }

    #[test]
    fn neighbours_do_not_come_near_what_a_job_opens_to_all() {
        let Some((dir, root)) = root("neighbours_do_not_come_near_what_a_job_opens_to_all") else { return };
        let slot = prepared(&root, dir.path()).expect("prepared");
        std::fs::set_permissions(slot.path(), std::fs::Permissions::from_mode(0o777)).expect("opened");
        assert!(lists_as(JOBS, slot.path()));
        assert!(!lists_as(NEIGHBOURS, slot.path()));
        let outer = slot.path().parent().expect("it has one");
        assert!(!lists_as(JOBS, outer), "nor can its user open, and lock, the one around it");
        std::fs::set_permissions(outer, std::fs::Permissions::from_mode(0o711)).expect("opened");
        assert!(lists_as(NEIGHBOURS, slot.path()), "the control: that one keeps them out");
    }

    /// One job with descriptors of other slots' directories stopped their pool for as long as it ran.
    #[test]
    fn who_was_handed_the_directory_neither_stops_nor_sees_the_next_job() {
        let Some((dir, root)) = root("who_was_handed_the_directory_neither_stops_nor_sees_the_next_job") else {
            return;
        };
        let slot = prepared(&root, dir.path()).expect("prepared");
        let handed = std::fs::File::open(slot.path()).expect("opens");
        flock(&handed, FlockOperation::NonBlockingLockExclusive).expect("nobody else locks it");
        assert!(prepared(&root, dir.path()).is_err(), "two jobs never share one");
        slot.wipe().expect("wiped");
        drop(slot);
        let next = prepared(&root, dir.path()).expect("whoever has a lock on the one before");
        std::fs::write(next.path().join("customer.pem"), "").expect("written");
        assert_eq!(super::super::names(&handed.into()), Err(rustix::io::Errno::NOENT));
        // The same when nobody came to wipe.
        let handed = std::fs::File::open(next.path()).expect("opens");
        flock(&handed, FlockOperation::NonBlockingLockExclusive).expect("nobody else locks it");
        drop(next);
        let after = prepared(&root, dir.path()).expect("prepared");
        assert_eq!(std::fs::read_dir(after.path()).expect("readable").count(), 0);
    }

    #[test]
    fn what_was_put_there_before_its_processes_ended_does_not_stay() {
        let Some((dir, root)) = root("what_was_put_there_before_its_processes_ended_does_not_stay") else { return };
        let slot = prepared(&root, dir.path()).expect("prepared");
        let planted = slot.path().join(".bashrc");
        std::fs::write(&planted, "steal").expect("written");
        let slot = slot.renewed(&user()).expect("renewed");
        assert!(!planted.exists() && slot.path().is_dir());
    }

    #[test]
    fn the_directory_of_an_earlier_version_is_made_anew() {
        let Some((dir, root)) = root("the_directory_of_an_earlier_version_is_made_anew") else { return };
        let earlier = dir.path().join("p-0");
        std::fs::create_dir_all(earlier.join("tmp/deep")).expect("made");
        for path in [earlier.join("tmp"), earlier.clone()] {
            std::os::unix::fs::chown(path, Some(JOBS), Some(JOBS)).expect("given away");
        }
        let held = std::fs::File::open(&earlier).expect("opens");
        flock(&held, FlockOperation::NonBlockingLockExclusive).expect("as its shim does");
        assert!(prepared(&root, dir.path()).is_err(), "a job of that version uses it");
        drop(held);
        let slot = prepared(&root, dir.path()).expect("prepared");
        assert_eq!(std::fs::read_dir(slot.path()).expect("readable").count(), 0);
        let stat = rustix::fs::stat(&earlier).expect("there");
        assert_eq!((stat.st_uid, stat.st_gid, stat.st_mode & 0o7777), (0, JOBS, 0o710));
    }
}
