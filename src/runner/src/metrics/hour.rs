//! How many jobs finished within the last hour, in slots of a minute. Not kept over a restart: the store's history tells
//! more, and a gauge may begin at zero.

/// Minutes that are remembered.
const MINUTES: usize = 60;

/// A ring of minutes.
#[derive(Clone, Debug)]
pub(super) struct Hour {
    /// The minute since 1970 and the count, by minute modulo sixty.
    slots: [(i64, u64); MINUTES],
}

impl Default for Hour {
    fn default() -> Self {
        Self { slots: [(i64::MIN, 0); MINUTES] }
    }
}

impl Hour {
    /// One more, now.
    pub(super) fn count(&mut self, now_ms: i64) {
        let minute = now_ms.div_euclid(60_000);
        let slot = &mut self.slots[minute.rem_euclid(MINUTES as i64) as usize];
        if slot.0 != minute {
            *slot = (minute, 0);
        }
        slot.1 += 1;
    }

    /// How many in the last sixty minutes, the present one included.
    pub(super) fn total(&self, now_ms: i64) -> u64 {
        let minute = now_ms.div_euclid(60_000);
        let fresh = |slot: &&(i64, u64)| slot.0 <= minute && slot.0 > minute.saturating_sub(MINUTES as i64);
        self.slots.iter().filter(fresh).map(|slot| slot.1).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_later_they_are_gone() {
        let mut hour = Hour::default();
        assert_eq!(hour.total(0), 0);
        for minute in 0..120 {
            hour.count(minute * 60_000);
        }
        assert_eq!(hour.total(119 * 60_000), 60);
        assert_eq!(hour.total(149 * 60_000), 30);
        assert_eq!(hour.total(179 * 60_000), 0);
        assert_eq!(hour.total(-1), 0, "the clock was set back");
    }
}
