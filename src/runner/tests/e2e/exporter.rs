//! The exporter beside a daemon that comes and goes: the host's figures go on, and no counter goes backwards.

use crate::support::*;
use serde_json::json;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

/// An exporter process; ends with the test.
struct Process(Child, String);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(host: &Host) -> Process {
    let words = ["exporter", "--listen", "127.0.0.1:0", "--collectors", "loadavg,uname"];
    let mut child = host.cli(&words).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().rsplit(' ').next().unwrap().to_owned();
    Process(child, address)
}

/// Counters of a scrape, buckets among them.
fn counters(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| line.starts_with("ci_runner_") && !line.starts_with("ci_runner_exporter"));
    let lines = lines.filter(|line| ["_total", "_bucket", "_sum", "_count"].iter().any(|part| line.contains(part)));
    // Of one process, as `process_*` are.
    let of_process = ["ci_runner_daemon_", "ci_runner_log_records_dropped_total"];
    let lines = lines.filter(|line| !of_process.iter().any(|start| line.starts_with(start)));
    lines
        .map(|line| line.rsplit_once(' ').unwrap())
        .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
        .collect()
}

#[test]
fn an_exporter_outlives_the_daemon_and_no_counter_goes_backwards() {
    let mut host = Host::started();
    let exporter = start(&host);
    let scrape = || http_get(&exporter.1, "/metrics");
    let up = |text: &str| text.contains("ci_runner_up 1\n");
    let run = |host: &Host, script: &str| {
        let id = host.add(&host.shell_with(script, json!({ "retry": 1, "retry_delay": 0, "name": "nightly" })));
        host.finish(id);
    };
    run(&host, "true");
    run(&host, "exit 1");
    let before = wait_for("the first figures", || {
        let text = scrape();
        (up(&text) && text.contains("outcome=\"failed\",pool=\"default\"} 1\n")).then_some(text)
    });
    assert!(before.contains("node_load1 ") && before.contains("job_name=\"nightly\""), "{before}");
    // Nobody sees this one before the daemon dies.
    run(&host, "true");
    host.kill();
    let down = scrape();
    assert!(
        down.contains("ci_runner_up 0\n") && down.contains("node_load1 ") && !down.contains("ci_runner_jobs_total")
    );
    host.start();
    let after = wait_for("the daemon's figures", || Some(scrape()).filter(|text| up(text)));
    let (old, new) = (counters(&before), counters(&after));
    assert!(old.len() > 60, "{before}");
    for (name, value) in &old {
        assert!(new.get(name) >= Some(value), "{name} was {value}, is {:?}", new.get(name));
    }
    let succeeded = |figures: &BTreeMap<String, f64>| -> f64 {
        let of = |name: &&String| name.starts_with("ci_runner_jobs_total") && name.contains("\"succeeded\"");
        figures.keys().filter(of).map(|name| figures[name]).sum()
    };
    assert_eq!((succeeded(&old), succeeded(&new)), (1.0, 2.0), "the store counted what nobody had seen");
    // The control: without what was kept, they would begin anew.
    host.kill();
    std::fs::remove_file(host.state.join("counters.json")).unwrap();
    host.start();
    let text = wait_for("the daemon's figures", || Some(scrape()).filter(|text| up(text)));
    let retries = "ci_runner_job_retries_total{cause=\"exit\"}";
    assert!(counters(&text)[retries] < new[retries], "{text}");
}
