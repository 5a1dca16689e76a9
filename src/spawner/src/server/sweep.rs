//! Ending what a dead shim left behind.
//!
//! What belongs to the job: everything in its cgroup; orphans that became our children (the shim was our child and heir to
//! its job's orphans, and we are heir to its own); with a shim of a predecessor, whose orphans go elsewhere: processes in
//! the session of the job's first process if we saw the shim die, and processes with this slot's `TMPDIR` in the
//! environment they were started with, with their sessions; and everything that descends from any of these.
//!
//! Proofs: a cgroup without processes, and no child of ours that is no shim (only we can reap a child, so while we look none
//! is taken off the list, not even of a job that does nothing but fork). Shims that a spawner before this one forked may not
//! be known yet; a child that holds an unknown attempt's lock is never ended. A look at /proc is none, so where the orphans are
//! not ours it takes several that find nothing.
//!
//! A look that failed shows nothing: nobody is done by it.
//!
//! Without cgroup, after the deaths of both shim and spawner, a process escapes this that left the session **and** cleared
//! its environment. The guarantees page says so.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::process::{Pid, Signal};

use super::attempt::Leftovers;
use crate::attempts::LockFile;
use crate::cgroup::Leaf;
use crate::procs::{self, Stat};
use crate::protocol::AttemptKey;
use crate::tmpdir;

/// Quick rounds over our own children before a look at all processes.
const QUICK_ROUNDS: usize = 32;
/// Looks at /proc in a row that must find nothing, where the job's orphans are not our children.
const CLEAN_LOOKS: u32 = 4;

/// One look at all processes, for all attempts that are swept in this turn.
pub(super) struct Look {
    me: i32,
    own_session: i32,
    /// We had children that are no shims; whose job they are of is not known, so nobody is done.
    orphans: bool,
    /// The living, without us and the shims.
    stats: Vec<Stat>,
    /// `TMPDIR` in the environment that a process was started with.
    tmpdirs: HashMap<Vec<u8>, Vec<i32>>,
}

/// Children of ours that are not to be ended.
pub(super) struct Spared {
    /// They belong to nobody's job.
    pub(super) pids: HashSet<i32>,
    /// Locks of attempts whose shims are not known: a child that has one of these open can be such a shim.
    pub(super) locks: Vec<LockFile>,
}

impl Look {
    /// Ends orphans, and looks at the rest.
    pub(super) fn new(mut spared: Spared) -> io::Result<Self> {
        let me = std::process::id() as i32;
        spared.pids.insert(me);
        let orphans = end_orphans(me, &mut spared)?;
        let mut stats = procs::all()?;
        stats.retain(|stat| stat.alive() && !spared.pids.contains(&stat.pid));
        let mut tmpdirs: HashMap<Vec<u8>, Vec<i32>> = HashMap::new();
        for stat in &stats {
            if let Some(tmpdir) = procs::environment_word(stat.pid, b"TMPDIR=")? {
                tmpdirs.entry(tmpdir).or_default().push(stat.pid);
            }
        }
        let own_session = procs::stat(me)?.map_or(0, |stat| stat.session);
        Ok(Self { me, own_session, orphans, stats, tmpdirs })
    }

    /// Living processes that belong to a dead shim's job.
    fn of_job(&self, slot_dir: Option<&Path>, session: Option<i32>) -> HashSet<i32> {
        let tmpdirs = slot_dir.into_iter().flat_map(tmpdir::paths);
        let with = tmpdirs.filter_map(|tmpdir| self.tmpdirs.get(tmpdir.as_os_str().as_bytes()));
        let started_with: HashSet<i32> = with.flatten().copied().collect();
        let theirs = self.stats.iter().filter(|stat| started_with.contains(&stat.pid)).map(|stat| stat.session);
        let mut sessions: HashSet<i32> = theirs.chain(session).collect();
        sessions.remove(&self.own_session);
        sessions.remove(&0);
        let mut found = started_with;
        let near = |stat: &&Stat| stat.parent == self.me || sessions.contains(&stat.session);
        found.extend(self.stats.iter().filter(near).map(|stat| stat.pid));
        let mut size = 0;
        while size != found.len() {
            size = found.len();
            let next: Vec<i32> =
                self.stats.iter().filter(|stat| found.contains(&stat.parent)).map(|stat| stat.pid).collect();
            found.extend(next);
        }
        found
    }
}

