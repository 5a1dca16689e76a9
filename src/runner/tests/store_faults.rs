//! What the store on disk does when it is killed, damaged, full, or not alone.
//!
//! The child of the kill test is this program again: `child` is a test that does nothing unless it is told to by its
//! environment. `CI_RUNNER_TEST_CYCLES` sets how often it is killed (20 in the quick suite).

use ci_runner::store::sqlite::{SqliteReader, SqliteStore, restore};
use ci_runner::store::{JobFilter, Loaded, Reader as _, Store as _, StoreError, Write};
use ci_runner_core::change::{Change, Entry, OpenJob, Submission, Wish};
use ci_runner_core::id::{AttemptNumber, Epoch, JobId, PoolId};
use ci_runner_core::job::{Command, JobSpec, Terms, Work};
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
        },
    };
    let submission =
        Submission { id: id(number), spec, finished: Vec::new(), group_limit: None, submitter: "me".into() };
    entry(Change::Submitted(Box::new(submission)))
}

fn claim(number: u64) -> Write {
    let (attempt, epoch) = (AttemptNumber(1), Epoch::new("boot/life"));
    let slot = u32::try_from(number).expect("small");
    entry(Change::Job { id: id(number), event: Event::Claimed { attempt, pool: PoolId(0), slot, epoch } })
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

// ---- killed ----

/// Not a test: what the kill test starts.
#[test]
fn child() {
    let Ok(dir) = std::env::var("CI_RUNNER_STORE_CHILD") else { return };
    let early = std::env::var("CI_RUNNER_STORE_CHILD_EARLY").is_ok();
    let (mut store, _reader, loaded, _) = opened(Path::new(&dir)).expect("opens");
    let mut dice = Dice(loaded.generation * 7919 + 1);
    let mut next = loaded.last_id + 1;
    let mut out = std::io::stdout();
    for number in 0.. {
        // A batch of all kinds: jobs are submitted, the first is claimed and ends, the second stays claimed.
        let size = 2 + dice.below(7);
        let name = format!("{}/{number}/{size}", loaded.generation);
        let mut batch: Vec<Write> = (0..size).map(|job| submission(next + job, &name, &"x".repeat(900))).collect();
        batch.extend([claim(next), end(next), claim(next + 1)]);
        next += size;
        let commit = |store: &mut SqliteStore| store.commit(&batch, &pools()).expect("commits");
        if !early {
            commit(&mut store);
        }
        writeln!(out, "acknowledged {name}").and_then(|()| out.flush()).expect("somebody listens");
        if early {
            commit(&mut store);
        }
    }
}

/// A child that commits, killed when this is dropped, whatever becomes of the test.
struct Committer(Child);

impl Committer {
    fn start(dir: &Path, early: bool) -> Self {
        let mut command = std::process::Command::new(std::env::current_exe().expect("this program"));
        command.args(["--exact", "child", "--nocapture", "--test-threads=1"]).env("CI_RUNNER_STORE_CHILD", dir);
        if early {
            command.env("CI_RUNNER_STORE_CHILD_EARLY", "1");
        }
        Self(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("starts"))
    }

    /// Waits for so many acknowledgements, kills it, and tells all that it gave.
    fn kill_after(mut self, count: usize) -> Vec<String> {
        let lines = BufReader::new(self.0.stdout.take().expect("piped")).lines();
        let mut lines = lines.map(|line| line.expect("text")).filter(|line| line.starts_with("acknowledged "));
        let mut names: Vec<String> = lines.by_ref().take(count).collect();
        self.0.kill().expect("was running");
        names.extend(lines);
        names.into_iter().map(|line| line["acknowledged ".len()..].to_owned()).collect()
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn cycles() -> u64 {
    std::env::var("CI_RUNNER_TEST_CYCLES").ok().and_then(|cycles| cycles.parse().ok()).unwrap_or(20)
}

/// Kills a child once and tells which of its acknowledged batches are not there. Panics on a torn one.
fn lost_by_a_kill(dir: &Path, dice: &mut Dice, early: bool) -> Vec<String> {
    let count = usize::try_from(1 + dice.below(60)).expect("small");
    let acknowledged = Committer::start(dir, early).kill_after(count);
    assert!(acknowledged.len() >= count, "the child ended by itself");
    let (mut store, reader, loaded, open) = opened(dir).expect("opens after a kill");
    assert!(loaded.unclean, "a kill is told");
    let mut batches: BTreeMap<String, Vec<Phase>> = BTreeMap::new();
    for row in all(&reader) {
        batches.entry(row.spec.name.clone().expect("named")).or_default().push(row.phase);
    }
    for (name, phases) in &batches {
        let size = name.rsplit('/').next().and_then(|size| size.parse::<usize>().ok()).expect("a size");
        let mut whole = vec![Phase::Queued; size];
        (whole[0], whole[1]) = (Phase::Finished, Phase::Starting);
        assert_eq!(*phases, whole, "batch {name} is torn");
    }
    let jobs: usize = batches.values().map(Vec::len).sum();
    assert_eq!(open.len(), jobs - batches.len(), "one job of each batch is finished");
    assert_eq!(reader.check().expect("checks"), [""; 0]);
    // Leave nothing claimed, so that the places are free for the next child.
    let mut end_all = Vec::new();
    for job in open.iter().filter(|job| job.lease.is_some()) {
        end_all.push(entry(Change::Job { id: job.id, event: Event::Released { attempt: AttemptNumber(1) } }));
        end_all.push(entry(Change::Job { id: job.id, event: Event::Dropped { outcome: Outcome::Expired } }));
    }
    for job in open.iter().filter(|job| job.lease.is_none()) {
        end_all.push(entry(Change::Job { id: job.id, event: Event::Dropped { outcome: Outcome::Expired } }));
    }
    store.commit(&end_all, &pools()).expect("commits");
    let limits = ci_runner::store::CollectLimits { finished_before: WallTime(i64::MAX) };
    while !store.collect(&limits, 1_000).expect("collects").is_empty() {}
    acknowledged.into_iter().filter(|name| !batches.contains_key(name)).collect()
}

#[test]
fn a_kill_loses_no_acknowledged_batch_and_tears_none() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut dice = Dice(0x5eed);
    for cycle in 0..cycles() {
        assert_eq!(lost_by_a_kill(dir.path(), &mut dice, false), [""; 0], "cycle {cycle}");
    }
}

/// The control of the test above: who acknowledges before the commit is caught.
#[test]
fn acknowledging_before_the_commit_is_caught() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut dice = Dice(0xbad);
    let caught = (0..50).any(|_| !lost_by_a_kill(dir.path(), &mut dice, true).is_empty());
    assert!(caught, "50 kills and nothing lost: the kill test would not notice a lie");
}

// ---- damaged ----

/// A store as a power cut leaves it: the files as they are while the daemon runs.
struct Crashed {
    dir: tempfile::TempDir,
    jobs: Vec<JobId>,
}

impl Crashed {
    /// With `clean`, one that was closed in order.
    fn new(clean: bool) -> Self {
        let (live, dir) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
        let (mut store, _reader, ..) = opened(live.path()).expect("opens");
        let batch: Vec<Write> = (1..=200).map(|number| submission(number, "n", &format!("echo {number}"))).collect();
        store.commit(&batch, &pools()).expect("commits");
        store.commit(&(1..50).flat_map(|n| [claim(n), end(n)]).collect::<Vec<_>>(), &pools()).expect("commits");
        if clean {
            store.close(&ClockBase { boot_id: "b".into(), offset_ms: 0 }, at(9)).expect("closes");
        }
        let this = Self { dir, jobs: (50..=200).map(id).collect() };
        for name in ["lock", "queue.db", "queue.db-wal"] {
            fs::copy(live.path().join(name), this.dir.path().join(name)).expect("copies");
        }
        this
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Opens, loads and checks: the open jobs, or what is wrong.
    fn look(&self) -> Result<Vec<JobId>, StoreError> {
        let (_store, reader, _, open) = opened(self.dir.path())?;
        let found = reader.check()?;
        let found = if found.is_empty() { reader.jobs(&JobFilter::all(usize::MAX)).map(|_| found)? } else { found };
        match found.first() {
            None => Ok(open.into_iter().map(|job| job.id).collect()),
            Some(what) => Err(StoreError::Damaged { path: "found by the check".into(), what: what.clone() }),
        }
    }

    fn is_damaged(&self, expected: &str) {
        match self.look() {
            Err(StoreError::Damaged { path, what }) => {
                assert!(path.ends_with("queue.db"), "{path}");
                assert!(what.contains(expected), "{what:?} does not say {expected:?}");
            }
            other => panic!("expected damage, {expected:?}: {other:?}"),
        }
    }

    fn overwrite(&self, name: &str, from: u64, bytes: &[u8]) {
        let mut file = fs::OpenOptions::new().write(true).open(self.path(name)).expect("opens");
        file.seek(SeekFrom::Start(from)).expect("seeks");
        file.write_all(bytes).expect("writes");
    }

    fn cut(&self, name: &str, length: u64) {
        fs::OpenOptions::new().write(true).open(self.path(name)).expect("opens").set_len(length).expect("cuts");
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.path(name)).expect("removes");
    }

    fn length(&self, name: &str) -> u64 {
        fs::metadata(self.path(name)).expect("is there").len()
    }
}

#[test]
fn without_damage_everything_is_there() {
    for clean in [false, true] {
        let store = Crashed::new(clean);
        assert_eq!(store.look().expect("is whole"), store.jobs);
    }
    // A clean end has moved everything out of the log.
    let store = Crashed::new(true);
    store.remove("queue.db-wal");
    assert_eq!(store.look().expect("is whole"), store.jobs);
}

#[test]
fn missing_files_are_damage_and_never_an_empty_queue() {
    let store = Crashed::new(false);
    store.remove("queue.db-wal");
    store.is_damaged("its write-ahead log is missing");
    store.cut("queue.db", 0);
    store.is_damaged("no content");

    let store = Crashed::new(false);
    store.cut("queue.db-wal", 0);
    store.is_damaged("its write-ahead log is missing");

    let store = Crashed::new(false);
    store.cut("queue.db", 0);
    store.is_damaged("no content");
    store.remove("queue.db");
    store.is_damaged("its write-ahead log is still there");
    store.remove("queue.db-wal");
    store.is_damaged("it is missing, and store");
    store.remove("lock");
    assert_eq!(store.look().expect("a new beginning, on purpose"), []);
}

#[test]
fn garbage_and_short_files_are_damage() {
    let store = Crashed::new(false);
    store.overwrite("queue.db", 0, &[0x5a; 100]);
    store.is_damaged("not a database");

    let store = Crashed::new(false);
    store.overwrite("queue.db-wal", 3, &[0x5a; 9]);
    store.is_damaged("the header of its write-ahead log");

    for share in [1, 2, 3] {
        let store = Crashed::new(true);
        let length = store.length("queue.db");
        store.remove("queue.db-wal");
        store.cut("queue.db", length * share / 4);
        store.is_damaged("malformed");
    }
}

#[test]
fn another_database_is_damage_and_a_newer_one_is_told() {
    let store = Crashed::new(true);
    store.remove("queue.db-wal");
    let other = rusqlite::Connection::open(store.path("other.db")).expect("opens");
    other.execute_batch("CREATE TABLE t (x)").expect("works");
    drop(other);
    fs::rename(store.path("other.db"), store.path("queue.db")).expect("renames");
    store.is_damaged("not a database of ci-runner");

    let store = Crashed::new(true);
    let newer = rusqlite::Connection::open(store.path("queue.db")).expect("opens");
    newer.pragma_update(None, "user_version", 99).expect("works");
    drop(newer);
    let found = store.look();
    assert!(matches!(found, Err(StoreError::Newer { found: 99, known: 1, .. })), "{found:?}");
}

/// Whatever is damaged: an error, a finding of the check, or every job is there. Never fewer.
fn never_fewer(store: &Crashed, what: &str) -> bool {
    match store.look() {
        Ok(jobs) => {
            assert_eq!(jobs, store.jobs, "{what}: jobs were lost in silence");
            false
        }
        Err(StoreError::Damaged { .. } | StoreError::Row { .. } | StoreError::Newer { .. }) => true,
        Err(other) => panic!("{what}: damage is not told as such: {other:?}"),
    }
}

#[test]
fn damaged_pages_never_make_fewer_jobs() {
    let whole = Crashed::new(true);
    whole.remove("queue.db-wal");
    let pages = whole.length("queue.db") / 4096;
    let mut noticed = 0;
    for page in 0..pages {
        let store = Crashed { dir: tempfile::tempdir().expect("a directory"), jobs: whole.jobs.clone() };
        for name in ["queue.db", "lock"] {
            fs::copy(whole.path(name), store.path(name)).expect("copies");
        }
        // The first page begins with the file's own header, which another test damages.
        let header = if page == 0 { 100 } else { 0 };
        store.overwrite("queue.db", page * 4096 + header, &[0x5a; 3_000]);
        noticed += u64::from(never_fewer(&store, &format!("page {page}")));
    }
    assert!(noticed * 10 >= pages * 9, "only {noticed} of {pages} damaged pages were noticed");
}

#[test]
fn turned_bits_never_make_fewer_jobs_nor_other_commands() {
    let whole = Crashed::new(true);
    whole.remove("queue.db-wal");
    let bytes = fs::read(whole.path("queue.db")).expect("reads");
    let mut dice = Dice(77);
    for _ in 0..cycles() * 10 {
        let store = Crashed { dir: tempfile::tempdir().expect("a directory"), jobs: whole.jobs.clone() };
        fs::copy(whole.path("lock"), store.path("lock")).expect("copies");
        let mut bytes = bytes.clone();
        let byte = usize::try_from(dice.below(bytes.len() as u64)).expect("small");
        bytes[byte] ^= 1 << dice.below(8);
        fs::write(store.path("queue.db"), &bytes).expect("writes");
        never_fewer(&store, &format!("byte {byte}"));
        let Ok((mut store, ..)) = opened(store.dir.path()) else { continue };
        for number in 50..=200u64 {
            if let Ok(Some(claimed)) = store.claimed(id(number)) {
                assert_eq!(claimed.spec.work.command, Command::Shell(format!("echo {number}")), "byte {byte}");
            }
        }
    }
}

// ---- not alone, not allowed ----

#[test]
fn a_second_daemon_is_told_who_holds_the_state() {
    let dir = tempfile::tempdir().expect("a directory");
    let state = dir.path().join("a/state");
    let first = SqliteStore::open(&state).expect("opens");
    let second = SqliteStore::open(&state).err().expect("refused");
    let pid = std::process::id().to_string();
    assert!(matches!(&second, StoreError::Held { pid: holder, .. } if *holder == pid), "{second:?}");
    assert!(second.to_string().contains(&pid), "{second}");
    for (path, mode) in [(state.clone(), 0o700), (state.join("queue.db"), 0o600), (state.join("lock"), 0o600)] {
        assert_eq!(fs::metadata(&path).expect("is there").permissions().mode() & 0o777, mode, "{}", path.display());
    }
    drop(first);
    SqliteStore::open(&state).expect("is free again");
}

#[test]
fn what_cannot_be_a_state_directory_is_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("file");
    fs::write(&file, "x").expect("writes");
    for path in [file.clone(), file.join("below")] {
        let refused = SqliteStore::open(&path).err().expect("refused");
        assert!(matches!(&refused, StoreError::Io { path: named, .. } if named.contains("file")), "{refused:?}");
    }
    fs::create_dir(dir.path().join("state")).expect("makes");
    std::os::unix::fs::symlink(&file, dir.path().join("state/lock")).expect("links");
    let refused = SqliteStore::open(&dir.path().join("state")).err().expect("refused");
    assert!(
        matches!(&refused, StoreError::Io { doing: "open", .. }),
        "a lock that is a link is not followed: {refused:?}"
    );
}

