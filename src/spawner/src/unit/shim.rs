//! The shim of a unit's attempt: forked from the spawner without exec, it holds the start lock, hands the job to the unit's
//! helper once, keeps the log, and ends what will not end.
//!
//! It does not see the job end: PID 1 does, and the spawner asks it. When the spawner knows the end and has seen the unit's
//! cgroup empty, it writes the verdict beside the lock and sends the signal for "finish"; the shim then completes the log
//! and writes the exit record. Any spawner can do that, so that one that was killed in between changes nothing. A kill that
//! was asked for, and the deadline with some patience, happen here: they need neither spawner nor bus.
//!
//! Order: identity into the lock file → specification, pipes → the helper asks → `began` → the job is handed over → verdict →
//! log complete → exit record → lock free.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags};
use rustix::process::Pid;
use serde::{Deserialize, Serialize};

use super::cgroup::UnitGroup;
use super::figures::Figures;
use super::handover;
use super::places::Place;
use super::pump::{Failure, Pump};
use super::verdict::{self, Ending};
use crate::attempts::{Attempts, Identity};
use crate::failpoint::{self, hit};
use crate::joblog::{LogOptions, LogWriter};
use crate::protocol::{AttemptKey, ExitRecord, Start, UNIT_WORKSPACE, names};
use crate::shim::clock::Started;
use crate::shim::spec::Loaded;
use crate::shim::{self, spec, tell};
use crate::{record, sys};

/// What every shim inherits from the spawner.
pub(super) struct Shared {
    /// The attempt directories.
    pub(super) attempts: Attempts,
    /// A pipe to the spawner.
    pub(super) notes: OwnedFd,
    /// Logs of jobs.
    pub(super) log_dir: PathBuf,
}

impl Shared {
    /// Tells how the attempt ended.
    pub(super) fn publish(&self, record: &ExitRecord) {
        tell::publish(&self.attempts, &self.notes, record, Note::Record);
    }
}

/// What this shim is for.
pub(super) struct Order {
    /// The request.
    pub(super) start: Start,
    /// The start lock, held.
    pub(super) lock: OwnedFd,
    /// The specification.
    pub(super) spec: OwnedFd,
    /// The secrets.
    pub(super) secrets: Option<OwnedFd>,
    /// Our end of the unit's standard input.
    pub(super) socket: OwnedFd,
    /// Where the job will be.
    pub(super) group: UnitGroup,
    /// Of a pool that runs as a person: what its job may write to.
    pub(super) place: Option<Place>,
    /// What the helper is to see of the sandbox.
    pub(super) seals: Vec<CString>,
    /// Who forked us.
    pub(super) spawner: Pid,
}

/// What a shim tells over the pipe, one line of JSON each, shorter than `PIPE_BUF`.
#[derive(Serialize, Deserialize)]
pub(super) enum Note {
    /// The job was handed over.
    Began(AttemptKey),
    /// The exit record: the attempt's directory is gone or full.
    Record(ExitRecord),
    /// Nothing ran, and why.
    Refused(AttemptKey, String),
}

/// The forked child's whole life.
pub(super) fn run(shared: &Shared, order: Order) -> ! {
    let key = order.start.key.clone();
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| attempt(shared, order)));
    match outcome {
        Ok(Ok(())) => sys::exit_now(0),
        Ok(Err(why)) => {
            tell::note(&shared.notes, &Note::Refused(key, record::shortened(&why)));
            sys::exit_now(1)
        }
        Err(_) => sys::exit_now(70),
    }
}

