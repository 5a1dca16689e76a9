//! Processes and cgroups, as the kernel tells of them.

use std::fs;
use std::path::{Path, PathBuf};

/// Cgroups of a store's attempts, wherever they are.
pub fn cgroups(store: &str) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut found = Vec::new();
    for line in mounts.lines().filter(|line| line.split(' ').nth(2) == Some("cgroup2")) {
        find_cgroups(Path::new(line.split(' ').nth(1).unwrap()), &format!("ci-job-{store}"), &mut found);
    }
    found
}

/// Those below others come first.
fn find_cgroups(dir: &Path, prefix: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            find_cgroups(&entry.path(), prefix, found);
            if entry.file_name().to_string_lossy().starts_with(prefix) {
                found.push(entry.path());
            }
        }
    }
}

pub fn kill(pid: i32, signal: &str) {
    let pid = rustix::process::Pid::from_raw(pid).expect("a process id");
    let signal = match signal {
        "KILL" => rustix::process::Signal::KILL,
        "STOP" => rustix::process::Signal::STOP,
        "CONT" => rustix::process::Signal::CONT,
        "TERM" => rustix::process::Signal::TERM,
        "HUP" => rustix::process::Signal::HUP,
        other => panic!("{other}"),
    };
    let _ = rustix::process::kill_process(pid, signal);
}

/// State letter in /proc; None when it is gone.
pub fn state(pid: i32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(") ").next()?.chars().next()
}

pub fn is_alive(pid: i32) -> bool {
    state(pid).is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

fn all_pids() -> impl Iterator<Item = i32> {
    fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// Living processes with this text in their words or their environment.
pub fn processes_with(text: &str) -> Vec<i32> {
    let has = |path: String| {
        let content = fs::read(path).unwrap_or_default();
        content.windows(text.len()).any(|window| window == text.as_bytes())
    };
    all_pids()
        .filter(|&pid| pid != std::process::id() as i32 && is_alive(pid))
        .filter(|pid| has(format!("/proc/{pid}/cmdline")) || has(format!("/proc/{pid}/environ")))
        .filter(|&pid| is_alive(pid))
        .collect()
}

pub fn describe(pid: i32) -> String {
    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    format!("{pid} {:?} {}", state(pid), String::from_utf8_lossy(&words).replace('\0', " "))
}