// ---- full ----

/// A small file system, unmounted when dropped.
struct Mount(tempfile::TempDir);

impl Mount {
    /// None where mounting is not allowed, which is printed.
    fn new(test: &str, arguments: &[&str]) -> Option<Self> {
        let dir = tempfile::tempdir().expect("a directory");
        let mounted =
            std::process::Command::new("mount").args(arguments).arg(dir.path()).stderr(Stdio::null()).status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(Self(dir));
        }
        println!("skipped: {test} (`mount {}` is not permitted here)", arguments.join(" "));
        None
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("state")
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(self.0.path()).status();
    }
}

fn survives_a_full_disk(mount: &Mount) {
    let (mut store, reader, ..) = opened(&mount.path()).expect("opens");
    let ballast = mount.path().join("ballast");
    fs::write(&ballast, vec![1; 12 << 20]).expect("writes");
    let batch = |from: u64| -> Vec<Write> {
        (from..from + 50).map(|number| submission(number, "n", &"x".repeat(4_000))).collect()
    };
    let (mut next, mut full) = (1, None);
    while full.is_none() && next < 10_000 {
        match store.commit(&batch(next), &pools()) {
            Ok(()) => next += 50,
            Err(error) => full = Some(error),
        }
    }
    assert!(matches!(full, Some(StoreError::Full)), "{full:?}");
    for _ in 0..3 {
        let again = store.commit(&batch(next), &pools());
        assert!(matches!(again, Err(StoreError::Full)), "still full: {again:?}");
    }
    let mut open = 0;
    store.reread(&mut |_| PoolId(0), &mut |_| open += 1).expect("reads while full");
    assert_eq!(open, next - 1, "whole batches only");
    assert_eq!(all(&reader).len() as u64, next - 1);
    fs::remove_file(&ballast).expect("removes");
    store.commit(&batch(next), &pools()).expect("commits again");
    assert_eq!(reader.check().expect("checks"), [""; 0]);
    drop((store, reader));
    let (_store, _reader, _, open) = opened(&mount.path()).expect("opens");
    assert_eq!(open.len() as u64, next + 49);
}

