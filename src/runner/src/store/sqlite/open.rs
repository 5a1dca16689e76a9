//! Taking possession of a state directory, and opening what lies in it.
//!
//! ```text
//! <state>/lock       flock held by the one owner; its process id, then the id of the store that was last opened here
//! <state>/queue.db   the database, with -wal and -shm beside it
//! ```
//!
//! An empty queue appears only where there was none: a new database is made aside and renamed, so a `queue.db` without
//! length, a log without database or a database without the log that it needs is damage, and is told as such.

use super::migrate::{MIGRATIONS, migrate};
use super::place::{Fault, Place, beside, io_error};
use crate::store::StoreError;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, FileControl, MAIN_DB, OpenFlags};
use rustix::fs::{FlockOperation, OFlags, flock};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::{Duration, Instant};

/// Before 3.51.3 a reset of the log could lose commits.
const SQLITE_NEEDED: i32 = 3_051_003;
/// The same in words.
const SQLITE_NEEDED_TEXT: &str = "3.51.3";
/// How long one connection waits for another: they never hold locks for long.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// Page cache of the writing connection, KiB.
const WRITER_CACHE_KIB: i64 = 2_048;
/// Page cache of the connection that moves pages, KiB: it goes past the cache.
const CHECKPOINT_CACHE_KIB: i64 = 64;
/// Page cache of a reading connection, KiB.
const READER_CACHE_KIB: i64 = 512;
/// Bytes of the header of a write-ahead log.
const WAL_HEADER_BYTES: usize = 32;

/// Possession of a state directory, until it is dropped.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
    /// Which store was here when the directory was last opened.
    pub store_id: Option<String>,
}

/// How long a lock may outlive its owner: a process that was being started when the owner died shares the owner's open
/// files until it executes its program.
const OUTLIVED: Duration = Duration::from_millis(500);
/// Pause between two tries.
const OUTLIVED_STEP: Duration = Duration::from_millis(5);

/// Takes the lock, waiting out a process that shares it for a moment only.
fn take_soon(file: &File) -> Result<(), rustix::io::Errno> {
    let until = Instant::now() + OUTLIVED;
    loop {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < until => std::thread::sleep(OUTLIVED_STEP),
            taken => return taken,
        }
    }
}

impl Lock {
    /// Makes the directory if it is not there, and takes it.
    pub fn take(dir: &Path) -> Result<Self, StoreError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.map_err(|source| io_error("create the state directory", dir, source))?;
        let path = dir.join("lock");
        let nofollow = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or(0);
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(nofollow)
            .open(&path);
        let mut file = opened.map_err(|source| io_error("open", &path, source))?;
        let taken = take_soon(&file);
        let mut text = String::new();
        let read = (&mut file).take(256).read_to_string(&mut text);
        read.map_err(|source| io_error("read", &path, source))?;
        let mut lines = text.lines();
        let pid = lines.next().filter(|pid| !pid.is_empty()).unwrap_or("?");
        match taken {
            Ok(()) => {
                let store_id = lines.next().filter(|id| !id.is_empty()).map(str::to_owned);
                let mut lock = Self { file, store_id };
                lock.write(&path, None)?;
                Ok(lock)
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                Err(StoreError::Held { path: dir.display().to_string(), pid: pid.to_owned() })
            }
            Err(errno) => Err(io_error("lock", &path, errno.into())),
        }
    }

    /// Writes who we are, and which store this is once that is known.
    pub fn write(&mut self, path: &Path, store_id: Option<&str>) -> Result<(), StoreError> {
        if let Some(store_id) = store_id {
            self.store_id = Some(store_id.to_owned());
        }
        match self.put(path) {
            // The lock holds without its text, and a full disk is no reason to leave running jobs alone.
            Err(StoreError::Full) | Ok(()) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Writes that this is the store from now on, and returns when that is on the disk: another one's database is refused.
    pub fn keep(&mut self, path: &Path, store_id: &str) -> Result<(), StoreError> {
        self.store_id = Some(store_id.to_owned());
        self.put(path)?;
        self.file.sync_data().map_err(|source| io_error("write", path, source))
    }

    /// Whose text goes into this file.
    #[cfg(test)]
    pub fn of(file: File) -> Self {
        Self { file, store_id: None }
    }

    fn put(&mut self, path: &Path) -> Result<(), StoreError> {
        let text = format!("{}\n{}\n", std::process::id(), self.store_id.as_deref().unwrap_or_default());
        let written = self.file.rewind().and_then(|()| self.file.write_all(text.as_bytes()));
        let written = written.and_then(|()| self.file.set_len(text.len() as u64));
        written.map_err(|source| io_error("write", path, source))
    }
}

/// What is in the directory before anything opens it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing: a database must be made.
    Nothing,
    /// A database, and whether a write-ahead log lies beside it.
    Database {
        /// There is a log, and it has content.
        log: bool,
    },
}

