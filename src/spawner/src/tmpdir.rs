//! The private `TMPDIR` of a slot: made when first needed, empty at every start, wiped after every job.
//!
//! Whatever a job left is removed without ever following a link of its making: every step opens one name below a
//! descriptor, beneath it, without symbolic links and without crossing a mount. Directories that the job closed
//! (`chmod 000`) are opened again; one to which it did more than that is made anew. A tree of any depth takes two
//! descriptors and no recursion: what is below a directory is moved up to the top before the directory is removed.
//!
//! Where jobs have users of their own it lies in a directory that only they may enter: see [`closed`].

mod attributes;
mod closed;
#[cfg(test)]
pub(crate) mod hostile;
mod size;
#[cfg(test)]
mod tests;

use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, ResolveFlags};
use rustix::io::Errno;

use crate::policy_file::User;

/// Names are removed in batches, so that a directory with a billion files takes no memory.
const BATCH: usize = 1024;
/// How many unremovable directories of one slot may be set aside before its jobs fail to start.
const ASIDE_MAX: u32 = 16;
/// A directory that cannot be moved is emptied where it is, so deep.
const UNMOVED_DEPTH_MAX: u32 = 128;

/// A slot's directory, ours as long as this lives.
pub(crate) struct SlotDir {
    root: OwnedFd,
    name: String,
    path: PathBuf,
    /// Jobs have users of their own: no job is given a directory that another had.
    is_closed: bool,
    /// Holds the slot's `flock` too, against a second spawner with the same `--tmp-dir`; of a closed one `root` does.
    dir: OwnedFd,
}

impl SlotDir {
    /// Makes `<root>/<name>` exist, private and empty.
    pub(crate) fn prepare(root: BorrowedFd<'_>, root_path: &Path, name: &str, user: Option<&User>) -> io::Result<Self> {
        if let Some(user) = user {
            let (root, dir) = closed::prepare(root, name, user)?;
            let path = root_path.join(name).join(closed::INNER);
            return Ok(Self { root, name: closed::INNER.to_owned(), path, is_closed: true, dir });
        }
        // Locked first: what another job still uses is not touched.
        let dir = emptied(root, name, lock)?;
        let (root, path) = (root.try_clone_to_owned()?, root_path.join(name));
        Ok(Self { root, name: name.to_owned(), path, is_closed: false, dir })
    }

    /// The same with a new directory, after all processes of the user were ended: one of them may have put something into the
    /// one before.
    pub(crate) fn renewed(self, user: &User) -> io::Result<Self> {
        let dir = closed::made(self.root.as_fd(), user)?;
        Ok(Self { dir, ..self })
    }

    /// Its absolute path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What the job left takes so much of the disk; None: too much to look at.
    pub(crate) fn disk_bytes(&self) -> Option<u64> {
        size::disk_bytes(&self.dir)
    }

    /// Removes all that the job left; whatever the job did with the directory itself, the name is an empty directory again, or
    /// nothing has it.
    pub(crate) fn wipe(&self) -> io::Result<()> {
        let is_untouched = self.is_untouched();
        if self.is_closed {
            // Somebody may have it open, whom the job gave it.
            cleared(self.root.as_fd(), &self.name)?;
        }
        if is_untouched {
            return Ok(());
        }
        if !self.is_closed {
            // The lock that we hold is on the directory we were given; whatever has the name now is nobody else's.
            emptied(self.root.as_fd(), &self.name, |_| Ok(()))?;
        }
        remove_aside(self.root.as_fd(), &self.name);
        Ok(())
    }

    /// True when the name still leads to the directory that we prepared, and that is empty and as good as new.
    fn is_untouched(&self) -> bool {
        let there = rustix::fs::statat(&self.root, &*self.name, AtFlags::SYMLINK_NOFOLLOW);
        let ours = rustix::fs::fstat(&self.dir);
        let same = matches!((there, ours), (Ok(a), Ok(b))
            if (a.st_dev, a.st_ino, a.st_mode & 0o7777) == (b.st_dev, b.st_ino, 0o700));
        same && names(&self.dir).is_ok_and(|names| names.is_empty()) && attributes::is_plain(&self.dir)
    }
}

/// What `TMPDIR` can be of a job whose slot has this directory: itself, or the one in it where jobs have users.
pub(crate) fn paths(slot_dir: &Path) -> [PathBuf; 2] {
    [slot_dir.to_owned(), slot_dir.join(closed::INNER)]
}

fn lock(dir: &OwnedFd) -> io::Result<()> {
    match rustix::fs::flock(dir, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(()),
        Err(Errno::WOULDBLOCK) => {
            Err(io::Error::new(io::ErrorKind::ResourceBusy, "another job still uses this directory"))
        }
        Err(error) => Err(error.into()),
    }
}

