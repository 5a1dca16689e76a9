//! A host of one's own: the real programs, in directories and with a marker that nobody else has.
//!
//! Tests run in parallel and must find their own processes, and only those. Nothing here sleeps to wait for something:
//! states are polled with a deadline. When a [`Host`] is dropped, every process of it is killed and every file removed.

mod api;
pub mod client;
pub mod load;
pub mod procs;
pub mod random;
mod remains;
pub mod small;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

pub use client::{Client, Response};
pub use procs::*;
pub use random::Random;

/// Nothing that is waited for takes so long on any machine, unless it is broken.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The program under test, the spawner beside it: this build's, or the one that `CI_RUNNER_TEST_PROGRAM` names.
pub fn program() -> PathBuf {
    std::env::var_os("CI_RUNNER_TEST_PROGRAM").map_or_else(|| env!("CARGO_BIN_EXE_ci-runner").into(), PathBuf::from)
}

/// Polls until there is something.
pub fn wait_for<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    wait_until(what, Instant::now() + PATIENCE, look)
}

/// Polls until there is something, or the deadline has passed.
pub fn wait_until<T>(what: &str, until: Instant, mut look: impl FnMut() -> Option<T>) -> T {
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A number for the tests that do something many times: small as a rule, larger for a campaign.
pub fn count_of(variable: &str, usual: usize) -> usize {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// The command as a service manager runs it that passes a socket: as descriptor 3, with the variables that say so.
fn activated(command: &Command, socket: &UnixListener) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$@\"", "sh"]);
    shell.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell.stdin(OwnedFd::from(socket.try_clone().unwrap()));
    shell
}

