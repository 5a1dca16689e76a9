//! Handing batches to the writer, and what follows when one is on disk, or is not.

use super::batch::{Effect, Haste, InFlight};
use super::reload::reload_order;
use super::telling::Telling;
use super::*;
use crate::daemon::handle::Refusal;
use crate::daemon::secrets;
use crate::daemon::writer::Works;
use crate::fail;
use crate::store::{StoreError, Write};
use ci_runner_core::change::{Change, Entry};
use ci_runner_core::outcome::Outcome;
use ci_runner_core::state::{Event, Next};
use ci_runner_spawner::protocol::Request;

/// The pool, in metrics, of jobs that ended before they had one.
pub const NO_POOL: &str = "none";
/// After a failed commit the next one is tried after this.
const PROBE_MS: u64 = 1_000;

/// Ends, and claims that no free slot waits for, share a commit with what comes within this time after the last one.
const GATHER: Duration = Duration::from_millis(10);
/// A start rides along with the next commit; without one it is kept after this.
const RIDE: Duration = Duration::from_millis(20);

/// How well the store takes commits.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Health {
    /// All is well.
    Good,
    /// A commit failed and the record is being read again.
    Reloading,
    /// It could not be read; it is tried again.
    Unread {
        /// When to try.
        at: Instant,
    },
    /// The record is right again; a commit must succeed before anything is taken in.
    Probing {
        /// When to try.
        at: Instant,
    },
}

/// Why the store is not well, for answers.
#[derive(Clone, Debug)]
pub(super) struct StoreTrouble {
    pub full: bool,
    pub text: String,
}

impl Engine {
    /// Takes a change that the record already has into the batch.
    pub(super) fn note(&mut self, entry: Entry) {
        if let Change::Job { id, event } = &entry.change {
            self.note_event(*id, event);
        }
        if let Change::Job { id, .. } | Change::Wished { id, .. } | Change::Reprioritized { id, .. } = &entry.change {
            *self.uncommitted.entry(*id).or_default() += 1;
            self.batch.jobs.push(*id);
        }
        self.changed = true;
        self.batch.since.get_or_insert_with(std::time::Instant::now);
        self.batch.writes.push(Write::Entry(entry));
        self.batch.news = self.record.news_seq();
    }

    /// Takes a change into the record and the batch. False: it cannot be; nothing happened.
    pub(super) fn record_change(&mut self, change: Change) -> bool {
        let entry = Entry { at: self.clock.now(), change };
        if let Err(error) = self.record.apply(&entry) {
            log::error!("refused an impossible change: {error}");
            return false;
        }
        self.note(entry);
        true
    }

    fn note_event(&mut self, id: JobId, event: &Event) {
        match event {
            Event::Claimed { .. } => self.batch.want.push(id),
            Event::Released { .. } => {
                self.works.remove(&id);
            }
            Event::Ended { next: Next::Finish { outcome }, .. } => self.note_finished(id, outcome),
            Event::Dropped { outcome } => {
                self.batch.tell(Telling::Dropped { id, outcome: outcome.clone() });
                self.note_finished(id, outcome);
            }
            // What is not on disk was told to nobody: then nobody need know that it was said to run.
            Event::Refused { .. } => self.batch.take_back_beginning(id),
            Event::Started { .. } | Event::Renewed { .. } | Event::StopRequested { .. } | Event::Ended { .. } => {}
        }
    }

    fn note_finished(&mut self, id: JobId, outcome: &Outcome) {
        *self.finished.entry(outcome.word().to_owned()).or_default() += 1;
        self.works.remove(&id);
        self.batch.effects.push(Effect::Finished(id));
    }

