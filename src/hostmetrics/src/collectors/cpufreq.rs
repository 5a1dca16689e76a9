//! `cpufreq`: the frequency of each CPU, from sysfs. A file that is not there leaves out its series only.

use super::Collector;
use crate::error::CollectError;
use crate::exposition::Families;
use crate::files;
use crate::options::Options;
use std::path::PathBuf;

/// (file in kHz, name, help)
const FILES: [(&str, &str, &str); 6] = [
    ("cpuinfo_cur_freq", "node_cpu_frequency_hertz", "Current cpu thread frequency in hertz."),
    ("cpuinfo_min_freq", "node_cpu_frequency_min_hertz", "Minimum cpu thread frequency in hertz."),
    ("cpuinfo_max_freq", "node_cpu_frequency_max_hertz", "Maximum cpu thread frequency in hertz."),
    ("scaling_cur_freq", "node_cpu_scaling_frequency_hertz", "Current scaled CPU thread frequency in hertz."),
    ("scaling_min_freq", "node_cpu_scaling_frequency_min_hertz", "Minimum scaled CPU thread frequency in hertz."),
    ("scaling_max_freq", "node_cpu_scaling_frequency_max_hertz", "Maximum scaled CPU thread frequency in hertz."),
];

pub(crate) struct Cpufreq {
    cpus: PathBuf,
}

impl Cpufreq {
    pub(crate) fn new(options: &Options) -> Self {
        Self { cpus: options.sysfs.join("devices/system/cpu") }
    }
}

impl Collector for Cpufreq {
    fn collect(&mut self, out: &mut Families) -> Result<(), CollectError> {
        for (cpu, dir) in files::numbered(&self.cpus, "cpu") {
            let dir = dir.join("cpufreq");
            if !dir.is_dir() {
                continue;
            }
            for (file, name, help) in FILES {
                let khz = files::value(&dir.join(file)).and_then(|text| text.parse::<u64>().ok());
                if let Some(khz) = khz {
                    out.gauge(name, help).add(&[("cpu", &cpu)], khz as f64 * 1000.0);
                }
            }
        }
        Ok(())
    }
}
