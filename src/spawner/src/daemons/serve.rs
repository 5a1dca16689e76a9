//! What a daemon may ask, and what it gets: the same words for every kind of spawner.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;

use super::check::{MS_MAX, check_start, judge_hello};
use super::{Calls, Connection, Daemons};
use crate::attempts::Attempts;
use crate::dirs::Dirs;
use crate::failpoint::{self, hit};
use crate::protocol::{AttemptKey, Enforces, PROTOCOL_VERSION, Reply, Request, Seen, Slot, Start, names};
use crate::wire::{self, Received};

/// Packets read from one connection in one turn.
const PACKETS_A_TURN: usize = 64;
/// Attempts told between two looks at whether the peer still takes them.
const LISTED_AT_ONCE: usize = 64;
/// No directory is made for another attempt while there are so many that nothing runs of: a daemon asks to forget those that
/// it knows the end of. Each takes up to four inodes of `/run`, which the whole host needs.
const RESTING_MAX: usize = 5_000;
/// The same for stores; each is noted in a file until the next boot.
const STORES_MAX: usize = 256;

/// What a job is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// SIGTERM, kill after so many milliseconds.
    Stop(u64),
    /// Kill.
    Kill,
}

/// What can be done about an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Never began, can be started.
    Free,
    /// Can never be started.
    Voided,
    /// Something of it may run.
    Alive,
    /// Over.
    Over,
}

/// What a spawner keeps of an attempt, in the words that both kinds share.
pub(crate) trait Known {
    /// What can be done about it.
    fn standing(&self) -> Standing;

    /// True while something of it may run.
    fn is_alive(&self) -> bool {
        self.standing() == Standing::Alive
    }
}

/// What a spawner keeps of all attempts.
pub(crate) trait Table {
    /// Those of a store.
    fn of_store(&self, store: &str) -> Vec<AttemptKey>;
    /// What can be done about this one; None: it is not known.
    fn standing(&self, key: &AttemptKey) -> Option<Standing>;
    /// True when there is no room for another one.
    fn is_full(&self) -> bool;
}

impl<State: Known> Table for HashMap<AttemptKey, State> {
    fn of_store(&self, store: &str) -> Vec<AttemptKey> {
        self.keys().filter(|key| key.store == store).cloned().collect()
    }

    fn standing(&self, key: &AttemptKey) -> Option<Standing> {
        self.get(key).map(Known::standing)
    }

    fn is_full(&self) -> bool {
        self.len() >= RESTING_MAX && self.values().filter(|state| !state.is_alive()).count() >= RESTING_MAX
    }
}

/// What a spawner says of itself.
pub(crate) struct Introduction {
    /// Life of its directory.
    pub(crate) epoch: String,
    /// Attempts have a cgroup each.
    pub(crate) cgroup: bool,
    /// Daemons may say where logs and slots are.
    pub(crate) dirs: bool,
    /// Which limits jobs can be made to keep to.
    pub(crate) enforces: Enforces,
}

/// A spawner: what differs between their kinds, and below it what does not.
pub(crate) trait Serve {
    /// The connections.
    fn daemons(&mut self) -> &mut Daemons;
    /// Whether this user, not root, may use it.
    fn lets_in(&self, uid: u32) -> bool;
    /// The highest generation of a store's daemons so far.
    fn highest_generation(&self, store: &str) -> u64;
    /// How many stores there were so far.
    fn stores(&self) -> io::Result<usize>;
    /// Notes a higher one, on the disk.
    fn keep_generation(&mut self, store: &str, generation: u64) -> io::Result<()>;
    /// What it says of itself.
    fn introduction(&self) -> Introduction;
    /// The attempts' directory.
    fn directory(&self) -> &Attempts;
    /// What it knows of attempts.
    fn known(&self) -> &dyn Table;
    /// How it is told in a list; None: forgotten meanwhile.
    fn seen(&mut self, key: &AttemptKey) -> Option<Seen>;
    /// Starts an attempt that is unknown or free; the connection is told, now or when it has begun.
    fn start_asked(&mut self, at: usize, start: Start, fds: Vec<OwnedFd>);
    /// The answer to a `start` or `void` of an attempt that cannot be started (any more); None: it follows.
    fn what_is(&mut self, key: &AttemptKey) -> Option<Reply>;
    /// Makes the attempt's directory and takes its lock, with nothing of an earlier try in it. Err: why not.
    fn take_lock(&mut self, key: &AttemptKey) -> Result<OwnedFd, String>;
    /// It can never be started: so it is on the disk.
    fn voided(&mut self, key: &AttemptKey);
    /// Passes a wish on, and watches that it comes true.
    fn wish(&mut self, key: &AttemptKey, wish: Wish);
    /// Its directory is gone.
    fn forgotten(&mut self, key: &AttemptKey);

    /// The connection at this place.
    fn conn(&mut self, at: usize) -> &mut Connection {
        &mut self.daemons().connections[at]
    }

