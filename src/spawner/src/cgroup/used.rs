//! What a cgroup tells of those who were in it. Files that a kernel does not have are no error: the figure is not measured.

use crate::protocol::Used;

/// CPU time by kind, microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CpuUse {
    /// In user mode.
    pub(crate) user_us: u64,
    /// In the kernel.
    pub(crate) system_us: u64,
}

/// Everything, by way of a function that reads a file of the cgroup.
pub(crate) fn used(read: impl Fn(&str) -> Option<String>) -> Used {
    let number = |name: &str| read(name)?.trim().parse().ok();
    let disks = read("io.stat");
    Used {
        memory_peak: number("memory.peak"),
        io_read_bytes: disks.as_deref().map(|text| sum(text, "rbytes=")),
        io_written_bytes: disks.as_deref().map(|text| sum(text, "wbytes=")),
        pids_peak: number("pids.peak"),
        memory_stall_us: read("memory.pressure").and_then(|text| stalled(&text)),
        cpu_stall_us: read("cpu.pressure").and_then(|text| stalled(&text)),
        io_stall_us: read("io.pressure").and_then(|text| stalled(&text)),
        oom_kills: read("memory.events").and_then(|text| word(&text, "oom_kill ")),
        disk_bytes: None,
    }
}

/// From the text of `cpu.stat`.
pub(crate) fn cpu(text: &str) -> Option<CpuUse> {
    Some(CpuUse { user_us: word(text, "user_usec ")?, system_us: word(text, "system_usec ")? })
}

fn word(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

/// Lines such as `8:0 rbytes=4096 wbytes=0 rios=1 …`, one for each device.
fn sum(text: &str, name: &str) -> u64 {
    text.split_whitespace().filter_map(|word| word.strip_prefix(name)?.parse::<u64>().ok()).sum()
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=1234`
fn stalled(text: &str) -> Option<u64> {
    let some = text.lines().find_map(|line| line.strip_prefix("some "))?;
    some.split_whitespace().find_map(|word| word.strip_prefix("total=")?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_in_the_kernels_words_and_missing_ones_are_none() {
        let read = |name: &str| {
            let text = match name {
                "memory.peak" => "4096\n",
                "io.stat" => "8:0 rbytes=1 wbytes=20 rios=3\n8:16 \n253:0 rbytes=100 wbytes=0 dbytes=7\n",
                "memory.pressure" => "some avg10=0.00 avg60=1.00 avg300=0.00 total=77\nfull avg10=0.00 total=5\n",
                "memory.events" => "low 0\nmax 9\noom 2\noom_kill 3\noom_group_kill 1\n",
                _ => return None,
            };
            Some(text.to_owned())
        };
        let want = Used {
            memory_peak: Some(4096),
            io_read_bytes: Some(101),
            io_written_bytes: Some(20),
            memory_stall_us: Some(77),
            oom_kills: Some(3),
            ..Used::default()
        };
        assert_eq!(used(read), want);
        assert_eq!(used(|_| None), Used::default());
        let text = "usage_usec 9\nuser_usec 7\nsystem_usec 2\n";
        assert_eq!(cpu(text), Some(CpuUse { user_us: 7, system_us: 2 }));
    }
}
