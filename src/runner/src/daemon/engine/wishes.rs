//! Wishes: what users ask for becomes changes, or a refusal that says why.

use super::*;
use crate::daemon::ends::Ends;
use crate::daemon::handle::{Acted, Deed, Explanation, IdempotencyKey, NewJob, Refusal, Submitter, Target};
use crate::store::{KeyRow, Write};
use ci_runner_core::change::{Change, Pause, Submission};
use ci_runner_core::job::Fault;
use ci_runner_core::record::{CLASSES_MAX, NewClasses};
use ci_runner_core::state::Phase;

/// Wishes are taken so long in one turn: after a large array the others wait for the next, and the watchdog is told between.
const WISHING_MAX: Duration = Duration::from_millis(100);

impl Engine {
    /// Takes what waits in one go, as far as a turn has time: one decision and one commit serve all of it.
    pub(super) fn wish_all(&mut self, first: Wish) {
        let begun = std::time::Instant::now();
        self.wish(first);
        for _ in 1..WISHES_PER_TURN {
            if begun.elapsed() >= WISHING_MAX {
                return;
            }
            let Ok(wish) = self.wishes.try_recv() else { return };
            self.wish(wish);
        }
    }

    pub(super) fn wish(&mut self, wish: Wish) {
        match wish {
            Wish::Explain { id, reply } => drop(reply.send(self.explain(id))),
            Wish::Look { reply } => self.looks.push(reply),
            Wish::Do(deed) if self.stopping => refuse(deed, Refusal::Stopping),
            Wish::Do(deed) if self.health != Health::Good => {
                let refusal = self.refusal_of(&deed);
                refuse(deed, refusal);
            }
            Wish::Do(deed) => self.grant(deed),
        }
    }

    fn grant(&mut self, deed: Deed) {
        match deed {
            Deed::Submit { jobs, ends, key, submitter, reply } => {
                match self.submit(jobs, ends, key.as_ref(), &submitter) {
                    Ok(ids) => self.batch.effects.push(batch::Effect::Submitted(ids, reply)),
                    Err(refusal) => drop(reply.send(Err(refusal))),
                }
            }
            Deed::Act { target, mut ends, action, by, reply } => match self.targets(target, &mut ends) {
                Ok((open, acted)) => self.act(bulk::Bulk::new(open, acted, action, by, reply)),
                Err(refusal) => drop(reply.send(Err(refusal))),
            },
            Deed::RunSchedule { name, key, submitter, reply } => {
                match self.run_by_hand(&name, key.as_ref(), &submitter) {
                    Ok(ids) => self.batch.effects.push(batch::Effect::Submitted(ids, reply)),
                    Err(refusal) => drop(reply.send(Err(refusal))),
                }
            }
            Deed::Pause { pause, by, reply } => {
                let since = self.clock.now();
                let pause = pause.map(|(reason, drain)| Pause { by, reason, since, drain });
                self.record_change(Change::Paused(pause));
                self.batch.effects.push(batch::Effect::Done(reply));
            }
            Deed::Schedule { deed, reply } => match self.change_schedule(deed) {
                Ok(row) => self.batch.effects.push(batch::Effect::Scheduled(Box::new(row), reply)),
                Err(refusal) => drop(reply.send(Err(refusal))),
            },
        }
    }

    fn explain(&self, id: JobId) -> Option<Explanation> {
        let phase = self.record.phase(id)?;
        let mut reasons = self.record.explain_where(id, &|pool| self.is_claimed_in(pool))?;
        let trouble = self.troubles_of(id, phase);
        self.settle_next(id, &mut reasons, &trouble);
        let silent = [Way::Native, Way::Systemd].map(hearing::spawner_problem);
        let spawner = silent.iter().find_map(|name| self.problems.get(name).cloned());
        let ahead = self.record.queued_ahead(id);
        let store = (self.health != Health::Good).then(|| {
            let why = self.trouble.as_ref().map_or("it is being read again", |trouble| trouble.text.as_str());
            format!("nothing new is recorded, so nothing starts and no end is noted: the store takes no commits: {why}")
        });
        Some(Explanation { phase, reasons, store, spawner, ahead, now: self.clock.now(), trouble })
    }

    /// What of ours holds up a job that waits: its start was refused, or a spawner is not there.
    fn troubles_of(&self, id: JobId, phase: Phase) -> Vec<String> {
        if !matches!(phase, Phase::Queued | Phase::Starting) {
            return Vec::new();
        }
        let refused = self.refusal_of_start(id).map(|why| format!("its start was refused, and is tried again: {why}"));
        let sides = self.sides.iter().filter(|side| !side.way.is_former()).filter_map(sides::Side::problem);
        let closed = if phase == Phase::Queued { self.closed_pools_of(id) } else { Vec::new() };
        closed.into_iter().chain(refused).chain(sides).chain(self.slots_beyond()).collect()
    }

