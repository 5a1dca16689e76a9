//! Looking for damage: SQLite's own check of its pages, then the rules that the rows keep among each other.
//!
//! A rule is a query that finds what breaks it. Reading only, beside the running daemon.

use super::load::{SPEC, spec, spec_columns};
use super::place::Fault;
use rusqlite::Connection;

/// Findings beyond this are only counted by the words "and more".
const FINDINGS_MAX: i64 = 20;

/// What must find no row, and how to say it; each query gives the number of a job.
const RULES: &[(&str, &str)] = &[
    (
        "is neither open nor finished",
        "SELECT id FROM job WHERE id NOT IN (SELECT id FROM open) AND id NOT IN (SELECT id FROM finished)",
    ),
    ("is both open and finished", "SELECT id FROM open JOIN finished USING (id)"),
    ("is open, and was never submitted", "SELECT id FROM open WHERE id NOT IN (SELECT id FROM job)"),
    ("has an open attempt, and is not open", "SELECT job FROM lease WHERE job NOT IN (SELECT id FROM open)"),
    (
        "has an open attempt that is not its next",
        "SELECT job FROM lease JOIN open ON open.id = lease.job WHERE lease.attempt <= open.attempt",
    ),
    ("waits, and is not open", "SELECT waiter FROM dependency WHERE waiter NOT IN (SELECT id FROM open)"),
    ("waits for a job that is not open", "SELECT waiter FROM dependency WHERE other NOT IN (SELECT id FROM open)"),
    (
        "has an attempt of a higher number than was given",
        "SELECT a.job FROM attempt AS a LEFT JOIN open AS o ON o.id = a.job \
        LEFT JOIN finished AS f ON f.id = a.job WHERE a.number > coalesce(o.attempt, f.attempt, 0)",
    ),
    (
        "succeeded without an attempt that exited 0",
        "SELECT f.id FROM finished AS f WHERE f.outcome = 0 AND NOT EXISTS \
        (SELECT 1 FROM attempt AS a WHERE a.job = f.id AND a.result = 0 AND a.code = 0)",
    ),
    ("has a higher id than was given", "SELECT job.id FROM job JOIN meta ON job.id > meta.last_id"),
    ("is the number of open jobs that should be", "SELECT open FROM meta WHERE open <> (SELECT count(*) FROM open)"),
    ("is in a place that another attempt holds", "SELECT max(job) FROM lease GROUP BY pool, slot HAVING count(*) > 1"),
];

/// What is wrong, in words; an empty list means that nothing was found.
pub(super) fn check(conn: &Connection) -> Result<Vec<String>, Fault> {
    let mut found = pages(conn)?;
    if !found.is_empty() {
        return Ok(found); // rows of broken pages tell nothing more
    }
    for (words, sql) in RULES {
        let mut statement = conn.prepare(&format!("{sql} LIMIT {FINDINGS_MAX}"))?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            found.push(format!("job {} {words}", row.get::<_, i64>(0)?));
        }
    }
    found.extend(totals(conn)?);
    found.extend(open_jobs(conn)?);
    Ok(found)
}

fn pages(conn: &Connection) -> Result<Vec<String>, Fault> {
    let mut statement = conn.prepare(&format!("PRAGMA quick_check({FINDINGS_MAX})"))?;
    let words = statement.query_map([], |row| row.get::<_, String>(0))?.collect::<rusqlite::Result<Vec<_>>>()?;
    Ok(words.into_iter().filter(|word| word != "ok").collect())
}

/// There were at least as many ends as there are finished jobs.
fn totals(conn: &Connection) -> Result<Option<String>, Fault> {
    let sql = "SELECT count(*), succeeded + failed + timed_out + cancelled + superseded + expired FROM meta, finished";
    let (rows, counted): (i64, Option<i64>) = conn.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let counted = counted.unwrap_or_default();
    Ok((rows > counted).then(|| format!("{rows} jobs are finished, and only {counted} were counted")))
}

/// Every open job must be readable, because it is still to be executed.
fn open_jobs(conn: &Connection) -> Result<Vec<String>, Fault> {
    let sql = concat!("SELECT ", spec_columns!(), ", o.id FROM open AS o CROSS JOIN job AS j ON j.id = o.id");
    let mut statement = conn.prepare(sql)?;
    let mut rows = statement.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        match spec(row) {
            Ok(_) => {}
            Err(Fault::Store(error)) => found.push(format!("job {}: {error}", row.get::<_, i64>(SPEC)?)),
            Err(Fault::Damaged(what)) => found.push(what),
            Err(Fault::Sql(error)) => return Err(Fault::Sql(error)),
        }
        if found.len() >= usize::try_from(FINDINGS_MAX).unwrap_or(usize::MAX) {
            break;
        }
    }
    Ok(found)
}
