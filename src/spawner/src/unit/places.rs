//! Pools of a person: whose jobs they are, which of that person's directories they may write to, and who may submit.
//!
//! Everything here comes from the policy. PID 1 follows symbolic links in the source of a bind mount, and whoever owns a
//! directory above can put another in its place. So each path is walked without following links, everything on the way
//! must be out of others' reach, and what was found is held and told to the helper, which compares it with what it sees
//! inside its sandbox before anything of the job runs: a path that leads elsewhere by then ends the attempt.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::policy_file::User;

/// Where a job's own directories are, and the kernel's: nothing of a person's is there to be kept.
const NOT_BELOW: [&str; 6] = ["/tmp", "/var/tmp", "/run", "/proc", "/sys", "/dev"];

/// As whom and where the jobs of a pool run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Person {
    pub(super) user: User,
    /// Their jobs may write here; absolute, none inside of another.
    pub(super) paths: Vec<PathBuf>,
}

/// A directory that was looked at. While it is held its number is no other's.
#[derive(Debug)]
pub(super) struct Pinned {
    path: PathBuf,
    held: OwnedFd,
    device: u64,
    inode: u64,
}

/// The same for an attempt: what its shim holds and hands to the helper.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) pins: Vec<Pinned>,
    /// `HOME`, where the job can see it.
    pub(super) home: Option<PathBuf>,
}

impl Person {
    /// Checks the words of a policy.
    pub(super) fn new(user: User, paths: Vec<PathBuf>, daemons: &[u32]) -> Result<Self, String> {
        if user.uid == 0 {
            return Err("user: jobs never run as root".to_owned());
        }
        if daemons.contains(&user.uid) {
            return Err(format!("user: {:?} is the daemon's own, whose files no job may reach", user.name));
        }
        if paths.is_empty() {
            return Err("paths is empty: name the directories that the jobs may write to".to_owned());
        }
        for (at, path) in paths.iter().enumerate() {
            check_words(path).map_err(|why| format!("paths: {} {why}", path.display()))?;
            let inside = |(other, outer): (usize, &PathBuf)| other != at && path.starts_with(outer);
            if let Some(outer) = paths.iter().enumerate().find(|&(other, outer)| inside((other, outer))) {
                let (path, outer) = (path.display(), outer.1.display());
                return Err(format!(
                    "paths: {path} is inside of {outer}, which a job could change; name only the outer"
                ));
            }
        }
        Ok(Self { user, paths })
    }

    /// True when `dir` is one of the paths or below one.
    pub(super) fn has(&self, dir: &Path) -> bool {
        is_plain(dir) && self.paths.iter().any(|path| dir.starts_with(path))
    }

    /// Looks at all paths now. Err: in words, with the path.
    pub(super) fn place(&self) -> Result<Place, String> {
        let pins = self.paths.iter().map(|path| pin(path, &self.user)).collect::<Result<_, _>>()?;
        let home = Some(self.user.home.clone()).filter(|home| self.has(home));
        Ok(Place { pins, home })
    }
}

impl Place {
    /// Descriptors that a shim must keep.
    pub(super) fn raw(&self) -> impl Iterator<Item = std::os::fd::RawFd> {
        use std::os::fd::AsRawFd;
        self.pins.iter().map(|pin| pin.held.as_raw_fd())
    }

    /// True when `dir` is one of the directories or below one.
    pub(super) fn has(&self, dir: &Path) -> bool {
        is_plain(dir) && self.pins.iter().any(|pin| dir.starts_with(&pin.path))
    }

    /// The directories, for people.
    pub(super) fn names(&self) -> String {
        let names: Vec<String> = self.pins.iter().map(|pin| pin.path.display().to_string()).collect();
        names.join(", ")
    }

    /// What the helper compares: one word a directory, `DEVICE INODE PATH`.
    pub(super) fn words(&self) -> Vec<CString> {
        let word = |pin: &Pinned| CString::new(format!("{} {} {}", pin.device, pin.inode, pin.path.display()));
        self.pins.iter().filter_map(|pin| word(pin).ok()).collect()
    }
}

