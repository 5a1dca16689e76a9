//! Putting a backup in the place of a store whose daemon is not running.
//!
//! What was open in the life of the backup may have run since, or run elsewhere: so every open job comes back on hold, every
//! schedule paused (it may have been removed since, and its host may still run it), an open attempt ends as lost with its host, and the store gets a new id, under which nothing of the other life is adopted.
//! The replaced database is kept beside. The order of the steps makes a crash at any point leave the old store or the new
//! one, never an empty queue:
//!
//! 1. take the lock; copy the backup to `queue.db.restore`, change it there, make it durable;
//! 2. note what is to be moved ([`super::pending`]): from here on whoever takes the lock next undoes it, or finishes it after step 6;
//! 3. say in the log directories that their logs are the new store's, so that jobs which run on do not write among them;
//! 4. put logs and secrets aside, if the same ids are of other jobs in the backup; otherwise secrets of jobs that are not open in it;
//! 5. rename the old database, then its log, to their dated names;
//! 6. rename the copy to `queue.db`;
//! 7. put secrets back that were put aside by an earlier restore and are of open jobs; remove the note.
//!
//! A restore of a version without the note may have been cut short with the old store under its dated name: it is asked there.

use super::aside;
use super::backup;
use super::beside_store::{put_files, refuse_root_in_anothers};
use super::lineage::Lineage;
use super::load;
use super::migrate::{self, MIGRATIONS, migrate};
use super::open::{self, Lock};
use super::pending::{self, Pending, REPLACED, own_logs};
use super::place::{Fault, Place, beside, damaged, io_error};
use super::submit::supersede_returned;
use crate::fail::{self, RESTORE_STEP};
use crate::store::{BackupFile, StoreError};
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, Transaction, TransactionBehavior, params};
use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Who holds the jobs.
const BY: &str = "restore";

/// What a restore did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RestoreReport {
    /// The store's new id.
    pub store_id: String,
    /// Open jobs that are on hold now, whoever put them there.
    pub held: u64,
    /// Schedules that are paused now and were not before.
    pub paused: u64,
    /// Open attempts that were ended as lost.
    pub lost: u64,
    /// Finished jobs in the backup.
    pub finished: u64,
    /// Where the replaced database is kept; None when there was none.
    pub replaced: Option<PathBuf>,
    /// Where logs and secrets of the replaced store are kept, when the same ids were other jobs there.
    pub others: Vec<PathBuf>,
    /// Where secrets of jobs are kept that are not open in the backup; otherwise the next start would remove them.
    pub later_secrets: Option<PathBuf>,
    /// Jobs whose secrets an earlier restore had put aside, and that have them again.
    pub secrets_back: u64,
    /// Who has paused the host in the backup, and why: nothing starts.
    pub pause: Option<String>,
    /// Where the files of the backup, such as the configuration, were put; nothing uses them there.
    pub files: Vec<PathBuf>,
}

/// The highest numbers a store has given, which must not be given again.
#[derive(Clone, Copy, Default)]
struct Given {
    id: i64,
    generation: i64,
}

/// Where jobs have their files beside the store.
#[derive(Clone, Copy, Debug, Default)]
pub struct JobFiles<'a> {
    /// Directories of logs.
    pub logs: &'a [&'a Path],
    /// The directory of secrets.
    pub secrets: Option<&'a Path>,
}

