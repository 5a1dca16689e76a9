//! Ending what a dead shim left behind.
//!
//! What belongs to the job: everything in its cgroup; orphans that became our children (the shim was our child and heir to
//! its job's orphans, and we are heir to its own); with a shim of a predecessor, whose orphans go elsewhere: processes in
//! the session of the job's first process if we saw the shim die, and processes with this slot's `TMPDIR` in the
//! environment they were started with, with their sessions; and everything that descends from any of these.
//!
//! Without cgroup, after the deaths of both shim and spawner, a process escapes this that left the session **and** cleared
//! its environment. The guarantees page says so.

use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::process::Signal;

use super::attempt::Leftovers;
use crate::cgroup::Leaf;
use crate::procs::{self, Stat};
use crate::protocol::AttemptKey;

/// One round; true when nothing was found.
pub(super) fn sweep(key: &AttemptKey, leftovers: &Leftovers, living_shims: &[i32], tmp_dir: &Path) -> bool {
    let identity = &leftovers.identity;
    let leaf = identity.cgroup_parent.as_ref().and_then(|parent| Leaf::find(parent, key));
    if let Some(leaf) = &leaf {
        leaf.kill();
    }
    let mut tmpdir = b"TMPDIR=".to_vec();
    tmpdir.extend_from_slice(tmp_dir.join(&identity.slot).as_os_str().as_bytes());
    let me = std::process::id() as i32;
    let spare: HashSet<i32> = living_shims.iter().copied().chain([me]).collect();
    let session = identity.session.filter(|_| leftovers.witnessed);
    let found = find(me, &spare, session, |pid| !identity.slot.is_empty() && procs::environment_has(pid, &tmpdir));
    for &pid in &found {
        procs::signal_if(pid, &[Signal::KILL], |_| true);
    }
    let empty = leaf.as_ref().is_none_or(|leaf| !leaf.populated());
    if empty && let Some(leaf) = leaf {
        leaf.remove();
    }
    empty && found.is_empty()
}

/// Living processes that belong to a dead shim's job.
fn find(me: i32, spare: &HashSet<i32>, session: Option<i32>, has_tmpdir: impl Fn(i32) -> bool) -> Vec<i32> {
    let stats: Vec<Stat> = procs::all().into_iter().filter(|stat| stat.alive() && !spare.contains(&stat.pid)).collect();
    let own_session = procs::stat(me).map_or(0, |stat| stat.session);
    let mut sessions: HashSet<i32> = session.into_iter().collect();
    let mut found: HashSet<i32> = HashSet::new();
    for stat in &stats {
        if has_tmpdir(stat.pid) {
            found.insert(stat.pid);
            sessions.insert(stat.session);
        }
    }
    sessions.remove(&own_session);
    sessions.remove(&0);
    for stat in &stats {
        if stat.parent == me || sessions.contains(&stat.session) {
            found.insert(stat.pid);
        }
    }
    let mut size = 0;
    while size != found.len() {
        size = found.len();
        found.extend(stats.iter().filter(|stat| found.contains(&stat.parent)).map(|stat| stat.pid).collect::<Vec<_>>());
    }
    found.into_iter().collect()
}
