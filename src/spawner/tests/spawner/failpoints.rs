//! Death at every step: an attempt is executed at most once, and exactly once unless its shim was the victim; its result is
//! told or it is lost; nothing is left.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::time::{Duration, Instant};

use crate::common::{Cgroup, Host, PATIENCE};
use ci_runner_spawner::failpoint;
use ci_runner_spawner::protocol::{AttemptKey, ExitResult, Reply, Request, Seen};

const JOBS: u64 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    Run,
    Stop,
    Kill,
    Void,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Known {
    Nothing,
    Ended(ExitResult),
    Lost,
    Voided,
}

/// A daemon in small: what it knows decides what it asks, and it asks again whenever the connection was lost.
struct Daemon {
    host: Host,
    flow: Flow,
    known: HashMap<AttemptKey, Known>,
    /// Told to stop or die already.
    asked: HashSet<AttemptKey>,
}

impl Daemon {
    fn new(point: &str, pass: u64, cgroup: Cgroup, flow: Flow) -> Self {
        let mut host = Host::new(cgroup);
        let count = host.path("count");
        fs::create_dir(&count).unwrap();
        host.environment = vec![
            ("CI_RUNNER_FAIL".to_owned(), format!("{point}:{pass}")),
            ("CI_RUNNER_FAIL_DIR".to_owned(), count.display().to_string()),
        ];
        let known = (1..=JOBS).map(|job| (host.key(job), Known::Nothing)).collect();
        Self { host, flow, known, asked: HashSet::new() }
    }

    fn ask(&mut self, key: &AttemptKey) {
        let dir = self.host.dir.path().display();
        let job = key.job;
        let rest = match self.flow {
            Flow::Run | Flow::Void => "",
            Flow::Stop | Flow::Kill => "while :; do sleep 0.02; done",
        };
        let script = self.host.script(&format!("echo {job} >> {dir}/ran; (setsid sleep 1000 &) ; {rest}"));
        let start = self.host.request(job);
        // A lost connection shows when it is read.
        let _ = match self.flow {
            Flow::Void => self.host.client().send(&[Request::Void(key.clone())]),
            _ => self.host.client().send_start(start, &script, None),
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
                Reply::Attempt { key, seen } => match seen {
                    Seen::Ended(record) => drop(self.known.insert(key, Known::Ended(record.result))),
                    Seen::Lost => drop(self.known.insert(key, Known::Lost)),
                    Seen::Voided => drop(self.known.insert(key, Known::Voided)),
                    Seen::NotBegan => self.ask(&key),
                    Seen::Alive | Seen::Leftovers => {}
                },
                Reply::Started { .. } | Reply::Listed | Reply::Welcome { .. } => {}
                Reply::Refused { why } => panic!("{why}"),
            }
        }
        connected
    }

    fn until_all_known(&mut self) {
        let until = Instant::now() + PATIENCE;
        while !self.open().is_empty() {
            assert!(Instant::now() < until, "not known: {:?}", self.known);
            if !self.hear() {
                self.host.connect();
                self.asked.clear();
                let seen = self.host.list();
                for key in self.open() {
                    match seen.get(&key) {
                        None => self.ask(&key),
                        Some(seen) => self.host.replies.push(Reply::Attempt { key, seen: seen.clone() }),
                    }
                }
            }
            self.stop_what_runs();
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

    fn forget_all(&mut self) {
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

    fn executions(&self, job: u64) -> usize {
        let text = fs::read_to_string(self.host.path("ran")).unwrap_or_default();
        text.lines().filter(|line| *line == job.to_string()).count()
    }
}

fn check(point: &str, pass: u64, cgroup: Cgroup, flow: Flow) {
    let context = format!("{point}:{pass} {cgroup:?} {flow:?}");
    let mut daemon = Daemon::new(point, pass, cgroup, flow);
    daemon.until_all_known();
    let passes = |daemon: &Daemon| fs::metadata(daemon.host.path("count").join(point)).map_or(0, |file| file.len());
    let mut lost = 0;
    for job in 1..=JOBS {
        let executions = daemon.executions(job);
        let known = &daemon.known[&daemon.host.key(job)];
        match (flow, known) {
            (Flow::Void, Known::Voided) => assert_eq!(executions, 0, "{context}"),
            (Flow::Run, Known::Ended(ExitResult::Exited { code: 0 })) => assert_eq!(executions, 1, "{context}"),
            (Flow::Stop, Known::Ended(ExitResult::Signaled { signal: 15 })) => assert_eq!(executions, 1, "{context}"),
            (Flow::Kill, Known::Ended(ExitResult::Signaled { signal: 9 })) => assert_eq!(executions, 1, "{context}"),
            (_, Known::Lost) => {
                assert!(point.starts_with("shim-") && executions <= 1, "{context}: lost after {executions} executions");
                lost += 1;
            }
            (_, known) => panic!("{context}: {known:?}"),
        }
    }
    let costs_an_attempt = [
        failpoint::SHIM_AFTER_BEGAN,
        failpoint::SHIM_AFTER_EXEC,
        failpoint::SHIM_AFTER_MAIN_END,
        failpoint::SHIM_BEFORE_EXIT_RECORD,
        failpoint::SHIM_AFTER_EXIT_TMP,
    ];
    assert_eq!(lost, u64::from(costs_an_attempt.contains(&point)), "{context}: {:?}", daemon.known);
    daemon.host.assert_nothing_left();
    daemon.forget_all();
    assert!(passes(&daemon) >= pass, "{context}: the point was passed {} times", passes(&daemon));
}

fn flow_of(point: &str) -> Flow {
    match point {
        failpoint::SPAWNER_AFTER_SIGNAL => Flow::Stop,
        failpoint::SPAWNER_AFTER_KILL => Flow::Kill,
        failpoint::SPAWNER_BEFORE_VOID | failpoint::SPAWNER_AFTER_VOID => Flow::Void,
        _ => Flow::Run,
    }
}

fn check_all(cgroup: Cgroup, which: &str) {
    let points: Vec<_> = failpoint::names().iter().filter(|name| name.starts_with(which)).collect();
    assert!(points.len() > 5);
    for point in points {
        for pass in 1..=JOBS {
            // A turn can hold several ends: the point after them is passed once at least.
            if *point == failpoint::SPAWNER_AFTER_ENDED && pass > 1 {
                continue;
            }
            check(point, pass, cgroup, flow_of(point));
        }
    }
}

#[test]
fn a_spawner_can_die_anywhere() {
    check_all(Cgroup::Auto, "spawner-");
}

#[test]
fn a_spawner_can_die_anywhere_without_cgroups() {
    check_all(Cgroup::Off, "spawner-");
}

#[test]
fn a_shim_can_die_anywhere() {
    check_all(Cgroup::Auto, "shim-");
}

#[test]
fn a_shim_can_die_anywhere_without_cgroups() {
    check_all(Cgroup::Off, "shim-");
}

/// The check finds what it looks for: the same daemon against attempts that run again after their directory was taken away.
#[test]
fn control_without_the_directory_an_attempt_runs_twice() {
    let mut daemon = Daemon::new(failpoint::SPAWNER_BEFORE_ENDED, 1, Cgroup::Off, Flow::Run);
    daemon.until_all_known();
    let key = daemon.host.key(1);
    daemon.forget_all();
    daemon.known.insert(key.clone(), Known::Nothing);
    daemon.ask(&key);
    daemon.until_all_known();
    assert_eq!(daemon.executions(1), 2);
}
