//! Opening a directory only where no other file system is mounted on it, without `openat2`: where nobody may make setuid files
//! (`RestrictSUIDSGID=`), that call is refused as if the kernel had none, for no filter can look into its argument.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};
use rustix::io::Errno;

/// Opens what is right below `dir`, following no link. It is not touched before it is known to be on the same mount: another
/// file system answers when it likes. `XDEV`: it is not.
pub(crate) fn open(dir: impl AsFd, name: &CStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    let mount = mount_of(&dir)?;
    let same = |opened: OwnedFd| if mount_of(&opened)? == mount { Ok(opened) } else { Err(Errno::XDEV) };
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    same(rustix::fs::openat(&dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?)?;
    same(rustix::fs::openat(&dir, name, flags, Mode::empty())?)
}

/// The mount's number; that of its device where the kernel (before 5.8) does not tell it: subvolumes of one mount have
/// devices of their own.
fn mount_of(file: impl AsFd) -> Result<(u64, u32, u32), Errno> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let stat = rustix::fs::statx(file, c"", flags, StatxFlags::MNT_ID)?;
    let known = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::MNT_ID);
    Ok(if known { (stat.stx_mnt_id, 0, 0) } else { (0, stat.stx_dev_major, stat.stx_dev_minor) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remains::hostile::mount_for_this_thread;
    use crate::skipped;

    #[test]
    fn directories_are_opened_but_not_mounts_and_links() {
        let dir = tempfile::tempdir().expect("a directory");
        let top: OwnedFd = std::fs::File::open(dir.path()).expect("opens").into();
        let mounted = dir.path().join("mounted");
        std::fs::create_dir(&mounted).expect("made");
        std::os::unix::fs::symlink(&mounted, dir.path().join("link")).expect("linked");
        let open = |name| open(&top, name, OFlags::RDONLY | OFlags::DIRECTORY).map(drop);
        assert_eq!(open(c"mounted"), Ok(()));
        assert!(matches!(open(c"link"), Err(Errno::LOOP | Errno::NOTDIR)));
        assert_eq!(open(c"missing"), Err(Errno::NOENT));
        let look = || match mount_for_this_thread(&mounted) {
            // Its own copy of the mounts has numbers of its own.
            true => {
                let top: OwnedFd = std::fs::File::open(dir.path()).expect("opens").into();
                assert_eq!(super::open(&top, c"mounted", OFlags::RDONLY).map(drop), Err(Errno::XDEV));
            }
            false => skipped::tell("directories_are_opened_but_not_mounts_and_links", "mounting is not permitted"),
        };
        std::thread::scope(|scope| scope.spawn(look).join()).expect("no panic");
    }
}
