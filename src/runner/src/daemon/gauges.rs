//! How busy the host is, against the limits of `[admission]`.
//!
//! What cannot be measured passes no limit: it is said as a problem of the host, and jobs run. Sources: `/proc/pressure`
//! (Documentation/accounting/psi.rst of the kernel), `/proc/loadavg`, `/proc/meminfo`, `statvfs(2)`.

use crate::config::AdmissionConfig;
use crate::quantity::show_size;
use ci_runner_core::busy::{Busy, Gauge};
use std::fs;
use std::path::Path;

/// What a look found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// Limits that are passed.
    pub busy: Vec<Busy>,
    /// Gauges that could not be read, in words.
    pub unread: Option<String>,
}

/// All gauges, in the order in which they are told.
const GAUGES: [Gauge; 6] =
    [Gauge::CpuPressure, Gauge::MemoryPressure, Gauge::IoPressure, Gauge::Load, Gauge::FreeMemory, Gauge::FreeDisk];

/// The limit of a gauge, if it has one.
pub fn limit(limits: &AdmissionConfig, gauge: Gauge) -> Option<u64> {
    match gauge {
        Gauge::CpuPressure => limits.cpu_pressure_max,
        Gauge::MemoryPressure => limits.memory_pressure_max,
        Gauge::IoPressure => limits.io_pressure_max,
        Gauge::Load => limits.load_max,
        Gauge::FreeMemory => limits.memory_free_min,
        Gauge::FreeDisk => limits.disk_free_min,
    }
}

/// Measures what has a limit. `proc` is `/proc`; `disk` lies on the file system whose space counts. Blocks as long as the
/// file system does.
pub fn look(limits: &AdmissionConfig, proc: &Path, disk: &Path) -> Look {
    let mut found = Look::default();
    let mut unread = Vec::new();
    for gauge in GAUGES {
        let Some(limit) = limit(limits, gauge) else { continue };
        match measure(gauge, proc, disk) {
            Ok(measured) => found.busy.extend(Busy::of(gauge, measured, limit)),
            Err(why) => unread.push(why),
        }
    }
    found.unread = (!unread.is_empty())
        .then(|| format!("a limit of [admission] cannot be watched, and holds nothing back: {}", unread.join("; ")));
    found
}

/// A passed limit in words: what, how much, and the setting that says so.
pub fn words(busy: &Busy) -> String {
    let Busy { gauge, measured, limit } = busy;
    let percent = |value: u64| format!("{}.{:02} %", value / 100, value % 100);
    let number = |value: u64| format!("{}.{:02}", value / 100, value % 100);
    let waits = |what: &str, setting: &str| {
        format!("tasks wait for {what} {} of the time ({setting} = {})", percent(*measured), percent(*limit))
    };
    match gauge {
        Gauge::CpuPressure => waits("a CPU", "cpu_pressure_max"),
        Gauge::MemoryPressure => waits("memory", "memory_pressure_max"),
        Gauge::IoPressure => waits("a disk", "io_pressure_max"),
        Gauge::Load => format!("the load is {} for each CPU (load_max = {})", number(*measured), number(*limit)),
        Gauge::FreeMemory => {
            format!("{} of memory are available (memory_free_min = {})", show_size(*measured), show_size(*limit))
        }
        Gauge::FreeDisk => {
            format!("{} are free on the disk (disk_free_min = {})", show_size(*measured), show_size(*limit))
        }
    }
}

fn measure(gauge: Gauge, proc: &Path, disk: &Path) -> Result<u64, String> {
    match gauge {
        Gauge::CpuPressure => pressure(&proc.join("pressure/cpu")),
        Gauge::MemoryPressure => pressure(&proc.join("pressure/memory")),
        Gauge::IoPressure => pressure(&proc.join("pressure/io")),
        Gauge::Load => {
            let path = proc.join("loadavg");
            let cpus = std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u64);
            let word = read(&path)?.split(' ').next().map(str::to_owned).unwrap_or_default();
            Ok(hundredths(&word).ok_or_else(|| strange(&path))? / cpus)
        }
        Gauge::FreeMemory => {
            let path = proc.join("meminfo");
            let text = read(&path)?;
            let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
            let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
            Ok(kib.ok_or_else(|| strange(&path))?.saturating_mul(1_024))
        }
        Gauge::FreeDisk => {
            let space = rustix::fs::statvfs(disk).map_err(|error| format!("{}: {error}", disk.display()))?;
            Ok(space.f_bavail.saturating_mul(space.f_frsize))
        }
    }
}

