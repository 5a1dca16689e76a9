//! Telling the daemon what is open.

use super::place::Fault;
use super::{codec, ends, retry_text};
use crate::store::{Claimed, FormerStore, Loaded, StoreError};
use ci_runner_core::change::{Lease, OpenJob, Pause, Wish};
use ci_runner_core::group::GroupSpec;
use ci_runner_core::id::{AttemptNumber, Epoch, JobId, PoolId};
use ci_runner_core::job::{Condition, JobSpec, Terms};
use ci_runner_core::outcome::{AttemptResult, By};
use ci_runner_core::retry::RetryPolicy;
use ci_runner_core::state::Phase;
use ci_runner_core::time::{ClockBase, Instant, Now, WallTime};
use rusqlite::{Connection, OptionalExtension as _, Row};
use std::collections::HashMap;

/// Different retry policies that are remembered while loading: parsing one is most of the cost of a job.
const RETRIES_REMEMBERED_MAX: usize = 1_024;

/// Columns of [`Terms`] and what goes with them, for [`terms`]; the table is `j`.
macro_rules! terms_columns {
    () => {
        "j.pool, j.labels, j.priority, j.retry, j.group_name, j.group_asked, j.group_policy, j.after, j.at_wall, \
         j.delay_ms, j.expires_wall, j.hold, j.memory, j.cpu, j.pids"
    };
}
/// Columns of a [`JobSpec`] and of its submitter, for [`spec`].
macro_rules! spec_columns {
    () => {
        concat!(
            $crate::store::sqlite::load::terms_columns!(),
            ", j.name, j.correlation, j.work, j.id, j.submitter, j.sum"
        )
    };
}
pub(super) use {spec_columns, terms_columns};

/// Number of columns of `terms_columns!`.
const TERMS: usize = 15;
/// Number of columns of `spec_columns!`.
pub(super) const SPEC: usize = TERMS + 6;

const OPEN: &str = concat!(
    "SELECT ",
    terms_columns!(),
    ", o.id, j.submitted, j.group_limit, o.ready_at, o.attempt, o.tries, o.wish, o.wish_by, o.wish_reason, \
     l.attempt, l.pool, l.slot, l.epoch, l.claimed, l.started, l.stop_by, l.kill_at, l.memory_limit, l.cpu_limit, \
     l.pids_limit, o.memory FROM open AS o LEFT JOIN job AS j ON j.id = o.id LEFT JOIN lease AS l ON l.job = o.id ORDER BY o.id"
);

const CLAIMED: &str = concat!("SELECT ", spec_columns!(), " FROM job AS j JOIN open AS o USING (id) WHERE id = ?1");

const LAST_RESULT: &str =
    "SELECT result, code, cause FROM attempt WHERE job = ?1 AND result IS NOT NULL ORDER BY number DESC LIMIT 1";

/// What one row says in a column that must be there.
fn must<T>(value: Option<T>, what: &str) -> Result<T, Fault> {
    value.ok_or_else(|| Fault::Store(codec::bad(what)))
}

/// Terms from the columns of `terms_columns!`.
fn terms(row: &Row<'_>, retry: impl FnOnce(&str) -> Result<RetryPolicy, StoreError>) -> Result<Terms, Fault> {
    let text = |column: usize| row.get_ref(column)?.as_str_or_null().map_err(rusqlite::Error::from);
    let group = match row.get::<_, Option<String>>(4)? {
        Some(name) => {
            Some(GroupSpec { name, limit: row.get(5)?, policy: codec::policy(must(row.get(6)?, "group policy")?)? })
        }
        None => None,
    };
    Ok(Terms {
        pool: row.get(0)?,
        labels: codec::labels(text(1)?)?,
        priority: row.get(2)?,
        retry: retry(must(text(3)?, "retry policy")?)?,
        group,
        after: codec::after(text(7)?)?,
        at: row.get::<_, Option<i64>>(8)?.map(WallTime),
        delay_ms: row.get::<_, Option<i64>>(9)?.map(|ms| codec::uint(ms, "delay")).transpose()?,
        expires: row.get::<_, Option<i64>>(10)?.map(WallTime),
        hold: row.get(11)?,
        limits: codec::limits([row.get(12)?, row.get(13)?, row.get(14)?])?,
    })
}

