//! What each running attempt uses: by its cgroup, else by its processes.
//!
//! An attempt's cgroup is named after it (`ci-job-<key>` for a native one, `ci-job-<key>.service` for a unit), wherever a
//! spawner put it. The directories that hold such cgroups are found by a bounded walk and remembered. Where there is none (an
//! old kernel, a container) the processes below the attempt's shim are added up.

use super::processes::Processes;
use super::{Places, Running};
use crate::api::AttemptUsage;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Directories that one walk looks at: a host with thousands of units and containers.
const DIRECTORIES_MAX: usize = 20_000;
/// Deeper, nobody puts a spawner.
const DEPTH_MAX: usize = 12;
/// Directories with attempts in them that are remembered: a slice each and the spawner's own.
const PARENTS_MAX: usize = 64;
/// Between two walks: an attempt without a cgroup must not cost one each time.
const WALK_PAUSE: Duration = Duration::from_secs(10);

/// Finds cgroups of attempts.
#[derive(Default)]
pub struct Finder {
    parents: BTreeSet<PathBuf>,
    walked: Option<Instant>,
}

impl Finder {
    /// Those that could be measured, in the order given.
    pub fn measure(&mut self, places: &Places, running: &[Running]) -> Vec<AttemptUsage> {
        let mut found: Vec<Option<PathBuf>> = running.iter().map(|one| self.cgroup(places, *one)).collect();
        let may_walk = self.walked.is_none_or(|at| at.elapsed() >= WALK_PAUSE);
        if found.iter().any(Option::is_none) && may_walk {
            self.walk(places);
            self.walked = Some(Instant::now());
            for (one, found) in running.iter().zip(&mut found).filter(|(_, found)| found.is_none()) {
                *found = self.cgroup(places, *one);
            }
        }
        let mut processes = Processes::new(&places.proc);
        let measured = running.iter().zip(found).filter_map(|(one, cgroup)| match cgroup {
            Some(dir) => of_cgroup(*one, &dir, &mut processes),
            None => of_processes(places, *one, &mut processes),
        });
        measured.collect()
    }

    fn cgroup(&self, places: &Places, one: Running) -> Option<PathBuf> {
        let name = format!("ci-job-{}-{}-{}", places.store, one.job, one.attempt);
        let names = [format!("{name}.service"), name];
        let mut candidates = self.parents.iter().flat_map(|parent| names.iter().map(|name| parent.join(name)));
        candidates.find(|path| path.is_dir())
    }

    /// Looks for directories that hold attempts, the nearest to the root first.
    fn walk(&mut self, places: &Places) {
        let prefix = format!("ci-job-{}-", places.store);
        let Some(mount) = mount(&places.proc) else { return };
        self.parents.retain(|parent| parent.is_dir());
        let mut level = vec![mount];
        let mut seen = 0;
        for _ in 0..DEPTH_MAX {
            let mut below = Vec::new();
            for dir in level {
                for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
                    if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                        continue;
                    }
                    seen += 1;
                    if seen > DIRECTORIES_MAX {
                        return;
                    }
                    if entry.file_name().to_string_lossy().starts_with(&prefix) {
                        if self.parents.len() < PARENTS_MAX {
                            self.parents.insert(dir.clone());
                        }
                    } else {
                        below.push(entry.path());
                    }
                }
            }
            level = below;
        }
    }
}

/// Where the unified hierarchy is mounted.
fn mount(proc: &Path) -> Option<PathBuf> {
    let mounts = std::fs::read_to_string(proc.join("self/mountinfo")).ok()?;
    mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        after.starts_with("cgroup2 ").then(|| before.split(' ').nth(4).map(PathBuf::from)).flatten()
    })
}

