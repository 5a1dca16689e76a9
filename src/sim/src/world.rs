//! One run: a host, its disk, its daemon, its clients, and what goes wrong. Everything is decided by the seed.
//!
//! A step is one action of one actor, chosen by chance among all that could act; a fault may come between any two. After
//! the faulty part the run is *settled*: no fault any more, and everything must come to an end.

use crate::check::Truth;
use crate::clients::{Ask, Clients, OpState};
use crate::clock::Clock;
use crate::commit::Fate;
use crate::coverage::Coverage;
use crate::daemon::{Daemon, Move};
use crate::host::Host;
use crate::mutant::Mutant;
use crate::places::Places;
use crate::rng::Rng;
use crate::spawner::Duty;
use crate::store::Store;
use crate::trace::Trace;
use ci_runner_core::change::Wish;
use ci_runner_core::id::JobId;
use ci_runner_core::labels::Label;
use ci_runner_core::limits::{Budget, Limits};
use ci_runner_core::policy::{GroupLimit, Pool, Settings};
use std::rc::Rc;

/// Actions after which a settled run is called stuck.
const SETTLE_STEPS_MAX: u32 = 40_000;
/// Waiting longer than this for the next event is waiting for nothing: fifty years, more than all dates that are set.
const WAIT_MS_MAX: i64 = 50 * 366 * 24 * 3600 * 1000;

/// What one run is to be like.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// The deliberate bug, if any.
    pub mutant: Option<Mutant>,
    /// Actions in the faulty part.
    pub steps: u32,
    /// Keep lines for people.
    pub keep_lines: bool,
}

/// A run in progress.
pub struct World {
    pub(crate) rng: Rng,
    pub(crate) mutant: Option<Mutant>,
    pub(crate) clock: Clock,
    pub(crate) store: Store,
    pub(crate) host: Host,
    pub(crate) daemon: Option<Daemon>,
    pub(crate) clients: Clients,
    pub(crate) truth: Truth,
    pub(crate) trace: Trace,
    pub(crate) coverage: Coverage,
    /// What becomes of the next commit.
    pub(crate) fate: Fate,
    pub(crate) connections: u64,
    configs: Vec<Settings>,
    pub(crate) config: usize,
    /// What is out of order on the host beside its processes.
    pub(crate) places: Rc<Places>,
    /// Faults that this run knows, as bits.
    pub(crate) faults: u64,
    fault_percent: u64,
    asks_max: usize,
}

#[derive(Clone, Copy, Debug)]
enum Choice {
    Daemon(Move),
    Spawner(usize),
    Duty(Duty),
    Process(usize),
    Client,
    StartDaemon,
    Wait,
}

impl World {
    /// An empty host.
    pub fn new(plan: &Plan) -> Self {
        let mut rng = Rng::new(plan.seed);
        let calm = rng.percent(10);
        let asks_max = if rng.percent(12) { 50 } else { 2 + rng.index(14) };
        let fault_percent = if calm { 0 } else { rng.pick(&[1, 3, 6, 12]) };
        Self {
            faults: rng.bits() | rng.bits(),
            rng,
            mutant: plan.mutant,
            clock: Clock::default(),
            store: Store::default(),
            host: Host::default(),
            daemon: None,
            clients: Clients::default(),
            truth: Truth::default(),
            trace: Trace::new(plan.keep_lines),
            coverage: Coverage::default(),
            fate: Fate::Kept,
            connections: 0,
            configs: configs(),
            config: 0,
            places: Rc::default(),
            fault_percent,
            asks_max,
        }
    }

    /// The configuration as it is on disk now.
    pub(crate) fn config(&self) -> &Settings {
        &self.configs[self.config]
    }

    pub(crate) fn configs(&self) -> usize {
        self.configs.len()
    }

    pub(crate) fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// Whether the record itself is looked at, beside what comes of it.
    pub(crate) fn looks_at_the_record(&self) -> bool {
        self.mutant.is_none_or(Mutant::spoils_the_record)
    }

    pub(crate) fn note(&mut self, tag: &'static str, facts: [u64; 2], text: impl FnOnce() -> String) {
        self.trace.note(self.clock.time, tag, facts, text);
    }

