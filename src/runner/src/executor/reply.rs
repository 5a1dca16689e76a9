//! What a spawner says, as the loop understands it.

use ci_runner_core::outcome::{AttemptResult, Lacks, LostCause, Measured, Receipt};
use ci_runner_core::reconcile::Seen;
use ci_runner_core::time::WallTime;
use ci_runner_spawner::protocol::{self, AttemptKey, Enforces, ExitRecord, ExitResult, Reply, Slot, Used};
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// What the loop is told.
#[derive(Debug)]
pub enum Event {
    /// Connected: everything seen before is void.
    Up(Up),
    /// The connection is lost; a new one is on its way.
    Down {
        /// In words.
        why: String,
    },
    /// It is connected, but does not answer: it is stopped or hangs.
    Silent {
        /// Its process id.
        pid: u32,
        /// How long it was waited for.
        waited: Duration,
    },
    /// It answers again.
    Answers,
    /// All attempts were told.
    Listed,
    /// An attempt was seen.
    Seen {
        /// Which.
        key: AttemptKey,
        /// What.
        seen: Seen,
        /// The slot that it holds, if its spawner says so.
        slot: Option<Slot>,
        /// What it used, when it ended.
        receipt: Option<Box<Receipt>>,
    },
    /// A `start` could not be; nothing ran.
    RefusedStart {
        /// Which.
        key: AttemptKey,
        /// In words.
        why: String,
        /// This spawner starts nothing at all any more.
        closed: bool,
    },
}

/// A spawner, as it told of itself.
#[derive(Debug)]
pub struct Up {
    /// Life of the spawner's directory.
    pub epoch: String,
    /// Each attempt has a cgroup.
    pub cgroup: bool,
    /// Which limits attempts can be made to keep to.
    pub enforces: Enforces,
    /// It puts logs there, not where we look, and is too old to be told.
    pub logs_elsewhere: Option<PathBuf>,
}

/// None: nothing to tell.
pub(super) fn event(reply: Reply) -> io::Result<Option<Event>> {
    let seen = |key, seen| Some(Event::Seen { key, seen, slot: None, receipt: None });
    Ok(match reply {
        Reply::Welcome { .. } | Reply::Pong => None,
        Reply::Refused { why } => return Err(io::Error::other(why)),
        Reply::Started { key } => seen(key, Seen::Alive),
        Reply::RefusedStart { key, voided: true, .. } | Reply::Voided { key } => seen(key, Seen::Voided),
        Reply::RefusedStart { key, why, voided: false, closed } => Some(Event::RefusedStart { key, why, closed }),
        Reply::Ended { key, record: Some(record) } => Some(ended(key, record)),
        Reply::Ended { key, record: None } => seen(key, Seen::Gone),
        Reply::Listed => Some(Event::Listed),
        Reply::Attempt { key, seen: protocol::Seen::Ended(record), .. } => Some(ended(key, record)),
        Reply::Attempt { key, seen: protocol::Seen::Alive, slot } => {
            Some(Event::Seen { key, seen: Seen::Alive, slot, receipt: None })
        }
        Reply::Attempt { key, seen: protocol::Seen::NotBegan, .. } => seen(key, Seen::NotBegan),
        Reply::Attempt { key, seen: protocol::Seen::Voided, .. } => seen(key, Seen::Voided),
        Reply::Attempt { key, seen: protocol::Seen::Lost, .. } => seen(key, Seen::Gone),
        Reply::Attempt { key, seen: protocol::Seen::Leftovers, .. } => seen(key, Seen::Leftovers),
    })
}

fn ended(key: AttemptKey, record: ExitRecord) -> Event {
    let result = match &record.result {
        ExitResult::Exited { code } => AttemptResult::Exited { code: *code },
        ExitResult::Signaled { signal } => AttemptResult::Signaled { signal: *signal },
        ExitResult::TimedOut => AttemptResult::TimedOut,
        ExitResult::OomKilled => AttemptResult::OomKilled,
        ExitResult::Stopped => AttemptResult::Lost { cause: LostCause::Stopped },
        ExitResult::FailedToStart { cause } => AttemptResult::FailedToStart { cause: cause.clone() },
    };
    let receipt = Receipt {
        started: WallTime(record.started_wall_ms),
        ended: WallTime(record.ended_wall_ms),
        run_us: record.run_us,
        cpu_user_us: record.cpu_user_us,
        cpu_system_us: record.cpu_system_us,
        peak_memory_bytes: record.peak_memory_bytes,
        log_bytes: record.log_bytes,
        log_dropped_bytes: record.log_dropped_bytes,
        leftovers: record.leftovers,
        lacks: Lacks::of(record.lacks.iter().map(String::as_str)),
        measured: measured(record.used.as_deref()),
    };
    Event::Seen { key, seen: Seen::Ended(result), slot: None, receipt: Some(Box::new(receipt)) }
}

/// What only a cgroup tells, if one was there to tell it.
fn measured(used: Option<&Used>) -> Measured {
    let Some(used) = used else { return Measured::default() };
    Measured {
        memory_of_all: used.memory_peak.is_some(),
        io_read_bytes: used.io_read_bytes,
        io_written_bytes: used.io_written_bytes,
        pids_peak: used.pids_peak,
        memory_stall_us: used.memory_stall_us,
        cpu_stall_us: used.cpu_stall_us,
        io_stall_us: used.io_stall_us,
        oom_kills: used.oom_kills,
        disk_bytes: used.disk_bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ci_runner_spawner::protocol::SEALS;

    #[test]
    fn every_part_of_a_sandbox_that_is_missing_has_its_name_here() {
        for name in SEALS {
            let lacks = Lacks::of([name]);
            assert_eq!(lacks.names().collect::<Vec<_>>(), [name]);
            assert_eq!(Lacks::from_bits(lacks.bits()), Some(lacks));
        }
        let newer = Lacks::of(["PrivateBPF", SEALS[3]]);
        assert_eq!(newer.names().collect::<Vec<_>>(), [SEALS[3], "another part"]);
        assert_eq!((Lacks::of([]), Lacks::from_bits(64), Lacks::from_bits(u64::MAX)), (Lacks::default(), None, None));
    }
}
