//! What running jobs cost us, and how soon a new daemon has them in its hands.

use super::{Bench, megabytes};
use crate::home::Home;
use crate::peers::make_fifo;
use crate::procfs::pss;
use crate::report::{Limit, Report, Row};
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::fs::File;
use std::time::{Duration, Instant};

const JOBS: u64 = 100;
const PATIENCE: Duration = Duration::from_secs(60);
const SETTLE: Duration = Duration::from_secs(2);

/// 100 jobs that wait for a pipe: their memory, then a kill of the daemon, and all of them ending under a new one.
pub fn running(bench: &Bench, report: &mut Report) -> Result<()> {
    let mut home = bench.home(JOBS as u32)?;
    std::thread::sleep(SETTLE);
    let ours = |home: &Home| -> Result<u64> { Ok(pss(home.pid()?)? + pss(home.spawner()?)?) };
    let before = ours(&home)?;
    let gate = home.state().join("gate");
    make_fifo(&gate)?;
    let mut api = home.api()?;
    let job =
        json!({"command": ["/bin/cat", gate.to_str().context("the temporary directory is no text")?], "retry": 0});
    api.submit_many(&job, JOBS as usize)?;
    api.wait_until("100 jobs to run", PATIENCE, |counts| counts.running == JOBS)?;
    std::thread::sleep(SETTLE);
    let shims = home.shims()?;
    ensure!(shims.len() as u64 == JOBS, "{} shims for {JOBS} jobs", shims.len());
    let sizes: Vec<u64> = shims.iter().map(|pid| pss(*pid)).collect::<Result<_>>()?;
    let shims_kb = sizes.iter().sum::<u64>() as f64 / JOBS as f64 / 1e3;
    let grown_kb = ours(&home)?.saturating_sub(before) as f64 / JOBS as f64 / 1e3;
    let all_kb = shims_kb + grown_kb;
    report.add(Row {
        name: "memory of ours for each running job (PSS)".to_owned(),
        limit: Limit::AtMost(200.0),
        judged: all_kb,
        unit: "kB",
        measured: format!("{all_kb:.0} kB: shim {shims_kb:.0}, growth of daemon and spawner {grown_kb:.0}"),
        ratio: None,
    });
    let size = megabytes(pss(home.spawner()?)?);
    report.add(Row {
        name: "memory of the spawner with 100 running jobs (PSS)".to_owned(),
        limit: Limit::AtMost(4.0),
        judged: size,
        unit: "MB",
        measured: format!("{size:.1} MB"),
        ratio: None,
    });
    home.kill_daemon()?;
    let begin = Instant::now();
    let ready = home.start_daemon()?.as_secs_f64();
    let mut api = home.api()?;
    drop(File::options().write(true).open(&gate)?);
    let done = api.wait_until("100 jobs to end", PATIENCE, |counts| counts.running == 0)?;
    let took = begin.elapsed().as_secs_f64();
    ensure!(done.succeeded == JOBS, "{} of {JOBS} jobs succeeded under the new daemon", done.succeeded);
    report.add(Row {
        name: "re-adoption of 100 running jobs".to_owned(),
        limit: Limit::AtMost(2.0),
        judged: took,
        unit: "s",
        measured: format!("{took:.2} s from the start until all had ended and were counted; ready after {ready:.2} s"),
        ratio: None,
    });
    Ok(())
}
