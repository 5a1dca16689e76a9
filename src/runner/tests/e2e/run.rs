//! `run` ends by a signal: its jobs do not stay behind, nor its spawner, nor its directory. They did.

use crate::support::{Host, describe, is_alive, kill, processes_with, program, wait_for};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

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
        Run::start_with(&[], script, shell, JOBS)
    }

    /// As `start`, with options; so many jobs are there when it is done.
    fn start_with(options: &[&str], script: &str, shell: &str, there: usize) -> Run {
        let host = Host::new();
        let private = host.path("xdg");
        fs::create_dir(&private).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", shell, "sh"]).arg(program()).args(["run", "-P", &JOBS.to_string()]).args(options);
        command.arg("--env").arg(format!("E2E_MARKER={}", host.marker));
        for number in 0..JOBS {
            let ready = host.path(&format!("ready{number}"));
            command.arg("--shell").arg(format!("{script} & echo x >{}; wait", ready.display()));
        }
        command.env("XDG_RUNTIME_DIR", &private).stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.stderr(fs::File::create(host.path("err")).unwrap()).spawn().unwrap();
        let run = Run { host, child, private };
        (0..there).for_each(|number| drop(run.host.wait_file(&format!("ready{number}"))));
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

/// A `run` to its end: exit code and standard error.
fn run_to_end(words: &[&str]) -> (Option<i32>, String) {
    let host = Host::new();
    let mut command = Command::new(program());
    command.arg("run").args(words).env("XDG_RUNTIME_DIR", host.path("")).stdin(Stdio::null()).stdout(Stdio::null());
    let child = command.stderr(fs::File::create(host.path("err")).unwrap()).spawn().unwrap();
    let mut run = Run { private: host.path("none"), host, child };
    let code = run.end().code();
    (code, fs::read_to_string(run.host.path("err")).unwrap())
}

/// Bad input was exit 1, and what can never start was waited for in silence.
#[test]
fn what_run_cannot_run_is_refused_at_once() {
    for (options, part) in [
        (&["--pool", "nope"][..], "pool: there is no pool \"nope\""),
        (&["--log-max", "1"], "log_max: 1 bytes; between"),
        (&["--after", "1"], "after: `run` knows no other jobs"),
        (&["--hold"], "hold: `run` ends with its jobs: nobody could release it"),
        (&["--label", "gpu"], "labels: `run` has one pool, and that has no labels"),
        (&["--key", "k"], "key: `run` keeps nothing"),
    ] {
        let (code, said) = run_to_end(&[options, &["--", "true"]].concat());
        assert_eq!(code, Some(3), "{options:?}: {said}");
        assert!(said.starts_with(&format!("ci-runner: {part}")), "{options:?}: {said}");
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "{\"shell\":\"exit 1\"}\n\n{\"shell\":\"exit 1\",\"hold\":true}\n").unwrap();
    let name = file.path().to_str().unwrap();
    let (code, said) = run_to_end(&["-f", name]);
    assert_eq!(code, Some(3), "{said}");
    assert!(said.starts_with(&format!("ci-runner: {name}:3: hold: ")) && said.ends_with("nothing was run\n"), "{said}");
    // The control: a job that fails is 1.
    assert_eq!(run_to_end(&["--", "false"]).0, Some(1));
}

#[test]
fn a_run_that_waits_says_for_what() {
    let mut run = Run::start_with(&["--in", "10m"], "sleep 600", PLAINLY, 0);
    run.wait_err("queued starts in 10m");
    run.kill("TERM");
    assert_eq!(run.end().code(), Some(143));
    run.check_nothing_left();
}

/// It waited for ever, and said nothing: every limit passed while the spawner had not told which it can keep.
#[test]
fn a_limit_that_nothing_keeps_is_refused_and_not_waited_for() {
    for (option, value) in [("--memory", "100M"), ("--pids", "50"), ("--cpu", "1")] {
        let (code, said) = run_to_end(&[option, value, "--", "true"]);
        let field = option.trim_start_matches('-');
        match code {
            // Where cgroups are ours.
            Some(0) => {}
            Some(3) => {
                assert!(said.starts_with(&format!("ci-runner: {field}: nothing on this host enforces it")), "{said}")
            }
            _ => panic!("{option}: {code:?} {said}"),
        }
    }
}

/// It was exit 0 without a word, and a file that lacked its end.
#[test]
fn output_that_is_cut_is_told_and_no_success() {
    let cut = ["-q", "--log-max", "64K", "--", "sh", "-c", "head -c 200000 /dev/zero"];
    let (code, said) = run_to_end(&cut);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("of its output beyond 64 KiB were dropped; --log-max SIZE raises that"), "{said}");
    // The control: what fits is a success.
    let (code, said) = run_to_end(&["-q", "--log-max", "1M", "--", "sh", "-c", "head -c 200000 /dev/zero"]);
    assert_eq!((code, said.as_str()), (Some(0), ""));
}

#[test]
fn who_waits_for_a_spawner_that_does_not_come_may_leave() {
    // The program beside a spawner that ends at once; a link, as whoever is asked for its own name follows a symbolic one.
    let place = tempfile::tempdir_in(program().parent().unwrap()).unwrap();
    let linked = place.path().join("ci-runner");
    fs::hard_link(program(), &linked).unwrap();
    fs::write(place.path().join("ci-runner-spawner"), "#!/bin/sh\nexit 1\n").unwrap();
    fs::set_permissions(place.path().join("ci-runner-spawner"), fs::Permissions::from_mode(0o755)).unwrap();
    let private = place.path().join("run");
    fs::create_dir(&private).unwrap();
    let mut command = Command::new(&linked);
    command.args(["run", "--pids", "50", "--", "true"]).env("XDG_RUNTIME_DIR", &private);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for("its directory", || fs::read_dir(&private).unwrap().next().is_some().then_some(()));
    let asked = Instant::now();
    kill(child.id() as i32, "INT");
    assert_eq!(wait_for("the end of run", || child.try_wait().unwrap()).code(), Some(130));
    // Without hearing the signal it would have waited for half a minute.
    assert!(asked.elapsed() < Duration::from_secs(15), "{:?}", asked.elapsed());
    wait_for("an empty place", || fs::read_dir(&private).unwrap().next().is_none().then_some(()));
}

/// 0 says that every job succeeded: a reader that goes away (`run … | head -1`) ends the jobs, and that is no success.
#[test]
fn run_without_a_reader_ends_its_jobs_and_fails() {
    let host = Host::new();
    let private = host.path("xdg");
    fs::create_dir(&private).unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    let mut command = Command::new(program());
    command
        .args(["run", "-q", "--retry", "0", "--shell", "echo one; sleep 600 & wait; exit 7"])
        .env("XDG_RUNTIME_DIR", &private);
    drop(reader);
    let child = command.stdin(Stdio::null()).stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
    drop(command);
    let output = child.wait_with_output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.contains("nobody reads the output any more: what still ran was ended"), "{err}");
}
