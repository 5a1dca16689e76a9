//! How many no-op jobs a second go through a spawner, against the machine's own limit.
//!
//! `dispatch SPAWNER [JOBS [ROUNDS [spawner options…]]]` starts `SPAWNER` in a new directory (under `/dev/shm` where that is
//! there) and runs rounds in turn: raw (two processes with a `posix_spawn` loop of `/bin/true`, two in flight each) and the
//! spawner (`/bin/true` as attempts, four in flight, each with start, end and forget over the socket). Prints the rates, their
//! ratio, and what the spawner and a shim weigh.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use ci_runner_spawner::client::Client;
use ci_runner_spawner::protocol::{AttemptKey, PROTOCOL_VERSION, Reply, Request, Spec, Start};

const IN_FLIGHT: u32 = 4;
const STORE: &str = "d15ba7c4";

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [mode, jobs] = words.as_slice()
        && mode == "--raw-worker"
    {
        return raw_worker(jobs.parse()?);
    }
    let spawner = words.first().context("usage: dispatch SPAWNER [JOBS [ROUNDS [spawner options…]]]")?;
    let jobs: u32 = words.get(1).map_or(Ok(4000), |word| word.parse())?;
    let rounds: u32 = words.get(2).map_or(Ok(5), |word| word.parse())?;
    let base = if Path::new("/dev/shm").is_dir() { PathBuf::from("/dev/shm") } else { std::env::temp_dir() };
    let run = tempfile::tempdir_in(base)?;
    let disk = tempfile::tempdir()?;
    let mut command = Command::new(spawner);
    command.arg("--runtime-dir").arg(run.path()).arg("--log-dir").arg(disk.path().join("log"));
    command.arg("--tmp-dir").arg(disk.path().join("tmp")).args(words.iter().skip(3));
    if !command.status()?.success() {
        bail!("{spawner} does not start");
    }
    let mut daemon = Daemon::connect(&run.path().join("spawner/socket"))?;
    let mut ratios = Vec::new();
    for _ in 0..rounds {
        let raw = f64::from(jobs) / raw(jobs)?.as_secs_f64();
        let ours = f64::from(jobs) / daemon.run(jobs)?.as_secs_f64();
        ratios.push(ours / raw);
        println!("raw {raw:6.0}/s   spawner {ours:6.0}/s   ratio {:.2}", ours / raw);
    }
    ratios.sort_by(f64::total_cmp);
    println!("median ratio {:.2}", ratios[ratios.len() / 2]);
    daemon.weigh()
}

fn raw(jobs: u32) -> Result<Duration> {
    let began = Instant::now();
    let me = std::env::current_exe()?;
    let worker = || Command::new(&me).args(["--raw-worker", &(jobs / 2).to_string()]).spawn();
    let workers = [worker()?, worker()?];
    for mut worker in workers {
        if !worker.wait()?.success() {
            bail!("a raw worker failed");
        }
    }
    Ok(began.elapsed())
}

/// `Command` is `posix_spawn` underneath, as long as nothing but program, words and environment is asked for.
fn raw_worker(jobs: u32) -> Result<()> {
    let mut running = VecDeque::new();
    for _ in 0..jobs {
        if running.len() == IN_FLIGHT as usize / 2 {
            let oldest: Option<std::process::Child> = running.pop_front();
            oldest.context("one runs")?.wait()?;
        }
        running.push_back(Command::new("/bin/true").spawn()?);
    }
    for mut child in running {
        child.wait()?;
    }
    Ok(())
}

struct Daemon {
    client: Client,
    spawner_pid: u32,
    next_job: u64,
    slots: Vec<u32>,
}

impl Daemon {
    fn connect(socket: &Path) -> Result<Self> {
        let mut client = Client::connect(socket)?;
        client.send(&[Request::Hello { protocol: PROTOCOL_VERSION, store: STORE.to_owned(), generation: 1 }])?;
        client.wait(Duration::from_secs(10))?;
        let replies = client.recv()?;
        let [Reply::Welcome { pid, cgroup, .. }] = replies.as_slice() else { bail!("{replies:?}") };
        println!("spawner {pid}, cgroups {cgroup}");
        Ok(Self { client, spawner_pid: *pid, next_job: 1, slots: (0..IN_FLIGHT).rev().collect() })
    }

