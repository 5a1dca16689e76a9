//! Backup and restore.

use super::*;
use crate::damage::Crashed;
use ci_runner::store::{BackupFile, FormerStore};

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
            reader.backup(&to, &[]).expect("backs up");
            assert_eq!(fs::metadata(&to).expect("is there").permissions().mode() & 0o777, 0o600);
            let copy = rusqlite::Connection::open(&to).expect("opens");
            let jobs: i64 = copy.query_row("SELECT count(*) FROM jobs", [], |row| row.get(0)).expect("counts");
            assert_eq!(jobs % 2, 0, "half a commit");
            drop(copy);
            let refused = reader.backup(&to, &[]);
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

fn schedule(name: &str, paused: Option<&str>) -> Write {
    Write::Schedule(ScheduleRow {
        name: name.into(),
        calendar: "@daily".into(),
        timezone: "UTC".into(),
        overlap: "skip".into(),
        missed: "skip".into(),
        request: "{}".into(),
        by: "me".into(),
        paused: paused.map(str::to_owned),
        after: WallTime(0),
        last_job: None,
        timed_job: None,
        refused: None,
    })
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
    store.commit(&[schedule("nightly", None), schedule("paused", Some("me"))], &pools()).expect("commits");
    reader.backup(&copy, &[]).expect("backs up");
    store.commit(&[submission(7, "n", "true"), end(2)], &pools()).expect("commits");
    let refused = restore(&copy, &state, JobFiles::default());
    assert!(matches!(&refused, Err(StoreError::Held { .. })), "a daemon runs: {refused:?}");
    drop((store, reader));

    let report = restore(&copy, &state, JobFiles::default()).expect("restores");
    assert_eq!((report.held, report.lost, report.finished), (3, 2, 1), "all that is held, by whomever: {report:?}");
    assert_eq!(report.paused, 1, "the other one was: {report:?}");
    let replaced = report.replaced.expect("there was one");
    assert!(replaced.starts_with(&state) && replaced.exists(), "{}", replaced.display());
    let (store, reader, loaded, open) = opened(&state).expect("opens");
    assert_eq!(reader.check().expect("checks"), [""; 0]);
    assert_ne!(loaded.store_id, first.store_id, "nothing of the other life is adopted");
    assert_eq!((&loaded.store_id, loaded.unclean), (&report.store_id, false));
    assert_eq!(loaded.last_id, 7, "an id that was printed is never given again");
    let former = |store: &str, last_id, skipped_to| FormerStore { store_id: store.to_owned(), last_id, skipped_to };
    assert_eq!(
        loaded.former,
        [former(&first.store_id, 6, 7)],
        "what the backup did not know was queued in another life"
    );
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
    let paused: Vec<_> = reader.schedules().expect("reads").into_iter().filter_map(|row| row.paused).collect();
    assert!(paused[0].contains("restored from a backup") && paused[1] == "me", "{paused:?}");

    // Restored again, twice from the same: who gave which id is still known.
    let again = dir.path().join("again.db");
    reader.backup(&again, &[]).expect("backs up");
    drop((store, reader));
    for _ in 0..2 {
        restore(&again, &state, JobFiles::default()).expect("restores");
    }
    let (_store, _reader, last, _) = opened(&state).expect("opens");
    assert_eq!(last.former, [former(&first.store_id, 6, 7), former(&loaded.store_id, 7, 7)]);
}

#[test]
fn only_a_whole_backup_of_a_known_version_is_restored() {
    let store = Crashed::new(false);
    let before = fs::read(store.path("queue.db")).expect("reads");
    let (good, bad) = (store.path("good.db"), store.path("bad.db"));
    {
        let (_held, reader, ..) = opened(store.dir.path()).expect("opens");
        reader.backup(&good, &[]).expect("backs up");
    }
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = fs::read(&good).expect("reads");
        change(&mut bytes);
        fs::write(&bad, bytes).expect("writes");
        restore(&bad, store.dir.path(), JobFiles::default()).expect_err("refused")
    };
    let short = changed(&|bytes| bytes.truncate(bytes.len() / 2));
    assert!(matches!(&short, StoreError::Damaged { path, .. } if path.ends_with("bad.db")), "{short:?}");
    let garbage = changed(&|bytes| bytes[4096..8192].fill(0x5a));
    assert!(matches!(&garbage, StoreError::Damaged { path, .. } if path.ends_with("bad.db")), "{garbage:?}");
    let other = changed(&|bytes| bytes[68..72].fill(7));
    assert!(matches!(&other, StoreError::Damaged { .. }), "{other:?}");
    let newer = changed(&|bytes| bytes[60..64].copy_from_slice(&99u32.to_be_bytes()));
    assert!(matches!(&newer, StoreError::Newer { found: 99, .. }), "{newer:?}");
    let missing = restore(&store.path("nothing.db"), store.dir.path(), JobFiles::default()).expect_err("refused");
    assert!(matches!(&missing, StoreError::Io { .. }), "{missing:?}");
    fs::write(&bad, &before).expect("writes");
    let torn = restore(&bad, store.dir.path(), JobFiles::default()).expect_err("refused");
    assert!(torn.to_string().contains("without its write-ahead log"), "{torn}");
    assert_eq!(store.look().expect("untouched by all that"), store.jobs);
    let mut reread = Vec::new();
    fs::File::open(&good).and_then(|mut file| file.read_to_end(&mut reread)).expect("reads");
    restore(&good, store.dir.path(), JobFiles::default()).expect("restores");
    assert_eq!(fs::read(&good).expect("reads"), reread, "the backup itself is not changed");
    assert_eq!(store.look().expect("whole"), store.jobs);
}

