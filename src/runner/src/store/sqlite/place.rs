//! Where a store lies, and what an error of SQLite means there.

use crate::store::StoreError;
use ci_runner_core::id::JobId;
use rusqlite::ErrorCode;
use std::io;
use std::path::{Path, PathBuf};

/// Paths of one state directory.
#[derive(Debug)]
pub(super) struct Place {
    /// The state directory.
    pub dir: PathBuf,
    /// The database in it.
    pub db: PathBuf,
}

/// What can go wrong in the middle of something: turned into a [`StoreError`] at the boundary, where it is known what we
/// were doing.
#[derive(Debug)]
pub(super) enum Fault {
    Sql(rusqlite::Error),
    Store(StoreError),
    /// Of the database that is being read; what was found.
    Damaged(String),
}

impl Fault {
    /// The same, with whose row it is.
    pub(super) fn of_job(self, id: JobId) -> Self {
        match self {
            Self::Store(StoreError::Row { what }) => {
                Self::Store(StoreError::Row { what: format!("row of job {id}, its {what},") })
            }
            Self::Sql(error) if is_of_a_row(&error) => {
                Self::Damaged(format!("the row of job {id} holds what was never written ({error})"))
            }
            fault => fault,
        }
    }
}

/// What was read fits no value of ours.
fn is_of_a_row(error: &rusqlite::Error) -> bool {
    use rusqlite::Error as E;
    matches!(error, E::InvalidColumnType(..) | E::FromSqlConversionFailure(..) | E::IntegralValueOutOfRange(..))
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// The path with something added to its last part: `queue.db` and `-wal`.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// An error of the file system.
pub(super) fn io_error(doing: &'static str, path: &Path, source: io::Error) -> StoreError {
    if is_full(&source) { StoreError::Full } else { StoreError::Io { doing, path: path.display().to_string(), source } }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl Place {
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), db: dir.join("queue.db") }
    }

    pub fn wal(&self) -> PathBuf {
        beside(&self.db, "-wal")
    }

    pub fn damaged(&self, what: impl Into<String>) -> StoreError {
        damaged(&self.db, what)
    }

    /// What a fault means for the caller.
    pub fn error(&self, doing: &'static str, fault: impl Into<Fault>) -> StoreError {
        match fault.into() {
            Fault::Store(error) => error,
            Fault::Damaged(what) => self.damaged(what),
            Fault::Sql(error) => self.sql_error(doing, error),
        }
    }

    fn sql_error(&self, doing: &'static str, error: rusqlite::Error) -> StoreError {
        use rusqlite::Error as E;
        if is_of_a_row(&error) {
            return self.damaged(format!("a row holds what was never written ({error})"));
        }
        // Every statement of ours fits the schema that was written.
        if let E::SqlInputError { msg, .. } = &error {
            return self.damaged(format!("its schema is not what was written ({msg})"));
        }
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => StoreError::Full,
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => self.damaged(error.to_string()),
            // SQLite tells a full quota, and a full disk found late, as errors of input and output: ask the disk itself.
            Some(ErrorCode::SystemIoFailure | ErrorCode::CannotOpen) if self.disk_is_full() => StoreError::Full,
            _ => StoreError::Sqlite { doing, source: error },
        }
    }

    /// Tries to write as much as a small commit.
    fn disk_is_full(&self) -> bool {
        let path = self.dir.join("probe");
        let written = write_probe(&path);
        let removed = std::fs::remove_file(&path);
        [written, removed].iter().any(|done| done.as_ref().is_err_and(is_full))
    }
}

fn write_probe(path: &Path) -> io::Result<()> {
    use std::io::Write as _;
    // Whatever has the name: nothing is written through a link.
    drop(std::fs::remove_file(path));
    let mut file = std::fs::File::create_new(path)?;
    file.write_all(&[0; 64 * 1024])?;
    file.sync_all()
}

/// The file is damaged.
pub(super) fn damaged(path: &Path, what: impl Into<String>) -> StoreError {
    StoreError::Damaged { path: path.display().to_string(), what: what.into() }
}
