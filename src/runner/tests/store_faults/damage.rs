//! Damaged files.

use super::*;
use crate::kill::cycles;

/// A store as a power cut leaves it: the files as they are while the daemon runs.
pub(crate) struct Crashed {
    pub dir: tempfile::TempDir,
    pub jobs: Vec<JobId>,
}

impl Crashed {
    /// With `clean`, one that was closed in order.
    pub fn new(clean: bool) -> Self {
        let (live, dir) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
        let (mut store, _reader, ..) = opened(live.path()).expect("opens");
        let batch: Vec<Write> = (1..=200).map(|number| submission(number, "n", &format!("echo {number}"))).collect();
        store.commit(&batch, &pools()).expect("commits");
        store.commit(&(1..50).flat_map(|n| [claim(n), end(n)]).collect::<Vec<_>>(), &pools()).expect("commits");
        if clean {
            store.close(&ClockBase { boot_id: "b".into(), offset_ms: 0 }, at(9)).expect("closes");
        }
        let this = Self { dir, jobs: (50..=200).map(id).collect() };
        for name in ["lock", "queue.db", "queue.db-wal"] {
            fs::copy(live.path().join(name), this.dir.path().join(name)).expect("copies");
        }
        this
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Opens, loads and checks: the open jobs, or what is wrong.
    pub fn look(&self) -> Result<Vec<JobId>, StoreError> {
        let (_store, reader, _, open) = opened(self.dir.path())?;
        let found = reader.check()?;
        let found = if found.is_empty() { reader.jobs(&JobFilter::all(usize::MAX)).map(|_| found)? } else { found };
        match found.first() {
            None => Ok(open.into_iter().map(|job| job.id).collect()),
            Some(what) => Err(StoreError::Damaged { path: "found by the check".into(), what: what.clone() }),
        }
    }

    fn is_damaged(&self, expected: &str) {
        match self.look() {
            Err(StoreError::Damaged { path, what }) => {
                assert!(path.ends_with("queue.db"), "{path}");
                assert!(what.contains(expected), "{what:?} does not say {expected:?}");
            }
            other => panic!("expected damage, {expected:?}: {other:?}"),
        }
    }

    fn overwrite(&self, name: &str, from: u64, bytes: &[u8]) {
        let mut file = fs::OpenOptions::new().write(true).open(self.path(name)).expect("opens");
        file.seek(SeekFrom::Start(from)).expect("seeks");
        file.write_all(bytes).expect("writes");
    }

    fn cut(&self, name: &str, length: u64) {
        fs::OpenOptions::new().write(true).open(self.path(name)).expect("opens").set_len(length).expect("cuts");
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.path(name)).expect("removes");
    }

    fn length(&self, name: &str) -> u64 {
        fs::metadata(self.path(name)).expect("is there").len()
    }
}

#[test]
fn without_damage_everything_is_there() {
    for clean in [false, true] {
        let store = Crashed::new(clean);
        assert_eq!(store.look().expect("is whole"), store.jobs);
    }
    // A clean end has moved everything out of the log.
    let store = Crashed::new(true);
    store.remove("queue.db-wal");
    assert_eq!(store.look().expect("is whole"), store.jobs);
}

#[test]
fn missing_files_are_damage_and_never_an_empty_queue() {
    let store = Crashed::new(false);
    store.remove("queue.db-wal");
    store.is_damaged("its write-ahead log is missing");
    store.cut("queue.db", 0);
    store.is_damaged("no content");

    let store = Crashed::new(false);
    store.cut("queue.db-wal", 0);
    store.is_damaged("its write-ahead log is missing");

    let store = Crashed::new(false);
    store.cut("queue.db", 0);
    store.is_damaged("no content");
    store.remove("queue.db");
    store.is_damaged("its write-ahead log is still there");
    store.remove("queue.db-wal");
    store.is_damaged("it is missing, and store");
    store.remove("lock");
    assert_eq!(store.look().expect("a new beginning, on purpose"), []);
}

