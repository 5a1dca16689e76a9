//! What is removed of what a job left, and what is not.

use super::*;
use std::os::unix::fs::{PermissionsExt, symlink};

fn root() -> (tempfile::TempDir, OwnedFd) {
    let dir = tempfile::tempdir().expect("a directory");
    let fd = std::fs::File::open(dir.path()).expect("opens").into();
    (dir, fd)
}

#[test]
fn what_a_job_left_is_removed_and_nothing_else() {
    let (dir, fd) = root();
    let outside = dir.path().join("outside");
    std::fs::create_dir(&outside).expect("made");
    std::fs::write(outside.join("precious"), "x").expect("written");
    let slot = SlotDir::prepare(fd.as_fd(), dir.path(), "p-0", None).expect("prepared");
    let inner = slot.path().join("a/b/c");
    std::fs::create_dir_all(&inner).expect("made");
    std::fs::write(inner.join("f"), "x").expect("written");
    symlink(&outside, slot.path().join("link")).expect("linked");
    symlink(&outside, inner.join("link")).expect("linked");
    symlink("..", inner.join("up")).expect("linked");
    for closed in ["a/b/c", "a/b", "a", ""] {
        let path = slot.path().join(closed);
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o000)).expect("closed");
    }
    slot.wipe().expect("wiped");
    assert_eq!(std::fs::read_dir(slot.path()).expect("readable").count(), 0);
    assert_eq!(std::fs::read(outside.join("precious")).expect("still there"), b"x");
    assert_eq!(slot.path().metadata().expect("there").permissions().mode() & 0o7777, 0o700);
}

#[test]
fn deep_and_wide_trees_are_removed() {
    let (dir, fd) = root();
    let slot = SlotDir::prepare(fd.as_fd(), dir.path(), "p-0", None).expect("prepared");
    let mut at: OwnedFd = std::fs::File::open(slot.path()).expect("opens").into();
    for _ in 0..3000 {
        rustix::fs::mkdirat(&at, "d", Mode::RWXU).expect("made");
        rustix::fs::mkdirat(&at, ".wiped-1", Mode::RWXU).expect("made");
        at = rustix::fs::openat(&at, "d", OFlags::RDONLY, Mode::empty()).expect("opens");
    }
    for i in 0..3000 {
        std::fs::write(slot.path().join(format!("f{i}")), "").expect("written");
    }
    slot.wipe().expect("wiped");
    assert_eq!(std::fs::read_dir(slot.path()).expect("readable").count(), 0);
}

#[test]
fn a_slot_directory_that_was_replaced_is_made_anew() {
    let (dir, fd) = root();
    let slot = SlotDir::prepare(fd.as_fd(), dir.path(), "p-0", None).expect("prepared");
    std::fs::create_dir(dir.path().join("target")).expect("made");
    std::fs::write(dir.path().join("target/precious"), "x").expect("written");
    std::fs::remove_dir(slot.path()).expect("removed");
    symlink(dir.path().join("target"), slot.path()).expect("linked");
    slot.wipe().expect("wiped");
    assert!(slot.path().symlink_metadata().expect("there").is_dir());
    assert!(dir.path().join("target/precious").exists());
}

#[test]
fn two_jobs_never_share_one() {
    let (dir, fd) = root();
    let slot = SlotDir::prepare(fd.as_fd(), dir.path(), "p-0", None).expect("prepared");
    std::fs::write(slot.path().join("precious"), "x").expect("written");
    assert!(SlotDir::prepare(fd.as_fd(), dir.path(), "p-0", None).is_err());
    assert!(slot.path().join("precious").exists(), "not wiped under a living job");
    drop(slot);
    assert!(SlotDir::prepare(fd.as_fd(), dir.path(), "p-0", None).is_ok());
}
