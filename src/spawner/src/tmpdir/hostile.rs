//! What jobs do to a slot's directory so that later ones fail, and file systems on which little can be moved.

use std::cell::Cell;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use rustix::fs::{IFlags, XattrFlags, ioctl_getflags, ioctl_setflags};

use super::*;
use crate::skipped;
use crate::sys::inode::{XFLAG_PROJINHERIT, fs_xattr, set_fs_xattr};

thread_local! {
    static NOTHING_MOVES: Cell<bool> = const { Cell::new(false) };
}

/// A file system that moves no directory.
pub(super) fn nothing_can_be_moved() -> bool {
    NOTHING_MOVES.get()
}

/// Does something on such a file system.
pub(crate) fn where_nothing_moves<T>(act: impl FnOnce() -> T) -> T {
    NOTHING_MOVES.set(true);
    let done = act();
    NOTHING_MOVES.set(false);
    done
}

/// A directory for slots, and its first slot.
fn slot() -> (tempfile::TempDir, OwnedFd, SlotDir) {
    let dir = tempfile::tempdir().expect("a directory");
    let root: OwnedFd = std::fs::File::open(dir.path()).expect("opens").into();
    let slot = prepared(&root, dir.path());
    (dir, root, slot)
}

fn prepared(root: &OwnedFd, path: &Path) -> SlotDir {
    SlotDir::prepare(root.as_fd(), path, "p-0", None).expect("prepared")
}

fn is_empty(path: &Path) -> bool {
    std::fs::read_dir(path).expect("readable").count() == 0
}

/// A default list that gives nobody anything: `mkdir x && touch x/f` fails for whoever is not root.
fn default_acl() -> Vec<u8> {
    let entry = |tag: u16, allowed: u16| [tag.to_le_bytes(), allowed.to_le_bytes(), [0xff; 2], [0xff; 2]].concat();
    [2_u32.to_le_bytes().to_vec(), entry(1, 0), entry(4, 0), entry(0x20, 0)].concat()
}

/// What a job does to its directory itself, in words; each is undone by making the directory anew.
fn tampered(dir: &OwnedFd, how: &str) -> Result<(), Errno> {
    let flag = |flag| ioctl_setflags(dir, ioctl_getflags(dir)?.union(flag));
    match how {
        "default access list" => {
            rustix::fs::fsetxattr(dir, "system.posix_acl_default", &default_acl(), XattrFlags::empty())
        }
        "attribute of its own" => rustix::fs::fsetxattr(dir, "user.token", b"secret", XattrFlags::empty()),
        "slow writes" => flag(IFlags::DIRSYNC),
        "project" => {
            let mut found = fs_xattr(dir)?;
            found.xflags |= XFLAG_PROJINHERIT;
            set_fs_xattr(dir, &found)
        }
        _ => Err(Errno::INVAL),
    }
}

/// One job made every later one of its slot fail, for ever: only names and modes were looked at.
#[test]
fn what_a_job_did_to_the_directory_itself_does_not_reach_the_next() {
    let (dir, root, mut slot) = slot();
    for how in ["default access list", "attribute of its own", "slow writes", "project"] {
        for has_power_cut in [false, true] {
            if let Err(error) = tampered(&slot.dir, how) {
                skipped::tell(&format!("a part of tmpdir::hostile, {how}"), &error.to_string());
                break;
            }
            assert!(!attributes::is_plain(&slot.dir), "{how}");
            if !has_power_cut {
                slot.wipe().expect("wiped");
                let there: OwnedFd = std::fs::File::open(slot.path()).expect("opens").into();
                assert!(attributes::is_plain(&there), "{how} after the job");
            }
            drop(slot);
            slot = prepared(&root, dir.path());
            assert!(attributes::is_plain(&slot.dir), "{how} at the next job's start");
            std::fs::create_dir(slot.path().join("x")).expect("made");
            let below = std::fs::metadata(slot.path().join("x")).expect("there");
            assert_ne!(below.mode() & 0o700, 0, "{how}");
            slot.wipe().expect("wiped");
        }
    }
    // The control: nothing is made anew without a cause.
    let inode = || std::fs::metadata(dir.path().join("p-0")).expect("there").ino();
    let before = inode();
    std::fs::write(slot.path().join("f"), "x").expect("written");
    slot.wipe().expect("wiped");
    drop(slot);
    drop(prepared(&root, dir.path()));
    assert_eq!(inode(), before);
}

/// Somebody opened the directory before it was made anew, and gets its lock when it is nobody's any more.
#[test]
fn a_directory_that_was_removed_meanwhile_is_not_taken() {
    let (dir, root, slot) = slot();
    rustix::fs::unlinkat(&root, "p-0", AtFlags::REMOVEDIR).expect("removed");
    assert!(!made_ours(&slot.dir, "p-0").expect("looked at"));
    drop(slot);
    assert!(made_ours(&prepared(&root, dir.path()).dir, "p-0").expect("looked at"));
}

