//! How long it takes from the start of the client to the first instruction of the job.

use super::Bench;
use crate::helpers::monotonic_ns;
use crate::peers::{TaskSpooler, make_fifo};
use crate::report::{Limit, Report, Row};
use crate::stats::{median, percentile};
use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Until everything of the job before is over and the daemon idle.
const PAUSE: Duration = Duration::from_millis(30);
/// Asked are a p50 of 3.5 ms and a p99 of 10 ms on a machine where task-spooler, which writes nothing, takes 2.0 and 2.7 ms.
const ASKED: [(&str, f64, f64, f64); 2] = [("p50", 0.5, 3.5, 2.0), ("p99", 0.99, 10.0, 2.7)];

/// The job is this program, which tells the time first of all.
pub fn first_instruction(bench: &Bench, report: &mut Report) -> Result<()> {
    let home = bench.home(4)?;
    let spooler = TaskSpooler::start(4)?;
    let fifo = home.state().join("stamps");
    make_fifo(&fifo)?;
    // Reading and writing, so that neither opening nor the end of a writer matters.
    let mut stamps = BufReader::new(File::options().read(true).write(true).open(&fifo)?);
    let me = std::env::current_exe()?;
    let me = me.to_str().context("the path of this program is no text")?;
    let file = fifo.to_str().context("the temporary directory is no text")?;
    let (mut ours, mut bare, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..bench.pick(60, 300) {
        let mut add = home.client(&["add", "--", me, "stamp", file]);
        ours.push(delay(add.stdout(Stdio::null()), &mut stamps)?);
        bare.push(delay(Command::new(me).args(["stamp", file]), &mut stamps)?);
        if let Some(spooler) = &spooler {
            theirs.push(delay(&mut spooler.command(&[me, "stamp", file]), &mut stamps)?);
        }
    }
    ensure!(Path::new(file).exists(), "the pipe went away");
    for (name, part, asked, asked_of_peer) in ASKED {
        let (value, bare) = (percentile(&ours, part), percentile(&bare, part));
        let (limit, judged, unit) = match &spooler {
            Some(_) => (Limit::AtMost(asked / asked_of_peer), value / percentile(&theirs, part), "× task-spooler"),
            None => (Limit::Nothing, value, "ms"),
        };
        report.add(Row {
            name: format!("client's start to the job's first instruction, {name}"),
            limit,
            judged,
            unit,
            measured: format!("{value:.2} ms; a bare process {bare:.2} ms"),
            ratio: Some(value / bare),
        });
    }
    if spooler.is_some() {
        let p50 = median(&theirs);
        report.add(Row {
            name: "the same with task-spooler, undurable".to_owned(),
            limit: Limit::Nothing,
            judged: p50,
            unit: "ms",
            measured: format!("p50 {p50:.2} ms, p99 {:.2} ms", percentile(&theirs, 0.99)),
            ratio: Some(p50 / median(&bare)),
        });
    }
    Ok(())
}

fn delay(command: &mut Command, stamps: &mut BufReader<File>) -> Result<f64> {
    let begin = monotonic_ns();
    let mut child = command.spawn()?;
    let mut line = String::new();
    stamps.read_line(&mut line)?;
    ensure!(child.wait()?.success(), "{command:?} failed");
    let stamp: u64 = line.trim().parse().with_context(|| format!("the job wrote '{}'", line.trim()))?;
    std::thread::sleep(PAUSE);
    Ok(stamp.saturating_sub(begin) as f64 / 1e6)
}