    /// Why the last start of the open attempt was refused, while that is not known to run.
    fn refusal_of_start(&self, id: JobId) -> Option<&String> {
        let attempt = self.record.lease(id)?.attempt.0;
        self.watches.get(&id).filter(|watch| watch.attempt == attempt)?.refused_why.as_ref()
    }

    /// All or none; the ids are given, not yet on disk.
    pub(super) fn submit(
        &mut self,
        jobs: Vec<NewJob>,
        mut ends: Ends,
        key: Option<&IdempotencyKey>,
        submitter: &Submitter,
    ) -> Result<Vec<JobId>, Refusal> {
        if let Some(ids) = key.map(|key| self.honoured(key)).transpose()?.flatten() {
            return Ok(ids);
        }
        // A job whose own key is known is there already: it needs no room.
        self.room_for(jobs.iter().filter(|job| job.key.is_none()).count())?;
        let taking = self.taking(submitter);
        let mut planned = Vec::with_capacity(jobs.len());
        let mut new = New::default();
        let mut keys: HashMap<String, IdempotencyKey> = HashMap::new();
        for (index, job) in jobs.into_iter().enumerate() {
            let known = job.key.as_ref().map(|key| self.honoured(key)).transpose();
            let known = known.map_err(|refusal| refusal.of_job(index))?.flatten();
            if let Some(key) = job.key.as_ref().filter(|_| known.is_none())
                && keys.insert(key.key.clone(), key.clone()).is_some()
            {
                let why = format!("an earlier job of the array has the key {:?} too; give each its own", key.key);
                return Err(Refusal::Fault { index, fault: Fault { field: "key".to_owned(), why } });
            }
            if let Some(id) = known.and_then(|ids| ids.first().copied()) {
                planned.push(Err(id));
                continue;
            }
            let job = self.settle(job, submitter, &taking).map_err(|fault| Refusal::Fault { index, fault })?;
            if !self.record.has_room_for_class(&job.spec.terms, &mut new.classes) {
                return Err(Refusal::ClassesFull { limit: CLASSES_MAX });
            }
            let plan = self.plan(job, &mut ends, &mut new.groups).map_err(|fault| Refusal::Fault { index, fault })?;
            planned.push(Ok(plan));
        }
        self.room_for(planned.iter().filter(|plan| plan.is_ok()).count())?;
        let ids: Vec<JobId> = planned
            .into_iter()
            .map(|plan| match plan {
                Ok(plan) => self.queue(plan, &submitter.name),
                Err(known) => known,
            })
            .collect();
        if let Some(key) = key {
            self.honour(key, ids.clone());
        }
        Ok(ids)
    }

    fn room_for(&self, jobs: usize) -> Result<(), Refusal> {
        let limit = self.record.settings().queue_jobs_max;
        match self.record.len() + jobs {
            // Whoever came back with it would be sent away for ever.
            _ if jobs > limit => Err(Refusal::TooMany { jobs, limit }),
            all if jobs > 0 && all > limit => Err(Refusal::QueueFull { limit }),
            _ => Ok(()),
        }
    }

    /// Everything that only the record can say about a new job.
    fn plan(&self, job: NewJob, ends: &mut Ends, groups: &mut HashMap<String, u32>) -> Result<Plan, Fault> {
        let terms = &job.spec.terms;
        let mut finished = Vec::with_capacity(terms.after.len());
        for (index, after) in terms.after.iter().enumerate() {
            finished
                .push(self.look_up(after.job, ends).map_err(|why| Fault { field: format!("after[{index}]"), why })?);
        }
        self.check_enforceable(terms)?;
        let group_limit = terms.group.as_ref().map(|group| self.group_limit(group, groups)).transpose()?;
        Ok(Plan { job, finished, group_limit })
    }

    /// How a dependency ended; None while it is open. Each is read once: what was is in `ends`.
    fn look_up(&self, id: JobId, ends: &mut Ends) -> Result<Option<bool>, String> {
        if self.record.phase(id).is_some() {
            return Ok(None);
        }
        if let Some(success) = self.record.ended(id).or_else(|| ends.get(&id).copied()) {
            return Ok(Some(success));
        }
        match self.reader.ended(id) {
            Ok(Some(success)) => {
                ends.insert(id, success);
                Ok(Some(success))
            }
            Ok(None) => Err(format!("there is no job {id}")),
            Err(error) => Err(format!("job {id} could not be looked up: {error}")),
        }
    }

