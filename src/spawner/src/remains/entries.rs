//! Steps at one name in a directory, for the removal of a user's files.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD, FileType, Mode, OFlags, RawDir, ResolveFlags};
use rustix::io::Errno;

/// Others' directories are looked into so far below a shared one.
const LOOK_DEPTH_MAX: u32 = 2;
/// The same for those in which the user may write.
pub(super) const WRITABLE_DEPTH_MAX: u32 = 16;

/// Calls for everything in a directory until that says to break. What is removed or made meanwhile may be missed.
pub(super) fn each(dir: &OwnedFd, mut act: impl FnMut(&CStr, FileType) -> ControlFlow<()>) -> Result<(), Errno> {
    rustix::fs::seek(dir, rustix::fs::SeekFrom::Start(0))?;
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut entries = RawDir::new(dir, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = match entry {
            // The directory itself was removed meanwhile.
            Err(Errno::NOENT) => break,
            entry => entry?,
        };
        let is_itself = entry.file_name() == c"." || entry.file_name() == c"..";
        if !is_itself && act(entry.file_name(), entry.file_type()).is_break() {
            break;
        }
    }
    Ok(())
}

/// Opens a shared directory. Root says where those are: a link leads to one. None: it is not there, or closed to the user.
pub(super) fn open_shared(path: &Path) -> Result<Option<OwnedFd>, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::openat(CWD, path, flags, Mode::empty()) {
        Ok(dir) => Ok(Some(dir)),
        Err(Errno::ACCESS | Errno::PERM | Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// True for a directory of another in which something of the user's may be.
pub(super) fn is_worth_a_look(dir: &OwnedFd, name: &CStr, depth: u32) -> bool {
    let may_write = || rustix::fs::accessat(dir, name, Access::WRITE_OK | Access::EXEC_OK, AtFlags::empty()).is_ok();
    depth <= LOOK_DEPTH_MAX || (depth <= WRITABLE_DEPTH_MAX && may_write())
}

/// Opens a directory of somebody else.
pub(super) fn open_of_another(parent: impl AsFd, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    match rustix::fs::openat2(&parent, name, flags, Mode::empty(), resolve) {
        Err(Errno::NOSYS) => crate::same_mount::open(parent, name, flags),
        opened => opened,
    }
}

pub(super) fn as_path(name: &CStr) -> &Path {
    Path::new(std::ffi::OsStr::from_bytes(name.to_bytes()))
}

/// Whose it is, and what. None: it is gone, or the directory closed.
pub(super) fn owner(dir: &OwnedFd, name: &CStr) -> Option<(u32, FileType)> {
    let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    Some((stat.st_uid, FileType::from_raw_mode(stat.st_mode)))
}

/// Removes a directory of the user's; false when something of another is in it. Who has something in one that stays can look
/// into it then.
pub(super) fn removed_or_left_open(parent: &OwnedFd, name: &CStr, dir: &OwnedFd) -> Result<bool, Errno> {
    match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(error) => {
            rustix::fs::fchmod(dir, Mode::from_raw_mode(0o755))?;
            if matches!(error, Errno::NOTEMPTY | Errno::EXIST) { Ok(false) } else { Err(error) }
        }
    }
}

/// Takes the content of a file that cannot be removed; of one that runs, or that the file system keeps as it is, its modes.
pub(super) fn empty(dir: &OwnedFd, name: &CStr, kind: FileType) -> Result<(), Errno> {
    if kind != FileType::RegularFile {
        return Ok(());
    }
    let file = rustix::fs::openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    // The link in /proc leads to this very inode: no name is looked up again.
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    rustix::fs::chmod(&link, Mode::RUSR | Mode::WUSR)?;
    let flags = OFlags::WRONLY | OFlags::TRUNC | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::openat(CWD, &link, flags, Mode::empty()) {
        // Whose directory it is could keep it running for ever, or a copy: a user is not to wait for that.
        Err(Errno::TXTBSY | Errno::PERM) => rustix::fs::chmod(&link, Mode::empty()),
        emptied => emptied.map(drop),
    }
}
