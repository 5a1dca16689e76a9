//! How many jobs a second go through, from "may start" to "ended", as parts of the machine's own limit.

use super::{Bench, no_op_job};
use crate::api::Api;
use crate::peers::{self, TaskSpooler};
use crate::raw::{raw, raw_with};
use crate::report::{Limit, Report, Row};
use crate::stats::median;
use anyhow::{Result, ensure};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const SLOTS: u32 = 4;
/// Bare processes before and after each round.
const RAW: usize = 3_000;
/// The daemon counts ten times a second; looking more often would only take from its time.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// A queue that stands still for so long is a failure, not a figure.
const PATIENCE: Duration = Duration::from_secs(60);

/// The machine's own limit, and what others make of it.
pub fn peers(bench: &Bench, report: &mut Report) -> Result<()> {
    let (rounds, jobs) = bench.pick((1, 2_000), (4, 4_000));
    let mut add = |name: &str, measure: &dyn Fn(usize) -> Result<f64>, jobs: usize| -> Result<()> {
        let (mut rates, mut ratios) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            let before = raw(RAW)?;
            let rate = measure(jobs)?;
            rates.push(rate);
            ratios.push(rate * 2.0 / (before + raw(RAW)?));
        }
        let (rate, ratio) = (median(&rates), median(&ratios));
        let measured = format!("{rate:.0}/s");
        report.add(Row {
            name: name.to_owned(),
            limit: Limit::Nothing,
            judged: rate,
            unit: "/s",
            measured,
            ratio: Some(ratio),
        });
        Ok(())
    };
    add("posix_spawn of /bin/true, two processes, four in flight", &raw, jobs)?;
    add("posix_spawn, one process, two in flight", &|jobs| raw_with(1, jobs), jobs)?;
    add("xargs -P4", &peers::xargs, jobs)?;
    if let Some(spooler) = TaskSpooler::start(SLOTS)? {
        add("task-spooler, 4 slots", &|jobs| spooler.dispatch(jobs), jobs / 8)?;
    } else {
        report.failed("task-spooler", "not installed");
    }
    Ok(())
}

/// No-op jobs with queues of growing length behind them.
pub fn no_op(bench: &Bench, report: &mut Report) -> Result<()> {
    if peers::installed("parallel") {
        add_parallel(bench, report)?;
    } else {
        report.failed("GNU parallel", "not installed");
    }
    let depths: &[usize] = bench.pick(&[1_000, 100_000], &[1_000, 10_000, 100_000, 1_000_000]);
    let home = bench.home(SLOTS)?;
    let mut api = home.api()?;
    let mut medians = Vec::new();
    for depth in depths {
        let rates = rounds(bench, &mut api, &no_op_job(), *depth)?;
        let ratio = median(&rates.iter().map(|(_, ratio)| *ratio).collect::<Vec<_>>());
        let rate = median(&rates.iter().map(|(rate, _)| *rate).collect::<Vec<_>>());
        medians.push(ratio);
        report.add(Row {
            name: format!("dispatch of no-op jobs, {depth} queued behind"),
            limit: Limit::AtLeast(0.5),
            judged: ratio,
            unit: "× raw",
            measured: format!("{rate:.0}/s, {ratio:.2} × raw ({})", spread(&rates)),
            ratio: Some(ratio),
        });
    }
    let least = medians.iter().copied().fold(f64::INFINITY, f64::min);
    let most = medians.iter().copied().fold(0.0, f64::max);
    let loss = 100.0 * (1.0 - least / most);
    let (first, last) = (depths.first().unwrap_or(&0), depths.last().unwrap_or(&0));
    report.add(Row {
        name: format!("dispatch: spread between {first} and {last} queued"),
        limit: Limit::AtMost(20.0),
        judged: loss,
        unit: "%",
        measured: format!("{loss:.0} %"),
        ratio: None,
    });
    Ok(())
}

fn add_parallel(bench: &Bench, report: &mut Report) -> Result<()> {
    let before = raw(2_000)?;
    let rate = peers::parallel(bench.pick(300, 1_000))?;
    let ratio = rate * 2.0 / (before + raw(2_000)?);
    let name = "GNU parallel -j4".to_owned();
    let measured = format!("{rate:.0}/s");
    report.add(Row { name, limit: Limit::Nothing, judged: rate, unit: "/s", measured, ratio: Some(ratio) });
    Ok(())
}

/// Jobs that print one line each.
pub fn output(bench: &Bench, report: &mut Report) -> Result<()> {
    let home = bench.home(SLOTS)?;
    let mut api = home.api()?;
    let rates = rounds(bench, &mut api, &json!({"command": ["/bin/echo", "a line of output"]}), 1_000)?;
    let ratio = median(&rates.iter().map(|(_, ratio)| *ratio).collect::<Vec<_>>());
    let rate = median(&rates.iter().map(|(rate, _)| *rate).collect::<Vec<_>>());
    report.add(Row {
        name: "dispatch of jobs that print a line".to_owned(),
        limit: Limit::AtLeast(0.3),
        judged: ratio,
        unit: "× raw",
        measured: format!("{rate:.0}/s, {ratio:.2} × raw ({})", spread(&rates)),
        ratio: Some(ratio),
    });
    Ok(())
}

fn spread(rates: &[(f64, f64)]) -> String {
    let ratios: Vec<String> = rates.iter().map(|(_, ratio)| format!("{ratio:.2}")).collect();
    ratios.join(" ")
}

/// Rates and ratios. In each round `depth` jobs and some more are queued while the host is paused; the some more are timed.
fn rounds(bench: &Bench, api: &mut Api, job: &Value, depth: usize) -> Result<Vec<(f64, f64)>> {
    let (rounds, jobs) = bench.pick((2, 2_000), (4, 6_000));
    let mut rates = Vec::new();
    for _ in 0..rounds {
        api.pause()?;
        let idle = api.wait_until("the last jobs to end", PATIENCE, |counts| counts.running == 0)?;
        let missing = (depth + jobs).saturating_sub(idle.queued as usize);
        api.submit_many(job, missing)?;
        let full = api.wait_until("the queue to fill", PATIENCE, |counts| counts.queued as usize >= depth + jobs)?;
        let before = raw(RAW)?;
        api.resume()?;
        let rate = rate(api, full.succeeded, jobs as u64)?;
        api.pause()?;
        rates.push((rate, rate * 2.0 / (before + raw(RAW)?)));
    }
    Ok(rates)
}

/// Successes a second between the first and the last change of the count that was seen.
fn rate(api: &mut Api, at_first: u64, jobs: u64) -> Result<f64> {
    let mut first: Option<(Instant, u64)> = None;
    let mut seen = at_first;
    let mut moved = Instant::now();
    loop {
        let done = api.counts()?.succeeded;
        let now = Instant::now();
        ensure!(now - moved < PATIENCE, "the queue stands still at {} of {jobs} jobs", done - at_first);
        if done != seen {
            (seen, moved) = (done, now);
            let (begin, from) = *first.get_or_insert((now, done));
            if done - at_first >= jobs && now > begin {
                return Ok((done - from) as f64 / (now - begin).as_secs_f64());
            }
        }
        std::thread::sleep(LOOK_EVERY);
    }
}
