//! Names of things, one type each.

use std::fmt;
use std::num::NonZeroU64;

/// A job of one installation: a positive whole number, given in order of submission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(NonZeroU64);

impl JobId {
    /// The first there can be.
    pub const MIN: Self = Self(NonZeroU64::MIN);

    /// None for zero.
    pub fn new(id: u64) -> Option<Self> {
        NonZeroU64::new(id).map(Self)
    }

    /// The number.
    pub fn get(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A try at a job, from 1. Every event of an attempt carries it: it is the fencing token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptNumber(pub u32);

impl fmt::Display for AttemptNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Position of a pool in the record's list of pools.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolId(pub u16);

/// The life of one spawner directory: boot id and a random part made together with it. Two different values mean that
/// nothing started under the one can be alive under the other.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Epoch(pub std::sync::Arc<str>);

impl Epoch {
    /// From its text.
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }
}