/// Replaces the store in `state_dir`, whose jobs have such files, by the backup `from`.
pub fn restore(from: &Path, state_dir: &Path, files_of_jobs: JobFiles<'_>) -> Result<RestoreReport, StoreError> {
    open::check_sqlite()?;
    refuse_root_in_anothers(state_dir)?;
    let mut lock = Lock::take(state_dir)?;
    let place = Place::new(state_dir);
    validate(from)?;
    pending::settle(&place, &mut lock)?;
    let old = old_database(&place, lock.store_id.as_deref());
    let given = old.as_deref().map(given).unwrap_or_default();
    let replaced = old.as_deref().and_then(|db| line_of(db).ok());
    let restored = line_of(from).map_err(|fault| place.error("read the backup", fault))?;
    let (is_one_line, line) = match replaced {
        Some(replaced) => (restored.agrees_with(&replaced), Some(replaced)),
        None => match &lock.store_id {
            // Where nothing was ever opened, who restores has put there what is there.
            None => (true, None),
            // Nobody can say which ids it gave; but all behind its former ones are its own.
            Some(locked) if *locked == restored.store_id => (true, Some(Lineage { last_id: u64::MAX, ..restored })),
            Some(_) => (false, None),
        },
    };
    let new = pending::copy(&place);
    let (report, files, pending) =
        prepare(from, &place, given, &files_of_jobs).inspect_err(|_| pending::remove_copy(&place))?;
    let swap = Swap {
        place: &place,
        new: &new,
        now: &pending.now,
        store_id: &report.store_id,
        is_one_line,
        line: line.as_ref(),
    };
    let moved = swap.all(&files_of_jobs).and_then(|moved| Ok((pending.finish(&place, &mut lock)?, moved)));
    match moved {
        Ok((secrets_back, Moved { replaced, others, later_secrets })) => {
            Ok(RestoreReport { replaced, others, later_secrets, secrets_back, files, ..report })
        }
        Err(error) => {
            // What cannot be put right now is when the directory is taken again.
            drop(pending::settle(&place, &mut lock));
            Err(error)
        }
    }
}

/// The steps before anything is moved.
fn prepare(
    from: &Path,
    place: &Place,
    given: Given,
    files_of_jobs: &JobFiles<'_>,
) -> Result<(RestoreReport, Vec<PathBuf>, Pending), StoreError> {
    let (report, files) = adopt(from, &pending::copy(place), place, given)?;
    fail::point(RESTORE_STEP);
    let files = put_files(place, &files)?;
    fail::point(RESTORE_STEP);
    let pending = Pending::begin(place, &report.store_id, files_of_jobs)?;
    Ok((report, files, pending))
}

/// The steps that move files, of which [`Pending`] tells.
struct Swap<'a> {
    place: &'a Place,
    new: &'a Path,
    now: &'a str,
    /// Of the store that is made.
    store_id: &'a str,
    /// The backup and what it replaces mean the same jobs by their ids.
    is_one_line: bool,
    /// Of what is replaced.
    line: Option<&'a Lineage>,
}

/// What they moved where.
struct Moved {
    replaced: Option<PathBuf>,
    others: Vec<PathBuf>,
    later_secrets: Option<PathBuf>,
}

impl Swap<'_> {
    fn all(&self, files: &JobFiles<'_>) -> Result<Moved, StoreError> {
        // First: a job that runs on and prints its first byte now would make a log under an id that may be another job's.
        own_logs(files.logs.iter().copied(), self.store_id)?;
        let (mut others, mut later_secrets) = (Vec::new(), None);
        if self.is_one_line {
            // The next start removes secrets of jobs that it does not know, and the backup after this one may know them.
            let conn = open::reader(self.new).map_err(|fault| self.place.error("look for open jobs", fault))?;
            let is_later = |id| match pending::is_open(&conn, id) {
                Ok(is_open) => Ok(!is_open),
                Err(fault) => Err(self.place.error("look for open jobs", fault)),
            };
            if let Some(secrets) = files.secrets {
                later_secrets = aside::put(secrets, self.now, self.line, &is_later)?;
            }
        } else {
            for dir in files.secrets.iter().chain(files.logs) {
                others.extend(aside::put(dir, self.now, self.line, &|_| Ok(true))?);
            }
        }
        let replaced = put_aside(self.place, self.now)?;
        std::fs::rename(self.new, &self.place.db).map_err(|source| io_error("create", &self.place.db, source))?;
        fail::point(RESTORE_STEP);
        open::sync_dir(&self.place.dir)?;
        Ok(Moved { replaced, others, later_secrets })
    }
}

/// Refuses what is no whole backup of a version that is known. Nothing is written.
fn validate(from: &Path) -> Result<(), StoreError> {
    // A clear answer for what is not there or may not be read.
    std::fs::File::open(from).map_err(|source| io_error("read the backup", from, source))?;
    let source = Place { dir: from.parent().unwrap_or(Path::new(".")).to_owned(), db: from.to_owned() };
    let checked = open::reader(from).and_then(|conn| {
        migrate::version(&conn, from, migrate::known(), false)?;
        let mode: String = conn.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
        let (_, running) = load::was_running(&conn)?;
        if mode == "wal" && running && !open::wal_has_content(&source)? {
            let what = "it is a file of a running store, copied without its write-ahead log";
            return Err(Fault::Store(damaged(from, format!("{what} (`ci-runner backup` makes whole copies)"))));
        }
        let words: String = conn.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
        if words == "ok" { Ok(()) } else { Err(Fault::Store(damaged(from, words))) }
    });
    checked.map_err(|fault| source.error("read the backup", fault))
}

