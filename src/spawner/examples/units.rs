//! How fast attempts of the executor `systemd` are, against bare transient units with equal properties in the same run.
//!
//! Inside a guest, as root (`tests/guest/units_speed.py` does all of it):
//!
//! - `units rate SOCKET POOL PROFILE JOBS IN_FLIGHT ROUNDS [NAME…]`: rounds in turn of bare units that execute `/bin/true`
//!   and of attempts through the spawner at SOCKET; prints the rates and their ratio. Bare units go without the properties
//!   that are named.
//! - `units bare PROFILE JOBS [NAME…]`: from the call to the first instruction of bare units, one at a time.
//! - `units latency POOL JOBS`: from the end of `ci-runner add` to the first instruction of its job, one at a time.
//! - `units stamp`: the job of both.

#[path = "../src/unit/bus/mod.rs"]
#[expect(dead_code, reason = "a bare client needs less than the spawner")]
mod bus;
#[path = "../src/unit/profile.rs"]
#[expect(dead_code, reason = "tables for people are not needed here")]
mod profile;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bus::{Body, Connection, DBUS, Message, Sender, Target, Value};
use ci_runner_spawner::client::Client;
use ci_runner_spawner::protocol::{AttemptKey, PROTOCOL_VERSION, Reply, Request, Spec, Start};
use profile::Profile;
use rustix::event::{PollFd, PollFlags};

const BUS: &str = "/run/dbus/system_bus_socket";
const SYSTEMD: &str = "org.freedesktop.systemd1";
const MANAGER: Target<'static> =
    Target { name: SYSTEMD, path: "/org/freedesktop/systemd1", interface: "org.freedesktop.systemd1.Manager" };
const CHANGES: &str = "type='signal',interface='org.freedesktop.DBus.Properties',member='PropertiesChanged',\
                       path_namespace='/org/freedesktop/systemd1/unit',arg0='org.freedesktop.systemd1.Service'";
const STORE: &str = "d15ba7c4";

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["stamp"] => stamp(),
        ["rate", socket, pool, profile, jobs, in_flight, rounds, without @ ..] => {
            let (jobs, in_flight) = (jobs.parse()?, in_flight.parse()?);
            let mut bare = Bare::connect(profile, without)?;
            let mut ours = Ours::connect(Path::new(socket), pool, profile)?;
            let mut ratios = Vec::new();
            for _ in 0..rounds.parse()? {
                let raw = f64::from(jobs) / bare.run(jobs, in_flight, &["/bin/true"])?.as_secs_f64();
                let own = f64::from(jobs) / ours.run(jobs, in_flight)?.as_secs_f64();
                println!("{profile}: bare {raw:5.1}/s   ours {own:5.1}/s   ratio {:.2}", own / raw);
                ratios.push(own / raw);
            }
            println!("{profile}, {in_flight} in flight: median ratio {:.2}", median(&mut ratios));
            Ok(())
        }
        ["bare", profile, jobs, without @ ..] => {
            let used = cpu_ms()?;
            let mut delays = Bare::connect(profile, without)?.delays(jobs.parse()?)?;
            let used = (cpu_ms()? - used) / delays.len() as f64;
            let p50 = median(&mut delays);
            let best = delays.first().copied().unwrap_or_default();
            println!(
                "bare {profile} without {without:?}: first instruction p50 {p50:.1} ms, best {best:.1}; CPU a unit {used:.1} ms"
            );
            Ok(())
        }
        ["latency", pool, jobs] => {
            let mut delays = latency(pool, jobs.parse()?)?;
            let p50 = median(&mut delays);
            let best = delays.first().copied().unwrap_or_default();
            println!("pool {pool}: acknowledged to first instruction p50 {p50:.1} ms, best {best:.1}");
            Ok(())
        }
        _ => bail!("units rate|bare|latency|stamp: see the top of the source"),
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Of the whole guest: on a busy machine it tells more than the clock.
fn cpu_ms() -> Result<f64> {
    let text = std::fs::read_to_string("/sys/fs/cgroup/cpu.stat")?;
    let used = text.lines().find_map(|line| line.strip_prefix("usage_usec ")).context("no usage_usec")?;
    Ok(used.parse::<f64>()? / 1e3)
}

fn now_ms() -> f64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.tv_sec as f64 * 1e3 + now.tv_nsec as f64 / 1e6
}

