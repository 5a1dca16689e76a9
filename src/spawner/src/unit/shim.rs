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
use serde::{Deserialize, Serialize};

use super::cgroup::UnitGroup;
use super::handover::{self, Word};
use super::places::Place;
use super::seals::Seal;
use super::verdict::{self, Ending};
use crate::attempts::{Attempts, Identity};
use crate::failpoint::{self, hit};
use crate::joblog::{LogOptions, LogWriter};
use crate::protocol::{AttemptKey, ExitRecord, ExitResult, Start, UNIT_WORKSPACE, names};
use crate::shim::clock::{Deadlines, Started};
use crate::shim::spec::Loaded;
use crate::shim::{self, receipt, spec};
use crate::{record, sys};

/// Output is read so much at a time.
const OUTPUT_BYTES: usize = 32 * 1024;
/// What somebody outside of the job still writes into its pipe is read up to this.
const DRAIN_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Killed again after this: a process that forked at that moment survives one kill.
const KILL_AGAIN_MS: u64 = 50;
/// PID 1 keeps the deadline; so long after it the shim does.
const DEADLINE_PATIENCE_MS: u64 = 5000;

/// What every shim inherits from the spawner.
pub(super) struct Shared {
    /// The attempt directories.
    pub(super) attempts: Attempts,
    /// A pipe to the spawner.
    pub(super) notes: OwnedFd,
    /// Logs of jobs.
    pub(super) log_dir: PathBuf,
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
            note(&shared.notes, &Note::Refused(key, record::shortened(&why)));
            sys::exit_now(1)
        }
        Err(_) => sys::exit_now(70),
    }
}

fn note(pipe: &OwnedFd, note: &Note) {
    if let Ok(mut line) = serde_json::to_vec(note) {
        line.push(b'\n');
        let _ = rustix::io::write(pipe, &line);
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
            publish(shared, &Started::now().failed(&order.start.key, &cause));
            return Ok(());
        }
    };
    let log_dir = shim::open_dir(&shared.log_dir)
        .map_err(|error| format!("cannot open the log directory {}: {error}", shared.log_dir.display()))?;
    let (output, job_output) = shim::output_pipe().map_err(|error| format!("cannot make a pipe: {error}"))?;
    let (status, job_status) = shim::output_pipe().map_err(|error| format!("cannot make a pipe: {error}"))?;
    if let Some(ending) = wait_for_helper(shared, &order, &signals)? {
        if let Some(result) = ending.result.clone() {
            publish(shared, &ending.record(&order.start.key, result, Started::now()));
        }
        return Ok(());
    }
    hit(failpoint::SHIM_BEFORE_BEGAN);
    shared.attempts.mark(&order.start.key, names::BEGAN).map_err(|error| format!("cannot write `began`: {error}"))?;
    hit(failpoint::SHIM_AFTER_BEGAN);
    let started = Started::now();
    let mut checks = order.seals.clone();
    checks.extend(order.place.iter().flat_map(Place::words));
    let job = (&loaded.program, checks.as_slice());
    let handed = handover::hand_over(&order.socket, job, job_output.as_fd(), job_status.as_fd());
    if let Err(error) = handed {
        let _ = shared.attempts.unmark(&order.start.key, names::BEGAN);
        return Err(format!("cannot hand the job over: {error}"));
    }
    note(&shared.notes, &Note::Began(order.start.key.clone()));
    hit(failpoint::SHIM_AFTER_EXEC);
    let options = LogOptions {
        job: order.start.key.job,
        attempt: order.start.key.attempt,
        start_wall_ms: started.wall_ms(),
        bytes_max: order.start.log_bytes_max,
        masker: loaded.masker,
    };
    let Order { start, lock, group, spec, secrets, socket, place: _, seals: _ } = order;
    drop((job_output, job_status, spec, secrets, socket));
    let log = LogWriter::new(log_dir, options);
    let program = loaded.program;
    let failure = Failure { status, program: Some(program), cause: None };
    let pump = Pump { start, _lock: lock, group, output: Some(output), signals, log, started, failure };
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
            return match verdict::read(&shared.attempts, &order.start.key) {
                Ok(Some(ending)) if arrived.signal == sys::signal_finish() => Ok(Some(ending)),
                _ => Err("its unit did not start".to_owned()),
            };
        }
        if asked {
            return Err("its unit ended before it asked for the job".to_owned());
        }
    }
}

