//! What users do in shared directories so that others' remains stay, or nobody can use theirs.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid};

use super::entries::{each, empty};
use super::files::{LOOKED_MAX, remove_in};
use crate::skipped;
use crate::tmpdir::SlotDir;
use crate::tmpdir::hostile::where_nothing_moves;

/// Users that are nobody's.
const A: u32 = 61_901;
const B: u32 = 61_902;

fn shared() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("shared");
    std::fs::create_dir(&path).expect("made");
    (dir, path)
}

/// False, told: only root can.
fn given(test: &str, path: &Path, uid: u32) -> bool {
    let is = chown(path, Some(uid), None).is_ok();
    if !is {
        skipped::tell(test, "only root can make files of another user");
    }
    is
}

/// Makes directories in one another, of these users in turn, each with a file of A; false: only root can.
fn made_alternating(top: &Path, levels: u32) -> bool {
    let mut at: OwnedFd = std::fs::File::open(top).expect("opens").into();
    for level in 0..levels {
        rustix::fs::mkdirat(&at, "d", Mode::RWXU).expect("made");
        let owner = Uid::from_raw(if level % 2 == 0 { A } else { B });
        if rustix::fs::chownat(&at, "d", Some(owner), None::<Gid>, AtFlags::SYMLINK_NOFOLLOW).is_err() {
            return false;
        }
        at = rustix::fs::openat(&at, "d", OFlags::RDONLY, Mode::empty()).expect("opens");
        let flags = OFlags::CREATE | OFlags::WRONLY;
        let file = rustix::fs::openat(&at, "f", flags, Mode::RUSR).expect("made");
        rustix::fs::fchown(file, Some(Uid::from_raw(A)), None).expect("given");
    }
    true
}

/// Two jobs crashed whoever was to remove what they had left: all users of the pool were gone.
#[test]
fn directories_of_two_users_in_turn_have_an_end() {
    let (dir, path) = shared();
    let test = "directories_of_two_users_in_turn_have_an_end";
    let is_made = made_alternating(&path, 4000);
    if is_made {
        for _ in 0..2 {
            assert_eq!(remove_in(A, [path.as_path()]), Ok(()));
            assert_eq!(remove_in(B, [path.as_path()]), Ok(()));
        }
        // The control: what is not so deep went.
        assert!(path.join("d/d").exists() && !path.join("d/f").exists() && !path.join("d/d/d/d/f").exists());
    } else {
        skipped::tell(test, "only root can make files of another user");
    }
    let root: OwnedFd = std::fs::File::open(dir.path()).expect("opens").into();
    drop(SlotDir::prepare(root.as_fd(), dir.path(), "shared", None).expect("emptied"));
}

/// All that a user had left stayed, openly, and its next job was started.
#[test]
fn what_lies_openly_goes_however_much_neighbours_keep() {
    let (_first, first) = shared();
    let (_second, second) = shared();
    let test = "what_lies_openly_goes_however_much_neighbours_keep";
    let many = first.join("many");
    std::fs::create_dir(&many).expect("made");
    for number in 0..=LOOKED_MAX {
        std::fs::write(many.join(number.to_string()), "").expect("written");
    }
    let own = first.join("own");
    std::fs::create_dir(&own).expect("made");
    std::fs::create_dir(second.join("neighbours")).expect("made");
    let below = second.join("neighbours/left");
    // Beside what is the user's, and then in it.
    for place in [&many, &own.join("many")] {
        std::fs::create_dir_all(&own).expect("made");
        if !given(test, &own, A) {
            return;
        }
        std::fs::rename(&many, place).expect("moved");
        let open = [first.join("left"), second.join("left")];
        for path in open.iter().chain([&below]) {
            std::fs::write(path, "token").expect("written");
            assert!(given(test, path, A));
        }
        assert_eq!(remove_in(A, [first.as_path(), second.as_path()]), Ok(()));
        assert_eq!(open.map(|path| path.exists()), [false; 2], "with others' in {}", place.display());
        assert!(below.exists(), "the control: the bound was reached");
    }
}

#[test]
fn what_cannot_be_removed_is_emptied() {
    let (_dir, shared) = shared();
    let path = shared.join("f");
    std::fs::write(&path, "token").expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o400)).expect("closed");
    let fd: OwnedFd = std::fs::File::open(&shared).expect("opens").into();
    assert_eq!(empty(&fd, c"f", rustix::fs::FileType::RegularFile), Ok(()));
    assert_eq!(std::fs::read(&path).expect("read"), b"");
}

