//! One suite for both stores: each test is a function of a [`Subject`], run once on each.
//!
//! `history` drives the core's own record through random lives and holds both stores against it; `lists` holds filters and
//! cursors against an oracle that looks at every row; `cost` measures; `ageing` and `rules` are those that need no chance.

mod ageing;
mod cost;
mod history;
mod lists;
mod rules;
mod views;

use super::memory::MemoryStore;
use super::sqlite::{SqliteReader, SqliteStore};
use super::*;
use ci_runner_core::change::{Change, Lease, Submission, Wish};
use ci_runner_core::id::Epoch;
use ci_runner_core::job::{Command, Terms, Work};
use ci_runner_core::labels::Label;
use ci_runner_core::limits::Limits;
use ci_runner_core::outcome::{By, LostCause};
use ci_runner_core::policy::Settings;
use ci_runner_core::state::{Event, Next};
use ci_runner_core::time::Instant;
use std::sync::Arc;

/// A store under test.
struct Subject {
    store: Box<dyn Store>,
    reader: Arc<dyn Reader>,
    dir: Option<tempfile::TempDir>,
    pools: Vec<String>,
}

impl Subject {
    fn memory() -> Self {
        let (store, reader) = MemoryStore::new();
        Self { store: Box::new(store), reader, dir: None, pools: pools() }
    }

    fn sqlite() -> Self {
        // In memory where there is such a place: what a power cut does is not asked here.
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let (store, reader) = open(&dir);
        Self { store, reader, dir: Some(dir), pools: pools() }
    }

    /// As after a crash: what lives on a disk is opened anew.
    fn reopen(&mut self) {
        let Some(dir) = &self.dir else { return };
        (self.store, self.reader) = { MemoryStore::new() }.boxed();
        (self.store, self.reader) = open(dir);
    }

    fn commit(&mut self, batch: &[Write]) {
        self.store.commit(batch, &self.pools).unwrap();
    }

    fn change(&mut self, at: Now, change: Change) {
        self.commit(&[entry(at, change)]);
    }

    /// All open jobs, as one who starts is told.
    fn load(&mut self) -> (Loaded, Vec<OpenJob>) {
        let mut open = Vec::new();
        let loaded = self.store.load(&mut pool_id, &mut |job| open.push(job)).unwrap();
        (loaded, open)
    }
}

trait Boxed {
    fn boxed(self) -> (Box<dyn Store>, Arc<dyn Reader>);
}

impl<S: Store + 'static> Boxed for (S, Arc<dyn Reader>) {
    fn boxed(self) -> (Box<dyn Store>, Arc<dyn Reader>) {
        (Box::new(self.0), self.1)
    }
}

fn open(dir: &tempfile::TempDir) -> (Box<dyn Store>, Arc<dyn Reader>) {
    let (store, reader): (SqliteStore, SqliteReader) = SqliteStore::open(dir.path()).unwrap();
    (Box::new(store), Arc::new(reader))
}

fn pools() -> Vec<String> {
    ["default", "gpu", "tree"].map(str::to_owned).to_vec()
}

fn pool_id(name: &str) -> PoolId {
    PoolId(u16::try_from(pools().iter().position(|pool| pool == name).unwrap()).unwrap())
}

fn id(number: u64) -> JobId {
    JobId::new(number).unwrap()
}

fn at(ms: i64) -> Now {
    Now { engine: Instant(ms), wall: WallTime(1_700_000_000_000 + ms) }
}

fn entry(at: Now, change: Change) -> Write {
    Write::Entry(Entry { at, change })
}

fn spec() -> JobSpec {
    JobSpec {
        name: None,
        correlation: "c".into(),
        work: Work {
            command: Command::Shell("true".into()),
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
    }
}

fn submitted(number: u64, spec: JobSpec) -> Change {
    let finished = vec![None; spec.terms.after.len()];
    let group_limit = spec.terms.group.as_ref().map(|group| group.limit.unwrap_or(1));
    Change::Submitted(Box::new(Submission { id: id(number), spec, finished, group_limit, submitter: "me".into() }))
}

fn event(number: u64, event: Event) -> Change {
    Change::Job { id: id(number), event }
}

fn limits() -> Limits {
    Limits { memory_bytes: Some(3 << 30), cpu_milli: Some(1_500), pids: Some(64) }
}

fn claimed(number: u64, attempt: u32) -> Change {
    let (attempt, epoch) = (AttemptNumber(attempt), Epoch::new("boot-1"));
    event(number, Event::Claimed { attempt, pool: PoolId(1), slot: 2, epoch, limits: limits() })
}

fn ended(number: u64, attempt: u32, code: u8, next: Next) -> Change {
    let result = AttemptResult::Exited { code };
    event(number, Event::Ended { attempt: AttemptNumber(attempt), result, next })
}

fn succeeded() -> Next {
    Next::Finish { outcome: Outcome::Succeeded }
}

/// Runs one test on each store.
fn check(test: impl Fn(&mut Subject)) {
    test(&mut Subject::memory());
    test(&mut Subject::sqlite());
}