/// Helper: true when the word's directory is here what it was for the spawner.
pub(super) fn is_same(word: &CString) -> bool {
    let look = || {
        let (device, rest) = word.to_str().ok()?.split_once(' ')?;
        let (inode, path) = rest.split_once(' ')?;
        let stat = rustix::fs::fstat(open(CWD, Path::new(path)).ok()?).ok()?;
        Some(stat.st_dev.to_string() == device && stat.st_ino.to_string() == inode)
    };
    look().unwrap_or(false)
}

fn is_plain(path: &Path) -> bool {
    path.is_absolute() && path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
}

fn check_words(path: &Path) -> Result<(), &'static str> {
    let text = path.to_str().ok_or("is not UTF-8")?;
    if !is_plain(path) || text.contains("//") || text.contains("/./") || text.ends_with(['/', '.']) {
        return Err("must be absolute and written plainly, without .., . and a slash at the end");
    }
    if text.contains(['$', '%', '\\', ':', '"', '\'']) || text.chars().any(char::is_control) {
        return Err("has a character that a unit's property cannot have: one of $ % \\ : \" '");
    }
    if NOT_BELOW.iter().any(|dir| path.starts_with(dir)) {
        return Err("is in a directory of which each job has its own");
    }
    Ok(())
}

fn open(at: impl std::os::fd::AsFd, path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(at, path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// Walks to `path`, following no link, through directories that only root and the user can change.
fn pin(path: &Path, user: &User) -> Result<Pinned, String> {
    let fail = |at: &Path, error: Errno| format!("{}: {}", at.display(), std::io::Error::from(error));
    let mut walked = PathBuf::from("/");
    let mut held = open(CWD, &walked).map_err(|error| fail(&walked, error))?;
    for part in path.components().skip(1) {
        let stat = rustix::fs::fstat(&held).map_err(|error| fail(&walked, error))?;
        check_way(&stat, user)
            .map_err(|why| format!("{}, on the way to {}, {why}", walked.display(), path.display()))?;
        walked.push(part);
        held = open(&held, Path::new(part.as_os_str())).map_err(|error| fail(&walked, error))?;
        let stat = rustix::fs::fstat(&held).map_err(|error| fail(&walked, error))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {}
            FileType::Symlink => {
                return Err(format!("{} is a symbolic link; name the directory that it leads to", walked.display()));
            }
            _ => return Err(format!("{} is not a directory", walked.display())),
        }
    }
    let stat = rustix::fs::fstat(&held).map_err(|error| fail(path, error))?;
    if stat.st_uid != user.uid {
        return Err(format!("{} belongs to user {}, not to {}", path.display(), stat.st_uid, user.name));
    }
    Ok(Pinned { path: path.to_owned(), held, device: stat.st_dev, inode: stat.st_ino })
}

/// Whoever can write to a directory can put another one in the place of what is in it.
fn check_way(stat: &Stat, user: &User) -> Result<(), String> {
    if stat.st_uid != 0 && stat.st_uid != user.uid {
        return Err(format!("belongs to user {}, who could put something else in its place", stat.st_uid));
    }
    let sticky = stat.st_mode & 0o1000 != 0;
    let by_others = stat.st_mode & 0o002 != 0;
    let by_group = stat.st_mode & 0o020 != 0 && stat.st_gid != 0 && stat.st_gid != user.gid;
    if (by_others || by_group) && !sticky {
        return Err(format!("can be changed by others (mode {:04o})", stat.st_mode & 0o7777));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn me() -> User {
        let uid = rustix::process::geteuid().as_raw();
        let gid = rustix::process::getegid().as_raw();
        User { name: "me".to_owned(), uid, gid, home: "/home/me".into() }
    }

    fn other(uid: u32) -> User {
        User { uid, ..me() }
    }

    fn person(user: User, paths: &[&str]) -> Result<Person, String> {
        Person::new(user, paths.iter().map(PathBuf::from).collect(), &[42])
    }

    #[test]
    fn words_of_a_policy_that_would_be_a_hole_are_refused() {
        for (uid, paths, want) in [
            (0, &["/srv/a"][..], "never run as root"),
            (42, &["/srv/a"], "the daemon's own"),
            (7, &[], "paths is empty"),
            (7, &["srv"], "absolute"),
            (7, &["/srv/../etc"], "absolute"),
            (7, &["/srv/"], "absolute"),
            (7, &["/srv/%h"], "property"),
            (7, &["/srv/a:b"], "property"),
            (7, &["/tmp/a"], "its own"),
            (7, &["/run/user/7"], "its own"),
            (7, &["/proc"], "its own"),
            (7, &["/srv/a", "/srv/a/b"], "inside of"),
            (7, &["/srv/a", "/srv/a"], "inside of"),
        ] {
            let why = person(other(uid), paths).expect_err("refused");
            assert!(why.contains(want), "{why}");
        }
        let good = person(other(7), &["/srv/a", "/srv/ab"]).expect("passes");
        for (dir, want) in
            [("/srv/a", true), ("/srv/a/b", true), ("/srv/abc", false), ("/srv/a/../b", false), ("a", false)]
        {
            assert_eq!(good.has(Path::new(dir)), want, "{dir}");
        }
    }

    /// A tree that the walk accepts: not below a directory that everybody can write to, as /tmp is (its stickiness saves it).
    #[test]
    fn a_path_is_walked_without_links_and_must_be_the_users() {
        let dir = tempfile::tempdir().expect("a directory");
        let set = |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("set");
        set(dir.path(), 0o755);
        let (tree, link) = (dir.path().join("tree"), dir.path().join("link"));
        std::fs::create_dir_all(tree.join("inner")).expect("made");
        symlink(&tree, &link).expect("made");
        assert!(pin(&tree, &me()).is_ok());
        let refused = |path: &Path, user: &User, want: &str| {
            let why = pin(path, user).expect_err(want);
            assert!(why.contains(want), "{why}");
        };
        refused(&link, &me(), "symbolic link");
        refused(&link.join("inner"), &me(), "symbolic link");
        refused(&tree.join("none"), &me(), "No such file");
        std::fs::write(tree.join("file"), "").expect("written");
        refused(&tree.join("file"), &me(), "not a directory");
        set(&tree, 0o777);
        refused(&tree.join("inner"), &me(), "can be changed by others (mode 0777)");
        assert!(pin(&tree, &me()).is_ok(), "what is inside is the user's own business");
        if rustix::process::geteuid().is_root() {
            refused(&tree, &other(12345), "belongs to user 0");
            std::os::unix::fs::chown(&tree, Some(54321), None).expect("given away");
            set(&tree, 0o755);
            refused(&tree.join("inner"), &other(12345), "belongs to user 54321, who could");
        } else {
            crate::skipped::tell("a part of unit::places, trees of other users", "only root can give files away");
        }
    }

    #[test]
    fn what_was_put_in_the_place_of_a_path_is_noticed() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).expect("set");
        let (tree, elsewhere) = (dir.path().join("tree"), dir.path().join("elsewhere"));
        std::fs::create_dir(&tree).expect("made");
        std::fs::create_dir(&elsewhere).expect("made");
        let place = Place { pins: vec![pin(&tree, &me()).expect("pinned")], home: None };
        let words = place.words();
        assert!(words.iter().all(is_same) && words.len() == 1);
        std::fs::rename(&tree, dir.path().join("old")).expect("renamed");
        symlink(&elsewhere, &tree).expect("made");
        assert!(!is_same(&words[0]), "a link");
        std::fs::remove_file(&tree).expect("removed");
        std::fs::create_dir(&tree).expect("made");
        assert!(!is_same(&words[0]), "another directory");
        assert!(!is_same(&c"nonsense".to_owned()));
    }
}