    fn run(&mut self, jobs: u32) -> Result<Duration> {
        let began = Instant::now();
        let spec = spec(&["/bin/true"]);
        let mut slot_of = std::collections::HashMap::new();
        let (mut started, mut ended) = (0, 0);
        while ended < jobs {
            while started < jobs
                && let Some(slot) = self.slots.pop()
            {
                let key = AttemptKey { store: STORE.to_owned(), job: self.next_job, attempt: 1 };
                self.next_job += 1;
                started += 1;
                slot_of.insert(key.clone(), slot);
                self.client.send_start(start(key, slot), &spec, None)?;
            }
            self.client.wait(Duration::from_secs(10))?;
            let mut over = Vec::new();
            for reply in self.client.recv()? {
                match reply {
                    Reply::Started { .. } => {}
                    Reply::Ended { key, record: Some(_) } => {
                        ended += 1;
                        self.slots.extend(slot_of.remove(&key));
                        over.push(Request::Forget(key));
                    }
                    other => bail!("{other:?}"),
                }
            }
            self.client.send(&over)?;
        }
        Ok(began.elapsed())
    }

    /// Proportional memory of the spawner and of the shims of some sleeping jobs.
    fn weigh(&mut self) -> Result<()> {
        const SLEEPERS: u32 = 50;
        let spec = spec(&["/bin/sleep", "100"]);
        println!("spawner at rest: {} KiB", pss_kib(self.spawner_pid)?);
        let mut keys = Vec::new();
        for slot in 0..SLEEPERS {
            let key = AttemptKey { store: STORE.to_owned(), job: self.next_job, attempt: 1 };
            self.next_job += 1;
            keys.push(key.clone());
            self.client.send_start(start(key, slot), &spec, None)?;
        }
        self.count(SLEEPERS, |reply| matches!(reply, Reply::Started { .. }))?;
        self.tell_weight("fresh", SLEEPERS)?;
        // A spawner that works on leaves its old pages to the shims that still share them.
        self.slots = (SLEEPERS..SLEEPERS + IN_FLIGHT).collect();
        self.run(2000)?;
        self.tell_weight("after 2000 more jobs", SLEEPERS)?;
        let kills: Vec<Request> = keys.iter().cloned().map(Request::Kill).collect();
        self.client.send(&kills)?;
        self.count(SLEEPERS, |reply| matches!(reply, Reply::Ended { .. }))?;
        Ok(self.client.send(&keys.into_iter().map(Request::Forget).collect::<Vec<_>>())?)
    }

    fn tell_weight(&self, when: &str, shims: u32) -> Result<()> {
        let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.spawner_pid))?;
        let mut sum = 0;
        for child in children.split_whitespace() {
            sum += pss_kib(child.parse()?)?;
        }
        let spawner = pss_kib(self.spawner_pid)?;
        println!("{shims} running jobs, {when}: {} KiB a shim, spawner {spawner} KiB", sum / shims);
        Ok(())
    }

    fn count(&mut self, wanted: u32, fits: impl Fn(&Reply) -> bool) -> Result<()> {
        let mut seen = 0;
        while seen < wanted {
            self.client.wait(Duration::from_secs(10))?;
            seen += self.client.recv()?.iter().filter(|reply| fits(reply)).count() as u32;
        }
        Ok(())
    }
}

fn start(key: AttemptKey, slot: u32) -> Start {
    Start {
        key,
        pool: "default".to_owned(),
        slot,
        timeout_ms: Some(21_600_000),
        soft_timeout_ms: None,
        grace_ms: 10_000,
        log_bytes_max: 64 << 20,
        secrets: false,
        profile: None,
        submitter: None,
        limits: Default::default(),
    }
}

/// As large as a daemon's.
fn spec(argv: &[&str]) -> Spec {
    let env = (0..16).map(|i| (format!("CI_RUNNER_WORD_{i}"), "a value of some length".to_owned()));
    Spec {
        argv: argv.iter().map(|&word| word.to_owned()).collect(),
        env: env.chain([("PATH".to_owned(), "/usr/local/bin:/usr/bin:/bin".to_owned())]).collect(),
        dir: Some("/".to_owned()),
        umask: 0o22,
    }
}

fn pss_kib(pid: u32) -> Result<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).context("no Pss")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
