//! A restore that has begun to move files: what it moves stands in `restore.pending` of the state directory until it is done.
//!
//! Whoever takes the state directory next, a daemon or another restore, looks there first. Is the new database in its place, the rest
//! is done; otherwise everything is put where it was. So a restore that was cut short has happened or it has not.

use super::aside;
use super::lineage::Lineage;
use super::open::{self, Lock};
use super::place::{Fault, Place, beside, io_error};
use crate::fail::{self, RESTORE_STEP};
use crate::store::StoreError;
use crate::store::sqlite::restore::JobFiles;
use ci_runner_spawner::joblog::change_owner;
use rusqlite::{Connection, OptionalExtension as _};
use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

const NAME: &str = "restore.pending";
/// Follows the name of the database in that of one that was replaced, before the time.
pub(super) const REPLACED: &str = ".replaced-";
/// Ends each part of the file; no path holds it.
const END: u8 = 0;

/// What is under way.
pub(super) struct Pending {
    /// Of the database that is to come.
    store_id: String,
    /// In the names of all that is put aside.
    pub(super) now: String,
    /// Where jobs have their secrets.
    secrets: Option<PathBuf>,
    /// Where jobs log.
    logs: Vec<PathBuf>,
}

impl Pending {
    /// To be called before anything is moved.
    pub(super) fn begin(place: &Place, store_id: &str, files: &JobFiles<'_>) -> Result<Self, StoreError> {
        let absolute = |path: &Path| std::path::absolute(path).map_err(|source| io_error("look at", path, source));
        let pending = Self {
            store_id: store_id.to_owned(),
            now: jiff::Timestamp::now().strftime("%Y%m%dT%H%M%S%3fZ").to_string(),
            secrets: files.secrets.map(absolute).transpose()?,
            logs: files.logs.iter().map(|path| absolute(path)).collect::<Result<_, _>>()?,
        };
        let (path, new) = (place.dir.join(NAME), place.dir.join(format!("{NAME}.new")));
        // Whatever has the name: nothing is written through a link.
        drop(fs::remove_file(&new));
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new);
        let written = made.and_then(|mut file| file.write_all(&pending.to_bytes()).and_then(|()| file.sync_all()));
        written.map_err(|source| io_error("write", &new, source))?;
        fail::point(RESTORE_STEP);
        fs::rename(&new, &path).map_err(|source| io_error("create", &path, source))?;
        fail::point(RESTORE_STEP);
        open::sync_dir(&place.dir)?;
        Ok(pending)
    }

    fn to_bytes(&self) -> Vec<u8> {
        let secrets = self.secrets.as_deref().unwrap_or(Path::new("")).as_os_str();
        let parts = [self.store_id.as_ref(), self.now.as_ref(), secrets];
        let parts = parts.into_iter().chain(self.logs.iter().map(|path| path.as_os_str()));
        parts.flat_map(|part| part.as_bytes().iter().copied().chain([END])).collect()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut parts = bytes.strip_suffix(&[END])?.split(|byte| *byte == END);
        let text = |part: &[u8]| String::from_utf8(part.to_vec()).ok();
        let path = |part: &[u8]| PathBuf::from(OsString::from_vec(part.to_vec()));
        Some(Self {
            store_id: text(parts.next()?)?,
            now: text(parts.next()?)?,
            secrets: parts.next().map(path).filter(|path| !path.as_os_str().is_empty()),
            logs: parts.map(path).collect(),
        })
    }

    /// The new database is in its place: secrets of its jobs that were put aside come back. Tells how many.
    pub(super) fn finish(&self, place: &Place, lock: &mut Lock) -> Result<u64, StoreError> {
        // Before the note goes: a lock that names another store refuses this one.
        lock.keep(&place.dir.join("lock"), &self.store_id)?;
        fail::point(RESTORE_STEP);
        let fault = |fault| place.error("look for open jobs", fault);
        let conn = open::reader(&place.db).map_err(fault)?;
        let line = Lineage::read(&conn).map_err(fault)?;
        let is_open = |id| is_open(&conn, id).map_err(fault);
        let back = self.secrets.as_deref().map(|dir| aside::bring_back(dir, &line, &is_open)).transpose()?;
        forget(place)?;
        Ok(back.unwrap_or_default())
    }

    /// Where the database is that was there before.
    fn kept(&self, place: &Place) -> PathBuf {
        beside(&place.db, &format!("{REPLACED}{}", self.now))
    }

    /// `store_id`: of the database that is there then, where that is known.
    fn undo(&self, place: &Place, store_id: Option<&str>) -> Result<(), StoreError> {
        let kept = self.kept(place);
        if !place.db.exists() && kept.exists() {
            // The log first: a database without it would be taken for the whole.
            for (from, to) in [(beside(&kept, "-wal"), place.wal()), (kept, place.db.clone())] {
                match fs::rename(&from, &to) {
                    Err(source) if source.kind() != ErrorKind::NotFound => {
                        return Err(io_error("rename", &from, source));
                    }
                    Ok(()) | Err(_) => fail::point(RESTORE_STEP),
                }
            }
        }
        // One that cannot be put back keeps no other away.
        let undone: Vec<_> = self.secrets.iter().chain(&self.logs).map(|dir| aside::undo(dir, &self.now)).collect();
        undone.into_iter().collect::<Result<(), _>>()?;
        if let Some(store_id) = store_id {
            // On a full disk it cannot be said now; the next daemon says it as well.
            drop(own_logs(self.logs.iter().map(PathBuf::as_path), store_id));
            self.logs.iter().try_for_each(|dir| aside::logs_back(dir, store_id))?;
        }
        forget(place)?;
        remove_copy(place);
        Ok(())
    }
}

