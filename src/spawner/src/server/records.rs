//! Records that could be written nowhere when their jobs ended: they are here only, until there is room, their daemon has taken
//! them, or the program that takes our place has.

use super::Server;
use super::attempt::State;
use crate::shim::{Note, tell};
use crate::sys;

impl Server {
    /// True while a result that nobody has heard is here only, and there may be room for it yet: whoever comes next would call
    /// it lost.
    pub(super) fn keeps_records(&self) -> bool {
        let is_wanted = self.lifeline.as_ref().is_none_or(|lifeline| lifeline.pipe.is_some());
        let mut states = self.attempts.values();
        let any = !self.homeless && is_wanted && states.any(|state| matches!(state, State::Ended(Some(_))));
        any && (self.closed.is_none() || !sys::host_goes_down())
    }

    /// What is here only goes to the program that takes our place: it reads these as if their shims had told them again.
    pub(super) fn hand_on_records(&mut self) {
        let kept = self.attempts.values().filter_map(|state| match state {
            State::Ended(Some(record)) => Some((**record).clone()),
            _ => None,
        });
        for record in kept {
            tell::note(&self.shared.notes, &Note::Record(record));
        }
    }

    /// Records that could not be written when their jobs ended: perhaps there is room now.
    pub(super) fn write_kept_records(&mut self) {
        for state in self.attempts.values_mut() {
            if let State::Ended(Some(record)) = state {
                let attempts = &self.shared.attempts;
                if attempts.write_exit_aside(record).and_then(|()| attempts.publish_exit(&record.key)).is_ok() {
                    *state = State::Ended(None);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{AttemptKey, ExitRecord};
    use crate::server::takeover::tests::server;
    use crate::shim::clock::Started;

    /// A spawner that nobody is connected to, told to end, with the record of an attempt whose directory is missing.
    fn told_to_end(dir: &std::path::Path) -> (Server, AttemptKey) {
        let mut server = server(dir);
        let key: AttemptKey = "0123abcd-7-1".parse().expect("a key");
        let record: ExitRecord = Started::now().failed(&key, "for a test");
        server.attempts.insert(key.clone(), State::Ended(Some(Box::new(record))));
        server.closed = Some("the spawner was asked to end");
        (server, key)
    }

    /// Its daemon called the job lost.
    #[test]
    fn who_is_told_to_end_first_writes_what_found_no_room() {
        let dir = tempfile::tempdir().expect("a directory");
        let (mut server, key) = told_to_end(dir.path());
        server.write_kept_records();
        assert!(!server.is_done());
        server.shared.attempts.make(&key).expect("made");
        server.write_kept_records();
        assert!(server.shared.attempts.read_exit(&key).expect("read").is_some());
        assert!(server.is_done());
    }

    #[test]
    fn nobody_stays_for_what_can_be_written_nowhere() {
        let dir = tempfile::tempdir().expect("a directory");
        let (mut server, _) = told_to_end(dir.path());
        server.homeless = true;
        assert!(server.is_done());
    }

    #[test]
    fn who_comes_after_reads_what_found_no_room() {
        let dir = tempfile::tempdir().expect("a directory");
        let (mut server, key) = told_to_end(dir.path());
        server.hand_on_records();
        server.attempts.clear();
        server.shared.attempts.make(&key).expect("made");
        server.look_at(&key);
        assert!(matches!(server.attempts.get(&key), Some(State::Ended(Some(_)))));
    }
}
