//! A retry policy as text: `retries/delay_ms/backoff/rule,rule…`, and `/hundredths` behind it where memory grows. A rule is a pattern (`exit`, `exit:3`, `signal:9`, `lost`,
//! `timeout`, `oom`, `start`), with `!` before it when it forbids.

use super::codec::bad;
use crate::store::StoreError;
use ci_runner_core::retry::{Backoff, Pattern, RetryPolicy, Rule};
use std::fmt::Write as _;

/// As text.
pub(super) fn text(retry: &RetryPolicy) -> String {
    let backoff = match retry.backoff {
        Backoff::Fixed => "fixed",
        Backoff::Exponential => "exponential",
    };
    let mut text = format!("{}/{}/{backoff}/", retry.retries, retry.delay_ms);
    for (at, rule) in retry.rules.iter().enumerate() {
        let not = if rule.retry { "" } else { "!" };
        let comma = if at == 0 { "" } else { "," };
        let (word, number) = match rule.pattern {
            Pattern::Exit(code) => ("exit", code),
            Pattern::Signal(signal) => ("signal", signal),
            Pattern::Lost => ("lost", None),
            Pattern::Timeout => ("timeout", None),
            Pattern::Oom => ("oom", None),
            Pattern::Start => ("start", None),
        };
        let written = match number {
            Some(number) => write!(text, "{comma}{not}{word}:{number}"),
            None => write!(text, "{comma}{not}{word}"),
        };
        written.expect("a String takes everything");
    }
    if let Some(factor) = retry.oom_factor {
        write!(text, "/{factor}").expect("a String takes everything");
    }
    text
}

/// From text.
pub(super) fn policy(text: &str) -> Result<RetryPolicy, StoreError> {
    let fault = || bad(format!("retry policy {text:?}"));
    let mut parts = text.splitn(5, '/');
    let mut part = || parts.next().ok_or_else(fault);
    let retries = part()?.parse().map_err(|_| fault())?;
    let delay_ms = part()?.parse().map_err(|_| fault())?;
    let backoff = match part()? {
        "fixed" => Backoff::Fixed,
        "exponential" => Backoff::Exponential,
        _ => return Err(fault()),
    };
    let words = part()?.split(',').filter(|word| !word.is_empty());
    let rules = words.map(|word| rule(word).ok_or_else(fault)).collect::<Result<_, _>>()?;
    let oom_factor = parts.next().map(|factor| factor.parse().map_err(|_| fault())).transpose()?;
    Ok(RetryPolicy { retries, delay_ms, backoff, rules, oom_factor })
}

fn rule(word: &str) -> Option<Rule> {
    let (retry, word) = match word.strip_prefix('!') {
        Some(rest) => (false, rest),
        None => (true, word),
    };
    let pattern = match word.split_once(':') {
        Some(("exit", code)) => Pattern::Exit(Some(code.parse().ok()?)),
        Some(("signal", signal)) => Pattern::Signal(Some(signal.parse().ok()?)),
        Some(_) => return None,
        None => match word {
            "exit" => Pattern::Exit(None),
            "signal" => Pattern::Signal(None),
            "lost" => Pattern::Lost,
            "timeout" => Pattern::Timeout,
            "oom" => Pattern::Oom,
            "start" => Pattern::Start,
            _ => return None,
        },
    };
    Some(Rule { pattern, retry })
}
