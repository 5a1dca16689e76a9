//! Processes as `/proc` shows them, read once for all attempts of a measurement, and only where a cgroup does not tell.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

/// Processes that are looked at: more than any host that runs jobs without cgroups has.
const PROCESSES_MAX: usize = 50_000;

/// One process: `proc_pid_stat(5)`.
#[derive(Clone, Copy, Debug)]
struct Process {
    parent: i32,
    /// Its own CPU time, clock ticks.
    own_ticks: u64,
    /// That of its children which it has waited for.
    children_ticks: u64,
    resident_pages: u64,
}

/// All processes, once somebody needs them.
pub struct Processes {
    proc: PathBuf,
    all: Option<HashMap<i32, Process>>,
}

/// What a tree of processes uses.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tree {
    /// CPU time, ended processes included as far as they were waited for.
    pub cpu_seconds: f64,
    /// Resident memory; what they share counts for each.
    pub resident_bytes: u64,
    /// How many.
    pub processes: u64,
}

impl Processes {
    /// Nothing is read yet.
    pub fn new(proc: &Path) -> Self {
        Self { proc: proc.to_owned(), all: None }
    }

    /// Resident memory of these together; None: not one of them can be seen.
    pub fn resident_bytes(&mut self, pids: &[i32]) -> Option<u64> {
        let page = rustix::param::page_size() as u64;
        let pages = pids.iter().filter_map(|pid| read(&self.proc, *pid)).map(|process| process.resident_pages);
        pages.reduce(|sum, pages| sum + pages).map(|pages| pages * page)
    }

    /// Everything that descends from `root`, but not `root` itself; None: it is not there.
    pub fn below(&mut self, root: i32) -> Option<Tree> {
        let proc = &self.proc;
        let all = self.all.get_or_insert_with(|| read_all(proc));
        let mut tree = Tree::default();
        let mut ticks = all.get(&root)?.children_ticks;
        let mut known = HashSet::from([root]);
        loop {
            let before = known.len();
            for (pid, process) in all.iter() {
                if known.contains(&process.parent) && known.insert(*pid) {
                    ticks += process.own_ticks + process.children_ticks;
                    tree.resident_bytes += process.resident_pages * rustix::param::page_size() as u64;
                    tree.processes += 1;
                }
            }
            if known.len() == before {
                break;
            }
        }
        tree.cpu_seconds = ticks as f64 / rustix::param::clock_ticks_per_second() as f64;
        Some(tree)
    }
}

fn read_all(proc: &Path) -> HashMap<i32, Process> {
    let entries = std::fs::read_dir(proc).into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.take(PROCESSES_MAX).filter_map(|pid| Some((pid, read(proc, pid)?))).collect()
}

fn read(proc: &Path, pid: i32) -> Option<Process> {
    parse(&std::fs::read(proc.join(pid.to_string()).join("stat")).ok()?)
}

/// The name in parentheses can hold anything: read on from the last one.
fn parse(stat: &[u8]) -> Option<Process> {
    let after = stat.iter().rposition(|byte| *byte == b')')? + 2;
    let words: Vec<&str> = std::str::from_utf8(stat.get(after..)?).ok()?.split_ascii_whitespace().collect();
    // The third word of the file is the first here.
    let number = |field: usize| words.get(field - 3)?.parse::<u64>().ok();
    let parent = words.get(1)?.parse().ok()?;
    let (own_ticks, children_ticks) = (number(14)? + number(15)?, number(16)? + number(17)?);
    Some(Process { parent, own_ticks, children_ticks, resident_pages: number(24)? })
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_words() {
        let stat = b"42 (a) b) S 7 42 42 0 -1 4194560 1 2 3 4 10 20 30 40 20 0 1 0 99 1000 55 0 0";
        let process = parse(stat).unwrap();
        assert_eq!((process.parent, process.own_ticks, process.children_ticks), (7, 30, 70));
        assert_eq!(process.resident_pages, 55);
        assert!(parse(b"42 (a").is_none());
    }
}
