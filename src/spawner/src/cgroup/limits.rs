//! Limits into a job's cgroup, before the job's first instruction.

use std::io;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::Leaf;
use crate::protocol::{Enforces, Limits};

/// CPU time is counted over so many microseconds: the kernel's own default.
const PERIOD_US: u64 = 100_000;

/// Which limits a cgroup takes.
pub(super) fn enforced(leaf: &Leaf, why_not: Option<&str>) -> Enforces {
    let has = |name: &str| {
        let flags = rustix::fs::AtFlags::empty();
        rustix::fs::accessat(&leaf.dir, name, rustix::fs::Access::WRITE_OK, flags).is_ok()
    };
    let mut enforces = Enforces {
        memory: has("memory.max"),
        cpu: has("cpu.max"),
        pids: has("pids.max"),
        io: has("io.weight"),
        why_not: String::new(),
    };
    if !(enforces.memory && enforces.cpu && enforces.pids) {
        let why = why_not.unwrap_or("the kernel does not offer them here");
        enforces.why_not = crate::record::shortened(why);
    }
    enforces
}

impl Leaf {
    /// Makes whatever will be in it keep to these limits. Err: in words; then nothing may run in it.
    pub(crate) fn limit(&self, limits: &Limits, enforces: &Enforces) -> Result<(), String> {
        if let Some(name) = limits.lacks(enforces) {
            let why = &enforces.why_not;
            return Err(format!("a limit of {name} cannot be enforced by this spawner: {why}"));
        }
        for (file, text) in lines(limits, enforces) {
            match self.write(file, &text) {
                Ok(()) => {}
                // A kernel without swap has nothing to limit.
                Err(error) if file == "memory.swap.max" && error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(format!("cannot write {text:?} to {file} of its cgroup: {error}")),
            }
        }
        Ok(())
    }

    fn write(&self, name: &str, text: &str) -> io::Result<()> {
        let file = rustix::fs::openat(&self.dir, name, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        match rustix::io::write(&file, text.as_bytes()) {
            Ok(written) if written == text.len() => Ok(()),
            Ok(_) => Err(Errno::INVAL.into()),
            Err(error) => Err(error.into()),
        }
    }
}

/// What is written where. A job is one thing: when one of its processes is killed for memory, all are.
fn lines(limits: &Limits, enforces: &Enforces) -> Vec<(&'static str, String)> {
    let bytes = |bytes: u64| if bytes == u64::MAX { "max".to_owned() } else { bytes.to_string() };
    let quota = |milli: u32| format!("{} {PERIOD_US}", u64::from(milli) * PERIOD_US / 1000);
    let all = [
        ("memory.oom.group", enforces.memory.then(|| "1".to_owned())),
        ("memory.high", limits.memory_high.map(|bytes| bytes.to_string())),
        ("memory.swap.max", limits.swap_max.map(bytes)),
        ("memory.max", limits.memory_max.map(|bytes| bytes.to_string())),
        ("cpu.max", limits.cpu_milli.map(quota)),
        ("cpu.weight", limits.cpu_weight.map(|weight| weight.to_string())),
        ("pids.max", limits.pids_max.map(|pids| pids.to_string())),
        ("io.weight", limits.io_weight.map(|weight| format!("default {weight}"))),
    ];
    all.into_iter().filter_map(|(file, text)| Some((file, text?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_has_its_file_in_the_kernels_words() {
        let limits = Limits {
            memory_max: Some(1 << 30),
            memory_high: Some(1 << 29),
            swap_max: Some(0),
            cpu_milli: Some(1_500),
            cpu_weight: Some(50),
            pids_max: Some(64),
            io_weight: Some(20),
        };
        let enforces = Enforces { memory: true, ..Enforces::default() };
        let want = [
            ("memory.oom.group", "1"),
            ("memory.high", "536870912"),
            ("memory.swap.max", "0"),
            ("memory.max", "1073741824"),
            ("cpu.max", "150000 100000"),
            ("cpu.weight", "50"),
            ("pids.max", "64"),
            ("io.weight", "default 20"),
        ];
        assert_eq!(lines(&limits, &enforces), want.map(|(file, text)| (file, text.to_owned())));
        assert_eq!(
            lines(&Limits { cpu_milli: Some(10), ..Limits::default() }, &Enforces::default())[0].1,
            "1000 100000"
        );
    }
}
