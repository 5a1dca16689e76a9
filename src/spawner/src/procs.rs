//! Looking for processes in /proc and signalling exactly those that were looked for.
//!
//! A process id can be given to another process at any moment after its parent has reaped it. So a signal goes through a
//! pidfd that was opened **before** the last look which showed that the process is one of those meant. Direct children of
//! the caller need none of that: only the caller can reap them.

use std::collections::HashSet;
use std::os::fd::OwnedFd;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// The words of `/proc/<pid>/stat` that matter here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stat {
    /// Process id.
    pub(crate) pid: i32,
    /// State letter: `Z` and `X` are dead, `T` and `t` stopped.
    pub(crate) state: u8,
    /// Parent's process id.
    pub(crate) parent: i32,
    /// Session id.
    pub(crate) session: i32,
    /// Clock ticks from boot to its start: with the process id, a name that nobody else ever has.
    pub(crate) start_ticks: u64,
}

impl Stat {
    /// Still able to do something.
    pub(crate) fn alive(&self) -> bool {
        !matches!(self.state, b'Z' | b'X' | b'x')
    }

    /// Stopped by a signal or a tracer.
    pub(crate) fn stopped(&self) -> bool {
        matches!(self.state, b'T' | b't')
    }
}

/// Looks at one process.
pub(crate) fn stat(pid: i32) -> Option<Stat> {
    parse_stat(pid, &std::fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// The name in parentheses can hold anything, parentheses and newlines too: read on from the last one.
fn parse_stat(pid: i32, text: &[u8]) -> Option<Stat> {
    let after = text.iter().rposition(|&byte| byte == b')')? + 2;
    let mut words = std::str::from_utf8(text.get(after..)?).ok()?.split(' ');
    let state = *words.next()?.as_bytes().first()?;
    let parent = words.next()?.parse().ok()?;
    let session = words.nth(1)?.parse().ok()?;
    let start_ticks = words.nth(15)?.parse().ok()?;
    Some(Stat { pid, state, parent, session, start_ticks })
}

/// Every process that can be seen.
pub(crate) fn all() -> Vec<Stat> {
    let Ok(dir) = std::fs::read_dir("/proc") else { return Vec::new() };
    dir.filter_map(|entry| stat(entry.ok()?.file_name().to_str()?.parse().ok()?)).collect()
}

/// The living children of a single-threaded process.
pub(crate) fn children(pid: i32) -> Vec<i32> {
    match std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")) {
        Ok(text) => text.split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect(),
        // Kernels without CONFIG_PROC_CHILDREN.
        Err(_) => all().iter().filter(|stat| stat.parent == pid).map(|stat| stat.pid).collect(),
    }
}

/// Living processes that descend from one of `roots` (which are not among them unless they descend from another root).
pub(crate) fn descendants(roots: &[i32]) -> Vec<i32> {
    let stats = all();
    let mut known: HashSet<i32> = roots.iter().copied().collect();
    let mut found = Vec::new();
    loop {
        let before = found.len();
        for stat in &stats {
            if known.contains(&stat.parent) && known.insert(stat.pid) {
                found.push(stat);
            }
        }
        if found.len() == before {
            return found.iter().filter(|stat| stat.alive()).map(|stat| stat.pid).collect();
        }
    }
}

/// Signals `pid` if, once it is pinned, `still` says that it is one of those meant.
pub(crate) fn signal_if(pid: i32, signals: &[Signal], still: impl FnOnce(Stat) -> bool) -> bool {
    let Some(pinned) = pin(pid) else { return false };
    match stat(pid) {
        Some(stat) if stat.alive() && still(stat) => {}
        _ => return false,
    }
    for &signal in signals {
        let _ = pidfd_send_signal(&pinned, signal);
    }
    true
}

/// A handle that stays with this very process.
pub(crate) fn pin(pid: i32) -> Option<OwnedFd> {
    pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()
}

/// Signals every living descendant of `roots`; how many there were.
pub(crate) fn signal_descendants(roots: &[i32], signals: &[Signal]) -> usize {
    let found = descendants(roots);
    let mut family: HashSet<i32> = roots.iter().copied().collect();
    family.extend(&found);
    found.into_iter().filter(|&pid| signal_if(pid, signals, |stat| family.contains(&stat.parent))).count()
}

/// What follows `name` (`NAME=`) in the environment that a process was started with.
pub(crate) fn environment_word(pid: i32, name: &[u8]) -> Option<Vec<u8>> {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
    environment.split(|&byte| byte == 0).find_map(|word| word.strip_prefix(name)).map(<[u8]>::to_vec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_confuse() {
        let text = b"7 (a) Z 1 (b) S 3 4 5 0 -1 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22222 23";
        let stat = parse_stat(7, text).expect("parses");
        assert_eq!((stat.state, stat.parent, stat.session, stat.start_ticks), (b'S', 3, 5, 20));
        assert!(parse_stat(7, b"7 (a").is_none());
        assert!(parse_stat(7, b"7 (a) S").is_none());
    }

    #[test]
    fn sees_itself() {
        let me = std::process::id() as i32;
        assert!(stat(me).is_some_and(|stat| stat.alive() && !stat.stopped()));
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("sleep runs");
        let pid = child.id() as i32;
        assert!(descendants(&[me]).contains(&pid));
        assert!(signal_if(pid, &[Signal::KILL], |stat| stat.parent == me));
        assert!(!child.wait().expect("waits").success());
    }
}
