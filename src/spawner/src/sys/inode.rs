//! What file systems keep of an inode beside its modes.

use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;

/// `struct fsxattr` of `linux/fs.h`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FsXattr {
    /// `FS_XFLAG_…`
    pub(crate) xflags: u32,
    /// Hint for the size of extents.
    pub(crate) extsize: u32,
    nextents: u32,
    /// Whose quota it counts against.
    pub(crate) projid: u32,
    /// Hint for the size of extents that are copied on write.
    pub(crate) cowextsize: u32,
    pad: [u8; 8],
}

/// What is new in it takes its project from it.
pub(crate) const XFLAG_PROJINHERIT: u32 = 0x200;
/// It has extended attributes.
pub(crate) const XFLAG_HASATTR: u32 = 0x8000_0000;

// As on every machine but Alpha, MIPS, PowerPC and SPARC, for which nothing of this is built.
const FS_IOC_FSGETXATTR: u32 = 0x801C_581F;
const FS_IOC_FSSETXATTR: u32 = 0x401C_5820;

/// Asks for it.
pub(crate) fn fs_xattr(file: impl AsFd) -> Result<FsXattr, Errno> {
    let mut found = FsXattr::default();
    // SAFETY: the kernel writes a struct of this size and layout, which lives through the call.
    let result = unsafe { libc::ioctl(file.as_fd().as_raw_fd(), FS_IOC_FSGETXATTR as _, &raw mut found) };
    checked(result).map(|()| found)
}

/// Sets it.
pub(crate) fn set_fs_xattr(file: impl AsFd, wanted: &FsXattr) -> Result<(), Errno> {
    // SAFETY: the kernel reads a struct of this size and layout, which lives through the call.
    checked(unsafe { libc::ioctl(file.as_fd().as_raw_fd(), FS_IOC_FSSETXATTR as _, &raw const *wanted) })
}

fn checked(result: libc::c_int) -> Result<(), Errno> {
    if result >= 0 {
        return Ok(());
    }
    Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
}
