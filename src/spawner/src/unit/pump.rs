//! The shim while its job runs: copies the output into the log, keeps the deadlines, and ends with the verdict.

use super::cgroup::UnitGroup;
use super::figures::Figures;
use super::handover::{self, Word};
use super::seals::Seal;
use super::shim::Shared;
use super::verdict;
use crate::failpoint::{self, hit};
use crate::joblog::LogWriter;
use crate::protocol::{ExitResult, Start, names};
use crate::shim::clock::{Deadlines, Started};
use crate::shim::{self, receipt};
use crate::{record, sys};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::Pid;
use std::os::fd::OwnedFd;

/// Output is read so much at a time.
const OUTPUT_BYTES: usize = 32 * 1024;
/// What somebody outside of the job still writes into its pipe is read up to this.
const DRAIN_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Killed again after this: a process that forked at that moment survives one kill.
const KILL_AGAIN_MS: u64 = 50;
/// PID 1 keeps the deadline; so long after it the shim does.
const DEADLINE_PATIENCE_MS: u64 = 5000;
/// Once the output has ended, whether anybody is left who could say more is looked at this often.
const FORSAKEN_LOOK_S: i64 = 2;

/// Whether the helper could execute.
pub(super) struct Failure {
    pub(super) status: OwnedFd,
    /// For the words about a failure; dropped once it executed.
    pub(super) program: Option<crate::launch::Program>,
    pub(super) cause: Option<String>,
    /// What the sandbox lacks; the job runs all the same.
    pub(super) lacks: Vec<Seal>,
}

pub(super) struct Pump {
    pub(super) start: Start,
    pub(super) lock: OwnedFd,
    pub(super) spawner: Pid,
    pub(super) group: UnitGroup,
    pub(super) figures: Figures,
    /// None after its end: nobody has the other end any more.
    pub(super) output: Option<OwnedFd>,
    pub(super) signals: OwnedFd,
    pub(super) log: LogWriter,
    pub(super) started: Started,
    pub(super) failure: Failure,
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
    pub(super) fn run(mut self, shared: &Shared) {
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
                Wish::Finish => {
                    let written = verdict::read(&shared.attempts, &self.start.key).ok().flatten();
                    if let Some(verdict) = written.or_else(|| verdict::handed(&self.lock)) {
                        break verdict;
                    }
                }
                Wish::GoOn if self.is_forsaken(shared) => {
                    self.group.kill();
                    self.log.finish(self.started.elapsed_ms());
                    return;
                }
                Wish::GoOn => {}
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
        record.used = self.figures.add_to(record.used.take());
        record.lacks = self.failure.lacks.iter().map(|seal| seal.name().to_owned()).collect();
        let footer = receipt::footer(&record, &self.start.limits);
        let totals = self.log.finish_with(self.started.elapsed_ms(), footer.as_deref());
        hit(failpoint::SHIM_BEFORE_EXIT_RECORD);
        (record.log_bytes, record.log_dropped_bytes) = (totals.bytes, totals.dropped_bytes);
        shared.publish(&record);
    }

    /// What woke us: signals, output, status.
    fn sleep(&mut self, deadlines: &mut Deadlines) -> (bool, bool, bool) {
        let mut fds = vec![PollFd::new(&self.signals, PollFlags::IN)];
        let main_at = fds.len();
        fds.extend(self.figures.main().map(|main| PollFd::new(main, PollFlags::IN)));
        if let Some(timer) = deadlines.timer() {
            fds.push(PollFd::new(timer, PollFlags::IN));
        }
        let output_at = fds.len();
        fds.extend(self.output.as_ref().map(|output| PollFd::new(output, PollFlags::IN)));
        let status_at = fds.len();
        if self.failure.program.is_some() {
            fds.push(PollFd::new(&self.failure.status, PollFlags::IN));
        }
        let patience = Timespec { tv_sec: FORSAKEN_LOOK_S, tv_nsec: 0 };
        if rustix::event::poll(&mut fds, self.output.is_none().then_some(&patience)).is_err() {
            return (true, false, false);
        }
        let ready = |at: usize| fds.get(at).is_some_and(|fd| !fd.revents().is_empty());
        let main = self.figures.main().is_some() && ready(main_at);
        let woken = (ready(0), self.output.is_some() && ready(output_at), ready(status_at));
        // First of all: PID 1 is about to remove what can be asked.
        if main {
            self.figures.ask();
        }
        woken
    }

    /// True when nobody is left who could say how the job ends: its attempt's directory is gone, and so is the spawner that knew
    /// it all the same. While it has output, that is read.
    fn is_forsaken(&self, shared: &Shared) -> bool {
        self.output.is_none()
            && rustix::process::getppid() != Some(self.spawner)
            && matches!(shared.attempts.has(&self.start.key, names::LOCK), Ok(false))
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
                    self.failure.lacks.push(seal);
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
