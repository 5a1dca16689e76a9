//! `netdev`: traffic of network devices, from `/proc/net/dev`, which the kernel sums up as node_exporter does what it
//! asks by netlink; the one figure that file lacks (packets nobody took) comes from sysfs.

use super::Collector;
use crate::error::{CollectError, Error};
use crate::exposition::Families;
use crate::files;
use crate::options::Options;
use crate::pattern::Matcher;
use std::path::PathBuf;

/// The columns, in the file's order. (`procfs-core` reads them, too, but not a name that holds a colon.)
const COLUMNS: [&str; 16] = [
    "receive_bytes",
    "receive_packets",
    "receive_errs",
    "receive_drop",
    "receive_fifo",
    "receive_frame",
    "receive_compressed",
    "receive_multicast",
    "transmit_bytes",
    "transmit_packets",
    "transmit_errs",
    "transmit_drop",
    "transmit_fifo",
    "transmit_colls",
    "transmit_carrier",
    "transmit_compressed",
];

pub(crate) struct Netdev {
    file: PathBuf,
    class: PathBuf,
    devices: Matcher,
}

impl Netdev {
    pub(crate) fn new(options: &Options) -> Result<Self, Error> {
        Ok(Self {
            file: options.procfs.join("net/dev"),
            class: options.sysfs.join("class/net"),
            devices: options.netdev_devices.compile()?,
        })
    }
}

impl Collector for Netdev {
    fn collect(&mut self, out: &mut Families) -> Result<(), CollectError> {
        let text = files::read(&self.file)?;
        for line in text.lines().skip(2) {
            let (device, rest) = line.rsplit_once(':').ok_or_else(|| files::malformed(&self.file, line))?;
            let device = device.trim();
            if !self.devices.takes(device) {
                continue;
            }
            let words: Vec<&str> = rest.split_whitespace().collect();
            if words.len() != COLUMNS.len() {
                return Err(files::malformed(&self.file, line));
            }
            let mut add = |column: &str, value: f64| {
                let help = format!("Network device statistic {column}.");
                out.counter(format!("node_network_{column}_total"), help).add(&[("device", device)], value);
            };
            for (column, word) in COLUMNS.into_iter().zip(words) {
                add(column, files::parse(word, &self.file)?);
            }
            if let Ok(value) = files::number(&self.class.join(device).join("statistics/rx_nohandler")) {
                add("receive_nohandler", value);
            }
        }
        Ok(())
    }
}
