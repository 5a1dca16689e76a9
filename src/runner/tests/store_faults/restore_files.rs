//! What a restore moves: files of jobs and the database; and a restore that was cut short in the middle of it.

use super::*;
use crate::damage::Crashed;

const NOW: &str = "20261122T000000000Z";

/// A store that was killed, with a backup of another of the same line, and secrets of jobs.
struct Scene {
    store: Crashed,
    backup: PathBuf,
    secrets: PathBuf,
    logs: PathBuf,
}

impl Scene {
    fn new() -> Self {
        let store = Crashed::new(false);
        let (backup, secrets, logs) = (store.path("good.db"), store.path("secrets"), store.path("logs"));
        for (dir, name) in [(&secrets, "60"), (&logs, "0")] {
            fs::create_dir(dir).expect("makes");
            fs::write(dir.join(name), name).expect("writes");
        }
        let copy = tempfile::tempdir().expect("a directory");
        for name in ["lock", "queue.db", "queue.db-wal"] {
            fs::copy(store.path(name), copy.path().join(name)).expect("copies");
        }
        let (_held, reader, ..) = opened(copy.path()).expect("opens");
        reader.backup(&backup, &[]).expect("backs up");
        Self { store, backup, secrets, logs }
    }

    fn restore(&self) -> ci_runner::store::sqlite::RestoreReport {
        let logs = [self.logs.as_path()];
        let files = JobFiles { logs: &logs, secrets: Some(&self.secrets) };
        restore(&self.backup, self.store.dir.path(), files).expect("restores")
    }

    /// As the restore that was cut short had written it.
    fn pending(&self, store_id: &str) {
        let (secrets, logs) = (self.secrets.to_str().expect("text"), self.logs.to_str().expect("text"));
        let text = format!("{store_id}\0{NOW}\0{secrets}\0{logs}\0");
        fs::write(self.store.path("restore.pending"), text).expect("writes");
    }

    /// The first so many moves of a restore of a backup that means other jobs.
    fn moved(&self, steps: usize) {
        let aside = |dir: &Path, name: &str| (dir.join(name), dir.join(format!("replaced-{NOW}")).join(name));
        let kept = format!("queue.db.replaced-{NOW}");
        let moves = [
            aside(&self.secrets, "60"),
            aside(&self.logs, "0"),
            (self.store.path("queue.db"), self.store.path(&kept)),
            (self.store.path("queue.db-wal"), self.store.path(&format!("{kept}-wal"))),
        ];
        for (from, to) in moves.iter().take(steps) {
            fs::create_dir_all(to.parent().expect("has one")).expect("makes");
            fs::rename(from, to).expect("moves");
        }
    }

    fn is_as_before(&self) {
        assert_eq!(self.store.look().expect("the old store, whole"), self.store.jobs);
        for path in [self.secrets.join("60"), self.logs.join("0")] {
            assert!(path.exists(), "{} is where it was", path.display());
        }
        for dir in [&self.secrets, &self.logs] {
            assert_eq!(fs::read_dir(dir).expect("reads").count(), 1, "nothing else is in {}", dir.display());
        }
        assert!(!self.store.path("restore.pending").exists());
    }
}

/// It left the old store in place without its logs and secrets, or under its dated name without its write-ahead log.
#[test]
fn a_restore_cut_short_before_the_new_store_is_undone_by_the_next_daemon() {
    for steps in 0..=4 {
        let scene = Scene::new();
        scene.pending("another1");
        scene.moved(steps);
        scene.is_as_before();
    }
    let scene = Scene::new();
    scene.moved(4);
    scene.store.look().expect_err("the control: without the note it is not found");
}

/// It took what it knew from the database without its write-ahead log: ids were given again.
#[test]
fn a_restore_that_is_said_again_knows_all_that_the_old_store_gave() {
    for steps in 0..=4 {
        let scene = Scene::new();
        scene.pending("another1");
        scene.moved(steps);
        let report = scene.restore();
        assert!(report.others.is_empty(), "after {steps} steps: it is one line: {report:?}");
        assert!(scene.logs.join("0").exists() && scene.secrets.join("60").exists(), "after {steps} steps");
        let (_store, _reader, loaded, _) = opened(scene.store.dir.path()).expect("opens");
        assert_eq!(loaded.last_id, 200, "after {steps} steps");
    }
}

#[test]
fn a_restore_cut_short_behind_the_new_store_is_finished_by_the_next_daemon() {
    let scene = Scene::new();
    let lock = fs::read_to_string(scene.store.path("lock")).expect("reads");
    let report = scene.restore();
    scene.pending(&report.store_id);
    fs::write(scene.store.path("lock"), lock).expect("writes");
    let aside = scene.secrets.join(format!("replaced-{NOW}"));
    fs::create_dir(&aside).expect("makes");
    fs::rename(scene.secrets.join("60"), aside.join("60")).expect("moves");
    let copy = rusqlite::Connection::open(&scene.backup).expect("opens");
    let line: String =
        copy.query_row("SELECT store_id || ' ' || last_id FROM meta", [], |row| row.get(0)).expect("reads");
    fs::write(aside.join("stores"), line).expect("writes");
    scene.is_as_before();
}

