//! `stat`: boot time, interrupts, context switches and processes, from `/proc/stat`.

use super::Collector;
use crate::error::CollectError;
use crate::exposition::{Families, Kind};
use crate::files;
use crate::options::Options;
use std::path::PathBuf;

/// (first word of the line, type, name, help); the second word is the value.
const LINES: [(&str, Kind, &str, &str); 6] = [
    ("intr", Kind::Counter, "node_intr_total", "Total number of interrupts serviced."),
    ("ctxt", Kind::Counter, "node_context_switches_total", "Total number of context switches."),
    ("processes", Kind::Counter, "node_forks_total", "Total number of forks."),
    ("btime", Kind::Gauge, "node_boot_time_seconds", "Node boot time, in unixtime."),
    ("procs_running", Kind::Gauge, "node_procs_running", "Number of processes in runnable state."),
    ("procs_blocked", Kind::Gauge, "node_procs_blocked", "Number of processes blocked waiting for I/O to complete."),
];
/// The columns of the line `softirq` after the sum.
const VECTORS: [&str; 10] =
    ["hi", "timer", "net_tx", "net_rx", "block", "block_iopoll", "tasklet", "sched", "hrtimer", "rcu"];

pub(crate) struct Stat {
    file: PathBuf,
    softirq: bool,
}

impl Stat {
    pub(crate) fn new(options: &Options) -> Self {
        Self { file: options.procfs.join("stat"), softirq: options.stat_softirq }
    }
}

impl Collector for Stat {
    fn collect(&mut self, out: &mut Families) -> Result<(), CollectError> {
        let text = files::read(&self.file)?;
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let Some(first) = words.next() else { continue };
            if let Some((_, kind, name, help)) = LINES.into_iter().find(|(word, ..)| *word == first) {
                let value = files::parse(words.next().unwrap_or_default(), &self.file)?;
                out.family(name, kind, help).add(&[], value);
            } else if first == "softirq" && self.softirq {
                for (vector, word) in VECTORS.into_iter().zip(words.skip(1)) {
                    let value = files::parse(word, &self.file)?;
                    out.counter("node_softirqs_total", "Number of softirq calls.").add(&[("vector", vector)], value);
                }
            }
        }
        Ok(())
    }
}