/// One round; true when nothing is left. An error: that could not be seen.
pub(super) fn sweep(key: &AttemptKey, leftovers: &mut Leftovers, look: &Look, tmp_dir: &Path) -> io::Result<bool> {
    let clean_looks = std::mem::take(&mut leftovers.clean_looks);
    let identity = &leftovers.identity;
    let leaf = Leaf::find(identity.cgroup_parent.as_deref(), key)?;
    if let Some(leaf) = &leaf {
        leaf.kill();
    }
    let tmpdir = (!identity.slot.is_empty()).then(|| tmp_dir.join(&identity.slot));
    let found = look.of_job(tmpdir.as_deref(), identity.session.filter(|_| leftovers.witnessed));
    let seen: Vec<Stat> = look.stats.iter().filter(|stat| found.contains(&stat.pid)).copied().collect();
    procs::signal_all(&seen, &[Signal::KILL]);
    let populated = leaf.as_ref().is_some_and(Leaf::populated);
    if look.orphans || populated || !found.is_empty() {
        return Ok(false);
    }
    leftovers.clean_looks = clean_looks + 1;
    if !leftovers.own_child && leftovers.clean_looks < CLEAN_LOOKS {
        return Ok(false);
    }
    if let Some(leaf) = leaf {
        leaf.remove();
    }
    Ok(true)
}

/// Kills children of ours that are not spared; true when there were any, dead ones included (the loop reaps them), and
/// those that may be shims, which are spared from here on.
fn end_orphans(me: i32, spared: &mut Spared) -> io::Result<bool> {
    let mut any = false;
    for _ in 0..QUICK_ROUNDS {
        let mut orphans = procs::children(me)?;
        orphans.retain(|child| !spared.pids.contains(child));
        if orphans.is_empty() {
            break;
        }
        any = true;
        for orphan in orphans {
            if has_open(orphan, &spared.locks)? {
                spared.pids.insert(orphan);
            } else if let Some(pid) = Pid::from_raw(orphan) {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
        }
    }
    Ok(any)
}

/// True when the process has one of these open. An error: that could not be seen.
fn has_open(pid: i32, locks: &[LockFile]) -> io::Result<bool> {
    if locks.is_empty() {
        return Ok(false);
    }
    let gone = |error: &io::Error| matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH));
    let entries = match std::fs::read_dir(format!("/proc/{pid}/fd")) {
        Err(error) if gone(&error) => return Ok(false),
        entries => entries?,
    };
    for entry in entries {
        let entry = match entry {
            Err(error) if gone(&error) => return Ok(false),
            entry => entry?,
        };
        if locks.iter().any(|lock| lock.is_at(&entry.path())) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attempts::{Attempts, Locked};

    #[test]
    fn who_holds_an_unknown_attempts_lock_is_seen() {
        let dir = tempfile::tempdir().expect("a directory");
        let home = rustix::fs::open(dir.path(), rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).expect("opened");
        let attempts = Attempts::open(home).expect("attempts");
        let key: AttemptKey = "0123abcd-1-1".parse().expect("a key");
        attempts.make(&key).expect("made");
        assert_eq!(attempts.lock_file(&key).expect("a look"), None);
        let Ok(Locked::Taken(held)) = attempts.lock(&key) else { panic!("not locked") };
        let lock = attempts.lock_file(&key).expect("a look").expect("a lock");
        let me = std::process::id() as i32;
        assert!(has_open(me, &[lock]).expect("a look"));
        assert!(!has_open(me, &[]).expect("a look"));
        drop(held);
        assert!(!has_open(me, &[lock]).expect("a look"));
        assert!(!has_open(i32::MAX, &[lock]).expect("gone is not an error"));
    }
}
