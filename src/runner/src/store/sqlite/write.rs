//! Applying one batch inside one transaction.
//!
//! What the record derives from a fact is derived here too, because a crash may come before its consequence is decided:
//! a newer job of a group that ends the older ones, an end that fulfils a dependency or makes it impossible.

use super::place::Fault;
use super::{codec, ends};
use crate::store::{KEY_KEPT_MS, KeyRow, StoreError, Write};
use ci_runner_core::change::{Change, Entry, Pause, Wish};
use ci_runner_core::id::{AttemptNumber, JobId, PoolId};
use ci_runner_core::outcome::{AttemptResult, By, Measured, Outcome, Receipt};
use ci_runner_core::state::{Event, Next};
use ci_runner_core::time::{ClockBase, Now, WallTime};
use rusqlite::types::Value;
use rusqlite::{Connection, Params, params, params_from_iter};
use std::collections::HashMap;

/// Expired keys that one new key removes at most; more than one, so that they cannot pile up.
const KEYS_PURGED_MAX: i64 = 4;
/// A minute of the wall clock.
const MINUTE_MS: i64 = 60_000;

/// `INSERT … SELECT` of an attempt that is over, from its lease.
const END_ATTEMPT: &str = "INSERT INTO attempt (job, number, pool, slot, claimed_wall, started_wall, ended_wall, result, \
    code, cause, run_started_wall, run_ended_wall, run_us, cpu_user_us, cpu_system_us, peak_memory_bytes, log_bytes, \
    log_dropped_bytes, leftovers, memory_of_all, io_read_bytes, io_written_bytes, pids_peak, memory_stall_us, cpu_stall_us, \
    io_stall_us, oom_kills, disk_bytes, memory_limit, cpu_limit, pids_limit) \
    SELECT job, attempt, pool, slot, claimed_wall, started_wall, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, \
    ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23, ?24, memory_limit, cpu_limit, pids_limit \
    FROM lease WHERE job = ?1 AND attempt = ?2";

/// The columns of a receipt that comes after its attempt's end.
const LATE_RECEIPT: &str = "UPDATE attempt SET run_started_wall = ?3, run_ended_wall = ?4, run_us = ?5, cpu_user_us = ?6, \
    cpu_system_us = ?7, peak_memory_bytes = ?8, log_bytes = ?9, log_dropped_bytes = ?10, leftovers = ?11, \
    memory_of_all = ?12, io_read_bytes = ?13, io_written_bytes = ?14, pids_peak = ?15, memory_stall_us = ?16, \
    cpu_stall_us = ?17, io_stall_us = ?18, oom_kills = ?19, disk_bytes = ?20 WHERE job = ?1 AND number = ?2";

/// Moves the number, pool and first start of a lease to its open job.
const REQUEUE: &str = "UPDATE open SET ready_at = coalesce(?2, ready_at), tries = tries + ?3, attempt = l.attempt, \
    memory = coalesce(?4, open.memory), \
    ran_in = CASE WHEN j.pool IS NULL THEN l.pool END, started_wall = coalesce(open.started_wall, l.started_wall), \
    queue_ms = coalesce(open.queue_ms, max(0, l.started - j.submitted)) \
    FROM lease AS l JOIN job AS j ON j.id = l.job WHERE open.id = ?1 AND l.job = ?1";

/// `INSERT … SELECT` of a finished job, from its open row and its lease, if it has one.
const FINISH: &str = "INSERT INTO finished (id, outcome, detail, finished_wall, ended, tries, attempt, ran_in, started_wall, \
    queue_ms) SELECT o.id, ?2, ?3, ?4, ?6, o.tries + ?5, coalesce(l.attempt, o.attempt), \
    CASE WHEN j.pool IS NULL THEN coalesce(l.pool, o.ran_in) END, coalesce(o.started_wall, l.started_wall), \
    coalesce(o.queue_ms, max(0, l.started - j.submitted)) FROM open AS o JOIN job AS j ON j.id = o.id \
    LEFT JOIN lease AS l ON l.job = o.id WHERE o.id = ?1";

/// One batch on its way into the database.
pub(super) struct Batch<'a> {
    pub(super) conn: &'a Connection,
    pools: &'a [String],
    receipts: HashMap<(JobId, AttemptNumber), &'a Receipt>,
    pub(super) last_id: u64,
    last: Option<Now>,
    ended: [i64; 6],
    pub(super) submitted: i64,
    /// Minute, first and last id, of submissions in a row.
    minutes: Vec<(i64, u64, u64)>,
}

