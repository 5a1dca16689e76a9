//! Answers for everybody but the writer, from connections that cannot write.
//!
//! A few connections are shared: each answer takes one for its time, and waits when all are taken, in the order in which it
//! came. Each answer is one read transaction, so it sees whole commits only. Who may not wait has a reader [apart].
//!
//! [apart]: Reader::apart

use super::load::{SPEC, spec, spec_columns};
use super::place::{Fault, Place};
use super::{backup, check, codec, ends, finished, list, open, schedule};
use crate::store::{
    AttemptRow, BackupFile, EndMark, EndedFilter, EndedJob, JobEnd, JobFilter, JobRow, KEY_KEPT_MS, KeyRow, Reader,
    ScheduleRow, StoreError,
};
use ci_runner_core::id::{AttemptNumber, JobId};
use ci_runner_core::outcome::{Measured, Outcome, Receipt};
use ci_runner_core::state::Phase;
use ci_runner_core::time::{Instant, WallTime};
use rusqlite::{Connection, Row};
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// Connections at most; each costs up to half a megabyte of cache.
const CONNECTIONS_MAX: usize = 3;

/// The reading side.
#[derive(Clone)]
pub struct SqliteReader {
    pool: Arc<Pool>,
}

struct Pool {
    place: Arc<Place>,
    connections_max: usize,
    idle: Mutex<Idle>,
    /// One was given back, or somebody's turn came.
    moved: Condvar,
}

#[derive(Default)]
struct Idle {
    connections: Vec<Connection>,
    taken: usize,
    /// Who came, and whose turn it is, by number: nobody overtakes.
    came: u64,
    turn: u64,
}

const JOB: &str = concat!(
    "SELECT ",
    spec_columns!(),
    ", j.id, j.group_limit, j.submitted, j.submitted_wall, \
     l.job, l.started, l.stop_by, coalesce(l.attempt, o.attempt, f.attempt), coalesce(o.tries, f.tries), \
     coalesce(l.pool, o.ran_in, f.ran_in), o.wish, o.wish_by, o.wish_reason, \
     coalesce(o.started_wall, f.started_wall, l.started_wall), \
     coalesce(o.queue_ms, f.queue_ms, max(0, l.started - j.submitted)), \
     f.outcome, f.detail, f.finished_wall, a.result, a.code, a.cause, a.run_us, \
     CASE WHEN a.ended_wall = f.finished_wall THEN a.run_ended_wall END \
     FROM job AS j LEFT JOIN open AS o ON o.id = j.id LEFT JOIN lease AS l ON l.job = j.id \
     LEFT JOIN finished AS f ON f.id = j.id LEFT JOIN attempt AS a ON a.job = j.id AND a.number = \
     (SELECT number FROM attempt WHERE job = j.id AND result IS NOT NULL ORDER BY number DESC LIMIT 1) WHERE j.id = ?1"
);

const ATTEMPTS: &str = "SELECT number, pool, slot, claimed_wall, started_wall, ended_wall, result, code, cause, \
    run_started_wall, run_ended_wall, run_us, cpu_user_us, cpu_system_us, peak_memory_bytes, log_bytes, \
    log_dropped_bytes, leftovers, memory_limit, cpu_limit, pids_limit, memory_of_all, io_read_bytes, io_written_bytes, \
    pids_peak, memory_stall_us, cpu_stall_us, io_stall_us, oom_kills, disk_bytes FROM attempt WHERE job = ?1 \
    UNION ALL SELECT attempt, pool, slot, claimed_wall, started_wall, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, \
    NULL, NULL, NULL, NULL, memory_limit, cpu_limit, pids_limit, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL \
    FROM lease WHERE job = ?1 ORDER BY 1";

impl SqliteReader {
    pub(super) fn new(place: Arc<Place>) -> Self {
        Self::with_connections(place, CONNECTIONS_MAX)
    }

