//! How long it takes until a submission is on disk and its id known.

use super::{Bench, no_op_job};
use crate::load::load;
use crate::peers::TaskSpooler;
use crate::report::{Limit, Report, Row};
use crate::stats::{median, ms, percentile};
use anyhow::{Result, ensure};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Between two calls, so that the job of the last one is over.
const PAUSE: Duration = Duration::from_millis(20);
const CLIENTS: usize = 64;
/// Asked is 2.5 ms on a machine where a bare process takes 0.7 ms from its start to its end.
const BARE_PROCESSES_MAX: f64 = 2.5 / 0.7;

/// One call of the client after another, each from the start of its process to its end; in turn with a bare process.
pub fn cli(bench: &Bench, report: &mut Report) -> Result<()> {
    let home = bench.home(4)?;
    let spooler = TaskSpooler::start(4)?;
    let (mut small, mut whole, mut bare, mut theirs) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..bench.pick(80, 300) {
        small.push(timed(home.add_job("true").stdout(Stdio::null()))?);
        whole.push(timed(home.client(&["add", "--", "/bin/true"]).stdout(Stdio::null()))?);
        bare.push(timed(&mut Command::new("/bin/true"))?);
        if let Some(spooler) = &spooler {
            theirs.push(timed(&mut spooler.command(&["/bin/true"]))?);
        }
    }
    for (name, ours) in [("add_job", &small), ("ci-runner add", &whole)] {
        let (p50, p99) = (median(ours), percentile(ours, 0.99));
        report.add(Row {
            name: format!("`{name}`, start to exit, p50"),
            limit: Limit::AtMost(BARE_PROCESSES_MAX),
            judged: p50 / median(&bare),
            unit: "× a bare process",
            measured: format!("{p50:.2} ms, p99 {p99:.2} ms; a bare process {:.2} ms", median(&bare)),
            ratio: Some(p50 / median(&bare)),
        });
    }
    let p50 = median(&theirs);
    if spooler.is_some() {
        report.add(Row {
            name: "task-spooler, undurable, start to exit, p50".to_owned(),
            limit: Limit::Nothing,
            judged: p50,
            unit: "ms",
            measured: format!("{p50:.2} ms, p99 {:.2} ms", percentile(&theirs, 0.99)),
            ratio: Some(p50 / median(&bare)),
        });
    }
    Ok(())
}

fn timed(command: &mut Command) -> Result<f64> {
    let begin = Instant::now();
    let status = command.status()?;
    let took = ms(begin.elapsed());
    ensure!(status.success(), "{command:?} ended with {status}");
    std::thread::sleep(PAUSE);
    Ok(took)
}

/// 64 clients with one connection each, while the host is paused.
pub fn api(bench: &Bench, report: &mut Report) -> Result<()> {
    let home = bench.home(4)?;
    home.api()?.pause()?;
    let one = no_op_job().to_string();
    let cases = [(1, bench.pick(10_000, 50_000), 5_000.0), (100, bench.pick(500, 4_000), 20_000.0)];
    for (batch, requests, limit) in cases {
        let body = if batch == 1 { one.clone() } else { format!("[{}]", vec![one.as_str(); batch].join(",")) };
        let took = load(&home.socket(), CLIENTS, requests, &body)?;
        let rate = (batch * requests) as f64 / took.as_secs_f64();
        let name = match batch {
            1 => format!("durable submissions, {CLIENTS} clients, one a request"),
            batch => format!("durable submissions, {CLIENTS} clients, {batch} a request"),
        };
        let measured = format!("{rate:.0}/s");
        report.add(Row { name, limit: Limit::AtLeast(limit), judged: rate, unit: "/s", measured, ratio: None });
    }
    Ok(())
}
