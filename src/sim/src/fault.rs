//! What goes wrong.

use crate::commit::Fate;
use crate::host::{Dir, Process, Script, Shim, Stage};
use crate::wire::{Key, Reply, Request, Start};
use crate::world::World;
use ci_runner_core::id::JobId;
use ci_runner_core::outcome::AttemptResult;
use std::collections::BTreeSet;

const YEAR_MS: i64 = 365 * 24 * 3600 * 1000;

impl World {
    pub(crate) fn fault(&mut self) {
        let kind = self.rng.below(23);
        if self.faults & (1 << kind) == 0 {
            return;
        }
        match kind {
            0..=2 => self.crash(),
            3 => {
                if let Some(daemon) = &mut self.daemon {
                    daemon.stopping = true;
                    self.coverage.hit("fault: daemon stopped in order");
                    self.note("fault", [kind, 0], || "daemon told to stop".to_owned());
                }
            }
            4 => self.fate = Fate::Refused,
            5 => self.fate = Fate::ReplyLost,
            6 => {
                let ms = self.rng.pick(&[-YEAR_MS, YEAR_MS, -30_000, 30_000]);
                self.clock.skew(ms);
                self.truth.skewed = true;
                self.coverage.hit("fault: wall clock set");
                self.note("fault", [kind, 0], || format!("wall clock set by {ms} ms"));
            }
            7 => self.reboot(),
            8 => self.empty(),
            9 | 10 => {
                if self.host.spawner.is_some() {
                    self.host.kill_spawner();
                    self.coverage.hit("fault: spawner killed");
                    self.note("fault", [kind, 0], || "spawner killed".to_owned());
                }
            }
            11..=13 => self.strike_shim(),
            14 => {
                self.host.fork_fails = true;
                self.coverage.hit("fault: fork failed");
            }
            15..=17 => self.spoil_messages(),
            18 => {
                let config = self.rng.index(self.configs());
                self.coverage.hit("fault: configuration changed");
                self.configure(config);
            }
            19 => self.plant(),
            kind => self.disturb_places(kind),
        }
    }

    /// kill -9. What was being written is on disk, or not.
    fn crash(&mut self) {
        let Some(daemon) = &mut self.daemon else { return };
        let inflight = daemon.inflight.take();
        let kept = self.rng.percent(50);
        if let Some(batch) = inflight {
            if kept {
                self.keep(&batch);
            }
            self.coverage.hit(if kept {
                "fault: commit in flight was kept"
            } else {
                "fault: commit in flight was lost"
            });
        }
        self.coverage.hit("fault: daemon crashed");
        self.note("fault", [0, u64::from(kept)], || format!("daemon killed; what was in flight is kept: {kept}"));
        self.fate = Fate::Kept;
        self.end_daemon();
    }

    fn reboot(&mut self) {
        self.crash();
        let kept = self.rng.percent(60);
        let off_ms = self.rng.pick(&[1_000, 60_000, 3_600_000]);
        self.host.reboot(kept);
        self.clock.reboot(off_ms);
        self.coverage.hit(if kept { "fault: reboot, directory kept" } else { "fault: reboot, directory gone" });
        self.note("fault", [7, u64::from(kept)], || format!("reboot; runtime directory kept: {kept}"));
        if !kept {
            self.truth.known.clear();
            return;
        }
        for (key, dir) in &mut self.host.dirs {
            if dir.exit.is_some() && self.rng.percent(20) {
                dir.exit = None;
                self.truth.known.remove(key);
                self.coverage.hit("fault: record torn");
            }
        }
    }

    fn empty(&mut self) {
        self.host.empty();
        self.truth.known.clear();
        self.coverage.hit("fault: directory emptied");
        self.note("fault", [8, 0], || "runtime directory emptied".to_owned());
    }

