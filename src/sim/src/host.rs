//! The host below the daemon: the runtime directory, shims and jobs. The spawner that acts on them is in `spawner`.
//!
//! ```text
//! shim:  Forked ─▶ Began ─▶ Running ─▶ Ended ─▶ Wrote ─▶ gone        lock held until it is gone
//!                (writes `began`)        (kills what is left, writes the exit record)
//! ```
//! A killed shim frees its lock at once; processes of its job live on until the spawner kills them. A stopped shim holds the
//! lock and does nothing.

use crate::clock::Clock;
use crate::wire::{Connection, Key, Start};
use ci_runner_core::outcome::AttemptResult;
use std::collections::{BTreeMap, BTreeSet};

/// How a job behaves once it runs.
#[derive(Clone, Debug)]
pub struct Script {
    /// It ends by itself after so long.
    pub run_ms: i64,
    /// In this way.
    pub end: AttemptResult,
    /// SIGTERM ends it.
    pub obeys_term: bool,
    /// It leaves a double fork behind.
    pub leaves_children: bool,
}

/// An attempt's directory.
#[derive(Clone, Debug, Default)]
pub struct Dir {
    /// Tells this directory from an earlier one of the same name.
    pub serial: u64,
    /// `void` was done.
    pub voided: bool,
    /// The job was let run.
    pub began: bool,
    /// A valid exit record.
    pub exit: Option<AttemptResult>,
}

/// How far an attempt's processes have come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The shim is there.
    Forked,
    /// `began` is written.
    Began,
    /// The job runs until then.
    Running(i64),
    /// The main process ended.
    Ended(AttemptResult),
    /// The record is written.
    Wrote,
}

/// The shim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shim {
    /// Works.
    Alive,
    /// Was sent SIGSTOP.
    Stopped,
    /// Was killed.
    Dead,
}

/// All processes of one attempt.
#[derive(Clone, Debug)]
pub struct Process {
    /// What was asked.
    pub start: Start,
    /// Serial of its directory.
    pub serial: u64,
    /// How far it is.
    pub stage: Stage,
    /// Its shim.
    pub shim: Shim,
    /// What the job does.
    pub script: Script,
    /// Hard deadline.
    pub timeout_at: i64,
    /// It passed.
    pub timed_out: bool,
    /// The job was sent SIGTERM.
    pub term: bool,
    /// SIGKILL follows then.
    pub kill_at: Option<i64>,
    /// Somebody wanted everything killed, first then.
    pub kill_asked: Option<i64>,
    /// Forked processes live.
    pub children: bool,
    /// Killing takes until then: a process may sit in the kernel.
    pub dies_at: i64,
}

impl Process {
    /// True while something of the job itself lives.
    pub fn job_lives(&self) -> bool {
        self.children || matches!(self.stage, Stage::Running(_))
    }

    /// cgroup.kill.
    pub fn kill(&mut self) {
        self.children = false;
        if matches!(self.stage, Stage::Running(_)) {
            self.stage = Stage::Ended(self.killed_by(9));
        }
    }

    fn killed_by(&self, signal: u8) -> AttemptResult {
        if self.timed_out { AttemptResult::TimedOut } else { AttemptResult::Signaled { signal } }
    }

    /// When it next does something by itself; None: never.
    pub fn next_time(&self) -> Option<i64> {
        let works = self.shim == Shim::Alive;
        match &self.stage {
            Stage::Forked | Stage::Began | Stage::Ended(_) | Stage::Wrote => works.then_some(i64::MIN),
            Stage::Running(until) => {
                let mut next = *until;
                if works {
                    next = next.min(self.kill_at.unwrap_or(i64::MAX));
                    if !self.timed_out {
                        next = next.min(self.timeout_at);
                    }
                    if self.term && self.script.obeys_term {
                        next = i64::MIN;
                    }
                }
                Some(next)
            }
        }
    }
}

/// What the checkers must know of what really happened.
#[derive(Clone, Debug)]
pub enum Happened {
    /// A shim was forked.
    Forked(Start),
    /// The job's main process was executed.
    Executed(Key),
    /// It ended by itself with code 0.
    ExitedZero(Key),
    /// A valid exit record stands in the directory.
    Recorded(Key, AttemptResult),
    /// `void` left its mark.
    Voided(Key),
    /// A process that was asked to be killed by nobody's right: `Kill` was sent for it.
    KillAsked(Key),
}

/// The spawner's memory; all else it reads from the directory and from the kernel.
#[derive(Debug, Default)]
pub struct Spawner {
    /// Attempts whose end it will tell.
    pub watched: BTreeSet<Key>,
}

/// Everything below the daemon.
#[derive(Debug, Default)]
pub struct Host {
    /// Attempt directories.
    pub dirs: BTreeMap<Key, Dir>,
    /// Number of the runtime directory's life; it is in the epoch.
    pub life: u64,
    /// Boot id under which the epoch file was written; None: no epoch file.
    pub marked: Option<String>,
    /// Highest generation seen; kept in the runtime directory.
    pub generation: u64,
    /// Processes.
    pub processes: Vec<Process>,
    /// The spawner, when it runs.
    pub spawner: Option<Spawner>,
    /// Its connections.
    pub connections: Vec<Connection>,
    /// The next fork fails.
    pub fork_fails: bool,
    /// Attempts of which a start or its refusal was doubled, which no socket does: that one was refused proves nothing of them.
    pub(crate) doubled: BTreeSet<Key>,
    /// Not yet seen by the checkers.
    pub happened: Vec<Happened>,
    /// Behaviour by job and attempt; the last one repeats.
    pub scripts: BTreeMap<ci_runner_core::id::JobId, Vec<Script>>,
    pub(crate) serials: u64,
}

