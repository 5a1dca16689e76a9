//! What a job can leave at a directory itself, and what all that is made in it takes over: access lists, other attributes,
//! flags, a project. Such a directory is not handed on.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use rustix::fs::IFlags;
use rustix::io::Errno;

use crate::sys::inode::{XFLAG_HASATTR, XFLAG_PROJINHERIT, fs_xattr, set_fs_xattr};

/// Room for names of attributes; a directory with more is not plain.
const LIST_BYTES: usize = 1024;
/// What file systems say of directories that nobody did anything to: `EXT4_EXTENTS_FL`, `EXT4_INLINE_DATA_FL`. Not
/// `EXT4_INDEX_FL`, for a directory that was large stays as slow to read.
const USUAL_FLAGS: u32 = 0x8_0000 | 0x1000_0000;

/// True for a directory that is as good as new; it is empty and has the modes it should have. Three system calls.
pub(super) fn is_plain(dir: &OwnedFd) -> bool {
    has_no_attributes(dir) && has_no_flags(dir)
}

fn has_no_attributes(dir: &OwnedFd) -> bool {
    let mut list = [MaybeUninit::uninit(); LIST_BYTES];
    match rustix::fs::flistxattr(dir, &mut list) {
        Ok((names, _)) => names.split(|byte| *byte == 0).all(|name| name.is_empty() || is_systems(name)),
        Err(error) => knows_none(error),
    }
}

/// Labels of SELinux and its like, which are on everything and not a job's to choose.
fn is_systems(name: &[u8]) -> bool {
    name.starts_with(b"security.") && name != b"security.capability"
}

fn has_no_flags(dir: &OwnedFd) -> bool {
    let flags = match rustix::fs::ioctl_getflags(dir) {
        Ok(flags) => flags.difference(IFlags::from_bits_retain(USUAL_FLAGS)).is_empty(),
        Err(error) => knows_none(error),
    };
    flags
        && match fs_xattr(dir) {
            Ok(found) => {
                found.xflags & !XFLAG_HASATTR == 0 && found.projid == 0 && found.extsize == 0 && found.cowextsize == 0
            }
            Err(error) => knows_none(error),
        }
}

/// True for a file system that has no such thing.
fn knows_none(error: Errno) -> bool {
    matches!(error, Errno::NOTTY | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL)
}

/// Lets directories of any project be moved here.
pub(super) fn take_any_project(dir: &OwnedFd) -> Result<(), Errno> {
    let mut found = fs_xattr(dir)?;
    if found.xflags & XFLAG_PROJINHERIT == 0 {
        return Err(Errno::XDEV);
    }
    found.xflags &= !XFLAG_PROJINHERIT;
    set_fs_xattr(dir, &found)
}