/// Empties a slot's directory in place of a shim that died; one that was never made stays so.
pub(crate) fn wipe_slot(root_path: &Path, name: &str, user: Option<&User>) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let there = rustix::fs::openat(rustix::fs::CWD, root_path, flags, Mode::empty())
        .and_then(|root| rustix::fs::statat(&root, name, AtFlags::SYMLINK_NOFOLLOW).map(|_| root));
    match there {
        Ok(root) => SlotDir::prepare(root.as_fd(), root_path, name, user).map(drop),
        Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Opens the directory, empty and as good as new. What cannot be removed (an immutable file) is set aside under another name.
fn emptied(root: BorrowedFd<'_>, name: &str, lock: fn(&OwnedFd) -> io::Result<()>) -> io::Result<OwnedFd> {
    let mut failed = None;
    for _ in 0..=ASIDE_MAX {
        let (dir, is_new) = opened(root, name)?;
        lock(&dir)?;
        if !is_new && !made_ours(&dir, name)? {
            continue;
        }
        match wipe(&dir) {
            Ok(()) if is_new || attributes::is_plain(&dir) => return Ok(dir),
            // Whoever has it open and gets the lock after us finds it removed.
            Ok(()) => match rustix::fs::unlinkat(root, name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => continue,
                Err(error) => failed = Some(error.into()),
            },
            Err(error) => failed = Some(error),
        }
        if !set_aside(root, name) {
            break;
        }
    }
    Err(failed.unwrap_or_else(|| io::ErrorKind::DirectoryNotEmpty.into()))
}

/// Removes the directory with all that is in it, or whatever else has the name. What cannot be removed is set aside.
fn cleared(root: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    let path = CString::new(name)?;
    let mut failed = None;
    for _ in 0..=ASIDE_MAX {
        let removed = match open_below(root, &path) {
            Ok(dir) => wipe(&dir).and_then(|()| Ok(rustix::fs::unlinkat(root, &*path, AtFlags::REMOVEDIR)?)),
            Err(Errno::NOENT) => return Ok(()),
            Err(Errno::NOTDIR | Errno::LOOP) => {
                rustix::fs::unlinkat(root, &*path, AtFlags::empty()).map_err(Into::into)
            }
            Err(error) => return Err(error.into()),
        };
        let Err(error) = removed else { return Ok(()) };
        failed = Some(error);
        if !set_aside(root, name) {
            break;
        }
    }
    Err(failed.unwrap_or_else(|| io::ErrorKind::DirectoryNotEmpty.into()))
}

fn aside(name: &str, number: u32) -> String {
    format!("{name}.unremovable-{number}")
}

/// False when there are too many of them.
fn set_aside(root: BorrowedFd<'_>, name: &str) -> bool {
    remove_aside(root, name);
    // Not every file system can be asked to replace nothing: a directory with something in it is never replaced.
    (0..ASIDE_MAX).any(|number| rustix::fs::renameat(root, name, root, aside(name, number)).is_ok())
}

/// Removes what was set aside earlier and can go now.
fn remove_aside(root: BorrowedFd<'_>, name: &str) {
    for number in 0..ASIDE_MAX {
        let Ok(name) = CString::new(aside(name, number)) else { return };
        if let Ok(dir) = open_below(root, &name)
            && wipe(&dir).is_ok()
        {
            let _ = rustix::fs::unlinkat(root, &*name, AtFlags::REMOVEDIR);
        }
    }
}

/// Opens the directory; makes it, 0700 and ours, and says so, when it is missing or something else has its name.
fn opened(root: BorrowedFd<'_>, name: &str) -> io::Result<(OwnedFd, bool)> {
    let path = CString::new(name)?;
    match open_below(root, &path) {
        Ok(dir) => return Ok((dir, false)),
        Err(Errno::NOENT) => {}
        Err(Errno::NOTDIR | Errno::LOOP) => rustix::fs::unlinkat(root, &*path, AtFlags::empty())?,
        Err(error) => return Err(error.into()),
    }
    rustix::fs::mkdirat(root, &*path, Mode::RWXU)?;
    Ok((open_below(root, &path)?, true))
}

/// Makes it 0700. Err: it is not ours. False: it was removed before we had its lock.
fn made_ours(dir: &OwnedFd, name: &str) -> io::Result<bool> {
    let stat = rustix::fs::fstat(dir)?;
    if stat.st_uid != rustix::process::geteuid().as_raw() {
        let why = format!("{name} belongs to user {}", stat.st_uid);
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    if stat.st_mode & 0o7777 != 0o700 {
        rustix::fs::fchmod(dir, Mode::RWXU)?;
    }
    Ok(stat.st_nlink > 0)
}

/// Opens a directory right below `dir`, giving its owner (us) access first where the job took that away.
pub(crate) fn open_below(dir: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let open = |flags| {
        let flags = flags | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        match rustix::fs::openat2(dir, name, flags, Mode::empty(), resolve) {
            Err(Errno::NOSYS | Errno::PERM) => crate::same_mount::open(dir, name, flags),
            other => other,
        }
    };
    match open(OFlags::RDONLY) {
        Err(Errno::ACCESS) => {
            let handle = open(OFlags::PATH)?;
            // The link in /proc leads to this very inode: no name is looked up again.
            rustix::fs::chmod(format!("/proc/self/fd/{}", handle.as_raw_fd()), Mode::RWXU)?;
            open(OFlags::RDONLY)
        }
        other => other,
    }
}

/// Names in a directory, a batch of them, read from its start.
fn names(dir: &OwnedFd) -> Result<Vec<(CString, FileType)>, Errno> {
    rustix::fs::seek(dir, rustix::fs::SeekFrom::Start(0))?;
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut entries = RawDir::new(dir, &mut buffer);
    let mut names = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry?;
        if entry.file_name() != c"." && entry.file_name() != c".." {
            names.push((entry.file_name().to_owned(), entry.file_type()));
            if names.len() == BATCH {
                break;
            }
        }
    }
    Ok(names)
}

/// Removes everything in `top`.
fn wipe(top: &OwnedFd) -> io::Result<()> {
    wipe_at(top, 0).map_err(io::Error::from)
}

fn wipe_at(top: &OwnedFd, depth: u32) -> Result<(), Errno> {
    let mut moved = 0_u64;
    loop {
        let names = names(top)?;
        if names.is_empty() {
            return Ok(());
        }
        let mut removed = 0;
        let mut failed = Errno::NOTEMPTY;
        for (name, kind) in names {
            match remove_from_top(top, &name, kind, &mut moved, depth) {
                Ok(()) => removed += 1,
                Err(error) => failed = error,
            }
        }
        if removed == 0 {
            return Err(failed);
        }
    }
}

fn remove_from_top(top: &OwnedFd, name: &CStr, kind: FileType, moved: &mut u64, depth: u32) -> Result<(), Errno> {
    if remove_leaf(top, name, kind)? {
        return Ok(());
    }
    let dir = open_below(top.as_fd(), name)?;
    rustix::fs::fchmod(&dir, Mode::RWXU)?;
    loop {
        let below = names(&dir)?;
        if below.is_empty() {
            break;
        }
        for (name, kind) in below {
            if !remove_leaf(&dir, &name, kind)? {
                // Moving a directory rewrites its `..`, which takes write access to it.
                rustix::fs::fchmod(open_below(dir.as_fd(), &name)?, Mode::RWXU)?;
                match move_up(&dir, &name, top, moved) {
                    Err(Errno::XDEV) if depth < UNMOVED_DEPTH_MAX => wipe_at(&dir, depth + 1)?,
                    done => drop(done?),
                }
            }
        }
    }
    rustix::fs::unlinkat(top, name, AtFlags::REMOVEDIR)
}

/// Removes a file or an empty directory; false for a directory with something in it.
pub(crate) fn remove_leaf(dir: &OwnedFd, name: &CStr, kind: FileType) -> Result<bool, Errno> {
    if kind != FileType::Directory {
        match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(true),
            Err(Errno::ISDIR) => {}
            Err(error) => return Err(error),
        }
    }
    match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Moves a directory to `top` under a name that is free there, or that of an empty directory; that name. XDEV: where it is,
/// nothing can be moved from.
pub(crate) fn move_up(from: &OwnedFd, name: &CStr, top: &OwnedFd, moved: &mut u64) -> Result<CString, Errno> {
    loop {
        *moved += 1;
        let new = CString::new(format!(".wiped-{moved}")).map_err(|_| Errno::INVAL)?;
        // Not every file system can be asked to replace nothing.
        match renamed(from, name, top, &new) {
            Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR) => {}
            Err(Errno::XDEV) => {
                attributes::take_any_project(top).map_err(|_| Errno::XDEV)?;
            }
            other => return other.map(|()| new),
        }
    }
}

fn renamed(from: &OwnedFd, name: &CStr, top: &OwnedFd, new: &CStr) -> Result<(), Errno> {
    #[cfg(test)]
    if hostile::nothing_can_be_moved() {
        return Err(Errno::XDEV);
    }
    rustix::fs::renameat(from, name, top, new)
}
