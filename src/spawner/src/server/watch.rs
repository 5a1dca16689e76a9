//! How attempts end, by themselves or because the spawner steps in.
//!
//! What could not be looked at (no descriptor is free, say) is looked at again: no error is ever taken for an end.

use std::io;

use rustix::process::Signal;

use super::Server;
use super::attempt::{Leftovers, Shim, State, Unsettled};
use super::requests::KILL_PATIENCE_MS;
use super::sweep::{Look, sweep};
use crate::attempts::Identity;
use crate::cgroup::Leaf;
use crate::dirs::slot_place;
use crate::failpoint::{self, hit};
use crate::policy_file::User;
use crate::procs;
use crate::protocol::{AttemptKey, ExitRecord, Reply, names};
use crate::record;
use crate::shim::Note;
use crate::sys;

/// After it stepped in once, the spawner looks again so often.
const FORCE_AGAIN_MS: u64 = 500;
/// A shim that is neither stopped nor rid of its job after this is killed.
const SHIM_PATIENCE_MS: u64 = 10_000;
/// First and longest pause between two looks at what a dead shim left.
const SWEEP_PAUSE_MS: u64 = 2;
const SWEEP_PAUSE_MS_MAX: u64 = 500;
/// An end that could not be looked up is looked up again after this.
const SETTLE_PAUSE_MS: u64 = 100;

impl Server {
    /// The shim of this attempt has ended: reaped, or its pidfd says so.
    pub(super) fn shim_gone(&mut self, key: &AttemptKey) {
        let Some(State::Alive(shim)) = self.attempts.remove(key) else { return };
        self.adopted.remove(key);
        hit(failpoint::SPAWNER_BEFORE_ENDED);
        self.settle(key, shim.identity, Some(shim.pidfd.is_none()));
    }

    /// Finds out what became of an attempt whose shim is gone; `own_child` when we saw it go. Goes on trying if need be.
    /// Until then its slot stays its own: what is left of it may live there.
    pub(super) fn settle(&mut self, key: &AttemptKey, identity: Identity, own_child: Option<bool>) {
        self.hold_slot(&identity, key);
        if let Err(error) = self.try_to_settle(key, &identity, own_child) {
            say!("{key}: how it ended cannot be looked up: {error}; tried again");
            self.unsettle(key, identity, own_child);
        }
    }

    /// How it ended is to be looked up (again) soon.
    pub(super) fn unsettle(&mut self, key: &AttemptKey, identity: Identity, own_child: Option<bool>) {
        let again_ms = sys::boottime_ms() + SETTLE_PAUSE_MS;
        self.attempts.insert(key.clone(), State::Unsettled(Unsettled { identity, own_child, again_ms }));
        self.note_due(Some(again_ms));
    }

    fn try_to_settle(&mut self, key: &AttemptKey, identity: &Identity, own_child: Option<bool>) -> io::Result<()> {
        if let Some(record) = self.shared.attempts.read_exit(key)? {
            self.ended(key, identity, record, State::Ended(None));
            return Ok(());
        }
        self.read_notes();
        match self.noted.remove(key) {
            Some(Note::Record(record)) => {
                let state = State::Ended(Some(Box::new(record.clone())));
                self.ended(key, identity, record, state);
                return Ok(());
            }
            Some(Note::Refused(_, why)) => {
                self.not_began(key, identity, &why);
                return Ok(());
            }
            None => {}
        }
        if self.shared.attempts.has(key, names::LOST)? {
            self.release_slot(&identity.slot, key);
            self.lost(key);
            return Ok(());
        }
        if failpoint::overlooks_beginnings() {
            let _ = self.shared.attempts.unmark(key, names::BEGAN);
        }
        let has = |name| self.shared.attempts.has(key, name);
        // Without its lock file there is no telling: the directory was removed.
        if has(names::BEGAN)? || !has(names::LOCK)? {
            say!("{key}: its shim died without a record");
            self.leave_to_sweep(key, identity.clone(), own_child);
        } else if has(names::VOIDED)? {
            self.release_slot(&identity.slot, key);
            self.attempts.insert(key.clone(), State::Voided);
            self.daemons.tell(&key.store, Reply::Voided { key: key.clone() }, false);
        } else {
            self.not_began(key, identity, "its shim ended before it began");
        }
        Ok(())
    }