/// Whether the helper could execute.
struct Failure {
    status: OwnedFd,
    /// For the words about a failure; dropped once it executed.
    program: Option<crate::launch::Program>,
    cause: Option<String>,
}

struct Pump {
    start: Start,
    _lock: OwnedFd,
    group: UnitGroup,
    /// None after its end: nobody has the other end any more.
    output: Option<OwnedFd>,
    signals: OwnedFd,
    log: LogWriter,
    started: Started,
    failure: Failure,
}

/// What the signals that arrived come to.
enum Wish {
    /// Nothing more.
    GoOn,
    /// There is a verdict.
    Finish,
    /// The host goes down and waits for us; nobody will ever read a record.
    Leave,
}

impl Pump {
    /// Until the verdict is there and the log is complete.
    fn run(mut self, shared: &Shared) {
        let mut deadlines = Deadlines::new(&self.start, self.started);
        let patience = |ms: u64| ms.saturating_add(self.start.grace_ms).saturating_add(DEADLINE_PATIENCE_MS);
        let late = self.start.timeout_ms.map(patience);
        deadlines.kill = late;
        let mut buffer = Vec::with_capacity(OUTPUT_BYTES);
        let verdict = loop {
            let (signalled, output, status) = self.sleep(&mut deadlines);
            if status {
                self.read_status();
            }
            if output && self.copy_output(&mut buffer).is_none() {
                self.output = None;
            }
            self.keep_deadlines(&mut deadlines);
            match if signalled { self.wishes(&mut deadlines) } else { Wish::GoOn } {
                Wish::GoOn => {}
                Wish::Finish => {
                    if let Ok(Some(verdict)) = verdict::read(&shared.attempts, &self.start.key) {
                        break verdict;
                    }
                }
                Wish::Leave => {
                    self.log.finish(self.started.elapsed_ms());
                    return;
                }
            }
        };
        hit(failpoint::SHIM_AFTER_MAIN_END);
        self.read_status();
        let mut drained = 0;
        while drained < DRAIN_BYTES_MAX
            && let Some(more @ 1..) = self.copy_output(&mut buffer)
        {
            drained += more;
        }
        if verdict.leftovers > 0 {
            self.log.mark(self.started.elapsed_ms(), &crate::joblog::left_behind(verdict.leftovers.into()));
        }
        // Without a result the attempt is lost: no record says so.
        let Some(mut result) = verdict.result.clone() else {
            self.log.finish(self.started.elapsed_ms());
            hit(failpoint::SHIM_BEFORE_EXIT_RECORD);
            return;
        };
        // PID 1 did not keep the deadline: the kill was ours.
        let ran_ms = self.started.until_us(verdict.ended_boot_us) / 1000;
        if late.is_some_and(|late| ran_ms >= late) && matches!(result, ExitResult::Signaled { .. }) {
            result = ExitResult::TimedOut;
        }
        let result = self.failure.cause.take().map_or(result, |cause| record::failed_to_start(&cause));
        let mut record = verdict.record(&self.start.key, result, self.started);
        let footer = receipt::footer(&record, &self.start.limits);
        let totals = self.log.finish_with(self.started.elapsed_ms(), footer.as_deref());
        hit(failpoint::SHIM_BEFORE_EXIT_RECORD);
        (record.log_bytes, record.log_dropped_bytes) = (totals.bytes, totals.dropped_bytes);
        publish(shared, &record);
    }