/// On standard output for attempts, on standard input (a pipe) for bare units.
fn stamp() -> Result<()> {
    let line = format!("{:.3}\n", now_ms());
    std::io::stdout().write_all(line.as_bytes())?;
    let _ = rustix::io::write(rustix::stdio::stdin(), line.as_bytes());
    Ok(())
}

fn latency(pool: &str, jobs: u32) -> Result<Vec<f64>> {
    let me = std::env::current_exe()?;
    let client = |words: &[&str]| -> Result<String> {
        let output = Command::new("ci-runner").args(words).output()?;
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    };
    let mut delays = Vec::new();
    for _ in 0..jobs {
        let id = client(&["add", "--pool", pool, "--", &me.to_string_lossy(), "stamp"])?;
        let acknowledged = now_ms();
        client(&["wait", &id, "--timeout", "30s"])?;
        let stamp: f64 = client(&["logs", &id])?.lines().next().unwrap_or_default().parse()?;
        delays.push(stamp - acknowledged);
    }
    Ok(delays)
}

/// The leanest client: starts, sees the end, releases.
struct Bare {
    connection: Connection,
    profile: Profile,
    without: Vec<String>,
    next: u32,
}

impl Bare {
    fn connect(profile: &str, without: &[&str]) -> Result<Self> {
        let mut connection = Connection::open(Path::new(BUS))?;
        // Once the bus has answered it takes descriptors.
        connection.find(MANAGER.name, Instant::now() + Duration::from_secs(10))?;
        let mut body = Body::default();
        body.string(CHANGES);
        connection.call(DBUS, "AddMatch", "s", body);
        connection.call(MANAGER, "Subscribe", "", Body::default());
        let profile = Profile::named(profile).context("no such profile")?;
        let without = without.iter().map(|&name| name.to_owned()).collect();
        Ok(Self { connection, profile, without, next: std::process::id() * 100_000 })
    }

    fn start(&mut self, argv: &[&str], stdin: OwnedFd) -> String {
        let unit = format!("bare-{}.service", self.next);
        self.next += 1;
        let mut body = Body::default();
        body.string(&unit);
        body.string("fail");
        body.array(8, |body| {
            common(body, argv, stdin);
            for line in self.profile.lines().filter(|line| !self.without.iter().any(|name| name == line.name)) {
                named(body, line.name);
                line.setting.write(body);
            }
        });
        body.array(8, |_| {});
        self.connection.call(MANAGER, "StartTransientUnit", "ssa(sv)a(sa(sv))", body);
        unit
    }

    fn release(&mut self, unit: &str) {
        let mut body = Body::default();
        body.string(unit);
        body.string("replace");
        self.connection.tell(MANAGER, "StopUnit", "ss", body);
        for member in ["ResetFailedUnit", "UnrefUnit"] {
            let mut body = Body::default();
            body.string(unit);
            self.connection.tell(MANAGER, member, "s", body);
        }
    }

    /// The next units whose main process has ended.
    fn ended(&mut self) -> Result<Vec<String>> {
        self.connection.flush()?;
        let mut fds = [PollFd::new(&self.connection, PollFlags::IN)];
        rustix::event::poll(&mut fds, None)?;
        let mut ended = Vec::new();
        while let Some(message) = self.connection.next()? {
            match message {
                Message::Error { name, text, .. } if !name.ends_with("NoSuchUnit") => bail!("{name}: {text}"),
                Message::Signal { sender: Sender::Peer, path, body, .. } => {
                    let number = |name: &str| body.get(1).and_then(|changed| changed.get(name)).and_then(Value::number);
                    if number("ExecMainExitTimestampMonotonic").is_some_and(|at| at != 0)
                        && let Some((_, escaped)) = path.rsplit_once('/')
                    {
                        ended.push(escaped.replace("_2d", "-").replace("_2e", "."));
                    }
                }
                _ => {}
            }
        }
        Ok(ended)
    }

    fn run(&mut self, jobs: u32, in_flight: usize, argv: &[&str]) -> Result<Duration> {
        let began = Instant::now();
        let (mut open, mut started) = (HashMap::new(), 0);
        loop {
            while started < jobs && open.len() < in_flight {
                let null = std::fs::File::open("/dev/null")?;
                open.insert(self.start(argv, null.into()), ());
                started += 1;
            }
            if open.is_empty() {
                return Ok(began.elapsed());
            }
            for unit in self.ended()? {
                if open.remove(&unit).is_some() {
                    self.release(&unit);
                }
            }
        }
    }

