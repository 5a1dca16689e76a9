//! A spawner without free descriptors sees nothing. What it cannot look at it must not take for gone: nothing alive is
//! reported as lost, nothing runs twice, no result is forgotten, and all is found right once there are descriptors again.

use std::collections::HashMap;
use std::fs;

use ci_runner_spawner::client::Client;
use ci_runner_spawner::protocol::{AttemptKey, ExitResult, Reply, Request, Seen, Spec};
use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::common::{Cgroup, Host, executions, is_alive, kill, wait_for};

/// Brings the fault back.
const FAULT: &str = "spawner-takes-blindness-for-absence";

/// The log of a spawner that does not see the shim of an attempt which began.
const TAKEN_FOR_DEAD: &str = "its shim died without a record";

fn add_fault(host: &mut Host) {
    host.environment.push(("CI_RUNNER_FAIL".to_owned(), FAULT.to_owned()));
}

/// The soft and the hard limit of open files, as the kernel tells them.
fn open_files(pid: i32) -> [u64; 2] {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let words = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let mut numbers = words.split_whitespace().map(|word| word.parse().unwrap());
    [numbers.next().unwrap(), numbers.next().unwrap()]
}

fn set_open_files(pid: i32, soft: u64) {
    let [_, hard] = open_files(pid);
    let limit = Rlimit { current: Some(soft), maximum: Some(hard) };
    prlimit(Pid::from_raw(pid), Resource::Nofile, limit).unwrap();
}

/// From now on nothing more can be opened.
fn starve(pid: i32) {
    let is_open = |fd: &u64| fs::symlink_metadata(format!("/proc/{pid}/fd/{fd}")).is_ok();
    let first_free = (0..).find(|fd| !is_open(fd)).unwrap();
    set_open_files(pid, first_free);
}

fn feed(pid: i32) {
    let [_, hard] = open_files(pid);
    set_open_files(pid, hard);
}

/// Ends when the file of its group is there.
fn job_of(host: &Host, job: u64, group: &str) -> Spec {
    let dir = host.dir.path().display();
    host.script(&format!(
        "echo ready > {dir}/ready-{job}; while [ ! -e {dir}/go-{group} ]; do sleep 0.02; done; echo {job} >> {dir}/ran; exit {job}"
    ))
}

fn go(host: &Host, group: &str) {
    fs::write(host.path(&format!("go-{group}")), "").unwrap();
}

/// Runs a job of this group for each number.
fn start_all(host: &mut Host, jobs: impl Iterator<Item = u64>, group: &str) {
    for job in jobs {
        let spec = job_of(host, job, group);
        host.start(job, &spec);
        host.wait_file(&host.path(&format!("ready-{job}")));
    }
}

#[test]
fn jobs_have_the_limit_that_the_spawner_was_started_with() {
    for (script, want) in [
        ("ulimit -Sn 1000; ulimit -Hn 3000; exec \"$@\"", "1000\n3000\n"),
        ("ulimit -Sn 1000; ulimit -Hn 3000; exec \"$@\" --job-open-files 70", "70\n3000\n"),
    ] {
        let mut host = Host::new(Cgroup::Auto);
        host.wrapper = Some(script);
        host.connect();
        let spec = host.script("ulimit -Sn; ulimit -Hn");
        assert_eq!(host.output(1, &spec), want);
        assert_eq!(open_files(host.spawner_pid), [3000, 3000], "the spawner itself has all it may have");
    }
}

#[test]
fn more_jobs_than_descriptors_are_taken_over() {
    const JOBS: u64 = 40;
    for cgroup in [Cgroup::Auto, Cgroup::Off] {
        let mut host = Host::started(cgroup);
        start_all(&mut host, 1..=JOBS, "all");
        host.kill_spawner();
        host.wrapper = Some("ulimit -n 32; exec \"$@\"");
        host.connect();
        assert_eq!(open_files(host.spawner_pid), [32, 32]);
        let seen = host.list();
        assert!((1..=JOBS).all(|job| seen.get(&host.key(job)) == Some(&Seen::Alive)), "{seen:?}");
        // Each can be asked, and killed, and one that dies without a word is noticed.
        for job in 1..=JOBS {
            let spec = job_of(&host, job, "all");
            host.start(job, &spec);
            host.wait_started(job);
        }
        for job in [1, 20, JOBS] {
            let key = host.key(job);
            host.send(Request::Kill(key));
            assert_eq!(host.record(job).result, ExitResult::Signaled { signal: 9 }, "job {job}");
        }
        kill(host.shim_pid(2), "KILL");
        assert_eq!(host.end(2), None);
        go(&host, "all");
        for job in (3..JOBS).filter(|job| *job != 20) {
            assert_eq!(host.record(job).result, ExitResult::Exited { code: job as u8 });
            assert_eq!(executions(&host, job), 1);
        }
        host.assert_nothing_left();
    }
}

