//! `thermal_zone`: temperatures and cooling devices, from `/sys/class/thermal`. A device that gives no value (it may
//! answer ENODATA or EAGAIN while asleep) is left out; the others are shown.

use super::Collector;
use crate::error::CollectError;
use crate::exposition::Families;
use crate::files;
use crate::options::Options;
use std::path::{Path, PathBuf};

pub(crate) struct ThermalZone {
    dir: PathBuf,
}

impl ThermalZone {
    pub(crate) fn new(options: &Options) -> Self {
        Self { dir: options.sysfs.join("class/thermal") }
    }
}

fn number(path: &Path) -> Option<f64> {
    files::value(path)?.parse::<i64>().ok().map(|number| number as f64)
}

impl Collector for ThermalZone {
    fn collect(&mut self, out: &mut Families) -> Result<(), CollectError> {
        for (zone, dir) in files::numbered(&self.dir, "thermal_zone") {
            let (Some(kind), Some(temp)) = (files::value(&dir.join("type")), number(&dir.join("temp"))) else {
                continue;
            };
            out.gauge("node_thermal_zone_temp", "Zone temperature in Celsius")
                .add(&[("zone", &zone), ("type", &kind)], temp / 1000.0);
        }
        for (name, dir) in files::numbered(&self.dir, "cooling_device") {
            let (Some(kind), Some(current), Some(max)) =
                (files::value(&dir.join("type")), number(&dir.join("cur_state")), number(&dir.join("max_state")))
            else {
                continue;
            };
            let labels = [("name", name.as_str()), ("type", &kind)];
            out.gauge("node_cooling_device_cur_state", "Current throttle state of the cooling device")
                .add(&labels, current);
            out.gauge("node_cooling_device_max_state", "Maximum throttle state of the cooling device")
                .add(&labels, max);
        }
        Ok(())
    }
}
