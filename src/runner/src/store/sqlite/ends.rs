//! How attempts and jobs ended, and by whom, as columns. Who: `user:NAME`, `dependency:ID`, `newer:ID`.

use super::codec::{bad, parse_id};
use crate::store::StoreError;
use ci_runner_core::outcome::{AttemptResult, By, LostCause, Outcome};

/// As text.
pub(super) fn by_text(by: &By) -> String {
    match by {
        By::User(name) => format!("user:{name}"),
        By::Dependency(job) => format!("dependency:{job}"),
        By::Newer(job) => format!("newer:{job}"),
    }
}

/// From text.
pub(super) fn by(text: &str) -> Result<By, StoreError> {
    match text.split_once(':') {
        Some(("user", name)) => Ok(By::User(name.to_owned())),
        Some(("dependency", id)) => Ok(By::Dependency(parse_id(id)?)),
        Some(("newer", id)) => Ok(By::Newer(parse_id(id)?)),
        Some(_) | None => Err(bad(format!("name {text:?}"))),
    }
}

/// Number, code and cause of a result, as its three columns.
pub(super) fn result_columns(result: &AttemptResult) -> (i64, Option<i64>, Option<&str>) {
    match result {
        AttemptResult::Exited { code } => (0, Some(i64::from(*code)), None),
        AttemptResult::Signaled { signal } => (1, Some(i64::from(*signal)), None),
        AttemptResult::OomKilled => (2, None, None),
        AttemptResult::TimedOut => (3, None, None),
        AttemptResult::FailedToStart { cause } => (4, None, Some(cause)),
        AttemptResult::Lost { cause: LostCause::Host } => (5, None, Some("host")),
        AttemptResult::Lost { cause: LostCause::Executor } => (5, None, Some("executor")),
        AttemptResult::Lost { cause: LostCause::Stopped } => (5, None, Some("stopped")),
    }
}

/// From its columns.
pub(super) fn result(number: i64, code: Option<i64>, cause: Option<&str>) -> Result<AttemptResult, StoreError> {
    let fault = || bad("attempt's result");
    let code = || code.and_then(|code| u8::try_from(code).ok()).ok_or_else(fault);
    match (number, cause) {
        (0, None) => Ok(AttemptResult::Exited { code: code()? }),
        (1, None) => Ok(AttemptResult::Signaled { signal: code()? }),
        (2, None) => Ok(AttemptResult::OomKilled),
        (3, None) => Ok(AttemptResult::TimedOut),
        (4, Some(cause)) => Ok(AttemptResult::FailedToStart { cause: cause.to_owned() }),
        (5, Some("host")) => Ok(AttemptResult::Lost { cause: LostCause::Host }),
        (5, Some("executor")) => Ok(AttemptResult::Lost { cause: LostCause::Executor }),
        (5, Some("stopped")) => Ok(AttemptResult::Lost { cause: LostCause::Stopped }),
        _ => Err(fault()),
    }
}

/// Number of an outcome: its place in [`Outcome::WORDS`].
pub(super) fn outcome_number(outcome: &Outcome) -> i64 {
    match outcome {
        Outcome::Succeeded => 0,
        Outcome::Failed { .. } => 1,
        Outcome::TimedOut => 2,
        Outcome::Cancelled { .. } => 3,
        Outcome::Superseded { .. } => 4,
        Outcome::Expired => 5,
    }
}

/// What the number does not say.
pub(super) fn outcome_detail(outcome: &Outcome) -> Option<String> {
    match outcome {
        Outcome::Succeeded | Outcome::TimedOut | Outcome::Expired => None,
        Outcome::Failed { cause } => {
            let (number, code, cause) = result_columns(cause);
            let code = code.map(|code| code.to_string()).unwrap_or_default();
            Some(format!("{number}:{code}:{}", cause.unwrap_or_default()))
        }
        Outcome::Cancelled { by } => Some(by_text(by)),
        Outcome::Superseded { by } => Some(by.to_string()),
    }
}

/// From its columns.
pub(super) fn outcome(number: i64, detail: Option<&str>) -> Result<Outcome, StoreError> {
    match (number, detail) {
        (0, None) => Ok(Outcome::Succeeded),
        (1, Some(detail)) => {
            let mut parts = detail.splitn(3, ':');
            let number = parts.next().and_then(|part| part.parse().ok()).ok_or_else(|| bad("outcome"))?;
            let code = parts.next().and_then(|part| part.parse().ok());
            let cause = parts.next().filter(|cause| number == 4 || !cause.is_empty());
            Ok(Outcome::Failed { cause: result(number, code, cause)? })
        }
        (2, None) => Ok(Outcome::TimedOut),
        (3, Some(detail)) => Ok(Outcome::Cancelled { by: by(detail)? }),
        (4, Some(detail)) => Ok(Outcome::Superseded { by: parse_id(detail)? }),
        (5, None) => Ok(Outcome::Expired),
        _ => Err(bad("outcome")),
    }
}
