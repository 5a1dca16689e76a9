//! `run` ends by a signal: its jobs do not stay behind, nor its spawner, nor its directory. They did.

use crate::support::{Host, describe, is_alive, kill, processes_with, program, wait_for};
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

/// Jobs that run.
const JOBS: usize = 3;
const PLAIN: &str = "sleep 600";
const STUBBORN: &str = "trap '' TERM HUP INT; setsid sleep 600 & while :; do sleep 1; done";

/// A `run` with jobs that are there.
struct Run {
    host: Host,
    child: Child,
    private: PathBuf,
}

impl Run {
    /// `shell`: what runs the program, as "$@".
    fn start(script: &str, shell: &str) -> Run {
        let host = Host::new();
        let private = host.path("xdg");
        fs::create_dir(&private).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", shell, "sh"]).arg(program()).args(["run", "-P", &JOBS.to_string()]);
        command.arg("--env").arg(format!("E2E_MARKER={}", host.marker));
        for number in 0..JOBS {
            let ready = host.path(&format!("ready{number}"));
            command.arg("--shell").arg(format!("{script} & echo x >{}; wait", ready.display()));
        }
        command.env("XDG_RUNTIME_DIR", &private).stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.stderr(fs::File::create(host.path("err")).unwrap()).spawn().unwrap();
        let run = Run { host, child, private };
        (0..JOBS).for_each(|number| drop(run.host.wait_file(&format!("ready{number}"))));
        run
    }

    fn kill(&self, signal: &str) {
        kill(self.child.id() as i32, signal);
    }

    fn wait_err(&self, text: &str) {
        wait_for(text, || fs::read_to_string(self.host.path("err")).unwrap().contains(text).then_some(()));
    }

    fn end(&mut self) -> ExitStatus {
        wait_for("the end of run", || self.child.try_wait().unwrap())
    }

    fn check_nothing_left(&self) {
        let private = self.private.to_str().unwrap();
        let left = || [processes_with(&self.host.marker), processes_with(private)].concat();
        wait_for("the end of all processes", || left().is_empty().then_some(()));
        wait_for("an empty place", || fs::read_dir(&self.private).unwrap().next().is_none().then_some(()));
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const PLAINLY: &str = "exec \"$@\"";

#[test]
fn a_signal_asks_the_jobs_of_run_to_end() {
    for (signal, code) in [("TERM", 143), ("HUP", 129), ("INT", 130)] {
        let mut run = Run::start(PLAIN, PLAINLY);
        run.kill(signal);
        assert_eq!(run.end().code(), Some(code), "{signal}");
        run.check_nothing_left();
    }
}

#[test]
fn a_second_signal_kills_the_jobs_of_run() {
    for (signal, code) in [("TERM", 143), ("HUP", 129)] {
        let mut run = Run::start(STUBBORN, PLAINLY);
        run.kill(signal);
        run.wait_err("asked the jobs to end");
        // The control: they do not want to.
        assert!(run.host.survivors().len() >= JOBS);
        run.kill(signal);
        assert_eq!(run.end().code(), Some(code), "{signal}");
        run.check_nothing_left();
    }
}

#[test]
fn nothing_is_left_of_a_killed_run() {
    for script in [PLAIN, STUBBORN] {
        let mut run = Run::start(script, PLAINLY);
        // The control: this finds what is there.
        let there: Vec<String> = run.host.survivors().into_iter().map(describe).collect();
        assert!(there.len() > JOBS, "{there:#?}");
        assert_eq!(fs::read_dir(&run.private).unwrap().count(), 1);
        run.kill("KILL");
        assert_eq!(run.end().signal(), Some(9));
        run.check_nothing_left();
    }
}

/// The other control: what belongs to a daemon outlives it.
#[test]
fn jobs_of_a_killed_daemon_outlive_a_killed_run() {
    let mut host = Host::started();
    let id = host.add(&host.shell("sleep 600"));
    host.wait_state(id, "running");
    let (shim, spawner) = (host.wait_shim(id), host.wait_spawner());
    let words = fs::read(format!("/proc/{spawner}/cmdline")).unwrap();
    assert!(!String::from_utf8_lossy(&words).contains("--die-with-daemon"));
    let mut run = Run::start(PLAIN, PLAINLY);
    host.kill();
    run.kill("KILL");
    run.end();
    run.check_nothing_left();
    assert!(is_alive(shim) && is_alive(spawner));
    host.start();
    assert_eq!(host.state_of(id), "running");
    host.post(&format!("/api/v1/jobs/{id}/cancel"), &serde_json::json!({}));
    host.finish(id);
    host.assert_clean();
}

#[test]
fn a_run_under_nohup_outlives_its_terminal() {
    let mut run = Run::start(PLAIN, "trap '' HUP; exec \"$@\"");
    run.kill("HUP");
    run.kill("TERM");
    // Of two that have arrived SIGHUP is taken first: it would have been 129.
    assert_eq!(run.end().code(), Some(143));
    run.check_nothing_left();
}