    /// Hands the batch to the writer, if it is free and there is something to keep.
    pub(super) fn flush(&mut self, now: Now) {
        if self.in_flight.is_some() {
            return;
        }
        if self.stopping && self.health != Health::Good {
            // A full disk must not hold up the end: nothing that was acknowledged waits here, and what ended meanwhile is
            // told again to the next daemon.
            self.close(now);
            return;
        }
        match self.health {
            Health::Good => {}
            Health::Reloading => return,
            Health::Probing { at } | Health::Unread { at } if at > now.engine => return,
            Health::Unread { .. } => {
                self.health = Health::Reloading;
                self.writer.order(reload_order(&self.record));
                return;
            }
            Health::Probing { .. } => {
                self.batch.writes.push(Write::Clock { base: self.clock.base().clone(), now });
            }
        }
        if self.batch.is_empty() {
            self.close_when_done(now);
            return;
        }
        if self.flush_due().is_some_and(|due| due > std::time::Instant::now()) {
            return;
        }
        self.forget_early();
        let batch = std::mem::take(&mut self.batch);
        self.flushed = Some(std::time::Instant::now());
        fail::point(fail::BEFORE_COMMIT);
        let order = Order::Commit {
            writes: batch.writes,
            secrets: batch.secrets,
            want: batch.want,
            pools: self.record.pools().map(|pool| pool.name).collect(),
        };
        self.writer.order(order);
        self.in_flight = Some(InFlight {
            since: std::time::Instant::now(),
            effects: batch.effects,
            jobs: batch.jobs,
            again: batch.again,
            keys: batch.keys,
            news: batch.news,
        });
        if fail::acknowledges_early() {
            let effects = self.in_flight.as_mut().map(|flight| std::mem::take(&mut flight.effects));
            self.release(effects.unwrap_or_default());
        }
    }

    /// The control of the tests that nothing runs twice: witnesses go before what they witnessed is on disk, and then we die.
    fn forget_early(&mut self) {
        if !fail::is_control(fail::FORGETS_EARLY) {
            return;
        }
        let is_forget = |effect: &mut Effect| matches!(effect, Effect::Forget(..));
        let forgets: Vec<Effect> = self.batch.effects.extract_if(.., is_forget).collect();
        if !forgets.is_empty() {
            self.release(forgets);
            self.sides.flush();
            fail::point(fail::FORGETS_EARLY);
        }
    }

    /// When the batch that waits for more is handed over; None: there is none, or it does not wait.
    pub(super) fn flush_due(&self) -> Option<std::time::Instant> {
        if self.in_flight.is_some() || self.stopping || self.health != Health::Good || self.batch.is_empty() {
            return None;
        }
        match self.batch.haste() {
            Haste::Now => None,
            Haste::Gather if self.is_slot_waiting() => None,
            Haste::Gather => self.flushed.map(|flushed| flushed + GATHER),
            Haste::Ride => self.batch.since.map(|since| since + RIDE),
        }
    }

    /// A slot is free, and what it is to run is claimed but not sent.
    fn is_slot_waiting(&self) -> bool {
        let is_waiting = |pool| self.record.may_dispatch(pool) && self.record.undispatched(pool).next().is_some();
        self.record.pool_ids().any(is_waiting)
    }

    /// The writer is done with something.
    pub(super) fn answered(&mut self, answer: Answer) {
        match answer {
            Answer::Committed(result, took) => self.committed(result, took),
            Answer::Reloaded(reloaded) => {
                let at = self.clock.now().engine.plus_ms(PROBE_MS);
                match reloaded.and_then(|reloaded| self.take_reloaded(reloaded)) {
                    Ok(()) => self.health = Health::Probing { at },
                    Err(error) => self.read_again(&error, at),
                }
            }
            Answer::Collected(result) => self.collected(result),
            Answer::Closed(result) => {
                if let Err(error) = result {
                    log::error!("the store was not closed in order: {}", chain(&error));
                }
                self.closed = true;
            }
        }
    }

    /// What is stored cannot be read: nothing is taken in until it is.
    pub(super) fn read_again(&mut self, error: &StoreError, at: Instant) {
        let trouble = StoreTrouble { full: false, text: chain(error) };
        log::error!("the store cannot be read, tried again in at most {PROBE_MS} ms: {}", trouble.text);
        self.trouble = Some(trouble);
        self.health = Health::Unread { at };
        self.changed = true;
    }