    fn with_connections(place: Arc<Place>, connections_max: usize) -> Self {
        Self { pool: Arc::new(Pool { place, connections_max, idle: Mutex::default(), moved: Condvar::new() }) }
    }

    pub(super) fn place(&self) -> &Place {
        &self.pool.place
    }

    /// Does one thing with one connection, in one read transaction.
    pub(super) fn with<T>(
        &self,
        doing: &'static str,
        work: impl FnOnce(&Connection) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        let conn = self.take().map_err(|fault| self.place().error(doing, fault))?;
        let done = conn.unchecked_transaction().map_err(Fault::from).and_then(|transaction| work(&transaction));
        self.give(Some(conn));
        done.map_err(|fault| self.place().error(doing, fault))
    }

    fn take(&self) -> Result<Connection, Fault> {
        let mut idle = self.pool.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let own = idle.came;
        idle.came += 1;
        while idle.turn != own || idle.taken >= self.pool.connections_max {
            idle = self.pool.moved.wait(idle).unwrap_or_else(PoisonError::into_inner);
        }
        idle.turn += 1;
        idle.taken += 1;
        // There may be another one for the next.
        self.pool.moved.notify_all();
        if let Some(conn) = idle.connections.pop() {
            return Ok(conn);
        }
        drop(idle);
        open::reader(&self.place().db).inspect_err(|_| self.give(None))
    }

    fn give(&self, conn: Option<Connection>) {
        let mut idle = self.pool.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.taken -= 1;
        idle.connections.extend(conn);
        self.pool.moved.notify_all();
    }
}

impl Reader for SqliteReader {
    fn apart(&self) -> Option<Arc<dyn Reader>> {
        Some(Arc::new(Self::with_connections(Arc::clone(&self.pool.place), 1)))
    }

    fn job(&self, id: JobId) -> Result<Option<JobRow>, StoreError> {
        self.with("read a job", |conn| job(conn, id))
    }

    fn attempts(&self, id: JobId) -> Result<Vec<AttemptRow>, StoreError> {
        self.with("read attempts", |conn| {
            let mut statement = conn.prepare_cached(ATTEMPTS)?;
            let mut rows = statement.query([codec::int(id.get())])?;
            let mut attempts = Vec::new();
            while let Some(row) = rows.next()? {
                attempts.push(attempt_row(row)?);
            }
            Ok(attempts)
        })
    }

    fn each_job(&self, filter: &JobFilter, each: &mut dyn FnMut(JobRow) -> bool) -> Result<(), StoreError> {
        self.with("list jobs", |conn| {
            for id in list::ids(conn, filter)? {
                if let Some(row) = job(conn, id)?
                    && !each(row)
                {
                    break;
                }
            }
            Ok(())
        })
    }

