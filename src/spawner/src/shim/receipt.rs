//! What an attempt used, in its record and in the last line of its log.

use std::fmt::Write as _;

use crate::protocol::{ExitRecord, ExitResult, Limits, Used};

/// Begins the footer of a log, after the mark of the runner's own lines.
const FOOTER: &str = "receipt:";

/// A death by SIGKILL that the kernel dealt out for memory is an end of its own. A job that ended by itself keeps its end,
/// whatever became of its children: its receipt tells how many were killed.
pub(crate) fn with_oom(result: ExitResult, used: Option<&Used>, killed_by_us: bool) -> ExitResult {
    let out_of_memory = used.is_some_and(|used| used.oom_kills.unwrap_or(0) > 0) && !killed_by_us;
    match result {
        ExitResult::Signaled { signal } if out_of_memory && i32::from(signal) == libc::SIGKILL => ExitResult::OomKilled,
        other => other,
    }
}

/// The last line of the log; None where no cgroup counted.
pub(crate) fn footer(record: &ExitRecord, limits: &Limits) -> Option<String> {
    let used = record.used.as_deref()?;
    let mut text = format!("{FOOTER} {}; ran {} s", end(&record.result), seconds(record.run_us));
    let mut add = |part: std::fmt::Arguments<'_>| text.write_fmt(part).expect("a String takes everything");
    add(format_args!("; cpu {} s user, {} s system", seconds(record.cpu_user_us), seconds(record.cpu_system_us)));
    if let Some(milli) = limits.cpu_milli {
        add(format_args!(" at most {}.{:03} cores", milli / 1000, milli % 1000));
    }
    let memory = used.memory_peak.or(Some(record.peak_memory_bytes));
    for (name, peak, limit) in
        [("memory", memory, limits.memory_max), ("processes", used.pids_peak, limits.pids_max.map(u64::from))]
    {
        let Some(peak) = peak else { continue };
        add(format_args!("; {name} {peak}"));
        if let Some(limit) = limit {
            add(format_args!(" of {limit}"));
        }
    }
    if let Some((read, written)) = used.io_read_bytes.zip(used.io_written_bytes) {
        add(format_args!("; disk {read} read, {written} written"));
    }
    let stalls = [("memory", used.memory_stall_us), ("cpu", used.cpu_stall_us), ("io", used.io_stall_us)];
    for (name, stall) in stalls {
        if let Some(stall) = stall {
            add(format_args!("; waited for {name} {} s", seconds(stall)));
        }
    }
    if let Some(kills @ 1..) = used.oom_kills {
        add(format_args!("; {kills} killed for memory"));
    }
    if !record.lacks.is_empty() {
        add(format_args!("; ran without {}", record.lacks.join(", ")));
    }
    Some(text)
}

fn end(result: &ExitResult) -> String {
    match result {
        ExitResult::Exited { code } => format!("exit code {code}"),
        ExitResult::Signaled { signal } => format!("signal {signal}"),
        ExitResult::TimedOut => "timed out".to_owned(),
        ExitResult::OomKilled => "out of memory".to_owned(),
        ExitResult::Stopped => "stopped by hand".to_owned(),
        ExitResult::FailedToStart { .. } => "failed to start".to_owned(),
    }
}

fn seconds(us: u64) -> String {
    format!("{}.{:03}", us / 1_000_000, us / 1000 % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shim::clock::Started;

    #[test]
    fn only_a_kill_of_the_kernels_is_out_of_memory() {
        let killed = Used { oom_kills: Some(1), ..Used::default() };
        let signal = |signal| ExitResult::Signaled { signal };
        for (result, used, by_us, want) in [
            (signal(9), Some(&killed), false, ExitResult::OomKilled),
            (signal(9), Some(&killed), true, signal(9)),
            (signal(9), Some(&Used::default()), false, signal(9)),
            (signal(9), None, false, signal(9)),
            (signal(15), Some(&killed), false, signal(15)),
            (ExitResult::Exited { code: 2 }, Some(&killed), false, ExitResult::Exited { code: 2 }),
        ] {
            assert_eq!(with_oom(result, used, by_us), want);
        }
    }

    #[test]
    fn the_footer_says_what_was_measured_beside_what_was_allowed() {
        let key = "0123abcd-7-1".parse().expect("a key");
        let mut record = Started::now().record(&key, ExitResult::OomKilled);
        (record.run_us, record.cpu_user_us, record.cpu_system_us) = (1_234_000, 500_000, 0);
        assert_eq!(footer(&record, &Limits::default()), None, "nothing counted");
        record.used = Some(Box::new(Used {
            memory_peak: Some(4096),
            pids_peak: Some(3),
            memory_stall_us: Some(7_000),
            oom_kills: Some(2),
            ..Used::default()
        }));
        record.lacks = vec!["PrivateUsers".to_owned(), "SystemCallFilter".to_owned()];
        let limits = Limits { memory_max: Some(8192), cpu_milli: Some(1_500), ..Limits::default() };
        let want = "receipt: out of memory; ran 1.234 s; cpu 0.500 s user, 0.000 s system at most 1.500 cores; \
                    memory 4096 of 8192; processes 3; waited for memory 0.007 s; 2 killed for memory; \
                    ran without PrivateUsers, SystemCallFilter";
        assert_eq!(footer(&record, &limits).as_deref(), Some(want));
    }
}
