//! When a failed attempt is tried again, and after how long.

use crate::id::{AttemptNumber, JobId};
use crate::outcome::AttemptResult;

/// Most re-tries a job may ask for.
pub const RETRIES_MAX: u32 = 1_000;
/// Longest delay before a retry: 7 days.
pub const RETRY_DELAY_MS_MAX: u64 = 7 * 24 * 3600 * 1000;
/// An exponential delay never grows beyond this unless its first step already is longer: 1 hour.
pub const BACKOFF_CAP_MS: u64 = 3600 * 1000;
/// Most rules in one policy.
pub const RULES_MAX: usize = 32;
/// Least growth of memory after an attempt that was out of it, hundredths: less would not be growth.
pub const OOM_FACTOR_MIN: u16 = 101;
/// Most growth of memory after an attempt that was out of it, hundredths: tenfold.
pub const OOM_FACTOR_MAX: u16 = 1_000;

/// How the delay grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Backoff {
    /// The same every time.
    #[default]
    Fixed,
    /// Doubles, up to [`BACKOFF_CAP_MS`], with up to a tenth taken off by a jitter derived from job and attempt.
    Exponential,
}

/// What a rule looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pattern {
    /// Any exit code but 0, or this one.
    Exit(Option<u8>),
    /// Any signal, or this one.
    Signal(Option<u8>),
    /// Host or executor lost.
    Lost,
    /// Hard deadline passed.
    Timeout,
    /// Out of memory.
    Oom,
    /// Failed to start.
    Start,
}

/// One rule. The first that matches a result decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// What it looks at.
    pub pattern: Pattern,
    /// What it decides.
    pub retry: bool,
}

/// A job's policy.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RetryPolicy {
    /// Re-tries after the first attempt; 0 forbids all.
    pub retries: u32,
    /// Delay before the first re-try, milliseconds.
    pub delay_ms: u64,
    /// How it grows.
    pub backoff: Backoff,
    /// First match wins; no match: no retry.
    pub rules: Vec<Rule>,
    /// After an attempt that was out of memory the next one gets so many hundredths of its limit; None: the same limit.
    pub oom_factor: Option<u16>,
}

impl Pattern {
    fn matches(self, result: &AttemptResult) -> bool {
        match (self, result) {
            (Self::Exit(None), AttemptResult::Exited { code }) => *code != 0,
            (Self::Exit(Some(wanted)), AttemptResult::Exited { code }) => wanted == *code,
            (Self::Signal(wanted), AttemptResult::Signaled { signal }) => wanted.is_none_or(|wanted| wanted == *signal),
            (Self::Lost, AttemptResult::Lost { .. })
            | (Self::Timeout, AttemptResult::TimedOut)
            | (Self::Oom, AttemptResult::OomKilled)
            | (Self::Start, AttemptResult::FailedToStart { .. }) => true,
            _ => false,
        }
    }
}

impl RetryPolicy {
    /// The rules of a job that names none: any exit but 3 and 64 (usage errors), any signal, anything lost.
    pub fn default_rules() -> Vec<Rule> {
        let never = |code| Rule { pattern: Pattern::Exit(Some(code)), retry: false };
        let again = |pattern| Rule { pattern, retry: true };
        vec![never(3), never(64), again(Pattern::Exit(None)), again(Pattern::Signal(None)), again(Pattern::Lost)]
    }

    /// True when a result may be tried again as far as the rules go.
    pub fn allows(&self, result: &AttemptResult) -> bool {
        !result.is_success()
            && self.rules.iter().find(|rule| rule.pattern.matches(result)).is_some_and(|rule| rule.retry)
    }

    /// Milliseconds to wait after try number `tries` (from 1) of `job` failed.
    pub fn delay_after_ms(&self, job: JobId, attempt: AttemptNumber, tries: u32) -> u64 {
        match self.backoff {
            Backoff::Fixed => self.delay_ms,
            Backoff::Exponential => {
                let doublings = tries.saturating_sub(1).min(40);
                let cap = BACKOFF_CAP_MS.max(self.delay_ms);
                let delay = self.delay_ms.saturating_mul(1 << doublings).min(cap);
                delay - jitter(job, attempt) % (delay / 10 + 1)
            }
        }
    }
}

/// A number that looks random and is the same for the same attempt (splitmix64's finaliser, Steele et al. 2014).
fn jitter(job: JobId, attempt: AttemptNumber) -> u64 {
    let mut z = job.get().wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(u64::from(attempt.0));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::LostCause;
    use proptest::prelude::*;

    fn policy(rules: Vec<Rule>) -> RetryPolicy {
        RetryPolicy { retries: 3, delay_ms: 1_000, backoff: Backoff::Exponential, rules, oom_factor: None }
    }

    #[test]
    fn default_rules_follow_the_promises_page() {
        let policy = policy(RetryPolicy::default_rules());
        for (result, expected) in [
            (AttemptResult::Exited { code: 0 }, false),
            (AttemptResult::Exited { code: 1 }, true),
            (AttemptResult::Exited { code: 2 }, true),
            (AttemptResult::Exited { code: 75 }, true),
            (AttemptResult::Exited { code: 3 }, false),
            (AttemptResult::Exited { code: 64 }, false),
            (AttemptResult::Signaled { signal: 9 }, true),
            (AttemptResult::Lost { cause: LostCause::Host }, true),
            (AttemptResult::TimedOut, false),
            (AttemptResult::OomKilled, false),
            (AttemptResult::FailedToStart { cause: String::new() }, false),
        ] {
            assert_eq!(policy.allows(&result), expected, "{result}");
        }
    }

    #[test]
    fn the_first_matching_rule_decides() {
        let rules = vec![
            Rule { pattern: Pattern::Exit(Some(2)), retry: true },
            Rule { pattern: Pattern::Exit(None), retry: false },
            Rule { pattern: Pattern::Timeout, retry: true },
        ];
        let policy = policy(rules);
        assert!(policy.allows(&AttemptResult::Exited { code: 2 }));
        assert!(!policy.allows(&AttemptResult::Exited { code: 1 }));
        assert!(policy.allows(&AttemptResult::TimedOut));
        assert!(!policy.allows(&AttemptResult::Signaled { signal: 9 }));
    }

    proptest! {
        #[test]
        fn delays_stay_between_nine_tenths_and_the_cap(job in 1u64.., tries in 1u32..2_000, delay_ms in 0u64..RETRY_DELAY_MS_MAX) {
            let policy = RetryPolicy { delay_ms, ..policy(Vec::new()) };
            let job = JobId::new(job).expect("positive");
            let delay = policy.delay_after_ms(job, AttemptNumber(tries), tries);
            let full = delay_ms.saturating_mul(1 << (tries - 1).min(40)).min(BACKOFF_CAP_MS.max(delay_ms));
            prop_assert!(delay <= full && delay >= full - full / 10);
            prop_assert_eq!(delay, policy.delay_after_ms(job, AttemptNumber(tries), tries));
        }
    }
}
