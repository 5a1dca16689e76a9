//! Several stores on one spawner, each with directories and slots of its own.

use std::fs;
use std::path::PathBuf;

use ci_runner_spawner::client::Client;
use ci_runner_spawner::joblog::log_path;
use ci_runner_spawner::protocol::{AttemptKey, ExitRecord, PROTOCOL_VERSION, Reply, Request};

use crate::common::*;

/// A second store's daemon.
struct Other {
    store: &'static str,
    client: Client,
}

impl Other {
    /// Says hello, and where its directories are.
    fn connect(host: &Host, store: &'static str, dirs: Option<(PathBuf, PathBuf)>) -> Self {
        let mut client = Client::connect(&host.socket()).unwrap();
        client.send(&[Request::Hello { protocol: PROTOCOL_VERSION, store: store.to_owned(), generation: 1 }]).unwrap();
        let mut other = Self { store, client };
        assert!(other.reply(|reply| match reply {
            Reply::Welcome { dirs, .. } => Some(dirs),
            _ => None,
        }));
        if let Some((log_dir, tmp_dir)) = dirs {
            let text = |path: PathBuf| path.to_str().unwrap().to_owned();
            other.client.send(&[Request::Dirs { log_dir: text(log_dir), tmp_dir: text(tmp_dir) }]).unwrap();
        }
        other
    }

    fn reply<T>(&mut self, fits: impl Fn(Reply) -> Option<T>) -> T {
        loop {
            assert!(self.client.wait(PATIENCE).unwrap(), "no answer");
            if let Some(found) = self.client.recv().unwrap().into_iter().find_map(&fits) {
                return found;
            }
        }
    }

    fn key(&self, job: u64) -> AttemptKey {
        AttemptKey { store: self.store.to_owned(), job, attempt: 1 }
    }

    /// In the slot that the host's job of this number has, too.
    fn start(&mut self, host: &Host, job: u64, script: &str) {
        let mut start = host.request(job);
        start.key = self.key(job);
        self.client.send_start(start, &host.script(script), None).unwrap();
    }

    fn end(&mut self, job: u64) -> ExitRecord {
        let key = self.key(job);
        self.reply(|reply| match reply {
            Reply::Ended { key: of, record } if of == key => Some(record.unwrap()),
            Reply::RefusedStart { why, .. } => panic!("{why}"),
            _ => None,
        })
    }
}

fn log_in(dir: PathBuf, job: u64) -> Option<String> {
    fs::read_to_string(dir.join(log_path(job, 1))).ok()
}

/// They used to write into the logs of the store that the spawner was started by, and to wait for its slots.
#[test]
fn stores_have_logs_and_slots_of_their_own() {
    let mut host = Host::started(Cgroup::Auto);
    let running = host.script("echo $TMPDIR; echo first >$TMPDIR/own; exec sleep 600");
    host.start(1, &running);
    host.wait_started(1);
    let own_log = host.path("log");
    let first = wait_for("the first store's log", || log_in(own_log.clone(), 1).filter(|text| text.ends_with('\n')));
    let mut other = Other::connect(&host, "00000000", Some((host.path("log2"), host.path("tmp2"))));
    let script = "echo $TMPDIR; ls -A $TMPDIR; echo second >$TMPDIR/own";
    other.start(&host, 1, script);
    other.end(1);
    let tmpdir = host.path("tmp2/00000000-default-1");
    assert_eq!(log_in(host.path("log2"), 1).unwrap(), format!("{}\n", tmpdir.display()));
    assert_eq!(fs::read_dir(&tmpdir).unwrap().count(), 0, "wiped");
    assert_eq!(log_in(own_log.clone(), 1).unwrap(), first, "untouched");
    assert_eq!(fs::read_to_string(PathBuf::from(first.trim()).join("own")).unwrap(), "first\n");
    // An older daemon names no directories: those of the command line, and still a slot of its own.
    let mut older = Other::connect(&host, "11111111", None);
    older.start(&host, 1, "exit 3");
    older.end(1);
    older.start(&host, 2, "echo $TMPDIR");
    older.end(2);
    assert_eq!(log_in(own_log, 2).unwrap(), format!("{}\n", host.path("tmp/11111111-default-2").display()));
    host.send(Request::Kill(host.key(1)));
    host.record(1);
}

/// The control of the words: what is no absolute path is not taken.
#[test]
fn directories_that_are_none_are_refused() {
    let host = Host::started(Cgroup::Auto);
    let mut other = Other::connect(&host, "00000000", Some(("log".into(), "/tmp".into())));
    let why = other.reply(|reply| match reply {
        Reply::Refused { why } => Some(why),
        _ => None,
    });
    assert!(why.contains("no absolute path"), "{why}");
}

#[test]
fn a_successor_with_other_directories_empties_the_slot_of_a_dead_shim() {
    let mut host = Host::started(Cgroup::Auto);
    let mut other = Other::connect(&host, "00000000", Some((host.path("log2"), host.path("tmp2"))));
    other.start(&host, 1, "echo x >$TMPDIR/left; exec sleep 600");
    let left = host.path("tmp2/00000000-default-1/left");
    host.wait_file(&left);
    let identity = host.path("run/spawner/attempts").join(other.key(1).to_string()).join("lock");
    let identity = fs::read_to_string(identity).unwrap();
    let shim: i32 = identity.split(' ').next().unwrap().parse().unwrap();
    host.kill_spawner();
    kill(shim, "KILL");
    host.connect();
    wait_for("an empty slot", || (!left.exists()).then_some(()));
    let mut other = Other::connect(&host, "00000000", None);
    other.client.send(&[Request::List]).unwrap();
    other.reply(|reply| matches!(reply, Reply::Listed).then_some(()));
}

#[test]
fn a_log_that_another_left_under_the_same_name_is_not_gone_on_with() {
    let mut host = Host::started(Cgroup::Auto);
    let left = |host: &Host, job: u64| {
        let path = host.path("log").join(log_path(job, 1));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        for suffix in ["", ".zst"] {
            fs::write(format!("{}{suffix}", path.display()), "of another\n").unwrap();
        }
        path
    };
    let (loud, silent) = (left(&host, 1), left(&host, 2));
    host.start(1, &host.script("echo own"));
    host.start(2, &host.script("true"));
    host.end(1);
    host.end(2);
    assert!(host.log(1).starts_with("own\n"), "{}", host.log(1));
    assert!(!fs::read_to_string(&silent).unwrap_or_default().contains("of another"));
    for path in [loud, silent] {
        assert!(!path.with_extension("log.zst").exists());
    }
}