impl Host {
    /// The present epoch's text.
    pub fn epoch(&self, clock: &Clock) -> String {
        format!("{}/{}", clock.boot_id(), self.life)
    }

    /// Processes of an attempt.
    pub fn process(&self, key: Key) -> Option<&Process> {
        self.processes.iter().find(|process| process.start.key == key)
    }

    pub(crate) fn process_mut(&mut self, key: Key) -> Option<&mut Process> {
        self.processes.iter_mut().find(|process| process.start.key == key)
    }

    /// The attempt's directory, made when it is not there.
    pub(crate) fn dir(&mut self, key: Key) -> &mut Dir {
        let serial = self.serials + 1;
        let dir = self.dirs.entry(key).or_insert_with(|| Dir { serial, ..Dir::default() });
        self.serials = serial;
        dir
    }

    /// What this attempt of the job does when it runs.
    pub(crate) fn script(&self, key: Key) -> Script {
        let scripts = self.scripts.get(&key.job).map_or(&[][..], Vec::as_slice);
        let at = (key.attempt as usize).saturating_sub(1).min(scripts.len().saturating_sub(1));
        scripts.get(at).cloned().unwrap_or(Script {
            run_ms: 1_000_000,
            end: AttemptResult::Exited { code: 1 },
            obeys_term: true,
            leaves_children: false,
        })
    }

    /// One step of one attempt's processes, if it has one to do now.
    pub fn step_process(&mut self, at: usize, time: i64, never_kill: bool) -> &'static str {
        let process = &mut self.processes[at];
        let key = process.start.key;
        match process.stage.clone() {
            Stage::Forked => {
                process.stage = Stage::Began;
                let serial = process.serial;
                if let Some(dir) = self.dirs.get_mut(&key).filter(|dir| dir.serial == serial) {
                    dir.began = true;
                }
                "writes began"
            }
            Stage::Began => {
                let ran = !matches!(process.script.end, AttemptResult::FailedToStart { .. });
                if ran {
                    process.stage = Stage::Running(time.saturating_add(process.script.run_ms));
                    self.happened.push(Happened::Executed(key));
                } else {
                    process.stage = Stage::Ended(process.script.end.clone());
                }
                "runs the job"
            }
            Stage::Running(until) => self.step_running(at, until, time, never_kill),
            Stage::Ended(result) => {
                process.children = false;
                process.stage = Stage::Wrote;
                let serial = process.serial;
                if let Some(dir) = self.dirs.get_mut(&key).filter(|dir| dir.serial == serial) {
                    dir.exit = Some(result.clone());
                    self.happened.push(Happened::Recorded(key, result));
                }
                "writes its record"
            }
            Stage::Wrote => {
                self.processes.remove(at);
                "is gone"
            }
        }
    }

    fn step_running(&mut self, at: usize, until: i64, time: i64, never_kill: bool) -> &'static str {
        let process = &mut self.processes[at];
        let works = process.shim == Shim::Alive;
        if works && process.term && process.script.obeys_term {
            process.stage = Stage::Ended(process.killed_by(15));
            return "obeys SIGTERM";
        }
        if works && !never_kill && process.kill_at.is_some_and(|kill_at| kill_at <= time) {
            process.kill();
            return "is killed by its shim";
        }
        if until <= time {
            let result = if process.timed_out { AttemptResult::TimedOut } else { process.script.end.clone() };
            if result.is_success() {
                self.happened.push(Happened::ExitedZero(process.start.key));
            }
            process.stage = Stage::Ended(result);
            process.children = process.script.leaves_children;
            if process.shim == Shim::Dead && !process.children {
                self.processes.remove(at);
            }
            return "ends by itself";
        }
        process.timed_out = true;
        process.term = true;
        let kill_at = time + process.start.grace_ms;
        process.kill_at = Some(process.kill_at.map_or(kill_at, |earlier| earlier.min(kill_at)));
        "passes its deadline"
    }

    /// Somebody kills a shim.
    pub fn kill_shim(&mut self, at: usize) {
        let process = &mut self.processes[at];
        process.shim = Shim::Dead;
        if !process.job_lives() {
            self.processes.remove(at);
        }
    }

    /// Power comes back: nothing lives. `kept`: the runtime directory is on disk.
    pub fn reboot(&mut self, kept: bool) {
        self.processes.clear();
        self.spawner = None;
        self.connections.clear();
        self.fork_fails = false;
        if !kept {
            self.empty();
        }
    }

    /// Somebody empties the runtime directory.
    pub fn empty(&mut self) {
        self.dirs.clear();
        self.marked = None;
        self.generation = 0;
    }
}
