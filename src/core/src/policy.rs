//! What the operator has set: pools, groups, defaults. Values here are already validated and resolved.

use crate::labels::Label;
use crate::limits::{Budget, Limits};
use crate::retry::{Backoff, RetryPolicy};

/// Most pools.
pub const POOLS_MAX: usize = 256;
/// Most slots in one pool.
pub const SLOTS_MAX: u32 = 4_096;
/// Name of the pool that is always there.
pub const DEFAULT_POOL: &str = "default";

/// Named capacity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// `[a-z0-9][a-z0-9_-]{0,63}`.
    pub name: String,
    /// How many attempts run at once.
    pub slots: u32,
    /// What it offers.
    pub labels: Vec<Label>,
    /// It takes only jobs that name it.
    pub named_only: bool,
    /// Limits of attempts whose jobs name none.
    pub defaults: Limits,
    /// Most that a job may ask for here.
    pub maxima: Limits,
}

impl Pool {
    /// A pool for everybody, without limits.
    pub fn new(name: &str, slots: u32, labels: Vec<Label>) -> Self {
        let (defaults, maxima) = (Limits::NONE, Limits::NONE);
        Self { name: name.to_owned(), slots, labels, named_only: false, defaults, maxima }
    }
}

/// A group whose limit the configuration fixes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupLimit {
    /// Name.
    pub name: String,
    /// Limit, from 1.
    pub limit: u32,
}

/// Everything the pure functions need to know of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// At least the default pool; order is preference.
    pub pools: Vec<Pool>,
    /// Fixed group limits.
    pub groups: Vec<GroupLimit>,
    /// Milliseconds between SIGTERM and the kill.
    pub grace_ms: u64,
    /// Open jobs beyond this are refused.
    pub queue_jobs_max: usize,
    /// For jobs that say nothing about retries.
    pub retry: RetryPolicy,
    /// Hard deadline of jobs that name none, milliseconds.
    pub default_timeout_ms: Option<u64>,
    /// Longest hard deadline a job may ask for, milliseconds.
    pub max_timeout_ms: Option<u64>,
    /// Log cap of jobs that name none, bytes.
    pub log_bytes_max: u64,
    /// What the host gives to attempts; what they declare is reserved against it.
    pub budget: Budget,
    /// Names of the notifiers that a job may ask to be told.
    pub notifiers: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            pools: vec![Pool::new(DEFAULT_POOL, 4, Vec::new())],
            groups: Vec::new(),
            grace_ms: 10_000,
            queue_jobs_max: 2_000_000,
            retry: RetryPolicy {
                retries: 3,
                delay_ms: 5_000,
                backoff: Backoff::Fixed,
                rules: RetryPolicy::default_rules(),
                oom_factor: None,
            },
            default_timeout_ms: Some(6 * 3600 * 1000),
            max_timeout_ms: None,
            log_bytes_max: 64 * 1024 * 1024,
            budget: Budget::default(),
            notifiers: Vec::new(),
        }
    }
}

/// True for a pool name.
pub fn is_pool_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-');
    (1..=64).contains(&name.len())
        && name.bytes().all(allowed)
        && name.as_bytes().first().is_some_and(|byte| byte.is_ascii_alphanumeric())
}
