//! Files of jobs that a restored store does not mean: put where nobody looks for them, and back when a store is restored that does.
//!
//! What belongs to jobs by its name, a number, goes into `replaced-<time>` below its directory; whatever else somebody keeps there
//! stays. Beside secrets lies which store gave the numbers, for a number alone may be another job's.

use super::lineage::Lineage;
use super::open;
use super::place::io_error;
use crate::fail::{self, RESTORE_STEP};
use crate::store::StoreError;
use ci_runner_spawner::joblog::others_path;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Begins the names of what was put aside.
const ASIDE: &str = "replaced-";
/// In what was put aside: the stores that gave the numbers, as [`Lineage::to_text`] has it.
const LINE: &str = "stores";

/// Puts aside what `takes` wants; tells where to. None: there is nothing.
pub(super) fn put(
    dir: &Path,
    now: &str,
    line: Option<&Lineage>,
    takes: &dyn Fn(u64) -> Result<bool, StoreError>,
) -> Result<Option<PathBuf>, StoreError> {
    let to = place(dir, now);
    let mut is_made = false;
    for (id, from) in numbered(dir)? {
        if !takes(id)? {
            continue;
        }
        if !is_made {
            make(&to, line)?;
            is_made = true;
        }
        rename(&from, &to)?;
    }
    if !is_made {
        return Ok(None);
    }
    open::sync_dir(&to)?;
    open::sync_dir(dir)?;
    Ok(Some(to))
}

/// Puts back what was put aside then: what it was put aside for did not happen.
pub(super) fn undo(dir: &Path, now: &str) -> Result<(), StoreError> {
    let aside = place(dir, now);
    if !aside.is_dir() {
        return Ok(());
    }
    for (_, from) in numbered(&aside)? {
        rename(&from, dir)?;
    }
    remove(&aside)
}

/// Puts back the logs that jobs of this store began while their directory was to be another's, which it is not after all.
pub(super) fn logs_back(dir: &Path, store_id: &str) -> Result<(), StoreError> {
    let others = dir.join(others_path(store_id));
    for (_, shard) in numbered(&others)? {
        if rename(&shard, dir)? {
            continue;
        }
        let to = dir.join(shard.file_name().unwrap_or_default());
        for file in entries(&shard)? {
            rename(&file, &to)?;
        }
        // One that is there already keeps its place, and this one stays.
        drop(fs::remove_dir(&shard));
    }
    remove(&others)
}

/// Puts back what is of jobs that are open in the restored store, and were then; tells how many.
pub(super) fn bring_back(
    dir: &Path,
    line: &Lineage,
    is_open: &dyn Fn(u64) -> Result<bool, StoreError>,
) -> Result<u64, StoreError> {
    let mut count = 0;
    for aside in entries(dir)? {
        if !aside.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(ASIDE.as_bytes())) {
            continue;
        }
        let Some(given) = fs::read_to_string(aside.join(LINE)).ok().and_then(|text| Lineage::from_text(&text)) else {
            continue;
        };
        for (id, from) in numbered(&aside)? {
            let is_the_same = given.giver(id).is_some_and(|giver| line.giver(id) == Some(giver));
            if is_the_same && is_open(id)? && rename(&from, dir)? {
                count += 1;
            }
        }
        if numbered(&aside)?.is_empty() {
            remove(&aside)?;
        }
    }
    if count > 0 {
        open::sync_dir(dir)?;
    }
    Ok(count)
}

fn place(dir: &Path, now: &str) -> PathBuf {
    dir.join(format!("{ASIDE}{now}"))
}

fn make(aside: &Path, line: Option<&Lineage>) -> Result<(), StoreError> {
    DirBuilder::new().mode(0o700).create(aside).map_err(|source| io_error("create", aside, source))?;
    fail::point(RESTORE_STEP);
    let Some(line) = line else { return Ok(()) };
    let path = aside.join(LINE);
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    let written = made.and_then(|mut file| file.write_all(line.to_text().as_bytes()).and_then(|()| file.sync_all()));
    written.map_err(|source| io_error("write", &path, source))?;
    fail::point(RESTORE_STEP);
    Ok(())
}

/// Into that directory under the same name, unless something has it there. Nobody else is at work: the state is locked.
fn rename(from: &Path, dir: &Path) -> Result<bool, StoreError> {
    let to = dir.join(from.file_name().unwrap_or_default());
    if to.symlink_metadata().is_ok() {
        return Ok(false);
    }
    fs::rename(from, &to).map_err(|source| io_error("rename", from, source))?;
    fail::point(RESTORE_STEP);
    Ok(true)
}