/// The logs in these directories are this store's from now on, as far as they were another's.
pub(super) fn own_logs<'a>(dirs: impl Iterator<Item = &'a Path>, store_id: &str) -> Result<(), StoreError> {
    for dir in dirs {
        change_owner(dir, store_id).map_err(|source| io_error("note whose logs are in", dir, source))?;
        fail::point(RESTORE_STEP);
    }
    Ok(())
}

/// True for a job that is not over.
pub(super) fn is_open(conn: &Connection, id: u64) -> Result<bool, Fault> {
    let Ok(id) = i64::try_from(id) else { return Ok(false) };
    let mut statement = conn.prepare_cached("SELECT 1 FROM open WHERE id = ?1")?;
    Ok(statement.query_row([id], |_| Ok(())).optional()?.is_some())
}

/// Finishes or undoes what was cut short.
pub(super) fn settle(place: &Place, lock: &mut Lock) -> Result<(), StoreError> {
    let path = place.dir.join(NAME);
    let bytes = match fs::read(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            remove_copy(place);
            return Ok(());
        }
        read => read.map_err(|source| io_error("read", &path, source))?,
    };
    let Some(pending) = Pending::from_bytes(&bytes) else {
        let what = "it is damaged; put back what the `replaced-` files and directories tell, or not, and remove it";
        return Err(io_error("read", &path, std::io::Error::new(ErrorKind::InvalidData, what)));
    };
    let in_place = open::reader(&place.db).and_then(|conn| Lineage::read(&conn));
    match in_place {
        Ok(line) if line.store_id == pending.store_id => pending.finish(place, lock).map(drop),
        // It may be the new one: what belongs to the other must not come back to it.
        Err(fault) if place.db.exists() && pending.kept(place).exists() => {
            Err(place.error("look for a restore", fault))
        }
        Ok(_) | Err(_) => pending.undo(place, lock.store_id.as_deref()),
    }
}

/// Where the copy of the backup is made that becomes the store.
pub(super) fn copy(place: &Place) -> PathBuf {
    beside(&place.db, ".restore")
}

/// Gives back the room that the copy takes, when it will not become the store. Whoever cannot says so when there is none.
pub(super) fn remove_copy(place: &Place) {
    let copy = copy(place);
    for path in [beside(&copy, "-journal"), copy] {
        drop(fs::remove_file(path));
    }
}

fn forget(place: &Place) -> Result<(), StoreError> {
    // First that is durable which it tells of.
    open::sync_dir(&place.dir)?;
    let path = place.dir.join(NAME);
    match fs::remove_file(&path) {
        Err(source) if source.kind() != ErrorKind::NotFound => Err(io_error("remove", &path, source)),
        Ok(()) | Err(_) => {
            fail::point(RESTORE_STEP);
            open::sync_dir(&place.dir)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sqlite::SqliteStore;

    /// The note went first: where there was no room for the name of the new store then, or the power was cut, the lock named the one before
    /// for good, and a restored store of another host was refused.
    #[test]
    fn the_note_stays_until_the_lock_names_the_new_store() {
        let dir = tempfile::tempdir().unwrap();
        drop(SqliteStore::open(dir.path()).unwrap());
        let place = Place::new(dir.path());
        let store_id = Lineage::read(&open::reader(&place.db).unwrap()).unwrap().store_id;
        let (lock, note) = (dir.path().join("lock"), dir.path().join(NAME));
        Pending::begin(&place, &store_id, &JobFiles::default()).unwrap();
        fs::write(&lock, "1\nanother1\n").unwrap();
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let refused = settle(&place, &mut Lock::of(full)).unwrap_err();
        assert!(matches!(refused, StoreError::Full), "{refused:?}");
        assert!(note.exists(), "there is more to do");
        // The control: where there is room the next one does it.
        let mut held = Lock::take(dir.path()).unwrap();
        settle(&place, &mut held).unwrap();
        assert!(!note.exists());
        assert_eq!(fs::read_to_string(&lock).unwrap().lines().nth(1), Some(store_id.as_str()));
    }
}
