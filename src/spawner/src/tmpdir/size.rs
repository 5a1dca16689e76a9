//! How much of the disk a directory takes: a look, bounded in what it counts, that follows no link.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};

/// Entries that are counted; a directory with more is not measured, for the look would take longer than the job.
const ENTRIES_MAX: usize = 10_000;
/// A unit of `st_blocks`.
const BLOCK_BYTES: u64 = 512;

/// Space of everything in `top`, bytes; None: too much to look at, or it cannot be looked at.
pub(super) fn disk_bytes(top: &OwnedFd) -> Option<u64> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut left = vec![rustix::fs::openat(top, ".", flags, Mode::empty()).ok()?];
    let (mut bytes, mut entries) = (0_u64, 0);
    while let Some(dir) = left.pop() {
        for entry in rustix::fs::Dir::read_from(&dir).ok()? {
            let entry = entry.ok()?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            entries += 1;
            if entries > ENTRIES_MAX {
                return None;
            }
            let Ok(stat) = rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            bytes = bytes.saturating_add(u64::try_from(stat.st_blocks).unwrap_or(0) * BLOCK_BYTES);
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                left.push(rustix::fs::openat(dir.as_fd(), name, flags, Mode::empty()).ok()?);
            }
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_below_is_counted_once_and_links_are_not_followed() {
        let dir = tempfile::tempdir().expect("a directory");
        let top: OwnedFd = std::fs::File::open(dir.path()).expect("opens").into();
        assert_eq!(disk_bytes(&top), Some(0));
        std::fs::create_dir(dir.path().join("below")).expect("made");
        std::fs::write(dir.path().join("below/file"), vec![1; 100_000]).expect("written");
        std::os::unix::fs::symlink("/", dir.path().join("root")).expect("made");
        let bytes = disk_bytes(&top).expect("counted");
        assert!((100_000..300_000).contains(&bytes), "{bytes}");
        for number in 0..ENTRIES_MAX {
            std::fs::write(dir.path().join(number.to_string()), "").expect("written");
        }
        assert_eq!(disk_bytes(&top), None);
    }
}
