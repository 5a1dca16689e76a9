//! At most once: repeated, voided and forgotten starts.

use ci_runner_spawner::protocol::{ExitResult, Reply, Request, Seen};

use crate::common::{Cgroup, Host, executions, go, waiting_job};

#[test]
fn a_repeated_start_never_runs_twice() {
    let mut host = Host::started(Cgroup::Auto);
    let dir = host.dir.path().display().to_string();
    let script = host.script(&format!("echo 1 >> {dir}/ran; while [ ! -e {dir}/go ]; do sleep 0.01; done"));
    for _ in 0..50 {
        host.start(1, &script);
    }
    for _ in 0..50 {
        host.wait_started(1);
    }
    host.connect();
    host.start(1, &script);
    host.wait_started(1);
    go(&host);
    let first = host.record(1);
    assert_eq!(first.result, ExitResult::Exited { code: 0 });
    for _ in 0..3 {
        host.ended.clear();
        host.start(1, &script);
        assert_eq!(host.record(1), first);
    }
    host.kill_spawner();
    host.connect();
    host.ended.clear();
    host.start(1, &script);
    assert_eq!(host.record(1), first);
    assert_eq!(executions(&host, 1), 1);
}

#[test]
fn what_was_voided_never_starts() {
    let mut host = Host::started(Cgroup::Auto);
    let voided = |reply: &Reply| matches!(reply, Reply::Voided { .. }).then_some(());
    let refused = |reply: &Reply| match reply {
        Reply::RefusedStart { voided, .. } => Some(*voided),
        _ => None,
    };
    let script = host.script(&format!("echo 1 >> {}/ran", host.dir.path().display()));
    let key = host.key(1);
    host.send(Request::Void(key.clone()));
    host.reply("voided", voided);
    host.start(1, &script);
    assert!(host.reply("a refusal", refused));
    host.send(Request::Void(key.clone()));
    host.reply("voided again", voided);
    host.kill_spawner();
    host.connect();
    assert_eq!(host.list()[&key], Seen::Voided);
    host.start(1, &script);
    assert!(host.reply("a refusal", refused));
    assert_eq!(executions(&host, 1), 0);
    // Void comes too late for what runs, and for what has ended.
    let spec = waiting_job(&host, 2);
    host.start(2, &spec);
    host.wait_started(2);
    let running = host.key(2);
    host.send(Request::Void(running.clone()));
    host.wait_started(2);
    go(&host);
    let record = host.record(2);
    host.ended.clear();
    host.send(Request::Void(running));
    assert_eq!(host.record(2), record);
    host.send(Request::Forget(key));
    assert_eq!(host.list().len(), 1);
}

#[test]
fn forget_spares_what_is_alive() {
    let mut host = Host::started(Cgroup::Auto);
    let spec = waiting_job(&host, 1);
    host.start(1, &spec);
    host.wait_started(1);
    let key = host.key(1);
    host.send(Request::Forget(key.clone()));
    assert_eq!(host.list()[&key], Seen::Alive);
    go(&host);
    assert_eq!(host.record(1).result, ExitResult::Exited { code: 1 });
    host.send(Request::Forget(key.clone()));
    host.send(Request::Forget(key));
    assert!(host.list().is_empty());
}
