//! Part of `diskstats`: udev's properties of a block device, from its database (`b<major>:<minor>`, lines `E:KEY=value`).

use crate::exposition::Families;
use crate::files;
use std::collections::BTreeMap;
use std::path::Path;

/// Properties of one device; empty where udev knows nothing.
pub(crate) struct Properties(BTreeMap<String, String>);

impl Properties {
    pub(crate) fn read(dir: &Path, major: i32, minor: i32) -> Self {
        let text = files::read(&dir.join(format!("b{major}:{minor}"))).unwrap_or_default();
        let pairs = text.lines().filter_map(|line| line.strip_prefix("E:")?.split_once('='));
        Self(pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
    }

    pub(crate) fn get(&self, key: &str) -> &str {
        self.0.get(key).map_or("", String::as_str)
    }

    /// The series that say what a disk is.
    pub(crate) fn collect(&self, device: &str, out: &mut Families) {
        let (device, get) = (("device", device), |key| self.get(key));
        if !get("DM_NAME").is_empty() {
            out.gauge("node_disk_device_mapper_info", "Info about disk device mapper.").add(
                &[
                    device,
                    ("name", get("DM_NAME")),
                    ("uuid", get("DM_UUID")),
                    ("vg_name", get("DM_VG_NAME")),
                    ("lv_name", get("DM_LV_NAME")),
                    ("lv_layer", get("DM_LV_LAYER")),
                ],
                1.0,
            );
        }
        if !get("ID_FS_TYPE").is_empty() {
            out.gauge("node_disk_filesystem_info", "Info about disk filesystem.").add(
                &[
                    device,
                    ("type", get("ID_FS_TYPE")),
                    ("usage", get("ID_FS_USAGE")),
                    ("uuid", get("ID_FS_UUID")),
                    ("version", get("ID_FS_VERSION")),
                ],
                1.0,
            );
        }
        if get("ID_ATA").is_empty() {
            return;
        }
        let ata = [
            ("node_disk_ata_write_cache", "ATA disk has a write cache.", "ID_ATA_WRITE_CACHE"),
            (
                "node_disk_ata_write_cache_enabled",
                "ATA disk has its write cache enabled.",
                "ID_ATA_WRITE_CACHE_ENABLED",
            ),
            (
                "node_disk_ata_rotation_rate_rpm",
                "ATA disk rotation rate in RPMs (0 for SSDs).",
                "ID_ATA_ROTATION_RATE_RPM",
            ),
        ];
        for (name, help, key) in ata {
            if let Ok(value) = get(key).parse() {
                out.gauge(name, help).add(&[device], value);
            }
        }
    }
}
