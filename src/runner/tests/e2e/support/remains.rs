//! What a host has: spawner, shims, attempts, processes, cgroups; and that nothing of it is left.

use super::{Host, contains, describe, is_alive, processes_with, tail, wait_for};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

impl Host {
    /// Process id of the spawner, when one runs.
    pub fn spawner(&self) -> Option<i32> {
        let text = fs::read_to_string(self.runtime().join("spawner/lock")).ok()?;
        let pid = text.trim().parse().ok()?;
        let words = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        (is_alive(pid) && contains(&words, self.run.path().to_str().unwrap())).then_some(pid)
    }

    /// Process id of the spawner, once one runs.
    pub fn wait_spawner(&self) -> i32 {
        wait_for("a spawner", || self.spawner())
    }

    /// Names of the attempt directories that there are.
    pub fn attempts(&self) -> Vec<String> {
        let dir = fs::read_dir(self.runtime().join("spawner/attempts"));
        let entries = dir.into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    /// Process ids of living shims, by job.
    pub fn shims(&self) -> Vec<(u64, i32)> {
        let pid = |name: &String| -> Option<(u64, i32)> {
            let text = fs::read_to_string(self.runtime().join("spawner/attempts").join(name).join("lock")).ok()?;
            let pid = text.split(' ').next()?.parse().ok()?;
            Some((name.split('-').nth(1)?.parse().ok()?, pid))
        };
        self.attempts().iter().filter_map(pid).filter(|(_, pid)| is_alive(*pid)).collect()
    }

    /// The shim of a running job.
    pub fn wait_shim(&self, id: u64) -> i32 {
        wait_for("a shim", || self.shims().iter().find(|(job, _)| *job == id).map(|(_, pid)| *pid))
    }

    /// Living processes of this host's jobs.
    pub fn survivors(&self) -> Vec<i32> {
        processes_with(&self.marker)
    }

    /// Waits until no process of a job and no attempt directory is left.
    pub fn assert_clean(&self) {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let (survivors, attempts) = (self.survivors(), self.attempts());
            if survivors.is_empty() && attempts.is_empty() {
                return;
            }
            if Instant::now() > until {
                let survivors: Vec<String> = survivors.into_iter().map(describe).collect();
                let spawner = fs::read_to_string(self.runtime().join("spawner/spawner.log")).unwrap_or_default();
                panic!(
                    "left: processes {survivors:#?}, attempts {attempts:?}\ndaemon:\n{}\nspawner:\n{spawner}",
                    tail(&self.daemon_log())
                );
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Cgroups of jobs whose spawner could not remove them any more; by the store's id, which is in their names.
pub(super) fn remove_cgroups(state: &Path) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let Some(store) = store_id(state) else { return };
    for line in mounts.lines().filter(|line| line.split(' ').nth(2) == Some("cgroup2")) {
        remove_cgroups_in(Path::new(line.split(' ').nth(1).unwrap()), &store);
    }
}

fn remove_cgroups_in(dir: &Path, store: &str) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_cgroups_in(&entry.path(), store);
            if entry.file_name().to_string_lossy().starts_with(&format!("ci-job-{store}")) {
                let _ = fs::remove_dir(entry.path());
            }
        }
    }
}

/// The second line of the state's lock file.
fn store_id(state: &Path) -> Option<String> {
    fs::read_to_string(state.join("lock")).ok()?.lines().nth(1).map(str::to_owned)
}
