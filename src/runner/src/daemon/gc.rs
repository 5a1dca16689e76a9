//! Old logs. A log belongs to a job by its name; a running job's log is never trimmed, however long it was silent.

use ci_runner_core::id::JobId;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Logs touched since then are left alone whatever the limits say: their job may just have started.
const YOUNG: Duration = Duration::from_secs(3600);

struct LogFile {
    path: PathBuf,
    bytes: u64,
    modified: SystemTime,
}

/// What went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trimmed {
    /// Files.
    pub logs: u64,
    /// Their length in all.
    pub bytes: u64,
}

/// The length of all logs.
pub fn log_bytes(dir: &Path) -> u64 {
    directories_in(dir).iter().flat_map(|shard| files_in(shard)).map(|file| file.bytes).sum()
}

impl Trimmed {
    fn add(&mut self, file: &LogFile) {
        self.logs += 1;
        self.bytes += file.bytes;
    }
}

impl std::ops::AddAssign for Trimmed {
    fn add_assign(&mut self, other: Self) {
        self.logs += other.logs;
        self.bytes += other.bytes;
    }
}

/// Removes the logs of jobs that are gone.
pub fn remove_logs(dir: &Path, jobs: &[JobId]) -> Trimmed {
    let mut trimmed = Trimmed::default();
    for job in jobs {
        let shard = ci_runner_spawner::joblog::log_path(job.get(), 1);
        let Some(shard) = shard.parent().map(|parent| dir.join(parent)) else { continue };
        let prefix = format!("{job}-");
        for file in files_in(&shard) {
            let name = file.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if name.starts_with(&prefix) && remove(&file.path) {
                trimmed.add(&file);
            }
        }
    }
    trimmed
}

/// Removes logs beyond an age, and the oldest beyond a total size; never those of `running` jobs.
pub fn trim_logs(dir: &Path, max_age: Option<Duration>, bytes_max: Option<u64>, running: &[JobId]) -> Trimmed {
    let mut trimmed = Trimmed::default();
    let running: HashSet<u64> = running.iter().map(|job| job.get()).collect();
    let mut files: Vec<LogFile> = directories_in(dir).iter().flat_map(|shard| files_in(shard)).collect();
    files.sort_by_key(|file| file.modified);
    let now = SystemTime::now();
    let mut total: u64 = files.iter().map(|file| file.bytes).sum();
    for file in files {
        let age = now.duration_since(file.modified).unwrap_or_default();
        let too_old = max_age.is_some_and(|max| age > max);
        let too_much = bytes_max.is_some_and(|max| total > max);
        let in_use = job_of(&file.path).is_some_and(|job| running.contains(&job));
        if age > YOUNG && !in_use && (too_old || too_much) {
            total -= file.bytes;
            if remove(&file.path) {
                trimmed.add(&file);
            }
        }
    }
    for shard in directories_in(dir) {
        // Fails while it holds anything, which is what we want.
        drop(std::fs::remove_dir(shard));
    }
    trimmed
}

/// The job a log's name tells: `<job>-<attempt>.log`.
fn job_of(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.split('-').next()?.parse().ok()
}

/// True when it was there and is gone.
fn remove(path: &Path) -> bool {
    let removed = std::fs::remove_file(path);
    if let Err(error) = &removed
        && error.kind() != std::io::ErrorKind::NotFound
    {
        log::warn!("cannot remove {}: {error}", path.display());
    }
    removed.is_ok()
}

fn directories_in(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

fn files_in(dir: &Path) -> Vec<LogFile> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let file = |entry: std::fs::DirEntry| {
        let data = entry.metadata().ok().filter(std::fs::Metadata::is_file)?;
        Some(LogFile { path: entry.path(), bytes: data.len(), modified: data.modified().ok()? })
    };
    entries.filter_map(file).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_first_and_young_ones_stay() {
        let dir = tempfile::tempdir().expect("directory");
        let shard = dir.path().join("0");
        std::fs::create_dir(&shard).expect("shard");
        let hour = Duration::from_secs(3600);
        for (name, hours) in [("1-1.log", 30), ("2-1.log", 20), ("3-1.log", 10), ("4-1.log", 0)] {
            let path = shard.join(name);
            std::fs::write(&path, [0u8; 100]).expect("file");
            let file = std::fs::File::options().write(true).open(&path).expect("open");
            file.set_modified(SystemTime::now() - hour * hours).expect("time");
        }
        let left = || {
            let mut names: Vec<String> = files_in(&shard)
                .iter()
                .map(|file| file.path.file_name().expect("name").to_string_lossy().into())
                .collect();
            names.sort();
            names
        };
        trim_logs(dir.path(), Some(hour * 25), None, &[JobId::new(1).expect("id")]);
        assert_eq!(left(), ["1-1.log", "2-1.log", "3-1.log", "4-1.log"], "silent, but running");
        let trimmed = trim_logs(dir.path(), Some(hour * 25), None, &[]);
        assert_eq!(trimmed, Trimmed { logs: 1, bytes: 100 });
        assert_eq!(left(), ["2-1.log", "3-1.log", "4-1.log"]);
        trim_logs(dir.path(), None, Some(200), &[]);
        assert_eq!(left(), ["3-1.log", "4-1.log"]);
        trim_logs(dir.path(), Some(Duration::ZERO), Some(0), &[]);
        assert_eq!(left(), ["4-1.log"], "young: its job may be running");
        remove_logs(dir.path(), &[JobId::new(4).expect("id")]);
        assert!(left().is_empty());
    }
}