/// Looks at the files alone.
pub(super) fn look(place: &Place, lock: &Lock) -> Result<Found, StoreError> {
    let log = wal_has_content(place)?;
    let length = match std::fs::metadata(&place.db) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return match &lock.store_id {
                _ if log => Err(place.damaged("it is missing, and its write-ahead log is still there")),
                Some(id) if !id.is_empty() => Err(place.damaged(format!(
                    "it is missing, and store {id} was here (to begin with an empty queue, remove {} too)",
                    place.dir.join("lock").display()
                ))),
                Some(_) | None => Ok(Found::Nothing),
            };
        }
        Err(source) => return Err(io_error("look at", &place.db, source)),
    };
    if length == 0 {
        return Err(place.damaged("it has no content"));
    }
    let mut magic = [0; 16];
    let opened = OpenOptions::new().read(true).write(true).open(&place.db);
    let read = opened.and_then(|mut file| file.read(&mut magic));
    read.map_err(|source| io_error("open for writing", &place.db, source))?;
    if &magic != b"SQLite format 3\0" {
        return Err(place.damaged("it is not a database"));
    }
    Ok(Found::Database { log })
}

/// True for a log with content. One whose header is not right would be ignored by SQLite, with all commits in it.
pub(super) fn wal_has_content(place: &Place) -> Result<bool, StoreError> {
    let path = place.wal();
    let mut header = Vec::with_capacity(WAL_HEADER_BYTES);
    match File::open(&path).and_then(|file| file.take(WAL_HEADER_BYTES as u64).read_to_end(&mut header)) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(source) => return Err(io_error("read", &path, source)),
    }
    // Less than a header is what a power cut leaves of a log that never held a commit.
    if header.len() < WAL_HEADER_BYTES {
        return Ok(false);
    }
    if is_wal_header(&header) { Ok(true) } else { Err(place.damaged("the header of its write-ahead log is damaged")) }
}

/// Checks magic number and checksum; the format is told in <https://sqlite.org/fileformat2.html#walformat>.
fn is_wal_header(header: &[u8]) -> bool {
    let words: Vec<[u8; 4]> = header.chunks_exact(4).filter_map(|chunk| chunk.try_into().ok()).collect();
    let Some((magic, sums)) = words.first().zip(words.get(6..8)) else { return false };
    let decode: fn([u8; 4]) -> u32 = match u32::from_be_bytes(*magic) {
        0x377f_0682 => u32::from_le_bytes,
        0x377f_0683 => u32::from_be_bytes,
        _ => return false,
    };
    let (mut first, mut second) = (0u32, 0u32);
    for pair in words[..6].chunks_exact(2) {
        first = first.wrapping_add(decode(pair[0])).wrapping_add(second);
        second = second.wrapping_add(decode(pair[1])).wrapping_add(first);
    }
    sums[0] == first.to_be_bytes() && sums[1] == second.to_be_bytes()
}

/// Makes a database aside and puts it in its place, whole.
pub(super) fn create(place: &Place) -> Result<(), StoreError> {
    let aside = beside(&place.db, ".new");
    for path in [aside.clone(), beside(&aside, "-journal")] {
        match std::fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => return Err(io_error("remove", &path, source)),
        }
    }
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside);
    let file = made.map_err(|source| io_error("create", &aside, source))?;
    fill(place, &aside).map_err(|fault| place.error("create the database", fault))?;
    file.sync_all().map_err(|source| io_error("write", &aside, source))?;
    std::fs::rename(&aside, &place.db).map_err(|source| io_error("create", &place.db, source))?;
    sync_dir(&place.dir)
}

