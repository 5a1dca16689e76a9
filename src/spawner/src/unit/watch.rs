//! How attempts end, and how they are taken over from a spawner that was killed.
//!
//! ```text
//! PID 1: main process ended ─▶ verdict written ─▶ cgroup.kill until empty ─▶ "finish" to the shim ─▶ exit record, shim gone
//!   ─▶ unit released, `ended` said
//! shim gone without a record: with a verdict its result counts; else cgroup.kill until empty, released, lost
//! ```
//!
//! Each step looks at what is there and can be done again by a successor. A shim that dies before the verdict takes the
//! result with it: nobody read the job's output to its end, so not even an exit with 0 is a success.

use super::attempt::{Call, Live, State};
use super::judge::{Facts, Verdict, judge};
use super::manager::Told;
use super::server::Server;
use super::verdict::{self, Ending};
use crate::attempts::{Attempts, Locked};
use crate::daemons::Serve;
use crate::failpoint::{self, hit};
use crate::procs;
use crate::protocol::{AttemptKey, Used, names};
use crate::record;
use crate::sys;

/// A running unit is looked at this often, whatever is heard of it: a signal of the bus can be lost.
pub(super) const LOOK_AGAIN_MS: u64 = 30_000;
/// First and longest pause between two kills.
pub(super) const KILL_PAUSE_MS: u64 = 2;
pub(super) const KILL_PAUSE_MS_MAX: u64 = 200;
/// A shim that does not finish is told again after this.
pub(super) const FINISH_PAUSE_MS: u64 = 1000;
/// A start of which nothing is known after so long has no unit.
const START_PATIENCE_MS: u64 = 3000;
/// What cannot be read now is looked at again after this.
pub(super) const UNREADABLE_PAUSE_MS: u64 = 100;
/// A shim writes who it is right after its fork.
const IDENTIFY_PAUSE_MS: u64 = 20;
/// Errors that another try does not mend: PID 1 does not know a property, or its value.
const PERMANENT: [&str; 4] = ["InvalidArgs", "PropertyReadOnly", "BadUnitSetting", "NotSupported"];

impl Server {
    /// Takes a word about PID 1.
    pub(super) fn heard(&mut self, told: Told) {
        match told {
            Told::Up => self.manager_up(),
            Told::Down(why) => {
                if self.trouble.as_deref() != Some(why.as_str()) {
                    say!("PID 1 cannot be asked: {why}; jobs go on");
                }
                self.trouble = Some(why);
            }
            Told::Started(key, done) => self.start_answered(&key, done),
            Told::Facts(key, facts) => self.judged(&key, &facts),
            Told::Unknown(key) => {
                if let Some(State::Live(live)) = self.attempts.get_mut(&key) {
                    live.due_ms = sys::boottime_ms() + FINISH_PAUSE_MS;
                }
            }
            Told::Changed(key, failed) => {
                // Before the hand-over there is no main process either: only a failure is news then.
                if let Some(State::Live(live)) = self.attempts.get(&key)
                    && live.over.is_none()
                    && (failed || !matches!(self.may_have_begun(&key), Ok(false)))
                {
                    self.manager.look(&key);
                }
            }
            Told::Units(keys) => self.release_forgotten(keys),
        }
    }

    /// PID 1 can be asked (again): it is asked about everything.
    fn manager_up(&mut self) {
        if self.trouble.take().is_some() {
            say!("PID 1 answers again");
        }
        let now = sys::boottime_ms();
        for (key, state) in &mut self.attempts {
            match state {
                State::Live(live) => {
                    if let Call::Unknown { since_ms } = &mut live.call {
                        *since_ms = now;
                    }
                    self.manager.hold(key);
                    if live.terminate {
                        self.manager.terminate(key);
                    }
                    self.manager.look(key);
                }
                State::Leftovers(leftovers) => leftovers.again_ms = 0,
                _ => {}
            }
        }
        self.manager.list();
    }

    fn start_answered(&mut self, key: &AttemptKey, done: Result<(), (String, String)>) {
        hit(failpoint::UNIT_AFTER_CALL);
        let Some(State::Live(live)) = self.attempts.get_mut(key) else {
            // Its shim is gone already: the unit finds nobody.
            return self.release(key);
        };
        let (name, text) = match done {
            Ok(()) => {
                live.call = Call::Taken;
                return;
            }
            Err(error) => error,
        };
        say!("{key}: its unit was refused: {name}: {text}");
        if name.ends_with(".NoReply") || name.ends_with(".Disconnected") || name.ends_with(".Timeout") {
            return; // Unknown: a look will tell.
        }
        if PERMANENT.iter().any(|word| name.ends_with(word)) {
            let result = record::failed_to_start(&format!("systemd refuses the unit: {text}"));
            let ending = Ending { result: Some(result), ..Ending::never() };
            live.call = Call::Failed(text);
            return self.over(key, ending);
        }
        self.give_up(key, format!("systemd refuses the unit: {text}"));
        if name.ends_with(".UnitExists") {
            // Of an earlier life of this attempt: it found nobody, for we hold the lock.
            self.release(key);
        }
    }

