//! A daemon of our own in private directories.

use crate::api::Api;
use crate::{clean, procfs};
use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Longest start that is waited for: a million jobs are read.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest orderly stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
/// Where runtime directories are memory on every Linux host.
const SHARED_MEMORY: &str = "/dev/shm";

/// A daemon and its directories. Dropping it ends the daemon, its spawner and its jobs, and removes the directories.
pub struct Home {
    /// `ci-runner`; `ci-runner-spawner` is beside it.
    runner: PathBuf,
    slots: u32,
    runtime: PathBuf,
    state: PathBuf,
    daemon: Option<Child>,
}

/// A directory where runtime directories are made.
pub fn runtime_base() -> PathBuf {
    if Path::new(SHARED_MEMORY).is_dir() { PathBuf::from(SHARED_MEMORY) } else { std::env::temp_dir() }
}

/// A new private directory that is gone at the end.
pub fn private_dir(base: &Path) -> Result<PathBuf> {
    let dir = tempfile::Builder::new().prefix("ci-runner-bench-").tempdir_in(base)?.keep();
    clean::note(&dir);
    Ok(dir)
}

impl Home {
    /// New directories and a daemon with so many slots that is ready.
    pub fn start(runner: &Path, slots: u32) -> Result<Self> {
        let runtime = private_dir(&runtime_base())?;
        let state = private_dir(&std::env::temp_dir())?;
        let mut home = Self { runner: runner.to_owned(), slots, runtime, state, daemon: None };
        home.start_daemon()?;
        Ok(home)
    }

    /// Starts a daemon here; tells how long it took from the start of its process to its line that it is ready.
    pub fn start_daemon(&mut self) -> Result<Duration> {
        let log = File::options().create(true).append(true).open(self.log())?;
        let begin = Instant::now();
        let mut child = Command::new(&self.runner)
            .arg("daemon")
            .arg("--state-dir")
            .arg(self.state.join("s"))
            .arg("--runtime-dir")
            .arg(&self.runtime)
            .args(["--http", "off", "--metrics", "off", "--max-parallel-jobs", &self.slots.to_string()])
            .env_remove("NOTIFY_SOCKET")
            .env_remove("JOURNAL_STREAM")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", self.runner.display()))?;
        let out = child.stdout.take().context("its output is piped")?;
        self.daemon = Some(child);
        let (told, hear) = mpsc::channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            let mut out = BufReader::new(out);
            out.read_line(&mut line).ok();
            told.send((line, Instant::now())).ok();
        });
        match hear.recv_timeout(START_TIMEOUT) {
            Ok((line, at)) if line.contains("ready") => Ok(at - begin),
            Ok((line, _)) => bail!("the daemon said '{}' instead of being ready: {}", line.trim(), self.last_words()),
            Err(_) => bail!("the daemon was not ready after {} s: {}", START_TIMEOUT.as_secs(), self.last_words()),
        }
    }

    fn log(&self) -> PathBuf {
        self.state.join("daemon.log")
    }

    fn last_words(&self) -> String {
        let text = std::fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(3)..].join(" | ")
    }

    /// The socket of the API.
    pub fn socket(&self) -> PathBuf {
        self.runtime.join("api.sock")
    }

    /// The directory on disk.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// A connection to the daemon.
    pub fn api(&self) -> Result<Api> {
        Api::connect(&self.socket())
    }

    /// A client's command line for this daemon.
    pub fn client(&self, words: &[&str]) -> Command {
        self.command(&self.runner, words)
    }

    /// The command line of the small client, which queues one text for a shell.
    pub fn add_job(&self, text: &str) -> Command {
        self.command(&self.runner.with_file_name("add_job"), &[text])
    }

    fn command(&self, program: &Path, words: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(words).env("CI_RUNNER_SOCKET", self.socket()).current_dir("/").stdin(Stdio::null());
        command
    }

    /// The daemon's process id.
    pub fn pid(&self) -> Result<u32> {
        self.daemon.as_ref().map(Child::id).context("the daemon does not run")
    }

    /// Processes of the spawner's program for this directory: the spawner itself, and one shim for each attempt.
    fn spawners(&self) -> Vec<u32> {
        let runtime = self.runtime.to_string_lossy();
        let own = |pid: &u32| procfs::words(*pid).iter().any(|word| *word == runtime);
        let pids = procfs::descendants(std::process::id());
        pids.into_iter().filter(|pid| procfs::program(*pid).ends_with("ci-runner-spawner")).filter(own).collect()
    }

    /// The spawner's process id.
    pub fn spawner(&self) -> Result<u32> {
        let all = self.spawners();
        let is_top = |pid: &u32| procfs::parent(*pid).is_none_or(|parent| !all.contains(&parent));
        all.iter().copied().find(is_top).context("no spawner runs")
    }

    /// The shims' process ids.
    pub fn shims(&self) -> Result<Vec<u32>> {
        let spawner = self.spawner()?;
        Ok(self.spawners().into_iter().filter(|pid| *pid != spawner).collect())
    }

    /// Kills the daemon; jobs go on.
    pub fn kill_daemon(&mut self) -> Result<()> {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill()?;
            daemon.wait()?;
        }
        Ok(())
    }

    /// Stops the daemon in order.
    pub fn stop_daemon(&mut self) -> Result<()> {
        let Some(mut daemon) = self.daemon.take() else { return Ok(()) };
        if let Some(pid) = Pid::from_raw(daemon.id().cast_signed()) {
            kill_process(pid, Signal::TERM).ok();
        }
        let until = Instant::now() + STOP_TIMEOUT;
        while daemon.try_wait()?.is_none() {
            if Instant::now() > until {
                daemon.kill()?;
                daemon.wait()?;
                bail!("the daemon did not stop within {} s", STOP_TIMEOUT.as_secs());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        self.kill_daemon().ok();
        clean::everything();
    }
}