fn fill(place: &Place, aside: &Path) -> Result<(), Fault> {
    let mut conn = Connection::open_with_flags(aside, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    conn.pragma_update(None, "journal_mode", "MEMORY")?;
    migrate(&mut conn, &place.db, MIGRATIONS, true)?;
    conn.execute("INSERT INTO meta (one, store_id) VALUES (1, ?1)", [new_store_id()])?;
    conn.close().map_err(|(_, error)| error)?;
    Ok(())
}

/// Eight random hexadecimal digits.
pub(super) fn new_store_id() -> String {
    let id = uuid::Uuid::now_v7();
    id.as_bytes()[12..].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Makes renames in a directory durable.
pub(super) fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(|source| io_error("write the directory", dir, source))
}

/// Refuses an SQLite that loses commits; nixpkgs of 26.05 has one.
pub(super) fn check_sqlite() -> Result<(), StoreError> {
    if rusqlite::version_number() < SQLITE_NEEDED {
        let found = rusqlite::version().to_owned();
        return Err(StoreError::TooOld { found, needed: SQLITE_NEEDED_TEXT });
    }
    Ok(())
}

/// The one connection that commits.
pub(super) fn writer(place: &Place) -> Result<Connection, Fault> {
    let conn = read_write(place)?;
    let mode: String = conn.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    if mode != "wal" {
        return Err(Fault::Store(StoreError::Row { what: format!("journal mode {mode:?}") }));
    }
    conn.pragma_update(None, "foreign_keys", true)?;
    conn.pragma_update(None, "cache_size", -WRITER_CACHE_KIB)?;
    conn.set_prepared_statement_cache_capacity(64);
    Ok(conn)
}

/// A connection that only moves pages from the log into the database.
pub(super) fn checkpointer(place: &Place) -> Result<Connection, Fault> {
    let conn = read_write(place)?;
    // Reads the header, so that the connection knows that there is a log.
    let _: i64 = conn.query_row("SELECT one FROM meta", [], |row| row.get(0))?;
    Ok(conn)
}

fn read_write(place: &Place) -> Result<Connection, Fault> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(&place.db, flags)?;
    conn.busy_timeout(BUSY_TIMEOUT)?;
    steady(&conn)?;
    // The log stays when the last connection closes, so that a missing one tells of damage.
    conn.file_control(Some(MAIN_DB), FileControl::PersistWal(&mut 1))?;
    conn.pragma_update(None, "synchronous", "FULL")?;
    conn.pragma_update(None, "wal_autocheckpoint", 0)?;
    conn.pragma_update(None, "trusted_schema", false)?;
    conn.pragma_update(None, "cell_size_check", true)?;
    conn.pragma_update(None, "cache_size", -CHECKPOINT_CACHE_KIB)?;
    conn.pragma_update(None, "temp_store", "MEMORY")?;
    Ok(conn)
}

/// Without this SQLite looks at each bound value whether it asks for another plan, and prepares the statement again.
fn steady(conn: &Connection) -> rusqlite::Result<()> {
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map(|_| ())
}

/// A connection that can only read.
pub(super) fn reader(db: &Path) -> Result<Connection, Fault> {
    let conn = Connection::open_with_flags(db, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    conn.busy_timeout(BUSY_TIMEOUT)?;
    steady(&conn)?;
    conn.pragma_update(None, "query_only", true)?;
    conn.pragma_update(None, "trusted_schema", false)?;
    conn.pragma_update(None, "cell_size_check", true)?;
    conn.pragma_update(None, "cache_size", -READER_CACHE_KIB)?;
    conn.pragma_update(None, "temp_store", "MEMORY")?;
    conn.set_prepared_statement_cache_capacity(32);
    Ok(conn)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A power cut takes what was only in the page cache: no test on a machine that stays on sees that.
    #[test]
    fn a_commit_is_flushed_before_it_counts() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::new(dir.path());
        create(&place).unwrap();
        let conn = writer(&place).unwrap();
        let synchronous: i64 = conn.pragma_query_value(None, "synchronous", |row| row.get(0)).unwrap();
        let journal: String = conn.pragma_query_value(None, "journal_mode", |row| row.get(0)).unwrap();
        assert_eq!((synchronous, journal.as_str()), (2, "wal"), "FULL, over a write-ahead log");
    }
}
