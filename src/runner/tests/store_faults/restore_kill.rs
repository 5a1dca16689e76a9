//! `ci-runner restore`, killed by SIGKILL at each of its steps: whoever opens the store next has all of the old state or all of the
//! restored one, with the files of its jobs. In a part of the rounds whoever settles what was cut short is killed as well.

use super::*;
use crate::damage::Crashed;
use ci_runner_spawner::failpoint;
use ci_runner_spawner::joblog::set_owner;
use std::os::unix::process::ExitStatusExt as _;

/// What the next start finds.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    is_restored: bool,
    last_id: u64,
    open: Vec<JobId>,
    /// Secrets, logs, and whose the logs are; names without their times.
    files: BTreeMap<String, String>,
}

/// A state directory before a restore, and the backup.
struct Before {
    dir: tempfile::TempDir,
    backup: PathBuf,
    store_id: String,
}

impl Before {
    /// A store whose jobs have files, and `prepare` makes the backup.
    fn new(prepare: impl FnOnce(&Path, &Path)) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let (state, backup) = (dir.path().join("state"), dir.path().join("backup.db"));
        copy_tree(Crashed::new(false).dir.path(), &state);
        for (path, text) in [("secrets/60", "60"), ("secrets/61", "61"), ("logs/0/49-1.log", "of 49")] {
            let path = state.join(path);
            fs::create_dir_all(path.parent().expect("has one")).expect("makes");
            fs::write(path, text).expect("writes");
        }
        let own = |state: &Path| {
            let store_id = opened(state).expect("opens").2.store_id;
            set_owner(&state.join("logs"), &store_id).expect("says whose logs they are");
            store_id
        };
        own(&state);
        prepare(&state, &backup);
        // It may be another store by now.
        let store_id = own(&state);
        Self { dir, backup, store_id }
    }

    fn copy(&self) -> tempfile::TempDir {
        let copy = tempfile::tempdir().expect("a directory");
        copy_tree(&self.dir.path().join("state"), copy.path());
        copy
    }

    /// False: it has ended before it came to that step.
    fn dies_at(&self, step: u32, state: &Path) -> bool {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_ci-runner"));
        command.arg("restore").arg("--state-dir").arg(state).arg(&self.backup);
        command.env("CI_RUNNER_FAIL", format!("{}:{step}", ci_runner::fail::RESTORE_STEP));
        let done = command.output().expect("starts");
        assert!(done.status.success() || done.status.signal() == Some(9), "{done:?}");
        !done.status.success()
    }

    /// As the next start finds it.
    fn look(&self, state: &Path) -> Result<Seen, StoreError> {
        let (_store, _reader, loaded, open) = opened(state)?;
        let mut files = BTreeMap::new();
        for name in ["secrets", "logs"] {
            list(state, Path::new(name), &mut files);
        }
        if let Some(owner) = files.get_mut("logs/store-id") {
            *owner = if owner.trim_end() == loaded.store_id { "its own" } else { "another's" }.to_owned();
        }
        files.retain(|name, _| !name.ends_with("/stores"));
        Ok(Seen {
            is_restored: loaded.store_id != self.store_id,
            last_id: loaded.last_id,
            open: open.into_iter().map(|job| job.id).collect(),
            files,
        })
    }

    fn look_at_copy(&self, prepare: impl FnOnce(&Path)) -> Seen {
        let copy = self.copy();
        prepare(copy.path());
        self.look(copy.path()).expect("opens")
    }

    /// Kills it at every step. Tells how often the next start has the old state, and how often the restored one.
    fn at_every_step(&self) -> (u32, u32) {
        let old = self.look_at_copy(|_| ());
        let new = self.look_at_copy(|state| assert!(!self.dies_at(u32::MAX, state)));
        assert!(!old.is_restored && new.is_restored && old.files != new.files, "{old:?}\n{new:?}");
        let (mut olds, mut news) = (0, 0);
        for step in 1.. {
            let copy = self.copy();
            let state = copy.path();
            if !self.dies_at(step, state) {
                return (olds, news);
            }
            // Less than it takes another restore to do anything but settle this one.
            if step % 2 == 0 {
                assert!(self.dies_at(1 + step % 3, state));
            }
            let seen = self.look(state).unwrap_or_else(|error| panic!("killed at step {step}: {error}"));
            assert_eq!(&seen, if seen.is_restored { &new } else { &old }, "killed at step {step}");
            assert!(!state.join("restore.pending").exists(), "killed at step {step}");
            if seen.is_restored { news += 1 } else { olds += 1 }
        }
        unreachable!("a restore ends")
    }

    /// The control: without the note nobody finishes or undoes it. Tells after how many steps the state is neither.
    fn mixtures_without_the_note(&self) -> usize {
        let old = self.look_at_copy(|_| ());
        let new = self.look_at_copy(|state| assert!(!self.dies_at(u32::MAX, state)));
        let mixed = (1..).map_while(|step| {
            let copy = self.copy();
            if !self.dies_at(step, copy.path()) {
                return None;
            }
            drop(fs::remove_file(copy.path().join("restore.pending")));
            Some(self.look(copy.path()).map_or(true, |seen| seen != old && seen != new))
        });
        mixed.filter(|is_mixed| *is_mixed).count()
    }
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("makes");
    for entry in fs::read_dir(from).expect("reads") {
        let from = entry.expect("reads").path();
        let to = to.join(from.file_name().expect("has one"));
        if from.is_dir() {
            copy_tree(&from, &to);
        } else {
            fs::copy(&from, &to).expect("copies");
        }
    }
}

