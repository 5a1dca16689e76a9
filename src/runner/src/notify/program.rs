//! Runs a program with something on its standard input, within a time, and leaves nothing of it behind.
//!
//! It has a process group of its own and a mark in its environment: at the end, in whatever way that came, both are used to
//! find what it started, and all of it is killed. A process that left the group *and* cleared its environment is not found.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, kill_process_group, pidfd_open};
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The variable by which processes are found.
const MARK: &str = "CI_RUNNER_NOTIFICATION";
/// The same for all of one daemon's store.
const STORE_MARK: &str = "CI_RUNNER_NOTIFIER_OF";
/// So much of what it says on standard error is kept: the end.
const SAID_BYTES_MAX: usize = 400;
/// Rounds of looking for what is left: each process may have started others meanwhile.
const ROUNDS_MAX: u32 = 100;
/// Where programs are looked for by what is run.
const PATH: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/run/current-system/sw/bin:/run/wrappers/bin";

/// Programs that were run by this process.
static RUNS: AtomicU64 = AtomicU64::new(0);

/// Whether it could be started.
pub(super) fn check(argv: &[String]) -> Result<(), String> {
    let Some(program) = argv.first() else { return Err("no program is given".to_owned()) };
    let access = rustix::fs::access(program.as_str(), rustix::fs::Access::EXEC_OK);
    access.map_err(|error| format!("{program} cannot be executed: {error}"))?;
    if Path::new(program).is_file() { Ok(()) } else { Err(format!("{program} is no file")) }
}

/// Kills all that runs for a store, whoever started it: what a daemon left that was killed, and what still runs at its end.
pub(super) fn kill_all_of(store: &str) {
    kill_marked(format!("{STORE_MARK}={store}").as_bytes());
}

/// Runs it to its end; an error says how that was. `id` and `store` mark what belongs to it.
pub(super) fn run(argv: &[String], (id, store): (&str, &str), input: &str, timeout: Duration) -> Result<(), String> {
    let Some((program, words)) = argv.split_first() else { return Err("no program is given".to_owned()) };
    let deadline = Instant::now() + timeout;
    // One event may be told by several programs at once: what one of them started is not another's to end.
    let id = format!("{id}/{}", RUNS.fetch_add(1, Ordering::Relaxed));
    let mark = format!("{MARK}={id}");
    let child = Command::new(program)
        .args(words)
        .env_clear()
        .env("PATH", std::env::var("PATH").unwrap_or_else(|_| PATH.to_owned()))
        .env(MARK, &id)
        .env(STORE_MARK, store)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn();
    let mut child = child.map_err(|error| format!("{program} cannot be started: {error}"))?;
    let mut said = Vec::new();
    let ended = attend(&mut child, input, deadline, &mut said);
    if let Ok(group) = i32::try_from(child.id())
        && let Some(group) = Pid::from_raw(group)
    {
        // Before it is reaped: until then the number is its own.
        kill_process_group(group, Signal::KILL).ok();
    }
    let status = child.wait();
    kill_marked(mark.as_bytes());
    match (ended, status) {
        (Err(error), _) => Err(format!("{program}: {error}")),
        (Ok(false), _) => Err(format!("{program} took longer than {} s and was killed", timeout.as_secs_f64())),
        (Ok(true), Err(error)) => Err(format!("{program}: {error}")),
        (Ok(true), Ok(status)) if status.success() => Ok(()),
        (Ok(true), Ok(status)) => Err(format!("{program} {}{}", how(status), words_of(&said))),
    }
}

/// Feeds it and waits for its end; false when the time is over.
fn attend(child: &mut Child, input: &str, deadline: Instant, said: &mut Vec<u8>) -> std::io::Result<bool> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(std::io::ErrorKind::NotFound)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    let mut stdin = child.stdin.take();
    let mut stderr = child.stderr.take();
    if let Some(stdin) = &stdin {
        fcntl_setfl(stdin, fcntl_getfl(stdin)? | OFlags::NONBLOCK)?;
    }
    if let Some(stderr) = &stderr {
        fcntl_setfl(stderr, fcntl_getfl(stderr)? | OFlags::NONBLOCK)?;
    }
    let mut rest = input.as_bytes();
    loop {
        if let Some(pipe) = &mut stdin {
            let done = match pipe.write(rest) {
                Ok(count) => {
                    rest = &rest[count..];
                    rest.is_empty()
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => false,
                // It does not want it.
                Err(_) => true,
            };
            if done {
                stdin = None;
            }
        }
        if let Some(pipe) = &mut stderr
            && !listen(pipe, said)
        {
            stderr = None;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        if wait(&pidfd, stdin.as_ref(), stderr.as_ref(), left)? {
            if let Some(pipe) = &mut stderr {
                listen(pipe, said);
            }
            return Ok(true);
        }
    }
}

/// Waits until something can be done; true when the process is over.
fn wait(
    pidfd: &OwnedFd,
    stdin: Option<&std::process::ChildStdin>,
    stderr: Option<&ChildStderr>,
    left: Duration,
) -> std::io::Result<bool> {
    let mut watched = vec![PollFd::new(pidfd, PollFlags::IN)];
    watched.extend(stdin.map(|pipe| PollFd::new(pipe, PollFlags::OUT)));
    watched.extend(stderr.map(|pipe| PollFd::new(pipe, PollFlags::IN)));
    let left =
        Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX), tv_nsec: left.subsec_nanos().into() };
    match poll(&mut watched, Some(&left)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(!watched[0].revents().is_empty()),
        Err(error) => Err(error.into()),
    }
}

