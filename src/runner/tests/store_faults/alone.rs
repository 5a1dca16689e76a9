//! Not alone, or not allowed.

use super::*;

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
