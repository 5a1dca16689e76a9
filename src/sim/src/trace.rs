//! What happened in a run: a hash that tells two runs apart, and, when asked for, lines for people.

use crate::rng::mix;

/// Lines and their hash.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// Readable lines; empty unless they are kept.
    pub lines: Vec<String>,
    keep: bool,
    hash: u64,
}

impl Trace {
    /// An empty trace; `keep` for lines.
    pub fn new(keep: bool) -> Self {
        Self { lines: Vec::new(), keep, hash: 0 }
    }

    /// Notes something at a time. The text is only made when lines are kept; `facts` go into the hash.
    pub fn note(&mut self, time: i64, tag: &'static str, facts: [u64; 2], text: impl FnOnce() -> String) {
        for part in [time.unsigned_abs(), tag.len() as u64, u64::from(tag.as_bytes()[0]), facts[0], facts[1]] {
            self.hash = mix(self.hash.rotate_left(5) ^ part);
        }
        if self.keep {
            self.lines.push(format!("{time:>9} {tag:<9} {}", text()));
        }
    }

    /// Equal for equal runs.
    pub fn hash(&self) -> u64 {
        self.hash
    }
}