    /// What is left of it is ended and removed; then it is told to be lost.
    pub(super) fn leave_to_sweep(&mut self, key: &AttemptKey, identity: Identity, own_child: Option<bool>) {
        let again_ms = sys::boottime_ms();
        let leftovers = Leftovers {
            identity,
            witnessed: own_child.is_some(),
            own_child: own_child == Some(true),
            clean_looks: 0,
            again_ms,
            pause_ms: SWEEP_PAUSE_MS,
        };
        self.attempts.insert(key.clone(), State::Leftovers(leftovers));
        self.note_due(Some(again_ms));
    }

    fn ended(&mut self, key: &AttemptKey, identity: &Identity, record: ExitRecord, state: State) {
        self.note_start_of_users(key, true);
        self.release_slot(&identity.slot, key);
        self.attempts.insert(key.clone(), state);
        self.said_ended |=
            self.daemons.tell(&key.store, Reply::Ended { key: key.clone(), record: Some(record) }, false);
    }

    fn not_began(&mut self, key: &AttemptKey, identity: &Identity, why: &str) {
        self.note_start_of_users(key, false);
        self.release_slot(&identity.slot, key);
        // One that cannot be removed now is taken by the next start.
        if let Ok(Some(leaf)) = Leaf::find(identity.cgroup_parent.as_deref(), key) {
            leaf.remove();
        }
        self.attempts.insert(key.clone(), State::NotBegan);
        let why = record::shortened(why);
        self.daemons.tell(
            &key.store,
            Reply::RefusedStart { key: key.clone(), why, voided: false, closed: false },
            false,
        );
    }

    /// A note is written before its shim ends, so after a death its note is there.
    fn read_notes(&mut self) {
        let mut text = Vec::new();
        let mut piece = [0; 4096];
        while let Ok(got @ 1..) = rustix::io::read(&self.notes, &mut piece) {
            text.extend_from_slice(&piece[..got]);
        }
        for line in text.split(|&byte| byte == b'\n') {
            match serde_json::from_slice(line) {
                Ok(Note::Record(record)) => self.noted.insert(record.key.clone(), Note::Record(record)),
                Ok(Note::Refused(key, why)) => self.noted.insert(key.clone(), Note::Refused(key, why)),
                Err(_) => None,
            };
        }
    }

    /// Everything whose time has come.
    pub(super) fn do_what_is_due(&mut self) {
        let now = sys::boottime_ms();
        if now >= self.home_check_ms && (!self.daemons.is_empty() || self.keeps_records()) {
            self.check_home();
        }
        self.look_at_shims(now);
        if now < self.due_ms {
            return;
        }
        let is_due = |state: &State| state.due_ms().is_some_and(|at| at <= now);
        let due: Vec<AttemptKey> =
            self.attempts.iter().filter(|(_, state)| is_due(state)).map(|(key, _)| key.clone()).collect();
        let mut sweeps = false;
        for key in due {
            match self.attempts.get(&key) {
                Some(State::Alive(_)) => self.force(&key, now),
                Some(State::Unidentified { .. }) => self.look_at(&key),
                Some(State::Unsettled(_)) => {
                    if let Some(State::Unsettled(unsettled)) = self.attempts.remove(&key) {
                        self.settle(&key, unsettled.identity, unsettled.own_child);
                    }
                }
                Some(State::Leftovers(_)) => sweeps = true,
                _ => {}
            }
        }
        if sweeps {
            self.sweep(now);
        }
        self.due_ms = self.attempts.values().filter_map(State::due_ms).min().unwrap_or(u64::MAX);
    }

