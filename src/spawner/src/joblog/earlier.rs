//! Log directories that were used before this one: attempts that began there write there until they end, and what is there stays
//! readable. A file in the log directory names them, so that whoever looks for a log finds it.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};
use rustix::io::Errno;

use super::files::replace;

/// The file: paths, the newest first, a NUL behind each.
const NAME: &str = "earlier-log-dirs";
/// Those who read logs are told of them.
const MODE: u32 = 0o644;
/// So many are looked through.
const MOST: usize = 16;
const BYTES_MAX: usize = MOST * 4096;

/// The log directories that were used before `dir`, the newest first. One that somebody else names is not believed.
///
/// # Errors
/// The file cannot be read.
pub fn earlier_dirs(dir: impl AsFd) -> io::Result<Vec<PathBuf>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = match openat(dir, NAME, flags, Mode::empty()) {
        Err(Errno::NOENT | Errno::LOOP) => return Ok(Vec::new()),
        opened => opened?,
    };
    let stat = fstat(&file)?;
    let is_ours = stat.st_uid == rustix::process::geteuid().as_raw();
    if !is_ours || FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Ok(Vec::new());
    }
    let mut text = vec![0; BYTES_MAX];
    let got = rustix::io::read(&file, &mut text)?;
    let paths = text[..got].split(|byte| *byte == 0).filter(|path| !path.is_empty());
    Ok(paths.take(MOST).map(|path| PathBuf::from(OsString::from_vec(path.to_vec()))).collect())
}

/// The same by path; none where it cannot be told.
pub fn earlier_dirs_of(dir: &Path) -> Vec<PathBuf> {
    open_dir(dir).and_then(earlier_dirs).unwrap_or_default()
}

/// From now on logs are in `now`; those in `before`, and where that came after others, are found still.
///
/// # Errors
/// The file cannot be written.
pub fn come_after(before: &Path, now: &Path) -> io::Result<()> {
    let known = [before.to_owned()].into_iter().chain(earlier_dirs_of(before)).chain(earlier_dirs_of(now));
    let mut dirs: Vec<PathBuf> = Vec::new();
    for dir in known.filter(|dir| dir != now && dir.is_dir()) {
        if dirs.len() < MOST && !dirs.contains(&dir) {
            dirs.push(dir);
        }
    }
    let text: Vec<u8> = dirs.iter().flat_map(|dir| dir.as_os_str().as_bytes().iter().copied().chain([0])).collect();
    replace(&open_dir(now)?, NAME, &text, MODE)
}

pub(super) fn open_dir(dir: &Path) -> io::Result<OwnedFd> {
    Ok(openat(CWD, dir, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_remembered_in_their_order_and_once() {
        let root = tempfile::tempdir().expect("a directory");
        let [a, b, c] = ["a", "b", "c"].map(|name| root.path().join(name));
        for dir in [&a, &b, &c] {
            std::fs::create_dir(dir).expect("made");
        }
        come_after(&a, &b).expect("written");
        come_after(&b, &c).expect("written");
        assert_eq!(earlier_dirs_of(&c), [b.clone(), a.clone()]);
        come_after(&c, &a).expect("written");
        assert_eq!(earlier_dirs_of(&a), [c.clone(), b.clone()]);
        std::fs::remove_dir_all(&b).expect("removed");
        come_after(&a, &c).expect("written");
        assert_eq!(earlier_dirs_of(&c), [a]);
    }

    #[test]
    fn a_link_is_not_believed() {
        let root = tempfile::tempdir().expect("a directory");
        std::fs::write(root.path().join("elsewhere"), "/etc\0").expect("written");
        std::os::unix::fs::symlink(root.path().join("elsewhere"), root.path().join(NAME)).expect("linked");
        assert!(earlier_dirs_of(root.path()).is_empty());
    }
}
