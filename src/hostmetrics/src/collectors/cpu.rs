//! `cpu`: time per CPU and mode from `/proc/stat`, what kind of CPU it is, throttling and isolation from sysfs.
//!
//! The kernel's idle and iowait time can go back a little; a counter may not. So the largest value seen is kept and
//! shown. When a CPU's idle time falls by more than [`RESET_SECONDS`] it was taken away and came back: it begins anew.

use super::{Collector, cpuinfo};
use crate::error::{CollectError, Error};
use crate::exposition::Families;
use crate::files;
use crate::options::Options;
use crate::pattern::{Filter, Matcher};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// Ticks a second in `/proc/stat` (USER_HZ): part of the kernel's interface on every architecture Rust's std runs on.
const USER_HZ: f64 = 100.0;
const RESET_SECONDS: f64 = 3.0;
/// The columns of `/proc/stat`; the last two are guests.
const MODES: [&str; 8] = ["user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"];
const GUESTS: [&str; 2] = ["user", "nice"];
const COLUMNS: usize = MODES.len() + GUESTS.len();
const IDLE: usize = 3;

pub(crate) struct Cpu {
    procfs: PathBuf,
    cpus: PathBuf,
    guest: bool,
    info: bool,
    flags: Option<Matcher>,
    bugs: Option<Matcher>,
    largest: BTreeMap<String, [f64; COLUMNS]>,
}

impl Cpu {
    pub(crate) fn new(options: &Options) -> Result<Self, Error> {
        let words =
            |pattern: &Option<String>| pattern.as_deref().map(|one| Filter::including(one).compile()).transpose();
        Ok(Self {
            procfs: options.procfs.clone(),
            cpus: options.sysfs.join("devices/system/cpu"),
            guest: options.cpu_guest,
            info: options.cpu_info,
            flags: words(&options.cpu_flags)?,
            bugs: words(&options.cpu_bugs)?,
            largest: BTreeMap::new(),
        })
    }

    fn times(&mut self, out: &mut Families) -> Result<(), CollectError> {
        let path = self.procfs.join("stat");
        let text = files::read(&path)?;
        let mut seen = BTreeSet::new();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let Some(cpu) = words.next().and_then(|word| word.strip_prefix("cpu")).filter(|cpu| !cpu.is_empty()) else {
                continue;
            };
            let mut now = [0.0; COLUMNS];
            for (place, word) in now.iter_mut().zip(words) {
                *place = files::parse(word, &path)? / USER_HZ;
            }
            seen.insert(cpu.to_owned());
            let known = self.largest.entry(cpu.to_owned()).or_insert(now);
            keep_largest(known, now);
            for (mode, value) in MODES.into_iter().zip(*known) {
                out.counter("node_cpu_seconds_total", "Seconds the CPUs spent in each mode.")
                    .add(&[("cpu", cpu), ("mode", mode)], value);
            }
            for (mode, value) in GUESTS.into_iter().zip(known[MODES.len()..].iter()).filter(|_| self.guest) {
                out.counter("node_cpu_guest_seconds_total", "Seconds the CPUs spent in guests (VMs) for each mode.")
                    .add(&[("cpu", cpu), ("mode", mode)], *value);
            }
        }
        self.largest.retain(|cpu, _| seen.contains(cpu));
        Ok(())
    }

    /// Intel's counts of thermal throttling, once per core and once per package.
    fn throttles(&self, out: &mut Families) {
        let mut cores = BTreeSet::new();
        let mut packages = BTreeSet::new();
        for (_, dir) in files::numbered(&self.cpus, "cpu") {
            let (Some(package), Some(core)) =
                (files::value(&dir.join("topology/physical_package_id")), files::value(&dir.join("topology/core_id")))
            else {
                continue;
            };
            let count = |name: &str| files::number(&dir.join("thermal_throttle").join(name)).ok();
            if !cores.contains(&(package.clone(), core.clone()))
                && let Some(count) = count("core_throttle_count")
            {
                out.counter("node_cpu_core_throttles_total", "Number of times this CPU core has been throttled.")
                    .add(&[("package", &package), ("core", &core)], count);
                cores.insert((package.clone(), core));
            }
            if !packages.contains(&package)
                && let Some(count) = count("package_throttle_count")
            {
                out.counter("node_cpu_package_throttles_total", "Number of times this CPU package has been throttled.")
                    .add(&[("package", &package)], count);
                packages.insert(package);
            }
        }
    }

    /// `2-3,7` as one series a CPU.
    fn isolated(&self, out: &mut Families) {
        let list = files::value(&self.cpus.join("isolated")).unwrap_or_default();
        for part in list.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (Ok(first), Ok(last)) = (first.parse::<u16>(), last.parse::<u16>()) else { continue };
            for cpu in first..=last {
                out.gauge(
                    "node_cpu_isolated",
                    "Whether each core is isolated, information from /sys/devices/system/cpu/isolated.",
                )
                .add(&[("cpu", &cpu.to_string())], 1.0);
            }
        }
    }
}

/// Raises what is known to what is there now; a fall of idle time by more than `RESET_SECONDS` begins anew.
fn keep_largest(known: &mut [f64; COLUMNS], now: [f64; COLUMNS]) {
    if known[IDLE] - now[IDLE] >= RESET_SECONDS {
        *known = now;
    }
    for (known, now) in known.iter_mut().zip(now) {
        *known = known.max(now);
    }
}

impl Collector for Cpu {
    fn collect(&mut self, out: &mut Families) -> Result<(), CollectError> {
        if self.info {
            cpuinfo::collect(&self.procfs.join("cpuinfo"), self.flags.as_mut(), self.bugs.as_mut(), out)?;
        }
        self.times(out)?;
        self.isolated(out);
        self.throttles(out);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_goes_back_only_when_the_cpu_was_away() {
        let line = |user: f64, idle: f64| {
            let mut line = [0.0; COLUMNS];
            (line[0], line[IDLE]) = (user, idle);
            line
        };
        let mut known = line(5.0, 10.0);
        keep_largest(&mut known, line(4.0, 9.5));
        assert_eq!(known, line(5.0, 10.0));
        keep_largest(&mut known, line(6.0, 10.5));
        assert_eq!(known, line(6.0, 10.5));
        keep_largest(&mut known, line(0.5, 2.0));
        assert_eq!(known, line(0.5, 2.0));
    }
}