    /// A shim has not done in time what it should: it is stopped, or stuck. Does it for the shim.
    fn force(&mut self, key: &AttemptKey, now: u64) {
        let Some(State::Alive(shim)) = self.attempts.get_mut(key) else { return };
        let pause_ms = step_in(key, shim, now).unwrap_or_else(|error| {
            say!("{key}: its shim is late, but cannot be looked at: {error}; tried again");
            FORCE_AGAIN_MS
        });
        shim.force_ms = Some(now + pause_ms);
    }

    /// Ends what dead shims left; says so once nothing is left. One look at all processes serves all of them.
    fn sweep(&mut self, now: u64) {
        let look = self.spared().and_then(Look::new);
        let look = look.inspect_err(|error| say!("processes cannot be looked at: {error}; tried again"));
        let mut clean = Vec::new();
        for (key, state) in &mut self.attempts {
            let State::Leftovers(leftovers) = state else { continue };
            let swept = match &look {
                Ok(look) => sweep(key, leftovers, look, &self.shared.dirs.tmp_dir).unwrap_or(false),
                Err(_) => {
                    leftovers.clean_looks = 0;
                    failpoint::takes_blindness_for_absence()
                }
            };
            if swept {
                clean.push((key.clone(), leftovers.identity.clone()));
            } else {
                leftovers.again_ms = now + leftovers.pause_ms;
                leftovers.pause_ms = (leftovers.pause_ms * 2).min(SWEEP_PAUSE_MS_MAX);
            }
        }
        for (key, identity) in clean {
            self.wipe_slot(&key, identity);
        }
    }

    /// Empties the slot's directory as the shim would have done, in a child: there can be millions of files. If that cannot be
    /// done now, the slot's next job does it before it starts.
    fn wipe_slot(&mut self, key: &AttemptKey, identity: Identity) {
        let is_holder = self.slots.get(&identity.slot) == Some(key);
        let wiper = match is_holder.then(sys::fork) {
            Some(Ok(None)) => wipe_and_end(&self.shared.dirs.tmp_dir, &identity.slot, self.user_of(&identity).as_ref()),
            Some(Ok(Some(pid))) => Some(pid),
            Some(Err(error)) => {
                say!("{key}: no process to empty its slot: {error}");
                None
            }
            None => None,
        };
        self.attempts.insert(key.clone(), State::Wiping(identity));
        match wiper {
            Some(pid) => drop(self.wipers.insert(pid, key.clone())),
            None => self.lost(key),
        }
    }

    /// Nothing of it is left, and it left no record.
    pub(super) fn lost(&mut self, key: &AttemptKey) {
        // Whoever takes over would look for its processes by its slot, which is another's from now on. Without its directory
        // nobody finds it.
        if let Err(error) = self.shared.attempts.mark(key, names::LOST)
            && error.kind() != io::ErrorKind::NotFound
        {
            say!("{key}: that it is lost cannot be noted: {error}");
        }
        if let Some(State::Wiping(identity)) = self.attempts.insert(key.clone(), State::Lost) {
            self.release_slot(&identity.slot, key);
        }
        self.said_ended |= self.daemons.tell(&key.store, Reply::Ended { key: key.clone(), record: None }, false);
    }
}

/// The life of a child that empties a slot's directory. It holds nothing of ours: neither lock nor socket.
fn wipe_and_end(tmp_dir: &std::path::Path, slot: &str, user: Option<&User>) -> ! {
    sys::close_from_but(3, &mut []);
    let _ = rustix::thread::set_name(c"ci-wiper");
    let wiped = std::panic::catch_unwind(|| {
        user.map_or(Ok(()), crate::remains::remove)?;
        let (root, name) = slot_place(tmp_dir, slot);
        crate::tmpdir::wipe_slot(&root, &name, user)
    });
    match wiped {
        Ok(Ok(())) => sys::exit_now(0),
        Ok(Err(error)) => say!("{}: cannot be emptied: {error}", tmp_dir.join(slot).display()),
        Err(_) => {}
    }
    sys::exit_now(1)
}