    fn strike_shim(&mut self) {
        if self.host.processes.is_empty() {
            return;
        }
        // One that was told to end is rare by chance, and all of the recovery table is to be seen.
        let told_to_end = self.host.processes.iter().position(|process| process.term).filter(|_| self.rng.percent(50));
        let at = told_to_end.unwrap_or_else(|| self.rng.index(self.host.processes.len()));
        let process = &mut self.host.processes[at];
        let key = process.start.key;
        let shim = process.shim;
        match (shim, self.rng.below(4)) {
            (Shim::Stopped, 0 | 1) => {
                process.shim = Shim::Alive;
                self.note("fault", [11, 0], || format!("{key:?} shim continued"));
            }
            (Shim::Alive, 0) => {
                process.shim = Shim::Stopped;
                self.truth.victims.insert(key);
                self.coverage.hit("fault: shim stopped");
                self.note("fault", [11, 1], || format!("{key:?} shim stopped"));
            }
            (Shim::Alive | Shim::Stopped, _) => {
                self.host.processes[at].dies_at = self.clock.time + self.rng.pick(&[0, 9_000, 20_000]);
                self.host.kill_shim(at);
                self.truth.victims.insert(key);
                self.coverage.hit("fault: shim killed");
                self.note("fault", [11, 2], || format!("{key:?} shim killed"));
            }
            (Shim::Dead, _) => {}
        }
    }

    /// The spawner's answers get lost, doubled or late.
    fn spoil_messages(&mut self) {
        if self.host.connections.is_empty() {
            return;
        }
        let at = self.rng.index(self.host.connections.len());
        let requests = &mut self.host.connections[at].to_spawner;
        if let Some(start) = requests.iter().position(|request| matches!(request, Request::Start(_))) {
            let again = requests[start].clone();
            if let Request::Start(start) = &again {
                self.host.doubled.insert(start.key);
            }
            requests.insert(start, again);
            self.coverage.hit("fault: start doubled");
            return;
        }
        let replies = &mut self.host.connections[at].to_daemon;
        let Some(from) = replies.iter().position(Reply::is_repeatable) else { return };
        let lose = self.rng.percent(50);
        let text = format!("{:?}", replies[from]);
        if lose {
            replies.remove(from);
        } else {
            let reply = replies[from].clone();
            if let Reply::RefusedStart(key, _) = &reply {
                self.host.doubled.insert(*key);
            }
            replies.push_back(reply);
        }
        self.coverage.hit(if lose { "fault: message lost" } else { "fault: message doubled" });
        self.note("fault", [15, u64::from(lose)], || format!("{text} {}", if lose { "lost" } else { "doubled" }));
    }

    /// A slot, the memory or the executor of a pool gets out of order, or into it again.
    fn disturb_places(&mut self, kind: u64) {
        let mut places = (*self.places).clone();
        let pool = self.rng.pick(&["default", "gpu"]).to_owned();
        let slot = self.rng.pick(&[0, 0, 1, 1, 2]);
        let (what, is_new) = match kind {
            20 => ("fault: slot shut", turn(&mut places.shut, (pool.clone(), slot))),
            21 => ("fault: memory not enforced", turn(&mut places.loose, pool.clone())),
            _ => ("fault: executor down", turn(&mut places.down, pool.clone())),
        };
        if is_new {
            self.coverage.hit(what);
        }
        self.note("fault", [kind, u64::from(is_new)], || format!("pool {pool}: {places:?}"));
        self.change_places(places);
    }

    /// An attempt of our store that the store knows nothing of.
    fn plant(&mut self) {
        let number = 1_000_000 + self.host.serials;
        let key = Key { job: JobId::new(number).expect("positive"), attempt: 1 };
        self.truth.strangers.insert(key);
        self.host.serials += 1;
        let serial = self.host.serials;
        self.host.dirs.insert(key, Dir { serial, voided: false, began: true, exit: None });
        let (alive, pool) = (self.rng.percent(50), "default".to_owned());
        self.note("fault", [19, u64::from(alive)], || format!("{key:?} appears, alive: {alive}"));
        if !alive {
            return;
        }
        let end = AttemptResult::Exited { code: 0 };
        let forever = i64::MAX / 4;
        self.host.processes.push(Process {
            start: Start { key, pool, group: None, timeout_ms: forever, grace_ms: 0, slots: 0, limit: 0 },
            serial,
            stage: Stage::Running(forever),
            shim: Shim::Alive,
            script: Script { run_ms: forever, end, obeys_term: false, leaves_children: false },
            timeout_at: forever,
            timed_out: false,
            term: false,
            kill_at: None,
            kill_asked: None,
            children: false,
            dies_at: i64::MIN,
        });
    }
}

/// Puts it in, or takes it out where it is in; true: it is in now.
fn turn<T: Ord>(set: &mut BTreeSet<T>, one: T) -> bool {
    !set.remove(&one) && set.insert(one)
}
