//! The daemon's decisions and acts: turns, looks, starts. Here sit the mutants whose bug would be in a decision.

use crate::coverage::{CLAIMS, REFUSED};
use crate::daemon::{Act, Daemon, Listing};
use crate::mutant::Mutant;
use crate::wire::{Key, Reply, Request, Start};
use crate::world::World;
use ci_runner_core::change::{Change, Entry};
use ci_runner_core::id::PoolId;
use ci_runner_core::reconcile::{Observation, Seen, Step, reconcile};
use ci_runner_core::schedule::{Permit, schedule};
use ci_runner_core::state::{Event, Phase};
use ci_runner_core::time::Now;
use std::collections::BTreeMap;

impl World {
    /// Most changes of a turn: small, so that turns are cut.
    pub(crate) const CHANGES_MAX: usize = 5;
    /// The same of drops that can wait.
    pub(crate) const DROPS_MAX: usize = 1;

    pub(crate) fn turn(&mut self, daemon: &mut Daemon, now: Now) {
        let permit = self.permit(daemon);
        self.misdecide(daemon, &permit, true);
        let read = if self.is(Mutant::DecideByOldTime) { daemon.record.now() } else { now };
        let entries = self.decide(daemon, &permit, read);
        // One that dropped may have put the next off.
        let is_drop = |entry: &Entry| matches!(entry.change, Change::Job { event: Event::Dropped { .. }, .. });
        let rests = entries.len() < Self::CHANGES_MAX && !entries.iter().any(is_drop);
        for entry in entries {
            self.visit_claim(daemon, &entry);
            self.note("decide", [0, 0], || format!("{:?}", entry.change));
            daemon.note(entry);
        }
        self.misdecide(daemon, &permit, false);
        self.misdrop(daemon);
        daemon.wake = !rests;
        daemon.whole = true;
        if rests && self.looks_at_the_record() {
            self.truth.check_rest(&daemon.record, &permit, now);
        }
    }

    /// Counts claims that were made although something of the host was out of order.
    fn visit_claim(&mut self, daemon: &Daemon, entry: &Entry) {
        let Change::Job { event: Event::Claimed { pool, .. }, .. } = &entry.change else { return };
        let (name, places) = (daemon.record.pool_name(*pool), &daemon.places);
        let visits = [places.shut_in(name) > 0, places.loose.contains(name), !places.down.is_empty()];
        for (visited, what) in visits.into_iter().zip(CLAIMS) {
            if visited {
                self.coverage.hit(what);
            }
        }
    }

    fn decide(&self, daemon: &mut Daemon, permit: &Permit, now: Now) -> Vec<Entry> {
        let pause = daemon.record.paused().cloned();
        if pause.is_none() || !self.is(Mutant::IgnorePauseForClaims) {
            return schedule(&mut daemon.record, permit, now);
        }
        daemon.record.set_paused(None);
        let entries = schedule(&mut daemon.record, &Permit { claim_in: BTreeMap::new(), ..permit.clone() }, now);
        daemon.record.set_paused(pause);
        entries
    }

    /// The claim whose `start` may be sent now.
    pub(crate) fn next_dispatch(&self, daemon: &Daemon) -> Option<Key> {
        if !daemon.up || daemon.connection.is_none() {
            return None;
        }
        let pools = u16::try_from(daemon.record.pools().count()).unwrap_or(u16::MAX);
        (0..pools).map(PoolId).find_map(|pool| {
            let may = daemon.record.may_dispatch(pool) || self.oversteps(daemon, pool);
            let job = daemon.record.undispatched(pool).find(|job| {
                let saved = daemon.is_saved(*job) || self.is(Mutant::ActBeforeCommit);
                let lease = daemon.record.lease(*job);
                saved && lease.is_some_and(|lease| daemon.epoch.as_ref() == Some(&lease.epoch) && lease.stop.is_none())
            });
            let job = job.filter(|_| may)?;
            Some(Key { job, attempt: daemon.record.lease(job)?.attempt.0 })
        })
    }

    /// Mutants that send more than the pool has room for.
    fn oversteps(&self, daemon: &Daemon, pool: PoolId) -> bool {
        let sent = daemon.record.leases().filter(|(_, lease)| lease.pool == pool && lease.dispatched.is_some());
        let slots = daemon.record.pools().nth(usize::from(pool.0)).map_or(0, |pool| pool.slots as usize);
        match self.mutant {
            Some(Mutant::SlotsOffByOne) => slots > 0 && sent.count() <= slots,
            Some(Mutant::SlotFreeWhileStopping) => sent.filter(|(_, lease)| lease.stop.is_none()).count() < slots,
            Some(Mutant::IgnorePauseForClaims) => sent.count() < slots,
            _ => false,
        }
    }

