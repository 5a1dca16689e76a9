//! Two clocks, told apart by type.
//!
//! [`Instant`] is *engine time*: milliseconds of a clock that never goes back over the life of one store, not even over a
//! reboot or when somebody sets the date (`docs/decisions/0001-engine-clock.md`). Every delay, deadline and age is in it.
//! [`WallTime`] is the date on the wall: what people write after `--at` and read in a table. Only `--at`, `--expires` and
//! schedules are decided by it.

/// Engine time, milliseconds. Zero is the moment the store was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(pub i64);

/// Wall-clock time, milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WallTime(pub i64);

/// One reading of both clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Engine time.
    pub engine: Instant,
    /// Wall-clock time.
    pub wall: WallTime,
}

impl Instant {
    /// `self` moved by `ms` milliseconds; saturates.
    pub fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(i64::try_from(ms).unwrap_or(i64::MAX)))
    }

    /// Milliseconds from `earlier` to `self`; 0 when `earlier` is later.
    pub fn since_ms(self, earlier: Self) -> u64 {
        u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0)
    }
}

impl WallTime {
    /// `self` moved by `ms` milliseconds; saturates.
    pub fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(i64::try_from(ms).unwrap_or(i64::MAX)))
    }
}

/// How engine time is made from the machine's clocks: `engine = base + CLOCK_BOOTTIME`, with a base that is kept in the
/// store and moved only when the machine has booted again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClockBase {
    /// Boot id this base belongs to.
    pub boot_id: String,
    /// Milliseconds to add to CLOCK_BOOTTIME.
    pub offset_ms: i64,
}

/// The longest absence that is believed when a machine boots again: ten years. A dead clock battery says more.
pub const ABSENCE_MS_MAX: i64 = 10 * 366 * 24 * 3600 * 1000;

impl ClockBase {
    /// Continues engine time after a start of the daemon.
    ///
    /// In the same boot the stored base stands. In another boot engine time goes on from `last` (the latest reading in the
    /// store) plus the wall time that passed meanwhile, taken as zero when the wall clock went back: so what is left of a
    /// delay is never more than it was, and never less than nothing.
    pub fn resume(stored: Option<&Self>, last: Now, boot_id: &str, boottime_ms: i64, wall: WallTime) -> Self {
        let offset_ms = match stored {
            Some(base) if base.boot_id == boot_id => base.offset_ms,
            _ => {
                let absence = wall.0.saturating_sub(last.wall.0).clamp(0, ABSENCE_MS_MAX);
                let absence = if stored.is_none() { 0 } else { absence };
                last.engine.0.saturating_add(absence).saturating_sub(boottime_ms)
            }
        };
        Self { boot_id: boot_id.to_owned(), offset_ms }
    }

    /// Engine time at a reading of CLOCK_BOOTTIME of the same boot.
    pub fn engine(&self, boottime_ms: i64) -> Instant {
        Instant(boottime_ms.saturating_add(self.offset_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last(engine: i64, wall: i64) -> Now {
        Now { engine: Instant(engine), wall: WallTime(wall) }
    }

    #[test]
    fn a_new_store_starts_at_zero() {
        let base = ClockBase::resume(None, Now::default(), "a", 5_000, WallTime(1_700_000_000_000));
        assert_eq!(base.engine(5_000), Instant(0));
    }

    #[test]
    fn the_same_boot_goes_on_whatever_the_wall_clock_says() {
        let base = ClockBase { boot_id: "a".into(), offset_ms: -5_000 };
        let year = 365 * 24 * 3600 * 1000;
        for wall in [-year, 0, year] {
            let resumed = ClockBase::resume(Some(&base), last(100, 50), "a", 9_000, WallTime(50 + wall));
            assert_eq!(resumed.engine(9_000), Instant(4_000));
        }
    }

    #[test]
    fn another_boot_adds_the_absence_and_never_goes_back() {
        let base = ClockBase { boot_id: "a".into(), offset_ms: 0 };
        let resumed = ClockBase::resume(Some(&base), last(1_000, 10_000), "b", 30, WallTime(14_000));
        assert_eq!(resumed.engine(30), Instant(5_000));
        let set_back = ClockBase::resume(Some(&base), last(1_000, 10_000), "b", 30, WallTime(3));
        assert_eq!(set_back.engine(30), Instant(1_000));
    }
}
