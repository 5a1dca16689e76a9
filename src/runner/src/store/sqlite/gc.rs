//! Forgetting finished jobs.

use super::codec;
use super::place::Fault;
use crate::store::CollectLimits;
use ci_runner_core::id::JobId;
use rusqlite::Connection;

/// Removes the finished jobs that ended longest ago, with their attempts and labels. Totals and given ids stay in `meta`.
pub(super) fn collect(conn: &Connection, limits: &CollectLimits, most: usize) -> Result<Vec<JobId>, Fault> {
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    let sql = "SELECT id FROM finished WHERE ended < ?1 AND NOT EXISTS \
        (SELECT 1 FROM job WHERE job.id = finished.id AND job.keyed = 1 AND job.submitted > ?3) ORDER BY ended, id LIMIT ?2";
    let mut statement = conn.prepare_cached(sql)?;
    let rows = statement.query_map([limits.finished_before.0, most, limits.keyed_since.0], |row| row.get(0))?;
    let rows = rows.collect::<rusqlite::Result<Vec<i64>>>()?;
    let mut remove = conn.prepare_cached("DELETE FROM job WHERE id = ?1")?;
    let mut ids = Vec::with_capacity(rows.len());
    for id in rows {
        remove.execute([id])?;
        ids.push(codec::job_id(id)?);
    }
    if !ids.is_empty() {
        // Minutes of which nothing is left. A bounded look at the oldest: they go about as fast as their jobs.
        let sql = "DELETE FROM minute WHERE minute IN (SELECT minute FROM minute ORDER BY minute LIMIT ?1) \
            AND last < coalesce((SELECT min(id) FROM job), 9223372036854775807)";
        conn.prepare_cached(sql)?.execute([most])?;
    }
    Ok(ids)
}