    /// The faulty part, then the settled part.
    pub(crate) fn run(&mut self, steps: u32) {
        for _ in 0..steps {
            if self.truth.violation.is_some() {
                return;
            }
            if self.rng.percent(self.fault_percent) {
                self.fault();
            } else {
                let choices = self.choices(true);
                let choice = self.rng.pick(&choices);
                self.take(choice);
            }
            self.look();
        }
        self.settle();
    }

    fn look(&mut self) {
        for happened in std::mem::take(&mut self.host.happened) {
            self.truth.check_happened(happened, &self.store, &self.host);
        }
    }

    fn choices(&self, busy: bool) -> Vec<Choice> {
        let mut choices: Vec<Choice> = self.daemon_moves().into_iter().map(Choice::Daemon).collect();
        if self.daemon.is_none() {
            choices.push(Choice::StartDaemon);
        }
        if self.host.spawner.is_some() {
            let readable = self
                .host
                .connections
                .iter()
                .enumerate()
                .filter(|(_, one)| !one.to_spawner.is_empty() && one.late_until <= self.clock.time);
            choices.extend(readable.map(|(at, _)| Choice::Spawner(at)));
        }
        if let Some(duty) = self.host.duty(self.clock.time, self.mutant) {
            choices.push(Choice::Duty(duty));
        }
        let time = self.clock.time;
        for (at, process) in self.host.processes.iter().enumerate() {
            let ready = process.next_time().is_some_and(|next| next <= time);
            if ready
                && !(self.is(Mutant::NeverKill)
                    && process.kill_at.is_some_and(|kill| kill <= time)
                    && !self.ends_otherwise(at))
            {
                choices.push(Choice::Process(at));
            }
        }
        let idle = self.clients.idle().is_some();
        if (busy && self.clients.ops.len() < self.asks_max) || idle {
            choices.push(Choice::Client);
        }
        if busy {
            choices.extend([Choice::Wait, Choice::Wait]);
        }
        choices
    }

    /// For the mutant that never kills: whether the process has something else to do now.
    fn ends_otherwise(&self, at: usize) -> bool {
        let mut process = self.host.processes[at].clone();
        process.kill_at = None;
        process.next_time().is_some_and(|next| next <= self.clock.time)
    }

    fn take(&mut self, choice: Choice) {
        match choice {
            Choice::Daemon(what) => self.daemon_move(what),
            Choice::Spawner(at) => {
                let request = self.host.read(at, &self.clock, self.mutant);
                self.note("spawner", [at as u64, 2], || format!("reads {request:?}"));
            }
            Choice::Duty(duty) => {
                self.note("spawner", [0, 3], || format!("{duty:?}"));
                if let Duty::Backstop(key) = duty {
                    self.truth.victims.insert(key);
                }
                self.host.perform(duty, &self.clock);
            }
            Choice::Process(at) => {
                let key = self.host.processes[at].start.key;
                let never_kill = self.is(Mutant::NeverKill);
                let did = self.host.step_process(at, self.clock.time, never_kill);
                self.note("process", [key.job.get(), u64::from(key.attempt)], || format!("{key:?} {did}"));
            }
            Choice::Client => self.client_step(),
            Choice::StartDaemon => self.start_daemon(),
            Choice::Wait => {
                let ms =
                    self.rng.pick(&[1, 1, 1, 5, 5, 20, 20, 100, 100, 700, 700, 3_000, 3_000, 12_000, 12_000, 70_000]);
                self.clock.time += ms;
            }
        }
    }

    /// When the next thing happens by itself.
    fn next_time(&self) -> Option<i64> {
        let mut times: Vec<i64> = self.host.processes.iter().filter_map(crate::host::Process::next_time).collect();
        times.extend(self.host.duty_time(self.clock.time));
        times.extend(self.host.connections.iter().filter(|one| !one.to_spawner.is_empty()).map(|one| one.late_until));
        if let Some(daemon) = self.daemon.as_ref().filter(|_| !self.is(Mutant::DropWakeUps)) {
            let now = self.clock.now(&daemon.base);
            times.extend(daemon.wake_at(now).map(|at| self.clock.time + (at.0 - now.engine.0)));
        }
        times.into_iter().filter(|at| *at > self.clock.time).min().filter(|at| *at - self.clock.time < WAIT_MS_MAX)
    }

