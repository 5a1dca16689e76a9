//! The spawner as a service of root (`--policy`), without a service manager: in a mount namespace of its own, where there is
//! no D-Bus and where `/etc/passwd` has one user more.

use crate::common::*;
use crate::skipped;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};

use ci_runner_spawner::protocol::{ExitResult, Seen};

/// What it says before it does.
const EXECUTES: &str = "asked to upgrade: executing";

/// A service, and a daemon that is connected to it.
struct Service {
    host: Host,
    child: Child,
}

impl Service {
    /// None: this machine cannot, which was said.
    fn start(test: &str, kind: &str) -> Option<Service> {
        let host = Host::new(Cgroup::Auto);
        // Nobody's, and of no other run of this test: what is a user's ends with each job.
        let user = 1_000_000 + u32::from_str_radix(&host.store, 16).unwrap() % 1_000_000_000;
        fs::write(host.path("probe"), "").unwrap();
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "sh", "-c", "mount -t tmpfs tmpfs /run"]);
        let may = chown(host.path("probe"), Some(user), None).is_ok();
        if !may || !unshare.output().is_ok_and(|probe| probe.status.success()) {
            skipped::tell(test, "only root can be a service with users and mounts");
            return None;
        }
        let program = env!("CARGO_BIN_EXE_spawner-under-test");
        let paths = ["run/spawner", "log", "tmp"].map(|name| host.path(name));
        paths.iter().for_each(|dir| fs::create_dir_all(dir).unwrap());
        // Jobs have to reach their own directory.
        fs::set_permissions(host.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let name = format!("u{user}");
        let users = fs::read_to_string("/etc/passwd").unwrap();
        fs::write(host.path("passwd"), format!("{users}\n{name}:x:{user}:{user}::/:/bin/sh\n")).unwrap();
        let [dir, log_dir, tmp_dir] = paths;
        let (tmp_dir, pool) = match kind {
            "native" => (format!(r#""tmp_dir": {tmp_dir:?}, "#), format!(r#""users": [{name:?}]"#)),
            _ => (String::new(), r#""profiles": ["build"]"#.to_owned()),
        };
        let policy = format!(
            r#"{{"kind": {kind:?}, "dir": {dir:?}, "group": "0", "users": ["0"], "log_dir": {log_dir:?}, {tmp_dir}
            "program": {program:?}, "pools": {{"default": {{{pool}}}}}}}"#
        );
        fs::write(host.path("policy"), policy).unwrap();
        let mut command = Command::new("unshare");
        let script = "mount -t tmpfs tmpfs /run && mount --bind \"$0\" /etc/passwd && exec \"$@\"";
        command.args(["--mount", "sh", "-c", script]).arg(host.path("passwd"));
        command.arg(program).arg("--policy").arg(host.path("policy"));
        let child = command.stderr(fs::File::create(host.path("said")).unwrap()).spawn().unwrap();
        let mut service = Service { host, child };
        service.connect().then_some(service).or_else(|| {
            skipped::tell(test, "no cgroup v2 can be written");
            None
        })
    }

    /// False: it ended, for it has no cgroup for a job.
    fn connect(&mut self) -> bool {
        self.host.client = None;
        self.host.generation += 1;
        wait_for("a service that says welcome", || {
            if let Some(status) = self.child.try_wait().unwrap() {
                let said = self.said();
                assert!(said.contains("no cgroup can be made") || said.contains("no cgroup v2"), "{status}: {said}");
                return Some(false);
            }
            self.host.try_hello().then_some(true)
        })
    }

    fn said(&self) -> String {
        fs::read_to_string(self.host.path("said")).unwrap()
    }

    fn wait_said(&self, text: &str) {
        wait_for(text, || self.said().contains(text).then_some(()));
    }

    fn reload(&self) {
        kill(self.child.id() as i32, "HUP");
    }

    fn end(&mut self) -> ExitStatus {
        wait_for("the end of the service", || self.child.try_wait().unwrap())
    }

    fn empty_directory(&self) {
        for entry in fs::read_dir(self.host.path("run/spawner")).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the service said:\n{}", self.said());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Its job 1 ends when `go` is there.
fn with_job(test: &str) -> Option<Service> {
    let mut service = Service::start(test, "native")?;
    let go = service.host.path("go");
    let script = format!("echo runs; while [ ! -e {} ]; do sleep 0.01; done; exit 7", go.display());
    let spec = service.host.script(&script);
    service.host.start(1, &spec);
    service.host.wait_started(1);
    // One that has not begun would not begin any more.
    wait_for("the job", || service.host.log(1).contains("runs").then_some(()));
    Some(service)
}

/// It used to execute its program anew at once, which made a new directory and knew nothing of what ran.
#[test]
fn a_reload_with_an_emptied_directory_waits_until_nothing_runs() {
    let test = "a_reload_with_an_emptied_directory_waits_until_nothing_runs";
    let Some(mut service) = with_job(test) else { return };
    service.empty_directory();
    service.reload();
    service.wait_said("ends when nothing runs any more");
    go(&service.host);
    assert_eq!(service.host.record(1).result, ExitResult::Exited { code: 7 }, "{}", service.said());
    service.host.client = None;
    assert!(service.end().success(), "{}", service.said());
    assert!(!service.said().contains(EXECUTES), "{}", service.said());
    assert!(!service.host.socket().exists(), "made anew under a job that ran");
    service.host.assert_nothing_left();
}

/// The control: with its directory it does execute its program, and that knows what runs.
#[test]
fn a_reload_goes_on_with_what_runs() {
    let Some(mut service) = with_job("a_reload_goes_on_with_what_runs") else { return };
    service.reload();
    service.wait_said(EXECUTES);
    assert!(service.connect());
    let key = service.host.key(1);
    assert_eq!(service.host.list().get(&key), Some(&Seen::Alive));
    go(&service.host);
    assert_eq!(service.host.record(1).result, ExitResult::Exited { code: 7 }, "{}", service.said());
}

fn check_idle(test: &str, kind: &str) {
    let Some(mut service) = Service::start(test, kind) else { return };
    service.reload();
    service.wait_said(EXECUTES);
    assert!(service.connect(), "the control: else it goes on");
    service.host.client = None;
    service.empty_directory();
    service.reload();
    assert!(service.end().success(), "{}", service.said());
    assert!(service.said().contains("ends when nothing runs any more"), "{}", service.said());
    assert!(!service.host.socket().exists());
}

#[test]
fn a_reload_with_an_emptied_directory_ends_an_idle_service_of_native_jobs() {
    check_idle("a_reload_with_an_emptied_directory_ends_an_idle_service_of_native_jobs", "native");
}

#[test]
fn a_reload_with_an_emptied_directory_ends_an_idle_service_of_units() {
    check_idle("a_reload_with_an_emptied_directory_ends_an_idle_service_of_units", "systemd");
}