    /// Reads what came and does it, then lets in who is new.
    fn serve(&mut self, calls: Calls) {
        for at in calls.known {
            self.read_connection(at);
        }
        if calls.new {
            self.accept();
        }
    }

    /// Lets in who waits. A user that may not use this spawner is told so.
    fn accept(&mut self) {
        while let Some((mut conn, uid)) = self.daemons().accept() {
            match uid {
                Ok(uid) if uid == 0 || self.lets_in(uid) => {}
                Ok(uid) => conn.refuse(format!("user {uid} may not use this spawner")),
                Err(error) => conn.refuse(format!("cannot tell who connects: {error}")),
            }
            self.daemons().connections.push(conn);
        }
        self.daemons().make_room();
    }

    /// Packets of one connection.
    fn read_connection(&mut self, at: usize) {
        let mut buffer = std::mem::take(&mut self.daemons().buffer);
        self.read_packets(at, &mut buffer);
        self.daemons().buffer = buffer;
    }

    fn read_packets(&mut self, at: usize, buffer: &mut [u8]) {
        for _ in 0..PACKETS_A_TURN {
            let conn = self.conn(at);
            if conn.closing {
                return;
            }
            match wire::receive(&conn.socket, buffer) {
                Received::Nothing => return,
                Received::Closed => conn.closing = true,
                Received::Malformed(why) => conn.refuse(why),
                Received::Packet(bytes, fds) => self.handle_packet(at, &buffer[..bytes], fds),
            }
        }
    }

    /// A packet: one start with its descriptors, or any number of other requests.
    fn handle_packet(&mut self, at: usize, packet: &[u8], fds: Vec<OwnedFd>) {
        let requests: Vec<Request> = match serde_json::from_slice(packet) {
            Ok(requests) => requests,
            Err(error) => return self.conn(at).refuse(format!("a packet does not parse: {error}")),
        };
        if let ([Request::Start(start)], true) = (requests.as_slice(), self.conn(at).store.is_some()) {
            return self.handle_start(at, start.clone(), fds);
        }
        if !fds.is_empty() {
            return self.conn(at).refuse("descriptors came with something else than one start");
        }
        for request in requests {
            if self.conn(at).closing {
                return;
            }
            self.handle(at, request);
        }
    }

    /// One request.
    fn handle(&mut self, at: usize, request: Request) {
        let store = self.conn(at).store.clone();
        match (request, store) {
            (Request::Hello { protocol, store, generation }, None) => self.hello(at, protocol, store, generation),
            (Request::Hello { .. }, Some(_)) => self.conn(at).refuse("a second hello"),
            (_, None) => self.conn(at).refuse("the first message is not hello"),
            (Request::Start(_), _) => self.conn(at).refuse("a start shares its packet"),
            (Request::Ping, _) => self.conn(at).say(Reply::Pong),
            (Request::Dirs { log_dir, tmp_dir }, _) => self.take_dirs(at, &log_dir, &tmp_dir),
            (Request::List, Some(store)) => {
                let mut keys = self.known().of_store(&store);
                keys.sort_unstable_by(|a, b| b.cmp(a));
                self.conn(at).listing = Some(keys);
            }
            (Request::Void(key), _) if self.is_own(at, &key) => self.void(at, key),
            (Request::Signal { key, grace_ms }, _) if self.is_own(at, &key) => {
                self.wish(&key, Wish::Stop(grace_ms.min(MS_MAX)));
                hit(failpoint::SPAWNER_AFTER_SIGNAL);
            }
            (Request::Kill(key), _) if self.is_own(at, &key) => {
                self.wish(&key, Wish::Kill);
                hit(failpoint::SPAWNER_AFTER_KILL);
            }
            (Request::Forget(key), _) if self.is_own(at, &key) => self.forget(&key),
            (Request::Void(_) | Request::Signal { .. } | Request::Kill(_) | Request::Forget(_), _) => {}
        }
    }

    /// Refuses the connection when the attempt is of another store, or its name is none.
    fn is_own(&mut self, at: usize, key: &AttemptKey) -> bool {
        let conn = self.conn(at);
        let own = conn.store.as_deref() == Some(key.store.as_str()) && key.job > 0 && key.attempt > 0;
        if !own {
            conn.refuse(format!("attempt {key} is not of this connection's store"));
        }
        own
    }

    /// Whose daemon it is. Older daemons of the store are let go, and never heard again.
    fn hello(&mut self, at: usize, protocol: u32, store: String, generation: u64) {
        let highest = match judge_hello(protocol, &store, generation, |store| self.highest_generation(store)) {
            Ok(highest) => highest,
            Err(why) => return self.conn(at).refuse(why),
        };
        if generation > highest
            && let Err(why) = self.note_generation(&store, highest, generation)
        {
            return self.conn(at).refuse(format!("cannot note generation {generation}: {why}"));
        }
        for (other, conn) in self.daemons().connections.iter_mut().enumerate() {
            if other != at && conn.store.as_deref() == Some(store.as_str()) {
                conn.closing = true;
            }
        }
        let Introduction { epoch, cgroup, dirs, enforces } = self.introduction();
        let conn = self.conn(at);
        conn.store = Some(store);
        conn.say(Reply::Welcome {
            protocol: PROTOCOL_VERSION,
            epoch,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            cgroup,
            pings: true,
            dirs,
            enforces,
        });
    }

