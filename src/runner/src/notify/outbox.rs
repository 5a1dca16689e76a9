//! What is still to be told and which alarms are active: a SQLite file of its own, `notices.db`, beside the store.
//!
//! A commit takes new deliveries, alarms and the cursor over the ends of jobs together or not at all. It is not synced to the
//! disk each time: after a power cut the last of them are missing together, and are derived again from the store, whose
//! commits are synced. So nothing is lost, and something may be told twice, under the same id.
//!
//! Every call is short and behind one lock; none is made by the loop.

use super::Event;
use ci_runner_core::time::Instant;
use ci_runner_core::watch::{Alarm, Reading, Watch};
use rusqlite::{Connection, OptionalExtension as _, params};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Ended alarms that are kept for looking at.
const ENDED_KEPT: i64 = 200;
/// A delivery that is done is remembered so long, so that the same event is not taken twice. Milliseconds.
const DONE_KEPT_MS: i64 = 24 * 3_600 * 1_000;
/// No pause between two tries is longer. Milliseconds.
const FAR_MS: i64 = 2 * 3_600 * 1_000;
/// Starts of alarms are counted under this in place of a notifier's name.
const NOBODY: &str = "";
/// Schema version.
const VERSION: i64 = 1;
/// Name of the file.
const FILE: &str = "notices.db";

/// It could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} the outbox of notices: {source}")]
pub struct OutboxError {
    doing: &'static str,
    #[source]
    source: rusqlite::Error,
}

/// How far the ends of jobs were looked at: engine time.
pub type Cursor = Option<Instant>;

/// An alarm with what people need of it.
#[derive(Clone, Debug, PartialEq)]
pub struct KeptAlarm {
    /// Unique.
    pub id: String,
    /// The alarm.
    pub alarm: Alarm,
    /// When it started, Unix milliseconds.
    pub since_ms: i64,
    /// When it ended.
    pub ended_ms: Option<i64>,
    /// Job, name, pool, words.
    pub details: Value,
}

/// What is kept together.
#[derive(Debug, Default)]
pub struct Batch {
    /// Who is told what.
    pub deliveries: Vec<(String, Event)>,
    /// Alarms that started or ended.
    pub alarms: Vec<KeptAlarm>,
    /// New cursor.
    pub cursor: Cursor,
}

/// A delivery that is due.
#[derive(Clone, Debug)]
pub struct Waiting {
    pub(super) number: i64,
    pub(super) event: Event,
    pub(super) tries: u32,
}

/// The database, and a bell for those who wait for something to do.
pub struct Outbox {
    connection: Mutex<Connection>,
    rung: Mutex<u64>,
    bell: Condvar,
    /// Why nothing is kept over a restart, if so.
    pub trouble: Option<String>,
}