    /// What woke us: signals, output, status.
    fn sleep(&self, deadlines: &mut Deadlines) -> (bool, bool, bool) {
        let mut fds = vec![PollFd::new(&self.signals, PollFlags::IN)];
        if let Some(timer) = deadlines.timer() {
            fds.push(PollFd::new(timer, PollFlags::IN));
        }
        let output_at = fds.len();
        fds.extend(self.output.as_ref().map(|output| PollFd::new(output, PollFlags::IN)));
        let status_at = fds.len();
        if self.failure.program.is_some() {
            fds.push(PollFd::new(&self.failure.status, PollFlags::IN));
        }
        if rustix::event::poll(&mut fds, None).is_err() {
            return (true, false, false);
        }
        let ready = |at: usize| fds.get(at).is_some_and(|fd| !fd.revents().is_empty());
        (ready(0), self.output.is_some() && ready(output_at), ready(status_at))
    }

    /// The helper executed (end of file) or says why not.
    fn read_status(&mut self) {
        while let Some(program) = self.failure.program.take() {
            match handover::read_status(&self.failure.status) {
                Word::Executed => {}
                Word::Failed(stage, error) => self.failure.cause = Some(shim::cannot_start(&program, stage, &error)),
                Word::Lacks(seal, false) => self.failure.cause = Some(unsealed(seal)),
                Word::Lacks(seal, true) => {
                    let text =
                        format!("this host does not give the sandbox its {}=: the job runs without", seal.name());
                    say!("{}: {text}", self.start.key);
                    self.log.mark(self.started.elapsed_ms(), &text);
                    self.failure.program = Some(program);
                }
                Word::Nothing => {
                    self.failure.program = Some(program);
                    return;
                }
            }
        }
    }

    /// Takes what was signalled.
    fn wishes(&self, deadlines: &mut Deadlines) -> Wish {
        let mut wish = Wish::GoOn;
        while let Some(arrived) = sys::next_signal(&self.signals) {
            if arrived.signal == sys::signal_stop() {
                deadlines.kill_within(arrived.value);
            } else if arrived.signal == sys::signal_kill() {
                deadlines.kill_within(0);
            } else if arrived.signal == sys::signal_finish() {
                wish = Wish::Finish;
            } else if arrived.signal == libc::SIGTERM && sys::host_goes_down() {
                return Wish::Leave;
            }
        }
        wish
    }

    fn keep_deadlines(&mut self, deadlines: &mut Deadlines) {
        let now = self.started.elapsed_ms();
        let (soft, hard) = (self.start.soft_timeout_ms, self.start.timeout_ms);
        if Deadlines::take_due(&mut deadlines.soft, now) {
            self.log.mark(now, &shim::soft_timeout_text(soft, hard));
        }
        if Deadlines::take_due(&mut deadlines.hard, now) {
            self.log.mark(now, &shim::hard_timeout_text(hard, self.start.grace_ms));
        }
        if Deadlines::take_due(&mut deadlines.kill, now) {
            self.group.kill();
            deadlines.kill_within(KILL_AGAIN_MS);
        }
    }

    /// One piece of output into the log: its size; 0 when there is none now, None when there will be none.
    fn copy_output(&mut self, buffer: &mut Vec<u8>) -> Option<usize> {
        buffer.clear();
        match rustix::io::read(self.output.as_ref()?, rustix::buffer::spare_capacity(buffer)) {
            Ok(0) => None,
            Ok(got) => {
                self.log.write(self.started.elapsed_ms(), buffer);
                Some(got)
            }
            Err(_) => Some(0),
        }
    }
}

fn unsealed(seal: Seal) -> String {
    format!(
        "this host does not give the sandbox its {}= (a kernel without it, or a drop-in that takes it away); \
         \"degrade\": true for the pool in the spawner's policy runs its jobs without",
        seal.name()
    )
}

/// Puts the record where every later spawner finds it or, if that cannot be, tells this one.
fn publish(shared: &Shared, record: &ExitRecord) {
    let written = shared.attempts.write_exit_aside(record).and_then(|()| {
        hit(failpoint::SHIM_AFTER_EXIT_TMP);
        shared.attempts.publish_exit(&record.key)
    });
    if let Err(error) = written {
        say!("{}: cannot write the exit record: {error}; telling the spawner", record.key);
        note(&shared.notes, &Note::Record(record.clone()));
    }
    hit(failpoint::SHIM_AFTER_EXIT_RECORD);
}
