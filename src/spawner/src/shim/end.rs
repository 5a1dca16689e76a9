//! Ending a job: afterwards nothing of it lives.
//!
//! Two proofs, and where there is a cgroup both are asked: as the sub-reaper of the job, a shim without children has no
//! descendants (orphans of every session become its children); and a cgroup that can be removed has no processes. Without
//! cgroup, children and all other descendants are killed over and over until the first proof holds: a process with a
//! pending SIGKILL cannot fork, so each round leaves only what was made during it.

use std::collections::HashSet;
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, Signal};

use crate::cgroup::{CpuUse, Leaf};
use crate::procs;
use crate::protocol::Used;
use crate::sys::{self, Reaped};

/// Quick rounds over direct children before a look at all processes: a chain of processes that each live for one fork is our
/// child at every moment, but never there any more when a look at all of /proc is done.
const QUICK_ROUNDS: usize = 16;
/// Longest pause between two rounds; a process that waits for a disk can take minutes to die.
const PAUSE_US_MAX: u64 = 50_000;

/// What the job has used.
#[derive(Default)]
pub(super) struct Usage {
    /// CPU time in user mode, microseconds.
    pub(super) user_us: u64,
    /// CPU time in the kernel, microseconds.
    pub(super) system_us: u64,
    /// Largest resident set of one process. Not below the shim's own: a process starts as a copy of its maker.
    pub(super) peak_bytes: u64,
    /// What the job's cgroup told when nobody was in it any more.
    pub(super) group: Option<(CpuUse, Used)>,
}

impl Usage {
    /// Adds a reaped child and what it had waited for.
    pub(super) fn add(&mut self, usage: &libc::rusage) {
        let us = |time: libc::timeval| time.tv_sec as u64 * 1_000_000 + time.tv_usec as u64;
        self.user_us += us(usage.ru_utime);
        self.system_us += us(usage.ru_stime);
        self.peak_bytes = self.peak_bytes.max(usage.ru_maxrss as u64 * 1024);
    }
}

/// This process.
pub(super) fn own_pid() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}

/// Ends and reaps whatever the job left, however long it takes, and removes its cgroup; how many processes there were.
pub(super) fn nothing_left(leaf: Option<&Leaf>, signals: &OwnedFd, usage: &mut Usage) -> u32 {
    if is_empty(leaf, usage) {
        return 0;
    }
    // Only a number for people: what cannot be seen is killed all the same.
    let seen = procs::descendants(&[own_pid()]).unwrap_or_default();
    let mut left: HashSet<i32> = seen.iter().map(|stat| stat.pid).collect();
    left.extend(leaf.map(Leaf::processes).unwrap_or_default());
    let mut pause_us = 100;
    loop {
        kill_all(leaf);
        if is_empty(leaf, usage) {
            return u32::try_from(left.len()).unwrap_or(u32::MAX);
        }
        wait_for_a_death(signals, pause_us);
        pause_us = (pause_us * 2).min(PAUSE_US_MAX);
    }
}

/// Both proofs.
fn is_empty(leaf: Option<&Leaf>, usage: &mut Usage) -> bool {
    reap_all(usage)
        && leaf.is_none_or(|leaf| {
            // With the cgroup its figures go.
            usage.group = leaf.used().or(usage.group);
            leaf.try_remove() || (!leaf.populated() && emptied(leaf))
        })
}

/// A cgroup without processes counts as empty even when it cannot be removed (another user made one below it).
fn emptied(leaf: &Leaf) -> bool {
    if !leaf.remove() {
        say!("a cgroup of a job that has ended cannot be removed");
    }
    true
}

/// True when there is no child any more.
fn reap_all(usage: &mut Usage) -> bool {
    loop {
        match sys::reap() {
            Reaped::Child(dead) => usage.add(&dead.usage),
            Reaped::Alive => return false,
            Reaped::None => return true,
        }
    }
}

/// One round of SIGKILL to everything of the job.
pub(super) fn kill_all(leaf: Option<&Leaf>) {
    if let Some(leaf) = leaf {
        leaf.kill();
    }
    let me = own_pid();
    for _ in 0..QUICK_ROUNDS {
        for child in procs::children(me).unwrap_or_default() {
            // Its id stays its own until we reap it; it may be dead already, which does no harm.
            if let Some(child) = Pid::from_raw(child) {
                let _ = rustix::process::kill_process(child, Signal::KILL);
            }
        }
    }
    // A round that could not look is followed by another one: neither proof holds before.
    let _ = procs::signal_descendants(&[me], &[Signal::KILL]);
}

fn wait_for_a_death(signals: &OwnedFd, pause_us: u64) {
    let timeout = Timespec { tv_sec: 0, tv_nsec: pause_us as i64 * 1000 };
    let _ = rustix::event::poll(&mut [PollFd::new(signals, PollFlags::IN)], Some(&timeout));
    while sys::next_signal(signals).is_some() {}
}
