//! Names and opening of log files. No component of a path is ever followed as a symbolic link, and only regular files
//! are opened: whoever may write to a log directory cannot send a privileged writer elsewhere.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, fchmod, fstat, mkdirat, openat, renameat, unlinkat};
use rustix::io::Errno;

use super::owner::others_place;

/// So many jobs share one directory: few enough to list, many enough that a million logs need a thousand directories.
const JOBS_PER_DIRECTORY: u64 = 1000;
/// Behind the name of a log that was archived.
pub const ARCHIVED: &str = ".zst";
/// Log files: the owner writes, the group reads.
const FILE_MODE: u32 = 0o640;
/// Their directories.
const DIRECTORY_MODE: u32 = 0o750;
/// Their directories where the log directory is open to the group too.
const SHARED_DIRECTORY_MODE: u32 = 0o770;

/// Path of an attempt's log below the log directory: `<job / 1000>/<job>-<attempt>.log`.
pub fn log_path(job: u64, attempt: u32) -> PathBuf {
    PathBuf::from(shard(job)).join(Kind::Log.file_name(job, attempt))
}

/// Path of the times of an attempt's log below the log directory; the file may be absent.
pub fn times_path(job: u64, attempt: u32) -> PathBuf {
    PathBuf::from(shard(job)).join(Kind::Times.file_name(job, attempt))
}

/// One of the two files of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The bytes.
    Log,
    /// Their times.
    Times,
}

impl Kind {
    fn file_name(self, job: u64, attempt: u32) -> String {
        let suffix = match self {
            Kind::Log => "log",
            Kind::Times => "times",
        };
        format!("{job}-{attempt}.{suffix}")
    }
}

fn shard(job: u64) -> String {
    (job / JOBS_PER_DIRECTORY).to_string()
}

/// Removes what stands under the names of an attempt that has not begun, its archive too: it is another's, whose id is given
/// again after the state was put back from an older copy, or made anew. Best effort: what cannot be removed is appended to.
pub(crate) fn make_way(dir: impl AsFd, job: u64, attempt: u32) {
    let Ok(dir) = open_directory(dir.as_fd(), &shard(job)) else { return };
    let log = Kind::Log.file_name(job, attempt);
    for name in [format!("{log}{ARCHIVED}"), Kind::Times.file_name(job, attempt), log] {
        let _ = unlinkat(&dir, name.as_str(), AtFlags::empty());
    }
}

/// Puts a file into the log directory in the place of what has its name, whole or not at all. Who may write there may have put
/// a link or a pipe where it is written first: that is removed, and never opened.
pub(super) fn replace(dir: &OwnedFd, name: &str, bytes: &[u8], mode: u32) -> io::Result<()> {
    let aside = format!("{name}.tmp");
    match unlinkat(dir, aside.as_str(), AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(openat(dir, aside.as_str(), flags, Mode::RUSR | Mode::WUSR)?);
    file.write_all(bytes)?;
    fchmod(&file, Mode::from_raw_mode(mode))?;
    Ok(renameat(dir, aside.as_str(), dir, name)?)
}

/// The log directory and which attempt's files in it are meant.
pub(super) struct Place {
    /// The log directory.
    pub dir: OwnedFd,
    /// Job id.
    pub job: u64,
    /// Attempt number.
    pub attempt: u32,
}

/// A place that is written to.
pub(super) struct Target {
    /// Where, unless the directory has become another store's.
    pub place: Place,
    /// Id of the store whose job it is.
    pub store: String,
}

impl Target {
    /// Opens for appending, creating directory and file; tells the size found.
    pub fn open_append(&self, kind: Kind) -> io::Result<(File, u64)> {
        let shard = shard(self.place.job);
        let others = others_place(self.place.dir.as_fd(), &self.store)?;
        let logs = others.as_ref().map_or(self.place.dir.as_fd(), AsFd::as_fd);
        let dir = match open_directory(logs, &shard) {
            Err(Errno::NOENT) => {
                make_directory(logs, &shard)?;
                open_directory(logs, &shard)?
            }
            opened => opened?,
        };
        // RDWR: the times of an earlier writer are read before more are appended.
        let flags =
            OFlags::RDWR | OFlags::APPEND | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = openat(&dir, self.place.name(kind)?, flags, Mode::from_raw_mode(FILE_MODE))?;
        let stat = regular(file.as_fd())?;
        if stat.st_size == 0 && stat.st_mode & 0o7777 != FILE_MODE {
            fchmod(&file, Mode::from_raw_mode(FILE_MODE))?;
        }
        Ok((File::from(file), u64::try_from(stat.st_size).unwrap_or(0)))
    }
}

impl Place {
    /// Opens for reading; None while directory or file does not exist.
    pub fn open_read(&self, kind: Kind) -> io::Result<Option<File>> {
        let dir = match open_directory(self.dir.as_fd(), &shard(self.job)) {
            Err(Errno::NOENT) => return Ok(None),
            opened => opened?,
        };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = match openat(&dir, self.name(kind)?, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            opened => opened?,
        };
        regular(file.as_fd())?;
        Ok(Some(File::from(file)))
    }

    fn name(&self, kind: Kind) -> io::Result<CString> {
        Ok(CString::new(kind.file_name(self.job, self.attempt))?)
    }
}

/// In a directory of logs, unless it is there.
pub(super) fn make_directory(dir: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    // Where the group may write to the log directory (writers of several users share it), it may write here.
    let shared = fstat(dir)?.st_mode & 0o020 != 0;
    let mode = if shared { SHARED_DIRECTORY_MODE } else { DIRECTORY_MODE };
    match mkdirat(dir, name, Mode::from_raw_mode(mode)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn open_directory(dir: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(dir, name, flags, Mode::empty())
}

pub(super) fn regular(file: BorrowedFd<'_>) -> io::Result<rustix::fs::Stat> {
    let stat = fstat(file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the log is not a regular file"));
    }
    Ok(stat)
}
