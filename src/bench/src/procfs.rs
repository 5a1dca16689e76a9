//! What `/proc` tells about processes.

use anyhow::{Context, Result};
use std::collections::HashMap;
use std::fs;

/// Proportional set size, bytes.
pub fn pss(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).context("no Pss in smaps_rollup")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1024)
}

/// Context switches of each thread since its start: each wake-up of a sleeping thread is one at least.
pub fn switches(pid: u32) -> Result<HashMap<u32, u64>> {
    let mut all = HashMap::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = task?;
        let number = task.file_name().to_string_lossy().parse().context("a thread without number")?;
        // A thread may end between the listing and the reading.
        let Ok(text) = fs::read_to_string(task.path().join("status")) else { continue };
        let counts = text.lines().filter(|line| line.contains("ctxt_switches:"));
        all.insert(number, counts.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).sum());
    }
    Ok(all)
}

/// Words of a process's command line.
pub fn words(pid: u32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    bytes.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

/// The file that a process executes; empty for zombies and strangers.
pub fn program(pid: u32) -> String {
    fs::read_link(format!("/proc/{pid}/exe")).map(|path| path.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The parent, if the process is there.
pub fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in brackets may hold anything, also brackets and spaces.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// All processes.
pub fn all() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// All processes below this one, zombies included.
pub fn descendants(root: u32) -> Vec<u32> {
    let parents: HashMap<u32, u32> = all().into_iter().filter_map(|pid| Some((pid, parent(pid)?))).collect();
    let is_below = |pid: u32| {
        let mut at = pid;
        while let Some(parent) = parents.get(&at) {
            if *parent == root {
                return true;
            }
            at = *parent;
        }
        false
    };
    parents.keys().copied().filter(|pid| is_below(*pid)).collect()
}
