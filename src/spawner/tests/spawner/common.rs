//! A spawner of one's own, in directories of one's own, with a store id and a marker that nobody else has: tests run in
//! parallel and must find their own processes, and only those.

use crate::skipped;
use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;
use std::time::{Duration, Instant};

use ci_runner_spawner::client::Client;
use ci_runner_spawner::joblog::log_path;
use ci_runner_spawner::protocol::{
    AttemptKey, ExitRecord, ExitResult, PROTOCOL_VERSION, Reply, Request, Secrets, Seen, Spec, Start,
};

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

    fn try_hello(&mut self) -> bool {
        let Ok(mut client) = Client::connect(&self.socket()) else { return false };
        let hello =
            Request::Hello { protocol: PROTOCOL_VERSION, store: self.store.clone(), generation: self.generation };
        if client.send(&[hello]).is_err() || !client.wait(PATIENCE).unwrap() {
            return false;
        }
        match client.recv().as_deref() {
            Ok([Reply::Welcome { pid, epoch, cgroup, .. }, rest @ ..]) => {
                self.take(rest.to_vec());
                if self.cgroup == Cgroup::Off {
                    assert!(!cgroup);
                }
                if self.cgroup != Cgroup::Off && !cgroup {
                    static SAID: Once = Once::new();
                    SAID.call_once(|| {
                        skipped::tell("all that needs a cgroup per attempt", "no cgroup v2 can be written")
                    });
                }
                self.spawner_pid = *pid as i32;
                self.epoch = epoch.clone();
                self.has_cgroup = *cgroup;
            }
            Err(_) => return false,
            // A daemon would come again too.
            Ok([Reply::Refused { why }]) if why.contains("Too many open files") => return false,
            other => panic!("{other:?}"),
        }
        self.client = Some(client);
        true
    }

    pub fn client(&mut self) -> &mut Client {
        self.client.as_mut().expect("connected")
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

    pub fn start(&mut self, job: u64, spec: &Spec) {
        self.start_as(self.request(job), spec, None);
    }

    pub fn start_as(&mut self, start: Start, spec: &Spec, secrets: Option<&Secrets>) {
        self.client().send_start(start, spec, secrets).unwrap();
    }

    pub fn send(&mut self, request: Request) {
        self.client().send(&[request]).unwrap();
    }

    fn take(&mut self, replies: Vec<Reply>) {
        for reply in replies {
            if let Reply::Ended { key, record } = &reply {
                self.ended.insert(key.clone(), record.clone());
            }
            self.replies.push(reply);
        }
    }

    /// Reads what comes within the time; false when the connection is over.
    pub fn read_for(&mut self, time: Duration) -> bool {
        let Some(client) = self.client.as_mut() else { return false };
        if !client.wait(time).unwrap() {
            return true;
        }
        match client.recv() {
            Ok(replies) => {
                self.take(replies);
                true
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => true,
            Err(_) => {
                self.client = None;
                false
            }
        }
    }

    /// Reads until a reply fits; takes it and all before it.
    pub fn reply<T>(&mut self, what: &str, fits: impl Fn(&Reply) -> Option<T>) -> T {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.replies.iter().position(|reply| fits(reply).is_some()) {
                let found = fits(&self.replies[at]);
                self.replies.drain(..=at);
                return found.unwrap();
            }
            assert!(Instant::now() < until, "waited in vain for {what}; there is {:?}", self.replies);
            assert!(self.read_for(Duration::from_millis(100)), "connection lost while waiting for {what}");
        }
    }

    pub fn wait_started(&mut self, job: u64) {
        let key = self.key(job);
        self.reply("started", |reply| matches!(reply, Reply::Started { key: of } if *of == key).then_some(()));
    }

    /// The end, as it was told.
    pub fn end(&mut self, job: u64) -> Option<ExitRecord> {
        let key = self.key(job);
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(end) = self.ended.get(&key) {
                return end.clone();
            }
            assert!(Instant::now() < until, "job {job} does not end: {:?}", self.replies);
            assert!(self.read_for(Duration::from_millis(100)), "connection lost while waiting for the end of {job}");
        }
    }

    pub fn record(&mut self, job: u64) -> ExitRecord {
        self.end(job).unwrap_or_else(|| panic!("job {job} was lost"))
    }

    /// Starts, waits, tells the result.
    pub fn run(&mut self, job: u64, spec: &Spec) -> ExitResult {
        self.start(job, spec);
        self.record(job).result
    }

    /// Starts, waits, insists on exit code 0, tells the log.
    pub fn output(&mut self, job: u64, spec: &Spec) -> String {
        let result = self.run(job, spec);
        assert_eq!(result, ExitResult::Exited { code: 0 }, "{}", self.log(job));
        self.log(job)
    }

    pub fn log(&self, job: u64) -> String {
        let path = self.path("log").join(log_path(job, 1));
        String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
    }

    pub fn list(&mut self) -> HashMap<AttemptKey, Seen> {
        self.replies.clear();
        self.send(Request::List);
        let until = Instant::now() + PATIENCE;
        while !self.replies.contains(&Reply::Listed) {
            assert!(Instant::now() < until, "no end of the list");
            assert!(self.read_for(Duration::from_millis(100)), "connection lost");
        }
        self.replies
            .drain(..)
            .filter_map(|reply| if let Reply::Attempt { key, seen, .. } = reply { Some((key, seen)) } else { None })
            .collect()
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
