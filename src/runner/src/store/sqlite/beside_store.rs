//! What a restore writes into the state directory beside the database, and whose directory that may be.
//!
//! Whoever owns the state directory can put links into it. So nothing is done there with another's rights, and nothing is
//! written through a link.

use super::place::{Place, damaged, io_error};
use crate::store::{BackupFile, StoreError};
use rustix::fs::{AtFlags, Mode, OFlags, mkdirat, openat, unlinkat};
use rustix::io::Errno;
use std::fs::{File, Metadata};
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Below the state directory: the files that the last restored backup held.
const FILES_DIR: &str = "restored";

/// Refuses root where another user could put links: it would follow them with root's rights, and leave files that the daemon
/// cannot open. Of a directory that is still to be made the one above it counts.
pub fn refuse_root_in_anothers(dir: &Path) -> Result<(), StoreError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let absolute = std::path::absolute(dir).map_err(|source| io_error("look at", dir, source))?;
    for above in absolute.ancestors() {
        match std::fs::metadata(above) {
            Ok(found) if found.uid() == 0 => {
                refuse_others_on_the_way(&absolute)?;
                // What a link leads to has a way of its own.
                let reached = std::fs::canonicalize(above).map_err(|source| io_error("look at", above, source))?;
                refuse_others_on_the_way(&reached)?;
                return if above == absolute { refuse_open(&reached, &found) } else { Ok(()) };
            }
            Ok(found) => {
                return Err(StoreError::Anothers { path: above.display().to_string(), uid: found.uid() });
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => return Err(io_error("look at", above, source)),
        }
    }
    Ok(())
}

/// Whoever owns a directory or a link on the way decides where it leads.
fn refuse_others_on_the_way(path: &Path) -> Result<(), StoreError> {
    for above in path.ancestors() {
        let Ok(found) = std::fs::symlink_metadata(above) else { continue };
        if found.uid() != 0 {
            return Err(StoreError::Anothers { path: above.display().to_string(), uid: found.uid() });
        }
    }
    Ok(())
}

/// A sticky bit does not keep others from making links.
fn refuse_open(dir: &Path, found: &Metadata) -> Result<(), StoreError> {
    let by_group = found.mode() & 0o020 != 0 && found.gid() != 0;
    if by_group || found.mode() & 0o002 != 0 {
        let (path, mode) = (dir.display().to_string(), found.mode() & 0o7777);
        return Err(StoreError::OpenToOthers { path, mode });
    }
    Ok(())
}

/// Writes the backup's files below the state directory: where they were is not ours to overwrite.
pub(super) fn put_files(place: &Place, files: &[BackupFile]) -> Result<Vec<PathBuf>, StoreError> {
    let dir = place.dir.join(FILES_DIR);
    for file in files {
        // A name from a file that anybody may have written.
        if dir.join(&file.name).file_name() != Some(file.name.as_ref()) {
            let what = format!("it holds a file with the name {:?}", file.name);
            return Err(damaged(&place.db, what));
        }
    }
    if files.is_empty() {
        return Ok(Vec::new());
    }
    let opened = files_dir(place).map_err(|errno| io_error("create", &dir, errno.into()))?;
    let mut paths = Vec::new();
    for file in files {
        let path = dir.join(&file.name);
        write_anew(&opened, file).map_err(|source| io_error("write", &path, source))?;
        paths.push(path);
    }
    Ok(paths)
}

fn files_dir(place: &Place) -> Result<OwnedFd, Errno> {
    let directory = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let state = rustix::fs::open(&place.dir, directory, Mode::empty())?;
    match mkdirat(&state, FILES_DIR, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno),
    }
    openat(&state, FILES_DIR, directory | OFlags::NOFOLLOW, Mode::empty())
}

/// In the place of what an earlier restore left there.
fn write_anew(dir: &OwnedFd, file: &BackupFile) -> std::io::Result<()> {
    match unlinkat(dir, &file.name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut out = File::from(openat(dir, &file.name, flags, Mode::RUSR | Mode::WUSR)?);
    out.write_all(&file.content)?;
    out.sync_all()
}