#[test]
fn a_backup_holds_the_configuration_and_gives_it_back_beside_the_store() {
    let store = Crashed::new(false);
    let (good, evil) = (store.path("good.db"), store.path("evil.db"));
    let config = BackupFile { name: "config.toml".to_owned(), content: b"retry_attempts = 7\n".to_vec() };
    let outside = BackupFile { name: "../config.toml".to_owned(), ..config.clone() };
    {
        let (_held, reader, ..) = opened(store.dir.path()).expect("opens");
        reader.backup(&good, std::slice::from_ref(&config)).expect("backs up");
        reader.backup(&evil, &[outside]).expect("backs up");
    }
    let refused = restore(&evil, store.dir.path(), JobFiles::default()).expect_err("refused");
    assert!(refused.to_string().contains("../config.toml"), "{refused}");
    assert!(!store.path("config.toml").exists());
    assert_eq!(store.look().expect("untouched by that"), store.jobs);
    let report = restore(&good, store.dir.path(), JobFiles::default()).expect("restores");
    assert_eq!(report.files, [store.path("restored/config.toml")]);
    assert_eq!(fs::read(&report.files[0]).expect("reads"), config.content);
    let (_held, reader, ..) = opened(store.dir.path()).expect("opens");
    assert_eq!(reader.check().expect("checks"), [""; 0]);
    reader.backup(&store.path("again.db"), &[config]).expect("the table of files did not stay");
}

/// Whoever owns the state directory can put links where a restore writes.
#[test]
fn a_restore_writes_through_no_link() {
    let store = Crashed::new(false);
    let good = store.path("good.db");
    let config = BackupFile { name: "config.toml".to_owned(), content: b"retry_attempts = 7\n".to_vec() };
    {
        let (_held, reader, ..) = opened(store.dir.path()).expect("opens");
        reader.backup(&good, std::slice::from_ref(&config)).expect("backs up");
    }
    let (outside, inside) = (tempfile::tempdir().expect("a directory"), store.path("restored"));
    let others = outside.path().join("config.toml");
    fs::write(&others, "another's").expect("writes");
    std::os::unix::fs::symlink(outside.path(), &inside).expect("links");
    let refused = restore(&good, store.dir.path(), JobFiles::default()).expect_err("the directory is a link");
    assert!(matches!(&refused, StoreError::Io { path, .. } if path.ends_with("restored")), "{refused:?}");
    assert_eq!(store.look().expect("untouched by that"), store.jobs);
    fs::remove_file(&inside).expect("removes");
    fs::create_dir(&inside).expect("makes");
    std::os::unix::fs::symlink(&others, inside.join("config.toml")).expect("links");
    for _ in 0..2 {
        let report = restore(&good, store.dir.path(), JobFiles::default()).expect("restores");
        assert!(report.files[0].symlink_metadata().expect("is there").is_file(), "the link is replaced");
        assert_eq!(fs::read(&report.files[0]).expect("reads"), config.content);
    }
    assert_eq!(fs::read(&others).expect("reads"), b"another's");
}

/// The daemon's user could have a file of root's written, and could not open what root left.
#[test]
fn root_restores_into_no_directory_of_another_user() {
    if !rustix::process::geteuid().is_root() {
        return skipped::tell("root_restores_into_no_directory_of_another_user", "needs root");
    }
    let store = Crashed::new(false);
    let copies = tempfile::tempdir().expect("a directory");
    let good = copies.path().join("good.db");
    {
        let (_held, reader, ..) = opened(store.dir.path()).expect("opens");
        reader.backup(&good, &[]).expect("backs up");
    }
    let home = tempfile::tempdir().expect("a directory");
    let names = || fs::read_dir(home.path()).expect("reads").count();
    std::os::unix::fs::chown(home.path(), Some(65_534), Some(65_534)).expect("gives away");
    for state in [home.path().to_owned(), home.path().join("still/to/be/made")] {
        let refused = restore(&good, &state, JobFiles::default()).expect_err("refused");
        assert!(matches!(&refused, StoreError::Anothers { uid: 65_534, .. }), "{refused:?}");
        assert_eq!(names(), 0, "nothing is made there");
    }
    std::os::unix::fs::chown(home.path(), Some(0), Some(0)).expect("takes back");
    restore(&good, home.path(), JobFiles::default()).expect("the control: root's own");
}

/// A restored store in whose life nothing was queued, and after which others gave ids: they are not its own.
#[test]
fn ids_given_after_an_idle_life_are_nobodys() {
    let dir = tempfile::tempdir().expect("a directory");
    let (state, path) = (dir.path().join("state"), |name: &str| dir.path().join(name));
    let logs = state.join("logs");
    let logs_dirs = [logs.as_path()];
    let files = JobFiles { logs: &logs_dirs, secrets: None };
    let live = |first: u64, last: u64, backup: &str| {
        let (mut store, reader, ..) = opened(&state).expect("opens");
        let batch: Vec<Write> = (first..=last).map(|number| submission(number, "n", "true")).collect();
        store.commit(&batch, &pools()).expect("commits");
        reader.backup(&path(backup), &[]).expect("backs up");
    };
    live(1, 1, "b0");
    restore(&path("b0"), &state, files).expect("restores");
    live(2, 1, "b1");
    live(2, 3, "b2");
    fs::create_dir_all(logs.join("0")).expect("makes");
    for backup in ["b1", "b2"] {
        let report = restore(&path(backup), &state, files).expect("restores");
        assert!(report.others.is_empty(), "{backup}: it is one line");
    }
    assert!(logs.join("0").is_dir());
}