fn make_nested(top: &Path, levels: usize) {
    let mut path = top.to_owned();
    for _ in 0..levels {
        path.push("d");
        std::fs::create_dir(&path).expect("made");
        std::fs::create_dir_all(path.join("e/.wiped-1")).expect("made");
        std::fs::write(path.join("f"), "x").expect("written");
    }
}

/// Subvolumes, and file systems that merge others: nested directories took the slot away.
#[test]
fn trees_go_where_nothing_can_be_moved() {
    let (_dir, _root, slot) = slot();
    make_nested(slot.path(), 60);
    where_nothing_moves(|| wipe(&slot.dir)).expect("wiped");
    assert!(is_empty(slot.path()));
}

/// What could not be removed once took one of sixteen places for ever.
#[test]
fn what_was_set_aside_goes_when_it_can() {
    let (dir, root, slot) = slot();
    let kept = slot.path().join("kept");
    std::fs::write(&kept, "x").expect("written");
    let file = std::fs::File::open(&kept).expect("opens");
    let usual = ioctl_getflags(&file);
    let Ok(usual) = usual.and_then(|flags| ioctl_setflags(&file, flags.union(IFlags::IMMUTABLE)).map(|()| flags))
    else {
        return skipped::tell("what_was_set_aside_goes_when_it_can", "no file can be made immutable here");
    };
    slot.wipe().expect("wiped");
    let aside = dir.path().join("p-0.unremovable-0");
    let is_aside = aside.join("kept").exists();
    ioctl_setflags(&file, usual).expect("as before");
    assert!(is_aside && is_empty(slot.path()));
    drop(slot);
    let slot = prepared(&root, dir.path());
    std::fs::write(slot.path().join("f"), "x").expect("written");
    slot.wipe().expect("wiped");
    assert!(!aside.exists() && is_empty(slot.path()));
}

/// Makes a file system with projects of `image` and mounts it for this thread alone, with which the mount goes.
fn mounted(image: &Path, at: &Path) -> Result<(), String> {
    let run = |words: &[&str]| {
        let done = Command::new(words[0]).args(&words[1..]).arg(image).output();
        let done = done.map_err(|error| format!("{}: {error}", words[0]))?;
        done.status.success().then_some(()).ok_or_else(|| format!("{} is not possible here", words[0]))
    };
    std::fs::File::create(image).and_then(|file| file.set_len(320 << 20)).map_err(|error| error.to_string())?;
    run(&["mkfs.xfs", "-q", "-m", "crc=1"])
        .or_else(|_| run(&["mkfs.ext4", "-q", "-F", "-I", "256", "-O", "quota,project"]))?;
    // SAFETY: numbers; the thread shares no directories with others afterwards, and nothing in it counts on that.
    if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
        return Err("mounting is not permitted".to_owned());
    }
    let mount = |words: &[&Path]| {
        let done = Command::new("mount").args(words).output().map_err(|error| format!("mount: {error}"))?;
        done.status.success().then_some(()).ok_or_else(|| "such a file system cannot be mounted here".to_owned())
    };
    mount(&["--make-rprivate", "/"].map(Path::new))?;
    mount(&[Path::new("-oloop"), image, at])
}

/// A directory takes in nothing of another project: `chattr +P -p 5` on a nested one took the slot away.
#[test]
fn directories_of_other_projects_go() {
    let outside = tempfile::tempdir().expect("a directory");
    let (image, at) = (outside.path().join("image"), outside.path().join("at"));
    std::fs::create_dir(&at).expect("made");
    let look = || {
        if let Err(why) = mounted(&image, &at) {
            return skipped::tell("directories_of_other_projects_go", &why);
        }
        let root: OwnedFd = std::fs::File::open(&at).expect("opens").into();
        let slot = prepared(&root, &at);
        make_nested(slot.path(), 300);
        let mut path = slot.path().to_owned();
        for project in 1..=300 {
            let dir = std::fs::File::open(&path).expect("opens");
            let mut found = fs_xattr(&dir).expect("known");
            found.projid = project;
            found.xflags |= XFLAG_PROJINHERIT;
            set_fs_xattr(&dir, &found).expect("set");
            path.push("d");
        }
        let below = slot.path().join("d/d");
        let refused = std::fs::rename(below, slot.path().join("n")).expect_err("the control: it cannot be moved");
        assert_eq!(refused.kind(), io::ErrorKind::CrossesDevices);
        slot.wipe().expect("wiped");
        let there: OwnedFd = std::fs::File::open(slot.path()).expect("opens").into();
        assert!(is_empty(slot.path()) && attributes::is_plain(&there));
        let names =
            std::fs::read_dir(&at).expect("readable").filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        assert!(names.filter(|name| name.contains("unremovable")).count() == 0);
    };
    std::thread::scope(|scope| scope.spawn(look).join()).expect("no panic");
}
