//! A copy of the whole store while it runs.
//!
//! Pages are copied inside one read transaction on a connection of its own, so the copy is one moment of the store, and
//! commits go on meanwhile: they only cannot start their log anew until the copy is done. The copy is written beside its
//! name, as `FILE.<random>.partial`, and takes the name when it is complete and on disk, so a backup with a name is a whole backup.
//! No two backups share a copy; what a killed one left is in nobody's way. Files that belong to it are in a table of the copy, so that a backup stays one file.

use super::open;
use super::place::{Fault, Place, beside, io_error};
use crate::store::{BackupFile, StoreError};
use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags, Transaction, params};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Writes the copy to a file that must not exist yet.
pub(super) fn backup(place: &Place, to: &Path, files: &[BackupFile]) -> Result<(), StoreError> {
    let exists = || io_error("back up to", to, std::io::ErrorKind::AlreadyExists.into());
    if to.symlink_metadata().is_ok() {
        return Err(exists());
    }
    let aside = beside(to, &format!(".{}.partial", open::new_store_id()));
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside);
    let file = made.map_err(|source| io_error("back up to", &aside, source))?;
    let copied = copy(place, &aside, &file, files);
    let named = copied.and_then(|()| match renameat_with(CWD, &aside, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::EXIST) => Err(exists()),
        Err(errno) => Err(io_error("back up to", to, errno.into())),
    });
    if named.is_err() {
        // Nothing of it is of use; that it cannot be removed either would only hide the reason.
        let _ = std::fs::remove_file(&aside);
        return named;
    }
    open::sync_dir(to.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new(".")))
}

fn copy(place: &Place, aside: &Path, file: &File, files: &[BackupFile]) -> Result<(), StoreError> {
    // The target's errors, a full disk above all, are not those of the state directory.
    let target = Place { dir: aside.parent().unwrap_or(Path::new(".")).to_owned(), db: aside.to_owned() };
    copy_pages(place, aside).and_then(|()| put_files(aside, files)).map_err(|fault| match fault {
        Fault::Sql(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseCorrupt) => {
            place.error("back up", error)
        }
        fault => target.error("back up", fault),
    })?;
    file.sync_all().map_err(|source| io_error("back up to", aside, source))
}

/// Copies one moment of a database, its log included, into an empty file.
pub(super) fn copy_pages(place: &Place, aside: &Path) -> Result<(), Fault> {
    let from = open::reader(&place.db)?;
    let moment = from.unchecked_transaction()?;
    let _: i64 = moment.query_row("SELECT one FROM meta", [], |row| row.get(0))?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut to = Connection::open_with_flags(aside, flags)?;
    to.pragma_update(None, "cache_size", -1_024)?;
    {
        let backup = Backup::new(&moment, &mut to)?;
        while backup.step(-1)? != StepResult::Done {
            // Busy: nobody else has the new file, so it is a lock that is about to go.
            std::thread::yield_now();
        }
    }
    drop(moment);
    // One file without a log of its own: it can be copied anywhere and looked at without leaving files behind.
    let _: String = to.pragma_update_and_check(None, "journal_mode", "DELETE", |row| row.get(0))?;
    to.close().map_err(|(_, error)| error)?;
    Ok(())
}

fn put_files(aside: &Path, files: &[BackupFile]) -> Result<(), Fault> {
    let mut conn =
        Connection::open_with_flags(aside, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    let transaction = conn.transaction()?;
    transaction.execute_batch("CREATE TABLE backup_file (name TEXT PRIMARY KEY, content BLOB NOT NULL) STRICT")?;
    for file in files {
        transaction.execute("INSERT INTO backup_file VALUES (?1, ?2)", params![file.name, file.content])?;
    }
    transaction.commit()?;
    conn.close().map_err(|(_, error)| error)?;
    Ok(())
}

/// Takes the files out of a copy of a backup. A database that `ci-runner backup` did not make has none.
pub(super) fn take_files(copy: &Transaction<'_>) -> Result<Vec<BackupFile>, Fault> {
    if !copy.table_exists(None, "backup_file")? {
        return Ok(Vec::new());
    }
    let mut statement = copy.prepare("SELECT name, content FROM backup_file ORDER BY name")?;
    let read = |row: &rusqlite::Row<'_>| Ok(BackupFile { name: row.get(0)?, content: row.get(1)? });
    let files = statement.query_map([], read)?.collect::<Result<_, _>>()?;
    drop(statement);
    copy.execute_batch("DROP TABLE backup_file")?;
    Ok(files)
}
