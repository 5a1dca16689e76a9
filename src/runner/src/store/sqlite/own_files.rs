//! Whether the database is still where the next daemon will look for it.
//!
//! A file that was removed or replaced takes commits as before, and they go with the process. So it is looked at before each.

use super::place::{Place, io_error};
use crate::store::StoreError;
use std::fs::Metadata;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Device and inode.
type File = (u64, u64);

/// The files that the writer has open.
pub(super) struct OwnFiles {
    db: Option<File>,
    /// Once it is there; then it stays until nobody has the database open.
    log: Option<File>,
}

impl OwnFiles {
    /// To be called while nobody else can have replaced them: right after they were opened.
    pub(super) fn of(place: &Place) -> Result<Self, StoreError> {
        Ok(Self { db: file(&place.db)?, log: file(&place.wal())? })
    }

    /// Refuses when what is written would be nobody's.
    pub(super) fn are_there(&mut self, place: &Place) -> Result<(), StoreError> {
        let log = file(&place.wal())?;
        let log_is_own = self.log.is_none() || log == self.log;
        if file(&place.db)? != self.db || !log_is_own {
            let path = if log_is_own { place.db.clone() } else { place.wal() };
            return Err(StoreError::Gone { path: path.display().to_string() });
        }
        self.log = log;
        Ok(())
    }
}

fn file(path: &Path) -> Result<Option<File>, StoreError> {
    match std::fs::metadata(path) {
        Ok(found) => Ok(Some(identity(&found))),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(source) => Err(io_error("look at", path, source)),
    }
}

fn identity(found: &Metadata) -> File {
    (found.dev(), found.ino())
}
