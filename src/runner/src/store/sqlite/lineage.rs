//! Which store gave which job id, over restores; and what is put aside when a restored store means other jobs by its ids.
//!
//! Logs and secrets are files named by job ids. Where the backup and the replaced store come from one line, a number is the
//! same job in both, and its files stay. Otherwise they are another's: kept, but where nobody looks for them.

use super::place::{Fault, io_error};
use super::{codec, load, open};
use crate::store::{FormerStore, StoreError};
use rusqlite::Connection;
use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Begins the names of what was put aside.
const ASIDE: &str = "replaced-";

/// The stores of one life after the other, and the ids that they gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lineage {
    pub(super) store_id: String,
    pub(super) last_id: u64,
    pub(super) former: Vec<FormerStore>,
}

impl Lineage {
    /// Of a database, which may be of an earlier version.
    pub(super) fn read(conn: &Connection) -> Result<Self, Fault> {
        let read = |row: &rusqlite::Row<'_>| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?));
        let (store_id, last_id) = conn.query_row("SELECT store_id, last_id FROM meta", [], read)?;
        let former = match conn.table_exists(None, "former_store")? {
            true => load::former(conn)?,
            false => Vec::new(),
        };
        Ok(Self { store_id, last_id: codec::uint(last_id, "last id")?, former })
    }

    /// None: nobody gave that id in this line.
    fn giver(&self, id: u64) -> Option<&str> {
        for former in &self.former {
            if id <= former.last_id {
                return Some(&former.store_id);
            }
            if id <= former.skipped_to {
                return None;
            }
        }
        (id <= self.last_id).then_some(&self.store_id)
    }

    /// True when no number is one job here and another there.
    pub(super) fn agrees_with(&self, other: &Self) -> bool {
        let ends = [self, other].into_iter().flat_map(|line| {
            let former = line.former.iter().flat_map(|former| [former.last_id, former.skipped_to]);
            former.chain([line.last_id])
        });
        // Givers change behind these numbers only.
        ends.filter(|id| *id > 0).all(|id| match (self.giver(id), other.giver(id)) {
            (Some(mine), Some(theirs)) => mine == theirs,
            (None, _) | (_, None) => true,
        })
    }
}

/// What was put aside in one directory.
pub(super) struct Aside {
    dir: PathBuf,
    to: PathBuf,
    names: Vec<OsString>,
}

impl Aside {
    /// Puts what belongs to jobs by its name, a number, into a directory below, which is named by the time; None: there is
    /// nothing. Whatever else somebody keeps there stays. On an error all is where it was.
    pub(super) fn put(dir: &Path, now: &str) -> Result<Option<Self>, StoreError> {
        let entries = match fs::read_dir(dir) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            read => read.map_err(|source| io_error("read", dir, source))?,
        };
        let mut aside = Self { dir: dir.to_owned(), to: dir.join(format!("{ASIDE}{now}")), names: Vec::new() };
        for entry in entries {
            let moved =
                entry.map_err(|source| io_error("read", dir, source)).and_then(|entry| aside.take(entry.file_name()));
            if let Err(error) = moved {
                aside.undo();
                return Err(error);
            }
        }
        if aside.names.is_empty() {
            return Ok(None);
        }
        open::sync_dir(dir)?;
        Ok(Some(aside))
    }

    fn take(&mut self, name: OsString) -> Result<(), StoreError> {
        if name.is_empty() || !name.as_encoded_bytes().iter().all(u8::is_ascii_digit) {
            return Ok(());
        }
        if self.names.is_empty() {
            fs::create_dir(&self.to).map_err(|source| io_error("create", &self.to, source))?;
        }
        let from = self.dir.join(&name);
        fs::rename(&from, self.to.join(&name)).map_err(|source| io_error("rename", &from, source))?;
        self.names.push(name);
        Ok(())
    }

    /// Puts it back: what it was put aside for did not happen.
    pub(super) fn undo(self) {
        for name in &self.names {
            // What cannot be put back is kept where it is.
            let _ = fs::rename(self.to.join(name), self.dir.join(name));
        }
        let _ = fs::remove_dir(&self.to);
    }

    /// Where it is now.
    pub(super) fn place(self) -> PathBuf {
        self.to
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(store_id: &str, last_id: u64, former: &[(&str, u64, u64)]) -> Lineage {
        let former = former.iter().map(|(id, last_id, skipped_to)| FormerStore {
            store_id: (*id).to_owned(),
            last_id: *last_id,
            skipped_to: *skipped_to,
        });
        Lineage { store_id: store_id.to_owned(), last_id, former: former.collect() }
    }

    #[test]
    fn the_same_number_is_the_same_job_in_one_line_only() {
        let backup = line("a", 5, &[]);
        for (replaced, same) in [
            (line("a", 9, &[]), true),
            (line("a", 2, &[]), true),
            (line("b", 9, &[("a", 5, 5)]), true),
            (line("b", 9, &[("a", 7, 7)]), true),
            // It went on from an earlier backup: 4 and 5 are other jobs.
            (line("b", 9, &[("a", 3, 3)]), false),
            // It went on behind what it replaced: 4 and 5 are nobody's there.
            (line("b", 9, &[("a", 3, 5)]), true),
            (line("b", 9, &[("a", 3, 4)]), false),
            // It gave none of its own.
            (line("b", 3, &[("a", 3, 3)]), true),
            (line("other", 0, &[]), true),
            (line("other", 1, &[]), false),
        ] {
            assert_eq!(backup.agrees_with(&replaced), same, "{replaced:?}");
            assert_eq!(replaced.agrees_with(&backup), same, "{replaced:?}, the other way round");
        }
    }

    #[test]
    fn only_what_is_named_by_numbers_is_put_aside_and_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["0", "17", "earlier", "queue.db", "replaced-before"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let names = |dir: &Path| {
            let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        let before = names(dir.path());
        let aside = Aside::put(dir.path(), "now").unwrap().unwrap();
        assert_eq!(names(dir.path()), ["earlier", "queue.db", "replaced-before", "replaced-now"]);
        assert_eq!(names(&dir.path().join("replaced-now")), ["0", "17"]);
        aside.undo();
        assert_eq!(names(dir.path()), before);
        // Something is in the way in the middle of it.
        fs::write(dir.path().join("replaced-then"), "").unwrap();
        assert!(Aside::put(dir.path(), "then").is_err());
        assert_eq!(names(dir.path()).len(), before.len() + 1);
    }
}
