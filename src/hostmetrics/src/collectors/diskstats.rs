//! `diskstats`: traffic of block devices from `/proc/diskstats`, and what udev knows about them.

use super::Collector;
use super::udev::Properties;
use crate::error::{CollectError, Error};
use crate::exposition::{Families, Kind};
use crate::files;
use crate::options::Options;
use crate::pattern::Matcher;
use procfs_core::DiskStat;
use std::path::PathBuf;

/// `/proc/diskstats` counts in sectors of this size, whatever the device's.
const SECTOR_BYTES: f64 = 512.0;
/// Its times are milliseconds.
const MILLISECOND: f64 = 0.001;

/// (name, type, factor, help), in the order of the file's columns.
const COLUMNS: [(&str, Kind, f64, &str); 17] = [
    ("reads_completed_total", Kind::Counter, 1.0, "The total number of reads completed successfully."),
    ("reads_merged_total", Kind::Counter, 1.0, "The total number of reads merged."),
    ("read_bytes_total", Kind::Counter, SECTOR_BYTES, "The total number of bytes read successfully."),
    ("read_time_seconds_total", Kind::Counter, MILLISECOND, "The total number of seconds spent by all reads."),
    ("writes_completed_total", Kind::Counter, 1.0, "The total number of writes completed successfully."),
    ("writes_merged_total", Kind::Counter, 1.0, "The number of writes merged."),
    ("written_bytes_total", Kind::Counter, SECTOR_BYTES, "The total number of bytes written successfully."),
    (
        "write_time_seconds_total",
        Kind::Counter,
        MILLISECOND,
        "This is the total number of seconds spent by all writes.",
    ),
    ("io_now", Kind::Gauge, 1.0, "The number of I/Os currently in progress."),
    ("io_time_seconds_total", Kind::Counter, MILLISECOND, "Total seconds spent doing I/Os."),
    ("io_time_weighted_seconds_total", Kind::Counter, MILLISECOND, "The weighted # of seconds spent doing I/Os."),
    ("discards_completed_total", Kind::Counter, 1.0, "The total number of discards completed successfully."),
    ("discards_merged_total", Kind::Counter, 1.0, "The total number of discards merged."),
    ("discarded_sectors_total", Kind::Counter, 1.0, "The total number of sectors discarded successfully."),
    (
        "discard_time_seconds_total",
        Kind::Counter,
        MILLISECOND,
        "This is the total number of seconds spent by all discards.",
    ),
    ("flush_requests_total", Kind::Counter, 1.0, "The total number of flush requests completed successfully"),
    (
        "flush_requests_time_seconds_total",
        Kind::Counter,
        MILLISECOND,
        "This is the total number of seconds spent by all flush requests.",
    ),
];

pub(crate) struct Diskstats {
    file: PathBuf,
    udev: PathBuf,
    devices: Matcher,
}

impl Diskstats {
    pub(crate) fn new(options: &Options) -> Result<Self, Error> {
        Ok(Self {
            file: options.procfs.join("diskstats"),
            udev: options.udev_data.clone(),
            devices: options.diskstats_devices.compile()?,
        })
    }
}

fn columns(disk: &DiskStat) -> [Option<u64>; COLUMNS.len()] {
    [
        Some(disk.reads),
        Some(disk.merged),
        Some(disk.sectors_read),
        Some(disk.time_reading),
        Some(disk.writes),
        Some(disk.writes_merged),
        Some(disk.sectors_written),
        Some(disk.time_writing),
        Some(disk.in_progress),
        Some(disk.time_in_progress),
        Some(disk.weighted_time_in_progress),
        disk.discards,
        disk.discards_merged,
        disk.sectors_discarded,
        disk.time_discarding,
        disk.flushes,
        disk.time_flushing,
    ]
}

impl Collector for Diskstats {
    fn collect(&mut self, out: &mut Families) -> Result<(), CollectError> {
        let text = files::read(&self.file)?;
        for line in text.lines() {
            let name = line.split_whitespace().nth(2).unwrap_or_default();
            if !self.devices.takes(name) {
                continue;
            }
            // Kernels before 2.6 wrote four numbers for a partition: such a line is left out.
            let Ok(disk) = DiskStat::from_line(line) else { continue };
            let udev = Properties::read(&self.udev, disk.major, disk.minor);
            out.gauge("node_disk_info", "Info of /sys/block/<block_device>.").add(
                &[
                    ("device", name),
                    ("major", &disk.major.to_string()),
                    ("minor", &disk.minor.to_string()),
                    ("path", udev.get("ID_PATH")),
                    ("wwn", udev.get("ID_WWN")),
                    ("model", udev.get("ID_MODEL")),
                    ("serial", udev.get("ID_SERIAL_SHORT")),
                    ("revision", udev.get("ID_REVISION")),
                ],
                1.0,
            );
            for ((column, kind, factor, help), value) in COLUMNS.into_iter().zip(columns(&disk)) {
                if let Some(value) = value {
                    out.family(format!("node_disk_{column}"), kind, help)
                        .add(&[("device", name)], value as f64 * factor);
                }
            }
            udev.collect(name, out);
        }
        Ok(())
    }
}
