//! Old logs. A log belongs to a job by its name; an open job's logs are never trimmed, however long they were silent.
//!
//! A log is as old as the end of its job, in engine time: a clock that was set forward removes nothing (decision 0001). Only
//! a log whose job is gone has no other age than its file's.

use super::engine::chain;
use crate::store::{JobEnd, StoreError};
use ci_runner_core::id::JobId;
use ci_runner_core::time::Instant;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Logs of jobs that ended since then are left alone whatever the limits say: somebody may be about to read them.
const YOUNG: Duration = Duration::from_secs(3600);

/// A file of a log.
pub(super) struct LogFile {
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
    modified: SystemTime,
}

/// What logs are held to.
#[derive(Clone, Copy, Debug)]
pub struct LogLimits {
    /// Older ones go.
    pub max_age: Option<Duration>,
    /// The oldest go while all are larger.
    pub bytes_max: Option<u64>,
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

impl LogFile {
    pub(super) fn is_of(&self, jobs: &HashSet<JobId>) -> bool {
        job_of(&self.path).is_some_and(|job| jobs.contains(&job))
    }
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

/// When the jobs of a range of ids ended. Those that are gone are left out.
pub type Ends<'a> = dyn Fn(JobId, JobId) -> Result<Vec<JobEnd>, StoreError> + 'a;

/// Removes logs beyond an age, and the oldest beyond a total size; never those of open jobs, nor of `running` ones, whose ends
/// may not be on disk yet.
pub fn trim_logs(dir: &Path, limits: LogLimits, running: &[JobId], now: Instant, ends: &Ends<'_>) -> Trimmed {
    let mut trimmed = Trimmed::default();
    let running: HashSet<JobId> = running.iter().copied().collect();
    let shards = directories_in(dir);
    let mut total = 0;
    let mut old: Vec<(Duration, LogFile)> = Vec::new();
    for shard in &shards {
        let files = files_in(shard);
        total += files.iter().map(|file| file.bytes).sum::<u64>();
        match ends_of(&files, ends) {
            Ok(ends) => {
                let aged = files.into_iter().filter_map(|file| Some((age(&file, &ends, now)?, file)));
                let may_go = |(age, file): &(Duration, LogFile)| *age > YOUNG && !file.is_of(&running);
                old.extend(aged.filter(may_go));
            }
            Err(error) => log::warn!("how old logs are is not known, they stay: {}", chain(&error)),
        }
    }
    old.sort_by_key(|(age, _)| std::cmp::Reverse(*age));
    for (age, file) in old {
        let too_old = limits.max_age.is_some_and(|max| age > max);
        let too_much = limits.bytes_max.is_some_and(|max| total > max);
        if too_old || too_much {
            total -= file.bytes;
            if remove(&file.path) {
                trimmed.add(&file);
            }
        }
    }
    for shard in shards {
        // Fails while it holds anything, which is what we want.
        drop(std::fs::remove_dir(shard));
    }
    trimmed
}

/// How old a log is; None: its job is open.
pub(super) fn age(file: &LogFile, ends: &HashMap<JobId, Option<Instant>>, now: Instant) -> Option<Duration> {
    match job_of(&file.path).and_then(|job| ends.get(&job)) {
        Some(ended) => ended.map(|ended| Duration::from_millis(now.since_ms(ended))),
        None => Some(SystemTime::now().duration_since(file.modified).unwrap_or_default()),
    }
}

/// What the store knows of the jobs of a directory's files.
pub(super) fn ends_of(files: &[LogFile], ends: &Ends<'_>) -> Result<HashMap<JobId, Option<Instant>>, StoreError> {
    let jobs = || files.iter().filter_map(|file| job_of(&file.path));
    let Some((first, last)) = jobs().min().zip(jobs().max()) else { return Ok(HashMap::new()) };
    Ok(ends(first, last)?.into_iter().collect())
}

/// The job a log's name tells: `<job>-<attempt>.log`.
fn job_of(path: &Path) -> Option<JobId> {
    JobId::new(path.file_name()?.to_str()?.split('-').next()?.parse().ok()?)
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

pub(super) fn directories_in(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let is_shard = |entry: &std::fs::DirEntry| entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit);
    let is_dir = |entry: &std::fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    entries.filter(|entry| is_shard(entry) && is_dir(entry)).map(|entry| entry.path()).collect()
}

/// Only what has a log's name: the directory may be used for something else by now.
pub(super) fn files_in(dir: &Path) -> Vec<LogFile> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let file = |entry: std::fs::DirEntry| {
        let data = entry.metadata().ok().filter(std::fs::Metadata::is_file)?;
        job_of(&entry.path())?;
        Some(LogFile { path: entry.path(), bytes: data.len(), modified: data.modified().ok()? })
    };
    entries.filter_map(file).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const NOW: Instant = Instant(1_000 * 3_600_000);
    const NO_LIMITS: LogLimits = LogLimits { max_age: None, bytes_max: None };

