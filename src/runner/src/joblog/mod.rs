//! Logs on disk as the daemon reads them: plain, or archived.
//!
//! An archived log is `<job>-<attempt>.log.zst` in the place of `<job>-<attempt>.log`: one zstd frame with the same bytes and a
//! checksum. Its times stay beside it as they are. Where both are there, which is so for a moment while a log is archived, and
//! after a crash in that moment, the plain one is read.
//!
//! Whoever reads an archived log gets it unpacked in a file without a name, in the file system of the logs, which is gone when
//! it is closed: tails, ranges and searches need any byte at once. Nobody is disturbed by a log that is archived while it is read.

mod archive;

pub use archive::{Step, archive};

use ci_runner_spawner::joblog::{Earlier, LogReader, earlier_dirs, log_path};
use rustix::fs::{FileType, Mode, OFlags, fstat, open as open_at_path, openat};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// Behind the name of a log.
const SUFFIX: &str = ci_runner_spawner::joblog::ARCHIVED;

/// Path of an archived log below the log directory.
pub fn archive_path(job: u64, attempt: u32) -> PathBuf {
    let mut path = log_path(job, attempt).into_os_string();
    path.push(SUFFIX);
    path.into()
}

/// Whose log is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Of {
    /// Job id.
    pub job: u64,
    /// Attempt number.
    pub attempt: u32,
    /// See [`LogReader::new`].
    pub start_wall_ms: i64,
    /// What directories where logs were before hold under this name.
    pub earlier: Earlier,
}

/// A reader at the beginning of an attempt's log below the log directory `dir`, archived or not; see [`LogReader::new`].
/// What is there comes before what is in directories where logs were before.
///
/// # Errors
/// The archive cannot be read or unpacked: it is damaged, or there is no room for it.
pub fn open(dir: OwnedFd, of: Of) -> io::Result<LogReader> {
    let Of { job, attempt, start_wall_ms, earlier } = of;
    let mut reader = LogReader::new(dir.try_clone()?, job, attempt, start_wall_ms).taking(Earlier::Others);
    if reader.is_there()? {
        return Ok(reader);
    }
    if let Some(packed) = packed(&dir, job, attempt)? {
        return Ok(LogReader::over(dir, job, attempt, start_wall_ms, unpack(&packed)?));
    }
    let mut reader = reader.taking(earlier);
    if earlier == Earlier::Others || reader.is_there()? {
        return Ok(reader);
    }
    for path in earlier_dirs(&dir)? {
        let Ok(dir) = open_at_path(&path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) else {
            continue;
        };
        if let Some(packed) = packed(&dir, job, attempt)?.filter(|packed| earlier.is_own(&packed.file).unwrap_or(true))
        {
            return Ok(LogReader::over(dir, job, attempt, start_wall_ms, unpack(&packed)?));
        }
    }
    Ok(reader)
}

/// The archive, if there is one. No link is followed, and only a regular file is opened.
fn packed(dir: &OwnedFd, job: u64, attempt: u32) -> io::Result<Option<Packed>> {
    let path = archive_path(job, attempt);
    let (Some(shard), Some(name)) = (path.parent(), path.file_name()) else { return Ok(None) };
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let shard = match openat(dir, shard, flags | OFlags::DIRECTORY, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        opened => opened?,
    };
    let file = match openat(&shard, name, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        opened => opened?,
    };
    if FileType::from_raw_mode(fstat(&file)?.st_mode) != FileType::RegularFile {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the archived log is not a regular file"));
    }
    Ok(Some(Packed { shard, file: file.into() }))
}

struct Packed {
    shard: OwnedFd,
    file: File,
}

/// The bytes in a file that nobody else can open.
fn unpack(packed: &Packed) -> io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = match openat(&packed.shard, ".", flags, Mode::from_raw_mode(0o600)) {
        // File systems without files that have no name, and directories that only others may write to.
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT | Errno::ACCESS | Errno::ROFS) => {
            open_at_path(std::env::temp_dir(), flags, Mode::from_raw_mode(0o600))?
        }
        opened => opened?,
    };
    let mut file = File::from(file);
    zstd::stream::copy_decode(&packed.file, &mut file)?;
    file.flush()?;
    Ok(file)
}

#[cfg(test)]
mod tests;
