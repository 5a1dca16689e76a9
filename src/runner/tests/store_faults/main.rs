//! What the store on disk does when it is killed, damaged, full, or not alone.
//!
//! The child of the kill test is this program again: `child` is a test that does nothing unless it is told to by its
//! environment. `CI_RUNNER_TEST_CYCLES` sets how often it is killed (20 in the quick suite).

mod alone;
mod backup;
mod damage;
mod full;
mod kill;
mod restore_files;
mod restore_kill;
mod restore_place;
#[path = "../../../skipped.rs"]
mod skipped;

use ci_runner::store::sqlite::{JobFiles, SqliteReader, SqliteStore, restore};
use ci_runner::store::{JobFilter, Loaded, Reader as _, ScheduleRow, Store as _, StoreError, Write};
use ci_runner_core::change::{Change, Entry, OpenJob, Submission, Wish};
use ci_runner_core::id::{AttemptNumber, Epoch, JobId, PoolId};
use ci_runner_core::job::{Command, JobSpec, Terms, Work};
use ci_runner_core::limits::Limits;
use ci_runner_core::outcome::{AttemptResult, By, LostCause, Outcome};
use ci_runner_core::policy::Settings;
use ci_runner_core::state::{Event, Next, Phase};
use ci_runner_core::time::{ClockBase, Instant, Now, WallTime};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

fn id(number: u64) -> JobId {
    JobId::new(number).expect("positive")
}

fn at(ms: i64) -> Now {
    Now { engine: Instant(ms), wall: WallTime(1_700_000_000_000 + ms) }
}

fn entry(change: Change) -> Write {
    Write::Entry(Entry { at: at(5), change })
}

fn submission(number: u64, name: &str, text: &str) -> Write {
    let spec = JobSpec {
        name: Some(name.to_owned()),
        correlation: format!("correlation-{number}"),
        work: Work {
            command: Command::Shell(text.to_owned()),
            env: Vec::new(),
            dir: None,
            timeout_ms: None,
            soft_timeout_ms: None,
            log_bytes_max: 1 << 20,
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
        Submission { id: id(number), spec, finished: Vec::new(), group_limit: None, submitter: "me".into() };
    entry(Change::Submitted(Box::new(submission)))
}

fn claim(number: u64) -> Write {
    let (attempt, epoch) = (AttemptNumber(1), Epoch::new("boot/life"));
    let slot = u32::try_from(number).expect("small");
    entry(Change::Job {
        id: id(number),
        event: Event::Claimed { attempt, pool: PoolId(0), slot, epoch, limits: Limits::NONE },
    })
}

fn end(number: u64) -> Write {
    let (attempt, result) = (AttemptNumber(1), AttemptResult::Exited { code: 0 });
    let next = Next::Finish { outcome: Outcome::Succeeded };
    entry(Change::Job { id: id(number), event: Event::Ended { attempt, result, next } })
}

fn pools() -> Vec<String> {
    vec!["default".to_owned()]
}

fn load(store: &mut SqliteStore) -> Result<(Loaded, Vec<OpenJob>), StoreError> {
    let mut open = Vec::new();
    let loaded = store.load(&mut |_| PoolId(0), &mut |job| open.push(job))?;
    Ok((loaded, open))
}

fn opened(dir: &Path) -> Result<(SqliteStore, SqliteReader, Loaded, Vec<OpenJob>), StoreError> {
    let (mut store, reader) = SqliteStore::open(dir)?;
    let (loaded, open) = load(&mut store)?;
    Ok((store, reader, loaded, open))
}

fn all(reader: &SqliteReader) -> Vec<ci_runner::store::JobRow> {
    reader.jobs(&JobFilter { ascending: true, ..JobFilter::all(usize::MAX) }).expect("readable")
}

/// Xorshift64 (Marsaglia 2003).
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % n
    }
}