/// What is not empty stays.
fn remove(aside: &Path) -> Result<(), StoreError> {
    if !numbered(aside)?.is_empty() {
        return Ok(());
    }
    for removed in [fs::remove_file(aside.join(LINE)), fs::remove_dir(aside)] {
        match removed {
            Err(source) if ![ErrorKind::NotFound, ErrorKind::DirectoryNotEmpty].contains(&source.kind()) => {
                return Err(io_error("remove", aside, source));
            }
            Ok(()) | Err(_) => fail::point(RESTORE_STEP),
        }
    }
    Ok(())
}

/// What has a number for its name.
fn numbered(dir: &Path) -> Result<Vec<(u64, PathBuf)>, StoreError> {
    let number =
        |name: &OsStr| name.to_str().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))?.parse().ok();
    Ok(entries(dir)?.into_iter().filter_map(|path| Some((number(path.file_name()?)?, path))).collect())
}

/// None in a directory that is not there.
fn entries(dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    match fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        read => {
            let paths = read.and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
            paths.map_err(|source| io_error("read", dir, source))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::lineage::tests::line;
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn only_what_is_named_by_numbers_is_put_aside_and_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["0", "17", "earlier", "queue.db", "replaced-before"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let before = names(dir.path());
        let aside = put(dir.path(), "now", Some(&line("a", 17, &[])), &|_| Ok(true)).unwrap().unwrap();
        assert_eq!(names(dir.path()), ["earlier", "queue.db", "replaced-before", "replaced-now"]);
        assert_eq!(names(&aside), ["0", "17", "stores"]);
        undo(dir.path(), "now").unwrap();
        assert_eq!(names(dir.path()), before);
        assert_eq!(put(dir.path(), "now", None, &|id| Ok(id == 18)).unwrap(), None);
        assert_eq!(names(dir.path()), before);
        // Something is in the way.
        fs::write(dir.path().join("replaced-then"), "").unwrap();
        assert!(put(dir.path(), "then", None, &|_| Ok(true)).is_err());
        assert_eq!(names(dir.path()).len(), before.len() + 1);
    }

    #[test]
    fn logs_that_were_begun_meanwhile_come_back() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["0/1-1.log", "replaced-a/0/1-1.log", "replaced-a/0/2-1.log", "replaced-a/7/7001-1.log"] {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, path.to_str().unwrap()).unwrap();
        }
        logs_back(dir.path(), "b").unwrap();
        assert_eq!(names(dir.path()), ["0", "replaced-a"], "the control: they are another's");
        logs_back(dir.path(), "a").unwrap();
        assert_eq!(names(dir.path()), ["0", "7", "replaced-a"]);
        assert_eq!(names(&dir.path().join("0")), ["1-1.log", "2-1.log"]);
        fs::remove_file(dir.path().join("0/1-1.log")).unwrap();
        logs_back(dir.path(), "a").unwrap();
        assert_eq!(names(dir.path()), ["0", "7"], "what is empty is removed");
    }

    #[test]
    fn only_what_the_same_store_gave_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str| fs::write(dir.path().join(path), path).unwrap();
        ["1", "2", "3", "4"].into_iter().for_each(write);
        put(dir.path(), "known", Some(&line("b", 4, &[("a", 2, 2)])), &|_| Ok(true)).unwrap().unwrap();
        ["5", "6"].into_iter().for_each(write);
        put(dir.path(), "unknown", None, &|_| Ok(true)).unwrap().unwrap();
        write("2");
        // Its 4 is another's, its 1 is over, and a 2 is there.
        let restored = line("d", 9, &[("a", 2, 2), ("b", 3, 3), ("c", 6, 6)]);
        assert_eq!(bring_back(dir.path(), &restored, &|id| Ok(id > 1)).unwrap(), 1);
        assert_eq!(names(dir.path()), ["2", "3", "replaced-known", "replaced-unknown"]);
        assert_eq!(fs::read_to_string(dir.path().join("2")).unwrap(), "2");
        assert_eq!(names(&dir.path().join("replaced-known")), ["1", "2", "4", "stores"]);
        fs::remove_file(dir.path().join("2")).unwrap();
        assert_eq!(bring_back(dir.path(), &line("b", 4, &[("a", 2, 2)]), &|_| Ok(true)).unwrap(), 3);
        assert_eq!(names(dir.path()), ["1", "2", "3", "4", "replaced-unknown"], "what is empty is removed");
    }
}