impl Outbox {
    /// Opens it, or makes it anew where it is not there, of another store, or cannot be read; in memory where no file can be had.
    pub fn open(dir: &Path, store: &str) -> Result<Self, OutboxError> {
        let path = dir.join(FILE);
        let opened = open(&path, store).or_else(|error| {
            log::warn!(
                "{} cannot be used and is made anew; what was still to be told is lost: {error}",
                path.display()
            );
            for suffix in ["", "-wal", "-shm"] {
                std::fs::remove_file(dir.join(format!("{FILE}{suffix}"))).ok();
            }
            open(&path, store)
        });
        let (connection, trouble) = match opened {
            Ok(connection) => (connection, None),
            Err(error) => {
                let text =
                    format!("{} cannot be made ({error}): what waits to be told is lost at a restart", path.display());
                log::error!("{text}");
                let memory =
                    Connection::open_in_memory().and_then(|mut memory| prepare(&mut memory, store).map(|()| memory));
                (memory.map_err(fault("open"))?, Some(text))
            }
        };
        Ok(Self { connection: Mutex::new(connection), rung: Mutex::new(0), bell: Condvar::new(), trouble })
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        // A transaction that a panic left was rolled back when it was dropped.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The cursor as it was kept.
    pub fn cursor(&self) -> Result<Cursor, OutboxError> {
        let found = self.lock().query_row("SELECT cursor FROM meta", [], |row| row.get::<_, Option<i64>>(0));
        Ok(found.map_err(fault("read"))?.map(Instant))
    }

    /// Moves the cursor, or takes it away.
    pub fn set_cursor(&self, cursor: Cursor) -> Result<(), OutboxError> {
        let set = self.lock().execute("UPDATE meta SET cursor = ?1", [cursor.map(|at| at.0)]);
        set.map(|_| ()).map_err(fault("write"))
    }

    /// Active alarms, or those that ended last, the latest first.
    pub fn alarms(&self, active: bool) -> Result<Vec<KeptAlarm>, OutboxError> {
        let read = || -> rusqlite::Result<Vec<KeptAlarm>> {
            let connection = self.lock();
            let mut statement = connection.prepare_cached(
                "SELECT id, watch, subject, since, since_wall, ended_wall, measured, most, details FROM alarm \
                 WHERE (ended_wall IS NULL) = ?1 ORDER BY coalesce(ended_wall, since_wall) DESC LIMIT 1000",
            )?;
            let rows = statement.query_map([active], kept_alarm)?;
            rows.filter_map(rusqlite::Result::transpose).collect()
        };
        read().map_err(fault("read"))
    }

    /// Keeps a batch. `most`: how many deliveries of this notifier may wait. Tells how many did not fit, by notifier.
    pub fn commit(&self, batch: &Batch, most: &dyn Fn(&str) -> u32, now_ms: i64) -> Result<Vec<String>, OutboxError> {
        let dropped = self.keep(batch, most, now_ms).map_err(fault("write"))?;
        if !batch.deliveries.is_empty() {
            self.ring();
        }
        Ok(dropped)
    }

    fn keep(&self, batch: &Batch, most: &dyn Fn(&str) -> u32, now_ms: i64) -> rusqlite::Result<Vec<String>> {
        let mut connection = self.lock();
        let transaction = connection.transaction()?;
        let mut dropped = Vec::new();
        for (notifier, event) in &batch.deliveries {
            let count = "SELECT count(*) FROM delivery WHERE notifier = ?1 AND done IS NULL";
            let waiting: u32 = transaction.prepare_cached(count)?.query_row([notifier], |row| row.get(0))?;
            if waiting >= most(notifier) {
                dropped.push(notifier.clone());
                add(&transaction, notifier, "dropped")?;
                continue;
            }
            let insert = "INSERT OR IGNORE INTO delivery (notifier, event, kind, at_wall, title, data, next) \
                          VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
            let Event { id, kind, at_ms, title, data } = event;
            transaction.prepare_cached(insert)?.execute(params![
                notifier,
                id,
                kind,
                at_ms,
                title,
                data.to_string(),
                now_ms
            ])?;
        }
        for kept in &batch.alarms {
            let insert = "INSERT OR REPLACE INTO alarm (id, watch, subject, since, since_wall, ended_wall, measured, most, \
                          details) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
            let Reading { watch, subject, measured, limit } = &kept.alarm.reading;
            let (measured, limit) = (int(*measured), int(*limit));
            let details = kept.details.to_string();
            let (since, since_ms) = (kept.alarm.since.0, kept.since_ms);
            let values =
                params![kept.id, watch.word(), subject, since, since_ms, kept.ended_ms, measured, limit, details];
            transaction.prepare_cached(insert)?.execute(values)?;
            if kept.ended_ms.is_none() {
                add(&transaction, NOBODY, watch.word())?;
            }
        }
        if let Some(cursor) = batch.cursor {
            transaction.execute("UPDATE meta SET cursor = ?1", [cursor.0])?;
        }
        if !batch.alarms.is_empty() {
            let old = "DELETE FROM alarm WHERE ended_wall IS NOT NULL AND id NOT IN \
                       (SELECT id FROM alarm WHERE ended_wall IS NOT NULL ORDER BY ended_wall DESC LIMIT ?1)";
            transaction.execute(old, [ENDED_KEPT])?;
        }
        transaction.execute("DELETE FROM delivery WHERE done < ?1", [now_ms - DONE_KEPT_MS])?;
        transaction.commit()?;
        Ok(dropped)
    }

    /// Drops what waits for notifiers that are not among `known`; tells how many.
    pub fn forget_others(&self, known: &[&str], now_ms: i64) -> Result<usize, OutboxError> {
        let forget = || -> rusqlite::Result<usize> {
            let connection = self.lock();
            let list = serde_json::to_string(known).unwrap_or_else(|_| "[]".to_owned());
            connection.execute(
                "UPDATE delivery SET done = ?2 WHERE done IS NULL AND notifier NOT IN (SELECT value FROM json_each(?1))",
                params![list, now_ms],
            )
        };
        forget().map_err(fault("write"))
    }

    /// What is due for this notifier, or else when something will be. Not those in `but`.
    pub(super) fn due(
        &self,
        notifier: &str,
        but: &BTreeSet<i64>,
        now_ms: i64,
    ) -> Result<Result<Waiting, Option<i64>>, OutboxError> {
        let read = || -> rusqlite::Result<Result<Waiting, Option<i64>>> {
            let connection = self.lock();
            let mut statement = connection.prepare_cached(
                "SELECT number, event, kind, at_wall, title, data, tries, next FROM delivery \
                 WHERE notifier = ?1 AND done IS NULL ORDER BY next, number LIMIT ?2",
            )?;
            let row = |row: &rusqlite::Row<'_>| {
                let event = Event {
                    id: row.get(1)?,
                    kind: row.get(2)?,
                    at_ms: row.get(3)?,
                    title: row.get(4)?,
                    data: serde_json::from_str(&row.get::<_, String>(5)?).unwrap_or_default(),
                };
                Ok((Waiting { number: row.get(0)?, event, tries: row.get(6)? }, row.get::<_, i64>(7)?))
            };
            let mut found =
                statement.query_map(params![notifier, i64::try_from(but.len()).unwrap_or(i64::MAX - 1) + 1], row)?;
            let first = found.find(|found| found.as_ref().map_or(true, |(waiting, _)| !but.contains(&waiting.number)));
            Ok(match first.transpose()? {
                // Beyond any pause: the clock was set back meanwhile.
                Some((waiting, next)) if next <= now_ms || next > now_ms.saturating_add(FAR_MS) => Ok(waiting),
                Some((_, next)) => Err(Some(next)),
                None => Err(None),
            })
        };
        read().map_err(fault("read"))
    }