fn of_cgroup(Running { job, attempt }: Running, dir: &Path, processes: &mut Processes) -> Option<AttemptUsage> {
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).ok();
    let stat = read("cpu.stat")?;
    let cpu_us = stat.lines().find_map(|line| line.strip_prefix("usage_usec ")?.trim().parse::<u64>().ok());
    let number = |name: &str| read(name)?.trim().parse::<u64>().ok();
    let members = || -> Vec<i32> {
        let text = read("cgroup.procs").unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    };
    // Without the controllers a cgroup knows who is in it, not what they have.
    let memory_bytes = number("memory.current").or_else(|| processes.resident_bytes(&members()));
    let processes = number("pids.current").unwrap_or_else(|| members().len() as u64);
    let cpu_seconds = cpu_us.map(|us| us as f64 / 1e6);
    Some(AttemptUsage { job, attempt, cpu_seconds, memory_bytes, processes, source: "cgroup".to_owned() })
}

fn of_processes(places: &Places, one: Running, processes: &mut Processes) -> Option<AttemptUsage> {
    let Running { job, attempt } = one;
    let key = format!("{}-{job}-{attempt}", places.store);
    let lock = places.runtime_dir.join("spawner/attempts").join(key).join("lock");
    // Begins with the process id of the shim.
    let shim: i32 = std::fs::read_to_string(lock).ok()?.split(' ').next()?.trim().parse().ok()?;
    let tree = processes.below(shim)?;
    Some(AttemptUsage {
        job,
        attempt,
        cpu_seconds: Some(tree.cpu_seconds),
        memory_bytes: Some(tree.resident_bytes),
        processes: tree.processes,
        source: "processes".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(dir: &Path, name: &str, text: &str) {
        let path = dir.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn native_attempts_and_units_are_found_wherever_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let (proc, groups) = (dir.path().join("proc"), dir.path().join("cgroup"));
        let mounts = format!("41 31 0:38 / {} rw - cgroup2 cgroup2 rw\n", groups.display());
        put(&proc, "self/mountinfo", &mounts);
        let native = groups.join("system.slice/ci-runner.service/ci-job-0123abcd-7-1");
        put(&native, "cpu.stat", "usage_usec 2500000\nuser_usec 1\n");
        put(&native, "memory.current", "4096\n");
        put(&native, "pids.current", "3\n");
        let unit = groups.join("ci_jobs.slice/ci-job-0123abcd-8-2.service");
        put(&unit, "cpu.stat", "usage_usec 1000000\n");
        put(&unit, "memory.current", "8192\n");
        put(&unit, "cgroup.procs", "1\n2\n");
        // Of another store.
        put(&groups.join("ci_jobs.slice/ci-job-ffffffff-9-1.service"), "cpu.stat", "usage_usec 1\n");
        let places = Places { proc, store: "0123abcd".to_owned(), runtime_dir: dir.path().join("run") };
        let running = [(7, 1), (8, 2), (9, 1)].map(|(job, attempt)| Running { job, attempt });
        let measured = Finder::default().measure(&places, &running);
        let [first, second] = &measured[..] else { panic!("{measured:?}") };
        assert_eq!((first.job, first.cpu_seconds, first.memory_bytes, first.processes), (7, Some(2.5), Some(4096), 3));
        assert_eq!((second.job, second.memory_bytes, second.processes), (8, Some(8192), 2));
    }

    #[test]
    fn without_cgroups_the_processes_below_the_shim_count() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("run");
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        put(&run, "spawner/attempts/0123abcd-7-1/lock", &format!("{} 3 rest", std::process::id()));
        let proc = PathBuf::from("/proc");
        let places = Places { proc, store: "0123abcd".to_owned(), runtime_dir: run };
        let measured = Finder::default().measure(&places, &[Running { job: 7, attempt: 1 }]);
        child.kill().unwrap();
        child.wait().unwrap();
        let [one] = &measured[..] else { panic!("{measured:?}") };
        assert_eq!((one.job, one.source.as_str()), (7, "processes"));
        assert!(one.processes >= 1 && one.memory_bytes.is_some_and(|bytes| bytes > 0), "{one:?}");
    }
}
