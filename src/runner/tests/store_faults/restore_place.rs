//! Where a restore writes, and what it leaves there when it fails.

use super::*;
use crate::damage::Crashed;
use ci_runner::store::BackupFile;
use std::os::unix::fs::{chown, symlink};

const NOBODY: u32 = 65_534;

/// A store, and a backup of it.
fn with_backup() -> (Crashed, PathBuf) {
    let store = Crashed::new(false);
    let good = store.path("good.db");
    let (_held, reader, ..) = opened(store.dir.path()).expect("opens");
    reader.backup(&good, &[BackupFile { name: "config.toml".to_owned(), content: b"x".to_vec() }]).expect("backs up");
    (store, good)
}

/// The note of what is under way was written through it: into a file of root's, where root restored.
#[test]
fn what_has_the_name_of_the_note_is_not_written_through() {
    let (store, good) = with_backup();
    let victim = tempfile::NamedTempFile::new().expect("a file");
    fs::write(victim.path(), "another's").expect("writes");
    symlink(victim.path(), store.path("restore.pending.new")).expect("links");
    restore(&good, store.dir.path(), JobFiles::default()).expect("restores");
    assert_eq!(fs::read(victim.path()).expect("reads"), b"another's");
}

#[test]
fn root_restores_nowhere_where_others_can_put_links() {
    if !rustix::process::geteuid().is_root() {
        return skipped::tell("root_restores_nowhere_where_others_can_put_links", "needs root");
    }
    let (_store, good) = with_backup();
    let home = tempfile::tempdir().expect("a directory");
    let state = home.path().join("state");
    fs::create_dir(&state).expect("makes");
    let set = |mode| fs::set_permissions(&state, fs::Permissions::from_mode(mode)).expect("sets");
    chown(&state, None, Some(NOBODY)).expect("gives to the group");
    for mode in [0o1777, 0o770, 0o702] {
        set(mode);
        let refused = restore(&good, &state, JobFiles::default()).expect_err("refused");
        assert!(matches!(&refused, StoreError::OpenToOthers { mode: told, .. } if *told == mode), "{refused:?}");
    }
    set(0o750);
    // Root's link to root's directory, in one that another can put anything into.
    let others = home.path().join("others");
    let link = home.path().join("link");
    fs::create_dir_all(others.join("state")).expect("makes");
    chown(&others, Some(NOBODY), None).expect("gives away");
    symlink(others.join("state"), &link).expect("links");
    let refused = restore(&good, &link, JobFiles::default()).expect_err("refused");
    assert!(matches!(&refused, StoreError::Anothers { uid: NOBODY, .. }), "{refused:?}");
    restore(&good, &state, JobFiles::default()).expect("the control: root's own");
}

/// The old store went on with a disk that the refused restore had filled.
#[test]
fn a_restore_that_failed_or_was_killed_gives_the_room_back() {
    let (store, good) = with_backup();
    let copy = store.path("queue.db.restore");
    let in_the_way = store.path("restored");
    fs::write(&in_the_way, "").expect("writes");
    restore(&good, store.dir.path(), JobFiles::default()).expect_err("its files have no place");
    assert!(!copy.exists());
    fs::remove_file(&in_the_way).expect("removes");
    let journal = store.path("queue.db.restore-journal");
    for path in [&copy, &journal] {
        fs::write(path, "of one that was killed").expect("writes");
    }
    drop(opened(store.dir.path()).expect("opens"));
    assert!(!copy.exists() && !journal.exists());
    assert_eq!(store.look().expect("untouched by that"), store.jobs);
}
