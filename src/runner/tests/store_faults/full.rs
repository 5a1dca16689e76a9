//! A full disk, and a log that stays short.

use super::*;

/// A small file system, unmounted when dropped.
struct Mount(tempfile::TempDir);

impl Mount {
    /// None where mounting is not allowed, which is said.
    fn new(test: &str, arguments: &[&str]) -> Option<Self> {
        let dir = tempfile::tempdir().expect("a directory");
        let mounted =
            std::process::Command::new("mount").args(arguments).arg(dir.path()).stderr(Stdio::null()).status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(Self(dir));
        }
        skipped::tell(test, "mounting is not permitted");
        None
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("state")
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(self.0.path()).status();
    }
}

fn survives_a_full_disk(mount: &Mount) {
    let (mut store, reader, ..) = opened(&mount.path()).expect("opens");
    let ballast = mount.path().join("ballast");
    fs::write(&ballast, vec![1; 12 << 20]).expect("writes");
    let batch = |from: u64| -> Vec<Write> {
        (from..from + 50).map(|number| submission(number, "n", &"x".repeat(4_000))).collect()
    };
    let (mut next, mut full) = (1, None);
    while full.is_none() && next < 10_000 {
        match store.commit(&batch(next), &pools()) {
            Ok(()) => next += 50,
            Err(error) => full = Some(error),
        }
    }
    assert!(matches!(full, Some(StoreError::Full)), "{full:?}");
    for _ in 0..3 {
        let again = store.commit(&batch(next), &pools());
        assert!(matches!(again, Err(StoreError::Full)), "still full: {again:?}");
    }
    let mut open = 0;
    store.reread(&mut |_| PoolId(0), &mut |_| open += 1).expect("reads while full");
    assert_eq!(open, next - 1, "whole batches only");
    assert_eq!(all(&reader).len() as u64, next - 1);
    fs::remove_file(&ballast).expect("removes");
    store.commit(&batch(next), &pools()).expect("commits again");
    assert_eq!(reader.check().expect("checks"), [""; 0]);
    drop((store, reader));
    let (_store, _reader, _, open) = opened(&mount.path()).expect("opens");
    assert_eq!(open.len() as u64, next + 49);
}

#[test]
fn a_full_disk_refuses_whole_batches_until_there_is_space() {
    if let Some(mount) = Mount::new("full tmpfs", &["-t", "tmpfs", "-o", "size=24m", "tmpfs"]) {
        survives_a_full_disk(&mount);
    }
    let dir = tempfile::tempdir().expect("a directory");
    let image = dir.path().join("image");
    fs::File::create(&image).and_then(|file| file.set_len(32 << 20)).expect("makes");
    let made = std::process::Command::new("mke2fs").args(["-qFt", "ext4", "-m", "0"]).arg(&image).status();
    if !made.is_ok_and(|status| status.success()) {
        skipped::tell("full ext4", "mke2fs is not installed");
        return;
    }
    if let Some(mount) = Mount::new("full ext4", &["-o", "loop", &image.display().to_string()]) {
        survives_a_full_disk(&mount);
    }
}

#[test]
fn a_read_only_disk_is_named() {
    let Some(mount) = Mount::new("read-only disk", &["-t", "tmpfs", "-o", "size=8m", "tmpfs"]) else { return };
    drop(SqliteStore::open(&mount.path()).expect("opens"));
    let again = std::process::Command::new("mount").args(["-o", "remount,ro"]).arg(mount.0.path()).status();
    assert!(again.is_ok_and(|status| status.success()));
    let refused = SqliteStore::open(&mount.path()).err().expect("refused");
    assert!(matches!(&refused, StoreError::Io { .. }), "{refused:?}");
}

#[test]
fn the_log_stays_short_while_commits_never_pause() {
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a directory");
    let (mut store, reader, ..) = opened(dir.path()).expect("opens");
    let mut longest = 0;
    for batch in 0..1_500u64 {
        let batch: Vec<Write> = (1..=10).map(|job| submission(batch * 10 + job, "n", &"x".repeat(6_000))).collect();
        store.commit(&batch, &pools()).expect("commits");
        longest = longest.max(fs::metadata(dir.path().join("queue.db-wal")).expect("is there").len());
    }
    let stored = fs::metadata(dir.path().join("queue.db")).expect("is there").len();
    assert!(stored > 60 << 20, "only {stored} bytes were moved to the database");
    assert!(longest < 72 << 20, "the log grew to {longest} bytes");
    assert_eq!(reader.jobs(&JobFilter::all(1)).expect("reads")[0].id, id(15_000));
}
