//! While the job runs: its output, its processes' ends, its deadlines and the spawner's wishes.

use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags};
use rustix::process::Signal;

use super::clock::{Deadlines, Started};
use super::end::{self, Usage};
use super::receipt;
use crate::cgroup::Leaf;
use crate::failpoint::{self, hit};
use crate::joblog::LogWriter;
use crate::procs;
use crate::protocol::{ExitRecord, ExitResult, Start};
use crate::record;
use crate::sys::{self, Reaped};

/// Output is read so much at a time; touched only as far as the job writes.
const OUTPUT_BYTES: usize = 32 * 1024;
/// After the job's end nobody should write to its pipe any more; what a process outside of the job that was given the pipe
/// still writes is read up to this.
const DRAIN_BYTES_MAX: usize = 2 * 1024 * 1024;
/// A process that survived a kill (it forked at that moment, or waits for a disk) is killed again after this.
const KILL_AGAIN_MS: u64 = 50;

/// A running job.
pub(super) struct Job {
    /// Process id of its main process; not reaped.
    pub(super) main: i32,
    /// It did not execute, and why.
    pub(super) failed: Option<String>,
    /// Its cgroup.
    pub(super) leaf: Option<Leaf>,
    /// Our end of its output.
    pub(super) output: OwnedFd,
    /// The job's end, kept open: the job is over when its processes are, and an end of file would only wake us before.
    pub(super) _writer: OwnedFd,
    /// SIGCHLD and the spawner's two.
    pub(super) signals: OwnedFd,
    /// Its log.
    pub(super) log: LogWriter,
    /// When its process was made.
    pub(super) started: Started,
    /// It was killed by us, on purpose.
    pub(super) killed: bool,
}

/// What woke us.
struct Woken {
    output: bool,
    signals: bool,
}

impl Job {
    /// Stays until nothing of the job is left and its log is complete.
    pub(super) fn watch(mut self, start: &Start) -> ExitRecord {
        let mut deadlines = Deadlines::new(start, self.started);
        let mut usage = Usage::default();
        let mut timed_out = false;
        let mut buffer = Vec::with_capacity(OUTPUT_BYTES);
        let status = loop {
            let woken = self.sleep(&mut deadlines);
            if woken.signals {
                self.wishes(&mut deadlines);
                if let Some(status) = self.reap(&mut usage) {
                    break status;
                }
            }
            if woken.output {
                self.copy_output(&mut buffer);
            }
            timed_out |= self.keep_deadlines(&mut deadlines, start);
        };
        let run_us = self.started.elapsed_us();
        hit(failpoint::SHIM_AFTER_MAIN_END);
        let leftovers = end::nothing_left(self.leaf.as_ref(), &self.signals, &mut usage);
        self.drain(&mut buffer);
        if leftovers > 0 {
            self.log.mark(self.started.elapsed_ms(), &crate::joblog::left_behind(leftovers.into()));
        }
        let used = usage.group.map(|(_, used)| used);
        let result = match self.failed.take() {
            Some(cause) => record::failed_to_start(&cause),
            None if timed_out => ExitResult::TimedOut,
            None => receipt::with_oom(result_of(status), used.as_ref(), self.killed),
        };
        let cpu = usage.group.map_or((usage.user_us, usage.system_us), |(cpu, _)| (cpu.user_us, cpu.system_us));
        let mut record = ExitRecord {
            run_us,
            cpu_user_us: cpu.0,
            cpu_system_us: cpu.1,
            peak_memory_bytes: used.and_then(|used| used.memory_peak).unwrap_or(usage.peak_bytes),
            leftovers,
            used: used.map(Box::new),
            ..self.started.record(&start.key, result)
        };
        let footer = receipt::footer(&record, &start.limits);
        let totals = self.log.finish_with(self.started.elapsed_ms(), footer.as_deref());
        (record.log_bytes, record.log_dropped_bytes) = (totals.bytes, totals.dropped_bytes);
        record
    }

    fn sleep(&self, deadlines: &mut Deadlines) -> Woken {
        let mut fds = Vec::with_capacity(3);
        fds.push(PollFd::new(&self.signals, PollFlags::IN));
        fds.push(PollFd::new(&self.output, PollFlags::IN));
        if let Some(timer) = deadlines.timer() {
            fds.push(PollFd::new(timer, PollFlags::IN));
        }
        if rustix::event::poll(&mut fds, None).is_err() {
            return Woken { output: false, signals: true };
        }
        let ready = |at: usize| fds.get(at).is_some_and(|fd| !fd.revents().is_empty());
        Woken { signals: ready(0), output: ready(1) }
    }

