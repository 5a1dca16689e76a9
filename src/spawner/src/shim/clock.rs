//! Times of one attempt: deadlines on CLOCK_BOOTTIME, what people see on the wall clock.

use std::os::fd::OwnedFd;

use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};

use crate::protocol::{AttemptKey, ExitRecord, ExitResult, Start};
use crate::{record, sys};

/// When the job's process was made.
#[derive(Clone, Copy)]
pub(crate) struct Started {
    wall_ms: i64,
    boot_us: u64,
}

impl Started {
    /// Now.
    pub(crate) fn now() -> Self {
        Self { wall_ms: sys::wall_ms(), boot_us: sys::boottime_us() }
    }

    /// At a moment of the wall clock whose other times are not known.
    pub(crate) fn at_wall(wall_ms: i64) -> Self {
        Self { wall_ms, boot_us: u64::MAX }
    }

    /// Milliseconds since 1970.
    pub(crate) fn wall_ms(self) -> i64 {
        self.wall_ms
    }

    /// Since then, microseconds.
    pub(crate) fn elapsed_us(self) -> u64 {
        sys::boottime_us().saturating_sub(self.boot_us)
    }

    /// From then to a moment of CLOCK_BOOTTIME, microseconds.
    pub(crate) fn until_us(self, boot_us: u64) -> u64 {
        boot_us.saturating_sub(self.boot_us)
    }

    /// Since then, milliseconds.
    pub(crate) fn elapsed_ms(self) -> u64 {
        self.elapsed_us() / 1000
    }

    /// A record with this result and nothing used.
    pub(crate) fn record(self, key: &AttemptKey, result: ExitResult) -> ExitRecord {
        ExitRecord {
            key: key.clone(),
            result,
            started_wall_ms: self.wall_ms,
            ended_wall_ms: sys::wall_ms(),
            run_us: self.elapsed_us(),
            cpu_user_us: 0,
            cpu_system_us: 0,
            peak_memory_bytes: 0,
            log_bytes: 0,
            log_dropped_bytes: 0,
            leftovers: 0,
            used: None,
            lacks: Vec::new(),
        }
    }

    /// The record of an attempt that could not run.
    pub(crate) fn failed(self, key: &AttemptKey, cause: &str) -> ExitRecord {
        self.record(key, record::failed_to_start(cause))
    }
}

/// What is due when, in milliseconds after the start. A `None` is not due.
pub(crate) struct Deadlines {
    /// Warn.
    pub(crate) soft: Option<u64>,
    /// Ask the job to end.
    pub(crate) hard: Option<u64>,
    /// Kill it.
    pub(crate) kill: Option<u64>,
    started: Started,
    timer: Option<OwnedFd>,
    armed: Option<u64>,
}

impl Deadlines {
    /// Those of the request.
    pub(crate) fn new(start: &Start, started: Started) -> Self {
        Self { soft: start.soft_timeout_ms, hard: start.timeout_ms, kill: None, started, timer: None, armed: None }
    }

    /// The timer, set to the next deadline; it runs while the machine sleeps, which a timeout of `poll` does not.
    pub(crate) fn timer(&mut self) -> Option<&OwnedFd> {
        let next = [self.soft, self.hard, self.kill].into_iter().flatten().min();
        if self.timer.is_none() && next.is_some() {
            let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
            self.timer = rustix::time::timerfd_create(TimerfdClockId::Boottime, flags).ok();
        }
        if self.armed != next {
            if let Some(timer) = &self.timer {
                let at_us = next.map_or(0, |ms| self.started.boot_us.saturating_add(ms.saturating_mul(1000)).max(1));
                let at = Timespec {
                    tv_sec: i64::try_from(at_us / 1_000_000).unwrap_or(i64::MAX),
                    tv_nsec: (at_us % 1_000_000) as i64 * 1000,
                };
                let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
                let spec = Itimerspec { it_interval: zero, it_value: at };
                let _ = rustix::time::timerfd_settime(timer, TimerfdTimerFlags::ABSTIME, &spec);
            }
            self.armed = next;
        }
        self.timer.as_ref()
    }

    /// Takes a deadline that has passed.
    pub(crate) fn take_due(deadline: &mut Option<u64>, elapsed_ms: u64) -> bool {
        deadline.take_if(|at| *at <= elapsed_ms).is_some()
    }

    /// Kill at the latest so many milliseconds from now; never later than was said before.
    pub(crate) fn kill_within(&mut self, grace_ms: u64) {
        let at = self.started.elapsed_ms().saturating_add(grace_ms);
        self.kill = Some(self.kill.map_or(at, |before| before.min(at)));
    }
}
