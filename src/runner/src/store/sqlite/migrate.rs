//! The schema and its versions, over `PRAGMA user_version`.
//!
//! A migration that was released never changes; a new version is a new file at the end of the list. Each runs in one
//! transaction together with its number, so that a crash leaves the old version or the new one.

use super::place::{Fault, damaged};
use crate::store::StoreError;
use rusqlite::{Connection, TransactionBehavior};
use std::path::Path;

/// All versions of the schema, from 1.
pub(super) const MIGRATIONS: &[&str] = &[
    include_str!("0001.sql"),
    include_str!("0002.sql"),
    include_str!("0003.sql"),
    include_str!("0004.sql"),
    include_str!("0005.sql"),
    include_str!("0006.sql"),
    include_str!("0007.sql"),
];

/// Says that a database is ours: `ci-r`.
const APPLICATION_ID: i64 = 0x6369_2d72;

/// The version this program writes.
pub(super) fn known() -> i64 {
    i64::try_from(MIGRATIONS.len()).expect("a short list")
}

/// Brings `conn` from its version to that of the list; refuses what is newer or not ours. `new` says that an empty
/// database is what is expected.
pub(super) fn migrate(conn: &mut Connection, path: &Path, migrations: &[&str], new: bool) -> Result<(), Fault> {
    let known = i64::try_from(migrations.len()).expect("a short list");
    let found = version(conn, path, known, new)?;
    let from = usize::try_from(found).unwrap_or(0);
    for (number, sql) in (1i64..).zip(migrations).skip(from) {
        let transaction = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute_batch(sql)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", number)?;
        transaction.commit()?;
    }
    Ok(())
}

/// The version of the schema of an existing database of ours.
pub(super) fn version(conn: &Connection, path: &Path, known: i64, new: bool) -> Result<i64, Fault> {
    let application: i64 = conn.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let found: i64 = conn.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if new && application == 0 && found == 0 {
        return Ok(0);
    }
    if application != APPLICATION_ID || found < 1 {
        return Err(Fault::Store(damaged(path, "it is not a database of ci-runner")));
    }
    if found > known {
        return Err(Fault::Store(StoreError::Newer { path: path.display().to_string(), found, known }));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(conn: &mut Connection, list: &[&str], new: bool) -> Result<i64, StoreError> {
        let done = migrate(conn, Path::new("x"), list, new);
        done.map_err(|fault| super::super::place::Place::new(Path::new("/")).error("migrate", fault))?;
        Ok(conn.pragma_query_value(None, "user_version", |row| row.get(0)).expect("a version"))
    }

    #[test]
    fn versions_go_up_one_by_one_and_never_down() {
        let mut conn = Connection::open_in_memory().expect("memory");
        let list = ["CREATE TABLE a (x)", "ALTER TABLE a ADD COLUMN y", "INSERT INTO a (x, y) VALUES (1, 2)"];
        assert_eq!(check(&mut conn, &list[..1], true).expect("new"), 1);
        assert_eq!(check(&mut conn, &list, false).expect("two more"), 3);
        assert_eq!(check(&mut conn, &list, false).expect("none"), 3);
        let sum: i64 = conn.query_row("SELECT x + y FROM a", [], |row| row.get(0)).expect("one row");
        assert_eq!(sum, 3);
        let newer = check(&mut conn, &list[..2], false);
        assert!(matches!(newer, Err(StoreError::Newer { found: 3, known: 2, .. })), "{newer:?}");
    }

    #[test]
    fn a_migration_that_fails_leaves_the_old_version() {
        let mut conn = Connection::open_in_memory().expect("memory");
        assert_eq!(check(&mut conn, &["CREATE TABLE a (x)"], true).expect("new"), 1);
        let list = ["CREATE TABLE a (x)", "CREATE TABLE b (x); CREATE TABLE a (x)"];
        assert!(check(&mut conn, &list, false).is_err());
        let tables: i64 = conn
            .query_row("SELECT count(*) FROM sqlite_schema WHERE name = 'b'", [], |row| row.get(0))
            .expect("a count");
        assert_eq!(tables, 0);
        let other = check(&mut Connection::open_in_memory().expect("memory"), &list, false);
        assert!(matches!(other, Err(StoreError::Damaged { .. })), "an empty database is not an empty queue: {other:?}");
    }
}
