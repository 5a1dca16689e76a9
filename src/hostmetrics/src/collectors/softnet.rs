//! `softnet`: packets through each CPU's backlog, from `/proc/net/softnet_stat` (hexadecimal, one line a CPU).

use super::Collector;
use crate::error::CollectError;
use crate::exposition::Families;
use crate::files;
use crate::options::Options;
use std::path::PathBuf;

/// The first three columns.
const COLUMNS: [(&str, &str); 3] = [
    ("node_softnet_processed_total", "Number of processed packets"),
    ("node_softnet_dropped_total", "Number of dropped packets"),
    ("node_softnet_times_squeezed_total", "Number of times processing packets ran out of quota"),
];

pub(crate) struct Softnet {
    file: PathBuf,
}

impl Softnet {
    pub(crate) fn new(options: &Options) -> Self {
        Self { file: options.procfs.join("net/softnet_stat") }
    }
}

impl Collector for Softnet {
    fn collect(&mut self, out: &mut Families) -> Result<(), CollectError> {
        let text = files::read(&self.file)?;
        for (cpu, line) in text.lines().enumerate() {
            let mut words = line.split_whitespace();
            for (name, help) in COLUMNS {
                let number = words.next().and_then(|word| u32::from_str_radix(word, 16).ok());
                let number = number.ok_or_else(|| files::malformed(&self.file, line))?;
                out.counter(name, help).add(&[("cpu", &cpu.to_string())], f64::from(number));
            }
        }
        Ok(())
    }
}
