//! The policy: the one source of users, paths and profiles. Root writes it, the daemon only names what is in it.
//!
//! Unknown keys are refused.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::limits::{LimitsFile, Maxima};
use super::places::Person;
use super::profile::Profile;
use crate::policy_file::{self, Names};
use crate::protocol::Start;

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
    user: Option<String>,
    #[serde(default)]
    paths: Vec<PathBuf>,
    submitters: Option<Vec<String>>,
    #[serde(default)]
    degrade: bool,
    #[serde(default)]
    limits: LimitsFile,
}

/// What jobs of a pool may be.
#[derive(Debug)]
pub(super) struct Pool {
    /// The first is the default.
    profiles: Vec<Profile>,
    /// As whom they run; None: each as a user of its own.
    pub(super) person: Option<Person>,
    /// Who may submit, beside root; None: whoever may use the daemon.
    submitters: Option<Vec<u32>>,
    /// Jobs run although their sandbox lacks something here.
    pub(super) degrade: bool,
    /// Most that they may use.
    pub(super) maxima: Maxima,
}

/// Why a start is refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The policy may be mended: the daemon tries again.
    NotNow(String),
    /// It is the job's own fault, and its result.
    Never(String),
}

/// Where the daemon of a service has its socket.
const DAEMON_RUNTIME_DIR: &str = "/run/ci-runner";

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
    /// By name.
    pools: BTreeMap<String, Pool>,
}

impl Policy {
    /// Checks the text of the file. Err: in words.
    pub(super) fn parse(text: &str, names: &Names) -> Result<Self, String> {
        let file: PolicyFile = serde_json::from_str(text).map_err(|error| format!("does not parse: {error}"))?;
        if file.kind != super::KIND {
            return Err(format!("kind is {:?}; this is the spawner of units", file.kind));
        }
        for (key, path) in [("dir", &file.dir), ("log_dir", &file.log_dir), ("program", &file.program)] {
            policy_file::check_path(key, path)?;
        }
        check_slice(&file.slice)?;
        let user = |name: &String| names.uid(name).ok_or(format!("users: there is no user {name:?}"));
        let users: Vec<u32> = file.users.iter().map(user).collect::<Result<_, _>>()?;
        let mut pools = BTreeMap::new();
        for (name, pool) in file.pools {
            let pool = Pool::new(pool, names, &users).map_err(|why| format!("pools.{name}.{why}"))?;
            pools.insert(name, pool);
        }
        Ok(Self {
            dir: file.dir,
            group: names.group(&file.group)?,
            users,
            log_dir: file.log_dir,
            program: file.program,
            slice: file.slice,
            pools,
        })
    }

    /// As whom the jobs of a pool run.
    pub(super) fn person(&self, pool: &str) -> Option<&Person> {
        self.pools.get(pool)?.person.as_ref()
    }

    /// Directories that no job of a person may look into, whatever groups that person is in.
    pub(super) fn own_dirs(&self) -> [String; 3] {
        let optional = |path: &Path| format!("-{}", path.display());
        [optional(&self.dir), optional(&self.log_dir), optional(Path::new(DAEMON_RUNTIME_DIR))]
    }

    /// The pool of a start, and its profile: the one it names, if that pool may use it, or the pool's first.
    pub(super) fn judge(&self, start: &Start) -> Result<(&Pool, Profile), Refusal> {
        let pool = self.pools.get(&start.pool).ok_or_else(|| {
            let text = "the spawner's policy does not name the pool";
            Refusal::NotNow(format!("{text} {:?}; add it there, under \"pools\"", start.pool))
        })?;
        pool.check_submitter(start.submitter).map_err(|why| {
            Refusal::Never(format!("the spawner's policy does not let {why} submit to the pool {:?}", start.pool))
        })?;
        let Some(name) = &start.profile else { return Ok((pool, pool.profiles[0])) };
        let found = pool.profiles.iter().copied().find(|profile| profile.name() == name);
        let profile = found.ok_or_else(|| {
            let names: Vec<&str> = pool.profiles.iter().map(|profile| profile.name()).collect();
            let name = crate::record::shortened_name(name);
            Refusal::Never(format!(
                "the spawner's policy does not allow the profile {name:?} in the pool {:?}, only {}",
                start.pool,
                names.join(", ")
            ))
        })?;
        Ok((pool, profile))
    }
}

impl Pool {
    fn new(file: PoolFile, names: &Names, daemons: &[u32]) -> Result<Self, String> {
        let profile = |word: &String| Profile::named(word).ok_or(format!("profiles: {word:?} is no profile"));
        let profiles: Vec<Profile> = file.profiles.iter().map(profile).collect::<Result<_, _>>()?;
        if profiles.is_empty() {
            return Err("profiles is empty: name at least one, the default first".to_owned());
        }
        let person = match &file.user {
            None if file.paths.is_empty() => None,
            None => return Err("paths stands without user: say whose they are".to_owned()),
            Some(name) => {
                let user = names.user(name);
                let user = user.ok_or_else(|| format!("user: {name:?} is not in /etc/passwd"))?;
                Some(Person::new(user.clone(), file.paths, daemons)?)
            }
        };
        let own = person.as_ref().map(|person| vec![person.user.uid]);
        let submitters = match file.submitters {
            None => own,
            Some(list) => {
                let id =
                    |name: &String| names.uid(name).ok_or_else(|| format!("submitters: there is no user {name:?}"));
                Some(list.iter().map(id).collect::<Result<_, _>>()?)
            }
        };
        let maxima = file.limits.check()?;
        Ok(Self { profiles, person, submitters, degrade: file.degrade, maxima })
    }