/// The body of what a port answers, once somebody listens there.
pub fn http_get(address: &str, path: &str) -> String {
    let mut socket = wait_for("the port", || TcpStream::connect(address).ok());
    socket
        .write_all(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").as_bytes())
        .unwrap();
    let mut text = Vec::new();
    socket.read_to_end(&mut text).unwrap();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    text.split_once("\r\n\r\n").unwrap().1.to_owned()
}

/// What a daemon is started with.
pub struct Host {
    dir: tempfile::TempDir,
    run: tempfile::TempDir,
    /// In the environment of every job of [`Host::shell`], and in nothing else.
    pub marker: String,
    /// Slots of the default pool.
    pub slots: u32,
    /// The configuration file, beside what the command line says. The grace is short as a rule.
    pub config: String,
    /// More words for the command line.
    pub words: Vec<String>,
    /// A shell script that gets the daemon's command line as "$@".
    pub wrapper: Option<&'static str>,
    /// Variables of the next daemon that is started.
    pub env: Vec<(String, String)>,
    /// Where the state is; a part of the private directory unless a test says otherwise.
    pub state: PathBuf,
    /// A socket that the next daemons get as from a service manager.
    pub passed: Option<UnixListener>,
    daemon: Option<Child>,
    starts: u32,
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

impl Host {
    /// Directories; nothing runs yet.
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("ci-e2e-").tempdir().unwrap();
        let memory = Path::new("/dev/shm");
        let mut builder = tempfile::Builder::new();
        let run = builder.prefix("ci-e2e-");
        let run = if memory.is_dir() { run.tempdir_in(memory) } else { run.tempdir() }.unwrap();
        let state = dir.path().join("state");
        let marker = format!("marker{}", Random::new().hex());
        let (words, config) = (Vec::new(), "grace = 1\n".to_owned());
        Self {
            dir,
            run,
            marker,
            slots: 4,
            config,
            words,
            wrapper: None,
            env: Vec::new(),
            state,
            passed: None,
            daemon: None,
            starts: 0,
        }
    }

    /// With state and runtime directory on one disk, as where no session has a runtime directory.
    pub fn on(disk: &Path) -> Self {
        let mut host = Self::new();
        host.state = disk.join("state");
        host.run = tempfile::tempdir_in(disk).unwrap();
        host
    }

    /// A daemon that is ready.
    pub fn started() -> Self {
        let mut host = Self::new();
        host.start();
        host
    }

    /// A file in the private directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The runtime directory.
    pub fn runtime(&self) -> PathBuf {
        self.run.path().join("r")
    }

    /// The API's socket.
    pub fn socket(&self) -> PathBuf {
        self.runtime().join("api.sock")
    }

    /// What daemons wrote to standard error.
    pub fn daemon_log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.path("daemon.log")).unwrap_or_default()).into_owned()
    }

    /// The program with this host's socket, as a client.
    pub fn cli(&self, words: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.env_remove("CI_RUNNER_FAIL").env("CI_RUNNER_SOCKET", self.socket()).args(words);
        command
    }

    /// Runs the program as a client to its end.
    pub fn run_cli(&self, words: &[&str]) -> Output {
        self.cli(words).output().unwrap()
    }

    /// The daemon's command.
    pub fn command(&self) -> Command {
        let mut command = match self.wrapper {
            None => Command::new(program()),
            Some(script) => {
                let mut command = Command::new("/bin/sh");
                command.args(["-c", script, "sh"]).arg(program());
                command
            }
        };
        command.arg("daemon").arg("--state-dir").arg(&self.state);
        if !self.words.iter().any(|word| word == "--runtime-dir") {
            command.arg("--runtime-dir").arg(self.runtime());
        }
        for word in ["JOURNAL_STREAM", "NOTIFY_SOCKET", "WATCHDOG_USEC", "STATE_DIRECTORY", "RUNTIME_DIRECTORY"] {
            command.env_remove(word);
        }
        if !self.words.iter().any(|word| word == "--http") {
            command.args(["--http", "off"]);
        }
        if !self.words.iter().any(|word| word == "--metrics") {
            command.args(["--metrics", "off"]);
        }
        fs::write(self.path("config.toml"), &self.config).unwrap();
        command.arg("--config").arg(self.path("config.toml"));
        if !self.config.contains("[pools.") {
            command.args(["--max-parallel-jobs", &self.slots.to_string()]);
        }
        command.args(&self.words);
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Starts a daemon and does not wait for anything; its ready line comes through the channel.
    pub fn spawn(&mut self) -> mpsc::Receiver<String> {
        assert!(self.daemon.is_none(), "a daemon runs already");
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path("daemon.log")).unwrap();
        let mut command = self.command();
        command.stdin(Stdio::null());
        if let Some(socket) = &self.passed {
            command = activated(&command, socket);
        }
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || out.lines().map_while(Result::ok).for_each(|line| drop(tell.send(line))));
        self.daemon = Some(child);
        self.starts += 1;
        told
    }

    /// Starts a daemon and waits until it is ready. Gives the ready line.
    pub fn start(&mut self) -> String {
        self.try_start().unwrap_or_else(|status| panic!("the daemon ended ({status}):\n{}", self.daemon_log()))
    }

    /// As [`Host::start`]; Err: it ended before it was ready.
    pub fn try_start(&mut self) -> Result<String, ExitStatus> {
        let told = self.spawn();
        match told.recv_timeout(PATIENCE) {
            Ok(line) => Ok(line),
            Err(mpsc::RecvTimeoutError::Disconnected) => Err(self.wait_exit(PATIENCE)),
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("the daemon is not ready:\n{}", self.daemon_log()),
        }
    }

    /// Runs a daemon that is expected to refuse; status and what it wrote to standard error.
    pub fn refused(&self) -> (ExitStatus, String) {
        let mut child =
            self.command().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let until = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > until {
                child.kill().unwrap();
                panic!("a daemon that should refuse runs");
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let text = std::io::read_to_string(child.stderr.take().unwrap()).unwrap();
        (status, text)
    }

    /// Process id of the daemon.
    pub fn pid(&self) -> i32 {
        self.daemon.as_ref().expect("a daemon").id() as i32
    }

    /// Sends the daemon a signal.
    pub fn signal(&self, signal: &str) {
        kill(self.pid(), signal);
    }

    /// SIGKILL to the daemon; returns when it is gone.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.daemon.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Waits for the daemon's end.
    pub fn wait_exit(&mut self, patience: Duration) -> ExitStatus {
        let mut child = self.daemon.take().expect("a daemon");
        let until = Instant::now() + patience;
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status;
            }
            if Instant::now() > until {
                child.kill().unwrap();
                child.wait().unwrap();
                panic!("the daemon did not end within {patience:?}:\n{}", self.daemon_log());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// SIGTERM, and waits until it has ended well.
    pub fn stop(&mut self) {
        self.signal("TERM");
        let status = self.wait_exit(PATIENCE);
        assert!(status.success(), "the daemon ended with {status}:\n{}", self.daemon_log());
    }

    /// A line of shell that waits until this file is there, however late it comes to it.
    pub fn until(&self, name: &str) -> String {
        format!("until [ -e {} ]; do sleep 0.02; done", self.path(name).display())
    }

    /// A named pipe that jobs read a line from: they wait until what is returned is dropped.
    pub fn gate(&self, name: &str) -> Gate {
        let path = self.path(name);
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        Gate(fs::OpenOptions::new().read(true).write(true).open(path).unwrap())
    }

    /// Waits until a file has so many lines and gives them.
    pub fn wait_lines(&self, name: &str, count: usize) -> Vec<String> {
        let path = self.path(name);
        wait_for(&format!("{count} lines in {name}"), || {
            let text = fs::read_to_string(&path).ok()?;
            let lines: Vec<String> = text.lines().map(str::to_owned).collect();
            (lines.len() >= count).then_some(lines)
        })
    }

    /// Waits until a file has some content and gives it.
    pub fn wait_file(&self, name: &str) -> String {
        let path = self.path(name);
        wait_for(&path.display().to_string(), || fs::read_to_string(&path).ok().filter(|text| !text.is_empty()))
    }
}

/// See [`Host::gate`].
pub struct Gate(pub fs::File);

impl Drop for Gate {
    fn drop(&mut self) {
        // A job that comes late has a line too: where nobody has the pipe open for writing it would wait for ever.
        self.0.write_all(&[b'\n'; 4096]).unwrap();
        std::mem::forget(self.0.try_clone().unwrap());
    }
}

/// The last lines of a text.
pub fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("daemon's log, its end:\n{}", tail(&self.daemon_log()));
        }
        self.kill();
        let own = [self.dir.path(), self.run.path()].map(|path| path.to_str().unwrap().to_owned());
        for _ in 0..500 {
            let mut pids = self.survivors();
            own.iter().for_each(|path| pids.extend(processes_with(path)));
            if pids.is_empty() {
                break;
            }
            pids.into_iter().for_each(|pid| kill(pid, "KILL"));
            std::thread::sleep(Duration::from_millis(2));
        }
        remains::remove_cgroups(&self.state);
    }
}
