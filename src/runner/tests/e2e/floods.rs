//! Jobs that print more than anybody wants: the disk keeps what the cap allows, memory stays what it was, the log says that
//! something is missing, and whoever follows another job notices nothing.
//!
//! `CI_RUNNER_TEST_FLOOD_MB` is the size of the flood: 1000, that is 1 GB, a line of 200 MB, and a million short lines.

use crate::support::{Gate, Host, count_of, wait_for};
use serde_json::json;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A follower of another job sees a line this long after it was printed, at the latest.
const DELAY_MAX: Duration = Duration::from_secs(1);
/// More than a daemon needs that follows one log and answers a few questions, in a build without optimisation.
const DAEMON_BYTES_MAX: u64 = 64 << 20;
/// A shim's own memory is a fraction of a megabyte; the rest is the program that it shares with the spawner.
const SHIM_BYTES_MAX: u64 = 8 << 20;
/// What the mark and a line that was cut may add to the log.
const MARK_BYTES_MAX: u64 = 400;

fn megabytes() -> u64 {
    count_of("CI_RUNNER_TEST_FLOOD_MB", 1_000) as u64
}

/// Prints the time every 20 ms until the gate is opened.
const TICKS: &str = "while ! read -t 0.02 x <>\"$GATE\"; do date +%s%N; done";

/// A job that ticks, and somebody who follows it.
struct Ticking {
    job: u64,
    follower: std::process::Child,
    reader: std::thread::JoinHandle<()>,
    lines: Arc<AtomicU64>,
    worst_us: Arc<AtomicU64>,
}

impl Ticking {
    fn start(host: &Host) -> Self {
        let script = TICKS.replace("$GATE", host.path("ticks").to_str().unwrap());
        let job =
            host.add(&json!({ "command": ["bash", "-c", script], "retry": 0, "env": { "E2E_MARKER": host.marker } }));
        let mut follower = host.cli(&["logs", "-f", &job.to_string()]);
        let mut follower = follower.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let out = BufReader::new(follower.stdout.take().unwrap());
        let (lines, worst_us) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (count, worst) = (lines.clone(), worst_us.clone());
        let reader = std::thread::spawn(move || {
            for line in out.lines() {
                let printed: u128 = line.unwrap().parse().unwrap();
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
                worst.fetch_max(u64::try_from(now.saturating_sub(printed) / 1_000).unwrap(), Ordering::SeqCst);
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
        wait_for("the first tick", || (lines.load(Ordering::SeqCst) > 0).then_some(()));
        worst_us.store(0, Ordering::SeqCst);
        Self { job, follower, reader, lines, worst_us }
    }

    /// Ends it; lines and the longest delay.
    fn end(mut self, gate: &mut Gate, host: &Host) -> (u64, Duration) {
        use std::io::Write;
        gate.0.write_all(b"end\n").unwrap();
        assert_eq!(host.finish(self.job)["outcome"], "succeeded");
        assert!(self.follower.wait().unwrap().success());
        self.reader.join().unwrap();
        assert!(!host.log(self.job).contains("truncated"), "the control: a small log has no mark");
        (self.lines.load(Ordering::SeqCst), Duration::from_micros(self.worst_us.load(Ordering::SeqCst)))
    }
}

/// Peak of resident memory; 0 when it is gone.
fn peak_bytes(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Disk that a directory takes.
fn disk_bytes(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).unwrap().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(data) if data.is_dir() => disk_bytes(&entry.path()),
            Ok(data) => data.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

/// Lets a job print so many bytes in `lines` lines, beside one that ticks.
fn flood(name: &str, script: &str, bytes: u64, cap: u64, lines: u64) {
    let host = Host::started();
    let mut gate = host.gate("ticks");
    let ticking = Ticking::start(&host);
    let before = disk_bytes(&host.state.join("logs"));
    let begin = Instant::now();
    let id = host.add(&host.shell_with(script, json!({ "log_max": cap })));
    let (mut shim, mut asked) = (0, Vec::new());
    let until = Instant::now() + Duration::from_secs(300);
    while host.state_of(id) != "finished" {
        assert!(Instant::now() < until, "the flood does not end");
        let pid = host.shims().iter().find(|(job, _)| *job == id).map(|(_, pid)| *pid);
        shim = pid.map_or(shim, |pid| peak_bytes(pid).max(shim));
        let question = Instant::now();
        host.get("/api/v1/status");
        asked.push(question.elapsed());
    }
    let took = begin.elapsed();
    let (ticks, delay) = ticking.end(&mut gate, &host);
    let daemon = peak_bytes(host.pid());
    let disk = disk_bytes(&host.state.join("logs")).saturating_sub(before);
    asked.sort();
    let p99 = asked[asked.len() * 99 / 100];
    println!(
        "{name}: {} MB in {took:.1?} ({:.0} MB/s, {:.0} lines/s); log on disk {disk} bytes; peak memory of the daemon {} kB, \
         of the shim {} kB; another job's follower late by {delay:?} at most ({ticks} lines); status p99 {p99:?}",
        bytes / 1_000_000,
        bytes as f64 / 1e6 / took.as_secs_f64(),
        lines as f64 / took.as_secs_f64(),
        daemon / 1024,
        shim / 1024,
    );
    let job = host.job(id);
    assert_eq!(job["outcome"], "succeeded", "{job:#}");
    let attempt = &job["attempts"][0];
    let (kept, dropped) = (attempt["log_bytes"].as_u64().unwrap(), attempt["log_dropped_bytes"].as_u64().unwrap());
    assert!(kept <= cap + MARK_BYTES_MAX && kept + dropped >= bytes, "{attempt:#}");
    let log = host.log(id);
    assert!(log.len() as u64 <= cap + MARK_BYTES_MAX, "{}", log.len());
    assert!(log[log.len() - 200..].contains("truncated"), "no mark: {:?}", &log[log.len() - 200..]);
    // The log, the times of its lines, and what the ticks took meanwhile.
    assert!(disk < 2 * cap + ticks * 100 + (1 << 20), "{disk} bytes on disk for a cap of {cap}");
    assert!(ticks > 0 && delay < DELAY_MAX, "a follower of another job waited {delay:?}");
    assert!(daemon < DAEMON_BYTES_MAX, "the daemon took {daemon} bytes");
    assert!(shim < SHIM_BYTES_MAX, "the shim took {shim} bytes");
    assert!(p99 < Duration::from_millis(250), "status p99 {p99:?}");
    host.assert_clean();
}

#[test]
fn a_gigabyte_of_output() {
    let bytes = megabytes() * 1_000_000;
    let script = format!("head -c {bytes} /dev/zero | tr '\\0' 'x' | fold -w 120");
    flood("a gigabyte", &script, bytes, 4_000_000, bytes / 120);
}

#[test]
fn a_line_without_end() {
    let bytes = megabytes() * 200_000;
    let script = format!("head -c {bytes} /dev/zero | tr '\\0' 'y'; echo; echo last");
    flood("one line", &script, bytes, 4_000_000, 2);
}

#[test]
fn a_million_short_lines() {
    let lines = megabytes() * 1_000;
    // Half of them are kept.
    flood("short lines", &format!("yes | head -n {lines}"), 2 * lines, lines, lines);
}
