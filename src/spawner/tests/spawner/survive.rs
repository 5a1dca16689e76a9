//! What dies and what does not: daemon, spawner and shim killed, stopped and replaced under running jobs.

use crate::skipped;
use std::fs;
use std::time::Duration;

use ci_runner_spawner::protocol::{ExitResult, Reply, Request, Seen, Start, names};

use crate::common::{Cgroup, Host, executions, go, is_alive, kill, state, wait_for, waiting_job};

#[test]
fn jobs_do_not_notice_the_death_of_the_daemon() {
    let mut host = Host::started(Cgroup::Auto);
    for job in 1..=3 {
        let spec = waiting_job(&host, job);
        host.start(job, &spec);
        host.wait_started(job);
    }
    let pid = host.spawner_pid;
    host.client = None;
    for job in 1..=3 {
        host.wait_file(&host.path(&format!("ready-{job}")));
    }
    let rude = host.script("trap '' TERM; sleep 1000");
    host.connect();
    assert_eq!(host.spawner_pid, pid);
    host.start_as(Start { timeout_ms: Some(100), grace_ms: 50, ..host.request(4) }, &rude, None);
    host.wait_started(4);
    host.client = None;
    go(&host);
    wait_for("all jobs to end", || host.survivors().is_empty().then_some(()));
    host.connect();
    let seen = wait_for("all records", || {
        let seen = host.list();
        seen.values().all(|seen| matches!(seen, Seen::Ended(_))).then_some(seen)
    });
    for job in 1..=3 {
        let Seen::Ended(record) = &seen[&host.key(job)] else { panic!("{seen:?}") };
        assert_eq!(record.result, ExitResult::Exited { code: job as u8 });
        assert_eq!(executions(&host, job), 1);
    }
    let Seen::Ended(record) = &seen[&host.key(4)] else { panic!("{seen:?}") };
    assert_eq!(record.result, ExitResult::TimedOut);
}

#[test]
fn a_killed_spawner_hurts_nobody_and_its_successor_takes_over() {
    for cgroup in [Cgroup::Auto, Cgroup::Off] {
        let mut host = Host::started(cgroup);
        let epoch = host.epoch.clone();
        for job in 1..=5 {
            let spec = waiting_job(&host, job);
            host.start(job, &spec);
            host.wait_started(job);
        }
        let rude = host.script("trap '' TERM; sleep 1000");
        host.start_as(Start { timeout_ms: Some(500), grace_ms: 50, ..host.request(6) }, &rude, None);
        host.wait_started(6);
        let sleeper = host.script("(setsid sleep 1000 &) ; echo ready > $TMPDIR/../ready-7; sleep 1000");
        host.start(7, &sleeper);
        host.wait_started(7);
        for job in [1, 2, 3, 4, 5] {
            host.wait_file(&host.path(&format!("ready-{job}")));
        }
        host.wait_file(&host.path("tmp/ready-7"));
        host.kill_spawner();
        let old = host.spawner_pid;
        host.connect();
        assert_ne!(host.spawner_pid, old);
        assert_eq!(host.epoch, epoch, "same directory, same epoch");
        let seen = host.list();
        assert_eq!(seen.len(), 7);
        assert!((1..=5).all(|job| seen[&host.key(job)] == Seen::Alive), "{seen:?}");
        // What the successor did not fork can be asked and killed all the same.
        let key = host.key(7);
        host.send(Request::Kill(key));
        assert_eq!(host.record(7).result, ExitResult::Signaled { signal: 9 });
        assert_eq!(host.record(6).result, ExitResult::TimedOut);
        // A repeated start of a running attempt says that it runs.
        let spec = waiting_job(&host, 1);
        host.start(1, &spec);
        host.wait_started(1);
        go(&host);
        for job in 1..=5 {
            assert_eq!(host.record(job).result, ExitResult::Exited { code: job as u8 });
            assert_eq!(executions(&host, job), 1);
        }
        host.assert_nothing_left();
        for job in 1..=7 {
            let key = host.key(job);
            host.send(Request::Forget(key));
        }
        assert!(host.list().is_empty());
        assert_eq!(fs::read_dir(host.path("run/spawner/attempts")).unwrap().count(), 0);
    }
}

#[test]
fn ends_while_no_spawner_is_there_are_found() {
    let mut host = Host::started(Cgroup::Auto);
    let spec = waiting_job(&host, 1);
    host.start(1, &spec);
    let other = waiting_job(&host, 2);
    host.start(2, &other);
    for job in [1, 2] {
        host.wait_file(&host.path(&format!("ready-{job}")));
    }
    let victim = host.shim_pid(2);
    host.kill_spawner();
    go(&host);
    kill(victim, "KILL");
    wait_for("the jobs to end", || (!is_alive(victim) && executions(&host, 1) == 1).then_some(()));
    host.connect();
    // The first may still be writing its record.
    wait_for("both ends", || {
        let seen = host.list();
        let first =
            matches!(&seen[&host.key(1)], Seen::Ended(record) if record.result == ExitResult::Exited { code: 1 });
        (first && seen[&host.key(2)] == Seen::Lost).then_some(())
    });
    host.assert_nothing_left();
}

