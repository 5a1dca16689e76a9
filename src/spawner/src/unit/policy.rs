//! The policy: the one source of users, paths and profiles. Root writes it, the daemon only names what is in it.
//!
//! JSON, because root should need no second parser, with comments: lines that start with `#`; unknown keys are refused. The file and its directory must belong to
//! root (or to whoever runs the spawner) and be writable by nobody else.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use serde::Deserialize;

use super::profile::Profile;
use crate::protocol::Start;

/// No policy is larger.
const FILE_BYTES_MAX: u64 = 256 * 1024;

/// The file as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyFile {
    kind: String,
    #[serde(default = "default_dir")]
    dir: PathBuf,
    group: String,
    users: Vec<String>,
    log_dir: PathBuf,
    program: PathBuf,
    #[serde(default = "default_slice")]
    slice: String,
    pools: BTreeMap<String, PoolFile>,
}

/// `pools.NAME`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PoolFile {
    profiles: Vec<String>,
}

fn default_dir() -> PathBuf {
    "/run/ci-runner-spawner".into()
}

fn default_slice() -> String {
    "ci_jobs.slice".to_owned()
}

/// A checked policy.
#[derive(Debug)]
pub(super) struct Policy {
    /// The spawner's own directory.
    pub(super) dir: PathBuf,
    /// Group that may connect and read logs.
    pub(super) group: u32,
    /// Users that may connect.
    pub(super) users: Vec<u32>,
    /// Logs of jobs.
    pub(super) log_dir: PathBuf,
    /// What units execute: this program.
    pub(super) program: PathBuf,
    /// Where units live.
    pub(super) slice: String,
    /// Profiles by pool, the first is the default.
    pools: BTreeMap<String, Vec<Profile>>,
}

impl Policy {
    /// Reads and checks. Err: in words, with the path.
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        let wrong = |why: String| format!("policy {}: {why}", path.display());
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = rustix::fs::openat(CWD, path, flags, Mode::empty())
            .map_err(|error| wrong(format!("cannot be opened: {error}")))?;
        check_owner(&file, "the file").map_err(wrong)?;
        let real = std::fs::canonicalize(path).map_err(|error| wrong(error.to_string()))?;
        let parent = File::open(real.parent().unwrap_or(Path::new("/")));
        let parent = parent.map_err(|error| wrong(format!("its directory cannot be opened: {error}")))?;
        check_owner(&OwnedFd::from(parent), "its directory").map_err(wrong)?;
        let mut text = String::new();
        let mut bounded = File::from(file).take(FILE_BYTES_MAX + 1);
        bounded.read_to_string(&mut text).map_err(|error| wrong(format!("cannot be read: {error}")))?;
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(wrong(format!("is larger than {FILE_BYTES_MAX} bytes")));
        }
        let names = Names { users: read_names("/etc/passwd"), groups: read_names("/etc/group") };
        Self::parse(&text, &names).map_err(wrong)
    }

    fn parse(text: &str, names: &Names) -> Result<Self, String> {
        // A text of JSON has no line break inside, so such a line is never part of one. Empty, it keeps the line numbers.
        let lines: Vec<&str> = text.lines().map(|line| if line.starts_with('#') { "" } else { line }).collect();
        let file: PolicyFile =
            serde_json::from_str(&lines.join("\n")).map_err(|error| format!("does not parse: {error}"))?;
        if file.kind != "systemd" {
            return Err(format!("kind is {:?}; this version knows \"systemd\"", file.kind));
        }
        for (key, path) in [("dir", &file.dir), ("log_dir", &file.log_dir), ("program", &file.program)] {
            let odd = path.to_string_lossy().contains(['$', '%', '\\']);
            if odd || !path.is_absolute() || path.components().any(|part| part == std::path::Component::ParentDir) {
                return Err(format!(
                    "{key} is {}; it must be an absolute path without .., $, % and \\",
                    path.display()
                ));
            }
        }
        check_slice(&file.slice)?;
        let mut pools = BTreeMap::new();
        for (name, pool) in file.pools {
            let profiles: Result<Vec<_>, _> = pool
                .profiles
                .iter()
                .map(|word| Profile::named(word).ok_or(format!("pools.{name}: {word:?} is no profile")))
                .collect();
            let profiles = profiles?;
            if profiles.is_empty() {
                return Err(format!("pools.{name}.profiles is empty: name at least one, the default first"));
            }
            pools.insert(name, profiles);
        }
        let user = |name: &String| id_of(&names.users, name).ok_or(format!("users: there is no user {name:?}"));
        Ok(Self {
            dir: file.dir,
            group: id_of(&names.groups, &file.group).ok_or(format!("group: there is no group {:?}", file.group))?,
            users: file.users.iter().map(user).collect::<Result<_, _>>()?,
            log_dir: file.log_dir,
            program: file.program,
            slice: file.slice,
            pools,
        })
    }

    /// The profile of a start: the one it names, if its pool may use it, or the pool's first.
    pub(super) fn profile(&self, start: &Start) -> Result<Profile, String> {
        let allowed = self.pools.get(&start.pool).ok_or_else(|| {
            format!("the spawner's policy does not name the pool {:?}; add it there, under \"pools\"", start.pool)
        })?;
        let Some(name) = &start.profile else { return Ok(allowed[0]) };
        allowed.iter().copied().find(|profile| profile.name() == name).ok_or_else(|| {
            let names: Vec<&str> = allowed.iter().map(|profile| profile.name()).collect();
            let name = crate::record::shortened_name(name);
            format!(
                "the spawner's policy does not allow the profile {name:?} in the pool {:?}, only {}",
                start.pool,
                names.join(", ")
            )
        })
    }
}

