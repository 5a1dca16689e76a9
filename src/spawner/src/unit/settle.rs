//! What becomes of an attempt whose shim has ended: its record is told, or what it left is ended and it is lost.

use super::attempt::{Call, Leftovers, Live, State};
use super::server::Server;
use super::shim::Note;
use super::verdict;
use super::watch::{FINISH_PAUSE_MS, KILL_PAUSE_MS, KILL_PAUSE_MS_MAX, UNREADABLE_PAUSE_MS};
use crate::failpoint::{self, hit};
use crate::protocol::{AttemptKey, ExitRecord, Reply};
use crate::record;
use crate::shim::clock::Started;
use crate::sys;

impl Server {
    /// The shim of this attempt has ended.
    pub(super) fn shim_gone(&mut self, key: &AttemptKey) {
        // Both its pidfd and SIGCHLD tell; the second time its state is another one, which stays.
        if !matches!(self.attempts.get(key), Some(State::Live(_))) {
            return;
        }
        let Some(State::Live(live)) = self.attempts.remove(key) else { return };
        hit(failpoint::SPAWNER_BEFORE_ENDED);
        self.read_notes();
        self.settle(key, Some(live));
    }

    /// Finds out what became of an attempt without a shim.
    pub(super) fn settle(&mut self, key: &AttemptKey, live: Option<Live>) {
        let look = || {
            let began = self.may_have_begun(key)?;
            Ok::<_, std::io::Error>((self.shared.attempts.read_exit(key)?, began))
        };
        let (record, began) = match look() {
            Ok(seen) => seen,
            Err(error) => {
                say!("{key}: cannot look at what its shim left: {error}; tried again");
                let again_ms = sys::boottime_ms() + UNREADABLE_PAUSE_MS;
                self.attempts.insert(key.clone(), State::Unidentified { again_ms, wish: None });
                return;
            }
        };
        let noted = self.noted.remove(key);
        if let Some(record) = record {
            return self.ended(key, record, State::Ended(None));
        }
        if let Some(Note::Record(record)) = noted {
            let state = State::Ended(Some(Box::new(record.clone())));
            return self.ended(key, record, state);
        }
        // The shim's own word is better than a directory that is gone.
        if !began || matches!(noted, Some(Note::Refused(..))) {
            let why = match (live.map(|live| live.call), noted) {
                (Some(Call::Failed(why)), _) => why,
                (_, Some(Note::Refused(_, why))) => why,
                _ => "its shim ended before it began".to_owned(),
            };
            self.group(key).kill();
            self.release(key);
            self.attempts.insert(key.clone(), State::NotBegan);
            let reply =
                Reply::RefusedStart { key: key.clone(), why: record::shortened(&why), voided: false, closed: false };
            self.daemons.tell(&key.store, reply, false);
            return;
        }
        let (group, ending) = live.map_or_else(|| (self.group(key), None), |live| (live.group, live.over));
        say!("{key}: its shim ended without a record");
        let leftovers = Leftovers { group, ending, again_ms: 0, pause_ms: KILL_PAUSE_MS };
        self.attempts.insert(key.clone(), State::Leftovers(leftovers));
        self.clean(key, sys::boottime_ms());
    }

    pub(super) fn ended(&mut self, key: &AttemptKey, record: ExitRecord, state: State) {
        self.group(key).kill();
        hit(failpoint::UNIT_BEFORE_RELEASE);
        self.release(key);
        self.attempts.insert(key.clone(), state);
        self.daemons.tell(&key.store, Reply::Ended { key: key.clone(), record: Some(record) }, false);
    }

    pub(super) fn release(&mut self, key: &AttemptKey) {
        self.manager.release(key);
    }

    /// One round over what a dead shim left; says the end when nothing is left.
    pub(super) fn clean(&mut self, key: &AttemptKey, now: u64) {
        let Some(State::Leftovers(leftovers)) = self.attempts.get_mut(key) else { return };
        if !leftovers.group.is_empty().unwrap_or(false) {
            leftovers.group.kill();
            leftovers.again_ms = now + leftovers.pause_ms;
            leftovers.pause_ms = (leftovers.pause_ms * 2).min(KILL_PAUSE_MS_MAX);
            if !leftovers.group.is_known() {
                leftovers.again_ms = now + FINISH_PAUSE_MS;
                self.manager.look(key);
            }
            return;
        }
        let Ok(ending) = verdict::read(&self.shared.attempts, key) else {
            leftovers.again_ms = now + UNREADABLE_PAUSE_MS;
            return;
        };
        let ending = ending.or_else(|| leftovers.ending.take());
        let known = ending.and_then(|ending| Some((ending.result.clone()?, ending)));
        if let Some((result, ending)) = known {
            let record = ending.record(key, result, Started::at_wall(ending.ended_wall_ms));
            let attempts = &self.shared.attempts;
            let written = attempts.write_exit_aside(&record).and_then(|()| attempts.publish_exit(key));
            let state = State::Ended(written.is_err().then(|| Box::new(record.clone())));
            return self.ended(key, record, state);
        }
        self.release(key);
        self.attempts.insert(key.clone(), State::Lost);
        self.daemons.tell(&key.store, Reply::Ended { key: key.clone(), record: None }, false);
    }
}
