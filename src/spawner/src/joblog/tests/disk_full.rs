//! A log on a disk without room: a small tmpfs, which only root can mount.

use crate::skipped;
use std::path::Path;
use std::process::Command;

use super::{Logs, open_dir, options};
use crate::joblog::{LogReader, LogWriter, Partial, log_path};

/// A mounted file system of 256 KiB; unmounted at the end.
struct SmallDisk(Logs);

impl SmallDisk {
    /// None, named and counted as skipped, where this process may not mount.
    fn mount(test: &str) -> Option<Self> {
        let logs = Logs::new();
        let mounted = rustix::process::geteuid().is_root()
            && Command::new("mount")
                .args(["-t", "tmpfs", "-o", "size=256k,mode=0700", "joblog-test"])
                .arg(logs.0.path())
                .output()
                .is_ok_and(|output| output.status.success());
        if !mounted {
            skipped::tell(test, "mounting a tmpfs is not permitted");
            return None;
        }
        Some(Self(logs))
    }

    fn path(&self) -> &Path {
        self.0.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).output();
    }
}

#[test]
fn output_lost_on_a_full_disk_is_counted_and_told_once_there_is_room() {
    let Some(disk) = SmallDisk::mount("output_lost_on_a_full_disk_is_counted_and_told_once_there_is_room") else {
        return;
    };
    let ballast = disk.path().join("ballast");
    std::fs::write(&ballast, vec![0; 128 * 1024]).unwrap();
    let mut writer = LogWriter::new(open_dir(disk.path()), options(u64::MAX, None));
    let chunk = b"0123456789abcde\n".repeat(256);
    for index in 0..100_u64 {
        writer.write(index * 20, &chunk);
    }
    let full = disk.0.log().len();
    assert!(full < 128 * 1024, "the disk is full");
    std::fs::remove_file(&ballast).unwrap();
    writer.write(5000, b"there is room again\n");
    let totals = writer.finish(5010);

    let text = disk.0.log_text();
    let (kept, rest) = text.split_at(full);
    let lost = 100 * chunk.len() - kept.len();
    assert_eq!(totals.dropped_bytes, lost as u64);
    assert_eq!(totals.bytes, text.len() as u64);
    let rest = rest.trim_start_matches('\n');
    assert!(rest.starts_with(&format!("[ci-runner] {lost} bytes of output lost here: No space left")), "{rest}");
    assert!(rest.ends_with("\nthere is room again\n"));
    assert_eq!(rest.lines().count(), 2);

    let mut reader = LogReader::new(open_dir(disk.path()), super::JOB, super::ATTEMPT, super::START);
    let mut last = 0;
    while let Some(line) = reader.next_line(Partial::Give).unwrap() {
        last = line.wall_ms - super::START;
    }
    assert_eq!(last, 5000, "times go on as well");
}

#[test]
fn a_full_disk_at_the_end_fails_nobody() {
    let Some(disk) = SmallDisk::mount("a_full_disk_at_the_end_fails_nobody") else { return };
    std::fs::write(disk.path().join("ballast"), vec![0; 250 * 1024]).or_full();
    let mut writer = LogWriter::new(open_dir(disk.path()), options(u64::MAX, None));
    for _ in 0..1000 {
        writer.write(0, &[b'x'; 1024]);
    }
    writer.mark(100, "a mark that has no room either");
    let totals = writer.finish(100);
    assert_eq!(totals.bytes + totals.dropped_bytes, 1000 * 1024);
    let size = std::fs::metadata(disk.path().join(log_path(super::JOB, super::ATTEMPT))).map_or(0, |stat| stat.len());
    assert_eq!(size, totals.bytes);
}

/// An entry of three bytes with room for two: what was written of it is taken back, and later times are right.
#[test]
fn an_entry_that_was_cut_off_spoils_no_later_one() {
    let Some(disk) = SmallDisk::mount("an_entry_that_was_cut_off_spoils_no_later_one") else { return };
    let mut writer = LogWriter::new(open_dir(disk.path()), options(u64::MAX, None));
    writer.write(0, &[b'\n'; 200]);
    let mut now = 0;
    // The first entry has 4 bytes, the others have 3: 4094 of the first page of 4096.
    for _ in 0..1359 {
        now += 300;
        writer.write(now, b"\n");
    }
    assert_eq!(std::fs::metadata(disk.0.times_path()).unwrap().len(), 4094);
    let ballast = disk.path().join("ballast");
    std::fs::write(&ballast, vec![0; 256 * 1024]).or_full();
    writer.write(now + 300, b"on a full disk\n");
    assert_eq!(std::fs::metadata(disk.0.times_path()).unwrap().len(), 4094);
    std::fs::remove_file(&ballast).unwrap();
    writer.write(now + 600, b"later\n");
    assert_eq!(writer.finish(now + 600).dropped_bytes, 0, "the log's own page had room");

    let mut reader = disk.0.reader();
    reader.seek_tail(2).unwrap();
    let mut next = || reader.next_line(Partial::Give).unwrap().map(|line| line.wall_ms - super::START);
    assert_eq!([next(), next(), next()], [Some(now as i64), Some(now as i64 + 600), None]);
}

/// Filling a disk may fail half-way; it is full then, as wanted.
trait OrFull {
    fn or_full(self);
}

impl OrFull for std::io::Result<()> {
    fn or_full(self) {
        if let Err(error) = self {
            assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
        }
    }
}
