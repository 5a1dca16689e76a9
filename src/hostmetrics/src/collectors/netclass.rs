//! `netclass`: properties of network devices, from `/sys/class/net`.

use super::Collector;
use crate::error::{CollectError, Error};
use crate::exposition::{Families, Kind};
use crate::files;
use crate::options::Options;
use crate::pattern::Matcher;
use std::path::{Path, PathBuf};

/// (file, end of the name); counters end in `_total`.
const FILES: [(&str, &str); 16] = [
    ("addr_assign_type", "address_assign_type"),
    ("carrier", "carrier"),
    ("carrier_changes", "carrier_changes_total"),
    ("carrier_up_count", "carrier_up_changes_total"),
    ("carrier_down_count", "carrier_down_changes_total"),
    ("dev_id", "device_id"),
    ("dormant", "dormant"),
    ("flags", "flags"),
    ("ifindex", "iface_id"),
    ("iflink", "iface_link"),
    ("link_mode", "iface_link_mode"),
    ("mtu", "mtu_bytes"),
    ("name_assign_type", "name_assign_type"),
    ("netdev_group", "net_dev_group"),
    ("tx_queue_len", "transmit_queue_length"),
    ("type", "protocol_type"),
];
/// Files whose text is a label of `node_network_info`.
const LABELS: [&str; 5] = ["address", "broadcast", "duplex", "ifalias", "operstate"];
/// `speed` is in Mbit/s.
const BYTES_PER_MEGABIT: f64 = 1000.0 * 1000.0 / 8.0;

pub(crate) struct Netclass {
    dir: PathBuf,
    devices: Matcher,
}

impl Netclass {
    pub(crate) fn new(options: &Options) -> Result<Self, Error> {
        Ok(Self { dir: options.sysfs.join("class/net"), devices: options.netclass_devices.compile()? })
    }
}

/// Decimal or `0x…`. `None` also where the driver refuses to tell (EINVAL of a link that is down, EOPNOTSUPP).
fn number(path: &Path) -> Option<f64> {
    let text = files::value(path)?;
    let number = match text.strip_prefix("0x") {
        Some(digits) => i64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    number.ok().map(|number| number as f64)
}

impl Collector for Netclass {
    fn collect(&mut self, out: &mut Families) -> Result<(), CollectError> {
        for device in files::names(&self.dir)? {
            let dir = self.dir.join(&device);
            // `bonding_masters` is a file.
            if !self.devices.takes(&device) || !dir.is_dir() {
                continue;
            }
            let texts = LABELS.map(|file| files::value(&dir.join(file)).unwrap_or_default());
            let mut labels = vec![("device", device.as_str())];
            labels.extend(LABELS.into_iter().zip(texts.iter().map(String::as_str)));
            let info = "Non-numeric data from /sys/class/net/<iface>, value is always 1.";
            out.gauge("node_network_info", info).add(&labels, 1.0);
            let up = f64::from(u8::from(labels.contains(&("operstate", "up"))));
            let labels = [("device", device.as_str())];
            out.gauge("node_network_up", "Value is 1 if operstate is 'up', 0 otherwise.").add(&labels, up);

            let values = FILES.into_iter().map(|(file, name)| (name, number(&dir.join(file))));
            let speed = number(&dir.join("speed")).map(|megabits| (megabits * BYTES_PER_MEGABIT).trunc());
            for (name, value) in values.chain([("speed_bytes", speed)]) {
                let Some(value) = value else { continue };
                let kind = if name.ends_with("_total") { Kind::Counter } else { Kind::Gauge };
                let help = format!("Network device property: {name}");
                out.family(format!("node_network_{name}"), kind, help).add(&labels, value);
            }
        }
        Ok(())
    }
}