/// Err: nothing ran, and why.
fn attempt(shared: &Shared, order: Order) -> Result<(), String> {
    settle(shared, &order);
    hit(failpoint::SHIM_BEFORE_IDENTITY);
    identify(&order)?;
    let wanted = [sys::signal_stop(), sys::signal_kill(), sys::signal_finish(), sys::signal_give_up(), libc::SIGTERM];
    let signals = sys::signal_fd(&wanted).map_err(|error| format!("cannot receive signals: {error}"))?;
    let loaded = spec::load(&order.spec, order.secrets.as_ref(), Path::new(UNIT_WORKSPACE));
    let loaded = match loaded.and_then(|loaded| in_place(loaded, order.place.as_ref())) {
        Ok(loaded) => loaded,
        Err(cause) => {
            shared.publish(&Started::now().failed(&order.start.key, &cause));
            return Ok(());
        }
    };
    let log_dir = shim::open_dir(&shared.log_dir)
        .map_err(|error| format!("cannot open the log directory {}: {error}", shared.log_dir.display()))?;
    let reserved = shared.attempts.reserve_exit(&order.start.key);
    reserved.map_err(|error| format!("there is no room for its result: {error}"))?;
    crate::joblog::make_way(&log_dir, order.start.key.job, order.start.key.attempt);
    let (output, job_output) = shim::output_pipe().map_err(|error| format!("cannot make a pipe: {error}"))?;
    let (status, job_status) = shim::output_pipe().map_err(|error| format!("cannot make a pipe: {error}"))?;
    if let Some(ending) = wait_for_helper(shared, &order, &signals)? {
        if let Some(result) = ending.result.clone() {
            shared.publish(&ending.record(&order.start.key, result, Started::now()));
        }
        return Ok(());
    }
    hit(failpoint::SHIM_BEFORE_BEGAN);
    shared.attempts.mark(&order.start.key, names::BEGAN).map_err(|error| format!("cannot write `began`: {error}"))?;
    hit(failpoint::SHIM_AFTER_BEGAN);
    let started = Started::now();
    let figures = Figures::of(&order.group);
    let mut checks = order.seals.clone();
    checks.extend(order.place.iter().flat_map(Place::words));
    let job = (&loaded.program, checks.as_slice());
    let handed = handover::hand_over(&order.socket, job, job_output.as_fd(), job_status.as_fd());
    if let Err(error) = handed {
        let _ = shared.attempts.unmark(&order.start.key, names::BEGAN);
        return Err(format!("cannot hand the job over: {error}"));
    }
    tell::note(&shared.notes, &Note::Began(order.start.key.clone()));
    hit(failpoint::SHIM_AFTER_EXEC);
    let options = LogOptions {
        store: order.start.key.store.clone(),
        job: order.start.key.job,
        attempt: order.start.key.attempt,
        start_wall_ms: started.wall_ms(),
        bytes_max: order.start.log_bytes_max,
        masker: loaded.masker,
    };
    let Order { start, lock, group, spec, secrets, socket, place: _, seals: _, spawner } = order;
    drop((job_output, job_status, spec, secrets, socket));
    let log = LogWriter::new(log_dir, options);
    let program = loaded.program;
    let failure = Failure { status, program: Some(program), cause: None, lacks: Vec::new() };
    let pump = Pump { start, lock, spawner, group, figures, output: Some(output), signals, log, started, failure };
    pump.run(shared);
    Ok(())
}

/// What a person's job has: its directory is among theirs, and so is `HOME` where it can be.
fn in_place(mut loaded: Loaded, place: Option<&Place>) -> Result<Loaded, String> {
    let Some(place) = place else { return Ok(loaded) };
    let dir = loaded.program.dir.to_string_lossy().into_owned();
    if dir != UNIT_WORKSPACE && !place.has(Path::new(&dir)) {
        let dir = record::shortened_name(&dir);
        return Err(format!("the directory `{dir}` is not in the paths of its pool: {}", place.names()));
    }
    let env = &mut loaded.program.env;
    if let Some(home) = &place.home
        && !env.iter().any(|word| word.to_bytes().starts_with(b"HOME="))
    {
        env.extend(CString::new(format!("HOME={}", home.display())));
    }
    Ok(loaded)
}

fn settle(shared: &Shared, order: &Order) {
    let mut keep = vec![
        shared.attempts.raw(),
        shared.notes.as_raw_fd(),
        order.lock.as_raw_fd(),
        order.spec.as_raw_fd(),
        order.secrets.as_ref().map_or(-1, AsRawFd::as_raw_fd),
        order.socket.as_raw_fd(),
    ];
    keep.extend(order.place.iter().flat_map(Place::raw));
    sys::close_from_but(3, &mut keep);
    let _ = rustix::process::setpgid(None, None);
    let _ = rustix::thread::set_name(c"ci-shim");
}

/// Writes who we are into the lock file.
fn identify(order: &Order) -> Result<(), String> {
    let pid = rustix::process::getpid().as_raw_nonzero().get();
    let identity = Identity { pid, lock_fd: order.lock.as_raw_fd(), slot: "-".to_owned(), ..Identity::default() };
    let text = identity.encode();
    match rustix::io::pwrite(&order.lock, text.as_bytes(), 0) {
        Ok(written) if written == text.len() => Ok(()),
        Ok(_) => Err("cannot write the lock file: no space".to_owned()),
        Err(error) => Err(format!("cannot write the lock file: {error}")),
    }
}

/// Until the helper asks (None), or the spawner says how the unit failed before it did. Err: nothing ran, and nothing will.
fn wait_for_helper(shared: &Shared, order: &Order, signals: &OwnedFd) -> Result<Option<Ending>, String> {
    loop {
        let mut fds = [PollFd::new(&order.socket, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
        let _ = rustix::event::poll(&mut fds, None);
        let (asked, signalled) = (!fds[0].revents().is_empty(), !fds[1].revents().is_empty());
        if asked && handover::is_asked(&order.socket) {
            return Ok(None);
        }
        // Whatever the spawner wants of a job that does not run: it is over.
        if signalled
            && let Some(arrived) = sys::next_signal(signals)
            && (arrived.signal != libc::SIGTERM || sys::host_goes_down())
        {
            let key = &order.start.key;
            let written = || verdict::read(&shared.attempts, key).ok().flatten();
            // Of an attempt without a directory the spawner does not know that nothing ran; we do.
            let handed =
                || matches!(shared.attempts.has(key, names::LOCK), Ok(true)).then(|| verdict::handed(&order.lock));
            let finish = arrived.signal == sys::signal_finish();
            let ending = finish.then(|| written().or_else(|| handed().flatten())).flatten();
            return ending.map(Some).ok_or_else(|| "its unit did not start".to_owned());
        }
        if asked {
            return Err("its unit ended before it asked for the job".to_owned());
        }
    }
}
