//! What the cgroup of a unit tells when its main process ends.
//!
//! PID 1 removes the cgroup as soon as it has heard of that end, and an open file of a cgroup that is gone tells nothing. The shim
//! hears of it at the same time, from the kernel, and has the files open by then, so it may be first. Where PID 1 was, the figures
//! that it does not keep itself are not known.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use super::cgroup::UnitGroup;
use crate::cgroup;
use crate::procs;
use crate::protocol::Used;

/// What PID 1 tells nobody about, in the order in which it is read.
const FILES: [&str; 5] = ["pids.peak", "memory.pressure", "cpu.pressure", "io.pressure", "memory.events"];
/// None of them is longer.
const BYTES_MAX: usize = 1024;

/// Waits for the end of a main process.
pub(super) struct Figures {
    /// None when it has ended.
    main: Option<OwnedFd>,
    files: Vec<(&'static str, File)>,
    used: Used,
}

impl Figures {
    /// Of a unit whose only process is its helper yet.
    pub(super) fn of(group: &UnitGroup) -> Self {
        let main = group.only_process().and_then(procs::pin);
        let files = FILES.iter().filter_map(|name| Some((*name, group.open(name)?)));
        Self { files: if main.is_some() { files.collect() } else { Vec::new() }, main, used: Used::default() }
    }

    /// Readable when the main process has ended; None: that is over, or cannot be known.
    pub(super) fn main(&self) -> Option<&OwnedFd> {
        self.main.as_ref()
    }

    /// The main process has ended: asks at once.
    pub(super) fn ask(&mut self) {
        self.main = None;
        self.used = cgroup::used(|name| {
            let file = self.files.iter().find(|(known, _)| *known == name).map(|(_, file)| file)?;
            let mut text = [0; BYTES_MAX];
            let got = file.read_at(&mut text, 0).ok()?;
            Some(String::from_utf8_lossy(&text[..got]).into_owned())
        });
        self.files.clear();
    }

    /// What is known now, with what others told. Only where a controller counts.
    pub(super) fn add_to(&self, told: Option<Box<Used>>) -> Option<Box<Used>> {
        let counted = self.used.pids_peak.is_some() || self.used.oom_kills.is_some();
        if told.is_none() && !counted {
            return None;
        }
        let told = told.map(|told| *told).unwrap_or_default();
        Some(Box::new(Used {
            pids_peak: told.pids_peak.max(self.used.pids_peak),
            memory_stall_us: told.memory_stall_us.max(self.used.memory_stall_us),
            cpu_stall_us: told.cpu_stall_us.max(self.used.cpu_stall_us),
            io_stall_us: told.io_stall_us.max(self.used.io_stall_us),
            oom_kills: told.oom_kills.max(self.used.oom_kills),
            ..told
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_is_asked_at_the_end_and_adds_to_what_is_told() {
        let dir = tempfile::tempdir().expect("a directory");
        let put = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).expect("written");
        let group = UnitGroup::of_dir(dir.path());
        assert!(Figures::of(&group).main().is_none(), "nobody is there");
        put("cgroup.procs", "1\n2\n");
        assert!(Figures::of(&group).main().is_none(), "who is the main process?");
        put("cgroup.procs", &format!("{}\n", std::process::id()));
        put("pids.peak", "1\n");
        put("memory.events", "oom 1\noom_kill 1\n");
        put("cpu.pressure", "some avg10=0.00 avg60=0.00 avg300=0.00 total=5\n");
        let mut figures = Figures::of(&group);
        assert!(figures.main().is_some());
        put("pids.peak", "7\n");
        put("memory.events", "oom 3\noom_kill 3\n");
        figures.ask();
        assert!(figures.main().is_none());
        let mine = Used { pids_peak: Some(7), cpu_stall_us: Some(5), oom_kills: Some(3), ..Used::default() };
        assert_eq!(figures.add_to(None), Some(Box::new(mine)));
        let told = Used { memory_peak: Some(9), oom_kills: Some(1), cpu_stall_us: Some(6), ..Used::default() };
        let all = Used { memory_peak: Some(9), cpu_stall_us: Some(6), ..mine };
        assert_eq!(figures.add_to(Some(Box::new(told))), Some(Box::new(all)));
    }

    #[test]
    fn where_no_controller_counts_there_is_no_receipt() {
        let dir = tempfile::tempdir().expect("a directory");
        let group = UnitGroup::of_dir(dir.path());
        std::fs::write(dir.path().join("cgroup.procs"), format!("{}\n", std::process::id())).expect("written");
        std::fs::write(dir.path().join("cpu.pressure"), "some total=5\n").expect("written");
        let mut figures = Figures::of(&group);
        figures.ask();
        assert_eq!(figures.add_to(None), None);
        let told = Used { memory_peak: Some(9), ..Used::default() };
        let want = Used { cpu_stall_us: Some(5), ..told };
        assert_eq!(figures.add_to(Some(Box::new(told))), Some(Box::new(want)));
    }
}