/// A neighbour that let a program of the user's run took the user away for as long as it liked.
#[test]
fn a_program_that_runs_counts_as_emptied() {
    let (_dir, path) = shared();
    let program = path.join("sh");
    // Not by us: a child of another test could have it open for writing.
    let copied = Command::new("cp").args([Path::new("-L"), Path::new("/bin/sh"), &program]).status();
    assert!(copied.expect("cp runs").success());
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("opened");
    // It reads commands until its input ends.
    let mut child = Command::new(&program).stdin(std::process::Stdio::piped()).spawn().expect("started");
    let dir: OwnedFd = std::fs::File::open(&path).expect("opens").into();
    let emptied = empty(&dir, c"sh", rustix::fs::FileType::RegularFile);
    drop(child.stdin.take());
    child.wait().expect("waited for");
    assert_eq!(emptied, Ok(()));
    let left = program.metadata().expect("there");
    assert_eq!(left.permissions().mode() & 0o777, 0);
    assert_ne!(left.len(), 0, "the control: it ran");
}

/// Subvolumes: nested directories in `/var/tmp` took the user away.
#[test]
fn trees_go_where_nothing_can_be_moved() {
    let (_dir, path) = shared();
    let uid = rustix::process::geteuid().as_raw();
    for name in ["a", "b"] {
        let nested = path.join(name).join("c/d/e/f/g/h/i/j");
        std::fs::create_dir_all(&nested).expect("made");
        std::fs::write(nested.join("f"), "token").expect("written");
    }
    assert_eq!(where_nothing_moves(|| remove_in(uid, [path.as_path()])), Ok(()));
    assert_eq!(std::fs::read_dir(&path).expect("readable").count(), 0);
}

/// `/var/tmp` was a link, and nothing in it was ever removed.
#[test]
fn shared_directories_may_be_links_and_what_else_they_are_is_told() {
    let (dir, path) = shared();
    let uid = rustix::process::geteuid().as_raw();
    let [link, file, circle, missing] = ["link", "file", "circle", "missing"].map(|name| dir.path().join(name));
    symlink(&path, &link).expect("linked");
    symlink(&circle, &circle).expect("linked");
    std::fs::write(&file, "").expect("written");
    std::fs::write(path.join("left"), "token").expect("written");
    for bad in [&file, &circle] {
        let why = remove_in(uid, [bad.as_path()]).expect_err("told");
        assert!(why.starts_with(&bad.display().to_string()), "{why}");
    }
    assert!(path.join("left").exists());
    assert_eq!(remove_in(uid, [missing.as_path(), link.as_path()]), Ok(()));
    assert!(!path.join("left").exists() && link.exists());
}

/// A look into another file system may take as long as that likes: a network's, or one that a neighbour serves.
#[test]
fn file_systems_below_shared_directories_are_not_looked_into() {
    let (_dir, path) = shared();
    let mounted = path.join("neighbour/mounted");
    let test = "file_systems_below_shared_directories_are_not_looked_into";
    std::fs::create_dir_all(&mounted).expect("made");
    let [beside, inside] = [path.join("neighbour/left"), mounted.join("left")];
    let left = |path: &Path| {
        std::fs::write(path, "token").expect("written");
        given(test, path, A)
    };
    if !left(&beside) {
        return;
    }
    let look = || {
        if !mount_for_this_thread(&mounted) {
            return skipped::tell(test, "mounting is not permitted");
        }
        assert!(left(&inside));
        assert_eq!(remove_in(A, [path.as_path()]), Ok(()));
        assert!(inside.exists());
        assert!(!beside.exists(), "the control: all that is beside it goes");
        assert_eq!(remove_in(A, [mounted.as_path()]), Ok(()));
        assert!(!inside.exists(), "a shared directory may be one itself");
    };
    // The mount goes with the thread, however that ends.
    std::thread::scope(|scope| scope.spawn(look).join()).expect("no panic");
}

/// Mounts a file system in memory that nobody else sees.
pub(crate) fn mount_for_this_thread(at: &Path) -> bool {
    let at = CString::new(at.as_os_str().as_bytes()).expect("no zero in it");
    let (tmpfs, root, none) = (c"tmpfs".as_ptr(), c"/".as_ptr(), std::ptr::null());
    let private = libc::MS_REC | libc::MS_PRIVATE;
    // SAFETY: all texts end with a zero and outlive the calls; the thread shares no directories with others afterwards,
    // and nothing in it counts on that.
    unsafe {
        libc::unshare(libc::CLONE_NEWNS) == 0
            && libc::mount(none, root, none, private, std::ptr::null()) == 0
            && libc::mount(tmpfs, at.as_ptr(), tmpfs, 0, std::ptr::null()) == 0
    }
}

/// Neighbours that made and removed directories all the time had everybody else's starts refused.
#[test]
fn a_directory_that_goes_while_it_is_read_is_empty() {
    let (_dir, path) = shared();
    let gone = path.join("gone");
    std::fs::create_dir(&gone).expect("made");
    let opened: OwnedFd = std::fs::File::open(&gone).expect("opens").into();
    std::fs::remove_dir(&gone).expect("removed");
    let entries = each(&opened, |_, _| std::ops::ControlFlow::Continue(()));
    assert_eq!(entries, Ok(()));
}