impl<'a> Batch<'a> {
    /// Applies all of `batch`; the caller commits.
    pub fn apply(conn: &'a Connection, batch: &'a [Write], pools: &'a [String]) -> Result<(), Fault> {
        let mut this = Self {
            conn,
            pools,
            receipts: HashMap::new(),
            last_id: 0,
            last: None,
            ended: [0; 6],
            submitted: 0,
            minutes: Vec::new(),
        };
        for write in batch {
            if let Write::Receipt { job, attempt, receipt } = write {
                this.receipts.insert((*job, *attempt), receipt);
            }
        }
        for write in batch {
            this.write(write)?;
        }
        this.late_receipts()?;
        this.totals()
    }

    fn write(&mut self, write: &Write) -> Result<(), Fault> {
        match write {
            Write::Entry(entry) => self.entry(entry),
            Write::Receipt { .. } => Ok(()), // taken by its end, or by `late_receipts`
            Write::Key(row) => self.key(row),
            Write::Schedule(row) => self.schedule(row),
            Write::ScheduleRan(ran) => self.schedule_ran(ran),
            Write::ScheduleRemoved { name } => self.schedule_removed(name),
            Write::Clock { base, now } => self.clock(base, *now),
        }
    }

    fn entry(&mut self, entry: &Entry) -> Result<(), Fault> {
        self.read(entry.at);
        match &entry.change {
            Change::Submitted(submission) => self.submit(submission, entry.at),
            Change::Job { id, event } => self.event(*id, event, entry.at),
            Change::Wished { id, wish } => self.wish(*id, wish),
            Change::Reprioritized { id, priority } => {
                let sql = "UPDATE job SET priority = ?2 WHERE id = ?1";
                self.run(sql, params![codec::int(id.get()), priority])?;
                Ok(())
            }
            Change::Paused(pause) => self.pause(pause.as_ref()),
        }
    }

    pub(super) fn run(&self, sql: &str, params: impl Params) -> Result<usize, Fault> {
        Ok(self.conn.prepare_cached(sql)?.execute(params)?)
    }

    /// As `run`, for what touches exactly one row unless the caller's facts are wrong: then the batch is refused.
    fn run_one(&self, id: JobId, sql: &str, params: impl Params) -> Result<(), Fault> {
        match self.run(sql, params)? {
            1 => Ok(()),
            _ => Err(Fault::Store(StoreError::Row { what: format!("row to which a fact of job {id} belongs") })),
        }
    }

    /// The latest reading of the clocks is the one with the highest engine time.
    fn read(&mut self, now: Now) {
        if self.last.is_none_or(|last| now.engine >= last.engine) {
            self.last = Some(now);
        }
    }

    fn wish(&self, id: JobId, wish: &Wish) -> Result<(), Fault> {
        let (number, by, reason) = match wish {
            Wish::Run => (0, None, None),
            Wish::Hold { by, reason } => (1, Some(by.clone()), Some(reason.as_str())),
            Wish::Cancel { by } => (2, Some(ends::by_text(by)), None),
        };
        let sql = "UPDATE open SET wish = ?2, wish_by = ?3, wish_reason = ?4 WHERE id = ?1 AND wish <> 2";
        self.run(sql, params![codec::int(id.get()), number, by, reason])?;
        Ok(())
    }

    fn event(&mut self, id: JobId, event: &Event, at: Now) -> Result<(), Fault> {
        let job = codec::int(id.get());
        match event {
            Event::Claimed { attempt, pool, slot, epoch, limits } => {
                let pool = self.pool(*pool)?;
                let [memory, cpu, pids] = codec::limits_columns(limits);
                self.run_one(
                    id,
                    "INSERT INTO lease (job, attempt, pool, slot, epoch, claimed, claimed_wall, memory_limit, cpu_limit, \
                     pids_limit) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
                    params![job, attempt.0, pool, slot, &*epoch.0, at.engine.0, at.wall.0, memory, cpu, pids],
                )
            }
            Event::Started { attempt } => {
                let sql = "UPDATE lease SET started = ?3, started_wall = ?4 WHERE job = ?1 AND attempt = ?2";
                self.run_one(id, sql, params![job, attempt.0, at.engine.0, at.wall.0])
            }
            Event::Refused { attempt } => {
                let sql = "UPDATE lease SET started = NULL, started_wall = NULL WHERE job = ?1 AND attempt = ?2";
                self.run_one(id, sql, params![job, attempt.0])
            }
            Event::Renewed { .. } => Ok(()),
            Event::StopRequested { attempt, by, kill_at } => {
                let sql = "UPDATE lease SET stop_by = ?3, kill_at = ?4 WHERE job = ?1 AND attempt = ?2";
                self.run_one(id, sql, params![job, attempt.0, ends::by_text(by), kill_at.0])
            }
            Event::Released { attempt } => {
                self.end_attempt(id, *attempt, None, at)?;
                self.requeue(id, (None, None), 0)
            }
            Event::Ended { attempt, result, next } => {
                self.end_attempt(id, *attempt, Some(result), at)?;
                match next {
                    Next::Retry { ready_at, memory_bytes } => {
                        self.requeue(id, (Some(ready_at.0), memory_bytes.map(codec::int)), 1)
                    }
                    Next::Finish { outcome } => self.finish(id, outcome, true, at),
                }
            }
            Event::Dropped { outcome } => self.finish(id, outcome, false, at),
        }
    }

