//! Histograms with fixed buckets, counted in whole numbers: microseconds or bytes.
//!
//! Whole numbers, because a sum that is written to a file and read back must be the same to the last digit: a counter never
//! goes backwards. Bounds belong to the program; counts that were kept by one with other bounds are dropped.

use ci_runner_hostmetrics::exposition::Value;
use serde::{Deserialize, Serialize};

/// What is measured: bounds and unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Scale {
    /// From a hundredth of a second to a day: jobs.
    Run,
    /// From "at once" to a day: waiting.
    Queue,
    /// From a fast disk to a broken one: commits, starts.
    Commit,
    /// From a shell to a linker: peak memory.
    Memory,
}

impl Scale {
    /// Upper bounds, in microseconds or bytes.
    fn bounds(self) -> &'static [u64] {
        const MS: u64 = 1_000;
        const S: u64 = 1_000 * MS;
        const MIB: u64 = 1 << 20;
        match self {
            Self::Run => &[
                10 * MS,
                50 * MS,
                100 * MS,
                500 * MS,
                S,
                5 * S,
                15 * S,
                60 * S,
                300 * S,
                900 * S,
                3_600 * S,
                10_800 * S,
                21_600 * S,
                86_400 * S,
            ],
            Self::Queue => &[
                5 * MS,
                10 * MS,
                50 * MS,
                100 * MS,
                500 * MS,
                S,
                5 * S,
                30 * S,
                120 * S,
                600 * S,
                3_600 * S,
                21_600 * S,
                86_400 * S,
            ],
            Self::Commit => &[250, 500, MS, 2_500, 5 * MS, 10 * MS, 25 * MS, 100 * MS, 500 * MS, S, 10 * S, 60 * S],
            Self::Memory => &[MIB, 16 * MIB, 64 * MIB, 256 * MIB, 1_024 * MIB, 4_096 * MIB, 16_384 * MIB, 65_536 * MIB],
        }
    }

    /// What the unit of the figures shown is divided into.
    fn parts(self) -> f64 {
        match self {
            Self::Run | Self::Queue | Self::Commit => 1e6,
            Self::Memory => 1.0,
        }
    }
}

/// Counts by bucket, and the sum.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Histogram {
    scale: Scale,
    /// One for each bound, not cumulated, and one for what is above.
    counts: Vec<u64>,
    sum: u64,
}

impl Histogram {
    pub(super) fn new(scale: Scale) -> Self {
        Self { scale, counts: vec![0; scale.bounds().len() + 1], sum: 0 }
    }

    /// One observation, in microseconds or bytes.
    pub(super) fn record(&mut self, value: u64) {
        let at = self.scale.bounds().partition_point(|&bound| bound < value);
        if let Some(count) = self.counts.get_mut(at) {
            *count += 1;
        }
        self.sum = self.sum.saturating_add(value);
    }

    /// A kept one, or a new one where it does not fit this program.
    pub(super) fn sound(self, scale: Scale) -> Self {
        let fits = self.scale == scale && self.counts.len() == scale.bounds().len() + 1;
        if fits { self } else { Self::new(scale) }
    }

    /// As it is shown.
    pub(super) fn value(&self) -> Value {
        let mut below = 0;
        let bounds = self.scale.bounds().iter().zip(&self.counts);
        let points = bounds.map(|(&bound, &count)| {
            below += count;
            (bound as f64 / self.scale.parts(), below as f64)
        });
        let points = points.collect();
        let count = self.counts.iter().sum::<u64>() as f64;
        Value::Distribution { points, sum: self.sum as f64 / self.scale.parts(), count }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_counts_in_the_first_bucket_that_holds_it() {
        let mut histogram = Histogram::new(Scale::Commit);
        for value in [0, 250, 251, 60_000_000, 60_000_001] {
            histogram.record(value);
        }
        let Value::Distribution { points, sum, count } = histogram.value() else { panic!("a distribution") };
        assert_eq!((points[0], points[1]), ((0.000_25, 2.0), (0.000_5, 3.0)));
        assert_eq!(points.last(), Some(&(60.0, 4.0)));
        assert_eq!((sum, count), (120.000_502, 5.0));
    }

    #[test]
    fn what_another_program_kept_with_other_bounds_is_dropped() {
        let mut kept = Histogram::new(Scale::Run);
        kept.record(5);
        assert_eq!(kept.clone().sound(Scale::Run), kept);
        assert_eq!(kept.clone().sound(Scale::Queue), Histogram::new(Scale::Queue));
        kept.counts.pop();
        assert_eq!(kept.sound(Scale::Run), Histogram::new(Scale::Run));
    }
}
