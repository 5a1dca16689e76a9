//! The spawner: what it does with a message, and what it looks after by itself. Follows `src/spawner/src/protocol.rs`.

use crate::clock::Clock;
use crate::host::{Happened, Host, Process, Shim, Spawner, Stage};
use crate::mutant::Mutant;
use crate::wire::{Connection, Key, Reply, Request, Start};
use ci_runner_core::id::Epoch;
use ci_runner_core::reconcile::Seen;
use std::collections::VecDeque;

/// A shim that does not end its job is killed with it so long after it should have: the backstop.
const BACKSTOP_MS: i64 = 30_000;

/// What the spawner can do next by itself.
#[derive(Clone, Copy, Debug)]
pub enum Duty {
    /// The directory is not the one it knew: make a new epoch.
    NewEpoch,
    /// Kill what the job left.
    KillLeftovers(Key),
    /// Kill an attempt whose shim failed.
    Backstop(Key),
    /// Tell an end.
    TellEnd(Key),
}

impl Host {
    /// A spawner starts. In the same boot the epoch file stands, if it is there.
    pub fn start_spawner(&mut self, clock: &Clock) {
        let watched = self.processes.iter().map(|process| process.start.key).collect();
        self.spawner = Some(Spawner { watched });
        if self.marked.as_deref() != Some(&clock.boot_id()) {
            self.mark(clock);
        }
    }

    /// The spawner is killed; shims and jobs are not.
    pub fn kill_spawner(&mut self) {
        self.spawner = None;
        self.close_connections();
    }

    fn mark(&mut self, clock: &Clock) {
        self.life += 1;
        self.marked = Some(clock.boot_id());
        self.close_connections();
    }

    fn close_connections(&mut self) {
        for connection in &mut self.connections {
            connection.spawner_open = false;
            connection.to_spawner.clear();
        }
        self.connections.retain(|connection| connection.daemon_open);
    }

    /// A daemon connects; None when no spawner listens.
    pub fn connect(&mut self, id: u64, generation: u64) -> Option<u64> {
        self.spawner.as_ref()?;
        self.connections.push(Connection {
            id,
            generation: None,
            to_spawner: VecDeque::from([Request::Hello { generation }]),
            to_daemon: VecDeque::new(),
            daemon_open: true,
            spawner_open: true,
            late_until: i64::MIN,
        });
        Some(id)
    }

    /// The connection of this number.
    pub fn connection(&mut self, id: u64) -> Option<&mut Connection> {
        self.connections.iter_mut().find(|connection| connection.id == id)
    }

    /// Something the spawner has to do, other than read.
    pub fn duty(&self, time: i64, mutant: Option<Mutant>) -> Option<Duty> {
        let spawner = self.spawner.as_ref()?;
        if self.marked.is_none() {
            return Some(Duty::NewEpoch);
        }
        spawner.watched.iter().find_map(|key| match self.process(*key) {
            None => Some(Duty::TellEnd(*key)),
            Some(process) if process.shim == Shim::Dead => match mutant {
                Some(Mutant::IgnoreLeftovers) => Some(Duty::TellEnd(*key)),
                _ => (process.dies_at <= time).then_some(Duty::KillLeftovers(*key)),
            },
            Some(process) if mutant != Some(Mutant::NeverKill) && backstop_at(process) <= time => {
                Some(Duty::Backstop(*key))
            }
            Some(_) => None,
        })
    }

    /// When a [`Duty`] comes up by time alone.
    pub fn duty_time(&self, time: i64) -> Option<i64> {
        self.spawner.as_ref()?;
        self.processes.iter().flat_map(|process| [backstop_at(process), process.dies_at]).filter(|at| *at > time).min()
    }

    /// Does it.
    pub fn perform(&mut self, duty: Duty, clock: &Clock) {
        match duty {
            Duty::NewEpoch => self.mark(clock),
            Duty::KillLeftovers(key) | Duty::Backstop(key) => {
                self.processes.retain(|process| process.start.key != key);
            }
            Duty::TellEnd(key) => {
                if let Some(spawner) = &mut self.spawner {
                    spawner.watched.remove(&key);
                }
                // A shim that was killed before `began` ran nothing: that is no end.
                let reply = match self.look(key, None) {
                    Seen::Ended(result) => Reply::Ended(key, Some(result)),
                    seen @ (Seen::NotBegan | Seen::Voided) => Reply::Attempt(key, seen),
                    Seen::Absent | Seen::Alive | Seen::Gone | Seen::Leftovers => Reply::Ended(key, None),
                };
                if let Some(connection) =
                    self.connections.iter_mut().rev().find(|one| one.spawner_open && one.generation.is_some())
                {
                    connection.to_daemon.push_back(reply);
                }
            }
        }
    }

    /// Reads one message of one connection.
    pub fn read(&mut self, at: usize, clock: &Clock, mutant: Option<Mutant>) -> Option<Request> {
        if self.marked.is_none() {
            self.mark(clock);
            return None;
        }
        let request = self.connections[at].to_spawner.pop_front()?;
        let id = self.connections[at].id;
        let replies = match &request {
            Request::Hello { generation } => self.hello(id, *generation, clock, mutant),
            _ if self.connections[at].generation.is_none() => vec![Reply::Refused],
            Request::Start(start) => vec![self.start(start, clock.time, mutant)],
            Request::Void(key) => self.void(*key, mutant).into_iter().collect(),
            Request::Signal { key, grace_ms } => self.signal(*key, *grace_ms, clock.time),
            Request::Kill(key) => self.kill(*key, clock.time, mutant),
            Request::List => self.list(mutant),
            Request::Forget(key) => self.forget(*key),
        };
        if let Some(connection) = self.connection(id) {
            connection.to_daemon.extend(replies);
        }
        Some(request)
    }

