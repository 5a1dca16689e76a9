//! `process_*` of this process, named as Prometheus' client libraries name them. Read at each scrape from
//! `/proc/self`; what cannot be read is left out rather than guessed.

use ci_runner_hostmetrics::exposition::{Families, Kind};
use std::fs;

use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};

/// `process_*` of the process that calls.
pub fn process_families(families: &mut Families) {
    for (name, kind, help, value) in read() {
        if let Some(value) = value {
            families.family(name, kind, help).add(&[], value);
        }
    }
}

/// The same few of the daemon under names of its own: `process_*` is of who answers the scrape, which may be the exporter.
pub(super) fn daemon_families(families: &mut Families) {
    for (name, kind, help, value) in read() {
        let Some(value) = value else { continue };
        let (name, help) = match name {
            "process_cpu_seconds_total" => ("ci_runner_daemon_cpu_seconds_total", help),
            "process_resident_memory_bytes" => ("ci_runner_daemon_resident_memory_bytes", help),
            "process_open_fds" => ("ci_runner_daemon_open_fds", help),
            "process_start_time_seconds" => ("ci_runner_daemon_start_time_seconds", help),
            _ => continue,
        };
        families.family(name, kind, help).add(&[], value);
    }
}

type Figure = (&'static str, Kind, &'static str, Option<f64>);

fn read() -> [Figure; 8] {
    let stat = fs::read_to_string("/proc/self/stat").ok();
    let stat = stat.as_deref().and_then(Stat::parse);
    let ticks = clock_ticks_per_second() as f64;
    let descriptors = fs::read_dir("/proc/self/fd").ok().map(Iterator::count);
    let boot_seconds = fs::read_to_string("/proc/stat").ok().and_then(|text| boot_time(&text));
    let limit = |resource| getrlimit(resource).current.map_or(f64::INFINITY, |limit| limit as f64);

    let stat = stat.as_ref();
    let start = stat.zip(boot_seconds).map(|(stat, boot)| boot as f64 + stat.start_ticks as f64 / ticks);
    [
        (
            "process_cpu_seconds_total",
            Kind::Counter,
            "Total user and system CPU time spent in seconds.",
            stat.map(|stat| stat.cpu_ticks as f64 / ticks),
        ),
        // The directory being read is open itself.
        (
            "process_open_fds",
            Kind::Gauge,
            "Number of open file descriptors.",
            descriptors.map(|count| count as f64 - 1.0),
        ),
        ("process_max_fds", Kind::Gauge, "Maximum number of open file descriptors.", Some(limit(Resource::Nofile))),
        (
            "process_virtual_memory_bytes",
            Kind::Gauge,
            "Virtual memory size in bytes.",
            stat.map(|stat| stat.virtual_bytes as f64),
        ),
        (
            "process_virtual_memory_max_bytes",
            Kind::Gauge,
            "Maximum amount of virtual memory available in bytes.",
            Some(limit(Resource::As)),
        ),
        (
            "process_resident_memory_bytes",
            Kind::Gauge,
            "Resident memory size in bytes.",
            stat.map(|stat| (stat.resident_pages * page_size() as u64) as f64),
        ),
        ("process_start_time_seconds", Kind::Gauge, "Start time of the process since unix epoch in seconds.", start),
        ("process_threads", Kind::Gauge, "Number of OS threads in the process.", stat.map(|stat| stat.threads as f64)),
    ]
}

/// The parts of `/proc/self/stat` that are needed (`proc(5)`).
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    cpu_ticks: u64,
    threads: u64,
    start_ticks: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

impl Stat {
    fn parse(text: &str) -> Option<Stat> {
        // The name in parentheses may hold anything, blanks and parentheses too: fields count from the last.
        let fields: Vec<&str> = text[text.rfind(')')? + 1..].split_whitespace().collect();
        // Field 3 of the manual page is the first here.
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        Some(Stat {
            cpu_ticks: number(14)? + number(15)?,
            threads: number(20)?,
            start_ticks: number(22)?,
            virtual_bytes: number(23)?,
            resident_pages: number(24)?,
        })
    }
}

fn boot_time(stat: &str) -> Option<u64> {
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_stat_is_read_past_an_odd_name() {
        let text = "7 (a) b (c) S 1 7 7 0 -1 0 10 0 0 0 150 50 0 0 20 0 9 0 12345 1048576 256 18446744073709551615";
        let expected =
            Stat { cpu_ticks: 200, threads: 9, start_ticks: 12345, virtual_bytes: 1_048_576, resident_pages: 256 };
        assert_eq!(Stat::parse(text), Some(expected));
        assert_eq!(Stat::parse("7 (a) S 1"), None);
        assert_eq!(Stat::parse(""), None);
        assert_eq!(boot_time("cpu 1\nbtime 99\n"), Some(99));
    }

    #[test]
    fn this_process_is_shown_truthfully() {
        let (mut families, mut text) = (Families::default(), String::new());
        process_families(&mut families);
        families.write(ci_runner_hostmetrics::Format::Text, &mut text);
        let value = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap();
            line.split_once(' ').unwrap().1.parse::<f64>().unwrap()
        };
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        let started = value("process_start_time_seconds");
        assert!(started <= now + 2.0 && now - started < 86_400.0, "{started} {now}");
        assert!(value("process_resident_memory_bytes") > 500_000.0);
        assert!(value("process_virtual_memory_bytes") >= value("process_resident_memory_bytes"));
        assert!((3.0..=value("process_max_fds")).contains(&value("process_open_fds")));
        assert!(value("process_threads") >= 1.0);
        assert!(value("process_cpu_seconds_total") >= 0.0);
    }
}
