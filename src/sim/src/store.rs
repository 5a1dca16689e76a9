//! The truth on disk, written a second time: rows that are folded from committed facts, without the record's help. What a
//! rebuilt record must say is what these rows say.

use crate::places::Places;
use ci_runner_core::change::{Change, Entry, Lease, OpenJob, Pause, Submission, Wish};
use ci_runner_core::id::JobId;
use ci_runner_core::job::{Condition, Terms};
use ci_runner_core::outcome::{AttemptResult, Outcome};
use ci_runner_core::policy::Settings;
use ci_runner_core::record::Record;
use ci_runner_core::state::{Event, Next, Phase};
use ci_runner_core::time::{ClockBase, Instant, Now};
use std::collections::BTreeMap;
use std::rc::Rc;

/// A fact on its way to the disk, with what it refers to by number.
#[derive(Clone, Debug)]
pub struct Fact {
    /// The fact.
    pub entry: Entry,
    /// The settings it was decided under.
    pub settings: Rc<Settings>,
    /// What the daemon knew of the places of the host.
    pub places: Rc<Places>,
    /// Name of the pool of a claim.
    pub pool: Option<String>,
}

/// An open job.
#[derive(Clone, Debug)]
pub struct Row {
    /// When.
    pub submitted: Instant,
    /// Its terms; `priority` as it is now.
    pub terms: Terms,
    /// Limit of its group.
    pub group_limit: Option<u32>,
    /// Dependencies that are open.
    pub waits_for: Vec<(JobId, Condition)>,
    /// A dependency that failed it.
    pub impossible: Option<JobId>,
    /// Where it stands.
    pub phase: Phase,
    /// Not before.
    pub ready_at: Instant,
    /// Last attempt given.
    pub attempt: u32,
    /// Tries that ended.
    pub tries: u32,
    /// How the last of them ended.
    pub last: Option<AttemptResult>,
    /// Wish.
    pub wish: Wish,
    /// Open attempt, and the name of its pool.
    pub lease: Option<(Lease, String)>,
}

/// All that is durable.
#[derive(Clone, Debug, Default)]
pub struct Store {
    /// Open jobs.
    pub rows: BTreeMap<JobId, Row>,
    /// Finished jobs.
    pub ended: BTreeMap<JobId, Outcome>,
    /// Idempotency keys.
    pub keys: BTreeMap<u64, JobId>,
    /// Pause.
    pub paused: Option<Pause>,
    /// Starts of the daemon.
    pub generation: u64,
    /// Highest id given.
    pub last_id: u64,
    /// Clock base.
    pub clock: Option<ClockBase>,
    /// Latest reading.
    pub last: Now,
}

impl Store {
    /// Counts a start of the daemon.
    pub fn open(&mut self, clock: ClockBase, now: Now) -> u64 {
        self.generation += 1;
        self.clock = Some(clock);
        self.last = now;
        self.generation
    }

    /// A record with what is here.
    pub fn record(&self, settings: &Settings, now: Now) -> Record {
        let mut record = Record::new(settings.clone());
        record.advance(now);
        for (id, row) in &self.rows {
            let lease = row.lease.as_ref().map(|(lease, pool)| Lease {
                pool: record.ensure_pool(pool),
                dispatched: Some(lease.claimed),
                ..lease.clone()
            });
            let open = OpenJob {
                id: *id,
                submitted: row.submitted,
                terms: row.terms.clone(),
                group_limit: row.group_limit,
                waits_for: row.waits_for.clone(),
                impossible: row.impossible,
                phase: row.phase,
                ready_at: row.ready_at,
                attempt: row.attempt,
                tries: row.tries,
                last: row.last.clone(),
                wish: row.wish.clone(),
                lease,
            };
            record.load(&open).expect("the store tells each job once and no place twice");
        }
        record.set_last_id(self.last_id);
        record.set_paused(self.paused.clone());
        record
    }

