//! `conntrack`: the table of tracked connections, from `/proc/sys/net/netfilter` and `/proc/net/stat/nf_conntrack`.

use super::Collector;
use crate::error::CollectError;
use crate::exposition::Families;
use crate::files;
use crate::options::Options;
use std::path::PathBuf;

/// (column of the file, name, help)
const STATS: [(&str, &str, &str); 8] = [
    ("found", "node_nf_conntrack_stat_found", "Number of searched entries which were successful."),
    ("invalid", "node_nf_conntrack_stat_invalid", "Number of packets seen which can not be tracked."),
    (
        "ignore",
        "node_nf_conntrack_stat_ignore",
        "Number of packets seen which are already connected to a conntrack entry.",
    ),
    ("insert", "node_nf_conntrack_stat_insert", "Number of entries inserted into the list."),
    (
        "insert_failed",
        "node_nf_conntrack_stat_insert_failed",
        "Number of entries for which list insertion was attempted but failed.",
    ),
    ("drop", "node_nf_conntrack_stat_drop", "Number of packets dropped due to conntrack failure."),
    (
        "early_drop",
        "node_nf_conntrack_stat_early_drop",
        "Number of dropped conntrack entries to make room for new ones, if maximum table size was reached.",
    ),
    (
        "search_restart",
        "node_nf_conntrack_stat_search_restart",
        "Number of conntrack table lookups which had to be restarted due to hashtable resizes.",
    ),
];

pub(crate) struct Conntrack {
    procfs: PathBuf,
}

impl Conntrack {
    pub(crate) fn new(options: &Options) -> Self {
        Self { procfs: options.procfs.clone() }
    }
}

impl Collector for Conntrack {
    fn collect(&mut self, out: &mut Families) -> Result<(), CollectError> {
        let entries = files::number(&self.procfs.join("sys/net/netfilter/nf_conntrack_count"))?;
        out.gauge("node_nf_conntrack_entries", "Number of currently allocated flow entries for connection tracking.")
            .add(&[], entries);
        let limit = files::number(&self.procfs.join("sys/net/netfilter/nf_conntrack_max"))?;
        out.gauge("node_nf_conntrack_entries_limit", "Maximum size of connection tracking table.").add(&[], limit);

        let path = self.procfs.join("net/stat/nf_conntrack");
        let text = files::read(&path)?;
        let mut lines = text.lines();
        let columns: Vec<&str> = lines.next().unwrap_or_default().split_whitespace().collect();
        let mut sums = [0u64; STATS.len()];
        for line in lines {
            let words: Vec<&str> = line.split_whitespace().collect();
            for ((column, _, _), sum) in STATS.iter().zip(&mut sums) {
                let word = columns.iter().position(|name| name == column).and_then(|at| words.get(at));
                let number = word.and_then(|word| u64::from_str_radix(word, 16).ok());
                *sum += number.ok_or_else(|| files::malformed(&path, line))?;
            }
        }
        for ((_, name, help), sum) in STATS.into_iter().zip(sums) {
            out.gauge(name, help).add(&[], sum as f64);
        }
        Ok(())
    }
}
