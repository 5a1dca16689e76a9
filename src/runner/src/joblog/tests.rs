//! An archived log reads as the plain one did, whatever it was interrupted by.

use super::*;
use ci_runner_spawner::joblog::{LogOptions, LogWriter, Partial, times_path};

const JOB: u64 = 1_234;
const START: i64 = 1_000_000;

fn dir_fd(dir: &tempfile::TempDir) -> OwnedFd {
    File::open(dir.path()).unwrap().into()
}

fn options() -> LogOptions {
    let store = "0a1b2c3d".to_owned();
    LogOptions { store, job: JOB, attempt: 2, start_wall_ms: START, bytes_max: u64::MAX, masker: None }
}

/// A log of many lines, written over some seconds.
fn written() -> (tempfile::TempDir, Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = LogWriter::new(dir_fd(&dir), options());
    let mut all = Vec::new();
    for number in 0..2_000_u64 {
        let line = format!("line {number} of a log that repeats itself\n");
        writer.write(number * 20, line.as_bytes());
        all.extend_from_slice(line.as_bytes());
    }
    writer.finish(40_000);
    (dir, all)
}

fn whole(reader: &mut LogReader) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(reader.size().unwrap()).unwrap()];
    let read = reader.read_at(&mut bytes, 0).unwrap();
    assert_eq!(read, bytes.len());
    bytes
}

fn of(attempt: u32) -> Of {
    Of { job: JOB, attempt, start_wall_ms: START, earlier: Earlier::Own }
}

fn reader(dir: &tempfile::TempDir) -> LogReader {
    open(dir_fd(dir), of(2)).unwrap()
}

#[test]
fn an_archived_log_reads_as_before() {
    let (dir, all) = written();
    let path = dir.path().join(log_path(JOB, 2));
    let modified = path.metadata().unwrap().modified().unwrap();
    // Whoever reads it meanwhile reads on.
    let mut earlier = reader(&dir);
    assert_eq!(whole(&mut earlier), all);
    let bytes = archive(&path, &mut |_| Ok(())).unwrap();
    assert!(bytes * 5 < all.len() as u64, "{bytes} of {}", all.len());
    let packed = dir.path().join(archive_path(JOB, 2));
    assert_eq!(packed.metadata().unwrap().modified().unwrap(), modified);
    assert!(!path.exists() && dir.path().join(times_path(JOB, 2)).exists());
    assert_eq!(whole(&mut earlier), all);
    let mut later = reader(&dir);
    assert_eq!(whole(&mut later), all);
    later.seek_tail(1).unwrap();
    let line = later.next_line(Partial::Give).unwrap().unwrap();
    assert_eq!((line.bytes, line.wall_ms), (&b"line 1999 of a log that repeats itself"[..], START + 1_999 * 20));
    later.seek_since(START + 1_000 * 20).unwrap();
    assert_eq!(later.next_line(Partial::Give).unwrap().unwrap().bytes, b"line 1000 of a log that repeats itself");
    let mut sibling = later.sibling().unwrap();
    assert_eq!(whole(&mut sibling), all);
    assert_eq!(open(dir_fd(&dir), of(3)).unwrap().size().unwrap(), 0, "one that is not there is empty");
}

#[test]
fn a_crash_after_any_step_loses_nothing() {
    for died in [Step::Written, Step::Renamed, Step::Removed] {
        let (dir, all) = written();
        let path = dir.path().join(log_path(JOB, 2));
        let crash = |step| if step == died { Err(io::Error::other("killed")) } else { Ok(()) };
        archive(&path, &mut { crash }).unwrap_err();
        assert_eq!(whole(&mut reader(&dir)), all, "{died:?}");
        assert_eq!(path.exists(), died != Step::Removed, "the control: it did die there");
        if path.exists() {
            archive(&path, &mut |_| Ok(())).unwrap();
        }
        assert_eq!(whole(&mut reader(&dir)), all, "{died:?}, then again");
        let shard = path.parent().unwrap();
        let names: Vec<_> = std::fs::read_dir(shard).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "archive and times: {names:?}");
    }
}

#[test]
fn a_damaged_archive_is_an_error_and_no_shorter_log() {
    let (dir, _) = written();
    archive(&dir.path().join(log_path(JOB, 2)), &mut |_| Ok(())).unwrap();
    let packed = dir.path().join(archive_path(JOB, 2));
    let mut bytes = std::fs::read(&packed).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    std::fs::write(&packed, &bytes).unwrap();
    assert!(open(dir_fd(&dir), of(2)).is_err());
    std::fs::write(&packed, &bytes[..middle]).unwrap();
    assert!(open(dir_fd(&dir), of(2)).is_err());
    std::fs::remove_file(&packed).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", &packed).unwrap();
    assert!(open(dir_fd(&dir), of(2)).is_err(), "no link is followed");
}

/// Its id was given again: it used to show the log of the other one.
#[test]
fn a_log_in_an_earlier_directory_may_be_of_another_attempt() {
    for archived in [false, true] {
        let (before, all) = written();
        let now = tempfile::tempdir().unwrap();
        ci_runner_spawner::joblog::come_after(before.path(), now.path()).unwrap();
        let path = before.path().join(log_path(JOB, 2));
        let modified = path.metadata().unwrap().modified().unwrap();
        let modified = modified.duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap();
        let modified = i64::try_from(modified.as_millis()).unwrap();
        if archived {
            archive(&path, &mut |_| Ok(())).unwrap();
        }
        let read = |earlier| whole(&mut open(dir_fd(&now), Of { earlier, ..of(2) }).unwrap());
        for own in [Earlier::Own, Earlier::Since(modified), Earlier::Since(modified - 60_000)] {
            assert_eq!(read(own), all, "{own:?}, archived: {archived}");
        }
        for other in [Earlier::Others, Earlier::Since(modified + 60_000)] {
            assert_eq!(read(other), b"", "{other:?}, archived: {archived}");
        }
        // What it writes after all is found, also by whoever began to read before.
        let mut follower = open(dir_fd(&now), Of { earlier: Earlier::Since(modified + 60_000), ..of(2) }).unwrap();
        assert_eq!(follower.size().unwrap(), 0);
        let mut writer = LogWriter::new(dir_fd(&now), options());
        writer.write(0, b"own\n");
        writer.finish(0);
        assert_eq!(whole(&mut follower), b"own\n");
    }
}