#[test]
fn shim_and_spawner_killed_together_leave_nothing() {
    for cgroup in [Cgroup::Auto, Cgroup::Off] {
        let mut host = Host::started(cgroup);
        let script = host.script(
            "(setsid sh -c 'sleep 1000' \"$0\" &); sh -c 'kill -STOP $$' & echo ready > $TMPDIR/../ready; sleep 1000",
        );
        host.start(1, &script);
        host.wait_file(&host.path("tmp/ready"));
        let shim = host.shim_pid(1);
        kill(host.spawner_pid, "STOP");
        kill(shim, "KILL");
        wait_for("the shim's death", || (!is_alive(shim)).then_some(()));
        host.kill_spawner();
        assert!(host.survivors().len() >= 2, "the job goes on without anyone");
        host.connect();
        wait_for("the attempt to be lost", || (host.list()[&host.key(1)] == Seen::Lost).then_some(()));
        host.assert_nothing_left();
        let spec = host.spec(&["true"]);
        host.start_as(Start { slot: 1, ..host.request(2) }, &spec, None);
        assert_eq!(host.record(2).result, ExitResult::Exited { code: 0 }, "its slot is free");
    }
}

#[test]
fn an_adopted_shim_that_is_killed_leaves_nothing() {
    for cgroup in [Cgroup::Auto, Cgroup::Off] {
        let mut host = Host::started(cgroup);
        let script = host.script("(setsid sh -c 'sleep 1000' \"$0\" &); echo ready > $TMPDIR/../ready; sleep 1000");
        host.start(1, &script);
        host.wait_file(&host.path("tmp/ready"));
        let shim = host.shim_pid(1);
        host.kill_spawner();
        host.connect();
        kill(shim, "KILL");
        assert_eq!(host.end(1), None);
        host.assert_nothing_left();
    }
}

#[test]
fn what_a_dead_shims_job_left_on_the_disk_is_removed() {
    for restarts in [false, true] {
        let mut host = Host::started(Cgroup::Auto);
        let script = "mkdir -p $TMPDIR/a/b; echo x > $TMPDIR/a/b/secret; chmod 0 $TMPDIR/a; sleep 1000";
        let spec = host.script(&format!("echo ready > $TMPDIR/../ready; {script}"));
        host.start(1, &spec);
        host.wait_file(&host.path("tmp/ready"));
        let dir = host.slot_dir(1);
        let entries = || fs::read_dir(&dir).unwrap().count();
        wait_for("the file", || (entries() == 1).then_some(()));
        let shim = host.shim_pid(1);
        kill(host.spawner_pid, "STOP");
        kill(shim, "KILL");
        wait_for("the shim's death", || (!is_alive(shim)).then_some(()));
        assert_eq!(entries(), 1, "nobody else empties it");
        if restarts {
            host.kill_spawner();
            host.connect();
            wait_for("the attempt to be lost", || (host.list()[&host.key(1)] == Seen::Lost).then_some(()));
        } else {
            kill(host.spawner_pid, "CONT");
            assert_eq!(host.end(1), None);
        }
        assert_eq!(entries(), 0, "restarts: {restarts}");
        host.assert_nothing_left();
    }
}

#[test]
fn the_cgroup_of_an_attempt_without_a_directory_is_removed() {
    let mut host = Host::started(Cgroup::Auto);
    if !host.has_cgroup {
        skipped::tell("the_cgroup_of_an_attempt_without_a_directory_is_removed", "no cgroup v2 can be written");
        return;
    }
    let spec = host.script("trap '' TERM; echo ready > $TMPDIR/../ready; while :; do sleep 0.1; done");
    host.start(1, &spec);
    host.wait_file(&host.path("tmp/ready"));
    let shim = host.shim_pid(1);
    // As after another boot that was none: the runtime directory is new, the processes are not.
    kill(host.spawner_pid, "STOP");
    kill(shim, "KILL");
    wait_for("the shim's death", || (!is_alive(shim)).then_some(()));
    host.kill_spawner();
    let key = host.key(1);
    fs::remove_dir_all(host.path("run/spawner/attempts").join(key.to_string())).unwrap();
    host.connect();
    assert!(host.list().is_empty());
    let cgroups = host.cgroups();
    assert_eq!(cgroups.len(), 1, "{cgroups:?}");
    assert!(!host.survivors().is_empty(), "control: nobody else ends it");
    host.send(Request::Kill(key.clone()));
    assert_eq!(host.end(1), None);
    host.assert_nothing_left();
    assert!(host.cgroups().is_empty(), "{:?}", host.cgroups());
    host.send(Request::Forget(key));
    assert!(host.list().is_empty());
}

