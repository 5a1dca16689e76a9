//! Schedules: each is written once, and then what its runs change.

use super::codec;
use super::place::Fault;
use super::write::Batch;
use crate::store::{RefusedRun, ScheduleRan, ScheduleRow};
use ci_runner_core::id::JobId;
use ci_runner_core::time::WallTime;
use rusqlite::{Connection, Row, params};

/// The columns of [`row_of`].
const SELECT: &str = "SELECT name, calendar, timezone, overlap, missed, request, by, paused, after_wall, last_job, \
    timed_job, refused_wall, refused_why FROM schedule";

impl Batch<'_> {
    pub(super) fn schedule(&self, row: &ScheduleRow) -> Result<(), Fault> {
        let ScheduleRow { name, calendar, timezone, overlap, missed, request, by, paused, .. } = row;
        let sql = "INSERT OR REPLACE INTO schedule (name, calendar, timezone, overlap, missed, request, by, paused, after_wall) \
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
        self.run(sql, params![name, calendar, timezone, overlap, missed, request, by, paused, row.after.0])?;
        self.schedule_ran(&row.ran())
    }

    pub(super) fn schedule_ran(&self, ran: &ScheduleRan) -> Result<(), Fault> {
        let ScheduleRan { name, after, last_job, timed_job, refused } = ran;
        let sql = "UPDATE schedule SET after_wall = ?2, last_job = ?3, timed_job = ?4, refused_wall = ?5, refused_why = ?6 \
            WHERE name = ?1";
        let [last_job, timed_job] = [last_job, timed_job].map(|id| id.map(|id| codec::int(id.get())));
        let (refused, why) = refused.as_ref().map(|refused| (refused.at.0, &refused.why)).unzip();
        self.run(sql, params![name, after.0, last_job, timed_job, refused, why])?;
        Ok(())
    }

    pub(super) fn schedule_removed(&self, name: &str) -> Result<(), Fault> {
        self.run("DELETE FROM schedule WHERE name = ?1", [name])?;
        Ok(())
    }
}

/// All, by name.
pub(super) fn all(conn: &Connection) -> Result<Vec<ScheduleRow>, Fault> {
    let mut statement = conn.prepare_cached(&format!("{SELECT} ORDER BY name"))?;
    let mut rows = statement.query([])?;
    let mut schedules = Vec::new();
    while let Some(row) = rows.next()? {
        schedules.push(row_of(row)?);
    }
    Ok(schedules)
}

/// The one of this name.
pub(super) fn one(conn: &Connection, name: &str) -> Result<Option<ScheduleRow>, Fault> {
    let mut statement = conn.prepare_cached(&format!("{SELECT} WHERE name = ?1"))?;
    let mut rows = statement.query([name])?;
    rows.next()?.map(row_of).transpose()
}

fn row_of(row: &Row<'_>) -> Result<ScheduleRow, Fault> {
    let job = |column| -> Result<Option<JobId>, Fault> {
        Ok(row.get::<_, Option<i64>>(column)?.map(codec::job_id).transpose()?)
    };
    Ok(ScheduleRow {
        name: row.get(0)?,
        calendar: row.get(1)?,
        timezone: row.get(2)?,
        overlap: row.get(3)?,
        missed: row.get(4)?,
        request: row.get(5)?,
        by: row.get(6)?,
        paused: row.get(7)?,
        after: WallTime(row.get(8)?),
        last_job: job(9)?,
        timed_job: job(10)?,
        refused: match row.get::<_, Option<i64>>(11)? {
            Some(at) => Some(RefusedRun { at: WallTime(at), why: row.get(12)? }),
            None => None,
        },
    })
}