    /// Takes what was signalled to us.
    fn wishes(&self, deadlines: &mut Deadlines) {
        while let Some(arrived) = sys::next_signal(&self.signals) {
            if arrived.signal == sys::signal_stop() {
                self.ask_to_end();
                deadlines.kill_within(arrived.value);
            } else if arrived.signal == sys::signal_kill() {
                deadlines.kill_within(0);
            }
        }
    }

    /// Reaps what has ended; the status once that was the main process.
    fn reap(&self, usage: &mut Usage) -> Option<i32> {
        while let Reaped::Child(dead) = sys::reap() {
            usage.add(&dead.usage);
            if dead.pid == self.main {
                return Some(dead.status);
            }
        }
        None
    }

    /// One piece of output into the log; its size, 0 when there is none.
    fn copy_output(&mut self, buffer: &mut Vec<u8>) -> usize {
        buffer.clear();
        match rustix::io::read(&self.output, rustix::buffer::spare_capacity(buffer)) {
            Ok(got) => {
                self.log.write(self.started.elapsed_ms(), buffer);
                got
            }
            // Nothing is there (AGAIN); no other error can come from a pipe.
            Err(_) => 0,
        }
    }

    fn drain(&mut self, buffer: &mut Vec<u8>) {
        let mut drained = 0;
        while drained < DRAIN_BYTES_MAX {
            match self.copy_output(buffer) {
                0 => break,
                more => drained += more,
            }
        }
    }

    /// Acts on what is due; true when the hard deadline has passed just now.
    fn keep_deadlines(&mut self, deadlines: &mut Deadlines, start: &Start) -> bool {
        let now = self.started.elapsed_ms();
        if Deadlines::take_due(&mut deadlines.soft, now) {
            self.log.mark(now, &soft_timeout_text(start.soft_timeout_ms, start.timeout_ms));
        }
        let timed_out = Deadlines::take_due(&mut deadlines.hard, now);
        if timed_out {
            self.log.mark(now, &hard_timeout_text(start.timeout_ms, start.grace_ms));
            self.ask_to_end();
            deadlines.kill_within(start.grace_ms);
        }
        if Deadlines::take_due(&mut deadlines.kill, now) {
            end::kill_all(self.leaf.as_ref());
            self.killed = true;
            deadlines.kill_within(KILL_AGAIN_MS);
        }
        timed_out
    }

    /// SIGTERM to every process; SIGCONT, so that stopped ones take it.
    fn ask_to_end(&self) {
        let signals = [Signal::TERM, Signal::CONT];
        match &self.leaf {
            Some(leaf) => leaf.signal(&signals),
            None => {
                if let Err(error) = procs::signal_descendants(&[end::own_pid()], &signals) {
                    say!("a job cannot be asked to end, it will be killed: {error}");
                }
            }
        }
    }
}

fn result_of(status: i32) -> ExitResult {
    if libc::WIFEXITED(status) {
        ExitResult::Exited { code: libc::WEXITSTATUS(status) as u8 }
    } else {
        ExitResult::Signaled { signal: libc::WTERMSIG(status) as u8 }
    }
}

/// The mark in the log when the soft deadline passes.
pub(crate) fn soft_timeout_text(soft_ms: Option<u64>, hard_ms: Option<u64>) -> String {
    let soft = seconds(soft_ms);
    match hard_ms {
        Some(_) => format!("soft timeout of {soft} passed; the job is stopped after {}", seconds(hard_ms)),
        None => format!("soft timeout of {soft} passed"),
    }
}

/// The mark in the log when the hard deadline passes.
pub(crate) fn hard_timeout_text(hard_ms: Option<u64>, grace_ms: u64) -> String {
    format!("timeout of {} passed; killed unless it ends within {}", seconds(hard_ms), seconds(Some(grace_ms)))
}

fn seconds(ms: Option<u64>) -> String {
    let ms = ms.unwrap_or(0);
    if ms.is_multiple_of(1000) { format!("{} s", ms / 1000) } else { format!("{:.3} s", ms as f64 / 1000.0) }
}