/// The lock still named the store that was replaced: the restored one, of another host, was refused as that host's.
#[test]
fn a_restore_of_another_hosts_store_cut_short_at_its_end_is_finished_by_the_next_daemon() {
    let (scene, other) = (Scene::new(), Scene::new());
    let state = scene.store.dir.path();
    let lock = fs::read(scene.store.path("lock")).expect("reads");
    let report = restore(&other.backup, state, JobFiles::default()).expect("restores");
    fs::write(scene.store.path("lock"), lock).expect("writes");
    let refused = opened(state).err().expect("the control: without the note it is another's");
    assert!(matches!(&refused, StoreError::Foreign { .. }), "{refused:?}");
    scene.pending(&report.store_id);
    opened(state).expect("it is finished");
    assert!(!scene.store.path("restore.pending").exists());
    opened(state).expect("and stays the store that is here");
}

/// The first start removes secrets of jobs that it does not know; the next backup may know them.
#[test]
fn secrets_of_jobs_that_are_not_open_in_the_backup_wait_for_one_where_they_are() {
    let scene = Scene::new();
    let state = scene.store.dir.path();
    fs::write(scene.secrets.join("201"), "201").expect("writes");
    let newer = scene.store.path("newer.db");
    {
        let (mut store, reader, ..) = opened(state).expect("opens");
        store.commit(&[submission(201, "n", "true")], &pools()).expect("commits");
        reader.backup(&newer, &[]).expect("backs up");
    }
    let report = scene.restore();
    let later = report.later_secrets.expect("not open in it");
    assert!(later.join("201").exists() && !scene.secrets.join("201").exists());
    assert!(scene.secrets.join("60").exists(), "the control: open in it");
    drop(opened(state).expect("opens"));
    let files = JobFiles { logs: &[], secrets: Some(&scene.secrets) };
    let report = restore(&newer, state, files).expect("restores");
    assert_eq!((report.secrets_back, report.later_secrets), (1, None));
    assert_eq!(fs::read(scene.secrets.join("201")).expect("is back"), b"201");
    assert!(!later.exists(), "and nothing is left of the other place");
}

/// Logs and secrets are named by ids, and those of another host's store are other jobs'.
#[test]
fn a_database_of_another_host_that_was_copied_in_is_refused() {
    let (scene, other) = (Scene::new(), Scene::new());
    let (db, lock) = (scene.store.path("queue.db"), fs::read(scene.store.path("lock")).expect("reads"));
    // An older copy of its own, and one that came of it.
    scene.is_as_before();
    scene.restore();
    let restored = fs::read(&db).expect("reads");
    drop(opened(scene.store.dir.path()).expect("opens"));
    fs::write(&db, restored).expect("writes");
    fs::remove_file(scene.store.path("queue.db-wal")).expect("removes");
    fs::write(scene.store.path("lock"), &lock).expect("writes");
    opened(scene.store.dir.path()).expect("the control: it comes of the store that was here");

    fs::remove_file(scene.store.path("queue.db-wal")).expect("removes");
    for name in ["queue.db", "queue.db-wal"] {
        fs::copy(other.store.path(name), scene.store.path(name)).expect("copies");
    }
    let refused = scene.store.look().expect_err("refused");
    assert!(matches!(&refused, StoreError::Foreign { .. }), "{refused:?}");
    assert!(refused.to_string().contains("ci-runner restore"), "{refused}");
    fs::remove_file(scene.store.path("lock")).expect("removes");
    scene.store.look().expect("the control: nothing says that another was here");
}

/// A backup that was killed left its copy, and one at the same time has its own.
#[test]
fn backups_are_in_nobodys_way() {
    let scene = Scene::new();
    let (_held, reader, ..) = opened(scene.store.dir.path()).expect("opens");
    let dir = tempfile::tempdir().expect("a directory");
    let (to, stale) = (dir.path().join("copy.db"), dir.path().join("copy.db.partial"));
    fs::write(&stale, "of one that was killed").expect("writes");
    let made = std::thread::scope(|scope| {
        let backups: Vec<_> = (0..4).map(|_| scope.spawn(|| reader.backup(&to, &[]))).collect();
        backups.into_iter().map(|backup| backup.join().expect("no panic")).filter(Result::is_ok).count()
    });
    assert_eq!(made, 1, "one takes the name");
    let copy = rusqlite::Connection::open(&to).expect("opens");
    let jobs: i64 = copy.query_row("SELECT count(*) FROM jobs", [], |row| row.get(0)).expect("counts");
    assert_eq!(jobs, 200);
    assert_eq!(fs::read(&stale).expect("is there"), b"of one that was killed");
    assert_eq!(fs::read_dir(dir.path()).expect("reads").count(), 2, "the others leave nothing");
}