    pub(crate) fn dispatch(&mut self, daemon: &mut Daemon) {
        let Some(key) = self.next_dispatch(daemon) else { return };
        let direct = [
            Mutant::ActBeforeCommit,
            Mutant::SlotsOffByOne,
            Mutant::SlotFreeWhileStopping,
            Mutant::IgnorePauseForClaims,
        ];
        if self.mutant.is_some_and(|mutant| direct.contains(&mutant)) {
            self.send_start(daemon, key);
        } else {
            self.observe(daemon, key, Seen::Absent, true);
        }
    }

    pub(crate) fn send_start(&mut self, daemon: &mut Daemon, key: Key) {
        let Some(lease) = daemon.record.lease(key.job) else { return };
        let pool = daemon.record.pool_name(lease.pool).to_owned();
        let slots = daemon.settings.pools.iter().find(|one| one.name == pool).map_or(0, |one| one.slots);
        let slots = u32::try_from(daemon.places.usable(&pool, slots)).unwrap_or(u32::MAX);
        let group =
            self.store.rows.get(&key.job).and_then(|row| row.terms.group.as_ref()).map(|group| group.name.clone());
        let limit = group.as_ref().and_then(|name| daemon.record.group_limit(name)).unwrap_or(u32::MAX);
        let timeout_ms = self.clients.timeouts.get(&key.job).copied().unwrap_or(60_000);
        let start = Start { key, pool, group, timeout_ms, grace_ms: 10_000, slots, limit };
        if lease.dispatched.is_none() {
            daemon.first_starts.insert(key);
        } else {
            daemon.first_starts.remove(&key);
        }
        let runs = self.store.rows.get(&key.job).is_some_and(|row| row.phase == Phase::Running);
        self.truth.require(!runs, "who_is_started_does_not_run_yet", || format!("{key:?}"));
        daemon.record.dispatch(key.job);
        if let Some(listing) = &mut daemon.listing {
            listing.started.insert(key);
        }
        let paused = daemon.record.paused().is_some() && self.store.paused.is_some();
        self.truth.start_sent(key, paused);
        self.send(daemon, Request::Start(start));
    }

    pub(crate) fn send(&mut self, daemon: &mut Daemon, request: Request) {
        let text = format!("{request:?}");
        self.note("send", [text.len() as u64, 0], || text);
        if let Some(connection) = daemon.connection.and_then(|id| self.host.connection(id))
            && connection.spawner_open
        {
            connection.to_spawner.push_back(request);
        }
    }

    pub(crate) fn ask_list(&mut self, daemon: &mut Daemon) {
        if self.is(Mutant::SkipList) {
            daemon.listed = daemon.record.now().engine;
            daemon.up = true;
            return;
        }
        daemon.listing = Some(Listing { open: daemon.open(), ..Listing::default() });
        daemon.listed = daemon.record.now().engine;
        daemon.lists_due += 1;
        self.send(daemon, Request::List);
    }

    pub(crate) fn read_reply(&mut self, daemon: &mut Daemon) {
        let connection = daemon.connection.and_then(|id| self.host.connection(id));
        let Some(reply) = connection.and_then(|connection| connection.to_daemon.pop_front()) else { return };
        let text = format!("{reply:?}");
        self.note("hear", [text.len() as u64, 0], || text);
        match reply {
            Reply::Welcome(epoch) => {
                daemon.epoch = Some(epoch);
                daemon.wake = true;
                self.ask_list(daemon);
            }
            Reply::Refused => self.truth.violate("a_new_daemon_is_heard", "hello was refused".to_owned()),
            Reply::Started(key) => self.observe(daemon, key, Seen::Alive, false),
            Reply::RefusedStart(key, true) => self.observe(daemon, key, Seen::Voided, false),
            Reply::RefusedStart(key, false) if daemon.is_open(key) => self.refused(daemon, key),
            Reply::RefusedStart(_, false) => {}
            Reply::Voided(key) => self.observe(daemon, key, Seen::Voided, false),
            Reply::Ended(key, Some(result)) => self.observe(daemon, key, Seen::Ended(result), false),
            Reply::Ended(key, None) => self.observe(daemon, key, Seen::Gone, false),
            Reply::Attempt(key, seen) => match &mut daemon.listing {
                Some(listing) => {
                    listing.lines.insert(key, seen);
                }
                // Told by itself: its shim died before it let anything run. What is open is asked for again.
                None => self.observe(daemon, key, seen, false),
            },
            Reply::Listed => self.listed(daemon),
        }
    }

    /// The first start of an attempt leaves it as if it had not been sent, but that the spawner knows of it.
    fn refused(&mut self, daemon: &mut Daemon, key: Key) {
        daemon.record.refuse(key.job);
        if daemon.first_starts.contains(&key) && !self.host.doubled.contains(&key) {
            daemon.record.undispatch(key.job);
        }
        self.coverage.hit(REFUSED);
    }

