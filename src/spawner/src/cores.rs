//! No core file of a process through whose memory secrets pass: spawner, shim, and the helper until it is the job.
//!
//! The soft limit is set to 1, not to 0: a file smaller than a page is never begun, and where `core_pattern` is a pipe the
//! kernel asks no limit, but takes 1 for "do not dump" (core(5); it is how it keeps the pipe's own program from dumping).
//! The hard limit stays as it was, and jobs get back the soft one: their own core files are theirs to want.
//!
//! Not `PR_SET_DUMPABLE`: it would close `/proc/<shim>/fd` to an unprivileged successor that adopts. Not
//! `coredump_filter`: jobs inherit it, and giving it back costs each start two files of /proc.

use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What makes the kernel dump nothing, neither to a file nor to a pipe.
const NO_CORE: u64 = 1;

/// The limit that this process was started with.
static FOUND: OnceLock<Rlimit> = OnceLock::new();

/// From here on this process and those that it forks leave none. A hard limit of 0 is kept: the kernel then writes no file.
pub(crate) fn forbid() {
    let found = FOUND.get_or_init(|| getrlimit(Resource::Core));
    let soft = found.maximum.map_or(NO_CORE, |hard| hard.min(NO_CORE));
    // It cannot fail: the soft limit is not beyond the hard one.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(soft), maximum: found.maximum });
}

/// What a job, or the program that takes our place, is to have.
pub(crate) fn of_jobs() -> libc::rlimit {
    let found = FOUND.get_or_init(|| getrlimit(Resource::Core));
    let number = |limit: Option<u64>| limit.unwrap_or(libc::RLIM_INFINITY);
    libc::rlimit { rlim_cur: number(found.current), rlim_max: number(found.maximum) }
}

/// Gives back what this process was started with, before it becomes another program.
pub(crate) fn give_back() {
    if let Some(found) = FOUND.get() {
        let _ = setrlimit(Resource::Core, *found);
    }
}
