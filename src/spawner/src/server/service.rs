//! The spawner of kind `native` as a service of root: each slot has a user of its own.
//!
//! The daemon names a pool and an attempt; which user runs it is chosen here, among those that root's policy lists for the
//! pool and that nobody uses. A user is in use from its attempt's start until nothing of the job is left and its directory is
//! empty, whatever the policy says meanwhile: the attempt notes whose it is. Claims that a daemon makes ahead may name places beyond the slots: they get whichever user is free by then.
//!
//! Shims stay root, so that no job can signal or read its shim; a job's process changes its user just before it executes.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use serde::Deserialize;

use super::setup::{Home, Options};
use super::{NoHome, Server};
use crate::notes::Notes;
use crate::policy_file::{self, Names, User};
use crate::protocol::Start;
use crate::service::{self, Then};
use crate::sys;
use crate::unit::home;

/// What `kind` is in the policy.
pub(crate) const KIND: &str = "native";
/// Mode of the directory of slots' directories: to be passed through.
const TMP_DIR_MODE: u32 = 0o711;

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
    tmp_dir: PathBuf,
    program: PathBuf,
    job_open_files: Option<u64>,
    pools: BTreeMap<String, PoolFile>,
}

/// `pools.NAME`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PoolFile {
    users: Vec<String>,
}

fn default_dir() -> PathBuf {
    "/run/ci-runner-jobs".into()
}

/// What root allows.
#[derive(Debug)]
pub(crate) struct Policy {
    dir: PathBuf,
    /// Group that may connect and read logs.
    group: u32,
    /// Users that may connect.
    daemons: Vec<u32>,
    log_dir: PathBuf,
    tmp_dir: PathBuf,
    program: PathBuf,
    job_open_files: Option<u64>,
    /// Users of slots, by pool.
    pools: BTreeMap<String, Vec<User>>,
}

impl Policy {
    fn parse(text: &str, names: &Names) -> Result<Self, String> {
        let file: PolicyFile = serde_json::from_str(text).map_err(|error| format!("does not parse: {error}"))?;
        if file.kind != KIND {
            return Err(format!("kind is {:?}; this is the spawner of native jobs", file.kind));
        }
        let paths =
            [("dir", &file.dir), ("log_dir", &file.log_dir), ("tmp_dir", &file.tmp_dir), ("program", &file.program)];
        for (key, path) in paths {
            policy_file::check_path(key, path)?;
        }
        let daemon = |name: &String| names.uid(name).ok_or(format!("users: there is no user {name:?}"));
        let daemons: Vec<u32> = file.users.iter().map(daemon).collect::<Result<_, _>>()?;
        let group = names.group(&file.group)?;
        let mut seen: HashSet<u32> = HashSet::new();
        let mut pools = BTreeMap::new();
        for (pool, PoolFile { users }) in file.pools {
            let of_slot = |name: &String| slot_user(name, names, (&daemons, group), &mut seen);
            let users: Result<Vec<User>, String> = users.iter().map(of_slot).collect();
            let users = users.map_err(|why| format!("pools.{pool}.users: {why}"))?;
            if users.is_empty() {
                return Err(format!("pools.{pool}.users is empty: name a user for each slot"));
            }
            pools.insert(pool, users);
        }
        let PolicyFile { dir, log_dir, tmp_dir, program, job_open_files, .. } = file;
        Ok(Self { dir, group, daemons, log_dir, tmp_dir, program, job_open_files, pools })
    }

    /// True for who may connect, beside root.
    pub(super) fn lets_in(&self, uid: u32) -> bool {
        self.daemons.contains(&uid)
    }

    /// The user of a slot, by the slot's name.
    pub(super) fn user_of(&self, slot: &str) -> Option<&User> {
        let (pool, number) = slot.rsplit_once('-')?;
        self.pools.get(pool)?.get(number.parse::<usize>().ok()?)
    }

    /// A user who is free, the one of the slot that is asked for if it can be, and a name for the slot that is free too: its
    /// own, unless jobs run that began under another policy. `refused_ms` says of a user who is free when a start was refused
    /// last, if one was: they come last, the one that was not tried for longest first.
    pub(super) fn choose(
        &self,
        start: &Start,
        is_slot_used: impl Fn(&str) -> bool,
        refused_ms: impl Fn(u32) -> Option<Option<u64>>,
    ) -> Result<(String, &User), String> {
        let users = self.pools.get(&start.pool).ok_or_else(|| {
            format!("the spawner's policy does not name the pool {:?}; add it there, under \"pools\"", start.pool)
        })?;
        let asked = usize::try_from(start.slot).ok().filter(|slot| *slot < users.len());
        let places = asked.into_iter().chain(0..users.len());
        let free = places.filter_map(|place| Some((refused_ms(users[place].uid)?, place)));
        let place = free.min_by_key(|(refused_ms, _)| *refused_ms).map(|(_, place)| place);
        let place =
            place.ok_or_else(|| format!("all {} users of the pool {:?} are in use", users.len(), start.pool))?;
        let mut names = std::iter::once(place).chain(0..).map(|place| format!("{}-{place}", start.pool));
        let name = names.find(|name| !is_slot_used(name)).ok_or("all names of slots are in use")?;
        Ok((name, &users[place]))
    }
}