#[test]
fn a_full_disk_refuses_whole_batches_until_there_is_space() {
    if let Some(mount) = Mount::new("full tmpfs", &["-t", "tmpfs", "-o", "size=24m", "tmpfs"]) {
        survives_a_full_disk(&mount);
    }
    let dir = tempfile::tempdir().expect("a directory");
    let image = dir.path().join("image");
    fs::File::create(&image).and_then(|file| file.set_len(32 << 20)).expect("makes");
    let made = std::process::Command::new("mke2fs").args(["-qFt", "ext4", "-m", "0"]).arg(&image).status();
    if !made.is_ok_and(|status| status.success()) {
        println!("skipped: full ext4 (no mke2fs)");
        return;
    }
    if let Some(mount) = Mount::new("full ext4", &["-o", "loop", &image.display().to_string()]) {
        survives_a_full_disk(&mount);
    }
}

#[test]
fn a_read_only_disk_is_named() {
    let Some(mount) = Mount::new("read-only disk", &["-t", "tmpfs", "-o", "size=8m", "tmpfs"]) else { return };
    drop(SqliteStore::open(&mount.path()).expect("opens"));
    let again = std::process::Command::new("mount").args(["-o", "remount,ro"]).arg(mount.0.path()).status();
    assert!(again.is_ok_and(|status| status.success()));
    let refused = SqliteStore::open(&mount.path()).err().expect("refused");
    assert!(matches!(&refused, StoreError::Io { .. }), "{refused:?}");
}