    /// What is None stays as it was.
    fn requeue(&mut self, id: JobId, (ready_at, memory): (Option<i64>, Option<i64>), tries: i64) -> Result<(), Fault> {
        let job = codec::int(id.get());
        self.run_one(id, REQUEUE, params![job, ready_at, tries, memory])?;
        self.run_one(id, "DELETE FROM lease WHERE job = ?1", [job])?;
        self.supersede_returned(id)
    }

    fn pool(&self, pool: PoolId) -> Result<&'a str, Fault> {
        let name = self.pools.get(usize::from(pool.0)).map(String::as_str);
        name.ok_or_else(|| Fault::Store(StoreError::Row { what: format!("name of pool number {}", pool.0) }))
    }

    /// Turns a lease into a row of its history; without a result it was given back.
    fn end_attempt(
        &mut self,
        id: JobId,
        attempt: AttemptNumber,
        result: Option<&AttemptResult>,
        at: Now,
    ) -> Result<(), Fault> {
        let receipt = self.receipts.remove(&(id, attempt));
        let (number, code, cause) = match result.map(ends::result_columns) {
            Some((number, code, cause)) => (Some(number), code, cause),
            None => (None, None, None),
        };
        let head: [Value; 6] = [
            codec::int(id.get()).into(),
            attempt.0.into(),
            at.wall.0.into(),
            number.into(),
            code.into(),
            cause.map(str::to_owned).into(),
        ];
        let values = head.into_iter().chain(receipt_columns(receipt).map(Value::from));
        self.run_one(id, END_ATTEMPT, params_from_iter(values))
    }

    fn finish(&mut self, id: JobId, outcome: &Outcome, tried: bool, at: Now) -> Result<(), Fault> {
        let job = codec::int(id.get());
        let number = ends::outcome_number(outcome);
        let detail = ends::outcome_detail(outcome);
        self.run_one(id, FINISH, params![job, number, detail, at.wall.0, i64::from(tried), at.engine.0])?;
        if tried {
            self.run_one(id, "DELETE FROM lease WHERE job = ?1", [job])?;
        }
        self.run("DELETE FROM dependency WHERE waiter = ?1", [job])?;
        self.run_one(id, "DELETE FROM open WHERE id = ?1", [job])?;
        if let Some(count) = usize::try_from(number).ok().and_then(|number| self.ended.get_mut(number)) {
            *count += 1;
        }
        self.let_go(id, outcome.is_success())
    }

    /// Jobs that waited for this one go on, or can no longer.
    fn let_go(&self, id: JobId, success: bool) -> Result<(), Fault> {
        let sql = "SELECT waiter, position, condition FROM dependency WHERE other = ?1 ORDER BY waiter, position";
        let mut statement = self.conn.prepare_cached(sql)?;
        let columns = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
        let waiting = statement.query_map([codec::int(id.get())], columns)?;
        let waiting = waiting.collect::<rusqlite::Result<Vec<(i64, i64, i64)>>>()?;
        for (waiter, position, condition) in waiting {
            let sql = "DELETE FROM dependency WHERE waiter = ?1 AND position = ?2";
            self.run(sql, [waiter, position])?;
            if !codec::condition(condition)?.fulfilled_by(success) {
                self.cancel(codec::job_id(waiter)?, &By::Dependency(id))?;
            }
        }
        Ok(())
    }

    /// Receipts whose end is not in this batch.
    fn late_receipts(&mut self) -> Result<(), Fault> {
        for ((id, attempt), receipt) in std::mem::take(&mut self.receipts) {
            let head = [Some(codec::int(id.get())), Some(i64::from(attempt.0))];
            self.run(LATE_RECEIPT, params_from_iter(head.into_iter().chain(receipt_columns(Some(receipt)))))?;
        }
        Ok(())
    }

    pub(super) fn count_minute(&mut self, id: u64, wall: WallTime) {
        let minute = wall.0.div_euclid(MINUTE_MS);
        match self.minutes.last_mut() {
            Some((last, _, to)) if *last == minute => *to = id,
            Some(_) | None => self.minutes.push((minute, id, id)),
        }
    }

    /// What is counted once a batch.
    fn totals(&mut self) -> Result<(), Fault> {
        for (minute, first, last) in std::mem::take(&mut self.minutes) {
            let sql = "INSERT INTO minute (minute, first, last) VALUES (?1, ?2, ?3) ON CONFLICT (minute) \
                DO UPDATE SET first = min(first, excluded.first), last = max(last, excluded.last)";
            self.run(sql, params![minute, codec::int(first), codec::int(last)])?;
        }
        let [succeeded, failed, timed_out, cancelled, superseded, expired] = self.ended;
        let sql = "UPDATE meta SET last_id = max(last_id, ?1), last_wall = iif(?2 >= last_engine, ?3, last_wall), \
            last_engine = iif(?2 >= last_engine, ?2, last_engine), succeeded = succeeded + ?4, failed = failed + ?5, \
            timed_out = timed_out + ?6, cancelled = cancelled + ?7, superseded = superseded + ?8, expired = expired + ?9, \
            open = open + ?10";
        let (engine, wall) = match self.last {
            Some(last) => (Some(last.engine.0), Some(last.wall.0)),
            None => (None, None),
        };
        let id = codec::int(self.last_id);
        let more = self.submitted - self.ended.iter().sum::<i64>();
        self.run(sql, params![id, engine, wall, succeeded, failed, timed_out, cancelled, superseded, expired, more])?;
        Ok(())
    }

    fn pause(&self, pause: Option<&Pause>) -> Result<(), Fault> {
        let sql =
            "UPDATE meta SET pause_by = ?1, pause_reason = ?2, pause_engine = ?3, pause_wall = ?4, pause_drain = ?5";
        match pause {
            Some(Pause { by, reason, since, drain }) => {
                self.run(sql, params![by, reason, since.engine.0, since.wall.0, drain])?
            }
            None => self.run(sql, [rusqlite::types::Null; 5])?,
        };
        Ok(())
    }

    fn clock(&mut self, base: &ClockBase, now: Now) -> Result<(), Fault> {
        self.read(now);
        self.run("UPDATE meta SET boot_id = ?1, offset_ms = ?2", params![base.boot_id, base.offset_ms])?;
        Ok(())
    }

    fn key(&self, row: &KeyRow) -> Result<(), Fault> {
        let KeyRow { key, body, jobs, at } = row;
        let expired = at.0.saturating_sub(codec::int(KEY_KEPT_MS));
        let sql = "DELETE FROM idempotency WHERE key IN \
            (SELECT key FROM idempotency WHERE at <= ?1 ORDER BY at LIMIT ?2)";
        self.run(sql, [expired, KEYS_PURGED_MAX])?;
        let sql = "INSERT OR REPLACE INTO idempotency (key, body, jobs, at) VALUES (?1, ?2, ?3, ?4)";
        self.run(sql, params![key, body, codec::ids_text(jobs), at.0])?;
        for job in jobs {
            self.run("UPDATE job SET keyed = 1 WHERE id = ?1", [codec::int(job.get())])?;
        }
        Ok(())
    }
}

