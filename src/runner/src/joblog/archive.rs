//! Archives one log: packed, on disk, in its place; only then the plain one goes.
//!
//! A crash between two steps leaves the plain log, or both: then the plain one counts, and the next time begins anew. Whoever
//! calls makes sure that nobody writes the log any more, and that no log is archived twice at once.

use super::SUFFIX;
use std::fs::{File, FileTimes, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// As zstd's own: logs shrink to a tenth, and more effort hardly shrinks them further.
const LEVEL: i32 = 3;
/// Of logs.
const MODE: u32 = 0o640;

/// What has been done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The packed log is on disk under another name.
    Written,
    /// It is in its place.
    Renamed,
    /// The plain log is gone.
    Removed,
}

/// Archives the log at `path`, which ends with `.log`; tells how many bytes it has now. `after` each step an error ends it there: for
/// tests of what a crash leaves.
///
/// # Errors
/// A file cannot be read or written; the plain log is there.
pub fn archive(path: &Path, after: &mut dyn FnMut(Step) -> io::Result<()>) -> io::Result<u64> {
    let packed = behind(path, SUFFIX);
    let unfinished = behind(&packed, ".tmp");
    let bytes = match write(path, &unfinished) {
        Ok(bytes) => bytes,
        Err(error) => {
            // What is left of it would only take room.
            drop(std::fs::remove_file(&unfinished));
            return Err(error);
        }
    };
    after(Step::Written)?;
    std::fs::rename(&unfinished, &packed)?;
    if let Some(shard) = path.parent() {
        File::open(shard)?.sync_all()?;
    }
    after(Step::Renamed)?;
    std::fs::remove_file(path)?;
    after(Step::Removed)?;
    Ok(bytes)
}

fn write(path: &Path, unfinished: &Path) -> io::Result<u64> {
    let mut log = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    let data = log.metadata()?;
    if !data.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    // Left by a crash.
    match std::fs::remove_file(unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(unfinished)?;
    let mut encoder = zstd::Encoder::new(&file, LEVEL)?;
    encoder.include_checksum(true)?;
    encoder.set_pledged_src_size(Some(data.len()))?;
    io::copy(&mut log, &mut encoder)?;
    encoder.finish()?;
    // A log whose job is gone has no other age than its file's.
    file.set_times(FileTimes::new().set_modified(data.modified()?))?;
    file.sync_all()?;
    Ok(file.metadata()?.len())
}

fn behind(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