/// Slices make directories: letters only, and no way out.
fn check_slice(slice: &str) -> Result<(), String> {
    let name = slice.strip_suffix(".slice").unwrap_or_default();
    let good = !name.is_empty()
        && name.len() <= 64
        && name.split('-').all(|part| {
            !part.is_empty()
                && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
        });
    good.then_some(()).ok_or_else(|| format!("slice is {slice:?}; write it like ci_jobs.slice"))
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

/// Names of users and groups.
#[derive(Default)]
struct Names {
    users: Vec<(String, u32)>,
    groups: Vec<(String, u32)>,
}

fn read_names(path: &str) -> Vec<(String, u32)> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let row = |line: &str| {
        let mut fields = line.split(':');
        Some((fields.next()?.to_owned(), fields.nth(1)?.parse().ok()?))
    };
    text.lines().filter_map(row).collect()
}

fn id_of(names: &[(String, u32)], name: &str) -> Option<u32> {
    name.parse().ok().or_else(|| names.iter().find(|(known, _)| known == name).map(|(_, id)| *id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::fs::PermissionsExt;

    const GOOD: &str = r#"{"kind": "systemd", "group": "ci", "users": ["ci", "7"], "log_dir": "/var/log/ci",
        "program": "/opt/ci-runner-spawner", "pools": {"default": {"profiles": ["build", "strict"]}}}"#;

    fn names() -> Names {
        let ci = || vec![("ci".to_owned(), 42)];
        Names { users: ci(), groups: ci() }
    }

    fn start(pool: &str, profile: Option<&str>) -> Start {
        Start {
            key: "0123abcd-1-1".parse().expect("a key"),
            pool: pool.to_owned(),
            slot: 0,
            timeout_ms: None,
            soft_timeout_ms: None,
            grace_ms: 0,
            log_bytes_max: 0,
            secrets: false,
            profile: profile.map(str::to_owned),
        }
    }

    #[test]
    fn a_policy_says_who_what_and_where() {
        let policy = Policy::parse(&format!("# by hand\n{GOOD}\n# end\n"), &names()).expect("parses");
        assert_eq!((policy.group, policy.users.as_slice()), (42, &[42, 7][..]));
        assert_eq!(policy.dir, Path::new("/run/ci-runner-spawner"));
        assert_eq!(policy.profile(&start("default", None)), Ok(Profile::Build));
        assert_eq!(policy.profile(&start("default", Some("strict"))), Ok(Profile::Strict));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (from, to, want) in [
            ("systemd", "native", "kind"),
            ("\"ci\"", "\"nobody-here\"", "nobody-here"),
            ("/var/log/ci", "log", "log_dir"),
            ("/opt/", "/opt/../", "program"),
            ("\"build\"", "\"root\"", "\"root\" is no profile"),
            ("[\"build\", \"strict\"]", "[]", "is empty"),
            ("\"group\"", "\"ExecStart\": \"x\", \"group\"", "ExecStart"),
            ("\"group\"", "\"slice\": \"../x.slice\", \"group\"", "slice"),
        ] {
            let text = GOOD.replacen(from, to, 1);
            let why = Policy::parse(&text, &names()).expect_err(&text);
            assert!(why.contains(want), "{why}");
        }
    }

    #[test]
    fn only_the_owners_word_counts() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("policy.json");
        std::fs::write(&path, GOOD.replace("\"ci\"", "\"0\"")).expect("written");
        let set = |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("set");
        set(&path, 0o644);
        set(dir.path(), 0o755);
        assert!(Policy::read(&path).is_ok());
        set(&path, 0o664);
        assert!(Policy::read(&path).is_err_and(|why| why.contains("written by others (mode 0664)")));
        set(&path, 0o644);
        set(dir.path(), 0o777);
        assert!(Policy::read(&path).is_err_and(|why| why.contains("its directory can be written")));
        set(dir.path(), 0o1777);
        assert!(Policy::read(&path).is_ok());
        set(dir.path(), 0o755);
        assert!(Policy::read(&dir.path().join("none")).is_err_and(|why| why.contains("cannot be opened")));
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&path, Some(1), None).expect("given away");
            assert!(Policy::read(&path).is_err_and(|why| why.contains("belongs to user 1")));
        }
    }

    proptest! {
        /// Nothing but the names in the policy is ever chosen.
        #[test]
        fn words_outside_the_vocabulary_are_refused(pool in "\\PC{0,20}", profile in "\\PC{0,20}") {
            let policy = Policy::parse(GOOD, &names()).expect("parses");
            let chosen = policy.profile(&start(&pool, Some(&profile)));
            prop_assert_eq!(chosen.is_ok(), pool == "default" && (profile == "build" || profile == "strict"));
            prop_assert!(policy.profile(&start("default", Some(&profile))).is_ok() == (profile == "build" || profile == "strict"));
        }
    }
}
