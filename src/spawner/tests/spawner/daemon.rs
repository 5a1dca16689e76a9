//! A daemon in small, for tests in which somebody dies.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::time::{Duration, Instant};

use ci_runner_spawner::protocol::{AttemptKey, ExitResult, Reply, Request, Seen};

use crate::common::{Cgroup, Host, PATIENCE};

/// Jobs of one failing spawner.
pub const JOBS: u64 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    Run,
    Stop,
    Kill,
    Void,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    Nothing,
    Ended(ExitResult),
    Lost,
    Voided,
}

/// A daemon in small: what it knows decides what it asks, and it asks again whenever the connection was lost.
pub struct Daemon {
    pub host: Host,
    pub flow: Flow,
    pub known: HashMap<AttemptKey, Known>,
    /// Told to stop or die already.
    pub asked: HashSet<AttemptKey>,
    /// What a job does after it said that it runs.
    pub pause: &'static str,
    /// Attempts to be killed again after a new connection.
    pub say_again: Vec<AttemptKey>,
}

impl Daemon {
    pub fn new(cgroup: Cgroup, flow: Flow, jobs: u64) -> Self {
        let host = Host::new(cgroup);
        let known = (1..=jobs).map(|job| (host.key(job), Known::Nothing)).collect();
        Self { host, flow, known, asked: HashSet::new(), pause: "", say_again: Vec::new() }
    }

    /// With a spawner whose processes die at a point.
    pub fn failing_at(point: &str, pass: u64, cgroup: Cgroup, flow: Flow) -> Self {
        let mut daemon = Self::new(cgroup, flow, JOBS);
        let host = &mut daemon.host;
        let count = host.path("count");
        fs::create_dir(&count).unwrap();
        host.environment = vec![
            ("CI_RUNNER_FAIL".to_owned(), format!("{point}:{pass}")),
            ("CI_RUNNER_FAIL_DIR".to_owned(), count.display().to_string()),
        ];
        daemon
    }

    pub fn ask(&mut self, key: &AttemptKey) {
        let dir = self.host.dir.path().display();
        let job = key.job;
        let rest = match self.flow {
            Flow::Run | Flow::Void => self.pause,
            Flow::Stop | Flow::Kill => "while :; do sleep 0.02; done",
        };
        let script = self.host.script(&format!("echo {job} >> {dir}/ran; (setsid sleep 1000 &) ; {rest}"));
        let start = self.host.request(job);
        // After the next hello everything is listed and asked again.
        let Some(client) = &mut self.host.client else { return };
        // A lost connection shows when it is read.
        let _ = match self.flow {
            Flow::Void => client.send(&[Request::Void(key.clone())]),
            _ => client.send_start(start, &script, None),
        };
    }

    fn open(&self) -> Vec<AttemptKey> {
        self.known.iter().filter(|(_, known)| **known == Known::Nothing).map(|(key, _)| key.clone()).collect()
    }

    fn hear(&mut self) -> bool {
        let connected = self.host.client.is_some() && self.host.read_for(Duration::from_millis(10));
        let replies: Vec<Reply> = self.host.replies.drain(..).collect();
        for reply in replies {
            match reply {
                Reply::Ended { key, record } => {
                    let known = record.map_or(Known::Lost, |record| Known::Ended(record.result));
                    self.known.insert(key, known);
                }
                Reply::RefusedStart { key, voided: false, .. } => self.ask(&key),
                Reply::RefusedStart { key, voided: true, .. } | Reply::Voided { key } => {
                    self.known.insert(key, Known::Voided);
                }
                Reply::Attempt { key, seen, .. } => match seen {
                    Seen::Ended(record) => drop(self.known.insert(key, Known::Ended(record.result))),
                    Seen::Lost => drop(self.known.insert(key, Known::Lost)),
                    Seen::Voided => drop(self.known.insert(key, Known::Voided)),
                    Seen::NotBegan => self.ask(&key),
                    Seen::Alive | Seen::Leftovers => {}
                },
                Reply::Started { .. } | Reply::Listed | Reply::Pong | Reply::Welcome { .. } => {}
                Reply::Refused { why } => panic!("{why}"),
            }
        }
        connected
    }

    /// Until all ends are known; `disturb` is called all the time.
    pub fn until_all_known(&mut self, mut disturb: impl FnMut(&mut Self)) {
        let until = Instant::now() + PATIENCE;
        while !self.open().is_empty() {
            assert!(Instant::now() < until, "not known: {:?}", self.known);
            if !self.hear() {
                self.host.connect();
                self.asked.clear();
                let seen = self.host.list();
                let kills: Vec<Request> = self.say_again.iter().cloned().map(Request::Kill).collect();
                let _ = self.host.client().send(&kills);
                for key in self.open() {
                    match seen.get(&key) {
                        None => self.ask(&key),
                        Some(seen) => self.host.replies.push(Reply::Attempt { key, seen: seen.clone(), slot: None }),
                    }
                }
            }
            self.stop_what_runs();
            disturb(self);
        }
    }

    /// For the flows that end jobs from outside: once a job says that it runs.
    fn stop_what_runs(&mut self) {
        for key in self.open() {
            if matches!(self.flow, Flow::Stop | Flow::Kill)
                && self.executions(key.job) > 0
                && self.asked.insert(key.clone())
            {
                let request = match self.flow {
                    Flow::Kill => Request::Kill(key),
                    _ => Request::Signal { key, grace_ms: 2000 },
                };
                if let Some(client) = &mut self.host.client {
                    let _ = client.send(&[request]);
                }
            }
        }
    }

    pub fn forget_all(&mut self) {
        let until = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < until, "not forgotten");
            if self.host.client.is_none() {
                self.host.connect();
            }
            let forget: Vec<Request> = self.known.keys().cloned().map(Request::Forget).collect();
            let _ = self.host.client().send(&forget);
            let _ = self.host.client().send(&[Request::List]);
            while self.host.client.is_some() && !self.host.replies.contains(&Reply::Listed) {
                assert!(Instant::now() < until, "no list");
                self.host.read_for(Duration::from_millis(10));
            }
            let left = self.host.replies.iter().any(|reply| matches!(reply, Reply::Attempt { .. }));
            let whole = self.host.replies.contains(&Reply::Listed);
            self.host.replies.clear();
            if whole && !left {
                break;
            }
        }
        assert_eq!(fs::read_dir(self.host.path("run/spawner/attempts")).unwrap().count(), 0);
    }

    pub fn executions(&self, job: u64) -> usize {
        let text = fs::read_to_string(self.host.path("ran")).unwrap_or_default();
        text.lines().filter(|line| *line == job.to_string()).count()
    }

    /// Process id of its living shim. What the lock file says may by now be somebody else's, so the words are looked at.
    pub fn shim_of(&self, key: &AttemptKey) -> Option<i32> {
        let lock = self.host.path("run/spawner/attempts").join(key.to_string()).join("lock");
        let pid: i32 = fs::read_to_string(lock).ok()?.split(' ').next()?.parse().ok()?;
        let words = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        (words.contains(self.host.dir.path().to_str()?) && name == "ci-shim\n").then_some(pid)
    }
}