// ---- backup and restore ----

#[test]
fn a_backup_is_one_moment_and_refuses_to_overwrite() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut store, reader, ..) = opened(&dir.path().join("state")).expect("opens");
    let to = dir.path().join("copy.db");
    // Pairs are committed together while the backup runs: it must never hold half a pair.
    std::thread::scope(|scope| {
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let writer = scope.spawn(move || {
            let mut pairs = 0;
            while stopped.try_recv().is_err() {
                let first = pairs * 2 + 1;
                let batch = [submission(first, "n", "true"), submission(first + 1, "n", "true")];
                store.commit(&batch, &pools()).expect("commits");
                pairs += 1;
            }
            pairs
        });
        for _ in 0..5 {
            reader.backup(&to).expect("backs up");
            assert_eq!(fs::metadata(&to).expect("is there").permissions().mode() & 0o777, 0o600);
            let copy = rusqlite::Connection::open(&to).expect("opens");
            let jobs: i64 = copy.query_row("SELECT count(*) FROM jobs", [], |row| row.get(0)).expect("counts");
            assert_eq!(jobs % 2, 0, "half a commit");
            drop(copy);
            let refused = reader.backup(&to);
            assert!(matches!(&refused, Err(StoreError::Io { .. })), "{refused:?}");
            fs::remove_file(&to).expect("removes");
        }
        stop.send(()).expect("listens");
        assert!(writer.join().expect("no panic") > 0);
    });
    let left: Vec<_> =
        fs::read_dir(dir.path()).expect("reads").map(|entry| entry.expect("entry").file_name()).collect();
    assert_eq!(left, ["state"], "nothing else is left behind");
}

