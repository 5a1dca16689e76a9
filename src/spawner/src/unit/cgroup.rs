//! The cgroup of a unit: killed until nothing lives in it, and asked what it used.
//!
//! PID 1 makes and removes it; nothing here does. Its path is computed (slice and unit name), so that a shim can kill its job
//! while neither spawner nor bus nor PID 1 answers, and corrected by what PID 1 says. A computed path is a guess where
//! another spawner started the unit, or this one under another policy: that nothing is there proves nothing then.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::cgroup::{self, CpuUse};
use crate::protocol::Used;

/// The directory of one unit's cgroup, which may not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UnitGroup {
    dir: PathBuf,
    /// PID 1 has said so, or was asked for it by this process.
    is_known: bool,
}

impl UnitGroup {
    /// Where `unit` in `slice` would be, below `mount` (where the unified hierarchy is mounted) and PID 1's own root. A guess.
    pub(crate) fn new(mount: &Path, root: &str, slice: &str, unit: &str) -> Self {
        let mut dir = mount.join(root.trim_start_matches('/'));
        dir.extend(slice_path(slice));
        dir.push(unit);
        Self { dir, is_known: false }
    }

    /// The same, and no guess: the unit is there, or nowhere.
    pub(crate) fn known(self) -> Self {
        Self { is_known: true, ..self }
    }

    /// False while it is a guess.
    pub(super) fn is_known(&self) -> bool {
        self.is_known
    }

    /// Where PID 1 says it is; None while it says nothing.
    pub(crate) fn told(mount: &Path, control_group: &str) -> Option<Self> {
        let below = control_group.strip_prefix('/').filter(|below| !below.is_empty())?;
        let safe = below.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
        safe.then(|| Self { dir: mount.join(below), is_known: true })
    }

    /// SIGKILL to everything in it and below it.
    pub(crate) fn kill(&self) {
        let _ = std::fs::write(self.dir.join("cgroup.kill"), "1");
    }

    /// True when it has no processes, or is not where it is known to be. An answer that could not be had is an error, not a
    /// yes, and so is nothing at a place that was guessed.
    pub(crate) fn is_empty(&self) -> io::Result<bool> {
        match std::fs::read_to_string(self.dir.join("cgroup.events")) {
            Ok(events) => Ok(events.lines().any(|line| line == "populated 0")),
            Err(error) if is_gone(&error) && self.is_known => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// How many processes are in it (not below it).
    pub(crate) fn processes(&self) -> u32 {
        let text = std::fs::read_to_string(self.dir.join("cgroup.procs")).unwrap_or_default();
        u32::try_from(text.lines().count()).unwrap_or(u32::MAX)
    }

    /// The process in it, when there is only one.
    pub(super) fn only_process(&self) -> Option<i32> {
        let text = std::fs::read_to_string(self.dir.join("cgroup.procs")).ok()?;
        let mut processes = text.lines();
        processes.next()?.parse().ok().filter(|_| processes.next().is_none())
    }

    /// A file of it, for reading.
    pub(super) fn open(&self, name: &str) -> Option<File> {
        File::open(self.dir.join(name)).ok()
    }

    /// What was used in it, where it still is there and the kernel counts.
    pub(crate) fn used(&self) -> (Option<CpuUse>, Used) {
        let read = |name: &str| std::fs::read_to_string(self.dir.join(name)).ok();
        (read("cpu.stat").and_then(|text| cgroup::cpu(&text)), cgroup::used(read))
    }
}

#[cfg(test)]
impl UnitGroup {
    pub(super) fn of_dir(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), is_known: true }
    }
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::NODEV.raw_os_error())
}

/// `a-b.slice` lives in `a.slice`: all the directories on the way.
fn slice_path(slice: &str) -> Vec<String> {
    let name = slice.strip_suffix(".slice").unwrap_or(slice);
    if name == "-" {
        return Vec::new();
    }
    let ends = name.match_indices('-').map(|(at, _)| at).chain([name.len()]);
    ends.map(|end| format!("{}.slice", &name[..end])).collect()
}

/// Where the unified hierarchy is mounted.
pub(crate) fn mount() -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        after.starts_with("cgroup2 ").then(|| before.split(' ').nth(4).map(PathBuf::from)).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_found_where_systemd_puts_it() {
        let mount = Path::new("/sys/fs/cgroup");
        for (root, slice, want) in [
            ("", "ci.slice", "/sys/fs/cgroup/ci.slice/u.service"),
            ("/", "-.slice", "/sys/fs/cgroup/u.service"),
            ("/box", "a-b-c.slice", "/sys/fs/cgroup/box/a.slice/a-b.slice/a-b-c.slice/u.service"),
        ] {
            assert_eq!(UnitGroup::new(mount, root, slice, "u.service").dir, Path::new(want));
        }
        assert_eq!(UnitGroup::told(mount, ""), None);
        assert_eq!(UnitGroup::told(mount, "/a/../b"), None);
        let told = UnitGroup::told(mount, "/ci.slice/u.service");
        assert_eq!(told, Some(UnitGroup::new(mount, "", "ci.slice", "u.service").known()));
    }

    #[test]
    fn no_directory_is_empty_and_a_failed_look_is_no_proof() {
        let dir = tempfile::tempdir().expect("a directory");
        let guess = UnitGroup { dir: dir.path().join("none"), is_known: false };
        assert!(guess.is_empty().is_err());
        assert!(guess.known().is_empty().expect("gone"));
        let group = UnitGroup::of_dir(dir.path());
        std::fs::create_dir(dir.path().join("cgroup.events")).expect("made");
        assert!(group.is_empty().is_err());
        std::fs::remove_dir(dir.path().join("cgroup.events")).expect("removed");
        std::fs::write(dir.path().join("cgroup.events"), "populated 1\nfrozen 0\n").expect("written");
        assert!(!group.is_empty().expect("read"));
        std::fs::write(dir.path().join("cpu.stat"), "usage_usec 9\nuser_usec 7\nsystem_usec 2\n").expect("written");
        assert_eq!(group.used().0, Some(CpuUse { user_us: 7, system_us: 2 }));
    }
}
