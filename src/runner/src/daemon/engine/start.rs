//! Starting what is claimed: when its turn comes, what the spawner is told, and what follows when that cannot be.

use super::attempts::Watch;
use super::*;
use crate::daemon::job_env::{Where, specification};
use crate::executor::native::StartOrder;
use crate::fail;
use crate::store::StoreError;
use ci_runner_core::id::AttemptNumber;
use ci_runner_core::outcome::AttemptResult;
use ci_runner_core::state::{Event, Phase};
use ci_runner_spawner::protocol::{Request, Start, UNIT_WORKSPACE};
use std::io::ErrorKind;

/// A refused start is tried again after this, doubled each time up to the maximum.
const REFUSED_MS: u64 = 100;
/// The longest pause between two tries of a refused start.
const REFUSED_MS_MAX: u64 = 10_000;

/// Why a start cannot be sent.
enum NoOrder {
    /// It never can: the attempt ends.
    Never(String),
    /// It is tried again.
    Later(String),
    /// Nothing is known of the claim.
    Unknown,
}

impl Engine {
    /// Sends claims whose turn has come.
    pub(super) fn dispatch(&mut self) {
        if self.stopping {
            return;
        }
        for pool in self.record.pool_ids() {
            let ready: Vec<JobId> =
                self.record.undispatched(pool).filter(|id| !self.uncommitted.contains_key(id)).collect();
            for id in ready {
                if !self.record.may_dispatch(pool) {
                    break;
                }
                self.consider(id);
            }
        }
    }

    /// Before an orderly end: what was claimed and never sent goes back to the queue. A later daemon could not tell it from
    /// what ran, and after a reboot would have to call it lost with the host.
    pub(super) fn give_back_claims(&mut self) {
        if !self.stopping || self.health != Health::Good {
            return;
        }
        for pool in self.record.pool_ids() {
            let never_sent: Vec<JobId> = self.record.undispatched(pool).collect();
            for id in never_sent {
                // One that was refused may be known to a spawner: the next daemon hears that it did not begin.
                let unsent = self.record.lease(id).filter(|lease| lease.is_unsent());
                if let Some(attempt) = unsent.map(|lease| lease.attempt) {
                    self.record_event(id, Event::Released { attempt });
                }
            }
        }
    }

    pub(super) fn start(&mut self, id: JobId, attempt: u32, now: Now) {
        if self.stopping {
            return;
        }
        let watch = self.watches.get(&id).filter(|watch| watch.attempt == attempt);
        if watch.and_then(|watch| watch.refused).is_some_and(|(until, _)| until > now.engine) {
            return;
        }
        let Some(lease) = self.record.lease(id) else { return };
        let way = self.sides.way_of(&lease.epoch);
        if way.is_former() || executor_of(&lease.epoch) != self.executor_in(lease.pool) {
            // It is not to run as it was claimed: given back, it is claimed again for the spawner that is configured. In a pool
            // that has another executor by now it would run without the sandbox, or as another user, than configured.
            let key = self.key(id, attempt);
            return self.command(id, attempt, Request::Void(key), |watch| &mut watch.voided);
        }
        if self.sides.get(way).is_some_and(|side| side.closed.is_some()) {
            return;
        }
        if !self.works.contains_key(&id) {
            if !self.batch.want.contains(&id) {
                self.batch.want.push(id);
                self.batch.ask_again(id);
            }
            return;
        }
        match self.order(id, attempt) {
            Ok(order) => self.send_start(id, attempt, order),
            Err(NoOrder::Never(cause)) => self.never_starts(id, cause),
            Err(NoOrder::Later(why)) => self.start_later(id, attempt, &why),
            Err(NoOrder::Unknown) => {}
        }
    }

    /// What the spawner is to be told.
    fn order(&self, id: JobId, attempt: u32) -> Result<StartOrder, NoOrder> {
        let claimed = self.works.get(&id).ok_or(NoOrder::Unknown)?;
        let lease = self.record.lease(id).ok_or(NoOrder::Unknown)?;
        if let Some(why) = self.is_beyond(id, attempt) {
            return Err(NoOrder::Never(why));
        }
        let secrets = self.secrets_of(id, claimed)?;
        let pool = self.record.pool_name(lease.pool).to_owned();
        let executor = executor_of(&lease.epoch);
        let tmp = match executor {
            // A spawner that names it otherwise says so to the job: this is what the first ones did.
            Executor::Native => self.host.tmp_dir.join(format!("{pool}-{}", lease.slot)),
            Executor::Systemd => PathBuf::from(UNIT_WORKSPACE),
        };
        let is_native = executor == Executor::Native;
        let as_us = is_native && !self.host.jobs_have_users;
        let at = Where { pool: &pool, path: self.host.path_of(&pool), tmp: &tmp, as_us };
        let work = &claimed.spec.work;
        if let Some(profile) = work.profile.as_ref().filter(|_| is_native) {
            // The pool was another when the job was queued.
            return Err(NoOrder::Never(format!(
                "the pool {pool:?} runs native jobs, without the sandbox {profile:?} that the job asks for"
            )));
        }
        let of_pool = self.host.pools.get(&pool);
        let profile = work.profile.clone().or_else(|| of_pool.and_then(|pool| pool.profile.clone()));
        let restricted = of_pool.is_some_and(|pool| pool.submitters.is_some());
        Ok(StartOrder {
            start: Start {
                key: self.key(id, attempt),
                pool: pool.clone(),
                slot: lease.slot,
                timeout_ms: work.timeout_ms,
                soft_timeout_ms: work.soft_timeout_ms,
                grace_ms: self.record.settings().grace_ms,
                log_bytes_max: work.log_bytes_max,
                secrets: secrets.is_some(),
                profile: profile.filter(|_| !is_native),
                submitter: work.submitter_uid.filter(|_| restricted),
                limits: self.limits_of_start(&lease.limits, &pool),
            },
            spec: specification(&self.job_host, at, id, lease.attempt, claimed),
            secrets,
        })
    }