    fn group_limit(
        &self,
        group: &ci_runner_core::group::GroupSpec,
        new: &mut HashMap<String, u32>,
    ) -> Result<u32, Fault> {
        let fixed = self.record.settings().groups.iter().find(|fixed| fixed.name == group.name);
        // Another limit, even that of a job on hold, would refuse every run of the schedule of that name.
        let is_schedules = group.name.strip_prefix(schedules::SUBMITTER).is_some_and(|rest| rest.starts_with(' '));
        if fixed.is_none() && is_schedules && group.limit.is_some_and(|limit| limit != 1) {
            return Err(Fault {
                field: "group".to_owned(),
                why: format!(
                    "{:?} is the group of a schedule's runs, which go one after the other: its limit is 1",
                    group.name
                ),
            });
        }
        let present = fixed.map(|fixed| fixed.limit).or_else(|| self.record.group_limit(&group.name));
        let present = present.or_else(|| new.get(&group.name).copied());
        match (present, group.limit) {
            (Some(present), Some(wanted)) if present != wanted => Err(Fault {
                field: "group".to_owned(),
                why: format!(
                    "group {:?} has limit {present} while it has open jobs, not {wanted}; leave the limit out to join it",
                    group.name
                ),
            }),
            (Some(present), _) => Ok(present),
            (None, wanted) => {
                let limit = wanted.unwrap_or(1);
                new.insert(group.name.clone(), limit);
                Ok(limit)
            }
        }
    }

    fn queue(&mut self, plan: Plan, submitter: &str) -> JobId {
        let id = self.record.next_id();
        let NewJob { spec, key, secrets, caller_dir: _ } = plan.job;
        if log::log_enabled!(log::Level::Info) {
            let what = spec.name.clone().unwrap_or_else(|| spec.work.command.summary(80));
            let (correlation, submitter) = (spec.correlation.clone(), submitter.to_owned());
            self.batch.tell(telling::Telling::Queued { id, correlation, submitter, what });
        }
        let submission = Submission {
            id,
            spec,
            finished: plan.finished,
            group_limit: plan.group_limit,
            submitter: submitter.to_owned(),
        };
        self.record_change(Change::Submitted(Box::new(submission)));
        if !secrets.is_empty() {
            self.batch.secrets.push((id, secrets));
        }
        if let Some(key) = key {
            self.honour(&key, vec![id]);
        }
        id
    }

    /// The jobs a key stands for, if it was used.
    fn honoured(&self, key: &IdempotencyKey) -> Result<Option<Vec<JobId>>, Refusal> {
        let pending = self.batch.keys.get(&key.key);
        let pending = pending.or_else(|| self.in_flight.as_ref().and_then(|flight| flight.keys.get(&key.key)));
        let (body, ids) = match pending {
            Some((known, ids)) => (known.body, ids.clone()),
            None => match self.reader.key(&key.key, self.clock.now().engine) {
                Ok(None) => return Ok(None),
                Ok(Some(row)) => (row.body, row.jobs),
                Err(error) => return Err(Refusal::Store(chain(&error))),
            },
        };
        if body == key.body || Some(body) == key.body_before {
            Ok(Some(ids))
        } else {
            Err(Refusal::KeyReused { key: key.key.clone(), index: None })
        }
    }

    fn honour(&mut self, key: &IdempotencyKey, jobs: Vec<JobId>) {
        let at = self.clock.now().engine;
        self.batch.keys.insert(key.key.clone(), (key.clone(), jobs.clone()));
        self.batch.writes.push(Write::Key(KeyRow { key: key.key.clone(), body: key.body, jobs, at }));
    }

    /// The open ones of those that are meant, and beside them those that have finished.
    fn targets(&self, target: Target, ends: &mut Ends) -> Result<(Vec<JobId>, Acted), Refusal> {
        let mut acted = Acted::default();
        let ids = match target {
            Target::All => return Ok((self.record.ids().collect(), acted)),
            Target::Ids(ids) => ids,
        };
        let mut open = Vec::with_capacity(ids.len());
        for id in ids {
            match self.look_up(id, ends) {
                Ok(None) => open.push(id),
                Ok(Some(_)) => acted.finished.push(id),
                Err(_) => return Err(Refusal::NoJob(id)),
            }
        }
        Ok((open, acted))
    }
}

/// What the first jobs of a submission bring along and the record does not have yet.
#[derive(Default)]
struct New {
    /// Limits of groups.
    groups: HashMap<String, u32>,
    classes: NewClasses,
}

/// A job that may be queued.
struct Plan {
    job: NewJob,
    finished: Vec<Option<bool>>,
    group_limit: Option<u32>,
}

fn refuse(deed: Deed, refusal: Refusal) {
    match deed {
        Deed::Submit { reply, .. } | Deed::RunSchedule { reply, .. } => drop(reply.send(Err(refusal))),
        Deed::Act { reply, .. } => drop(reply.send(Err(refusal))),
        Deed::Pause { reply, .. } => drop(reply.send(Err(refusal))),
        Deed::Schedule { reply, .. } => drop(reply.send(Err(refusal))),
    }
}
