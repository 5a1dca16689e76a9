//! What PID 1's words about a unit mean for an attempt. Pure; every row of the table in `docs/operating/systemd.md` is a
//! test.
//!
//! The truth is `ExecMainCode` with `ExecMainStatus`. `Result` says `success` for deaths by HUP, INT, TERM and PIPE and after
//! `reset-failed`, so that only two of its words count: `timeout` and `oom-kill`. Times tell who was first: a main process
//! that ended **after** its unit had begun to stop was stopped by somebody (nobody here stops a unit whose job runs), and
//! what it then exits with says nothing: not a success, whatever it is.

use crate::protocol::ExitResult;
use crate::record;

use super::bus::Value;

/// `si_code` values as PID 1 tells them.
const CLD_EXITED: u64 = 1;
const CLD_KILLED: u64 = 2;
const CLD_DUMPED: u64 = 3;
/// A property that is not known has this value.
const UNKNOWN: u64 = u64::MAX;
/// RuntimeMaxSec= is counted by PID 1 with this accuracy at worst.
const TIMER_SLACK_US: u64 = 2_000_000;

/// Properties of a unit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// `not-found`: there is no such unit (any more).
    pub(super) load_state: String,
    /// `active`, `activating`, `deactivating`, `inactive`, `failed`.
    pub(super) active_state: String,
    /// Why it failed.
    pub(super) result: String,
    /// How the main process ended.
    pub(super) code: u64,
    /// With which number.
    pub(super) status: u64,
    /// When the main process ended, CLOCK_MONOTONIC; 0: it did not.
    pub(super) exit_us: u64,
    /// The same on the wall clock.
    pub(super) exit_wall_us: u64,
    /// When it became active.
    pub(super) active_enter_us: u64,
    /// When it left the active state.
    pub(super) active_exit_us: u64,
    /// The deadline after becoming active, as PID 1 keeps it.
    pub(super) runtime_max_us: u64,
    /// CPU time of everything in it.
    pub(super) cpu_ns: u64,
    /// Most memory it had, where it is counted.
    pub(super) memory_peak_bytes: Option<u64>,
    /// Read from disks, where it is counted.
    pub(super) io_read_bytes: Option<u64>,
    /// Written to disks, where it is counted.
    pub(super) io_written_bytes: Option<u64>,
    /// Below the root of the cgroup tree; empty once PID 1 has removed it.
    pub(super) cgroup: String,
    /// In which slice it is, or was.
    pub(super) slice: String,
}

impl Facts {
    /// From the answers to `GetAll` of the unit's and the service's interface.
    pub(super) fn new(unit: &Value, service: &Value) -> Self {
        let text = |of: &Value, name: &str| of.get(name).and_then(Value::text).unwrap_or_default().to_owned();
        let number = |of: &Value, name: &str| of.get(name).and_then(Value::number).unwrap_or(0);
        let known = |name: &str| service.get(name).and_then(Value::number).filter(|&number| number != UNKNOWN);
        Self {
            load_state: text(unit, "LoadState"),
            active_state: text(unit, "ActiveState"),
            result: text(service, "Result"),
            code: number(service, "ExecMainCode"),
            status: number(service, "ExecMainStatus"),
            exit_us: number(service, "ExecMainExitTimestampMonotonic"),
            exit_wall_us: number(service, "ExecMainExitTimestamp"),
            active_enter_us: number(unit, "ActiveEnterTimestampMonotonic"),
            active_exit_us: number(unit, "ActiveExitTimestampMonotonic"),
            runtime_max_us: number(service, "RuntimeMaxUSec"),
            cpu_ns: known("CPUUsageNSec").unwrap_or(0),
            memory_peak_bytes: known("MemoryPeak"),
            io_read_bytes: known("IOReadBytes"),
            io_written_bytes: known("IOWriteBytes"),
            cgroup: text(service, "ControlGroup"),
            slice: text(service, "Slice"),
        }
    }
}

impl Facts {
    /// True when there is no such unit.
    pub(super) fn is_absent(&self) -> bool {
        self.load_state == "not-found"
    }

