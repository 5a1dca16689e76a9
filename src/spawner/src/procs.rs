//! Looking for processes in /proc and signalling exactly those that were looked for.
//!
//! A process id can be given to another process at any moment after its parent has reaped it. So a signal goes through a
//! pidfd that was opened **before** the last look which showed that the process is one of those meant. Direct children of
//! the caller need none of that: only the caller can reap them.
//!
//! A look that failed (no descriptor, no memory) is an error and never an absence: who asks must look again.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec};
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

/// Looks at one process; None: it is gone.
pub(crate) fn stat(pid: i32) -> io::Result<Option<Stat>> {
    match std::fs::read(format!("/proc/{pid}/stat")) {
        Ok(text) => parse_stat(pid, &text).map(Some).ok_or_else(|| io::ErrorKind::InvalidData.into()),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => Ok(None),
        Err(error) => Err(error),
    }
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
pub(crate) fn all() -> io::Result<Vec<Stat>> {
    let mut stats = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        if let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) {
            stats.extend(stat(pid)?);
        }
    }
    Ok(stats)
}

/// The living children of a single-threaded process.
pub(crate) fn children(pid: i32) -> io::Result<Vec<i32>> {
    match std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")) {
        Ok(text) => Ok(text.split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect()),
        // Kernels without CONFIG_PROC_CHILDREN.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Ok(all()?.iter().filter(|stat| stat.parent == pid).map(|stat| stat.pid).collect())
        }
        Err(error) => Err(error),
    }
}

/// Living processes that descend from one of `roots` (which are not among them unless they descend from another root).
pub(crate) fn descendants(roots: &[i32]) -> io::Result<Vec<Stat>> {
    let stats = all()?;
    let mut known: HashSet<i32> = roots.iter().copied().collect();
    let mut found = Vec::new();
    loop {
        let before = found.len();
        for stat in &stats {
            if known.contains(&stat.parent) && known.insert(stat.pid) {
                found.push(*stat);
            }
        }
        if found.len() == before {
            found.retain(Stat::alive);
            return Ok(found);
        }
    }
}

/// Signals `pid` if, once it is pinned, `still` says that it is one of those meant.
pub(crate) fn signal_if(pid: i32, signals: &[Signal], still: impl FnOnce(Stat) -> bool) -> bool {
    let Some(pinned) = pin(pid) else { return false };
    match stat(pid) {
        Ok(Some(stat)) if stat.alive() && still(stat) => {}
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

/// True unless the process behind the handle certainly lives: it has ended, reaped or not. While it lives, its id is its own.
pub(crate) fn has_ended(pidfd: impl AsFd) -> bool {
    let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut fds, Some(&now)) != Ok(0)
}

/// Signals these very processes, as far as they still live; how many did.
pub(crate) fn signal_all(seen: &[Stat], signals: &[Signal]) -> usize {
    let same = |seen: &&Stat| signal_if(seen.pid, signals, |now| now.start_ticks == seen.start_ticks);
    seen.iter().filter(same).count()
}

/// Signals every living descendant of `roots`.
pub(crate) fn signal_descendants(roots: &[i32], signals: &[Signal]) -> io::Result<usize> {
    Ok(signal_all(&descendants(roots)?, signals))
}

/// What follows `name` (`NAME=`) in the environment that a process was started with; None: nothing does, it is gone, or it
/// is not ours to read.
pub(crate) fn environment_word(pid: i32, name: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let environment = match std::fs::read(format!("/proc/{pid}/environ")) {
        Ok(environment) => environment,
        Err(error) if is_shortage(&error) => return Err(error),
        Err(_) => return Ok(None),
    };
    let word = environment.split(|&byte| byte == 0).find_map(|word| word.strip_prefix(name));
    Ok(word.map(<[u8]>::to_vec))
}

/// The system is short of something, so that nothing was learnt.
fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS))
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
        assert!(stat(me).expect("a look").is_some_and(|stat| stat.alive() && !stat.stopped()));
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("sleep runs");
        let pid = child.id() as i32;
        assert!(descendants(&[me]).expect("a look").iter().any(|stat| stat.pid == pid));
        let handle = pin(pid).expect("a handle");
        assert!(!has_ended(&handle));
        assert!(signal_if(pid, &[Signal::KILL], |stat| stat.parent == me));
        assert!(!child.wait().expect("waits").success());
        assert!(has_ended(&handle));
        assert!(stat(pid).expect("a look").is_none(), "gone is not an error");
    }
}