    /// Acts without faults until nothing happens any more. False: it does not come to rest.
    fn come_to_rest(&mut self) -> bool {
        for _ in 0..SETTLE_STEPS_MAX {
            if self.truth.violation.is_some() {
                return true;
            }
            let choices = self.choices(false);
            if !choices.is_empty() {
                let choice = self.rng.pick(&choices);
                self.take(choice);
                self.look();
            } else if self.store.rows.is_empty() {
                return true;
            } else if let Some(next) = self.next_time() {
                self.clock.time = next;
            } else {
                return true;
            }
        }
        false
    }

    fn settle(&mut self) {
        self.note("settle", [0, 0], || "no more faults".to_owned());
        self.fate = Fate::Kept;
        self.host.fork_fails = false;
        self.change_places(Places::default());
        self.configure(0);
        self.clients.add(Ask::Resume, None, true);
        for _ in 0..8 {
            if !self.come_to_rest() {
                self.truth.violate("after_faults_stop_every_job_finishes", "it does not come to rest".to_owned());
            }
            if self.truth.violation.is_some() || self.store.rows.is_empty() {
                break;
            }
            if !self.unblock() {
                let open: Vec<JobId> = self.store.rows.keys().copied().collect();
                let reasons = self
                    .daemon
                    .as_ref()
                    .map(|daemon| open.iter().map(|id| (id.get(), daemon.record.explain(*id))).collect::<Vec<_>>());
                self.truth.violate("after_faults_stop_every_job_finishes", format!("{reasons:?}"));
            }
        }
        if self.truth.violation.is_none() {
            let unanswered = self.clients.ops.iter().filter(|op| op.state == OpState::Sent).count();
            self.truth.require(unanswered == 0, "every_request_is_answered", || format!("{unanswered} are not"));
            self.truth.check_end(&self.store);
        }
    }

    /// The operator releases what is on hold and cancels what no pool can take. False: there was nothing of the kind.
    fn unblock(&mut self) -> bool {
        let settings = self.config().clone();
        let mut asks = Vec::new();
        for (id, row) in &self.store.rows {
            let fits = settings.pools.iter().any(|pool| {
                row.terms.pool.as_ref().is_none_or(|name| *name == pool.name)
                    && row.terms.labels.iter().all(|label| pool.labels.contains(label))
                    && row.terms.limits.beyond(&pool.maxima).is_none()
            });
            if matches!(row.wish, Wish::Hold { .. }) {
                asks.push(Ask::Release(*id));
            } else if !fits && row.wish == Wish::Run {
                asks.push(Ask::Cancel(*id));
            }
        }
        let any = !asks.is_empty();
        for ask in asks {
            self.clients.add(ask, None, true);
        }
        any
    }

    /// The operator writes another configuration, and a running daemon takes it.
    pub(crate) fn configure(&mut self, config: usize) {
        self.note("config", [config as u64, 0], || format!("number {config}"));
        self.config = config;
        let settings = Rc::new(self.config().clone());
        if let Some(mut daemon) = self.daemon.take() {
            if self.mutant != Some(Mutant::KeepOldSettings) {
                daemon.record.configure((*settings).clone());
            }
            daemon.settings = settings;
            self.tell_places(&mut daemon);
            self.daemon = Some(daemon);
        }
    }
}

fn configs() -> Vec<Settings> {
    let label = |text: &str| Label::parse(text).expect("a label");
    let pool = |name: &str, slots: u32, labels: &[&str]| {
        let labels = labels.iter().map(|text| label(text)).collect();
        let memory = |gibibytes: u64| Limits { memory_bytes: Some(gibibytes << 30), ..Limits::NONE };
        let (defaults, maxima) = if name == "gpu" { (memory(2), memory(7)) } else { (Limits::NONE, Limits::NONE) };
        Pool { defaults, maxima, ..Pool::new(name, slots, labels) }
    };
    let settings = |pools: Vec<Pool>, limit: u32| Settings {
        pools,
        groups: vec![GroupLimit { name: "configured".to_owned(), limit }],
        budget: Budget { memory_bytes: Some((9 + u64::from(limit)) << 30), cpu_milli: None },
        ..Settings::default()
    };
    vec![
        settings(vec![pool("default", 2, &["os=linux"]), pool("gpu", 1, &["gpu", "os=linux", "arch=x"])], 1),
        settings(vec![pool("default", 1, &["os=linux"]), pool("gpu", 2, &["gpu"])], 2),
        settings(vec![pool("default", 2, &["os=linux", "arch=x"])], 1),
        settings(vec![pool("gpu", 1, &["gpu", "os=linux"]), pool("default", 3, &[])], 3),
    ]
}
