//! One cgroup v2 per attempt, where the kernel and the place we live in allow it.
//!
//! The spawner's own cgroup is found once and tried once for real (make, enter, kill, remove). A job's cgroup is
//! `ci-job-<key>` in it; the shim stays outside, so that `cgroup.kill` hits the job and nothing else. Where controllers can be
//! had (`tree.rs`) it takes limits and tells what was used.

mod limits;
mod tree;
mod used;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::Signal;

pub(crate) use self::used::{CpuUse, cpu, used};
use crate::procs;
use crate::protocol::{AttemptKey, Enforces, Used};

/// How a job's process gets into its cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// It is made there (`clone3`): cheap.
    Born,
    /// It writes itself there before it executes: one grace period of RCU slower, for where `clone3` is not to be had.
    Moves,
}

/// The cgroup in which the jobs' cgroups are made.
#[derive(Debug)]
pub(crate) struct Parent {
    dir: OwnedFd,
    path: PathBuf,
    entry: Entry,
    enforces: Enforces,
}

impl Parent {
    /// Where jobs can have cgroups of their own: with limits if that can be, else in our own cgroup.
    pub(crate) fn detect(no_clone3: bool) -> Option<Self> {
        let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
        let own = own_path(&groups, &mounts)?;
        let place = tree::place(&own, tree::is_delegated);
        let fallback = (place.path != own).then(|| tree::Place { path: own, why_not: place.why_not.clone() });
        [Some(place), fallback].into_iter().flatten().find_map(|place| Self::at(place, no_clone3))
    }

    fn at(place: tree::Place, no_clone3: bool) -> Option<Self> {
        let dir = open_dir(CWD, &place.path).ok()?;
        let mut parent = Self { dir, path: place.path, entry: Entry::Born, enforces: Enforces::default() };
        (parent.entry, parent.enforces) = parent.try_out(no_clone3, place.why_not.as_deref())?;
        Some(parent)
    }