    fn each_ended(&self, filter: &EndedFilter, each: &mut dyn FnMut(EndedJob<'_>) -> bool) -> Result<(), StoreError> {
        self.with("read finished jobs", |conn| finished::each(conn, filter, each))
    }

    fn ends_since(&self, from: Instant, most: usize) -> Result<Vec<EndMark>, StoreError> {
        self.with("read ends of jobs", |conn| finished::marks(conn, from, most))
    }

    fn ended(&self, id: JobId) -> Result<Option<bool>, StoreError> {
        Ok(self.ended_among(&[id])?.remove(&id))
    }

    fn ended_among(&self, ids: &[JobId]) -> Result<HashMap<JobId, bool>, StoreError> {
        self.with("read ends of jobs", |conn| {
            let mut statement = conn.prepare_cached("SELECT outcome = 0 FROM finished WHERE id = ?1")?;
            let mut ended = HashMap::new();
            for id in ids {
                let mut rows = statement.query([codec::int(id.get())])?;
                if let Some(row) = rows.next()? {
                    ended.insert(*id, row.get(0)?);
                }
            }
            Ok(ended)
        })
    }

    fn ends(&self, first: JobId, last: JobId) -> Result<Vec<JobEnd>, StoreError> {
        self.with("list ends of jobs", |conn| {
            let sql = "SELECT job.id, finished.ended FROM job LEFT JOIN finished ON finished.id = job.id \
                WHERE job.id BETWEEN ?1 AND ?2";
            let mut statement = conn.prepare_cached(sql)?;
            let mut rows = statement.query([first, last].map(|id| codec::int(id.get())))?;
            let mut ends = Vec::new();
            while let Some(row) = rows.next()? {
                ends.push((codec::job_id(row.get(0)?)?, row.get::<_, Option<i64>>(1)?.map(Instant)));
            }
            Ok(ends)
        })
    }

    fn key(&self, key: &str, now: Instant) -> Result<Option<KeyRow>, StoreError> {
        self.with("read an idempotency key", |conn| {
            let sql = "SELECT body, jobs, at FROM idempotency WHERE key = ?1 AND at > ?2";
            let mut statement = conn.prepare_cached(sql)?;
            let expired = now.0.saturating_sub(codec::int(KEY_KEPT_MS));
            let mut rows = statement.query(rusqlite::params![key, expired])?;
            let Some(row) = rows.next()? else { return Ok(None) };
            Ok(Some(KeyRow {
                key: key.to_owned(),
                body: row.get(0)?,
                jobs: codec::ids(row.get_ref(1)?.as_str().map_err(rusqlite::Error::from)?)?,
                at: Instant(row.get(2)?),
            }))
        })
    }

    fn totals(&self) -> Result<Vec<(String, u64)>, StoreError> {
        self.with("count finished jobs", |conn| {
            let sql = "SELECT succeeded, failed, timed_out, cancelled, superseded, expired FROM meta";
            let mut statement = conn.prepare_cached(sql)?;
            let mut rows = statement.query([])?;
            let Some(row) = rows.next()? else { return Ok(Vec::new()) };
            let count = |(at, word): (usize, &&str)| Ok(((*word).to_owned(), codec::uint(row.get(at)?, "total")?));
            Outcome::WORDS.iter().enumerate().map(count).collect()
        })
    }

    fn schedules(&self) -> Result<Vec<ScheduleRow>, StoreError> {
        self.with("list schedules", schedule::all)
    }

    fn schedule(&self, name: &str) -> Result<Option<ScheduleRow>, StoreError> {
        self.with("look up a schedule", |conn| schedule::one(conn, name))
    }

    fn backup(&self, to: &Path, files: &[BackupFile]) -> Result<(), StoreError> {
        backup::backup(self.place(), to, files)
    }

    fn check(&self) -> Result<Vec<String>, StoreError> {
        match self.with("check the database", check::check) {
            Err(StoreError::Damaged { what, .. }) => Ok(vec![what]),
            other => other,
        }
    }
}

fn job(conn: &Connection, id: JobId) -> Result<Option<JobRow>, Fault> {
    let mut statement = conn.prepare_cached(JOB)?;
    let mut rows = statement.query([codec::int(id.get())])?;
    rows.next()?.map(job_row).transpose()
}

/// From the columns of [`JOB`].
fn job_row(row: &Row<'_>) -> Result<JobRow, Fault> {
    let (spec, submitter) = spec(row)?;
    let text = |column: usize| row.get_ref(SPEC + column)?.as_str_or_null().map_err(rusqlite::Error::from);
    let number = |column: usize| row.get::<_, Option<i64>>(SPEC + column);
    let outcome = number(15)?.map(|outcome| ends::outcome(outcome, text(16)?).map_err(Fault::from)).transpose()?;
    let result = match number(18)? {
        Some(result) => Some(ends::result(result, number(19)?, text(20)?)?),
        None => None,
    };
    let phase = match (&outcome, number(4)?, number(5)?, text(6)?) {
        (Some(_), _, _, _) => Phase::Finished,
        (None, None, _, _) => Phase::Queued,
        (None, Some(_), _, Some(_)) => Phase::Stopping,
        (None, Some(_), Some(_), None) => Phase::Running,
        (None, Some(_), None, None) => Phase::Starting,
    };
    let attempt = codec::uint32(number(7)?.unwrap_or_default(), "attempt")?;
    let held = match number(10)? {
        Some(1) => Some((row.get(SPEC + 11)?, row.get(SPEC + 12)?)),
        Some(_) | None => None,
    };
    // A job that names its pool runs nowhere else, so that is not written again.
    let ran_in = row.get::<_, Option<String>>(SPEC + 9)?;
    let ran_in = ran_in.or_else(|| spec.terms.pool.clone().filter(|_| attempt > 0));
    Ok(JobRow {
        id: codec::job_id(row.get(SPEC)?)?,
        group_limit: row.get(SPEC + 1)?,
        submitter,
        phase,
        outcome,
        result,
        attempt,
        tries: codec::uint32(number(8)?.unwrap_or_default(), "tries")?,
        ran_in,
        held,
        submitted: WallTime(row.get(SPEC + 3)?),
        started: number(13)?.map(WallTime),
        finished: number(17)?.map(WallTime),
        queue_ms: number(14)?.map(|ms| codec::uint(ms, "queue time")).transpose()?,
        run_us: number(21)?.map(|us| codec::uint(us, "run time")).transpose()?,
        own_end: number(22)?.map(WallTime),
        spec,
    })
}

/// From the columns of [`ATTEMPTS`].
fn attempt_row(row: &Row<'_>) -> Result<AttemptRow, Fault> {
    let number = |column: usize| row.get::<_, Option<i64>>(column);
    let count = |column: usize| Ok::<u64, Fault>(codec::uint(number(column)?.unwrap_or_default(), "receipt")?);
    let ended = number(5)?.map(WallTime);
    let result = match number(6)? {
        Some(result) => {
            let cause = row.get_ref(8)?.as_str_or_null().map_err(rusqlite::Error::from)?;
            Some(ends::result(result, number(7)?, cause)?)
        }
        None => None,
    };
    let receipt = match (number(9)?, number(10)?) {
        (Some(started), Some(ended)) => Some(Receipt {
            started: WallTime(started),
            ended: WallTime(ended),
            run_us: count(11)?,
            cpu_user_us: count(12)?,
            cpu_system_us: count(13)?,
            peak_memory_bytes: count(14)?,
            log_bytes: count(15)?,
            log_dropped_bytes: count(16)?,
            leftovers: row.get(17)?,
            lacks: codec::of_memory_and_lacks(row.get(21)?)?.1,
            measured: measured(row)?,
        }),
        _ => None,
    };
    Ok(AttemptRow {
        number: AttemptNumber(row.get(0)?),
        pool: row.get(1)?,
        slot: row.get(2)?,
        claimed: WallTime(row.get(3)?),
        started: number(4)?.map(WallTime),
        ended,
        limits: codec::limits([number(18)?, number(19)?, number(20)?])?,
        released: ended.is_some() && result.is_none(),
        result,
        receipt,
    })
}

/// From the columns of [`ATTEMPTS`].
fn measured(row: &Row<'_>) -> Result<Measured, Fault> {
    let told = |column: usize| {
        let count: Option<i64> = row.get(column)?;
        Ok::<_, Fault>(count.map(|count| codec::uint(count, "receipt")).transpose()?)
    };
    Ok(Measured {
        memory_of_all: codec::of_memory_and_lacks(row.get(21)?)?.0,
        io_read_bytes: told(22)?,
        io_written_bytes: told(23)?,
        pids_peak: told(24)?,
        memory_stall_us: told(25)?,
        cpu_stall_us: told(26)?,
        io_stall_us: told(27)?,
        oom_kills: told(28)?,
        disk_bytes: told(29)?,
    })
}