fn list(state: &Path, dir: &Path, files: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(state.join(dir)).expect("reads") {
        let path = dir.join(entry.expect("reads").file_name());
        if state.join(&path).is_dir() {
            list(state, &path, files);
            continue;
        }
        let parts = path.iter().map(|part| part.to_str().expect("text"));
        let parts = parts.map(|part| if part.starts_with("replaced-") { "replaced" } else { part });
        let name = parts.collect::<Vec<_>>().join("/");
        files.insert(name, fs::read_to_string(state.join(&path)).expect("text"));
    }
}

fn back_up(state: &Path, to: &Path) {
    let (_held, reader, ..) = opened(state).expect("opens");
    reader.backup(to, &[]).expect("backs up");
}

/// Job 201 is not open in the backup.
fn older(state: &Path, backup: &Path) {
    back_up(state, backup);
    let (mut store, ..) = opened(state).expect("opens");
    store.commit(&[submission(201, "n", "true")], &pools()).expect("commits");
    fs::write(state.join("secrets/201"), "201").expect("writes");
}

fn of_another_host(_: &Path, backup: &Path) {
    back_up(Crashed::new(true).dir.path(), backup);
}

/// The older one was restored first, so the secrets of job 201 are aside.
fn newer(state: &Path, backup: &Path) {
    let first = backup.with_extension("older");
    older(state, &first);
    back_up(state, backup);
    let secrets = state.join("secrets");
    restore(&first, state, JobFiles { logs: &[], secrets: Some(&secrets) }).expect("restores");
    assert!(!secrets.join("201").exists());
}

#[test]
fn a_restore_that_is_killed_at_any_step_has_happened_or_has_not() {
    let name = "a_restore_that_is_killed_at_any_step_has_happened_or_has_not";
    if !failpoint::ENABLED {
        return skipped::tell(name, "built without fail points");
    }
    for (what, prepare) in [("older", older as fn(&Path, &Path)), ("another's", of_another_host), ("newer", newer)] {
        let (olds, news) = Before::new(prepare).at_every_step();
        println!("{what}: {olds} times the old state, {news} times the restored one");
        assert!(olds >= 10 && news >= 3, "{what}: {olds} and {news}: a step is missing");
    }
}

#[test]
fn without_its_note_a_restore_that_is_killed_leaves_a_mixture() {
    let name = "without_its_note_a_restore_that_is_killed_leaves_a_mixture";
    if !failpoint::ENABLED {
        return skipped::tell(name, "built without fail points");
    }
    assert!(Before::new(of_another_host).mixtures_without_the_note() >= 3);
}
