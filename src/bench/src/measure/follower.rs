//! How late a line is that a follower sees, while another job writes as fast as it can.

use super::Bench;
use crate::helpers::monotonic_ns;
use crate::report::{Limit, Report, Row};
use crate::stats::{median, percentile};
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

/// One job tells the time, one floods, one client follows the first.
pub fn follower(bench: &Bench, report: &mut Report) -> Result<()> {
    let home = bench.home(4)?;
    let mut api = home.api()?;
    let seconds: u32 = bench.pick(5, 20);
    let me = std::env::current_exe()?;
    let me = me.to_str().context("the path of this program is no text")?;
    let flood = format!("timeout {} yes 'a line of a job that has very much to say'; true", seconds + 2);
    api.submit(&json!({"shell": flood, "retry": 0}))?;
    let ticking = api.submit(&json!({"command": [me, "tick", seconds.to_string()], "retry": 0}))?;
    let mut client = home
        .client(&["logs", "--follow", &ticking.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start the follower")?;
    let out = BufReader::new(client.stdout.take().context("its output is piped")?);
    let mut delays = Vec::new();
    for line in out.lines() {
        let line = line?;
        if let Ok(stamp) = line.trim().parse::<u64>() {
            delays.push(monotonic_ns().saturating_sub(stamp) as f64 / 1e6);
        }
    }
    client.wait()?;
    let least = seconds as usize * 20;
    ensure!(delays.len() >= least, "the follower saw {} lines, at least {least} were written", delays.len());
    let (p50, p99) = (median(&delays), percentile(&delays, 0.99));
    report.add(Row {
        name: "delay of a follower while another job floods, p99".to_owned(),
        limit: Limit::AtMost(1_000.0),
        judged: p99,
        unit: "ms",
        measured: format!("{p99:.0} ms, p50 {p50:.0} ms, {} lines", delays.len()),
        ratio: None,
    });
    Ok(())
}
