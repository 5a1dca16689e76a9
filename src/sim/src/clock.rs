//! The host's clocks. True time only moves forward; the wall clock is what somebody sets it to.

use ci_runner_core::time::{ClockBase, Now, WallTime};

/// All clocks of the host, milliseconds.
#[derive(Clone, Debug)]
pub struct Clock {
    /// True time since the simulation began.
    pub time: i64,
    booted: i64,
    boot: u64,
    wall_offset: i64,
}

impl Default for Clock {
    fn default() -> Self {
        Self { time: 0, booted: -5_000, boot: 1, wall_offset: 1_700_000_000_000 }
    }
}

impl Clock {
    /// The date on the wall.
    pub fn wall(&self) -> WallTime {
        WallTime(self.time + self.wall_offset)
    }

    /// CLOCK_BOOTTIME.
    pub fn boottime(&self) -> i64 {
        self.time - self.booted
    }

    /// Boot id.
    pub fn boot_id(&self) -> String {
        format!("boot{}", self.boot)
    }

    /// Both clocks as a daemon with this base reads them.
    pub fn now(&self, base: &ClockBase) -> Now {
        Now { engine: base.engine(self.boottime()), wall: self.wall() }
    }

    /// Somebody sets the date.
    pub fn skew(&mut self, ms: i64) {
        self.wall_offset += ms;
    }

    /// The host was off for a while.
    pub fn reboot(&mut self, off_ms: i64) {
        self.time += off_ms;
        self.booted = self.time;
        self.boot += 1;
    }
}
