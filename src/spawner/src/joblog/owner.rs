//! Whose logs a directory takes: the store that the last daemon here had, by its id.
//!
//! A restore begins another store, and jobs of the one before may run on. Their logs are made at their first byte, under ids that
//! may be other jobs' by then. So whoever is about to make a log looks here first, and logs of another store go where
//! nobody looks for them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;

use super::earlier::open_dir;
use super::files::{make_directory, open_directory, regular, replace};

/// The file: the id, and a newline.
const NAME: &str = "store-id";
/// No id is longer.
const BYTES_MAX: usize = 64;
/// Whoever writes logs here reads it, also one who is neither owner nor of the group.
const MODE: u32 = 0o644;

/// From now on the log directory takes logs of jobs of this store. Tells which other one's it was.
///
/// # Errors
/// The file cannot be written.
pub fn set_owner(dir: &Path, store: &str) -> io::Result<Option<String>> {
    let before = open_dir(dir).and_then(|dir| owner(dir.as_fd())).unwrap_or_default();
    if before.as_deref() == Some(store) {
        return Ok(None);
    }
    replace(&open_dir(dir)?, NAME, format!("{store}\n").as_bytes(), MODE)?;
    Ok(before)
}

/// Nobody can say whose the logs are from now on; this needs no room.
///
/// # Errors
/// The file cannot be removed.
pub fn disown(dir: &Path) -> io::Result<()> {
    match std::fs::remove_file(dir.join(NAME)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The same, where the directory took logs of some store before. Elsewhere nobody asks.
///
/// # Errors
/// The file cannot be written.
pub fn change_owner(dir: &Path, store: &str) -> io::Result<()> {
    if dir.join(NAME).symlink_metadata().is_ok() { set_owner(dir, store).map(drop) } else { Ok(()) }
}

/// Where jobs of this store log that come to it when the directory has become another's, below the log directory.
pub fn others_path(store: &str) -> PathBuf {
    PathBuf::from(format!("replaced-{store}"))
}

/// That directory, made if it is missing; None: the log directory is this store's, or nobody can say.
pub(super) fn others_place(dir: BorrowedFd<'_>, store: &str) -> io::Result<Option<OwnedFd>> {
    match owner(dir) {
        Ok(Some(owner)) if owner != store => {
            let path = others_path(store);
            let name = path.to_str().ok_or(io::ErrorKind::InvalidInput)?;
            make_directory(dir, name)?;
            Ok(Some(open_directory(dir, name)?))
        }
        // What cannot be read says nothing: a log that may be in the wrong place is better than none.
        Ok(_) | Err(_) => Ok(None),
    }
}

fn owner(dir: BorrowedFd<'_>) -> io::Result<Option<String>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = match openat(dir, NAME, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        opened => opened?,
    };
    regular(file.as_fd())?;
    let mut text = [0; BYTES_MAX];
    let got = rustix::io::read(&file, &mut text)?;
    let id = std::str::from_utf8(&text[..got]).unwrap_or_default().trim_end();
    Ok((!id.is_empty()).then(|| id.to_owned()))
}
