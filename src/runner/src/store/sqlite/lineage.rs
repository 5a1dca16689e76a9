//! Which store gave which job id, over restores.
//!
//! Logs and secrets are files named by job ids. Where the backup and the replaced store come from one line, a number is the
//! same job in both, and its files stay. Otherwise they are another's: see [`super::aside`].

use super::place::Fault;
use super::{codec, load};
use crate::store::FormerStore;
use rusqlite::Connection;

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

    /// A former store a line, then this one.
    pub(super) fn to_text(&self) -> String {
        let former = self.former.iter().map(|of| format!("{} {} {}\n", of.store_id, of.last_id, of.skipped_to));
        former.chain([format!("{} {}\n", self.store_id, self.last_id)]).collect()
    }

    pub(super) fn from_text(text: &str) -> Option<Self> {
        let mut lines: Vec<Vec<&str>> = text.lines().map(|line| line.split(' ').collect()).collect();
        let [store_id, last_id] = lines.pop()?[..] else { return None };
        let former = lines.into_iter().map(|words| match words[..] {
            [store_id, last_id, skipped_to] => Some(FormerStore {
                store_id: store_id.to_owned(),
                last_id: last_id.parse().ok()?,
                skipped_to: skipped_to.parse().ok()?,
            }),
            _ => None,
        });
        let former = former.collect::<Option<_>>()?;
        Some(Self { store_id: store_id.to_owned(), last_id: last_id.parse().ok()?, former })
    }

    /// True for this store and those that it was restored from.
    pub(super) fn has(&self, store_id: &str) -> bool {
        self.store_id == store_id || self.former.iter().any(|former| former.store_id == store_id)
    }

    /// None: nobody gave that id in this line.
    pub(super) fn giver(&self, id: u64) -> Option<&str> {
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A store with its former ones: id, last id, skipped to.
    pub(in super::super) fn line(store_id: &str, last_id: u64, former: &[(&str, u64, u64)]) -> Lineage {
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
    fn a_line_can_be_written_down() {
        for line in [line("a", 0, &[]), line("c", u64::MAX, &[("a", 5, 7), ("b", 9, 9)])] {
            assert_eq!(Lineage::from_text(&line.to_text()), Some(line));
        }
        for text in ["", "a", "a 1 1\n", "a x\n", "a 1\nb 2 2\n"] {
            assert_eq!(Lineage::from_text(text), None, "{text:?}");
        }
    }
}