/// Nobody else's: jobs reach all that this user has.
fn slot_user(
    name: &str,
    names: &Names,
    (daemons, group): (&[u32], u32),
    seen: &mut HashSet<u32>,
) -> Result<User, String> {
    let user = names.user(name).ok_or_else(|| format!("{name:?} is not in /etc/passwd"))?;
    if user.uid == 0 || daemons.contains(&user.uid) {
        return Err(format!("{name:?} is root or the daemon's own user; each slot needs one that has nothing"));
    }
    if user.gid == group || user.gid == 0 {
        return Err(format!("{name:?} is in the group that may use the runner; give it one of its own"));
    }
    if !seen.insert(user.uid) {
        return Err(format!("{name:?} is named twice; each slot needs a user of its own"));
    }
    Ok(user.clone())
}

/// `--policy FILE`, of this kind: everything from the policy's text to the end; the process' exit code. Err: why not.
pub(crate) fn serve(text: &str, words: &[OsString], notes: Option<Notes>) -> Result<i32, String> {
    let policy = Policy::parse(text, &Names::of_system())?;
    let said = |why: String| {
        eprintln!("ci-runner-spawner: {why}");
        Ok(1)
    };
    let mut server = match open(policy, notes) {
        Ok(server) => server,
        Err(NoHome::Taken(pid)) => return said(format!("another spawner holds the directory, process {pid}")),
        Err(NoHome::Fault(why)) => return said(why),
    };
    service::notify_ready();
    loop {
        server.run();
        // The program anew would find a new directory, and no word of what runs.
        if server.then == Some(Then::Upgrade) && server.is_homeless() {
            say!("asked to upgrade: ends when nothing runs any more, for a new start");
            server.then = None;
            continue;
        }
        if server.then.take() == Some(Then::Upgrade) {
            let program = |text: &str| Policy::parse(text, &Names::of_system()).map(|policy| policy.program);
            server.hand_on_records();
            match service::upgrade(words, &server.notes, program) {
                None => continue,
                Some(code) => return Ok(code),
            }
        }
        server.write_kept_records();
        say!("{}", if server.is_homeless() { "ends for a new start" } else { "asked to end: jobs go on" });
        return Ok(0);
    }
}