    fn listed(&mut self, daemon: &mut Daemon) {
        daemon.lists_due = daemon.lists_due.saturating_sub(1);
        if daemon.lists_due > 0 && !self.is(Mutant::TrustOldList) {
            // The answer to an older question is a stale snapshot: the youngest counts.
            if let Some(listing) = &mut daemon.listing {
                listing.lines.clear();
            }
            return;
        }
        let Some(listing) = daemon.listing.take() else { return };
        daemon.up = true;
        daemon.wake = true;
        for key in &listing.open {
            if !listing.lines.contains_key(key) && daemon.is_open(*key) {
                self.observe(daemon, *key, Seen::Absent, !listing.started.contains(key));
            }
        }
        for (key, seen) in listing.lines {
            self.observe(daemon, key, seen, !listing.started.contains(&key));
        }
    }

    /// Judges a look at an attempt, once everything known of its job is on disk.
    pub(crate) fn observe(&mut self, daemon: &mut Daemon, key: Key, seen: Seen, settled: bool) {
        let (key, seen) = self.misread(daemon, key, seen);
        if !daemon.is_saved(key.job) {
            daemon.looks.insert(key, seen);
            return;
        }
        let lease = daemon.record.lease(key.job).filter(|lease| lease.attempt.0 == key.attempt);
        let same_epoch =
            lease.is_none_or(|lease| daemon.epoch.as_ref() == Some(&lease.epoch)) || self.is(Mutant::IgnoreEpoch);
        let phase = lease.and_then(|_| daemon.record.phase(key.job));
        let unsent = lease.is_some_and(|lease| lease.dispatched.is_none());
        let observation = Observation { seen, same_epoch, settled };
        let now = daemon.record.now();
        let step = reconcile(&daemon.record, key.job, key.attempt, &observation, now);
        let step = self.misjudge(daemon, key, step);
        let known = daemon.record.last_attempt(key.job).is_some() || key.job.get() <= self.store.last_id;
        self.coverage.judged(phase, &observation, unsent, known, &step);
        self.note("judge", [key.job.get(), u64::from(key.attempt)], || format!("{key:?} {observation:?}: {step:?}"));
        self.take_step(daemon, key, step);
    }

    fn take_step(&mut self, daemon: &mut Daemon, key: Key, step: Step) {
        match step {
            Step::Report if self.is(Mutant::KillUnknown) => self.send(daemon, Request::Kill(key)),
            Step::Leave | Step::Report => {}
            Step::Record(event) => {
                let event = self.miscount(daemon, key, event);
                let forget = matches!(event, Event::Ended { .. } | Event::Released { .. });
                let twice = self.is(Mutant::StartedTwice) && matches!(event, Event::Started { .. });
                let entry = Entry { at: daemon.record.now(), change: Change::Job { id: key.job, event } };
                let again = twice.then(|| entry.clone());
                if let Err(illegal) = daemon.push(entry) {
                    self.truth.violate("only_legal_transitions", illegal);
                }
                if let Some(entry) = again {
                    daemon.note(entry);
                }
                if forget && self.is(Mutant::ForgetBeforeCommit) {
                    self.send(daemon, Request::Forget(key));
                } else if forget {
                    daemon.pending.acts.push(Act::Send(Request::Forget(key)));
                }
            }
            Step::Start => self.send_start(daemon, key),
            Step::Void => match self.mutant {
                Some(Mutant::SkipVoid) => {
                    let attempt = ci_runner_core::id::AttemptNumber(key.attempt);
                    self.take_step(daemon, key, Step::Record(Event::Released { attempt }));
                }
                _ => self.send(daemon, Request::Void(key)),
            },
            Step::Signal { grace_ms } => self.send(daemon, Request::Signal { key, grace_ms }),
            Step::Kill => self.send(daemon, Request::Kill(key)),
            Step::Forget => self.send(daemon, Request::Forget(key)),
        }
    }

    pub(crate) fn act(&mut self, daemon: &mut Daemon) {
        let Some(act) = daemon.acts.pop_front() else { return };
        match act {
            Act::Answer(client, job) => self.answer(client, job),
            Act::Send(request) => self.send(daemon, request),
            Act::Stop(key) => {
                let lease = daemon.record.lease(key.job).filter(|lease| lease.attempt.0 == key.attempt);
                match lease.map(|lease| (lease.dispatched.is_some(), lease.started.is_some())) {
                    Some((false, _)) => self.observe(daemon, key, Seen::Absent, true),
                    Some((true, true)) => self.observe(daemon, key, Seen::Alive, false),
                    Some((true, false)) if self.is(Mutant::SkipVoid) => self.take_step(daemon, key, Step::Void),
                    // Its start is not answered yet: the answer will be judged.
                    Some((true, false)) | None => {}
                }
            }
        }
    }
}
