//! The engine's clock: reads the machine's clocks and makes engine time of them (decision 0001).

use ci_runner_core::time::{ClockBase, Now, WallTime};

/// Reads both clocks.
#[derive(Clone, Debug)]
pub struct Clock {
    base: ClockBase,
}

impl Clock {
    /// Goes on from what the store says.
    pub fn resume(stored: Option<&ClockBase>, last: Now) -> Self {
        let base = ClockBase::resume(stored, last, &boot_id(), boottime_ms(), wall());
        Self { base }
    }

    /// Both clocks now.
    pub fn now(&self) -> Now {
        Now { engine: self.base.engine(boottime_ms()), wall: wall() }
    }

    /// What the store must keep.
    pub fn base(&self) -> &ClockBase {
        &self.base
    }
}

/// Identifies this boot of the machine; a fixed word where the kernel does not say.
pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map_or_else(|_| "unknown".to_owned(), |id| id.trim().to_owned())
}

/// Milliseconds since 1970.
pub fn wall() -> WallTime {
    WallTime(milliseconds(rustix::time::ClockId::Realtime))
}

fn boottime_ms() -> i64 {
    milliseconds(rustix::time::ClockId::Boottime)
}

fn milliseconds(clock: rustix::time::ClockId) -> i64 {
    let time = rustix::time::clock_gettime(clock);
    time.tv_sec.saturating_mul(1000).saturating_add(time.tv_nsec / 1_000_000)
}
