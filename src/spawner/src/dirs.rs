//! Where an attempt's output goes and where its slot's directory is.
//!
//! A private spawner outlives daemons and serves several stores, so each daemon names its own; one that does not gets those of
//! the spawner's command line. The spawners of root never take a daemon's word for a path.

use std::path::{Path, PathBuf};

use crate::protocol::{Slot, Start};

/// With a cgroup's path it must fit into an attempt's identity.
const PATH_BYTES_MAX: usize = 3000;

/// Directories of one store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Dirs {
    /// Logs of jobs.
    pub(crate) log_dir: PathBuf,
    /// Directories of slots.
    pub(crate) tmp_dir: PathBuf,
}

/// True for a path that a daemon can name to a spawner: absolute, one line, and not very long.
pub fn can_be_told(path: &str) -> bool {
    path.starts_with('/') && path.len() <= PATH_BYTES_MAX && !path.contains(['\n', '\0'])
}

impl Dirs {
    /// As a daemon named them. Err: what is wrong with them.
    pub(crate) fn told(log_dir: &str, tmp_dir: &str) -> Result<Self, String> {
        match [log_dir, tmp_dir].into_iter().find(|path| !can_be_told(path)) {
            Some(path) => Err(format!("`{}` is no absolute path of one line", crate::record::shortened_name(path))),
            None => Ok(Self { log_dir: log_dir.into(), tmp_dir: tmp_dir.into() }),
        }
    }

    /// The slot of a start: the path of its directory, so that whoever takes the attempt over finds it, whatever its own
    /// directories are. No two stores have one in common: they count their slots independently.
    pub(crate) fn slot_of(&self, start: &Start) -> String {
        let name = format!("{}-{}-{}", start.key.store, start.pool, start.slot);
        match self.tmp_dir.join(&name).into_os_string().into_string() {
            Ok(path) if can_be_told(&path) => path,
            _ => name,
        }
    }
}

/// Which place of a pool a slot of a store is, from its name: what [`Dirs::slot_of`] made of it, or an earlier version of it.
pub(crate) fn slot_named(slot: &str, store: &str) -> Option<Slot> {
    let name = slot.rsplit('/').next()?;
    let name = name.strip_prefix(store).and_then(|rest| rest.strip_prefix('-')).unwrap_or(name);
    let (pool, number) = name.rsplit_once('-')?;
    Some(Slot { pool: pool.to_owned(), number: number.parse().ok()? })
}

/// The directory in which a slot's is, and the slot's name there. `own` is the directory of slots without a path.
pub(crate) fn slot_place(own: &Path, slot: &str) -> (PathBuf, String) {
    match slot.rsplit_once('/') {
        Some((root, name)) if slot.starts_with('/') => {
            (PathBuf::from(if root.is_empty() { "/" } else { root }), name.to_owned())
        }
        _ => (own.to_owned(), slot.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_absolute_paths_of_one_line_are_taken() {
        assert!(Dirs::told("/l", "/t").is_ok());
        for bad in ["", "l", "../l", "/a\nb", "/a\0b", &format!("/{}", "a".repeat(PATH_BYTES_MAX))] {
            assert!(Dirs::told(bad, "/t").is_err() && Dirs::told("/l", bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_slot_tells_its_place() {
        let place = |pool: &str, number| Some(Slot { pool: pool.to_owned(), number });
        assert_eq!(slot_named("/t/x/0123abcd-my-pool-12", "0123abcd"), place("my-pool", 12));
        assert_eq!(slot_named("0123abcd-default-0", "0123abcd"), place("default", 0));
        assert_eq!(slot_named("default-3", "0123abcd"), place("default", 3));
        for bad in ["", "-", "default", "/t/x/default-", "default-x"] {
            assert_eq!(slot_named(bad, "0123abcd"), None, "{bad}");
        }
    }

    #[test]
    fn a_slot_is_found_by_its_path_or_below_the_own_directory() {
        let own = Path::new("/own");
        assert_eq!(slot_place(own, "default-0"), ("/own".into(), "default-0".to_owned()));
        assert_eq!(slot_place(own, "/t/x/s-default-0"), ("/t/x".into(), "s-default-0".to_owned()));
        assert_eq!(slot_place(own, "/s-default-0"), ("/".into(), "s-default-0".to_owned()));
    }
}
