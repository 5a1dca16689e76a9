//! What starts processes of a user at some later time: leave to linger, crontabs, jobs of `at`. Jobs of the runner can make
//! none (`ci-runner-jobs.service` keeps the system bus and setuid programs from them), so root seldom finds one.
//!
//! Their places are root's, but for their contents, and differ from distribution to distribution. Files of root's there are
//! the user's by their name, others by their owner.

use std::cell::LazyCell;
use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::policy_file::{Names, User};

/// A `systemd --user` of whoever is named here runs from the start of the host, outside of any job's cgroup.
const LINGER: &str = "/var/lib/systemd/linger";
/// Debian and others, Red Hat and Arch, SUSE, NixOS; then `at` on Debian, elsewhere, NixOS.
const SPOOLS: [&str; 7] = [
    "/var/spool/cron/crontabs",
    "/var/spool/cron",
    "/var/spool/cron/tabs",
    "/var/cron/tabs",
    "/var/spool/cron/atjobs",
    "/var/spool/at",
    "/var/spool/atjobs",
];

/// Removes them. Err: one stays, and why.
pub(super) fn remove(user: &User) -> Result<(), String> {
    remove_in(user, [LINGER].iter().chain(&SPOOLS).map(Path::new))
}

fn remove_in<'a>(user: &User, dirs: impl IntoIterator<Item = &'a Path>) -> Result<(), String> {
    // Read where there is anything at all: the policy's name for the user need not be the only one.
    let names = LazyCell::new(|| names_of(user));
    for dir in dirs {
        remove_from(dir, user.uid, |name| names.iter().any(|known| known == name))
            .map_err(|(path, error)| format!("{} starts processes of {} later: {error}", path.display(), user.name))?;
    }
    Ok(())
}

fn names_of(user: &User) -> Vec<OsString> {
    let users = Names::of_system().users.into_iter();
    let known = users.filter(|known| known.uid == user.uid).map(|known| known.name.into());
    known.chain([OsString::from(&user.name)]).collect()
}

fn remove_from(dir: &Path, uid: u32, is_named: impl Fn(&OsStr) -> bool) -> Result<(), (std::path::PathBuf, io::Error)> {
    let fault = |error| (dir.to_owned(), error);
    let entries = match std::fs::read_dir(dir) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(()),
        entries => entries.map_err(fault)?,
    };
    for entry in entries {
        let entry = entry.map_err(fault)?;
        let path = entry.path();
        let metadata = match entry.metadata() {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            metadata => metadata.map_err(|error| (path.clone(), error))?,
        };
        if metadata.uid() != uid && (metadata.is_dir() || !is_named(&entry.file_name())) {
            continue;
        }
        let removed = if metadata.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        match removed {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err((path, error)),
            Ok(()) => say!("removed {}, which would have started processes of a slot's user", path.display()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::skipped;
    use std::fs;
    use std::os::unix::fs::chown;

    fn left(dir: &Path) -> Vec<OsString> {
        let mut names: Vec<_> =
            fs::read_dir(dir).expect("read").map(|entry| entry.expect("read").file_name()).collect();
        names.sort();
        names
    }

    #[test]
    fn those_of_the_user_go_by_name_and_by_owner_and_others_stay() {
        let dir = tempfile::tempdir().expect("a directory");
        let own = rustix::process::geteuid().as_raw();
        let user = User { name: "slot".to_owned(), uid: own.wrapping_add(1_900_000_100), gid: own, home: "/".into() };
        for name in ["slot", "slot-2", "other"] {
            fs::write(dir.path().join(name), "").expect("written");
        }
        // A spool below the other, of root's, and nobody's crontab.
        let below = dir.path().join("below");
        fs::create_dir_all(below.join("slot")).expect("made");
        let places = [Path::new("/nonexistent"), dir.path(), &below];
        assert_eq!(remove_in(&user, places), Ok(()));
        assert_eq!(left(dir.path()), ["below", "other", "slot-2"]);
        assert_eq!(left(&below), ["slot"]);
        let job = below.join("a0001");
        fs::write(&job, "").expect("written");
        if chown(&job, Some(user.uid), None).is_err() {
            let test = "those_of_the_user_go_by_name_and_by_owner_and_others_stay";
            return skipped::tell(test, "only root can make files of another user");
        }
        assert_eq!(remove_in(&user, places), Ok(()));
        assert_eq!(left(&below), ["slot"]);
    }
}
