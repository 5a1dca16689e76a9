//! `arp`: neighbours by device, from `/proc/net/arp`.

use super::Collector;
use crate::error::{CollectError, Error};
use crate::exposition::Families;
use crate::files;
use crate::options::Options;
use crate::pattern::Matcher;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Reads by words and not with `procfs-core`, which refuses the whole file for one address that is not of Ethernet.
pub(crate) struct Arp {
    file: PathBuf,
    devices: Matcher,
}

impl Arp {
    pub(crate) fn new(options: &Options) -> Result<Self, Error> {
        Ok(Self { file: options.procfs.join("net/arp"), devices: options.arp_devices.compile()? })
    }
}

impl Collector for Arp {
    fn collect(&mut self, out: &mut Families) -> Result<(), CollectError> {
        let text = files::read(&self.file)?;
        let mut entries: BTreeMap<&str, u32> = BTreeMap::new();
        for line in text.lines().skip(1).filter(|line| !line.trim().is_empty()) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [_, _, _, _, _, device] = words[..] else { return Err(files::malformed(&self.file, line)) };
            *entries.entry(device).or_default() += 1;
        }
        let family = out.gauge("node_arp_entries", "ARP entries by device");
        for (device, count) in entries.into_iter().filter(|(device, _)| self.devices.takes(device)) {
            family.add(&[("device", device)], f64::from(count));
        }
        Ok(())
    }
}
