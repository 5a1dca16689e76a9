//! The same trees, and the same live host, through this crate and through a real node_exporter.
//!
//! A scrape of theirs stands between two of ours. A series agrees when its value is that of one of ours, or lies between
//! them: what moves meanwhile (a free block, a second) is so explained by time alone and by no tolerance. A counter must
//! lie between in every round; another series, which can go there and back, in at least one.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../../skipped.rs"]
mod skipped;
mod support;

use ci_runner_hostmetrics::{ClockState, Format, HostMetrics, Options};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::panic::AssertUnwindSafe;
use std::path::Path;
use support::differences::{Differences, Kind};
use support::peer::{Peer, program};
use support::text::Scrape;

/// Rounds at most, until every series has agreed once.
const ROUNDS: usize = 200;
/// Counters that the kernel itself lets go back a little, and which both programs smooth, each from its own start.
const SMOOTHED: [&str; 2] = ["node_cpu_seconds_total", "node_cpu_guest_seconds_total"];

const NO_PEER: &str = "node_exporter (Debian: prometheus-node-exporter) is not installed";

fn clock_state() -> std::io::Result<ClockState> {
    ci_runner_spawner::clock::read_clock().map(ClockState::from)
}

/// Our text while a connection stands, as one stands to node_exporter while it is asked: it counts itself.
fn ours_while_connected(ours: &mut HostMetrics, listener: &TcpListener) -> Scrape {
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let far = listener.accept().unwrap();
    let text = ours.collect_to_string(Format::Text);
    drop((near, far));
    Scrape::parse(&text)
}

/// Scrapes ours, theirs, ours until every series has agreed; what has not must be listed.
fn compare(place: &str, rounds: usize, ours: &mut HostMetrics, theirs: &Peer) {
    let differences = Differences::read();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut open: BTreeMap<String, Kind> = BTreeMap::new();
    let mut agreed = BTreeSet::new();
    for round in 0..rounds {
        let before = ours_while_connected(ours, &listener);
        let between = Scrape::parse(&theirs.scrape());
        let after = ours_while_connected(ours, &listener);
        open.clear();
        let keys: BTreeSet<&String> =
            before.series.keys().chain(between.series.keys()).chain(after.series.keys()).collect();
        for key in keys {
            let found = match (before.series.get(key), between.series.get(key), after.series.get(key)) {
                (Some(_), None, Some(_)) => Some(Kind::OnlyHere),
                (None, Some(_), None) => Some(Kind::OnlyThere),
                (Some(first), Some(theirs), Some(last)) => {
                    let fits = theirs == first || theirs == last || is_between(key, &before, &between, &after);
                    (!fits).then_some(Kind::Value)
                }
                // It came or went meanwhile.
                _ => continue,
            };
            match found {
                None => drop(agreed.insert(key.clone())),
                Some(kind) => drop(open.insert(key.clone(), kind)),
            }
            let strict = before.heads.contains_key(before.family(key))
                && before.is_counter(key)
                && !SMOOTHED.contains(&before.family(key));
            let outside = found == Some(Kind::Value) && !differences.lists(place, key, Kind::Value);
            assert!(
                !(strict && outside),
                "{place}: the counter {key} is not between: {:?} {:?} {:?}",
                before.series.get(key),
                between.series.get(key),
                after.series.get(key)
            );
        }
        same_heads(place, &before, &between);
        same_order(place, &before, &between);
        open.retain(|key, _| !agreed.contains(key));
        if open.iter().all(|(key, kind)| differences.lists(place, key, *kind)) {
            eprintln!("{place}: {} series agree after {} rounds", agreed.len(), round + 1);
            break;
        }
    }
    let found: BTreeSet<(String, Kind)> = open.into_iter().collect();
    differences.judge(place, &found);
    assert!(agreed.len() > 10, "nothing was compared");
}

fn is_between(key: &str, before: &Scrape, between: &Scrape, after: &Scrape) -> bool {
    let numbers = (before.number(key), between.number(key), after.number(key));
    let (Some(first), Some(theirs), Some(last)) = numbers else { return false };
    (first.min(last)..=first.max(last)).contains(&theirs)
}

