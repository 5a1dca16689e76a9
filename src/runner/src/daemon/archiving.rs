//! Archives logs that are old enough, a bounded amount at a time.

use super::gc::{Ends, LogFile, age, directories_in, ends_of, files_in};
use crate::joblog;
use ci_runner_core::id::JobId;
use ci_runner_core::time::Instant;
use std::collections::HashSet;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

/// Packed at one go, before packing: some seconds of one processor. What is left waits for the next collection.
const BYTES_AT_ONCE: u64 = 2 << 30;
/// Smaller ones take a block of the disk either way.
const BYTES_MIN: u64 = 4_096;
/// One at a time: two that write one file would spoil it.
static RUNS: Mutex<()> = Mutex::new(());

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Archived {
    /// Logs.
    pub logs: u64,
    /// Their bytes before.
    pub before_bytes: u64,
    /// And now.
    pub after_bytes: u64,
}

/// Archives the logs of jobs that ended longer ago than `after`; never those of open or `running` ones.
pub fn archive_logs(dir: &Path, after: Duration, running: &[JobId], now: Instant, ends: &Ends<'_>) -> Archived {
    let mut archived = Archived::default();
    let Ok(_alone) = RUNS.try_lock() else { return archived };
    let running: HashSet<JobId> = running.iter().copied().collect();
    for shard in directories_in(dir) {
        let files = files_in(&shard);
        let plain = |file: &&LogFile| file.path.extension().is_some_and(|suffix| suffix == "log");
        if !files.iter().any(|file| plain(&file)) {
            continue;
        }
        // Where ages are not known, that was said when old logs were looked for.
        let Ok(ends) = ends_of(&files, ends) else { continue };
        for file in files.iter().filter(plain).filter(|file| file.bytes >= BYTES_MIN && !file.is_of(&running)) {
            if age(file, &ends, now).is_none_or(|age| age <= after) {
                continue;
            }
            if archived.before_bytes >= BYTES_AT_ONCE {
                return archived;
            }
            match joblog::archive(&file.path, &mut |_| Ok(())) {
                Ok(bytes) => {
                    archived.logs += 1;
                    archived.before_bytes += file.bytes;
                    archived.after_bytes += bytes;
                }
                Err(error) => log::warn!("cannot archive {}: {error}", file.path.display()),
            }
        }
    }
    archived
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_old_and_ended_ones_are_archived() {
        let dir = tempfile::tempdir().unwrap();
        let shard = dir.path().join("0");
        std::fs::create_dir(&shard).unwrap();
        let text = b"the same again and again\n".repeat(1_000);
        for name in ["1-1.log", "1-1.times", "2-1.log", "3-1.log", "4-1.log", "5-1.log.zst"] {
            std::fs::write(shard.join(name), &text).unwrap();
        }
        std::fs::write(shard.join("1-2.log"), "short").unwrap();
        let id = |number| JobId::new(number).unwrap();
        let now = Instant(100 * 3_600_000);
        let ended = |hours: i64| Some(Instant(now.0 - hours * 3_600_000));
        let ends = vec![(id(1), ended(30)), (id(2), ended(2)), (id(3), None), (id(4), ended(30))];
        let ends = |_, _| Ok(ends.clone());
        let day = Duration::from_secs(86_400);
        let archived = archive_logs(dir.path(), day, &[id(4)], now, &ends);
        assert_eq!((archived.logs, archived.before_bytes), (1, text.len() as u64));
        let mut names: Vec<_> = std::fs::read_dir(&shard).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["1-1.log.zst", "1-1.times", "1-2.log", "2-1.log", "3-1.log", "4-1.log", "5-1.log.zst"]);
        assert_eq!(archive_logs(dir.path(), day, &[id(4)], now, &ends), Archived::default());
    }
}
