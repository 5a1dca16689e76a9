//! Which store gave which job id, over restores; and what is put aside when a restored store means other jobs by its ids.
//!
//! Logs and secrets are files named by job ids. Where the backup and the replaced store come from one line, a number is the
//! same job in both, and its files stay. Otherwise they are another's: kept, but where nobody looks for them.

use super::place::{Fault, io_error};
use super::{codec, load};
use crate::store::{FormerStore, StoreError};
use rusqlite::Connection;
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

    fn giver(&self, id: u64) -> &str {
        let former = self.former.iter().find(|former| id <= former.last_id);
        former.map_or(&self.store_id, |former| &former.store_id)
    }

    /// True when no number that both gave is one job here and another there.
    fn agrees_with(&self, other: &Self) -> bool {
        let both = self.last_id.min(other.last_id);
        let ends = self.former.iter().chain(&other.former).map(|former| former.last_id).filter(|last| *last < both);
        // Givers change behind these numbers only.
        ends.chain([both]).filter(|id| *id > 0).all(|id| self.giver(id) == other.giver(id))
    }

    /// Whether files of a replaced store are of the same jobs. One that cannot be read is known by the id in its lock file.
    pub(super) fn continues(&self, replaced: Option<&Self>, locked: Option<&str>) -> bool {
        match (replaced, locked) {
            (Some(replaced), _) => self.agrees_with(replaced),
            (None, Some(store_id)) => {
                store_id == self.store_id || self.former.iter().any(|former| former.store_id == store_id)
            }
            // Nothing was ever opened here: what there is was put here by who restores.
            (None, None) => true,
        }
    }
}

/// Puts what is in this directory into one below it, named by the time; None: there was nothing.
pub(super) fn set_aside(dir: &Path, now: &str) -> Result<Option<PathBuf>, StoreError> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        read => read.map_err(|source| io_error("read", dir, source))?,
    };
    let aside = dir.join(format!("{ASIDE}{now}"));
    let mut made = None;
    for entry in entries {
        let entry = entry.map_err(|source| io_error("read", dir, source))?;
        let name = entry.file_name();
        if name.as_encoded_bytes().starts_with(ASIDE.as_bytes()) || name == "lost+found" {
            continue;
        }
        if made.is_none() {
            fs::create_dir(&aside).map_err(|source| io_error("create", &aside, source))?;
            made = Some(aside.clone());
        }
        fs::rename(entry.path(), aside.join(&name)).map_err(|source| io_error("rename", &entry.path(), source))?;
    }
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(store_id: &str, last_id: u64, former: &[(&str, u64)]) -> Lineage {
        let former = former.iter().map(|(id, last)| FormerStore { store_id: (*id).to_owned(), last_id: *last });
        Lineage { store_id: store_id.to_owned(), last_id, former: former.collect() }
    }

    #[test]
    fn the_same_number_is_the_same_job_in_one_line_only() {
        let backup = line("a", 5, &[]);
        for (replaced, same) in [
            (line("a", 9, &[]), true),
            (line("a", 2, &[]), true),
            (line("b", 9, &[("a", 5)]), true),
            (line("b", 9, &[("a", 7)]), true),
            // It went on from an earlier backup: 4 and 5 are other jobs.
            (line("b", 9, &[("a", 3)]), false),
            // It never gave one of them.
            (line("b", 3, &[("a", 3)]), true),
            (line("other", 0, &[]), true),
            (line("other", 1, &[]), false),
        ] {
            assert_eq!(backup.continues(Some(&replaced), None), same, "{replaced:?}");
            assert_eq!(replaced.continues(Some(&backup), None), same, "{replaced:?}, the other way round");
        }
        let restored = line("b", 9, &[("a", 5)]);
        let known = ["b", "a", "other"].map(|locked| restored.continues(None, Some(locked)));
        assert_eq!((known, restored.continues(None, None)), ([true, true, false], true));
    }
}
