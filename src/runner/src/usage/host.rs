//! Load, memory and pressure of the host, as the kernel says them. What cannot be read is absent.
//!
//! Sources: `/proc/loadavg`, `/proc/meminfo`, `/proc/pressure` (Documentation/accounting/psi.rst of the kernel).

use crate::api::{HostUsage, PressureUsage};
use std::path::Path;

/// Looks at everything.
pub fn look(proc: &Path) -> HostUsage {
    let load = read(proc, "loadavg").unwrap_or_default();
    let mut loads = load.split_ascii_whitespace().map(|word| word.parse::<f64>().ok());
    let mut load = || loads.next().flatten();
    let memory = read(proc, "meminfo").unwrap_or_default();
    let kib = |name: &str| {
        let line = memory.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
    };
    HostUsage {
        cpus: std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u64),
        load1: load(),
        load5: load(),
        load15: load(),
        memory_total_bytes: kib("MemTotal"),
        memory_available_bytes: kib("MemAvailable"),
        cpu_pressure: pressure(proc, "cpu"),
        memory_pressure: pressure(proc, "memory"),
        io_pressure: pressure(proc, "io"),
    }
}

/// `some avg10=0.12 avg60=0.00 avg300=0.00 total=77`, and a second line `full …`.
fn pressure(proc: &Path, name: &str) -> Option<PressureUsage> {
    let text = read(proc, &format!("pressure/{name}"))?;
    let average = |kind: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(kind))?;
        line.split(' ').find_map(|word| word.strip_prefix("avg10=")?.parse::<f64>().ok())
    };
    Some(PressureUsage { some_percent: average("some ")?, full_percent: average("full ") })
}

fn read(proc: &Path, name: &str) -> Option<String> {
    std::fs::read_to_string(proc.join(name)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_told_and_what_is_not_is_absent() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("pressure")).unwrap();
        for (name, text) in [
            ("loadavg", "1.25 0.50 0.10 2/300 4711\n"),
            ("meminfo", "MemTotal:       2048 kB\nMemFree: 1 kB\nMemAvailable:    1024 kB\n"),
            ("pressure/io", "some avg10=12.34 avg60=0.00 avg300=0.00 total=1\nfull avg10=5.00 avg60=0 total=1\n"),
            ("pressure/cpu", "nonsense\n"),
        ] {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let told = look(dir.path());
        assert_eq!((told.load1, told.load15), (Some(1.25), Some(0.1)));
        assert_eq!((told.memory_total_bytes, told.memory_available_bytes), (Some(2 << 20), Some(1 << 20)));
        assert_eq!(told.io_pressure, Some(PressureUsage { some_percent: 12.34, full_percent: Some(5.0) }));
        assert_eq!((told.cpu_pressure, told.memory_pressure), (None, None));
        let nothing = look(&dir.path().join("none"));
        assert_eq!((nothing.load1, nothing.memory_total_bytes, nothing.io_pressure), (None, None, None));
    }
}