/// Columns of a receipt.
const RECEIPT: usize = 18;

/// The columns of a receipt, in the order of the statements above.
fn receipt_columns(receipt: Option<&Receipt>) -> [Option<i64>; RECEIPT] {
    let Some(receipt) = receipt else { return [None; RECEIPT] };
    let Receipt {
        started,
        ended,
        run_us,
        cpu_user_us,
        cpu_system_us,
        peak_memory_bytes,
        log_bytes,
        log_dropped_bytes,
        leftovers,
        lacks,
        measured,
    } = *receipt;
    let Measured {
        memory_of_all,
        io_read_bytes,
        io_written_bytes,
        pids_peak,
        memory_stall_us,
        cpu_stall_us,
        io_stall_us,
        oom_kills,
        disk_bytes,
    } = measured;
    let some = |count: u64| Some(codec::int(count));
    let told = |count: Option<u64>| count.map(codec::int);
    [
        Some(started.0),
        Some(ended.0),
        some(run_us),
        some(cpu_user_us),
        some(cpu_system_us),
        some(peak_memory_bytes),
        some(log_bytes),
        some(log_dropped_bytes),
        Some(i64::from(leftovers)),
        Some(codec::memory_and_lacks(memory_of_all, lacks)),
        told(io_read_bytes),
        told(io_written_bytes),
        told(pids_peak),
        told(memory_stall_us),
        told(cpu_stall_us),
        told(io_stall_us),
        told(oom_kills),
        told(disk_bytes),
    ]
}