#[test]
fn a_restored_store_holds_what_was_open() {
    let dir = tempfile::tempdir().expect("a directory");
    let (state, copy) = (dir.path().join("state"), dir.path().join("copy.db"));
    let (mut store, reader, first, _) = opened(&state).expect("opens");
    let batch: Vec<Write> = (1..=6).map(|number| submission(number, "n", "true")).collect();
    store.commit(&batch, &pools()).expect("commits");
    let stop = Event::StopRequested { attempt: AttemptNumber(1), by: By::User("me".into()), kill_at: Instant(9) };
    let held = Wish::Hold { by: "me".into(), reason: "later".into() };
    let more = [
        claim(1),
        end(1),
        claim(2),
        claim(3),
        entry(Change::Job { id: id(3), event: stop }),
        entry(Change::Wished { id: id(4), wish: held }),
        entry(Change::Wished { id: id(5), wish: Wish::Cancel { by: By::User("me".into()) } }),
    ];
    store.commit(&more, &pools()).expect("commits");
    reader.backup(&copy).expect("backs up");
    store.commit(&[submission(7, "n", "true"), end(2)], &pools()).expect("commits");
    let refused = restore(&copy, &state);
    assert!(matches!(&refused, Err(StoreError::Held { .. })), "a daemon runs: {refused:?}");
    drop((store, reader));

    let report = restore(&copy, &state).expect("restores");
    assert_eq!((report.held, report.lost, report.finished), (2, 2, 1), "{report:?}");
    let replaced = report.replaced.expect("there was one");
    assert!(replaced.starts_with(&state) && replaced.exists(), "{}", replaced.display());
    let (_store, reader, loaded, open) = opened(&state).expect("opens");
    assert_eq!(reader.check().expect("checks"), [""; 0]);
    assert_ne!(loaded.store_id, first.store_id, "nothing of the other life is adopted");
    assert_eq!((loaded.store_id, loaded.unclean), (report.store_id, false));
    assert_eq!(loaded.last_id, 7, "an id that was printed is never given again");
    assert!(loaded.generation > first.generation);
    assert!(open.iter().all(|job| job.lease.is_none() && job.wish != Wish::Run), "{open:?}");
    assert_eq!(open.iter().map(|job| job.id.get()).collect::<Vec<_>>(), [2, 3, 4, 5, 6]);
    let lost = reader.attempts(id(2)).expect("reads");
    assert_eq!(lost[0].result, Some(AttemptResult::Lost { cause: LostCause::Host }));
    assert_eq!(open[1].wish, Wish::Cancel { by: By::User("me".into()) }, "was being stopped");
    let held = reader.job(id(4)).expect("reads").expect("is there").held;
    assert_eq!(held, Some(("me".into(), "later".into())), "a hold of a person stays theirs");
    let held = reader.job(id(6)).expect("reads").expect("is there").held.expect("held");
    assert!(held.0 == "restore" && held.1.contains(&first.store_id), "{held:?}");
}