fn open(policy: Policy, notes: Option<Notes>) -> Result<Server, NoHome> {
    let open_files = sys::raise_open_files();
    let options = Options {
        runtime_dir: policy.dir.clone(),
        log_dir: policy.log_dir.clone(),
        tmp_dir: policy.tmp_dir.clone(),
        linger_ms: u64::MAX,
        die_with_daemon: None,
        job_open_files: policy.job_open_files,
        group: Some(policy.group),
        no_cgroup: false,
        no_clone3: false,
    };
    home::own_dir(CWD, Path::new(&policy.tmp_dir), TMP_DIR_MODE, None)
        .map_err(|error| NoHome::Fault(format!("{}: cannot make the directory: {error}", policy.tmp_dir.display())))?;
    let home = Home::of_service(&policy.dir, policy.group)?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|error| NoHome::Fault(format!("cannot take in orphans: {error}")))?;
    let mut server = Server::listening(&options, open_files, home)?;
    server.shared.cgroup.as_ref().ok_or_else(|| {
        NoHome::Fault("no cgroup can be made for a job here: the service needs Delegate=yes and cgroup v2".to_owned())
    })?;
    if let Some(Notes { reader, writer }) = notes {
        (server.notes, server.shared.notes) = (reader, writer);
    }
    server.service = Some(policy);
    server.load_generations().map_err(|error| server.fault("cannot read the generations", error))?;
    server.take_over().map_err(NoHome::Fault)?;
    say!(
        "spawner {} of native jobs started, process {}, {} attempts taken over",
        env!("CARGO_PKG_VERSION"),
        std::process::id(),
        server.attempts.len()
    );
    Ok(server)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const GOOD: &str = r#"{"kind": "native", "group": "ci", "users": ["ci"], "log_dir": "/var/log/ci", "tmp_dir": "/t",
        "program": "/opt/ci-runner-spawner", "pools": {"default": {"users": ["job-0", "job-1"]}}}"#;

    fn names() -> Names {
        let user = |name: &str, uid| User { name: name.to_owned(), uid, gid: uid, home: "/".into() };
        let users = [("root", 0), ("ci", 42), ("job-0", 900), ("job-1", 901), ("in-group", 902)];
        let mut users: Vec<User> = users.map(|(name, uid)| user(name, uid)).to_vec();
        users[4].gid = 42;
        Names { users, groups: vec![("ci".to_owned(), 42)] }
    }

    /// Two users, 900 and 901, for the slots of one pool.
    pub(in crate::server) fn policy() -> Policy {
        Policy::parse(GOOD, &names()).expect("a policy")
    }

    pub(in crate::server) fn start(pool: &str, slot: u32) -> Start {
        Start {
            key: "0123abcd-1-1".parse().expect("a key"),
            pool: pool.to_owned(),
            slot,
            timeout_ms: None,
            soft_timeout_ms: None,
            grace_ms: 0,
            log_bytes_max: 0,
            secrets: false,
            profile: None,
            limits: Default::default(),
            submitter: None,
        }
    }

    /// Nobody was refused.
    fn free_but(used: &[u32]) -> impl Fn(u32) -> Option<Option<u64>> {
        |uid| (!used.contains(&uid)).then_some(None)
    }

    #[test]
    fn a_place_beyond_the_slots_gets_the_user_that_is_free() {
        let policy = policy();
        let choose = |slot, used: &[&str]| {
            let uids: Vec<u32> = used.iter().filter_map(|name| Some(policy.user_of(name)?.uid)).collect();
            let chosen = policy.choose(&start("default", slot), |name| used.contains(&name), free_but(&uids));
            chosen.map(|(name, user)| {
                assert_eq!(policy.user_of(&name), Some(user));
                name
            })
        };
        assert_eq!(choose(1, &[]), Ok("default-1".to_owned()));
        assert_eq!(choose(7, &[]), Ok("default-0".to_owned()));
        assert_eq!(choose(7, &["default-0"]), Ok("default-1".to_owned()));
        assert_eq!(choose(0, &["default-0"]), Ok("default-1".to_owned()));
        assert!(choose(0, &["default-0", "default-1"]).is_err_and(|why| why.contains("all 2 users")));
        assert!(
            policy
                .choose(&start("other", 0), |_| false, free_but(&[]))
                .is_err_and(|why| why.contains("does not name the pool"))
        );
        assert_eq!(policy.user_of("default-1").map(|user| user.uid), Some(901));
        assert_eq!(policy.user_of("default-2"), None);
    }

    #[test]
    fn a_user_in_use_is_not_given_again_whatever_its_place_is_now() {
        let policy = Policy::parse(&GOOD.replace("\"job-0\", ", ""), &names()).expect("parses");
        let choose = |used: &[&str], uids: &[u32]| {
            let chosen = policy.choose(&start("default", 0), |name| used.contains(&name), free_but(uids));
            chosen.map(|(name, user)| (name, user.uid))
        };
        assert!(choose(&["default-1"], &[901]).is_err_and(|why| why.contains("all 1 users")));
        assert_eq!(choose(&["default-0"], &[900]), Ok(("default-1".to_owned(), 901)), "in a place that is free");
        assert_eq!(choose(&["default-1"], &[900]), Ok(("default-0".to_owned(), 901)));
    }

    #[test]
    fn a_user_as_whom_nothing_starts_comes_last() {
        let policy = policy();
        let choose = |refused: [Option<u64>; 2]| {
            let refused_ms = |uid: u32| Some(refused[uid as usize - 900]);
            policy.choose(&start("default", 0), |_| false, refused_ms).expect("a user").1.uid
        };
        let chosen = [[None, None], [Some(5), None], [Some(5), Some(6)], [Some(7), Some(6)]].map(choose);
        assert_eq!(chosen, [900, 901, 900, 901]);
    }

    #[test]
    fn users_that_have_something_are_refused() {
        for (from, to, want) in [
            ("job-1", "job-0", "named twice"),
            ("job-1", "root", "root or the daemon"),
            ("job-1", "ci", "root or the daemon"),
            ("job-1", "in-group", "the group that may use"),
            ("job-1", "nobody-here", "not in /etc/passwd"),
            ("\"job-0\", \"job-1\"", "", "is empty"),
            ("\"/t\"", "\"t\"", "tmp_dir"),
            ("native", "systemd", "kind"),
            ("\"group\"", "\"uid\": 0, \"group\"", "uid"),
        ] {
            let why = Policy::parse(&GOOD.replacen(from, to, 1), &names()).expect_err(to);
            assert!(why.contains(want), "{why}");
        }
    }

    #[test]
    fn only_a_private_spawner_lets_daemons_say_where_logs_and_slots_are() {
        use crate::daemons::Serve;
        let dir = tempfile::tempdir().expect("a directory");
        let mut server = crate::server::takeover::tests::server(dir.path());
        assert!(server.introduction().dirs);
        server.service = Some(policy());
        assert!(!server.introduction().dirs);
    }
}
