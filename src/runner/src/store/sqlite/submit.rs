//! Keeping a new job: its rows, what it waits for, and what its group makes of the others.

use super::place::Fault;
use super::write::Batch;
use super::{codec, ends, retry_text};
use ci_runner_core::change::Submission;
use ci_runner_core::group::GroupPolicy;
use ci_runner_core::id::JobId;
use ci_runner_core::job::{Condition, JobSpec};
use ci_runner_core::outcome::By;
use ci_runner_core::time::Now;
use rusqlite::{Connection, OptionalExtension as _, params};

/// Whether a newer one of its group, the first of those that ask for it, makes a job that comes back wait in vain; `open`
/// is the job.
macro_rules! first_newer {
    () => {
        "SELECT min(n.id) FROM open AS n WHERE n.newest = 1 AND n.group_name = open.group_name AND n.id > open.id"
    };
}
/// Cancels such jobs; which are looked at follows.
macro_rules! supersede_returned {
    () => {
        concat!(
            "UPDATE open SET wish = 2, wish_reason = NULL, wish_by = 'newer:' || (",
            $crate::store::sqlite::submit::first_newer!(),
            ") WHERE group_name IS NOT NULL AND wish <> 2 AND (",
            $crate::store::sqlite::submit::first_newer!(),
            ") IS NOT NULL AND id "
        )
    };
}
pub(super) use {first_newer, supersede_returned};

impl Batch<'_> {
    pub(super) fn submit(&mut self, submission: &Submission, at: Now) -> Result<(), Fault> {
        let id = codec::int(submission.id.get());
        self.last_id = self.last_id.max(submission.id.get());
        self.submitted += 1;
        self.count_minute(submission.id.get(), at.wall);
        insert_job(self.conn, submission, at)?;
        let terms = &submission.spec.terms;
        let ready_at = at.engine.plus_ms(terms.delay_ms.unwrap_or(0)).0;
        let group = terms.group.as_ref();
        let hold = terms.hold.then_some((submission.submitter.as_str(), "submitted on hold"));
        self.run(
            "INSERT INTO open (id, ready_at, wish, wish_by, wish_reason, group_name, newest) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            params![
                id,
                ready_at,
                i64::from(terms.hold),
                hold.map(|hold| hold.0),
                hold.map(|hold| hold.1),
                group.map(|group| group.name.as_str()),
                group.is_some_and(|group| group.policy != GroupPolicy::Queue),
            ],
        )?;
        for label in &terms.labels {
            self.run("INSERT INTO label (label, job) VALUES (?1, ?2)", params![label.as_str(), id])?;
        }
        let can_run = self.depend(submission)?;
        match group.filter(|_| can_run).map(|group| (group.policy, &group.name)) {
            Some((GroupPolicy::Latest | GroupPolicy::Cancel, name)) => self.supersede(submission, name),
            Some((GroupPolicy::Queue, _)) | None => Ok(()),
        }
    }

    /// Keeps what it waits for; false: it waits in vain. The record looks at what the submission says before it looks at what
    /// it knows itself.
    fn depend(&mut self, submission: &Submission) -> Result<bool, Fault> {
        let after = &submission.spec.terms.after;
        let told = after.iter().zip(&submission.finished);
        let impossible = |success: bool, on: Condition| !on.fulfilled_by(success);
        let mut never = told.clone().find(|(after, end)| end.is_some_and(|success| impossible(success, after.on)));
        let unknown = (0i64..).zip(told).filter(|(_, (_, end))| end.is_none());
        for (position, (other, end)) in unknown {
            if self.is_open(other.job)? {
                let sql = "INSERT INTO dependency (waiter, position, other, condition) VALUES (?1, ?2, ?3, ?4)";
                let (id, on) = (codec::int(submission.id.get()), codec::condition_number(other.on));
                self.run(sql, params![id, position, codec::int(other.job.get()), on])?;
            } else if self.succeeded(other.job)?.is_none_or(|success| impossible(success, other.on)) {
                never = never.or(Some((other, end)));
            }
        }
        if let Some((other, _)) = never {
            self.cancel(submission.id, &By::Dependency(other.job))?;
        }
        Ok(never.is_none())
    }

    /// A job that comes back to the queue while a newer one of its group asked for `latest` waits in vain.
    pub(super) fn supersede_returned(&self, id: JobId) -> Result<(), Fault> {
        self.run(concat!(supersede_returned!(), "= ?1"), [codec::int(id.get())])?;
        Ok(())
    }

    fn is_open(&self, id: JobId) -> Result<bool, Fault> {
        Ok(self.conn.prepare_cached("SELECT 1 FROM open WHERE id = ?1")?.exists([codec::int(id.get())])?)
    }

    fn succeeded(&self, id: JobId) -> Result<Option<bool>, Fault> {
        let mut statement = self.conn.prepare_cached("SELECT outcome = 0 FROM finished WHERE id = ?1")?;
        Ok(statement.query_row([codec::int(id.get())], |row| row.get(0)).optional()?)
    }

    /// The first reason to end stays the reason. Nobody makes way for a job that a dependency has failed.
    pub(super) fn cancel(&self, id: JobId, by: &By) -> Result<(), Fault> {
        let sql = "UPDATE open SET wish = 2, wish_by = ?2, wish_reason = NULL, newest = newest AND NOT ?3 \
            WHERE id = ?1 AND wish <> 2";
        let never = matches!(by, By::Dependency(_));
        self.run(sql, params![codec::int(id.get()), ends::by_text(by), never])?;
        Ok(())
    }

    /// `latest` and `cancel`: the others of the group make way.
    fn supersede(&self, submission: &Submission, group: &str) -> Result<(), Fault> {
        let running = submission.spec.terms.group.as_ref().is_some_and(|group| group.policy == GroupPolicy::Cancel);
        self.run(
            "UPDATE open INDEXED BY open_uncancelled SET wish = 2, wish_by = ?3, wish_reason = NULL \
             WHERE group_name = ?1 AND id < ?2 AND wish <> 2 AND (?4 OR NOT EXISTS (SELECT 1 FROM lease WHERE lease.job = open.id))",
            params![group, codec::int(submission.id.get()), ends::by_text(&By::Newer(submission.id)), running],
        )?;
        Ok(())
    }
}