    /// True when its main process has ended, or there never will be one.
    pub(super) fn is_over(&self) -> bool {
        self.exit_us != 0 || matches!(self.active_state.as_str(), "inactive" | "failed")
    }
}

/// What became of the unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// There is none.
    Absent,
    /// It is on its way, or runs.
    Runs,
    /// Its main process ended like this.
    Ended(ExitResult),
    /// It is over, and nobody can say how.
    Lost(&'static str),
}

/// Judges.
pub(super) fn judge(facts: &Facts, began: bool) -> Verdict {
    if facts.is_absent() {
        return Verdict::Absent;
    }
    if facts.exit_us == 0 {
        return match facts.active_state.as_str() {
            "inactive" => Verdict::Absent,
            "failed" if !began => Verdict::Ended(record::failed_to_start(&format!(
                "systemd could not start the unit: {}",
                record::shortened_name(&facts.result)
            ))),
            "failed" => Verdict::Lost("its unit failed without a word about its main process"),
            _ => Verdict::Runs,
        };
    }
    if !began {
        return Verdict::Ended(record::failed_to_start(&setup_failure(facts)));
    }
    // One that ended by itself keeps its end, although something of it was killed for memory.
    let out_of_memory = facts.result == "oom-kill";
    if out_of_memory && facts.code != CLD_EXITED {
        return Verdict::Ended(ExitResult::OomKilled);
    }
    let stopped_first = !out_of_memory && facts.active_exit_us != 0 && facts.active_exit_us < facts.exit_us;
    if stopped_first {
        return if deadline_passed(facts) {
            Verdict::Ended(ExitResult::TimedOut)
        } else {
            Verdict::Ended(ExitResult::Stopped)
        };
    }
    let small = |number: u64| u8::try_from(number).ok();
    match (facts.code, small(facts.status)) {
        (CLD_EXITED, Some(code)) => Verdict::Ended(ExitResult::Exited { code }),
        (CLD_KILLED | CLD_DUMPED, Some(signal)) => Verdict::Ended(ExitResult::Signaled { signal }),
        _ => Verdict::Lost("PID 1 tells an end that cannot be"),
    }
}

/// True when the unit left its active state because its time was over, and not because somebody asked.
fn deadline_passed(facts: &Facts) -> bool {
    let ran_us = facts.active_exit_us.saturating_sub(facts.active_enter_us);
    // A unit that was stopped while it was still starting never became active.
    facts.active_enter_us != 0
        && facts.runtime_max_us != UNKNOWN
        && facts.runtime_max_us != 0
        && facts.result == "timeout"
        && ran_us.saturating_add(TIMER_SLACK_US.min(facts.runtime_max_us / 10)) >= facts.runtime_max_us
}

