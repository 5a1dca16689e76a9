//! The daemon with a socket that the service manager holds: a client never finds a closed door.

use crate::support::{Host, wait_for};
use std::fs;
use std::os::unix::net::UnixListener;
use std::process::{Child, Stdio};

/// A host whose socket is held by this process, as PID 1 does.
fn held() -> Host {
    let mut host = Host::new();
    fs::create_dir_all(host.runtime()).unwrap();
    host.passed = Some(UnixListener::bind(host.socket()).unwrap());
    host
}

fn submit(host: &Host) -> Child {
    host.cli(&["add", "--", "true"]).stdout(Stdio::piped()).spawn().unwrap()
}

/// The id that the client printed.
fn id_of(client: Child) -> u64 {
    let output = client.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
}

#[test]
fn a_submission_waits_for_the_daemon_instead_of_failing() {
    let mut host = held();
    let early = submit(&host);
    host.start();
    let early = id_of(early);
    host.kill();
    let between = submit(&host);
    host.start();
    let between = id_of(between);
    host.stop();
    assert!(host.socket().exists(), "it is not the daemon's to remove");
    let last = submit(&host);
    host.start();
    for id in [early, between, id_of(last)] {
        assert_eq!(host.finish(id)["outcome"], "succeeded");
    }
    host.assert_clean();
    // The control: a daemon with a socket of its own leaves clients in front of nothing.
    let mut host = Host::started();
    host.stop();
    assert_eq!(submit(&host).wait().unwrap().code(), Some(2));
}

#[test]
fn a_socket_in_another_place_is_refused() {
    let mut host = held();
    host.words = ["--socket", host.path("other.sock").to_str().unwrap()].map(str::to_owned).to_vec();
    let status = host.try_start().unwrap_err();
    assert_eq!(status.code(), Some(1));
    let log = host.daemon_log();
    assert!(log.contains("ListenStream=") && log.contains("other.sock") && log.contains("api.sock"), "{log}");
}

#[test]
fn a_job_gets_neither_the_socket_nor_its_variables() {
    let mut host = held();
    host.start();
    let id = host.add(&host.shell("env; ls -l /proc/self/fd"));
    assert_eq!(host.finish(id)["outcome"], "succeeded");
    let log = host.log(id);
    assert!(!log.contains("LISTEN_") && !log.contains("socket:"), "{log}");
    let spawner = host.wait_spawner();
    let path = host.socket().to_str().unwrap().to_owned();
    let inherited = wait_for("the spawner's descriptors", || {
        let listening = fs::read_to_string("/proc/net/unix").ok()?;
        let inode = listening.lines().find(|line| line.ends_with(&path))?.split_whitespace().nth(6)?;
        let socket = format!("socket:[{inode}]");
        let mut links = fs::read_dir(format!("/proc/{spawner}/fd")).ok()?.flatten();
        Some(links.any(|fd| fs::read_link(fd.path()).is_ok_and(|link| link.to_str() == Some(&socket))))
    });
    assert!(!inherited, "the spawner outlives the daemon and would keep its door open");
    host.assert_clean();
}