    /// Notes how a try went: delivered, given up (both `done`), or when the next one is. `result` is counted.
    pub(super) fn tried(
        &self,
        notifier: &str,
        number: i64,
        result: &str,
        next_ms: Option<i64>,
        now_ms: i64,
    ) -> Result<(), OutboxError> {
        let write = || -> rusqlite::Result<()> {
            let mut connection = self.lock();
            let transaction = connection.transaction()?;
            transaction.execute(
                "UPDATE delivery SET tries = tries + 1, next = coalesce(?2, next), done = ?3 WHERE number = ?1",
                params![number, next_ms, next_ms.is_none().then_some(now_ms)],
            )?;
            add(&transaction, notifier, result)?;
            transaction.commit()
        };
        write().map_err(fault("write"))
    }

    /// How many alarms started, by watch.
    pub fn alarms_started(&self) -> Result<Vec<(String, u64)>, OutboxError> {
        self.counts(NOBODY).map(|(counts, _)| counts)
    }

    /// What was counted of a notifier, and how many deliveries wait.
    pub(super) fn counts(&self, notifier: &str) -> Result<(Vec<(String, u64)>, u64), OutboxError> {
        let read = || -> rusqlite::Result<(Vec<(String, u64)>, u64)> {
            let connection = self.lock();
            let mut statement = connection.prepare_cached("SELECT result, count FROM tally WHERE notifier = ?1")?;
            let count = |row: &rusqlite::Row<'_>, column| Ok(u64::try_from(row.get::<_, i64>(column)?).unwrap_or(0));
            let counted = statement.query_map([notifier], |row| Ok((row.get(0)?, count(row, 1)?)))?;
            let counted = counted.collect::<rusqlite::Result<Vec<_>>>()?;
            let waiting = "SELECT count(*) FROM delivery WHERE notifier = ?1 AND done IS NULL";
            Ok((counted, connection.prepare_cached(waiting)?.query_row([notifier], |row| count(row, 0))?))
        };
        read().map_err(fault("read"))
    }

