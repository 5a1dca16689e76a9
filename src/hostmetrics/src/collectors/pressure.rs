//! `pressure`: time lost waiting for CPU, memory and IO, from `/proc/pressure` (absent where the kernel has no PSI).

use super::Collector;
use crate::error::CollectError;
use crate::exposition::Families;
use crate::files;
use crate::options::Options;
use std::path::PathBuf;

/// (file, first word of the line, name, help). The CPU's `full` line says nothing for the whole host.
const LINES: [(&str, &str, &str, &str); 5] = [
    (
        "cpu",
        "some",
        "node_pressure_cpu_waiting_seconds_total",
        "Total time in seconds that processes have waited for CPU time",
    ),
    (
        "io",
        "some",
        "node_pressure_io_waiting_seconds_total",
        "Total time in seconds that processes have waited due to IO congestion",
    ),
    (
        "io",
        "full",
        "node_pressure_io_stalled_seconds_total",
        "Total time in seconds no process could make progress due to IO congestion",
    ),
    (
        "memory",
        "some",
        "node_pressure_memory_waiting_seconds_total",
        "Total time in seconds that processes have waited for memory",
    ),
    (
        "memory",
        "full",
        "node_pressure_memory_stalled_seconds_total",
        "Total time in seconds no process could make progress due to memory congestion",
    ),
];

pub(crate) struct Pressure {
    dir: PathBuf,
}

impl Pressure {
    pub(crate) fn new(options: &Options) -> Self {
        Self { dir: options.procfs.join("pressure") }
    }
}

impl Collector for Pressure {
    fn collect(&mut self, out: &mut Families) -> Result<(), CollectError> {
        let mut read: Option<(&str, String)> = None;
        for (file, word, name, help) in LINES {
            let path = self.dir.join(file);
            let text = match read.take() {
                Some((known, text)) if known == file => text,
                _ => files::read(&path)?,
            };
            let line = text.lines().find(|line| line.starts_with(word)).unwrap_or_default();
            let record = procfs_core::parse_pressure_record(line).map_err(|_| files::malformed(&path, line))?;
            out.counter(name, help).add(&[], record.total as f64 / 1000.0 / 1000.0);
            read = Some((file, text));
        }
        Ok(())
    }
}