#[test]
fn garbage_and_short_files_are_damage() {
    let store = Crashed::new(false);
    store.overwrite("queue.db", 0, &[0x5a; 100]);
    store.is_damaged("not a database");

    let store = Crashed::new(false);
    store.overwrite("queue.db-wal", 3, &[0x5a; 9]);
    store.is_damaged("the header of its write-ahead log");

    for share in [1, 2, 3] {
        let store = Crashed::new(true);
        let length = store.length("queue.db");
        store.remove("queue.db-wal");
        store.cut("queue.db", length * share / 4);
        store.is_damaged("malformed");
    }
}

#[test]
fn another_database_is_damage_and_a_newer_one_is_told() {
    let store = Crashed::new(true);
    store.remove("queue.db-wal");
    let other = rusqlite::Connection::open(store.path("other.db")).expect("opens");
    other.execute_batch("CREATE TABLE t (x)").expect("works");
    drop(other);
    fs::rename(store.path("other.db"), store.path("queue.db")).expect("renames");
    store.is_damaged("not a database of ci-runner");

    let store = Crashed::new(true);
    let newer = rusqlite::Connection::open(store.path("queue.db")).expect("opens");
    newer.pragma_update(None, "user_version", 99).expect("works");
    drop(newer);
    let found = store.look();
    assert!(matches!(found, Err(StoreError::Newer { found: 99, known: 4.., .. })), "{found:?}");
}

/// Whatever is damaged: an error, a finding of the check, or every job is there. Never fewer.
fn never_fewer(store: &Crashed, what: &str) -> bool {
    match store.look() {
        Ok(jobs) => {
            assert_eq!(jobs, store.jobs, "{what}: jobs were lost in silence");
            false
        }
        Err(StoreError::Damaged { .. } | StoreError::Row { .. } | StoreError::Newer { .. }) => true,
        Err(other) => panic!("{what}: damage is not told as such: {other:?}"),
    }
}

#[test]
fn damaged_pages_never_make_fewer_jobs() {
    let whole = Crashed::new(true);
    whole.remove("queue.db-wal");
    let pages = whole.length("queue.db") / 4096;
    let mut noticed = 0;
    for page in 0..pages {
        let store = Crashed { dir: tempfile::tempdir().expect("a directory"), jobs: whole.jobs.clone() };
        for name in ["queue.db", "lock"] {
            fs::copy(whole.path(name), store.path(name)).expect("copies");
        }
        // The first page begins with the file's own header, which another test damages.
        let header = if page == 0 { 100 } else { 0 };
        store.overwrite("queue.db", page * 4096 + header, &[0x5a; 3_000]);
        noticed += u64::from(never_fewer(&store, &format!("page {page}")));
    }
    assert!(noticed * 10 >= pages * 9, "only {noticed} of {pages} damaged pages were noticed");
}

#[test]
fn turned_bits_never_make_fewer_jobs_nor_other_commands() {
    let whole = Crashed::new(true);
    whole.remove("queue.db-wal");
    let bytes = fs::read(whole.path("queue.db")).expect("reads");
    let mut dice = Dice(77);
    for _ in 0..cycles() * 10 {
        let store = Crashed { dir: tempfile::tempdir().expect("a directory"), jobs: whole.jobs.clone() };
        fs::copy(whole.path("lock"), store.path("lock")).expect("copies");
        let mut bytes = bytes.clone();
        let byte = usize::try_from(dice.below(bytes.len() as u64)).expect("small");
        bytes[byte] ^= 1 << dice.below(8);
        fs::write(store.path("queue.db"), &bytes).expect("writes");
        never_fewer(&store, &format!("byte {byte}"));
        let Ok((mut store, ..)) = opened(store.dir.path()) else { continue };
        for number in 50..=200u64 {
            if let Ok(Some(claimed)) = store.claimed(id(number)) {
                assert_eq!(claimed.spec.work.command, Command::Shell(format!("echo {number}")), "byte {byte}");
            }
        }
    }
}