    /// Wakes all that wait.
    pub(super) fn ring(&self) {
        *self.rung.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.bell.notify_all();
    }

    /// How often it rang.
    pub(super) fn rung(&self) -> u64 {
        *self.rung.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for another ring than `heard`, at most so long.
    pub(super) fn wait(&self, heard: u64, timeout: Duration) {
        let rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.bell.wait_timeout_while(rung, timeout, |rung| *rung == heard));
    }
}

fn fault(doing: &'static str) -> impl Fn(rusqlite::Error) -> OutboxError {
    move |source| OutboxError { doing, source }
}

fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn add(connection: &Connection, notifier: &str, result: &str) -> rusqlite::Result<()> {
    let sql = "INSERT INTO tally (notifier, result, count) VALUES (?1, ?2, 1) \
               ON CONFLICT (notifier, result) DO UPDATE SET count = count + 1";
    connection.prepare_cached(sql)?.execute([notifier, result]).map(|_| ())
}

fn open(path: &Path, store: &str) -> rusqlite::Result<Connection> {
    keep_private(path);
    let mut connection = Connection::open(path)?;
    prepare(&mut connection, store)?;
    Ok(connection)
}

/// Names and words of jobs are in it, so it is nobody else's to read, as the store. SQLite gives `-wal` and `-shm` the mode of
/// the file. What goes wrong here does so at the opening, too, and is told there.
fn keep_private(path: &Path) {
    use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
    std::fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path).ok();
    for suffix in ["", "-wal", "-shm"] {
        let mut file = path.as_os_str().to_owned();
        file.push(suffix);
        if std::fs::metadata(&file).is_ok_and(|found| found.permissions().mode() & 0o077 != 0) {
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).ok();
        }
    }
}

fn prepare(connection: &mut Connection, store: &str) -> rusqlite::Result<()> {
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    // A mebibyte of pages is plenty.
    connection.pragma_update(None, "cache_size", -1_024)?;
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let transaction = connection.transaction()?;
    if version == 0 {
        transaction.execute_batch(include_str!("outbox.sql"))?;
        transaction.pragma_update(None, "user_version", VERSION)?;
    } else if version != VERSION {
        return Err(rusqlite::Error::InvalidQuery);
    }
    let known: Option<String> = transaction.query_row("SELECT store FROM meta", [], |row| row.get(0)).optional()?;
    if known.as_deref() != Some(store) {
        // Another store's events, as after a restore, are told to nobody.
        transaction.execute_batch("DELETE FROM meta; DELETE FROM alarm; DELETE FROM delivery; DELETE FROM tally")?;
        transaction.execute("INSERT INTO meta (one, store) VALUES (1, ?1)", [store])?;
    }
    transaction.commit()
}

/// None: of a watch that this version does not have.
fn kept_alarm(row: &rusqlite::Row<'_>) -> rusqlite::Result<Option<KeptAlarm>> {
    let Some(watch) = Watch::from_word(&row.get::<_, String>(1)?) else { return Ok(None) };
    let count = |column: usize| Ok::<_, rusqlite::Error>(u64::try_from(row.get::<_, i64>(column)?).unwrap_or(0));
    let reading = Reading { watch, subject: row.get(2)?, measured: count(6)?, limit: count(7)? };
    Ok(Some(KeptAlarm {
        id: row.get(0)?,
        alarm: Alarm { latest: reading.measured, reading, since: Instant(row.get(3)?), calm_since: None },
        since_ms: row.get(4)?,
        ended_ms: row.get(5)?,
        details: serde_json::from_str(&row.get::<_, String>(8)?).unwrap_or_default(),
    }))
}

#[cfg(test)]
mod tests;