fn insert_job(conn: &Connection, submission: &Submission, at: Now) -> Result<(), Fault> {
    let JobSpec { name, correlation, work, terms } = &submission.spec;
    let group = terms.group.as_ref();
    let id = codec::int(submission.id.get());
    let (labels, work) = (codec::labels_text(&terms.labels), codec::work_text(work)?);
    let [memory, cpu, pids] = codec::limits_columns(&terms.limits);
    let sum = codec::sum(id, [Some(&submission.submitter), terms.pool.as_deref(), labels.as_deref(), Some(&work)]);
    let mut statement = conn.prepare_cached(
        "INSERT INTO job (id, submitted, submitted_wall, priority, pool, name, correlation, submitter, labels, retry, \
         group_name, group_asked, group_policy, group_limit, after, at_wall, delay_ms, expires_wall, hold, sum, work, memory, \
         cpu, pids) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, \
         ?22, ?23, ?24)",
    )?;
    statement.execute(params![
        id,
        at.engine.0,
        at.wall.0,
        terms.priority,
        terms.pool,
        name,
        codec::Correlation::of(correlation),
        submission.submitter,
        labels,
        retry_text::text(&terms.retry),
        group.map(|group| group.name.as_str()),
        group.and_then(|group| group.limit),
        group.map(|group| codec::policy_number(group.policy)),
        submission.group_limit,
        codec::after_text(&terms.after),
        terms.at.map(|at| at.0),
        terms.delay_ms.map(codec::int),
        terms.expires.map(|at| at.0),
        terms.hold,
        sum,
        work,
        memory,
        cpu,
        pids,
    ])?;
    Ok(())
}