    /// Err: who it was.
    fn check_submitter(&self, submitter: Option<u32>) -> Result<(), String> {
        match (&self.submitters, submitter) {
            (None, _) | (Some(_), Some(0)) => Ok(()),
            (Some(allowed), Some(uid)) if allowed.contains(&uid) => Ok(()),
            (Some(_), Some(uid)) => Err(format!("user {uid}")),
            (Some(_), None) => Err("nobody in particular".to_owned()),
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy_file::User;
    use proptest::prelude::*;
    use std::os::unix::fs::PermissionsExt;

    const GOOD: &str = r#"{"kind": "systemd", "group": "ci", "users": ["ci", "7"], "log_dir": "/var/log/ci",
        "program": "/opt/ci-runner-spawner", "pools": {"default": {"profiles": ["build", "strict"]}}}"#;

    fn names() -> Names {
        let user =
            |name: &str, uid| User { name: name.to_owned(), uid, gid: uid, home: format!("/home/{name}").into() };
        Names {
            users: vec![user("ci", 42), user("ada", 1000), user("bob", 1001), user("root", 0)],
            groups: vec![("ci".to_owned(), 42)],
        }
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
            submitter: None,
            limits: crate::protocol::Limits::default(),
        }
    }

    fn chosen(policy: &Policy, start: &Start) -> Result<Profile, Refusal> {
        policy.judge(start).map(|(_, profile)| profile)
    }

    #[test]
    fn a_policy_says_who_what_and_where() {
        let text = policy_file::without_comments(&format!("# by hand\n{GOOD}\n# end\n"));
        let policy = Policy::parse(&text, &names()).expect("parses");
        assert_eq!((policy.group, policy.users.as_slice()), (42, &[42, 7][..]));
        assert_eq!(policy.dir, Path::new("/run/ci-runner-spawner"));
        assert_eq!(chosen(&policy, &start("default", None)), Ok(Profile::Build));
        assert_eq!(chosen(&policy, &start("default", Some("strict"))), Ok(Profile::Strict));
        assert!(matches!(chosen(&policy, &start("default", Some("open"))), Err(Refusal::Never(_))));
        assert!(matches!(chosen(&policy, &start("other", None)), Err(Refusal::NotNow(_))));
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
    fn a_persons_pool_is_for_its_submitters_only() {
        let parse = |keys: &str| {
            let pool = format!("\"mine\": {{\"profiles\": [\"build\"], {keys}}}, \"default\"");
            Policy::parse(&GOOD.replacen("\"default\"", &pool, 1), &names())
        };
        let allowed = |policy: &Policy, uid: Option<u32>| {
            chosen(policy, &Start { submitter: uid, ..start("mine", None) }).is_ok()
        };
        let tree = r#""user": "ada", "paths": ["/home/ada/src"]"#;
        let policy = parse(tree).expect("parses");
        assert_eq!(
            [Some(1000), Some(0), Some(1001), Some(42), None].map(|uid| allowed(&policy, uid)),
            [true, true, false, false, false],
            "beside root, its user alone"
        );
        assert!(chosen(&policy, &start("default", None)).is_ok(), "others are for everybody");
        let policy = parse(&format!(r#"{tree}, "submitters": ["bob", "7"]"#)).expect("parses");
        assert_eq!([1000, 1001, 7].map(|uid| allowed(&policy, Some(uid))), [false, true, true]);
        let why = chosen(&policy, &Start { submitter: Some(1000), ..start("mine", None) }).expect_err("refused");
        assert!(
            matches!(&why, Refusal::Never(text) if text.contains("user 1000") && text.contains("\"mine\"")),
            "{why:?}"
        );
        for (keys, want) in [
            (r#""user": "eve", "paths": ["/srv/x"]"#, "pools.mine.user: \"eve\" is not in /etc/passwd"),
            (r#""user": "root", "paths": ["/srv/x"]"#, "never run as root"),
            (r#""user": "ci", "paths": ["/srv/x"]"#, "the daemon's own"),
            (r#""paths": ["/srv/x"]"#, "paths stands without user"),
            (r#""user": "ada""#, "paths is empty"),
            (r#""submitters": ["eve"]"#, "submitters: there is no user \"eve\""),
        ] {
            let why = parse(keys).expect_err(keys);
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
        assert!(policy_file::read(&path).is_ok());
        set(&path, 0o664);
        assert!(policy_file::read(&path).is_err_and(|why| why.contains("written by others (mode 0664)")));
        set(&path, 0o644);
        set(dir.path(), 0o777);
        assert!(policy_file::read(&path).is_err_and(|why| why.contains("its directory can be written")));
        set(dir.path(), 0o1777);
        assert!(policy_file::read(&path).is_ok());
        set(dir.path(), 0o755);
        assert!(policy_file::read(&dir.path().join("none")).is_err_and(|why| why.contains("cannot be opened")));
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&path, Some(1), None).expect("given away");
            assert!(policy_file::read(&path).is_err_and(|why| why.contains("belongs to user 1")));
        } else {
            crate::skipped::tell("a part of unit::policy, files of other users", "only root can give files away");
        }
    }

    proptest! {
        /// Nothing but the names in the policy is ever chosen.
        #[test]
        fn words_outside_the_vocabulary_are_refused(pool in "\\PC{0,20}", profile in "\\PC{0,20}") {
            let policy = Policy::parse(GOOD, &names()).expect("parses");
            let found = chosen(&policy, &start(&pool, Some(&profile)));
            prop_assert_eq!(found.is_ok(), pool == "default" && (profile == "build" || profile == "strict"));
            prop_assert!(chosen(&policy, &start("default", Some(&profile))).is_ok() == (profile == "build" || profile == "strict"));
        }
    }
}