fn line_of(db: &Path) -> Result<Lineage, Fault> {
    Lineage::read(&open::reader(db)?)
}

/// The store that is replaced: in its place, or under its dated name, when a restore was cut short behind that.
fn old_database(place: &Place, locked: Option<&str>) -> Option<PathBuf> {
    if place.db.exists() {
        return Some(place.db.clone());
    }
    let dated = beside(&place.db, REPLACED);
    let entries = std::fs::read_dir(&place.dir).ok()?.flatten().map(|entry| entry.path());
    let is_dated = |path: &PathBuf| {
        let name = path.as_os_str().as_encoded_bytes();
        name.starts_with(dated.as_os_str().as_encoded_bytes()) && !name.ends_with(b"-wal") && !name.ends_with(b"-shm")
    };
    let newest = entries.filter(is_dated).max()?;
    // That one, and not one of an earlier restore: the lock still has its id.
    let line = line_of(&newest).ok()?;
    (locked == Some(line.store_id.as_str())).then_some(newest)
}

/// What the store that is replaced has given, if it can still tell.
fn given(db: &Path) -> Given {
    let ask = || -> Result<Given, Fault> {
        let conn = open::reader(db)?;
        let read = |row: &rusqlite::Row<'_>| Ok(Given { id: row.get(0)?, generation: row.get(1)? });
        Ok(conn.query_row("SELECT last_id, generation FROM meta", [], read)?)
    };
    ask().unwrap_or_default()
}

type Adopted = (RestoreReport, Vec<BackupFile>);

/// Makes a copy of the backup that is fit to be a store.
fn adopt(from: &Path, aside: &Path, place: &Place, given: Given) -> Result<Adopted, StoreError> {
    for path in [aside.to_owned(), beside(aside, "-journal")] {
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != ErrorKind::NotFound => return Err(io_error("remove", &path, source)),
            Ok(()) | Err(_) => {}
        }
    }
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(aside);
    let file = made.map_err(|source| io_error("create", aside, source))?;
    fail::point(RESTORE_STEP);
    let source = Place { dir: place.dir.clone(), db: from.to_owned() };
    backup::copy_pages(&source, aside).map_err(|fault| source.error("copy the backup", fault))?;
    fail::point(RESTORE_STEP);
    let report = change(aside, given).map_err(|fault| place.error("restore", fault))?;
    file.sync_all().map_err(|source| io_error("write", aside, source))?;
    Ok(report)
}

fn change(aside: &Path, given: Given) -> Result<Adopted, Fault> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut conn = Connection::open_with_flags(aside, flags)?;
    let _: String = conn.pragma_update_and_check(None, "journal_mode", "DELETE", |row| row.get(0))?;
    conn.pragma_update(None, "synchronous", "FULL")?;
    conn.pragma_update(None, "foreign_keys", true)?;
    migrate(&mut conn, aside, MIGRATIONS, false)?;
    let transaction = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let files = backup::take_files(&transaction)?;
    let report = begin_anew(&transaction, given)?;
    transaction.commit()?;
    conn.close().map_err(|(_, error)| error)?;
    Ok((report, files))
}