    /// Err: why it cannot be noted.
    fn note_generation(&mut self, store: &str, highest: u64, generation: u64) -> Result<(), String> {
        if highest == 0 && self.stores().map_err(|error| error.to_string())? >= STORES_MAX {
            return Err(format!("{STORES_MAX} other stores have been here since the host was started"));
        }
        self.keep_generation(store, generation).map_err(|error| error.to_string())
    }

    /// Where the daemon's attempts have their logs and slots. A spawner of root believes its policy alone.
    fn take_dirs(&mut self, at: usize, log_dir: &str, tmp_dir: &str) {
        if !self.introduction().dirs {
            return self.conn(at).refuse("the directories of this spawner are in its policy");
        }
        match Dirs::told(log_dir, tmp_dir) {
            Ok(dirs) => self.conn(at).dirs = Some(dirs),
            Err(why) => self.conn(at).refuse(format!("dirs: {why}")),
        }
    }

    /// The slot that a living attempt holds, where daemons choose slots.
    fn held_slot(&self, _key: &AttemptKey) -> Option<Slot> {
        None
    }

    /// A start that came with its descriptors.
    fn handle_start(&mut self, at: usize, start: Start, fds: Vec<OwnedFd>) {
        if !self.is_own(at, &start.key) {
            return;
        }
        if let Err(why) = check_start(&start, fds.len()) {
            return self.conn(at).refuse(format!("start of {}: {why}", start.key));
        }
        match self.known().standing(&start.key) {
            None if self.known().is_full() => self.refuse_more(at, start.key),
            None | Some(Standing::Free) => self.start_asked(at, start, fds),
            Some(_) => self.say_what_is(at, &start.key),
        }
    }

    /// Answers with what is there.
    fn say_what_is(&mut self, at: usize, key: &AttemptKey) {
        if let Some(reply) = self.what_is(key) {
            self.conn(at).say(reply);
        }
    }

    /// It shall never be started, if it has not been.
    fn void(&mut self, at: usize, key: AttemptKey) {
        match self.known().standing(&key) {
            None if self.known().is_full() => return self.refuse_more(at, key),
            None | Some(Standing::Free) => {}
            Some(Standing::Voided) => return self.conn(at).say(Reply::Voided { key }),
            Some(_) => return self.say_what_is(at, &key),
        }
        let reply = match self.write_void(&key) {
            Ok(()) => {
                self.voided(&key);
                hit(failpoint::SPAWNER_AFTER_VOID);
                Reply::Voided { key }
            }
            Err(why) => Reply::RefusedStart { key, why, voided: false, closed: false },
        };
        self.conn(at).say(reply);
    }

    /// There are too many already.
    fn refuse_more(&mut self, at: usize, key: AttemptKey) {
        let why = format!("{RESTING_MAX} attempts that do not run are to be forgotten first");
        self.conn(at).say(Reply::RefusedStart { key, why, voided: false, closed: false });
    }

    /// The mark is made under the lock: no shim can begin meanwhile.
    fn write_void(&mut self, key: &AttemptKey) -> Result<(), String> {
        let _lock = self.take_lock(key)?;
        hit(failpoint::SPAWNER_BEFORE_VOID);
        let marked = self.directory().mark(key, names::VOIDED);
        marked.map_err(|error| format!("cannot void attempt {key}: {error}"))
    }

    /// Ended attempts have no lock holder: their shim was reaped, or their lock was taken when they were taken over.
    fn forget(&mut self, key: &AttemptKey) {
        if matches!(self.known().standing(key), None | Some(Standing::Alive)) {
            return;
        }
        hit(failpoint::SPAWNER_BEFORE_FORGET);
        if let Err(error) = self.directory().remove(key) {
            say!("{key}: cannot remove its directory: {error}");
        }
        self.forgotten(key);
        hit(failpoint::SPAWNER_AFTER_FORGET);
    }

    /// Makes listings, sends everything, and lets go of connections that are over.
    fn flush(&mut self) {
        for at in 0..self.daemons().connections.len() {
            self.conn(at).flush();
            while self.conn(at).wants_listing() {
                self.list_some(at);
                self.conn(at).flush();
            }
        }
        self.daemons().connections.retain(|conn| !conn.closing);
    }

    /// The next piece of an answer to `list`.
    fn list_some(&mut self, at: usize) {
        let Some(mut listing) = self.conn(at).listing.take() else { return };
        for _ in 0..LISTED_AT_ONCE {
            let Some(key) = listing.pop() else {
                return self.conn(at).say(Reply::Listed);
            };
            if let Some(seen) = self.seen(&key) {
                let slot = self.held_slot(&key);
                self.conn(at).say(Reply::Attempt { key, seen, slot });
            }
        }
        self.conn(at).listing = Some(listing);
    }
}