/// A specification and who submitted it, from the columns of `spec_columns!`.
pub(super) fn spec(row: &Row<'_>) -> Result<(JobSpec, String), Fault> {
    let text = |column: usize| row.get_ref(column)?.as_str_or_null().map_err(rusqlite::Error::from);
    let (id, work, submitter) = (row.get(TERMS + 3)?, text(TERMS + 2)?, text(TERMS + 4)?);
    if codec::sum(id, [submitter, text(0)?, text(1)?, work]) != row.get::<_, i64>(TERMS + 5)? {
        return Err(Fault::Damaged(format!("job {id} is not as it was submitted")));
    }
    let (work, submitter) = (codec::work(must(work, "work")?)?, must(submitter, "submitter")?);
    let correlation = codec::correlation(row.get_ref(TERMS + 1)?)?;
    Ok((
        JobSpec { name: row.get(TERMS)?, correlation, work, terms: terms(row, retry_text::policy)? },
        submitter.to_owned(),
    ))
}

/// What to execute, for a job that is open.
pub(super) fn claimed(conn: &Connection, id: JobId) -> Result<Option<Claimed>, Fault> {
    let mut statement = conn.prepare_cached(CLAIMED)?;
    let mut rows = statement.query([codec::int(id.get())])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let (spec, submitter) = spec(row)?;
    Ok(Some(Claimed { spec, submitter }))
}

/// Everything but the jobs.
pub(super) fn loaded(conn: &Connection, unclean: bool) -> Result<Loaded, Fault> {
    let sql = "SELECT store_id, generation, last_id, last_engine, last_wall, boot_id, offset_ms, pause_by, \
        pause_reason, pause_engine, pause_wall, pause_drain FROM meta";
    let mut statement = conn.prepare(sql)?;
    let mut rows = statement.query([])?;
    let Some(row) = rows.next()? else { return Err(Fault::Damaged("it lost its own description".to_owned())) };
    let clock = row.get::<_, Option<String>>(5)?.zip(row.get(6)?);
    let paused = match row.get(7)? {
        Some(by) => Some(Pause {
            by,
            reason: row.get(8)?,
            since: Now { engine: Instant(row.get(9)?), wall: WallTime(row.get(10)?) },
            drain: row.get(11)?,
        }),
        None => None,
    };
    Ok(Loaded {
        store_id: row.get(0)?,
        former: former(conn)?,
        generation: codec::uint(row.get(1)?, "generation")?,
        last_id: codec::uint(row.get(2)?, "last id")?,
        paused,
        clock: clock.map(|(boot_id, offset_ms)| ClockBase { boot_id, offset_ms }),
        last: Now { engine: Instant(row.get(3)?), wall: WallTime(row.get(4)?) },
        unclean,
    })
}

/// The stores that this one was restored from, oldest first.
pub(super) fn former(conn: &Connection) -> Result<Vec<FormerStore>, Fault> {
    let mut statement = conn.prepare("SELECT store_id, last_id, skipped_to FROM former_store ORDER BY last_id")?;
    let mut rows = statement.query([])?;
    let mut former = Vec::new();
    while let Some(row) = rows.next()? {
        former.push(FormerStore {
            store_id: row.get(0)?,
            last_id: codec::uint(row.get(1)?, "last id")?,
            skipped_to: codec::uint(row.get(2)?, "id of another life")?,
        });
    }
    Ok(former)
}

/// Gives every open job to `each`, ids rising.
pub(super) fn open_jobs(
    conn: &Connection,
    pool_id: &mut dyn FnMut(&str) -> PoolId,
    each: &mut dyn FnMut(OpenJob),
) -> Result<(), Fault> {
    let mut reading = Reading {
        retries: HashMap::new(),
        waits: conn.prepare("SELECT other, condition FROM dependency WHERE waiter = ?1 ORDER BY position")?,
        last: conn.prepare(LAST_RESULT)?,
    };
    let mut statement = conn.prepare(OPEN)?;
    let mut rows = statement.query([])?;
    let mut count = 0i64;
    while let Some(row) = rows.next()? {
        count += 1;
        let id = codec::job_id(row.get(TERMS)?)?;
        each(reading.open_job(row, id, pool_id).map_err(|fault| fault.of_job(id))?);
    }
    let expected: i64 = conn.query_row("SELECT open FROM meta", [], |row| row.get(0))?;
    if count != expected {
        return Err(Fault::Damaged(format!("{count} jobs are open, and {expected} should be")));
    }
    Ok(())
}

/// What reading one open job after the other needs.
struct Reading<'a> {
    retries: HashMap<String, RetryPolicy>,
    waits: rusqlite::Statement<'a>,
    last: rusqlite::Statement<'a>,
}

