//! Numbers that decide when something is killed. The seed is printed by the test that fails.

use std::io::Read;
use std::time::Duration;

/// A small generator (splitmix64).
pub struct Random {
    /// Where it began: `CI_RUNNER_TEST_SEED` repeats a run.
    pub seed: u64,
    state: u64,
}

impl Default for Random {
    fn default() -> Self {
        Self::new()
    }
}

impl Random {
    /// From `CI_RUNNER_TEST_SEED`, else from the system.
    pub fn new() -> Self {
        let mut bytes = [0; 8];
        std::fs::File::open("/dev/urandom").unwrap().read_exact(&mut bytes).unwrap();
        Self::from_seed(u64::from_ne_bytes(bytes))
    }

    /// As told by `CI_RUNNER_TEST_SEED`, else new; printed, so that a failure can be repeated.
    pub fn announced() -> Self {
        let given = std::env::var("CI_RUNNER_TEST_SEED").ok().and_then(|text| text.parse().ok());
        let random = given.map_or_else(Self::new, Self::from_seed);
        println!("seed {}", random.seed);
        random
    }

    /// Always the same numbers.
    pub fn from_seed(seed: u64) -> Self {
        Self { seed, state: seed }
    }

    /// The next one.
    pub fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// A moment for a fault.
    pub fn pause(&mut self, most_ms: u64) -> Duration {
        Duration::from_micros(self.below(most_ms * 1000))
    }

    /// Sixteen digits.
    pub fn hex(&mut self) -> String {
        format!("{:016x}", self.next())
    }
}