    /// What a look at the unit of an attempt showed.
    fn judged(&mut self, key: &AttemptKey, facts: &Facts) {
        let now = sys::boottime_ms();
        let Some(State::Live(live)) = self.attempts.get(key) else { return self.found(key, facts) };
        if live.over.is_some() {
            return;
        }
        let Ok(began) = self.may_have_begun(key) else {
            return self.heard(Told::Unknown(key.clone()));
        };
        let group = self.placed(key, &live.group, facts);
        let Some(State::Live(live)) = self.attempts.get_mut(key) else { return };
        (live.group, live.due_ms) = (group, now + LOOK_AGAIN_MS);
        match judge(facts, began) {
            Verdict::Runs => live.call = Call::Taken,
            Verdict::Ended(result) => {
                let ending = ending(facts, Some(result), &live.group);
                self.over(key, ending);
            }
            Verdict::Lost(why) => {
                say!("{key}: {why}");
                let ending = ending(facts, None, &live.group);
                self.over(key, ending);
            }
            Verdict::Absent if began => {
                say!("{key}: its unit is gone without a word");
                self.over(key, Ending::never());
            }
            Verdict::Absent => match live.call {
                Call::Unknown { since_ms } if now < since_ms + START_PATIENCE_MS => {
                    live.due_ms = since_ms + START_PATIENCE_MS;
                }
                Call::Failed(_) => live.due_ms = 0,
                _ => self.give_up(key, "its unit is gone".to_owned()),
            },
        }
    }

    /// The shim is to end, unless it has handed the job over.
    fn give_up(&mut self, key: &AttemptKey, why: String) {
        let Some(State::Live(live)) = self.attempts.get_mut(key) else { return };
        (live.call, live.due_ms) = (Call::Failed(why), 0);
    }

    /// The unit has ended: the result goes to where it cannot be lost, then everything of it is ended.
    fn over(&mut self, key: &AttemptKey, ending: Ending) {
        hit(failpoint::UNIT_BEFORE_VERDICT);
        if let Err(error) = verdict::write(&self.shared.attempts, key, &ending) {
            say!("{key}: cannot write its verdict: {error}; its shim is told in another way");
            self.home_check_ms = 0;
        }
        hit(failpoint::UNIT_AFTER_VERDICT);
        if let Some(State::Live(live)) = self.attempts.get_mut(key) {
            live.over = Some(ending);
            (live.due_ms, live.pause_ms) = (0, KILL_PAUSE_MS);
        }
        self.press(key, sys::boottime_ms());
    }

    /// Goes on with a living attempt.
    fn press(&mut self, key: &AttemptKey, now: u64) {
        let Some(State::Live(live)) = self.attempts.get_mut(key) else { return };
        if live.kill_ms.is_some_and(|at| at <= now) {
            live.group.kill();
            live.kill_ms = if live.over.is_some() { None } else { Some(now + KILL_PAUSE_MS_MAX) };
        }
        if live.due_ms > now {
            return;
        }
        if live.over.is_some() {
            match live.group.is_empty() {
                Ok(true) => {
                    live.finish(&self.shared.attempts, key, now);
                    live.due_ms = now + FINISH_PAUSE_MS;
                }
                Ok(false) | Err(_) => {
                    live.group.kill();
                    live.due_ms = now + live.pause_ms;
                    live.pause_ms = (live.pause_ms * 2).min(KILL_PAUSE_MS_MAX);
                }
            }
            return;
        }
        if let Call::Failed(_) = live.call {
            live.signal(sys::signal_give_up(), 0);
            live.signal(libc::SIGCONT, 0);
            live.due_ms = now + FINISH_PAUSE_MS;
            return;
        }
        live.due_ms = now + LOOK_AGAIN_MS;
        // A stopped shim reads no output, and its job would wait for it. The others do not mind.
        live.signal(libc::SIGCONT, 0);
        let is_unknown = matches!(live.call, Call::Unknown { since_ms } if now >= since_ms + LOOK_AGAIN_MS);
        if self.manager.is_up() {
            self.manager.look(key);
        } else if is_unknown && matches!(self.may_have_begun(key), Ok(false)) {
            // Nobody tells what became of its unit, and whoever cancels it shall not wait for that. Its shim knows.
            self.give_up(key, "PID 1 has not answered".to_owned());
        }
    }

