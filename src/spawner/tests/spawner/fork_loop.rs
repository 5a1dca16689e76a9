//! The job that does nothing but fork: no single look finds it.

use std::fs;
use std::process::Command;
use std::time::Duration;

use ci_runner_spawner::protocol::Request;

use crate::common::{Cgroup, Host, kill, wait_for};

#[derive(Clone, Copy, Debug)]
enum End {
    Kill,
    Stop,
    MainKilled,
    ShimKilled,
}

/// Chains of processes that each live for one fork: no look at /proc shows the one that lives now. Each link adds a byte to a
/// file, so that a survivor shows.
#[test]
fn fork_loops_are_ended() {
    for (cgroup, end) in [
        (Cgroup::Auto, End::Kill),
        (Cgroup::Off, End::Kill),
        (Cgroup::Off, End::Stop),
        (Cgroup::Off, End::MainKilled),
        (Cgroup::Off, End::ShimKilled),
    ] {
        let mut host = Host::started(cgroup);
        let file = host.path("links");
        host.start(1, &fork_loop(&host, &file));
        wait_grows(&file);
        let key = host.key(1);
        match end {
            End::Kill => host.send(Request::Kill(key)),
            End::Stop => host.send(Request::Signal { key, grace_ms: 50 }),
            // Its parent, the shim, dies: the chains are heirs of the spawner.
            End::ShimKilled => kill(host.shim_pid(1), "KILL"),
            End::MainKilled => kill(main_process_of_loop(&host), "KILL"),
        }
        assert_eq!(host.end(1).is_none(), matches!(end, End::ShimKilled), "{cgroup:?} {end:?}");
        assert!(!grows(&file), "{cgroup:?} {end:?}: a chain goes on");
        host.assert_nothing_left();
    }
}

#[test]
fn control_a_fork_loop_survives_plain_kill() {
    let host = Host::new(Cgroup::Off);
    let file = host.path("links");
    let spec = fork_loop(&host, &file);
    let mut child = Command::new(&spec.argv[0]).args(&spec.argv[1..]).spawn().unwrap();
    wait_grows(&file);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(grows(&file), "plain kill ended the chains, so it proves nothing");
    fs::write(host.path("links.stop"), "").unwrap();
    wait_for("the control's chains to end", || (!grows(&file)).then_some(()));
}

fn fork_loop(host: &Host, file: &std::path::Path) -> ci_runner_spawner::protocol::Spec {
    host.spec(&[env!("CARGO_BIN_EXE_spawner-under-test"), "fork-loop", file.to_str().unwrap(), &host.marker, "3"])
}

fn main_process_of_loop(host: &Host) -> i32 {
    let lock = host.path("run/spawner/attempts").join(host.key(1).to_string()).join("lock");
    fs::read_to_string(lock).unwrap().lines().nth(4).unwrap().parse().unwrap()
}

fn wait_grows(file: &std::path::Path) {
    wait_for("chains", || file.metadata().is_ok_and(|meta| meta.len() > 100).then_some(()));
}

fn grows(file: &std::path::Path) -> bool {
    let size = || file.metadata().unwrap().len();
    let before = size();
    let until = std::time::Instant::now() + Duration::from_millis(150);
    while std::time::Instant::now() < until {
        if size() != before {
            return true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    false
}
