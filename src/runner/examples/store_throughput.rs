//! What the store on disk can do: submissions, claims and ends a second, time to load, lists, size.
//!
//! `cargo run --release --example store_throughput -- DIR [JOBS]` makes a store in an empty directory (which decides what
//! disk is measured) and prints one figure a line.

use anyhow::{Context as _, Result};
use ci_runner::store::sqlite::{SqliteReader, SqliteStore};
use ci_runner::store::{CollectLimits, JobFilter, Reader as _, Store as _, Write};
use ci_runner_core::change::{Change, Entry, OpenJob, Submission};
use ci_runner_core::id::{AttemptNumber, Epoch, JobId, PoolId};
use ci_runner_core::job::{Command, JobSpec, Terms, Work};
use ci_runner_core::limits::Limits;
use ci_runner_core::outcome::{AttemptResult, Outcome, Receipt};
use ci_runner_core::policy::Settings;
use ci_runner_core::state::{Event, Next, Phase};
use ci_runner_core::time::{Instant, Now, WallTime};
use std::path::{Path, PathBuf};

fn id(number: u64) -> JobId {
    JobId::new(number.max(1)).expect("positive")
}

fn now(ms: u64) -> Now {
    let ms = i64::try_from(ms).unwrap_or(i64::MAX / 2);
    Now { engine: Instant(ms), wall: WallTime(1_700_000_000_000 + ms) }
}

fn entry(ms: u64, change: Change) -> Write {
    Write::Entry(Entry { at: now(ms), change })
}

fn submission(number: u64) -> Write {
    let spec = JobSpec {
        name: None,
        correlation: format!("0191d7a2-5b5c-7c3a-8f00-{number:012x}"),
        work: Work {
            command: Command::Argv(vec!["/usr/bin/make".into(), "-C".into(), format!("/src/project-{number}")]),
            env: vec![("CC".into(), "clang".into())],
            dir: Some("/home/someone/src".into()),
            timeout_ms: Some(1_800_000),
            soft_timeout_ms: None,
            log_bytes_max: 64 << 20,
            secrets: Vec::new(),
            profile: None,
            submitter_uid: None,
            notify: Vec::new(),
        },
        terms: Terms {
            pool: None,
            labels: Vec::new(),
            priority: 0,
            retry: Settings::default().retry,
            group: None,
            after: Vec::new(),
            at: None,
            delay_ms: None,
            expires: None,
            hold: false,
            limits: Limits::NONE,
        },
    };
    let submission =
        Submission { id: id(number), spec, finished: Vec::new(), group_limit: None, submitter: "someone".into() };
    entry(number, Change::Submitted(Box::new(submission)))
}

fn event(ms: u64, number: u64, event: Event) -> Write {
    entry(ms, Change::Job { id: id(number), event })
}

/// Times of single commits.
#[derive(Default)]
struct Times(Vec<f64>);

impl Times {
    fn of<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let start = std::time::Instant::now();
        let value = work();
        self.0.push(start.elapsed().as_secs_f64() * 1_000.0);
        value
    }

    fn told(&mut self) -> String {
        self.0.sort_by(f64::total_cmp);
        let at = |share: f64| self.0[((self.0.len() - 1) as f64 * share) as usize];
        format!("commit ms p50 {:.2} p99 {:.2} max {:.2}", at(0.5), at(0.99), at(1.0))
    }
}

fn report(what: &str, count: u64, start: std::time::Instant, times: &mut Times) {
    let seconds = start.elapsed().as_secs_f64();
    println!("{what}: {:.0}/s ({count} in {seconds:.2} s; {})", count as f64 / seconds, times.told());
}

fn submit(store: &mut SqliteStore, jobs: u64, batch: u64, pools: &[String]) -> Result<()> {
    let (start, mut times) = (std::time::Instant::now(), Times::default());
    let mut number = 1;
    while number <= jobs {
        let writes: Vec<Write> = (number..(number + batch).min(jobs + 1)).map(submission).collect();
        times.of(|| store.commit(&writes, pools))?;
        number += batch;
    }
    report(&format!("submissions in batches of {batch}"), jobs, start, &mut times);
    Ok(())
}

