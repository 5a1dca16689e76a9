//! The daemon's memory, through which secrets pass, is not left behind in a file; its environment goes to no other process.

use crate::support::{Host, wait_for};
use serde_json::json;
use std::fs;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

const SECRET: &str = "a-secret-that-no-core-file-has";

fn has_core(dir: &Path) -> bool {
    fs::read_dir(dir).unwrap().flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("core"))
}

/// Whether a process that dies of SIGABRT in `dir` leaves a core file on this machine.
fn machine_writes_cores(dir: &Path) -> bool {
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -c unlimited; kill -ABRT $$"]).current_dir(dir).process_group(0);
    let _ = shell.status().unwrap();
    has_core(dir)
}

#[test]
fn a_daemon_that_dies_leaves_no_core_file() {
    let control = tempfile::tempdir().unwrap();
    if !machine_writes_cores(control.path()) {
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED a_daemon_that_dies_leaves_no_core_file: no core files on this machine"
        );
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut host = Host::new();
    host.env = vec![("CORES".to_owned(), dir.path().to_str().unwrap().to_owned())];
    host.wrapper = Some("ulimit -c unlimited; cd \"$CORES\"; exec \"$@\"");
    host.start();
    let id = host.add(&host.shell_with("true", json!({ "secrets": { "TOKEN": SECRET } })));
    assert_eq!(host.finish(id)["outcome"], "succeeded");
    host.signal("ABRT");
    host.wait_exit(std::time::Duration::from_secs(20));
    assert!(!has_core(dir.path()));
    host.wrapper = None;
    host.start();
    host.stop();
    host.assert_clean();
}

#[test]
fn the_spawner_does_not_have_the_environment_of_the_daemon() {
    let mut host = Host::new();
    host.env = vec![("DEPLOY_TOKEN".to_owned(), SECRET.to_owned())];
    host.start();
    let spawner = wait_for("the spawner", || host.spawner());
    let of = |pid: i32| String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/environ")).unwrap()).into_owned();
    assert!(of(host.pid()).contains(SECRET), "the control: the daemon has it");
    assert!(!of(spawner).contains(SECRET), "{}", of(spawner));
    host.stop();
    host.assert_clean();
}