#[test]
fn only_a_whole_backup_of_a_known_version_is_restored() {
    let store = Crashed::new(false);
    let before = fs::read(store.path("queue.db")).expect("reads");
    let (good, bad) = (store.path("good.db"), store.path("bad.db"));
    {
        let (_held, reader, ..) = opened(store.dir.path()).expect("opens");
        reader.backup(&good).expect("backs up");
    }
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = fs::read(&good).expect("reads");
        change(&mut bytes);
        fs::write(&bad, bytes).expect("writes");
        restore(&bad, store.dir.path()).expect_err("refused")
    };
    let short = changed(&|bytes| bytes.truncate(bytes.len() / 2));
    assert!(matches!(&short, StoreError::Damaged { path, .. } if path.ends_with("bad.db")), "{short:?}");
    let garbage = changed(&|bytes| bytes[4096..8192].fill(0x5a));
    assert!(matches!(&garbage, StoreError::Damaged { path, .. } if path.ends_with("bad.db")), "{garbage:?}");
    let other = changed(&|bytes| bytes[68..72].fill(7));
    assert!(matches!(&other, StoreError::Damaged { .. }), "{other:?}");
    let newer = changed(&|bytes| bytes[60..64].copy_from_slice(&99u32.to_be_bytes()));
    assert!(matches!(&newer, StoreError::Newer { found: 99, .. }), "{newer:?}");
    let missing = restore(&store.path("nothing.db"), store.dir.path()).expect_err("refused");
    assert!(matches!(&missing, StoreError::Io { .. }), "{missing:?}");
    fs::write(&bad, &before).expect("writes");
    let torn = restore(&bad, store.dir.path()).expect_err("refused");
    assert!(torn.to_string().contains("without its write-ahead log"), "{torn}");
    assert_eq!(store.look().expect("untouched by all that"), store.jobs);
    let mut reread = Vec::new();
    fs::File::open(&good).and_then(|mut file| file.read_to_end(&mut reread)).expect("reads");
    restore(&good, store.dir.path()).expect("restores");
    assert_eq!(fs::read(&good).expect("reads"), reread, "the backup itself is not changed");
    assert_eq!(store.look().expect("whole"), store.jobs);
}
