//! Processes as /proc shows them.

use rustix::process::{Pid, Signal};
use std::fs;

/// Sends a signal; a process that is gone does not mind.
pub fn kill(pid: i32, signal: &str) {
    let signal = match signal {
        "KILL" => Signal::KILL,
        "STOP" => Signal::STOP,
        "CONT" => Signal::CONT,
        "TERM" => Signal::TERM,
        "HUP" => Signal::HUP,
        "INT" => Signal::INT,
        "ABRT" => Signal::ABORT,
        other => panic!("{other}"),
    };
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// State letter; None when it is gone.
pub fn state(pid: i32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(") ").next()?.chars().next()
}

/// True while it is there and no zombie.
pub fn is_alive(pid: i32) -> bool {
    state(pid).is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

/// True when the bytes hold the text.
pub fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// Living processes with this text in their words or their environment.
pub fn processes_with(text: &str) -> Vec<i32> {
    let own = std::process::id() as i32;
    let has = |path: String| contains(&fs::read(path).unwrap_or_default(), text);
    let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|&pid: &i32| pid != own && is_alive(pid))
        .filter(|pid| has(format!("/proc/{pid}/cmdline")) || has(format!("/proc/{pid}/environ")))
        .filter(|&pid| is_alive(pid))
        .collect()
}

/// A process for people.
pub fn describe(pid: i32) -> String {
    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    format!("{pid} {:?} {}", state(pid), String::from_utf8_lossy(&words).replace('\0', " "))
}
