//! The memory of daemon, spawner, shims and helpers, through which secrets pass, is not left behind in a file, while jobs keep
//! their own limit; the daemon's environment goes to no other process.

use crate::skipped;
use crate::support::{Host, wait_for};
use serde_json::json;
use std::fs;
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
        skipped::tell("a_daemon_that_dies_leaves_no_core_file", "this machine writes no core files");
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

/// `Max core file size` of a process: soft and hard.
fn core_limits(pid: i32) -> (String, String) {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max core file size")).unwrap().to_owned();
    let mut words = line.split_whitespace().map(str::to_owned);
    (words.next().unwrap(), words.next().unwrap())
}

fn parent_of(pid: i32) -> i32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit(") ").next().unwrap().split(' ').nth(1).unwrap().parse().unwrap()
}

/// 1 stands for "no core", to a file as to a pipe; the job has what the daemon was started with, and may still raise it.
#[test]
fn spawner_and_shim_have_no_core_limit_to_dump_by_and_jobs_have_theirs() {
    let control = tempfile::tempdir().unwrap();
    let writes_cores = machine_writes_cores(control.path());
    let dir = tempfile::tempdir().unwrap();
    let mut host = Host::new();
    host.wrapper = Some("ulimit -S -c 4096 2>/dev/null; exec \"$@\"");
    host.start();
    let (daemons_soft, daemons_hard) = core_limits(host.pid());
    let id = host.add(&host.shell("exec sleep 600"));
    let job = wait_for("the job", || host.survivors().first().copied());
    let (spawner, shim) = (host.wait_spawner(), host.wait_shim(id));
    assert_eq!(parent_of(job), shim);
    for (who, pid) in [("spawner", spawner), ("shim", shim)] {
        let (soft, hard) = core_limits(pid);
        assert!(["0", "1"].contains(&soft.as_str()), "{who} has {soft}");
        assert_eq!(soft == "0", hard == "0", "{who}: 0 only where nothing else can be");
        assert_eq!(hard, daemons_hard, "{who}");
    }
    assert_eq!(core_limits(job), (daemons_soft, daemons_hard.clone()));
    host.post("/api/v1/jobs/cancel", &json!({ "ids": [id] }));
    host.finish(id);
    if writes_cores {
        let script = format!("cd {}; ulimit -c unlimited; kill -ABRT $$", dir.path().display());
        let id = host.add(&host.shell(&script));
        host.finish(id);
        assert!(has_core(dir.path()), "a job's own core file is its own affair");
    }
    host.stop();
    host.assert_clean();
}

/// The helper of a unit is the same program, in a directory where it could leave a core.
#[test]
fn a_helper_that_dies_leaves_no_core_file() {
    use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};
    let control = tempfile::tempdir().unwrap();
    if !machine_writes_cores(control.path()) {
        skipped::tell("a_helper_that_dies_leaves_no_core_file", "this machine writes no core files");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let program = crate::support::program().with_file_name("ci-runner-spawner");
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    let mut helper = Command::new("sh")
        .args(["-c", "ulimit -c unlimited; exec \"$0\" --unit-helper"])
        .arg(program)
        .stdin(theirs)
        .current_dir(dir.path())
        .spawn()
        .unwrap();
    rustix::net::recv(&ours, &mut [0; 64], RecvFlags::empty()).expect("it asks for its job");
    crate::support::kill(helper.id() as i32, "ABRT");
    let status = helper.wait().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(6), "{status}");
    assert!(!has_core(dir.path()));
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