    fn delays(&mut self, jobs: u32) -> Result<Vec<f64>> {
        let me = std::env::current_exe()?;
        let mut delays = Vec::new();
        for _ in 0..jobs {
            let (mut reader, writer) = std::io::pipe()?;
            let asked = now_ms();
            let unit = self.start(&[&me.to_string_lossy(), "stamp"], writer.into());
            while !self.ended()?.contains(&unit) {}
            let mut text = [0; 64];
            let got = reader.read(&mut text)?;
            self.release(&unit);
            delays.push(std::str::from_utf8(&text[..got])?.trim().parse::<f64>()? - asked);
        }
        Ok(delays)
    }
}

fn named(body: &mut Body, name: &str) {
    body.align(8);
    body.string(name);
}

/// What every unit of a job has, as `src/unit/manager.rs` says it.
fn common(body: &mut Body, argv: &[&str], stdin: OwnedFd) {
    named(body, "ExecStart");
    body.signature("a(sasb)");
    body.array(8, |body| {
        body.align(8);
        body.string(argv.first().unwrap_or(&""));
        body.strings(argv);
        body.bool(false);
    });
    for (name, value) in [
        ("Description", "a bare unit"),
        ("Type", "exec"),
        ("CollectMode", "inactive"),
        ("KillMode", "control-group"),
        ("StandardOutput", "null"),
        ("StandardError", "null"),
        ("Slice", "ci_jobs.slice"),
    ] {
        named(body, name);
        body.signature("s");
        body.string(value);
    }
    for name in ["RemainAfterExit", "AddRef"] {
        named(body, name);
        body.signature("b");
        body.bool(true);
    }
    for (name, microseconds) in [("RuntimeMaxUSec", 21_600_000_000), ("TimeoutStopUSec", 10_000_000)] {
        named(body, name);
        body.signature("t");
        body.u64(microseconds);
    }
    named(body, "StandardInputFileDescriptor");
    body.signature("h");
    body.fd(stdin);
}

/// The same through the spawner.
struct Ours {
    client: Client,
    pool: String,
    profile: String,
    next: u64,
}

impl Ours {
    fn connect(socket: &Path, pool: &str, profile: &str) -> Result<Self> {
        let mut client = Client::connect(socket)?;
        let generation = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
        client.send(&[Request::Hello { protocol: PROTOCOL_VERSION, store: STORE.to_owned(), generation }])?;
        client.wait(Duration::from_secs(10))?;
        let replies = client.recv()?;
        let [Reply::Welcome { .. }, ..] = replies.as_slice() else { bail!("{replies:?}") };
        Ok(Self { client, pool: pool.to_owned(), profile: profile.to_owned(), next: generation * 100_000 })
    }

    fn run(&mut self, jobs: u32, in_flight: usize) -> Result<Duration> {
        let began = Instant::now();
        let spec = Spec {
            argv: vec!["/bin/true".to_owned()],
            env: (0..16).map(|i| (format!("CI_RUNNER_WORD_{i}"), "a value of some length".to_owned())).collect(),
            dir: Some("/".to_owned()),
            umask: 0o22,
        };
        let (mut open, mut started) = (0, 0);
        while started < jobs || open > 0 {
            while started < jobs && open < in_flight {
                let key = AttemptKey { store: STORE.to_owned(), job: self.next, attempt: 1 };
                self.next += 1;
                self.client.send_start(self.order(key, started % 4), &spec, None)?;
                (started, open) = (started + 1, open + 1);
            }
            if !self.client.wait(Duration::from_secs(30))? {
                bail!("the spawner does not answer");
            }
            let mut over = Vec::new();
            for reply in self.client.recv()? {
                match reply {
                    Reply::Ended { key, record: Some(_) } => {
                        open -= 1;
                        over.push(Request::Forget(key));
                    }
                    Reply::Started { .. } => {}
                    other => bail!("{other:?}"),
                }
            }
            self.client.send(&over)?;
        }
        Ok(began.elapsed())
    }

    fn order(&self, key: AttemptKey, slot: u32) -> Start {
        Start {
            key,
            pool: self.pool.clone(),
            slot,
            timeout_ms: Some(21_600_000),
            soft_timeout_ms: None,
            grace_ms: 10_000,
            log_bytes_max: 64 << 20,
            secrets: false,
            profile: Some(self.profile.clone()),
            submitter: None,
            limits: Default::default(),
        }
    }
}
