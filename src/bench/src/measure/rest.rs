//! What a daemon costs while nothing happens: with nothing queued, and with a long queue.

use super::{Bench, megabytes, no_op_job};
use crate::home::Home;
use crate::procfs::{pss, switches};
use crate::report::{Limit, Report, Row};
use crate::stats::ms;
use anyhow::Result;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// After a start or a burst of work: chores are done, threads that idle have ended.
const SETTLE: Duration = Duration::from_secs(2);
/// A queue of a million is full after this at the latest.
const PATIENCE: Duration = Duration::from_secs(120);

/// Wake-ups, growth and memory with nothing queued.
pub fn idle(bench: &Bench, report: &mut Report) -> Result<()> {
    let home = bench.home(4)?;
    run_some(&home)?;
    std::thread::sleep(SETTLE);
    let (daemon, spawner) = (home.pid()?, home.spawner()?);
    let sizes = || -> Result<(u64, u64)> { Ok((pss(daemon)?, pss(spawner)?)) };
    let first = sizes()?;
    let begin = Instant::now();
    let rate = wake_ups(&[daemon, spawner], bench.pick(8, 60))? as f64 / begin.elapsed().as_secs_f64();
    let last = sizes()?;
    report.add(Row {
        name: "wake-ups of daemon and spawner at rest".to_owned(),
        limit: Limit::AtMost(2.0),
        judged: rate,
        unit: "/s",
        measured: format!("{rate:.2}/s over {:.0} s", begin.elapsed().as_secs_f64()),
        ratio: None,
    });
    let growth = (last.0 + last.1).saturating_sub(first.0 + first.1) as f64 / 1e3;
    report.add(Row {
        name: "growth of daemon and spawner at rest".to_owned(),
        limit: Limit::AtMost(100.0),
        judged: growth,
        unit: "kB",
        measured: format!("{growth:.0} kB in the same time"),
        ratio: None,
    });
    for (name, bytes, limit) in [("daemon", last.0, 20.0), ("spawner", last.1, 4.0)] {
        let size = megabytes(bytes);
        report.add(Row {
            name: format!("memory of the {name} at rest (PSS)"),
            limit: Limit::AtMost(limit),
            judged: size,
            unit: "MB",
            measured: format!("{size:.1} MB"),
            ratio: None,
        });
    }
    Ok(())
}

/// Looks once a second, so that a thread that comes and goes is counted too.
fn wake_ups(pids: &[u32], seconds: u32) -> Result<u64> {
    let look = || -> Result<HashMap<u32, u64>> {
        pids.iter().map(|pid| switches(*pid)).try_fold(HashMap::new(), |mut all, some| {
            all.extend(some?);
            Ok(all)
        })
    };
    let mut before = look()?;
    let mut sum = 0;
    for _ in 0..seconds {
        std::thread::sleep(Duration::from_secs(1));
        let now = look()?;
        sum +=
            now.iter().map(|(thread, count)| count - before.get(thread).copied().unwrap_or(0).min(*count)).sum::<u64>();
        before = now;
    }
    Ok(sum)
}

/// A daemon that never did anything would be too small.
fn run_some(home: &Home) -> Result<()> {
    let mut api = home.api()?;
    let before = api.counts()?.succeeded;
    api.submit_many(&no_op_job(), 200)?;
    api.wait_until("200 jobs", PATIENCE, |counts| counts.succeeded >= before + 200)?;
    Ok(())
}

/// Memory with a long queue, and starts on it.
pub fn queued(bench: &Bench, report: &mut Report) -> Result<()> {
    let mut home = bench.home(4)?;
    home.api()?.pause()?;
    let depths: &[(u64, f64, Limit)] = bench.pick(
        &[(100_000, 150.0, Limit::AtMost(1.0))],
        &[(100_000, 150.0, Limit::AtMost(1.0)), (1_000_000, 150.0, Limit::Nothing)],
    );
    for (depth, limit, start_limit) in depths {
        let mut api = home.api()?;
        let there = api.counts()?.queued;
        api.submit_many(&no_op_job(), (depth - there) as usize)?;
        api.wait_until("the queue to fill", PATIENCE, |counts| counts.queued >= *depth)?;
        std::thread::sleep(SETTLE);
        let size = megabytes(pss(home.pid()?)?);
        home.kill_daemon()?;
        let mut starts = Vec::new();
        for _ in 0..3 {
            starts.push(ms(home.start_daemon()?) / 1e3);
            home.stop_daemon()?;
        }
        starts.push(ms(home.start_daemon()?) / 1e3);
        std::thread::sleep(SETTLE);
        let again = megabytes(pss(home.pid()?)?);
        report.add(Row {
            name: format!("memory of the daemon with {depth} queued (PSS)"),
            limit: Limit::AtMost(*limit),
            judged: size,
            unit: "MB",
            measured: format!("{size:.0} MB; after a new start {again:.0} MB"),
            ratio: None,
        });
        // The first start found an unclean stop: the check after it must not delay.
        let worst = starts.iter().copied().fold(0.0, f64::max);
        report.add(Row {
            name: format!("start to ready with {depth} queued"),
            limit: *start_limit,
            judged: worst,
            unit: "s",
            measured: format!("{worst:.2} s at most of 4; after kill -9 {:.2} s", starts[0]),
            ratio: None,
        });
    }
    Ok(())
}