    fn committed(&mut self, result: Result<Works, StoreError>, took: Duration) {
        self.figures.committed(took);
        let Some(flight) = self.in_flight.take() else { return };
        match result {
            Err(error) => self.commit_failed(flight, &error),
            Ok(works) => {
                fail::point(fail::AFTER_COMMIT);
                let mut unreadable = Vec::new();
                for (id, work) in works {
                    match work {
                        Ok(work) => drop(self.works.insert(id, work)),
                        Err(error) => unreadable.push((id, error)),
                    }
                }
                if self.health != Health::Good {
                    log::info!("the store takes commits again");
                    self.health = Health::Good;
                    self.trouble = None;
                    self.changed = true;
                    self.collect_soon();
                    self.list_again();
                    // What the configuration declares may have been in a commit that failed, or come meanwhile.
                    self.declare_schedules(self.clock.now());
                }
                for id in &flight.jobs {
                    if let Some(count) = self.uncommitted.get_mut(id) {
                        *count -= 1;
                        if *count == 0 {
                            self.uncommitted.remove(id);
                        }
                    }
                }
                for (id, error) in unreadable {
                    self.unreadable(id, &error);
                }
                self.release(flight.effects);
                if flight.news > self.committed_news {
                    self.committed_news = flight.news;
                    self.news.send_replace(flight.news);
                }
                self.consider_all(flight.jobs);
                self.consider_all(flight.again);
                self.judge_strangers();
            }
        }
    }

    /// Nothing of the batch was kept, nor of what was built on it.
    fn commit_failed(&mut self, flight: InFlight, error: &StoreError) {
        let trouble = StoreTrouble { full: matches!(error, StoreError::Full), text: chain(error) };
        if self.health == Health::Good {
            log::error!("a commit failed, nothing is taken in until one succeeds: {}", trouble.text);
        }
        self.trouble = Some(trouble);
        self.changed = true;
        if matches!(self.health, Health::Probing { .. }) {
            self.health = Health::Probing { at: self.clock.now().engine.plus_ms(PROBE_MS) };
        } else {
            self.health = Health::Reloading;
            self.writer.order(reload_order(&self.record));
        }
        let later = std::mem::take(&mut self.batch);
        for effect in flight.effects.into_iter().chain(later.effects) {
            self.refuse_effect(effect);
        }
        for bulk in std::mem::take(&mut self.bulks) {
            self.refuse_bulk(bulk);
        }
    }

    /// Why nothing is taken in.
    pub(super) fn refusal(&self) -> Refusal {
        match &self.trouble {
            Some(trouble) if trouble.full => Refusal::DiskFull,
            Some(trouble) => Refusal::Store(trouble.text.clone()),
            None => Refusal::Store("a commit failed".to_owned()),
        }
    }

    /// What waited is on disk: it may leave.
    fn release(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            // A client that went away does not want its answer; what it asked for stands.
            match effect {
                Effect::Submitted(ids, reply) => drop(reply.send(Ok(ids))),
                Effect::Acted { acted, reply, .. } => drop(reply.send(Ok(acted))),
                Effect::Done(reply) => drop(reply.send(Ok(()))),
                Effect::Scheduled(row, reply) => drop(reply.send(Ok(*row))),
                Effect::Forget(way, id, key) => {
                    self.watches.remove(&id);
                    fail::point(fail::BEFORE_FORGET);
                    self.sides.send(way, Request::Forget(key));
                }
                // Its directory may be gone, but not its cgroup: a job that still runs must not meet its next attempt. Where
                // there is a record, the directory is there too.
                Effect::Sweep(way, id, key) => {
                    self.watches.remove(&id);
                    self.sides.send(way, Request::Kill(key.clone()));
                    self.sides.send(way, Request::Forget(key));
                }
                Effect::Finished(id) => secrets::remove(&self.host.secrets_dir, id),
                Effect::Tell(telling) => self.tell(&telling),
            }
        }
    }

    fn refuse_effect(&mut self, effect: Effect) {
        match effect {
            Effect::Submitted(_, reply) => drop(reply.send(Err(self.refusal()))),
            Effect::Acted { acted, cancelled_by: Some(by), reply } => {
                let refusal = self.stop_unrecorded(acted.done, &by);
                drop(reply.send(Err(refusal)));
            }
            Effect::Acted { reply, .. } => drop(reply.send(Err(self.refusal()))),
            Effect::Done(reply) => drop(reply.send(Err(self.refusal()))),
            Effect::Scheduled(_, reply) => drop(reply.send(Err(self.refusal()))),
            Effect::Forget(..) | Effect::Sweep(..) | Effect::Finished(_) | Effect::Tell(_) => {}
        }
    }

    fn close_when_done(&mut self, now: Now) {
        if self.stopping && !self.closed && self.bulks.is_empty() {
            self.close(now);
        }
    }

    fn close(&mut self, now: Now) {
        if !std::mem::replace(&mut self.closing, true) {
            self.writer.order(Order::Close { base: self.clock.base().clone(), now });
        }
    }
}