/// As the daemon does it: each commit has the ends of some and the claims of the next, whose work is read first.
fn dispatch(store: &mut SqliteStore, range: std::ops::Range<u64>, batch: u64, pools: &[String]) -> Result<()> {
    let (start, mut times) = (std::time::Instant::now(), Times::default());
    let epoch = Epoch::new("6a1de0a9-2d54-4f2f-a8e1-0d4d8e0b54b5/0123456789abcdef");
    let count = range.end - range.start;
    let mut number = range.start;
    let attempt = AttemptNumber(1);
    while number < range.end + batch {
        let mut writes = Vec::new();
        let ms = 10_000_000 + number;
        for ended in (number.saturating_sub(batch)..number).filter(|ended| range.contains(ended)) {
            let next = Next::Finish { outcome: Outcome::Succeeded };
            let receipt = Receipt { started: now(ms).wall, ended: now(ms).wall, run_us: 900, ..Receipt::default() };
            writes.push(Write::Receipt { job: id(ended), attempt, receipt });
            writes.push(event(ms, ended, Event::Started { attempt }));
            writes.push(event(ms, ended, Event::Ended { attempt, result: AttemptResult::Exited { code: 0 }, next }));
        }
        for claimed in (number..number + batch).filter(|claimed| range.contains(claimed)) {
            let slot = u32::try_from(claimed % (2 * batch)).unwrap_or(0);
            writes.push(event(
                ms,
                claimed,
                Event::Claimed { attempt, pool: PoolId(0), slot, epoch: epoch.clone(), limits: Limits::NONE },
            ));
            store.claimed(id(claimed))?.context("an open job")?;
        }
        times.of(|| store.commit(&writes, pools))?;
        number += batch;
    }
    report(&format!("claims and ends in batches of {batch}"), count, start, &mut times);
    Ok(())
}

fn timed<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let start = std::time::Instant::now();
    let value = work()?;
    println!("{what}: {:.1} ms", start.elapsed().as_secs_f64() * 1_000.0);
    Ok(value)
}

fn load(store: &mut SqliteStore) -> Result<u64> {
    let mut open = 0;
    store.load(&mut |_| PoolId(0), &mut |_: OpenJob| open += 1)?;
    Ok(open)
}

fn lists(reader: &SqliteReader) -> Result<()> {
    let all = JobFilter::all(100);
    let filters = [
        ("newest", all.clone()),
        ("queued", JobFilter { phases: vec![Phase::Queued], ..all.clone() }),
        ("running", JobFilter { phases: vec![Phase::Running], ..all.clone() }),
        ("finished", JobFilter { phases: vec![Phase::Finished], ..all.clone() }),
        ("failed", JobFilter { outcomes: vec!["failed".into()], ..all.clone() }),
        ("pool", JobFilter { pool: Some("default".into()), ..all.clone() }),
        ("another pool", JobFilter { pool: Some("none".into()), ..all.clone() }),
        ("correlation", JobFilter { correlation: Some("0191d7a2-5b5c-7c3a-8f00-000000000007".into()), ..all.clone() }),
        ("name", JobFilter { name: Some("a*".into()), ..all.clone() }),
        ("since", JobFilter { since: Some(now(50_000).wall), until: Some(now(50_100).wall), ..all }),
    ];
    for (what, filter) in filters {
        let start = std::time::Instant::now();
        let rows = reader.jobs(&filter)?.len();
        println!("list {what}: {rows} rows in {:.2} ms", start.elapsed().as_secs_f64() * 1_000.0);
    }
    Ok(())
}

fn memory(what: &str) -> Result<()> {
    let smaps = std::fs::read_to_string("/proc/self/smaps_rollup")?;
    let pss = smaps.lines().find(|line| line.starts_with("Pss:")).unwrap_or("Pss: ?");
    println!("memory {what}: {}", pss.split_whitespace().skip(1).collect::<Vec<_>>().join(" "));
    Ok(())
}

fn sizes(dir: &Path) -> Result<()> {
    for name in ["queue.db", "queue.db-wal"] {
        println!("{name}: {:.1} MiB", std::fs::metadata(dir.join(name))?.len() as f64 / (1 << 20) as f64);
    }
    Ok(())
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let dir = PathBuf::from(arguments.next().context("usage: store_throughput DIR [JOBS]")?);
    let jobs: u64 = arguments.next().map_or(Ok(100_000), |jobs| jobs.parse())?;
    let pools = ["default".to_owned()];
    let (mut store, reader) = SqliteStore::open(&dir)?;
    load(&mut store)?;
    memory("of an empty store")?;
    submit(&mut store, jobs, 500, &pools)?;
    memory("after submissions")?;
    drop((store, reader));
    let (mut store, reader) = timed("open", || Ok(SqliteStore::open(&dir)?))?;
    let open = timed("load", || load(&mut store))?;
    println!("loaded: {open} jobs");
    memory("after load")?;
    for (at, batch) in [(0, 4), (1, 8)] {
        let range = 1 + at * jobs / 4..1 + (at + 1) * (jobs / 4).min(20_000) + at * (jobs / 4 - (jobs / 4).min(20_000));
        dispatch(&mut store, range, batch, &pools)?;
    }
    sizes(&dir)?;
    lists(&reader)?;
    memory("after lists")?;
    println!("found: {:?}", timed("check", || Ok(reader.check()?))?);
    timed("backup", || Ok(reader.backup(&dir.join("backup.db"), &[])?))?;
    let limits = CollectLimits::all();
    println!("collected: {}", timed("collect 1000", || Ok(store.collect(&limits, 1_000)?))?.len());
    Ok(())
}
