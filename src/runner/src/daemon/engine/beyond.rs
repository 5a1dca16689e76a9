//! What a spawner knows beyond the store: its state was put back from an older copy while the runtime directory stayed.
//!
//! The attempts it tells of are of jobs that the store has forgotten. A new job with such an id would be answered with the
//! other's result and never run, so ids go on behind them, and an attempt that is there already is never claimed as new. They are
//! left alone until they end; meanwhile the slots they hold are nobody else's.

use super::*;
use ci_runner_spawner::protocol::{Request, Slot};

/// Name of the trouble among the host's.
const PROBLEM: &str = "state";

/// Attempts that no job of the store can have had.
#[derive(Default)]
pub(super) struct Beyond {
    /// Jobs that the store does not know to have come so far, with their highest attempt.
    highest: HashMap<JobId, u32>,
    /// Those that may run, with the slots they hold as far as that was told.
    alive: BTreeMap<AttemptKey, (Way, Option<Slot>)>,
    /// Those that are over, and whose directories are still there.
    over: BTreeMap<AttemptKey, Way>,
}

impl Beyond {
    /// It will be told anew what this side has.
    pub(super) fn forget_side(&mut self, way: Way) {
        self.alive.retain(|_, (side, _)| *side != way);
        self.over.retain(|_, side| *side != way);
    }

    fn has(&self, id: JobId) -> bool {
        self.alive.keys().chain(self.over.keys()).any(|key| key.job == id.get())
    }
}

impl Engine {
    /// Takes an attempt that no job of the store can have had. It is left alone, and people are told.
    pub(super) fn saw_beyond(&mut self, way: Way, id: JobId, key: &AttemptKey, seen: &Seen) {
        let highest = self.beyond.highest.entry(id).or_default();
        *highest = key.attempt.max(*highest);
        self.record.set_last_id(id.get());
        self.taken_ids = self.taken_ids.max(id.get());
        match seen {
            Seen::Alive | Seen::Leftovers => {
                log::warn!(job = id.get(); "attempt {key} is of our store, but no job knows it: left alone");
                self.beyond.alive.entry(key.clone()).or_insert((way, None));
            }
            Seen::Absent | Seen::NotBegan | Seen::Voided | Seen::Ended(_) | Seen::Gone => {
                let how = match seen {
                    Seen::Ended(result) => format!("is over ({result})"),
                    _ => "is over".to_owned(),
                };
                log::warn!(job = id.get(); "attempt {key} is of our store, but no job knows it: it {how}");
                self.beyond.alive.remove(key);
                self.beyond.over.insert(key.clone(), way);
            }
        }
        self.shut_slots();
        let text = format!(
            "the spawner has attempts that the store does not know, such as {key}: the state was put back from an older copy. \
             New jobs get ids behind theirs, and they are left alone until they end; `ci-runner restore` puts back a state \
             without mixing it with what ran since"
        );
        self.problems.entry(PROBLEM).or_insert(text);
    }

    /// Where an attempt is that no job knows.
    pub(super) fn place_beyond(&mut self, key: &AttemptKey, slot: &Slot) {
        if let Some((_, place)) = self.beyond.alive.get_mut(key) {
            *place = Some(slot.clone());
            self.shut_slots();
        }
    }

    /// Nobody gets the slots of attempts that no job knows: the spawner would refuse the start until they are over.
    pub(super) fn shut_slots(&mut self) {
        let slots = self.beyond.alive.values().filter_map(|(_, slot)| slot.as_ref());
        let places = slots.filter_map(|slot| Some((self.record.pool_id(&slot.pool)?, slot.number)));
        let places: Vec<(PoolId, u32)> = places.collect();
        self.record.set_shut(places);
    }

    /// What those who wait are told of such slots.
    pub(super) fn slots_beyond(&self) -> Option<String> {
        let held = self.beyond.alive.iter().filter(|(_, (_, slot))| slot.is_some());
        let held: Vec<String> = held.map(|(key, _)| key.to_string()).take(3).collect();
        let text = format!("slots are held by attempts of jobs that the store forgot, such as {}", held.join(", "));
        (!held.is_empty()).then_some(text)
    }

    /// Lets go of what is over and stands in nobody's way: of jobs that are not open, whose ids are never given again. Where none is
    /// left, all is as it should be.
    pub(super) fn settle_beyond(&mut self) {
        if self.beyond.highest.is_empty() || !self.sides.iter().all(|side| side.listed) {
            return;
        }
        let is_open = |id: JobId, record: &Record| record.phase(id).is_some();
        let over = self.beyond.over.iter().map(|(key, side)| (key.clone(), *side));
        let over: Vec<_> =
            over.filter(|(key, _)| JobId::new(key.job).is_none_or(|id| !is_open(id, &self.record))).collect();
        for (key, way) in over {
            self.sides.send(way, Request::Forget(key.clone()));
            self.beyond.over.remove(&key);
        }
        let ids: Vec<JobId> = self.beyond.highest.keys().copied().collect();
        for id in ids {
            if !self.beyond.has(id) && !is_open(id, &self.record) {
                self.beyond.highest.remove(&id);
            }
        }
        if self.beyond.highest.is_empty() {
            log::info!("the spawner has no attempt any more that the store does not know");
            self.problems.remove(PROBLEM);
            self.changed = true;
        }
    }

    /// Whether this attempt is one that no job of the store can have had, as others of its job were.
    pub(super) fn is_of_beyond(&self, id: JobId, attempt: u32) -> bool {
        let highest = self.beyond.highest.get(&id);
        highest.is_some_and(|highest| attempt <= *highest || self.record.phase(id).is_none())
    }

    /// Why this attempt may not be started: another had its name.
    pub(super) fn is_beyond(&self, id: JobId, attempt: u32) -> Option<String> {
        let taken = self.beyond.highest.get(&id).is_some_and(|highest| attempt <= *highest);
        taken.then(|| {
            "an attempt of this name ran already, before the state was put back from an older copy; `ci-runner retry` \
             queues the job anew"
                .to_owned()
        })
    }
}
