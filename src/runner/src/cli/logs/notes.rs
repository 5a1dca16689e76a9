//! What is said beside a log, because the log cannot: that nothing was started, and that output is missing.

use crate::api::AttemptView;
use crate::quantity::show_size;

/// An attempt that did not start has no output: what happened is told elsewhere.
pub(super) fn unstarted(job: u64, attempt: &AttemptView) -> Option<String> {
    if attempt.result.as_deref() != Some("failed_to_start") {
        return None;
    }
    let (number, cause) = (attempt.number, attempt.cause.as_deref().unwrap_or("it failed to start"));
    let cause = crate::style::visible(cause);
    Some(format!("attempt {number} wrote nothing: {cause}; `ci-runner show {job}` tells more"))
}

/// Output that is not in the log of an attempt which has ended. A disk that is full to the end leaves no room for the mark that the
/// log would have.
pub(super) fn lost(attempt: &AttemptView) -> Option<String> {
    let lost = attempt.log_dropped_bytes.filter(|bytes| *bytes > 0)?;
    let (number, lost) = (attempt.number, show_size(lost));
    Some(match attempt.log_bytes {
        Some(0) => format!(
            "attempt {number}: its output ({lost}) is lost, for the log could not be written: was the disk full?"
        ),
        _ => format!("attempt {number}: {lost} of its output are not in its log: beyond its cap, or the disk was full"),
    })
}
