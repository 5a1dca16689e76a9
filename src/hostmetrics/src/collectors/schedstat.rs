//! `schedstat`: time on and in front of each CPU, from `/proc/schedstat` (kernels with `CONFIG_SCHEDSTATS`).

use super::Collector;
use crate::error::CollectError;
use crate::exposition::Families;
use crate::files;
use crate::options::Options;
use std::path::PathBuf;

pub(crate) struct Schedstat {
    file: PathBuf,
}

impl Schedstat {
    pub(crate) fn new(options: &Options) -> Self {
        Self { file: options.procfs.join("schedstat") }
    }
}

impl Collector for Schedstat {
    fn collect(&mut self, out: &mut Families) -> Result<(), CollectError> {
        let text = files::read(&self.file)?;
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [name, .., running, waiting, slices] = words[..] else { continue };
            let Some(cpu) = name.strip_prefix("cpu") else { continue };
            let number = |word| files::parse(word, &self.file);
            let labels = [("cpu", cpu)];
            out.counter("node_schedstat_running_seconds_total", "Number of seconds CPU spent running a process.")
                .add(&labels, number(running)? / 1e9);
            out.counter(
                "node_schedstat_waiting_seconds_total",
                "Number of seconds spent by processing waiting for this CPU.",
            )
            .add(&labels, number(waiting)? / 1e9);
            out.counter("node_schedstat_timeslices_total", "Number of timeslices executed by CPU.")
                .add(&labels, number(slices)?);
        }
        Ok(())
    }
}