    /// Everything whose time has come.
    pub(super) fn do_what_is_due(&mut self) {
        let now = sys::boottime_ms();
        let due = |state: &State| match state {
            State::Live(live) => live.due_ms <= now || live.kill_ms.is_some_and(|at| at <= now),
            State::Unidentified { again_ms, .. } => *again_ms <= now,
            State::Leftovers(leftovers) => leftovers.again_ms <= now,
            State::NotBegan | State::Voided | State::Ended(_) | State::Lost => false,
        };
        let keys: Vec<AttemptKey> =
            self.attempts.iter().filter(|(_, state)| due(state)).map(|(key, _)| key.clone()).collect();
        for key in keys {
            match self.attempts.get(&key) {
                Some(State::Live(_)) => self.press(&key, now),
                Some(State::Leftovers(_)) => self.clean(&key, now),
                Some(State::Unidentified { .. }) => self.look_at(&key),
                _ => {}
            }
        }
        self.check_home(now);
        if self.take_sweep(now) {
            self.manager.list();
        }
    }

    /// Looks at every directory, at start.
    pub(super) fn take_over(&mut self) -> Result<(), String> {
        let keys = self.shared.attempts.all().map_err(|error| format!("cannot list the attempts: {error}"))?;
        for key in keys {
            if self.home.other_boot && matches!(self.shared.attempts.read_exit(&key), Ok(None)) {
                if let Err(error) = self.shared.attempts.remove(&key) {
                    say!("{key}: cannot remove its directory of an earlier boot: {error}");
                }
                continue;
            }
            self.look_at(&key);
        }
        Ok(())
    }

    /// Finds out what one directory means.
    pub(super) fn look_at(&mut self, key: &AttemptKey) {
        let wish = match self.attempts.get(key) {
            Some(State::Unidentified { wish, .. }) => *wish,
            _ => None,
        };
        let again = || State::Unidentified { again_ms: sys::boottime_ms() + IDENTIFY_PAUSE_MS, wish };
        let lock = match self.shared.attempts.lock(key) {
            // Nobody will ever read there who its shim is.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                say!("{key}: its directory is gone");
                self.attempts.remove(key);
                return self.settle(key, None);
            }
            // Not a proof of anything (no descriptor left, say): looked at again.
            Err(error) => {
                say!("{key}: cannot look at its lock: {error}");
                self.attempts.insert(key.clone(), again());
                return;
            }
            Ok(Locked::Taken(_)) => return self.without_shim(key),
            Ok(Locked::Held(lock)) => lock,
        };
        // Its process id could by now be another process', so the pidfd comes first, then the proof.
        let identity = Attempts::identity(&lock).ok().flatten();
        let found = identity.and_then(|identity| Some((procs::pin(identity.pid)?, identity)));
        let Some((pidfd, identity)) = found.filter(|(_, identity)| Attempts::is_holder(&lock, identity)) else {
            self.attempts.insert(key.clone(), again());
            return;
        };
        let now = sys::boottime_ms();
        let live = Live {
            pid: identity.pid,
            pidfd: Some(pidfd),
            lock_fd: identity.lock_fd,
            group: self.group(key),
            call: Call::Unknown { since_ms: now },
            over: None,
            handed_ms: None,
            terminate: false,
            kill_ms: None,
            due_ms: now,
            pause_ms: 0,
        };
        self.attempts.insert(key.clone(), State::Live(live));
        if self.manager.is_up() {
            self.manager.hold(key);
        }
        if let Some(wish) = wish {
            self.wish(key, wish);
        }
    }

    fn without_shim(&mut self, key: &AttemptKey) {
        self.attempts.remove(key);
        if matches!(self.shared.attempts.has(key, names::VOIDED), Ok(true)) {
            self.attempts.insert(key.clone(), State::Voided);
        } else {
            self.settle(key, None);
        }
    }
}

/// What PID 1 and the kernel know of a unit that ended. A unit that failed has lost its cgroup by now: then PID 1's own
/// figures are all there are, and some are not.
fn ending(facts: &Facts, result: Option<crate::protocol::ExitResult>, group: &super::cgroup::UnitGroup) -> Ending {
    let (cpu, told) = group.used();
    let cpu = cpu.unwrap_or(crate::cgroup::CpuUse { user_us: facts.cpu_ns / 1000, system_us: 0 });
    // PID 1 saw a kill; without the cgroup nobody knows how many there were.
    let seen = (facts.result == "oom-kill").then_some(1);
    let used = Used {
        memory_peak: told.memory_peak.max(facts.memory_peak_bytes),
        io_read_bytes: told.io_read_bytes.max(facts.io_read_bytes),
        io_written_bytes: told.io_written_bytes.max(facts.io_written_bytes),
        oom_kills: told.oom_kills.max(seen),
        ..told
    };
    let counted = used.memory_peak.is_some() || used.pids_peak.is_some() || used.oom_kills.is_some();
    Ending {
        result,
        ended_wall_ms: i64::try_from(facts.exit_wall_us / 1000).unwrap_or(i64::MAX),
        ended_boot_us: if facts.exit_us == 0 { 0 } else { facts.exit_us + sys::slept_us() },
        cpu_user_us: cpu.user_us,
        cpu_system_us: cpu.system_us,
        peak_memory_bytes: used.memory_peak.unwrap_or(0),
        leftovers: group.processes(),
        used: counted.then(|| Box::new(used)),
    }
}

#[cfg(test)]
mod tests;