    /// A directory of logs whose files were written so many hours ago by the date.
    fn logs(files: &[(&str, u32)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("directory");
        let shard = dir.path().join("0");
        std::fs::create_dir(&shard).expect("shard");
        for (name, hours) in files {
            let path = shard.join(name);
            std::fs::write(&path, [0u8; 100]).expect("file");
            let file = std::fs::File::options().write(true).open(&path).expect("open");
            file.set_modified(SystemTime::now() - HOUR * *hours).expect("time");
        }
        dir
    }

    fn left(dir: &tempfile::TempDir) -> Vec<String> {
        let name = |file: &LogFile| file.path.file_name().expect("name").to_string_lossy().into_owned();
        let mut names: Vec<String> = files_in(&dir.path().join("0")).iter().map(name).collect();
        names.sort();
        names
    }

    fn id(number: u64) -> JobId {
        JobId::new(number).expect("id")
    }

    /// Jobs that ended so many hours ago in engine time, or are open.
    fn ended(jobs: &[(u64, Option<i64>)]) -> impl Fn(JobId, JobId) -> Result<Vec<JobEnd>, StoreError> {
        let jobs: Vec<JobEnd> =
            jobs.iter().map(|(job, hours)| (id(*job), hours.map(|hours| Instant(NOW.0 - hours * 3_600_000)))).collect();
        move |first, last| Ok(jobs.iter().filter(|(job, _)| (first..=last).contains(job)).copied().collect())
    }

    /// The date said a year: a clock that was set forward, or files that somebody touched.
    #[test]
    fn what_the_date_says_makes_no_log_older_or_younger() {
        let year = 365 * 24;
        let dir = logs(&[("1-1.log", year), ("2-1.log", year), ("3-1.log", 0), ("4-1.log", year), ("9-1.log", year)]);
        let ends = ended(&[(1, Some(5)), (2, Some(30)), (3, Some(20)), (4, None)]);
        let limits = LogLimits { max_age: Some(HOUR * 25), bytes_max: None };
        trim_logs(dir.path(), limits, &[], NOW, &ends);
        assert_eq!(left(&dir), ["1-1.log", "3-1.log", "4-1.log"], "2 is older than 25 h; nobody knows job 9");
        trim_logs(dir.path(), LogLimits { bytes_max: Some(0), ..NO_LIMITS }, &[id(3)], NOW, &ends);
        assert_eq!(left(&dir), ["3-1.log", "4-1.log"], "what runs or is open stays, however much there is");
        let broken = |_, _| Err(StoreError::Full);
        trim_logs(dir.path(), LogLimits { bytes_max: Some(0), ..NO_LIMITS }, &[], NOW, &broken);
        assert_eq!(left(&dir), ["3-1.log", "4-1.log"], "nothing goes whose age is not known");
    }

    #[test]
    fn the_oldest_go_first_and_young_ones_stay() {
        let dir = logs(&[("1-1.log", 0), ("2-1.log", 0), ("3-1.log", 0), ("4-1.log", 0)]);
        let ends = ended(&[(1, Some(30)), (2, Some(20)), (3, Some(10)), (4, Some(0))]);
        let aged = LogLimits { max_age: Some(HOUR * 25), bytes_max: None };
        trim_logs(dir.path(), aged, &[id(1)], NOW, &ends);
        assert_eq!(left(&dir), ["1-1.log", "2-1.log", "3-1.log", "4-1.log"], "its end is not on disk yet");
        let trimmed = trim_logs(dir.path(), aged, &[], NOW, &ends);
        assert_eq!(trimmed, Trimmed { logs: 1, bytes: 100 });
        assert_eq!(left(&dir), ["2-1.log", "3-1.log", "4-1.log"]);
        trim_logs(dir.path(), LogLimits { bytes_max: Some(200), ..NO_LIMITS }, &[], NOW, &ends);
        assert_eq!(left(&dir), ["3-1.log", "4-1.log"]);
        trim_logs(dir.path(), LogLimits { max_age: Some(Duration::ZERO), bytes_max: Some(0) }, &[], NOW, &ends);
        assert_eq!(left(&dir), ["4-1.log"], "young");
        remove_logs(dir.path(), &[id(4)]);
        assert!(left(&dir).is_empty());
    }

    #[test]
    fn what_is_no_log_stays() {
        let dir = logs(&[("1-1.log", 0), ("precious", 9)]);
        let other = dir.path().join("stuff");
        std::fs::create_dir(&other).expect("made");
        std::fs::rename(dir.path().join("0/precious"), other.join("1-1.log")).expect("moved");
        std::fs::write(dir.path().join("0/precious"), "x").expect("written");
        let all = LogLimits { max_age: Some(Duration::ZERO), bytes_max: Some(0) };
        trim_logs(dir.path(), all, &[], NOW, &ended(&[(1, Some(30))]));
        assert!(!dir.path().join("0/1-1.log").exists());
        assert!(dir.path().join("0/precious").exists() && other.join("1-1.log").exists());
    }
}