    /// The values of a job's secrets; None: it has none.
    fn secrets_of(&self, id: JobId, claimed: &Claimed) -> Result<Option<Vec<(String, String)>>, NoOrder> {
        if claimed.spec.work.secrets.is_empty() {
            return Ok(None);
        }
        match crate::daemon::secrets::read(&self.host.secrets_dir, id) {
            // A file that holds others was put there: it is another job's.
            Ok(secrets) if !holds(&secrets, &claimed.spec.work.secrets) => {
                Err(NoOrder::Never("its secrets are gone: their file holds those of another job".to_owned()))
            }
            Ok(secrets) => Ok(Some(secrets)),
            // What a parser says of a damaged file may quote it.
            Err(error) if error.kind() == ErrorKind::InvalidData => {
                Err(NoOrder::Never("its secrets are damaged: their file does not hold what was written".to_owned()))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Err(NoOrder::Never("its secrets are gone: their file was removed".to_owned()))
            }
            Err(error) => Err(NoOrder::Later(format!("its secrets cannot be read: {error}"))),
        }
    }

    fn send_start(&mut self, id: JobId, attempt: u32, order: StartOrder) {
        fail::point(fail::BEFORE_START);
        let Some(lease) = self.record.lease(id) else { return };
        let (way, first_start) = (self.sides.way_of(&lease.epoch), lease.dispatched.is_none());
        let watch = self.watches.get(&id).filter(|watch| watch.attempt == attempt);
        let refused = watch.and_then(|watch| watch.refused);
        let refused_why = watch.and_then(|watch| watch.refused_why.clone());
        let watch = self.watches.entry(id).or_insert_with(|| Watch::new(attempt, Seen::Absent));
        *watch = Watch { settled: false, refused, refused_why, first_start, ..Watch::new(attempt, Seen::Absent) };
        self.record.dispatch(id);
        if let Some(claimed) = self.works.remove(&id) {
            self.stories.insert(id, correlation::Story::of(claimed.spec));
        }
        if let Some(side) = self.sides.get_mut(way) {
            side.link.start(order);
        }
        fail::point(fail::AFTER_START);
    }

    /// Something of ours makes a start impossible; it never ran.
    fn never_starts(&mut self, id: JobId, cause: String) {
        let Some(lease) = self.record.lease(id) else { return };
        let attempt = lease.attempt;
        let result = AttemptResult::FailedToStart { cause };
        if let Some(next) = ci_runner_core::schedule::after_end(&self.record, id, attempt, &result, self.clock.now()) {
            self.record_event(id, Event::Ended { attempt, result, next });
        }
    }

    /// What a claim needs could not be read: a damaged specification ends its job, anything else is tried again.
    pub(super) fn unreadable(&mut self, id: JobId, error: &StoreError) {
        let Some(attempt) = self.record.lease(id).map(|lease| lease.attempt.0) else { return };
        let text = chain(error);
        match error {
            StoreError::Damaged { .. } | StoreError::Row { .. } => {
                self.never_starts(id, format!("its specification cannot be read: {text}"));
            }
            _ => self.start_later(id, attempt, &text),
        }
    }

    /// Something of ours makes a start impossible for now.
    fn start_later(&mut self, id: JobId, attempt: u32, why: &str) {
        self.watches.entry(id).or_insert_with(|| Watch::new(attempt, Seen::Absent));
        let key = self.key(id, attempt);
        self.start_refused(&key, why);
    }

    pub(super) fn start_refused(&mut self, key: &AttemptKey, why: &str) {
        let Some(id) = JobId::new(key.job) else { return };
        let Some(watch) = self.watches.get_mut(&id).filter(|watch| watch.attempt == key.attempt) else { return };
        let pause = watch.refused.map_or(REFUSED_MS, |(_, pause)| (pause * 2).min(REFUSED_MS_MAX));
        watch.refused = Some((self.clock.now().engine.plus_ms(pause), pause));
        watch.refused_why = Some(why.to_owned());
        watch.seen = Seen::NotBegan;
        watch.settled = true;
        // The refusal may have been the answer to a `void`: that is asked for again, too.
        let answers_start = !std::mem::take(&mut watch.voided);
        let is_only_start = answers_start && watch.first_start;
        if self.health == Health::Good && self.record.phase(id) == Some(Phase::Running) {
            // The native spawner said at the fork that it runs.
            self.record_event(id, Event::Refused { attempt: AttemptNumber(key.attempt) });
        }
        if is_only_start {
            self.record.undispatch(id);
        } else {
            self.record.refuse(id);
        }
        let story = self.story(id);
        log::warn!(job = id.get(), attempt = key.attempt, correlation = story.correlation.as_str();
            "job {id} could not be started, tried again in {pause} ms: {why}");
    }
}

/// True when these are the secrets that a job declared, by their names.
fn holds(secrets: &[(String, String)], declared: &[String]) -> bool {
    secrets.len() == declared.len() && secrets.iter().all(|(name, _)| declared.contains(name))
}