    fn try_out(&self, no_clone3: bool, why_not: Option<&str>) -> Option<(Entry, Enforces)> {
        let leaf = Leaf::make_named(self, &format!("ci-probe-{}", std::process::id())).ok()?;
        let killable = rustix::fs::accessat(&leaf.dir, "cgroup.kill", rustix::fs::Access::WRITE_OK, AtFlags::empty());
        let entry = if !no_clone3 && crate::launch::can_be_born_in(leaf.dir.as_fd()) {
            Some(Entry::Born)
        } else {
            let procs = rustix::fs::openat(&leaf.dir, "cgroup.procs", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
            procs.is_ok_and(|procs| crate::launch::can_move_to(procs.as_fd())).then_some(Entry::Moves)
        };
        let enforces = limits::enforced(&leaf, why_not);
        let removed = leaf.remove();
        entry.filter(|_| killable.is_ok() && removed).map(|entry| (entry, enforces))
    }

    /// Which limits jobs can be made to keep to.
    pub(crate) fn enforces(&self) -> &Enforces {
        &self.enforces
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// How jobs get in.
    pub(crate) fn entry(&self) -> Entry {
        self.entry
    }

    /// The descriptor that a shim must keep.
    pub(crate) fn raw(&self) -> RawFd {
        self.dir.as_raw_fd()
    }
}

/// From `0::/path` and the mounts to the directory of our own cgroup.
fn own_path(groups: &str, mounts: &str) -> Option<PathBuf> {
    let own = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    if own.starts_with("/..") {
        return None; // Outside our cgroup namespace.
    }
    mounts.lines().find_map(|line| {
        // 41 31 0:38 ROOT MOUNT_POINT options [tags…] - cgroup2 …
        let (before, after) = line.split_once(" - ")?;
        after.starts_with("cgroup2 ").then_some(())?;
        let mut words = before.split(' ').skip(3);
        let (root, mount) = (words.next()?, words.next()?);
        let below = if root == "/" { own } else { own.strip_prefix(root)? };
        let path = format!("{mount}/{}", below.trim_start_matches('/'));
        // Escaped characters (\040): not worth an unescape.
        (!path.contains('\\')).then(|| PathBuf::from(path.trim_end_matches('/')))
    })
}

fn open_dir(at: impl AsFd, path: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, path, flags, Mode::empty())
}

/// None: it certainly is not there.
fn open_if_there(at: impl AsFd, path: impl rustix::path::Arg) -> io::Result<Option<OwnedFd>> {
    match open_dir(at, path) {
        Ok(dir) => Ok(Some(dir)),
        Err(Errno::NOENT | Errno::NODEV) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The cgroup of one job.
pub(crate) struct Leaf {
    parent: OwnedFd,
    dir: OwnedFd,
    name: String,
    /// True where controllers count what it uses.
    counts: bool,
}

impl Leaf {
    /// Makes the job's cgroup. One that is there already is taken when it is empty; processes in it mean that another life
    /// of this attempt still runs, and then it must not run again.
    pub(crate) fn make(parent: &Parent, key: &AttemptKey) -> io::Result<Self> {
        Self::make_named(parent, &leaf_name(key))
    }

    fn make_named(parent: &Parent, name: &str) -> io::Result<Self> {
        let existed = match rustix::fs::mkdirat(&parent.dir, name, Mode::from(0o755)) {
            Ok(()) => false,
            Err(Errno::EXIST) => true,
            Err(error) => return Err(error.into()),
        };
        let Enforces { memory, cpu, pids, .. } = parent.enforces;
        let counts = memory || cpu || pids;
        let dir = open_dir(&parent.dir, name)?;
        let leaf = Self { parent: parent.dir.try_clone()?, dir, name: name.to_owned(), counts };
        if existed && leaf.populated() {
            return Err(io::Error::other(format!("{name} exists and has processes in it")));
        }
        Ok(leaf)
    }

    /// The cgroup of an attempt, for those who did not make it; None when there is none (any more), or none was ever made.
    /// An error is no absence: somebody must look again.
    pub(crate) fn find(parent: Option<&Path>, key: &AttemptKey) -> io::Result<Option<Self>> {
        let Some(parent) = parent.map(|parent| open_if_there(CWD, parent)).transpose()?.flatten() else {
            return Ok(None);
        };
        let name = leaf_name(key);
        let dir = open_if_there(&parent, &*name)?;
        Ok(dir.map(|dir| Self { parent, dir, name, counts: false }))
    }

    /// The descriptor a process is born into.
    pub(crate) fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Opens `cgroup.procs` for a process that moves itself.
    pub(crate) fn open_procs(&self) -> io::Result<OwnedFd> {
        Ok(rustix::fs::openat(&self.dir, "cgroup.procs", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?)
    }

    /// True while a process lives in it or below it. When in doubt, true.
    pub(crate) fn populated(&self) -> bool {
        match self.read("cgroup.events") {
            Ok(events) => !events.lines().any(|line| line == "populated 0"),
            Err(error) => error.kind() != io::ErrorKind::NotFound && error.raw_os_error() != Some(libc::ENODEV),
        }
    }

    /// Kills everything in it and below it.
    pub(crate) fn kill(&self) {
        let file = rustix::fs::openat(&self.dir, "cgroup.kill", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
        let _ = file.and_then(|file| rustix::io::write(file, b"1"));
    }

    /// The processes in it and below it.
    pub(crate) fn processes(&self) -> Vec<i32> {
        let mut pids = Vec::new();
        let Ok(dir) = self.dir.try_clone() else { return pids };
        collect_processes(&dir, &mut pids, 0);
        pids
    }

    /// Signals every process in it, each only while it is in it.
    pub(crate) fn signal(&self, signals: &[Signal]) {
        for pid in self.processes() {
            procs::signal_if(pid, signals, |_| {
                let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
                groups.lines().any(|line| line.starts_with("0::") && line.split('/').any(|part| part == self.name))
            });
        }
    }

    /// Removes it with the cgroups that the job made in it; false while it is populated.
    pub(crate) fn remove(&self) -> bool {
        self.try_remove() || {
            remove_below(&self.dir, 0);
            self.try_remove()
        }
    }

    /// Removes it if it is empty: succeeds only when no process is left in it.
    pub(crate) fn try_remove(&self) -> bool {
        matches!(rustix::fs::unlinkat(&self.parent, &*self.name, AtFlags::REMOVEDIR), Ok(()) | Err(Errno::NOENT))
    }

    /// What was used in it; None where nobody counts, or while a process lives in it: then the figures are not the last.
    pub(crate) fn used(&self) -> Option<(CpuUse, Used)> {
        if !self.counts || self.populated() {
            return None;
        }
        let read = |name: &str| self.read(name).ok();
        Some((read("cpu.stat").and_then(|text| cpu(&text)).unwrap_or_default(), used(read)))
    }

    fn read(&self, name: &str) -> io::Result<String> {
        read_at(&self.dir, name)
    }
}

fn leaf_name(key: &AttemptKey) -> String {
    format!("ci-job-{key}")
}

fn read_at(dir: &OwnedFd, name: &str) -> io::Result<String> {
    let file = rustix::fs::openat(dir, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    io::read_to_string(std::fs::File::from(file))
}

/// Cgroups nest this deep at most by default in our walks; the kernel's own `cgroup.max.depth` is unlimited.
const DEPTH_MAX: usize = 64;

fn subdirectories(dir: &OwnedFd) -> Vec<(std::ffi::CString, OwnedFd)> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(dir, ".", flags, Mode::empty()).and_then(rustix::fs::Dir::new);
    let Ok(entries) = opened else { return Vec::new() };
    entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let name = entry.file_name();
            let is_dir = entry.file_type() == rustix::fs::FileType::Directory;
            (is_dir && name != c"." && name != c"..").then_some(())?;
            Some((name.to_owned(), open_dir(dir, name).ok()?))
        })
        .collect()
}

fn collect_processes(dir: &OwnedFd, pids: &mut Vec<i32>, depth: usize) {
    let text = read_at(dir, "cgroup.procs").unwrap_or_default();
    pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    if depth < DEPTH_MAX {
        for (_, below) in subdirectories(dir) {
            collect_processes(&below, pids, depth + 1);
        }
    }
}

fn remove_below(dir: &OwnedFd, depth: usize) {
    if depth < DEPTH_MAX {
        for (name, below) in subdirectories(dir) {
            remove_below(&below, depth + 1);
            let _ = rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::own_path;
    use std::path::PathBuf;

    #[test]
    fn finds_its_own_cgroup_in_every_layout() {
        let hybrid = "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n";
        let pure = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        let bind = "30 23 0:26 /user.slice /cg rw - cgroup2 cgroup2 rw\n";
        let cases = [
            ("4:memory:/x\n0::/\n", hybrid, Some("/sys/fs/cgroup/unified")),
            ("0::/user.slice/a.scope\n", pure, Some("/sys/fs/cgroup/user.slice/a.scope")),
            ("0::/user.slice/a.scope\n", bind, Some("/cg/a.scope")),
            ("0::/system.slice\n", bind, None),
            ("0::/../x\n", pure, None),
            ("4:memory:/x\n", pure, None),
            ("0::/\n", "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n", None),
        ];
        for (groups, mounts, want) in cases {
            assert_eq!(own_path(groups, mounts), want.map(PathBuf::from), "{groups}{mounts}");
        }
    }
}