/// One step against a late shim; when to look again. An error: nothing was learnt, and little or nothing done.
///
/// Another's orphan, an adopted shim can be reaped at any moment and its process id given away. All that was found by the id
/// counts only if the pidfd, opened when the shim was known, says afterwards that it lives still.
fn step_in(key: &AttemptKey, shim: &mut Shim, now: u64) -> io::Result<u64> {
    let pid = shim.identity.pid;
    let leaf = Leaf::find(shim.identity.cgroup_parent.as_deref(), key)?;
    let stopped = procs::stat(pid)?.is_some_and(|stat| stat.stopped());
    let below = procs::descendants(&[pid])?;
    if shim.pidfd.as_ref().is_some_and(procs::has_ended) {
        // The loop finds that out too, and settles what is left.
        return Ok(FORCE_AGAIN_MS);
    }
    let job_lives = leaf.as_ref().is_some_and(Leaf::populated) || !below.is_empty();
    if job_lives {
        if let Some(leaf) = &leaf {
            leaf.kill();
        }
        procs::signal_all(&below, &[Signal::KILL]);
    }
    match shim.forced_ms {
        None => {
            say!("{key}: its shim is late{}; stepping in", if stopped { " (stopped)" } else { "" });
            shim.forced_ms = Some(now);
            // Our own child keeps its id until we reap it.
            let pinned = if shim.pidfd.is_none() { procs::pin(pid) } else { None };
            if let Some(pidfd) = shim.pidfd.as_ref().or(pinned.as_ref()) {
                let _ = sys::queue_signal(pidfd, sys::signal_kill(), 0);
                let _ = rustix::process::pidfd_send_signal(pidfd, Signal::CONT);
            }
        }
        // Stopped again, or stuck with its job. One that is rid of its job is writing or wiping: it may take its time.
        Some(since) if stopped || (job_lives && now > since + SHIM_PATIENCE_MS) => Server::kill_shim(shim),
        Some(_) => {}
    }
    Ok(if job_lives || stopped { FORCE_AGAIN_MS } else { KILL_PATIENCE_MS })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::OwnedFd;
    use std::process::{Child, Command};

    /// A process with a child of its own, and that child.
    fn family() -> (Child, i32) {
        let parent = Command::new("sh").args(["-c", "sleep 60 & wait"]).spawn().expect("a shell");
        let child = wait_for(|| procs::children(parent.id() as i32).expect("a look").first().copied());
        (parent, child)
    }

    fn wait_for<T>(mut look: impl FnMut() -> Option<T>) -> T {
        let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(std::time::Instant::now() < until, "waited in vain");
            std::thread::yield_now();
        }
    }

    /// Steps in against a shim that has the shell's process id; true when nothing was done and the shell's child lives still.
    fn child_survives(pidfd: Option<OwnedFd>) -> bool {
        let (mut parent, child) = family();
        let handle = procs::pin(child).expect("a handle");
        let identity = Identity { pid: parent.id() as i32, ..Identity::default() };
        let mut shim = Shim { identity, pidfd, force_ms: None, forced_ms: None, stopped_looks: 0 };
        step_in(&"0123abcd-1-1".parse().expect("a key"), &mut shim, 1).expect("a look");
        let survives = shim.forced_ms.is_none() && !procs::has_ended(&handle);
        if !survives {
            wait_for(|| procs::has_ended(&handle).then_some(()));
        }
        let _ = rustix::process::pidfd_send_signal(&handle, Signal::KILL);
        let _ = parent.kill();
        parent.wait().expect("reaped");
        survives
    }

    #[test]
    fn a_process_with_a_dead_shims_id_is_left_alone() {
        let mut dead = Command::new("true").spawn().expect("a process");
        let pidfd = procs::pin(dead.id() as i32).expect("a handle");
        dead.wait().expect("reaped");
        assert!(child_survives(Some(pidfd)));
    }

    #[test]
    fn control_by_its_id_alone_it_would_be_killed() {
        assert!(!child_survives(None));
    }
}