    /// Takes one fact.
    pub fn fold(&mut self, fact: &Fact) {
        self.last = fact.entry.at;
        match &fact.entry.change {
            Change::Submitted(submission) => self.submitted(submission, fact.entry.at),
            Change::Job { id, event } => self.event(*id, event, fact),
            Change::Wished { id, wish } => {
                // What ends for a dependency ends for it, whatever is wished.
                if let Some(row) = self.rows.get_mut(id).filter(|row| row.impossible.is_none()) {
                    row.wish = wish.clone();
                }
            }
            Change::Reprioritized { id, priority } => {
                if let Some(row) = self.rows.get_mut(id) {
                    row.terms.priority = *priority;
                }
            }
            Change::Paused(pause) => self.paused = pause.clone(),
        }
    }

    fn submitted(&mut self, submission: &Submission, at: Now) {
        self.last_id = submission.id.get();
        let terms = submission.spec.terms.clone();
        let mut row = Row {
            submitted: at.engine,
            group_limit: submission.group_limit,
            waits_for: Vec::new(),
            impossible: None,
            phase: Phase::Queued,
            ready_at: at.engine.plus_ms(terms.delay_ms.unwrap_or(0)),
            attempt: 0,
            tries: 0,
            last: None,
            wish: Wish::Run,
            lease: None,
            terms,
        };
        if row.terms.hold {
            row.wish = Wish::Hold { by: submission.submitter.clone(), reason: "submitted on hold".to_owned() };
        }
        for after in &row.terms.after {
            match self.ended.get(&after.job) {
                None => row.waits_for.push((after.job, after.on)),
                Some(outcome) if !after.on.fulfilled_by(outcome.is_success()) => {
                    row.impossible = row.impossible.or(Some(after.job));
                }
                Some(_) => {}
            }
        }
        self.rows.insert(submission.id, row);
    }

    fn event(&mut self, id: JobId, event: &Event, fact: &Fact) {
        let Some(row) = self.rows.get_mut(&id) else { return };
        match event {
            Event::Claimed { attempt, pool, slot, epoch, limits } => {
                row.phase = Phase::Starting;
                row.attempt = attempt.0;
                let lease = Lease {
                    attempt: *attempt,
                    pool: *pool,
                    slot: *slot,
                    epoch: epoch.clone(),
                    limits: *limits,
                    claimed: fact.entry.at.engine,
                    started: None,
                    stop: None,
                    dispatched: None,
                    refused: None,
                };
                row.lease = Some((lease, fact.pool.clone().unwrap_or_default()));
            }
            Event::Released { .. } => {
                row.phase = Phase::Queued;
                row.lease = None;
            }
            Event::Started { .. } => {
                row.phase = Phase::Running;
                if let Some((lease, _)) = &mut row.lease {
                    lease.started = Some(fact.entry.at.engine);
                }
            }
            Event::Refused { .. } => {
                row.phase = Phase::Starting;
                if let Some((lease, _)) = &mut row.lease {
                    lease.started = None;
                }
            }
            Event::Renewed { .. } => {}
            Event::StopRequested { by, kill_at, .. } => {
                row.phase = Phase::Stopping;
                if let Some((lease, _)) = &mut row.lease {
                    lease.stop = Some((by.clone(), *kill_at));
                }
            }
            Event::Ended { result, next, .. } => {
                row.lease = None;
                row.last = Some(result.clone());
                row.tries += 1;
                row.phase = Phase::Queued;
                match next {
                    Next::Retry { ready_at, memory_bytes } => {
                        row.ready_at = *ready_at;
                        row.terms.limits.memory_bytes = memory_bytes.or(row.terms.limits.memory_bytes);
                    }
                    Next::Finish { outcome } => self.finish(id, outcome),
                }
            }
            Event::Dropped { outcome } => self.finish(id, outcome),
        }
    }

    fn finish(&mut self, id: JobId, outcome: &Outcome) {
        self.rows.remove(&id);
        self.ended.insert(id, outcome.clone());
        for row in self.rows.values_mut() {
            for (_, on) in row.waits_for.iter().filter(|(other, _)| *other == id) {
                if !on.fulfilled_by(outcome.is_success()) {
                    row.impossible = row.impossible.or(Some(id));
                }
            }
            row.waits_for.retain(|(other, _)| *other != id);
        }
    }
}
