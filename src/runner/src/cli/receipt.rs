//! What attempts were allowed and what they used, in words for a page.

use crate::api::{AttemptView, JobView};
use crate::quantity::show_size;

/// The limits that a job names, in a line; None when it names none.
pub fn limits(job: &JobView) -> Option<String> {
    let mut parts = Vec::new();
    parts.extend(job.memory_bytes.map(|bytes| format!("memory {}", show_size(bytes))));
    parts.extend(job.cpu.map(|cores| format!("{cores} cores")));
    parts.extend(job.pids.map(|pids| format!("{pids} processes")));
    parts.extend(job.oom_memory_factor.map(|factor| format!("memory times {factor} after oom")));
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// What an attempt used, in a line; None when nobody measured more than the table of attempts shows.
pub fn receipt(attempt: &AttemptView) -> Option<String> {
    let mut parts = Vec::new();
    let is_measured = attempt.pids_peak.is_some() || attempt.oom_kills.is_some() || attempt.io_read_bytes.is_some();
    let of = |limit: Option<String>| limit.map(|limit| format!(" of {limit}")).unwrap_or_default();
    let memory_limit = attempt.memory_limit_bytes.map(show_size);
    match (attempt.peak_memory_bytes, is_measured) {
        (Some(peak), true) => parts.push(format!("memory {}{}", show_size(peak), of(memory_limit))),
        _ => parts.extend(memory_limit.map(|limit| format!("memory at most {limit}"))),
    }
    match attempt.pids_peak {
        Some(peak) => parts.push(format!("{peak}{} processes", of(attempt.pids_limit.map(|pids| pids.to_string())))),
        None => parts.extend(attempt.pids_limit.map(|pids| format!("at most {pids} processes"))),
    }
    parts.extend(attempt.cpu_limit.map(|cores| format!("at most {cores} cores")));
    if let Some((read, written)) = attempt.io_read_bytes.zip(attempt.io_written_bytes) {
        parts.push(format!("disk {} read, {} written", show_size(read), show_size(written)));
    }
    let stalls = [
        ("memory", attempt.memory_stall_seconds),
        ("CPU", attempt.cpu_stall_seconds),
        ("disks", attempt.io_stall_seconds),
    ];
    let stalls: Vec<String> =
        stalls.into_iter().filter_map(|(name, stall)| Some(format!("{name} {:.3} s", stall?))).collect();
    if !stalls.is_empty() {
        parts.push(format!("waited for {}", stalls.join(", ")));
    }
    if let Some(kills @ 1..) = attempt.oom_kills {
        parts.push(format!("{kills} killed for memory"));
    }
    parts.extend(attempt.disk_bytes.map(|bytes| format!("{} of temporary files", show_size(bytes))));
    (!parts.is_empty()).then(|| format!("{}: {}", attempt.number, parts.join("; ")))
}

/// What of its sandbox an attempt ran without, in a line; None: it had all of it, as far as is known.
pub fn degraded(attempt: &AttemptView) -> Option<String> {
    let properties: Vec<String> = attempt.lacks.iter().map(|name| format!("{name}=")).collect();
    let text =
        format!("{}: ran without {}, which this host did not give its sandbox", attempt.number, properties.join(", "));
    (!properties.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn less_of_a_sandbox_than_asked_is_said() {
        let whole = AttemptView { number: 2, ..AttemptView::default() };
        assert_eq!(degraded(&whole), None);
        let lacks = vec!["SystemCallFilter".to_owned(), "PrivateUsers".to_owned()];
        let want = "2: ran without SystemCallFilter=, PrivateUsers=, which this host did not give its sandbox";
        assert_eq!(degraded(&AttemptView { lacks, ..whole }).as_deref(), Some(want));
    }
}