/// Takes what it says; false at the end.
fn listen(pipe: &mut ChildStderr, said: &mut Vec<u8>) -> bool {
    let mut part = [0; 4_096];
    // A flood must not keep us here: the deadline is looked at in between.
    for _ in 0..16 {
        match pipe.read(&mut part) {
            Ok(0) => return false,
            Ok(count) => {
                said.extend_from_slice(&part[..count]);
                let surplus = said.len().saturating_sub(SAID_BYTES_MAX);
                said.drain(..surplus);
            }
            Err(error) => return error.kind() == std::io::ErrorKind::WouldBlock,
        }
    }
    true
}

fn how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

fn words_of(said: &[u8]) -> String {
    let text = String::from_utf8_lossy(said);
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.is_empty() { line } else { format!(": {line}") }
}

/// Kills every process that has the mark in its environment.
fn kill_marked(mark: &[u8]) {
    for _ in 0..ROUNDS_MAX {
        let mut found = false;
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
            let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
            let has_mark = environment.split(|byte| *byte == 0).any(|variable| variable == mark);
            if let Some(pid) = Pid::from_raw(pid).filter(|_| has_mark) {
                found |= kill_process(pid, Signal::KILL).is_ok();
            }
        }
        if !found {
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, input: &str, timeout: Duration) -> Result<(), String> {
        let argv = ["/bin/sh", "-c", script].map(str::to_owned);
        run(&argv, (&uuid::Uuid::now_v7().to_string(), "tests"), input, timeout)
    }

    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn the_input_arrives_whole_and_failures_say_why() {
        let input = "x".repeat(300_000);
        assert_eq!(shell("test $(wc -c) = 300000", &input, LONG), Ok(()));
        assert_eq!(shell("exit 0", &input, LONG), Ok(()), "it need not read");
        let error = shell("echo no such host >&2; exit 3", "", LONG).unwrap_err();
        assert_eq!(error, "/bin/sh exited with 3: no such host");
        assert!(shell("kill -9 $$", "", LONG).unwrap_err().contains("signal 9"));
        assert_eq!(shell("head -c 3000000 /dev/zero >&2", "", LONG), Ok(()), "a flood holds nobody up");
        assert!(run(&["/no/such".to_owned()], ("x", "tests"), "", LONG).unwrap_err().contains("cannot be started"));
    }

    #[test]
    fn two_that_are_told_of_one_event_do_not_end_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let (began, gate) = (dir.path().join("began"), dir.path().join("gate"));
        let script = format!("echo > {}; until [ -e {} ]; do sleep 0.01; done", began.display(), gate.display());
        let argv = |script: &str| ["/bin/sh", "-c", script].map(str::to_owned);
        let slow_argv = argv(&script);
        let slow = std::thread::spawn(move || run(&slow_argv, ("one", "tests-two"), "", LONG));
        let deadline = Instant::now() + LONG;
        while !began.exists() {
            assert!(Instant::now() < deadline, "it does not begin");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(run(&argv("exit 1"), ("one", "tests-two"), "", LONG).is_err());
        std::fs::write(&gate, "").unwrap();
        assert_eq!(slow.join().unwrap(), Ok(()));
    }

    #[test]
    fn one_that_hangs_is_killed_with_all_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let pids = dir.path().join("pids");
        let script = format!(
            "echo $$ > {0}; setsid sh -c 'echo $$ >> {0}; sleep 1000' & (sleep 1000 & echo $! >> {0}); sleep 1000",
            pids.display()
        );
        let error = shell(&script, "", Duration::from_millis(700)).unwrap_err();
        assert!(error.contains("took longer than 0.7 s"), "{error}");
        let alive = |pid: &str| {
            let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            !state.is_empty() && !state.contains(") Z ")
        };
        let text = std::fs::read_to_string(&pids).unwrap();
        assert_eq!(text.lines().count(), 3, "{text}");
        let deadline = Instant::now() + LONG;
        while text.lines().any(alive) {
            assert!(Instant::now() < deadline, "still there: {text}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