    fn hello(&mut self, id: u64, generation: u64, clock: &Clock, mutant: Option<Mutant>) -> Vec<Reply> {
        let is_newer = generation > self.generation;
        let is_heard = is_newer || (generation == self.generation && mutant != Some(Mutant::RefuseSameGeneration));
        if !is_heard && mutant != Some(Mutant::SkipGenerationCheck) {
            self.connections.retain_mut(|connection| {
                connection.spawner_open &= connection.id != id;
                connection.id != id || connection.daemon_open
            });
            return vec![Reply::Refused];
        }
        self.generation = generation;
        if mutant != Some(Mutant::SkipGenerationCheck) {
            self.connections.retain(|connection| connection.id == id);
        }
        if let Some(connection) = self.connection(id) {
            connection.generation = Some(generation);
        }
        vec![Reply::Welcome(Epoch::new(&self.epoch(clock)))]
    }

    fn start(&mut self, start: &Start, time: i64, mutant: Option<Mutant>) -> Reply {
        let key = start.key;
        if self.dirs.get(&key).is_some_and(|dir| dir.voided) {
            return Reply::RefusedStart(key, true);
        }
        match self.process(key).map(|process| process.shim) {
            Some(Shim::Alive | Shim::Stopped) if mutant != Some(Mutant::IgnoreStartLock) => return Reply::Started(key),
            Some(Shim::Dead) => return Reply::Attempt(key, Seen::Leftovers),
            Some(_) | None => {}
        }
        let again = mutant == Some(Mutant::IgnoreBegan);
        if let Some(dir) = self.dirs.get(&key).filter(|dir| dir.exit.is_some() || (dir.began && !again)) {
            return Reply::Ended(key, dir.exit.clone());
        }
        let serial = self.dir(key).serial;
        if std::mem::take(&mut self.fork_fails) {
            return Reply::RefusedStart(key, false);
        }
        self.happened.push(Happened::Forked(start.clone()));
        self.processes.push(Process {
            start: start.clone(),
            serial,
            stage: Stage::Forked,
            shim: Shim::Alive,
            script: self.script(key),
            timeout_at: time.saturating_add(start.timeout_ms),
            timed_out: false,
            term: false,
            kill_at: None,
            kill_asked: None,
            children: false,
            dies_at: i64::MIN,
        });
        if let Some(spawner) = &mut self.spawner {
            spawner.watched.insert(key);
        }
        Reply::Started(key)
    }

    fn void(&mut self, key: Key, mutant: Option<Mutant>) -> Option<Reply> {
        if let Some(process) = self.process(key) {
            return (process.shim != Shim::Dead).then_some(Reply::Started(key));
        }
        if let Some(dir) = self.dirs.get(&key).filter(|dir| dir.began || dir.exit.is_some()) {
            return Some(Reply::Ended(key, dir.exit.clone()));
        }
        if mutant != Some(Mutant::ForgetVoid) {
            self.dir(key).voided = true;
            self.happened.push(Happened::Voided(key));
        }
        Some(Reply::Voided(key))
    }

    fn signal(&mut self, key: Key, grace_ms: u64, time: i64) -> Vec<Reply> {
        if let Some(process) = self.process_mut(key) {
            process.term = true;
            let kill_at = time.saturating_add(i64::try_from(grace_ms).unwrap_or(i64::MAX));
            process.kill_at = Some(process.kill_at.map_or(kill_at, |earlier| earlier.min(kill_at)));
        }
        Vec::new()
    }

    fn kill(&mut self, key: Key, time: i64, mutant: Option<Mutant>) -> Vec<Reply> {
        self.happened.push(Happened::KillAsked(key));
        if let Some(process) = self.process_mut(key).filter(|_| mutant != Some(Mutant::NeverKill)) {
            process.kill_asked.get_or_insert(time);
            process.kill_at = Some(time);
            process.kill();
        }
        Vec::new()
    }

    fn list(&mut self, mutant: Option<Mutant>) -> Vec<Reply> {
        let mut keys: Vec<Key> = self.dirs.keys().copied().collect();
        keys.extend(self.processes.iter().map(|process| process.start.key));
        keys.sort_unstable();
        keys.dedup();
        let lines = keys.into_iter().map(|key| Reply::Attempt(key, self.look(key, mutant)));
        lines.chain([Reply::Listed]).collect()
    }

    /// What a look at one attempt shows.
    pub fn look(&self, key: Key, mutant: Option<Mutant>) -> Seen {
        match self.process(key).map(|process| process.shim) {
            Some(Shim::Alive | Shim::Stopped) => return Seen::Alive,
            Some(Shim::Dead) => return Seen::Leftovers,
            None => {}
        }
        match self.dirs.get(&key) {
            None => Seen::Absent,
            Some(dir) if dir.voided => Seen::Voided,
            Some(dir) => match &dir.exit {
                Some(result) => Seen::Ended(result.clone()),
                None if dir.began && mutant != Some(Mutant::IgnoreBegan) => Seen::Gone,
                None => Seen::NotBegan,
            },
        }
    }

    fn forget(&mut self, key: Key) -> Vec<Reply> {
        if self.process(key).is_none() {
            self.dirs.remove(&key);
        }
        Vec::new()
    }
}

fn backstop_at(process: &Process) -> i64 {
    let deadline = process.timeout_at.saturating_add(process.start.grace_ms);
    let asked = process.kill_asked.unwrap_or(i64::MAX);
    deadline.min(asked).saturating_add(BACKSTOP_MS)
}
