//! The verdict file of an attempt: how its unit ended, from the spawner to the shim and to every later spawner.
//!
//! Written once PID 1 has said how the main process ended; a result that was seen is not lost with whoever saw it.
//!
//! Where it cannot be written (somebody removed the directory, or the disk is full) the shim gets it in its lock file, which it
//! holds open and which has room.

use std::io;
use std::os::fd::{OwnedFd, RawFd};

use rustix::fs::{CWD, Mode, OFlags};

use serde::{Deserialize, Serialize};

use crate::attempts::Attempts;
use crate::protocol::{AttemptKey, ExitRecord, ExitResult, Used, names};
use crate::shim::clock::Started;
use crate::sys;

/// A verdict is no larger: its only long part is a cause.
const BYTES_MAX: usize = 4 * 1024;
/// Where it begins in a lock file: far behind who holds that, in the same page.
const HANDED_AT: u64 = 1024;

/// How a unit ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ending {
    /// None: nobody can say.
    pub(super) result: Option<ExitResult>,
    /// Wall clock at the end of the main process, milliseconds since 1970.
    pub(super) ended_wall_ms: i64,
    /// CLOCK_BOOTTIME at the end of the main process, microseconds; 0: it never was.
    pub(super) ended_boot_us: u64,
    /// CPU time in user mode, microseconds.
    pub(super) cpu_user_us: u64,
    /// CPU time in the kernel, microseconds.
    pub(super) cpu_system_us: u64,
    /// Most memory of the unit, bytes; 0 where nobody counts it.
    pub(super) peak_memory_bytes: u64,
    /// Processes that were alive when the main process had ended.
    pub(super) leftovers: u32,
    /// What else its cgroup or PID 1 told, where anybody counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) used: Option<Box<Used>>,
}

impl Ending {
    /// Of a unit that never had a main process, or of which nothing is known.
    pub(super) fn never() -> Self {
        Self {
            result: None,
            ended_wall_ms: 0,
            ended_boot_us: 0,
            cpu_user_us: 0,
            cpu_system_us: 0,
            peak_memory_bytes: 0,
            leftovers: 0,
            used: None,
        }
    }

    /// The record of an attempt that was handed over at `started`.
    pub(super) fn record(&self, key: &AttemptKey, result: ExitResult, started: Started) -> ExitRecord {
        let ended = self.ended_boot_us != 0;
        ExitRecord {
            ended_wall_ms: if ended { self.ended_wall_ms.max(started.wall_ms()) } else { sys::wall_ms() },
            run_us: if ended { started.until_us(self.ended_boot_us) } else { 0 },
            cpu_user_us: self.cpu_user_us,
            cpu_system_us: self.cpu_system_us,
            peak_memory_bytes: self.peak_memory_bytes,
            leftovers: self.leftovers,
            used: self.used.clone(),
            ..started.record(key, result)
        }
    }
}

/// Writes it in one step; an earlier one stays.
pub(super) fn write(attempts: &Attempts, key: &AttemptKey, ending: &Ending) -> io::Result<()> {
    if read(attempts, key)?.is_some() {
        return Ok(());
    }
    attempts.write_small(key, names::VERDICT, &serde_json::to_vec(ending)?)
}

/// Reads it; None when there is certainly none. It was renamed into place by the spawner, so that it is whole or not there.
pub(super) fn read(attempts: &Attempts, key: &AttemptKey) -> io::Result<Option<Ending>> {
    let text = attempts.read_small(key, names::VERDICT, BYTES_MAX)?;
    Ok(text.and_then(|text| serde_json::from_slice(&text).ok()))
}

/// Gives it to the shim `pid`, in the file that its descriptor `lock_fd` is, whatever became of the file's name.
pub(super) fn hand(pid: i32, lock_fd: RawFd, ending: &Ending) -> io::Result<()> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let lock = rustix::fs::openat(CWD, format!("/proc/{pid}/fd/{lock_fd}"), flags, Mode::empty())?;
    // A later process with this id has another file there.
    let identity = Attempts::identity(&lock)?;
    if identity.is_none_or(|identity| (identity.pid, identity.lock_fd) != (pid, lock_fd)) {
        return Err(io::ErrorKind::NotFound.into());
    }
    let text = serde_json::to_vec(ending)?;
    match rustix::io::pwrite(&lock, &text, HANDED_AT)? {
        written if written == text.len() => Ok(()),
        _ => Err(io::ErrorKind::StorageFull.into()),
    }
}

/// Shim: what was handed over in its lock file.
pub(super) fn handed(lock: &OwnedFd) -> Option<Ending> {
    let mut text = vec![0; BYTES_MAX];
    let got = rustix::io::pread(lock, &mut text, HANDED_AT).ok()?;
    serde_json::from_slice(&text[..got]).ok()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;
    use crate::attempts::{Identity, Locked};

    #[test]
    fn a_verdict_reaches_a_shim_whose_directory_is_gone() {
        let dir = tempfile::tempdir().expect("a directory");
        let home = std::fs::File::open(dir.path()).expect("opens");
        let attempts = Attempts::open(&home).expect("opens");
        let key: AttemptKey = "0123abcd-7-1".parse().expect("a key");
        attempts.make(&key).expect("made");
        let Ok(Locked::Taken(lock)) = attempts.lock(&key) else { panic!("not taken") };
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        let ending = Ending { result: Some(ExitResult::Exited { code: 7 }), ..Ending::never() };
        let lock_fd = lock.as_raw_fd();
        // Nobody has said who holds it.
        assert!(hand(pid, lock_fd, &ending).is_err());
        let identity = Identity { pid, lock_fd, slot: "-".to_owned(), ..Identity::default() };
        rustix::io::pwrite(&lock, identity.encode().as_bytes(), 0).expect("written");
        assert_eq!(handed(&lock), None);
        std::fs::remove_dir_all(dir.path().join(names::ATTEMPTS_DIR)).expect("removed");
        assert!(write(&attempts, &key, &ending).is_err());
        hand(pid, lock_fd, &ending).expect("handed");
        assert_eq!(handed(&lock), Some(ending));
        assert_eq!(Attempts::identity(&lock).expect("read"), Some(identity));
    }
}
