//! The file in which root says what a spawner of root's may do: where it is, whose it is, and the names in it.
//!
//! JSON, because root should need no second parser, with comments: lines that start with `#`. The file and its directory
//! must belong to root (or to whoever runs the spawner) and be writable by nobody else.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};

/// No policy is larger.
const FILE_BYTES_MAX: u64 = 256 * 1024;

/// A user as `/etc/passwd` has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) home: PathBuf,
}

/// Names of users and groups.
#[derive(Default)]
pub(crate) struct Names {
    pub(crate) users: Vec<User>,
    pub(crate) groups: Vec<(String, u32)>,
}

impl Names {
    /// Those of this system.
    pub(crate) fn of_system() -> Self {
        Self { users: read_users("/etc/passwd"), groups: read_groups("/etc/group") }
    }

    /// Number of a group, by name or number.
    pub(crate) fn group(&self, name: &str) -> Result<u32, String> {
        let found = || self.groups.iter().find(|(known, _)| known == name).map(|(_, id)| *id);
        name.parse().ok().or_else(found).ok_or_else(|| format!("group: there is no group {name:?}"))
    }

    /// Number of a user, by name or number.
    pub(crate) fn uid(&self, name: &str) -> Option<u32> {
        name.parse().ok().or_else(|| self.user(name).map(|user| user.uid))
    }

    /// A user by name.
    pub(crate) fn user(&self, name: &str) -> Option<&User> {
        self.users.iter().find(|user| user.name == name)
    }
}

/// The text of a policy, comments left out. Err: in words, without the path.
pub(crate) fn read(path: &Path) -> Result<String, String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = rustix::fs::openat(CWD, path, flags, Mode::empty());
    let file = file.map_err(|error| format!("cannot be opened: {error}"))?;
    check_owner(&file, "the file")?;
    let real = std::fs::canonicalize(path).map_err(|error| error.to_string())?;
    let parent = File::open(real.parent().unwrap_or(Path::new("/")));
    let parent = parent.map_err(|error| format!("its directory cannot be opened: {error}"))?;
    check_owner(&OwnedFd::from(parent), "its directory")?;
    let mut text = String::new();
    let mut bounded = File::from(file).take(FILE_BYTES_MAX + 1);
    bounded.read_to_string(&mut text).map_err(|error| format!("cannot be read: {error}"))?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("is larger than {FILE_BYTES_MAX} bytes"));
    }
    Ok(without_comments(&text))
}

/// A text of JSON has no line break inside, so such a line is never part of one. Empty, it keeps the line numbers.
pub(crate) fn without_comments(text: &str) -> String {
    text.lines().map(|line| if line.starts_with('#') { "" } else { line }).collect::<Vec<_>>().join("\n")
}

/// A path that a policy names.
pub(crate) fn check_path(key: &str, path: &Path) -> Result<(), String> {
    let odd = path.to_string_lossy().contains(['$', '%', '\\']);
    if odd || !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
        return Err(format!("{key} is {}; it must be an absolute path without .., $, % and \\", path.display()));
    }
    Ok(())
}

fn check_owner(file: &OwnedFd, what: &str) -> Result<(), String> {
    let stat = rustix::fs::fstat(file).map_err(|error| format!("{what} cannot be looked at: {error}"))?;
    let own = rustix::process::geteuid().as_raw();
    if stat.st_uid != 0 && stat.st_uid != own {
        return Err(format!("{what} belongs to user {}, not to root", stat.st_uid));
    }
    if stat.st_mode & 0o022 != 0 {
        // In a sticky directory (/nix/store) nobody else can put another file in the place of root's.
        let sticky_dir = rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory
            && stat.st_mode & 0o1000 != 0;
        if !sticky_dir {
            return Err(format!("{what} can be written by others (mode {:04o})", stat.st_mode & 0o7777));
        }
    }
    Ok(())
}

fn read_groups(path: &str) -> Vec<(String, u32)> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let row = |line: &str| {
        let mut fields = line.split(':');
        Some((fields.next()?.to_owned(), fields.nth(1)?.parse().ok()?))
    };
    text.lines().filter_map(row).collect()
}

fn read_users(path: &str) -> Vec<User> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let row = |line: &str| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, _, home, ..] = fields.as_slice() else { return None };
        let (name, home) = ((*name).to_owned(), PathBuf::from(home));
        Some(User { name, uid: uid.parse().ok()?, gid: gid.parse().ok()?, home })
    };
    text.lines().filter_map(row).collect()
}