fn begin_anew(transaction: &Transaction<'_>, given: Given) -> Result<RestoreReport, Fault> {
    let count = |sql: &str| transaction.query_row(sql, [], |row| row.get::<_, i64>(0));
    let sql = "SELECT last_engine, last_wall, store_id FROM meta";
    let told = transaction.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).optional()?;
    let Some((engine, wall, old_id)): Option<(i64, i64, String)> = told else {
        return Err(Fault::Store(StoreError::Row { what: "description of the store".to_owned() }));
    };
    let store_id = open::new_store_id();
    let lost = transaction.execute(
        "INSERT INTO attempt (job, number, pool, slot, claimed_wall, started_wall, ended_wall, result, cause, \
         memory_limit, cpu_limit, pids_limit) SELECT job, attempt, pool, slot, claimed_wall, started_wall, ?1, 5, 'host', \
         memory_limit, cpu_limit, pids_limit FROM lease",
        [wall],
    )?;
    transaction.execute(
        "UPDATE open SET ready_at = max(ready_at, ?1), tries = tries + 1, attempt = l.attempt, \
         ran_in = CASE WHEN j.pool IS NULL THEN l.pool END, started_wall = coalesce(open.started_wall, l.started_wall), \
         queue_ms = coalesce(open.queue_ms, max(0, l.started - j.submitted)) \
         FROM lease AS l JOIN job AS j ON j.id = l.job WHERE open.id = l.job",
        [engine],
    )?;
    // A stop that was on its way stays a wish: it was the reason to end, and the job is queued now.
    transaction.execute(
        "UPDATE open SET wish = 2, wish_by = l.stop_by, wish_reason = NULL FROM lease AS l \
         WHERE open.id = l.job AND l.stop_by IS NOT NULL AND open.wish <> 2",
        [],
    )?;
    transaction.execute(concat!(supersede_returned!(), "IN (SELECT job FROM lease)"), [])?;
    transaction.execute("DELETE FROM lease", [])?;
    let reason = format!("restored from a backup of store {old_id}; look whether it ran meanwhile, then release it");
    let sql = "UPDATE open SET wish = 1, wish_by = ?1, wish_reason = ?2 WHERE wish = 0";
    transaction.execute(sql, params![BY, reason])?;
    let held = count("SELECT count(*) FROM open WHERE wish = 1")?;
    let by = format!("{BY} (restored from a backup of store {old_id})");
    let paused = transaction.execute("UPDATE schedule SET paused = ?1 WHERE paused IS NULL", [by])?;
    // Where nothing was queued since the restore before, that store gave the ids; what is skipped now is nobody's all the same.
    let sql = "INSERT INTO former_store (last_id, skipped_to, store_id) SELECT last_id, max(last_id, ?1), store_id FROM meta WHERE true \
        ON CONFLICT (last_id) DO UPDATE SET skipped_to = max(skipped_to, excluded.skipped_to)";
    transaction.execute(sql, [given.id])?;
    let sql =
        "UPDATE meta SET store_id = ?1, running = 0, last_id = max(last_id, ?2), generation = max(generation, ?3)";
    transaction.execute(sql, params![store_id, given.id, given.generation])?;
    let finished = count("SELECT count(*) FROM finished")?;
    let pause = pause(transaction)?;
    let count = |rows: usize| u64::try_from(rows).unwrap_or(u64::MAX);
    let finished = u64::try_from(finished).unwrap_or_default();
    let held = u64::try_from(held).unwrap_or_default();
    let (paused, lost) = (count(paused), count(lost));
    let report = RestoreReport { store_id, held, paused, lost, finished, pause, ..RestoreReport::default() };
    Ok(report)
}

/// Who paused it, and why.
fn pause(transaction: &Transaction<'_>) -> Result<Option<String>, Fault> {
    let read = |row: &rusqlite::Row<'_>| Ok((row.get::<_, Option<String>>(0)?, row.get::<_, Option<String>>(1)?));
    let (by, reason) = transaction.query_row("SELECT pause_by, pause_reason FROM meta", [], read)?;
    Ok(by.map(|by| reason.map_or_else(|| by.clone(), |reason| format!("{by} ({reason})"))))
}

/// Renames the database that is replaced, with its log, to a name that tells when.
fn put_aside(place: &Place, now: &str) -> Result<Option<PathBuf>, StoreError> {
    let kept = beside(&place.db, &format!("{REPLACED}{now}"));
    let mut any = None;
    // The database first: without its log beside it, it could be taken for the whole.
    for (from, to) in [(place.db.clone(), kept.clone()), (place.wal(), beside(&kept, "-wal"))] {
        match std::fs::rename(&from, &to) {
            Ok(()) => {
                any = Some(kept.clone());
                fail::point(RESTORE_STEP);
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(source) => return Err(io_error("rename", &from, source)),
        }
    }
    match std::fs::remove_file(beside(&place.db, "-shm")) {
        Err(source) if source.kind() != ErrorKind::NotFound => {
            Err(io_error("remove", &beside(&place.db, "-shm"), source))
        }
        Ok(()) | Err(_) => {
            fail::point(RESTORE_STEP);
            Ok(any)
        }
    }
}