/// `some avg10=1.23 …`, the first line.
fn pressure(path: &Path) -> Result<u64, String> {
    let text = read(path)?;
    let some = text.lines().find_map(|line| line.strip_prefix("some "));
    let average = some.and_then(|line| line.split(' ').find_map(|word| word.strip_prefix("avg10=")));
    average.and_then(hundredths).ok_or_else(|| strange(path))
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn strange(path: &Path) -> String {
    format!("{}: does not look as expected", path.display())
}

/// `1.23` as 123. The kernel writes two digits after the point.
fn hundredths(text: &str) -> Option<u64> {
    let (whole, part) = text.split_once('.')?;
    let part: u64 = (part.len() == 2).then(|| part.parse().ok())??;
    whole.parse::<u64>().ok()?.checked_mul(100)?.checked_add(part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    const NOTHING: AdmissionConfig = AdmissionConfig {
        cpu_pressure_max: None,
        memory_pressure_max: None,
        io_pressure_max: None,
        load_max: None,
        memory_free_min: None,
        disk_free_min: None,
    };

    fn proc(dir: &Path, pressure: &str) -> PathBuf {
        fs::create_dir_all(dir.join("pressure")).unwrap();
        for name in ["cpu", "memory", "io"] {
            let rest = "avg60=99.00 avg300=99.00 total=1\nfull avg10=99.00 avg60=99.00 avg300=99.00 total=1\n";
            fs::write(dir.join("pressure").join(name), format!("some avg10={pressure} {rest}")).unwrap();
        }
        fs::write(dir.join("loadavg"), "8000.50 1.00 1.00 1/2 3\n").unwrap();
        fs::write(dir.join("meminfo"), "MemTotal: 9 kB\nMemFree: 1 kB\nMemAvailable:      2048 kB\n").unwrap();
        dir.to_owned()
    }

    #[test]
    fn each_limit_is_compared_with_its_own_figure() {
        let dir = tempfile::tempdir().unwrap();
        let proc = proc(dir.path(), "40.25");
        let limits = AdmissionConfig {
            cpu_pressure_max: Some(4_024),
            memory_pressure_max: Some(4_025),
            load_max: Some(100),
            memory_free_min: Some(2_097_153),
            disk_free_min: Some(u64::MAX),
            ..NOTHING
        };
        let found = look(&limits, &proc, dir.path());
        assert_eq!(found.unread, None);
        let gauges: Vec<Gauge> = found.busy.iter().map(|busy| busy.gauge).collect();
        assert_eq!(gauges, [Gauge::CpuPressure, Gauge::Load, Gauge::FreeMemory, Gauge::FreeDisk]);
        assert_eq!(found.busy[0], Busy { gauge: Gauge::CpuPressure, measured: 4_025, limit: 4_024 });
        assert_eq!(found.busy[2].measured, 2_097_152);
        assert_eq!(look(&NOTHING, &proc, dir.path()), Look::default(), "without limits nothing is read");
    }

    #[test]
    fn what_cannot_be_read_holds_nothing_back_and_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let proc = proc(dir.path(), "no number");
        fs::remove_file(proc.join("pressure/io")).unwrap();
        let limits = AdmissionConfig { cpu_pressure_max: Some(1), io_pressure_max: Some(1), ..NOTHING };
        let found = look(&limits, &proc, dir.path());
        assert_eq!(found.busy, []);
        let unread = found.unread.unwrap();
        assert!(unread.contains("pressure/cpu") && unread.contains("pressure/io"), "{unread}");
    }

    #[test]
    fn this_host_can_be_measured() {
        for gauge in [Gauge::Load, Gauge::FreeMemory, Gauge::FreeDisk] {
            measure(gauge, Path::new("/proc"), Path::new("/")).unwrap();
        }
    }
}
