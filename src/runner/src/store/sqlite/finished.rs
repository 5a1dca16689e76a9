//! Finished jobs for statistics, the last that finished first: one walk along the index of end times.

use super::codec;
use super::list::name_demand;
use super::place::Fault;
use crate::store::{EndMark, EndedFilter, EndedJob};
use ci_runner_core::time::{Instant, WallTime};
use rusqlite::types::Value;
use rusqlite::{Connection, params, params_from_iter};

const ENDED: &str = "SELECT j.name, coalesce(j.pool, f.ran_in), f.outcome, f.finished_wall, f.tries, f.queue_ms, \
    (SELECT run_us FROM attempt WHERE job = f.id AND result IS NOT NULL ORDER BY number DESC LIMIT 1), \
    (SELECT sum(cpu_user_us + cpu_system_us) FROM attempt WHERE job = f.id), \
    (SELECT max(peak_memory_bytes) FROM attempt WHERE job = f.id), f.id \
    FROM finished AS f INDEXED BY finished_at CROSS JOIN job AS j ON j.id = f.id WHERE TRUE";

/// Gives those that match to `each` until it says stop.
pub(super) fn each(
    conn: &Connection,
    filter: &EndedFilter,
    each: &mut dyn FnMut(EndedJob<'_>) -> bool,
) -> Result<(), Fault> {
    let (mut sql, mut values) = (ENDED.to_owned(), Vec::new());
    let mut demand = |condition: &str, value: Vec<Value>| {
        sql.push_str(&format!(" AND {condition}"));
        values.extend(value);
    };
    if let Some(since) = filter.since {
        demand("f.finished_wall >= ?", vec![Value::Integer(since.0)]);
    }
    if let Some(until) = filter.until {
        demand("f.finished_wall < ?", vec![Value::Integer(until.0)]);
    }
    if let Some(name) = &filter.name {
        let (condition, values) = name_demand(name);
        demand(condition, values);
    }
    if let Some(pool) = &filter.pool {
        demand("coalesce(j.pool, f.ran_in) = ?", vec![Value::Text(pool.clone())]);
    }
    sql.push_str(" ORDER BY f.finished_wall DESC, f.id DESC");
    let mut statement = conn.prepare_cached(&sql)?;
    let mut rows = statement.query(params_from_iter(values))?;
    while let Some(row) = rows.next()? {
        let text = |column: usize| row.get_ref(column)?.as_str_or_null().map_err(rusqlite::Error::from);
        let count = |column: usize| -> Result<Option<u64>, Fault> {
            let number = row.get::<_, Option<i64>>(column)?;
            Ok(number.map(|number| codec::uint(number, "figure")).transpose()?)
        };
        let job = EndedJob {
            id: codec::job_id(row.get(9)?)?,
            name: text(0)?,
            pool: text(1)?,
            outcome: usize::from(row.get::<_, u8>(2)?),
            finished: WallTime(row.get(3)?),
            tries: codec::uint32(row.get(4)?, "tries")?,
            queue_ms: count(5)?,
            run_us: count(6)?,
            cpu_us: count(7)?.unwrap_or(0),
            peak_memory_bytes: count(8)?.unwrap_or(0),
        };
        if !each(job) {
            break;
        }
    }
    Ok(())
}

/// Notifiers stand in the job's work; that its text has the word says that they may.
const MARKS: &str = "SELECT f.id, f.ended, f.outcome, j.name, coalesce(j.pool, f.ran_in), instr(j.work, '\"notify\":[') > 0 \
    FROM finished AS f INDEXED BY finished_ended CROSS JOIN job AS j ON j.id = f.id WHERE f.ended >= ?1 \
    ORDER BY f.ended, f.id LIMIT ?2";

/// Ends from an engine time on.
pub(super) fn marks(conn: &Connection, from: Instant, most: usize) -> Result<Vec<EndMark>, Fault> {
    let mut statement = conn.prepare_cached(MARKS)?;
    let mut rows = statement.query(params![from.0, i64::try_from(most).unwrap_or(i64::MAX)])?;
    let mut marks = Vec::new();
    while let Some(row) = rows.next()? {
        marks.push(EndMark {
            id: codec::job_id(row.get(0)?)?,
            at: Instant(row.get(1)?),
            outcome: usize::from(row.get::<_, u8>(2)?),
            name: row.get(3)?,
            pool: row.get(4)?,
            may_notify: row.get(5)?,
        });
    }
    Ok(marks)
}