/// Type and help of every family that both have.
fn same_heads(place: &str, ours: &Scrape, theirs: &Scrape) {
    for (name, head) in &ours.heads {
        if let Some(other) = theirs.heads.get(name) {
            assert_eq!(head, other, "{place}: {name}");
        }
    }
}

/// Families and series that both have come in the same order.
fn same_order(place: &str, ours: &Scrape, theirs: &Scrape) {
    let common = |one: &Scrape, other: &Scrape| -> Vec<String> {
        one.order.iter().filter(|key| other.series.contains_key(*key)).cloned().collect()
    };
    assert_eq!(common(ours, theirs), common(theirs, ours), "{place}: order");
}

/// But `systemd`: that one asks a bus, and is compared in a guest (`tests/guest/systemd_collector.py`).
fn enable(collectors: &[&str]) -> Vec<String> {
    let of_files = collectors.iter().filter(|name| **name != "systemd");
    of_files.map(|name| format!("--collector.{name}")).collect()
}

/// Both on `dir`, every option that adds series switched on.
fn on_a_tree(test: &str, name: &str, unpack: bool) {
    let Some(program) = program() else {
        skipped::tell(test, NO_PEER);
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let path = |part: &str| dir.path().join(part);
    ["proc", "sys", "root", "udev", "textfile"].iter().for_each(|part| std::fs::create_dir(path(part)).unwrap());
    if unpack {
        support::tree::unpack(name, dir.path());
    }
    let mut arguments = enable(&ci_runner_hostmetrics::collector_names());
    arguments.extend(["--collector.cpu.info".into(), "--collector.stat.softirq".into()]);
    arguments.extend(["--no-collector.netdev.netlink".into(), "--collector.cpu.info.flags-include=^avx".into()]);
    arguments.push("--collector.cpu.info.bugs-include=.*".into());
    let option = |name: &str, part: &str| format!("--{name}={}", path(part).display());
    arguments.extend([option("path.procfs", "proc"), option("path.sysfs", "sys"), option("path.rootfs", "root")]);
    arguments.extend([option("path.udev.data", "udev"), option("collector.textfile.directory", "textfile")]);
    let mut ours = HostMetrics::new(tree_options(dir.path())).unwrap();
    compare(name, ROUNDS, &mut ours, &Peer::start(&program, &arguments));
}

fn tree_options(dir: &Path) -> Options {
    Options {
        procfs: dir.join("proc"),
        sysfs: dir.join("sys"),
        rootfs: dir.join("root"),
        udev_data: dir.join("udev"),
        textfile_directories: vec![dir.join("textfile")],
        cpu_flags: Some("^avx".into()),
        cpu_bugs: Some(".*".into()),
        stat_softirq: true,
        clock_state: Some(clock_state),
        ..Options::default()
    }
}

#[test]
fn a_whole_host() {
    on_a_tree("a_whole_host", "server", true);
}

#[test]
fn a_broken_host() {
    on_a_tree("a_broken_host", "broken", true);
}

#[test]
fn a_host_without_files() {
    on_a_tree("a_host_without_files", "empty", false);
}

#[test]
fn this_host() {
    let Some(program) = program() else {
        skipped::tell("this_host", NO_PEER);
        return;
    };
    let texts = tempfile::tempdir().unwrap();
    std::fs::write(texts.path().join("one.prom"), "written_by_the_test{quote=\"\\\"\"} 1.5\n").unwrap();
    let mut arguments = enable(&ci_runner_hostmetrics::collector_names());
    arguments.push(format!("--collector.textfile.directory={}", texts.path().display()));
    let textfile_directories = vec![texts.path().to_owned()];
    let options = Options { textfile_directories, clock_state: Some(clock_state), ..Options::default() };
    compare("live", ROUNDS, &mut HostMetrics::new(options).unwrap(), &Peer::start(&program, &arguments));
}

/// Where node_exporter has a default pattern, ours is the same.
#[test]
fn the_default_patterns_are_the_same() {
    let Some(program) = program() else { return skipped::tell("the_default_patterns_are_the_same", NO_PEER) };
    let help = std::process::Command::new(program).arg("--help").output().unwrap();
    let help = String::from_utf8([help.stdout, help.stderr].concat()).unwrap();
    let ours = Options::default();
    let patterns = [
        ("diskstats.device-exclude", ours.diskstats_devices.exclude),
        ("filesystem.mount-points-exclude", ours.filesystem_mount_points.exclude),
        ("filesystem.fs-types-exclude", ours.filesystem_types.exclude),
        ("netdev.device-exclude", ours.netdev_devices.exclude),
        ("netclass.ignored-devices", ours.netclass_devices.exclude),
        ("netstat.fields", ours.netstat_fields.include),
        ("vmstat.fields", ours.vmstat_fields.include),
    ];
    for (flag, pattern) in patterns {
        let pattern = pattern.unwrap().replace('\\', "\\\\");
        assert!(help.contains(&format!("--collector.{flag}=\"{pattern}\"")), "{flag}: {pattern}");
    }
}

/// The control: one digit that differs is found.
#[test]
fn a_wrong_digit_is_found() {
    let Some(program) = program() else {
        skipped::tell("a_wrong_digit_is_found", NO_PEER);
        return;
    };
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for (dir, text) in [(&here, "0.21 0 0 1/2 3\n"), (&there, "0.22 0 0 1/2 3\n")] {
        std::fs::create_dir(dir.path().join("proc")).unwrap();
        std::fs::write(dir.path().join("proc/loadavg"), text).unwrap();
    }
    let options = Options { enabled: Some(vec!["loadavg".into()]), ..tree_options(here.path()) };
    let mut ours = HostMetrics::new(options).unwrap();
    let mut arguments = enable(&["loadavg"]);
    arguments.push(format!("--path.procfs={}", there.path().join("proc").display()));
    let theirs = Peer::start(&program, &arguments);
    let judged = std::panic::catch_unwind(AssertUnwindSafe(|| compare("control", 2, &mut ours, &theirs)));
    let said = *judged.unwrap_err().downcast::<String>().unwrap();
    assert!(said.contains("\"node_load1\"") && !said.contains("\"node_load5\""), "{said}");
}

/// promtool parses it, and has no remark that it has not about node_exporter's own text (whose names it does not like).
#[test]
fn promtool_reads_it() {
    use std::process::{Command, Stdio};
    let Some(program) = program() else {
        skipped::tell("promtool_reads_it", NO_PEER);
        return;
    };
    let remarks = |text: &str| -> Option<BTreeSet<String>> {
        let mut command = Command::new("promtool");
        command.args(["check", "metrics"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().ok()?;
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        // 0 is no remark, 3 is remarks about style, 1 is a text it cannot read.
        let code = output.status.code();
        assert!(matches!(code, Some(0 | 3)), "{code:?} {}", String::from_utf8_lossy(&output.stderr));
        Some(String::from_utf8_lossy(&output.stderr).lines().map(str::to_owned).collect())
    };
    let dir = tempfile::tempdir().unwrap();
    support::tree::unpack("server", dir.path());
    let ours = HostMetrics::new(tree_options(dir.path())).unwrap().collect_to_string(Format::Text);
    let option = |name: &str, part: &str| format!("--{name}={}", dir.path().join(part).display());
    let mut arguments = enable(&ci_runner_hostmetrics::collector_names());
    arguments.extend([option("path.procfs", "proc"), option("path.sysfs", "sys"), option("path.rootfs", "root")]);
    arguments.extend([option("path.udev.data", "udev"), option("collector.textfile.directory", "textfile")]);
    let theirs = Peer::start(&program, &arguments).scrape();
    let (Some(ours), Some(theirs)) = (remarks(&ours), remarks(&theirs)) else {
        skipped::tell("promtool_reads_it", "promtool (Debian: prometheus) is not installed");
        return;
    };
    let new: Vec<_> = ours.difference(&theirs).collect();
    assert!(new.is_empty(), "remarks of promtool that it has not about node_exporter: {new:#?}");
}
