//! `time`: the clock, its zone and its sources.

use super::Collector;
use crate::error::CollectError;
use crate::exposition::Families;
use crate::files;
use crate::options::Options;
use crate::timezone;
use rustix::time::{ClockId, clock_gettime};
use std::path::PathBuf;

pub(crate) struct Time {
    sources: PathBuf,
}

impl Time {
    pub(crate) fn new(options: &Options) -> Self {
        Self { sources: options.sysfs.join("devices/system/clocksource") }
    }
}

impl Collector for Time {
    fn collect(&mut self, out: &mut Families) -> Result<(), CollectError> {
        let now = clock_gettime(ClockId::Realtime);
        let nanoseconds = now.tv_sec as f64 * 1e9 + now.tv_nsec as f64;
        out.gauge("node_time_seconds", "System time in seconds since epoch (1970).").add(&[], nanoseconds / 1e9);
        let zone = timezone::local(now.tv_sec);
        out.gauge("node_time_zone_offset_seconds", "System time zone offset in seconds.")
            .add(&[("time_zone", &zone.name)], zone.offset_seconds as f64);
        for (device, dir) in files::numbered(&self.sources, "clocksource") {
            let available = files::read(&dir.join("available_clocksource"))?;
            for source in available.split_whitespace() {
                out.gauge(
                    "node_time_clocksource_available_info",
                    "Available clocksources read from '/sys/devices/system/clocksource'.",
                )
                .add(&[("device", &device), ("clocksource", source)], 1.0);
            }
            let current = files::read(&dir.join("current_clocksource"))?;
            out.gauge(
                "node_time_clocksource_current_info",
                "Current clocksource read from '/sys/devices/system/clocksource'.",
            )
            .add(&[("device", &device), ("clocksource", current.trim())], 1.0);
        }
        Ok(())
    }
}