/// In words, why the helper never got as far as taking the job: systemd's own exit statuses (`systemd.exec(5)`).
fn setup_failure(facts: &Facts) -> String {
    let what = match facts.status {
        200 => "its working directory (CHDIR)",
        203 => "its program, the spawner's helper (EXEC)",
        208 => "its standard input (STDIN)",
        210 => "its root directory (CHROOT)",
        216 => "its group (GROUP)",
        217 => "its user (USER)",
        218 => "its capabilities (CAPABILITIES)",
        219 => "its cgroup (CGROUP)",
        225 => "its network namespace (NETWORK)",
        226 => "its mount namespace (NAMESPACE)",
        227 => "its NoNewPrivileges= (NO_NEW_PRIVILEGES)",
        228 => "its system call filter (SECCOMP)",
        229 => "its SELinux context (SELINUX_CONTEXT)",
        231 => "its AppArmor profile (APPARMOR)",
        232 => "its address families (ADDRESS_FAMILIES)",
        233 | 238..=240 => "its directories (STATE_DIRECTORY and the like)",
        _ => {
            return format!(
                "the unit ended before the job was handed over (systemd says {}, code {}, status {})",
                facts.result, facts.code, facts.status
            );
        }
    };
    format!("systemd could not set up {what}, status {}; see journalctl -u ci-job-*", facts.status)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A job that ended by itself 5 s after its start.
    fn ended(code: u64, status: u64, result: &str, state: &str) -> Facts {
        Facts {
            load_state: "loaded".to_owned(),
            active_state: state.to_owned(),
            result: result.to_owned(),
            code,
            status,
            exit_us: 6_000_000,
            active_enter_us: 1_000_000,
            active_exit_us: if state == "active" { 0 } else { 6_000_100 },
            runtime_max_us: UNKNOWN,
            ..Facts::default()
        }
    }

    fn exited(code: u8) -> Verdict {
        Verdict::Ended(ExitResult::Exited { code })
    }

    fn signaled(signal: u8) -> Verdict {
        Verdict::Ended(ExitResult::Signaled { signal })
    }

    #[test]
    fn ends_by_itself_are_told_by_code_and_status_whatever_result_says() {
        for (facts, want) in [
            (ended(1, 0, "success", "active"), exited(0)),
            (ended(1, 7, "exit-code", "failed"), exited(7)),
            (ended(1, 203, "exit-code", "failed"), exited(203)),
            (ended(2, 15, "success", "active"), signaled(15)),
            (ended(2, 1, "success", "active"), signaled(1)),
            (ended(2, 13, "success", "active"), signaled(13)),
            (ended(2, 11, "signal", "failed"), signaled(11)),
            (ended(3, 11, "core-dump", "failed"), signaled(11)),
            (ended(2, 9, "oom-kill", "failed"), Verdict::Ended(ExitResult::OomKilled)),
            // A child was killed for memory, and the job ended by itself.
            (ended(1, 2, "oom-kill", "failed"), exited(2)),
            // reset-failed by hand: `Result` is gone, code and status stay.
            (ended(1, 7, "success", "inactive"), exited(7)),
            // Stopped by hand after it had ended.
            (ended(1, 0, "success", "inactive"), exited(0)),
            (ended(9, 0, "success", "active"), Verdict::Lost("PID 1 tells an end that cannot be")),
            (ended(1, 256, "success", "active"), Verdict::Lost("PID 1 tells an end that cannot be")),
        ] {
            assert_eq!(judge(&facts, true), want, "{facts:?}");
        }
    }

    #[test]
    fn a_stop_by_hand_is_never_a_success() {
        for (code, status, result) in [(1, 0, "success"), (2, 15, "success"), (1, 7, "exit-code"), (2, 9, "timeout")] {
            let mut facts = ended(code, status, result, "inactive");
            facts.active_exit_us = facts.exit_us - 1000;
            assert_eq!(judge(&facts, true), Verdict::Ended(ExitResult::Stopped), "{facts:?}");
            // The same with a deadline that is far away.
            facts.runtime_max_us = 3_600_000_000;
            assert_eq!(judge(&facts, true), Verdict::Ended(ExitResult::Stopped), "{facts:?}");
        }
    }

    #[test]
    fn a_deadline_that_passed_is_a_timeout_even_when_the_job_exits_well() {
        for (code, status) in [(2, 15), (2, 9), (1, 0), (1, 7)] {
            let mut facts = ended(code, status, "timeout", "failed");
            (facts.active_exit_us, facts.runtime_max_us) = (3_000_050, 2_000_000);
            assert_eq!(judge(&facts, true), Verdict::Ended(ExitResult::TimedOut), "{facts:?}");
        }
    }

    #[test]
    fn what_never_began_failed_to_start() {
        for (status, word) in [(203, "EXEC"), (226, "NAMESPACE"), (217, "USER"), (99, "status 99")] {
            let verdict = judge(&ended(1, status, "exit-code", "failed"), false);
            let Verdict::Ended(ExitResult::FailedToStart { cause }) = verdict else { panic!("{verdict:?}") };
            assert!(cause.contains(word), "{cause}");
        }
        let running = Facts { exit_us: 0, code: 0, ..ended(0, 0, "success", "active") };
        assert_eq!(judge(&running, false), Verdict::Runs);
        assert_eq!(judge(&running, true), Verdict::Runs);
        let gone = Facts { load_state: "not-found".to_owned(), ..Facts::default() };
        assert_eq!(judge(&gone, true), Verdict::Absent);
    }
}