#[test]
fn an_adopted_shim_that_is_stopped_is_killed() {
    let mut host = Host::started(Cgroup::Off);
    let script = host.script("(setsid sleep 1000 &); echo ready > $TMPDIR/../ready; sleep 1000");
    host.start(1, &script);
    host.wait_file(&host.path("tmp/ready"));
    let shim = host.shim_pid(1);
    kill(shim, "STOP");
    wait_for("the shim to stop", || (state(shim) == Some('T')).then_some(()));
    host.kill_spawner();
    host.connect();
    let key = host.key(1);
    host.send(Request::Kill(key));
    host.end(1);
    host.assert_nothing_left();
}

#[test]
fn a_removed_runtime_directory_loses_no_result() {
    for remove_all in [true, false] {
        let mut host = Host::started(Cgroup::Auto);
        for job in 1..=2 {
            let spec = waiting_job(&host, job);
            host.start(job, &spec);
            host.wait_file(&host.path(&format!("ready-{job}")));
        }
        let (epoch, pid) = (host.epoch.clone(), host.spawner_pid);
        if remove_all {
            fs::remove_dir_all(host.path("run")).unwrap();
        } else {
            fs::remove_dir_all(host.path("run/spawner")).unwrap();
        }
        // No start any more, and it is said why.
        let spec = host.spec(&["true"]);
        host.start(3, &spec);
        let why = host.reply("a refusal", |reply| match reply {
            Reply::RefusedStart { why, voided: false, .. } => Some(why.clone()),
            _ => None,
        });
        assert!(why.contains("runtime directory was removed"), "{why}");
        go(&host);
        for job in 1..=2 {
            assert_eq!(host.record(job).result, ExitResult::Exited { code: job as u8 });
            assert_eq!(executions(&host, job), 1);
        }
        for job in 1..=2 {
            let key = host.key(job);
            host.send(Request::Forget(key));
        }
        wait_for("the spawner's end", || (!is_alive(pid)).then_some(()));
        host.connect();
        assert_ne!(host.epoch, epoch);
        assert!(host.list().is_empty());
        assert_eq!(host.output(4, &spec), "");
    }
}

#[test]
fn attempts_of_another_boot_are_gone_but_for_their_records() {
    let mut host = Host::started(Cgroup::Auto);
    let spec = host.spec(&["true"]);
    host.start(1, &spec);
    let record = host.record(1);
    host.kill_spawner();
    let began = host.path("run/spawner/attempts").join(host.key(2).to_string());
    fs::create_dir(&began).unwrap();
    fs::write(began.join(names::BEGAN), "").unwrap();
    let epoch = host.epoch.clone();
    let other = epoch.replacen(|_: char| true, "x", 1);
    fs::write(host.path("run/spawner/epoch"), other).unwrap();
    host.connect();
    assert_ne!(host.epoch, epoch);
    let seen = host.list();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[&host.key(1)], Seen::Ended(record));
}

#[test]
fn an_asked_spawner_ends_when_its_jobs_have() {
    let mut host = Host::started(Cgroup::Auto);
    let spec = waiting_job(&host, 1);
    host.start(1, &spec);
    host.wait_started(1);
    let pid = host.spawner_pid;
    kill(pid, "TERM");
    let other = host.spec(&["true"]);
    wait_for("a refusal", || {
        host.start(2, &other);
        host.read_for(Duration::from_millis(50));
        let asked = |reply: &Reply| matches!(reply, Reply::RefusedStart { why, .. } if why.contains("asked to end"));
        host.replies.iter().any(asked).then_some(())
    });
    assert!(is_alive(pid));
    go(&host);
    assert_eq!(host.record(1).result, ExitResult::Exited { code: 1 });
    wait_for("the spawner's end", || (!is_alive(pid)).then_some(()));
}

/// Whoever took over looked for what is left of the lost one, by the slot, and killed the job that was in it by then.
#[test]
fn a_lost_attempt_that_nobody_forgot_is_not_looked_for_in_a_slot_that_is_anothers() {
    for cgroup in [Cgroup::Auto, Cgroup::Off] {
        let mut host = Host::started(cgroup);
        let first = waiting_job(&host, 1);
        host.start_as(Start { slot: 1, ..host.request(1) }, &first, None);
        // Before it began it would only be refused.
        host.wait_file(&host.path("ready-1"));
        host.wait_started(1);
        kill(host.shim_pid(1), "KILL");
        assert_eq!(host.end(1), None, "lost");
        let second = waiting_job(&host, 2);
        host.start_as(Start { slot: 1, ..host.request(2) }, &second, None);
        host.wait_started(2);
        host.wait_file(&host.path("ready-2"));
        host.kill_spawner();
        host.connect();
        // The control of what it knows: the first one is lost still, and nothing else.
        wait_for("the first to be settled", || (host.list().len() == 2).then_some(()));
        assert_eq!(host.end(1), None, "lost still");
        go(&host);
        assert_eq!(host.record(2).result, ExitResult::Exited { code: 2 });
    }
}