impl Reading<'_> {
    fn open_job(
        &mut self,
        row: &Row<'_>,
        id: JobId,
        pool_id: &mut dyn FnMut(&str) -> PoolId,
    ) -> Result<OpenJob, Fault> {
        let mut terms = terms(row, |text| {
            if let Some(known) = self.retries.get(text) {
                return Ok(known.clone());
            }
            if self.retries.len() >= RETRIES_REMEMBERED_MAX {
                self.retries.clear();
            }
            let policy = retry_text::policy(text)?;
            self.retries.insert(text.to_owned(), policy.clone());
            Ok(policy)
        })?;
        if let Some(grown) = row.get::<_, Option<i64>>(TERMS + 20)? {
            terms.limits.memory_bytes = Some(codec::uint(grown, "memory limit")?);
        }
        let wish = wish(row)?;
        let lease = lease(row, pool_id)?;
        let waits_for = if terms.after.is_empty() { Vec::new() } else { waits_for(&mut self.waits, id)? };
        let impossible = match &wish {
            Wish::Cancel { by: By::Dependency(other) } => Some(*other),
            Wish::Cancel { .. } | Wish::Hold { .. } | Wish::Run => None,
        };
        let tries = row.get(TERMS + 5)?;
        let last = if tries > 0 && terms.expires.is_some() { last_result(&mut self.last, id)? } else { None };
        terms.after.retain(|after| waits_for.contains(&(after.job, after.on)) || Some(after.job) == impossible);
        Ok(OpenJob {
            id,
            submitted: Instant(row.get(TERMS + 1)?),
            terms,
            group_limit: row.get(TERMS + 2)?,
            waits_for,
            impossible,
            phase: phase_of(lease.as_ref()),
            ready_at: Instant(row.get(TERMS + 3)?),
            attempt: lease.as_ref().map_or_else(|| row.get(TERMS + 4), |lease| Ok(lease.attempt.0))?,
            tries,
            last,
            wish,
            lease,
        })
    }
}

fn waits_for(statement: &mut rusqlite::Statement<'_>, id: JobId) -> Result<Vec<(JobId, Condition)>, Fault> {
    let mut waits = Vec::new();
    let mut rows = statement.query([codec::int(id.get())])?;
    while let Some(row) = rows.next()? {
        waits.push((codec::job_id(row.get(0)?)?, codec::condition(row.get(1)?)?));
    }
    Ok(waits)
}

fn last_result(statement: &mut rusqlite::Statement<'_>, id: JobId) -> Result<Option<AttemptResult>, Fault> {
    let mut rows = statement.query([codec::int(id.get())])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let cause = row.get::<_, Option<String>>(2)?;
    Ok(Some(ends::result(row.get(0)?, row.get(1)?, cause.as_deref())?))
}

fn wish(row: &Row<'_>) -> Result<Wish, Fault> {
    match row.get(TERMS + 6)? {
        0 => Ok(Wish::Run),
        1 => Ok(Wish::Hold { by: row.get(TERMS + 7)?, reason: row.get(TERMS + 8)? }),
        2 => Ok(Wish::Cancel { by: ends::by(&row.get::<_, String>(TERMS + 7)?)? }),
        other => Err(Fault::Store(codec::bad(format!("wish {other}")))),
    }
}

/// The phase of an open job is that of its lease.
fn phase_of(lease: Option<&Lease>) -> Phase {
    match lease {
        None => Phase::Queued,
        Some(Lease { stop: Some(_), .. }) => Phase::Stopping,
        Some(Lease { started: Some(_), .. }) => Phase::Running,
        Some(_) => Phase::Starting,
    }
}

fn lease(row: &Row<'_>, pool_id: &mut dyn FnMut(&str) -> PoolId) -> Result<Option<Lease>, Fault> {
    const FIRST: usize = TERMS + 9;
    let Some(attempt) = row.get(FIRST)? else { return Ok(None) };
    let claimed = Instant(row.get(FIRST + 4)?);
    let stop = match row.get::<_, Option<String>>(FIRST + 6)? {
        Some(by) => Some((ends::by(&by)?, Instant(row.get(FIRST + 7)?))),
        None => None,
    };
    Ok(Some(Lease {
        attempt: AttemptNumber(attempt),
        pool: pool_id(&row.get::<_, String>(FIRST + 1)?),
        slot: row.get(FIRST + 2)?,
        epoch: Epoch::new(&row.get::<_, String>(FIRST + 3)?),
        limits: codec::limits([row.get(FIRST + 8)?, row.get(FIRST + 9)?, row.get(FIRST + 10)?])?,
        claimed,
        started: row.get::<_, Option<i64>>(FIRST + 5)?.map(Instant),
        stop,
        dispatched: Some(claimed),
        refused: None,
    }))
}

/// Whether the last daemon ended in order.
pub(super) fn was_running(conn: &Connection) -> Result<(String, bool), Fault> {
    let sql = "SELECT store_id, running FROM meta";
    let found = conn.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    found.ok_or_else(|| Fault::Damaged("it lost its own description".to_owned()))
}