/// Restarts the spawner with fewer descriptors than there are attempts, and takes some of them. Waits until its log says this.
fn take_over_blindly(host: &mut Host, says: &str) {
    host.connect();
    start_all(host, 1..=30, "all");
    host.kill_spawner();
    host.wrapper = Some("ulimit -n 20; exec \"$@\"");
    host.run_spawner();
    let _taken = [(); 4].map(|()| Client::connect(&host.socket()).unwrap());
    let log = host.path("run/spawner/spawner.log");
    wait_for(says, || fs::read_to_string(&log).unwrap().contains(says).then_some(()));
}

#[test]
fn a_spawner_that_starts_blind_loses_nothing() {
    let mut host = Host::new(Cgroup::Off);
    take_over_blindly(&mut host, "30 attempts taken over");
    host.connect();
    let seen = host.list();
    assert!((1..=30).all(|job| seen.get(&host.key(job)) == Some(&Seen::Alive)), "{seen:?}");
    go(&host, "all");
    let seen = wait_for("all records", || {
        let seen = host.list();
        seen.values().all(|seen| matches!(seen, Seen::Ended(_))).then_some(seen)
    });
    for job in 1..=30 {
        let Some(Seen::Ended(record)) = seen.get(&host.key(job)) else { panic!("job {job}: {seen:?}") };
        assert_eq!(record.result, ExitResult::Exited { code: job as u8 });
        assert_eq!(executions(&host, job), 1);
    }
    let log = fs::read_to_string(host.path("run/spawner/spawner.log")).unwrap();
    assert!(!log.contains(TAKEN_FOR_DEAD), "{log}");
}

#[test]
fn control_a_spawner_with_the_fault_takes_the_living_for_dead() {
    let mut host = Host::new(Cgroup::Off);
    add_fault(&mut host);
    take_over_blindly(&mut host, TAKEN_FOR_DEAD);
    assert!((1..=30).all(|job| is_alive(host.shim_pid(job))));
}

/// A job that has ended, one that ends, one whose shim dies and one that goes on, while nothing can be opened. Tells what is
/// listed then.
fn go_blind(host: &mut Host) -> HashMap<AttemptKey, Seen> {
    host.connect();
    start_all(host, 1..=1, "first");
    start_all(host, 2..=2, "second");
    start_all(host, 3..=4, "last");
    go(host, "first");
    host.record(1);
    starve(host.spawner_pid);
    go(host, "second");
    let (ends, dies) = (host.shim_pid(2), host.shim_pid(3));
    kill(dies, "KILL");
    wait_for("both shims' ends", || (!is_alive(ends) && !is_alive(dies)).then_some(()));
    // The first list may come before the spawner has noticed.
    wait_for("both to be noticed", || {
        let seen = host.list();
        let noticed = |job| seen[&host.key(job)] != Seen::Alive;
        (noticed(2) && noticed(3)).then_some(seen)
    })
}

#[test]
fn ends_that_cannot_be_seen_wait_until_they_can() {
    for cgroup in [Cgroup::Auto, Cgroup::Off] {
        let mut host = Host::new(cgroup);
        let seen = go_blind(&mut host);
        for job in 1..=3 {
            assert_eq!(seen[&host.key(job)], Seen::Leftovers, "job {job}");
        }
        assert_eq!(seen[&host.key(4)], Seen::Alive);
        // Not even asked for can they be told wrong, nor started again.
        host.ended.clear();
        for job in 1..=3 {
            let key = host.key(job);
            host.send(Request::Void(key));
        }
        assert_eq!(host.list().len(), 4);
        assert!(host.ended.is_empty(), "{:?}", host.ended);
        assert!(host.replies.iter().all(|reply| !matches!(reply, Reply::RefusedStart { .. })), "{:?}", host.replies);
        feed(host.spawner_pid);
        assert_eq!(host.record(1).result, ExitResult::Exited { code: 1 });
        assert_eq!(host.record(2).result, ExitResult::Exited { code: 2 });
        assert_eq!(host.end(3), None);
        go(&host, "last");
        assert_eq!(host.record(4).result, ExitResult::Exited { code: 4 });
        assert_eq!((1..=4).map(|job| executions(&host, job)).collect::<Vec<_>>(), [1, 1, 0, 1]);
        host.assert_nothing_left();
    }
}

#[test]
fn control_with_the_fault_a_known_result_is_lost() {
    let mut host = Host::new(Cgroup::Off);
    add_fault(&mut host);
    let seen = go_blind(&mut host);
    assert_eq!(seen[&host.key(1)], Seen::Lost);
}
