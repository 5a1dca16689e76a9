//! A spawner of one's own, in directories of one's own, with a store id and a marker that nobody else has: tests run in
//! parallel and must find their own processes, and only those.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use ci_runner_spawner::client::Client;
use ci_runner_spawner::joblog::log_path;
use ci_runner_spawner::protocol::{AttemptKey, ExitRecord, Reply, Spec, Start};

pub use crate::processes::*;

/// Nothing here takes so long on any machine, unless it is broken.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// With or without a cgroup per attempt; everything must hold in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cgroup {
    Auto,
    /// With, where there is no `clone3`.
    Moves,
    Off,
}

/// What a daemon would hold.
pub struct Host {
    pub dir: tempfile::TempDir,
    pub store: String,
    pub marker: String,
    pub cgroup: Cgroup,
    pub linger_ms: u64,
    pub environment: Vec<(String, String)>,
    /// The spawner is a private one, with this as its standard input.
    pub lifeline: Option<io::PipeReader>,
    /// A shell script that gets the spawner's command line as "$@".
    pub wrapper: Option<&'static str>,
    /// Where all directories are, if not at the top.
    pub subdirectory: Option<PathBuf>,
    pub generation: u64,
    pub client: Option<Client>,
    pub spawner_pid: i32,
    pub epoch: String,
    /// What the spawner says of it.
    pub has_cgroup: bool,
    /// Ends that were told, by attempt.
    pub ended: HashMap<AttemptKey, Option<ExitRecord>>,
    /// Other replies, in order.
    pub replies: Vec<Reply>,
}

pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn random_hex(digits: usize) -> String {
    let mut bytes = vec![0; digits / 2];
    io::Read::read_exact(&mut fs::File::open("/dev/urandom").unwrap(), &mut bytes).unwrap();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Host {
    /// Directories, no spawner yet.
    pub fn new(cgroup: Cgroup) -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            store: random_hex(8),
            marker: format!("marker-{}", random_hex(16)),
            cgroup,
            linger_ms: 200,
            environment: Vec::new(),
            lifeline: None,
            wrapper: None,
            subdirectory: None,
            generation: 0,
            client: None,
            spawner_pid: 0,
            epoch: String::new(),
            has_cgroup: false,
            ended: HashMap::new(),
            replies: Vec::new(),
        }
    }

    /// A running spawner with a connection.
    pub fn started(cgroup: Cgroup) -> Self {
        let mut host = Self::new(cgroup);
        host.connect();
        host
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.subdirectory.as_deref().unwrap_or(self.dir.path()).join(name)
    }

    /// What jobs of a slot have as `TMPDIR`.
    pub fn slot_dir(&self, slot: u32) -> PathBuf {
        self.path(&format!("tmp/{}-default-{slot}", self.store))
    }

    pub fn socket(&self) -> PathBuf {
        self.path("run/spawner/socket")
    }

    pub fn command(&self) -> Command {
        let program = env!("CARGO_BIN_EXE_spawner-under-test");
        let mut command = match self.wrapper {
            None => Command::new(program),
            Some(script) => {
                let mut command = Command::new("/bin/sh");
                command.args(["-c", script, "sh", program]);
                command
            }
        };
        command.arg("--runtime-dir").arg(self.path("run"));
        command.arg("--log-dir").arg(self.path("log")).arg("--tmp-dir").arg(self.path("tmp"));
        command.args(["--linger-ms", &self.linger_ms.to_string()]);
        match self.cgroup {
            Cgroup::Auto => {}
            Cgroup::Moves => drop(command.arg("--no-clone3")),
            Cgroup::Off => drop(command.arg("--no-cgroup")),
        }
        if let Some(pipe) = &self.lifeline {
            command.arg("--die-with-daemon").arg(self.path("")).stdin(pipe.try_clone().unwrap());
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    pub fn run_spawner(&self) {
        let output = self.command().output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    /// Starts a spawner if none is there, and says hello with the next generation.
    pub fn connect(&mut self) {
        self.client = None;
        self.generation += 1;
        wait_for("a spawner that says welcome", || {
            self.run_spawner();
            self.try_hello().then_some(())
        });
    }

    pub fn key(&self, job: u64) -> AttemptKey {
        AttemptKey { store: self.store.clone(), job, attempt: 1 }
    }

    /// A specification with the marker in its environment.
    pub fn spec(&self, argv: &[&str]) -> Spec {
        Spec {
            argv: argv.iter().map(|&word| word.to_owned()).collect(),
            env: vec![
                ("PATH".to_owned(), "/usr/local/bin:/usr/bin:/bin".to_owned()),
                ("MARKER".to_owned(), self.marker.clone()),
            ],
            dir: None,
            umask: 0o22,
        }
    }

    /// A shell script with the marker in its words too, where a cleared environment does not lose it.
    pub fn script(&self, script: &str) -> Spec {
        self.spec(&["/bin/sh", "-c", script, &self.marker])
    }

    pub fn request(&self, job: u64) -> Start {
        Start {
            key: self.key(job),
            pool: "default".to_owned(),
            slot: job as u32,
            timeout_ms: Some(600_000),
            soft_timeout_ms: None,
            grace_ms: 10_000,
            log_bytes_max: 1 << 20,
            secrets: false,
            profile: None,
            submitter: None,
            limits: Default::default(),
        }
    }

    pub fn log(&self, job: u64) -> String {
        let path = self.path("log").join(log_path(job, 1));
        String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
    }

    /// The file that a job makes to say something; waits for it and gives its content.
    pub fn wait_file(&self, path: &Path) -> String {
        wait_for(&format!("{}", path.display()), || fs::read_to_string(path).ok().filter(|text| !text.is_empty()))
    }

    /// Kills the spawner as hard as can be, and waits until it is gone.
    pub fn kill_spawner(&mut self) {
        kill(self.spawner_pid, "KILL");
        let pid = self.spawner_pid;
        wait_for("the spawner's death", || (!is_alive(pid)).then_some(()));
        self.client = None;
    }

    pub fn shim_pid(&self, job: u64) -> i32 {
        let path = self.path("run/spawner/attempts").join(self.key(job).to_string()).join("lock");
        wait_for("the shim's identity", || {
            let text = fs::read_to_string(&path).ok()?;
            text.split(' ').next()?.parse().ok()
        })
    }

    /// Living processes of this test's jobs.
    pub fn survivors(&self) -> Vec<i32> {
        processes_with(&self.marker)
    }

    /// Cgroups of this test's attempts.
    pub fn cgroups(&self) -> Vec<PathBuf> {
        cgroups(&self.store)
    }

    pub fn assert_nothing_left(&self) {
        let survivors: Vec<String> = self.survivors().into_iter().map(describe).collect();
        assert!(survivors.is_empty(), "left: {survivors:#?}");
    }
}

/// A job that says it runs, waits for the file, and appends its number to another.
pub fn waiting_job(host: &Host, job: u64) -> Spec {
    let dir = host.dir.path().display();
    host.script(&format!(
        "echo ready > {dir}/ready-{job}; while [ ! -e {dir}/go ]; do sleep 0.01; done; echo {job} >> {dir}/ran; exit {job}"
    ))
}

pub fn go(host: &Host) {
    fs::write(host.path("go"), "").unwrap();
}

/// How often each job ran.
pub fn executions(host: &Host, job: u64) -> usize {
    let text = fs::read_to_string(host.path("ran")).unwrap_or_default();
    text.lines().filter(|line| *line == job.to_string()).count()
}

impl Drop for Host {
    fn drop(&mut self) {
        self.client = None;
        let mut pids = processes_with(self.dir.path().to_str().unwrap());
        pids.extend(self.survivors());
        for _ in 0..100 {
            if pids.is_empty() {
                break;
            }
            for &pid in &pids {
                kill(pid, "KILL");
            }
            std::thread::sleep(Duration::from_millis(2));
            pids = processes_with(self.dir.path().to_str().unwrap());
            pids.extend(self.survivors());
        }
        let _ = Command::new("chmod").args(["-R", "u+rwx"]).arg(self.dir.path()).output();
        for cgroup in cgroups(&self.store) {
            let _ = fs::remove_dir(cgroup);
        }
    }
}
