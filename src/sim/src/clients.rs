//! Clients and operators: what they ask for, and what they were told.

use crate::daemon::{Act, Daemon};
use crate::host::Script;
use crate::mutant::Mutant;
use crate::rng::Rng;
use crate::world::World;
use ci_runner_core::change::{Change, Entry, Pause, Submission, Wish};
use ci_runner_core::group::{GroupPolicy, GroupSpec};
use ci_runner_core::id::JobId;
use ci_runner_core::job::{After, Command, Condition, JobSpec, Terms, Work};
use ci_runner_core::labels::Label;
use ci_runner_core::limits::Limits;
use ci_runner_core::outcome::{AttemptResult, By, Outcome};
use ci_runner_core::record::NewClasses;
use ci_runner_core::retry::{Backoff, Pattern, RetryPolicy, Rule};
use ci_runner_core::state::Phase;
use ci_runner_core::time::WallTime;
use std::collections::{BTreeMap, VecDeque};

/// A request.
#[derive(Clone, Debug)]
pub(crate) enum Ask {
    Submit(Box<JobSpec>, Vec<Script>),
    Cancel(JobId),
    Hold(JobId),
    Release(JobId),
    Priority(JobId, i16),
    Pause { drain: bool },
    Resume,
}

/// One request and its state.
#[derive(Debug)]
pub(crate) struct Op {
    pub ask: Ask,
    /// Idempotency key: the request is repeated until it is answered.
    pub key: Option<u64>,
    pub stubborn: bool,
    pub state: OpState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OpState {
    Idle,
    Sent,
    Done,
}

/// All clients.
#[derive(Debug, Default)]
pub struct Clients {
    pub(crate) ops: Vec<Op>,
    pub(crate) waiting: VecDeque<usize>,
    pub(crate) acked: Vec<JobId>,
    pub(crate) timeouts: BTreeMap<JobId, i64>,
}

impl Clients {
    /// The daemon is gone: what was not answered will be asked again, or given up.
    pub(crate) fn hang_up(&mut self) {
        self.waiting.clear();
        for op in &mut self.ops {
            if op.state == OpState::Sent {
                op.state = if op.stubborn { OpState::Idle } else { OpState::Done };
            }
        }
    }

    /// A request that is to be sent again.
    pub(crate) fn idle(&self) -> Option<usize> {
        self.ops.iter().position(|op| op.state == OpState::Idle)
    }

    pub(crate) fn add(&mut self, ask: Ask, key: Option<u64>, stubborn: bool) {
        self.ops.push(Op { ask, key, stubborn, state: OpState::Idle });
    }

    pub(crate) fn send(&mut self, op: usize) {
        self.ops[op].state = OpState::Sent;
        self.waiting.push_back(op);
    }
}

/// Something a client might want next.
pub(crate) fn invent(rng: &mut Rng, acked: &[JobId], wall: WallTime) -> Ask {
    let some_job = |rng: &mut Rng| (!acked.is_empty()).then(|| rng.pick(acked));
    match rng.below(100) {
        0..=7 => some_job(rng).map(Ask::Cancel),
        8..=10 => some_job(rng).map(Ask::Hold),
        11..=14 => some_job(rng).map(Ask::Release),
        15..=18 => some_job(rng).map(|job| Ask::Priority(job, i16::try_from(rng.below(7)).unwrap_or(0) - 3)),
        19..=20 => Some(Ask::Pause { drain: rng.percent(50) }),
        21..=25 => Some(Ask::Resume),
        _ => None,
    }
    .unwrap_or_else(|| Ask::Submit(Box::new(spec(rng, acked, wall)), scripts(rng)))
}

fn spec(rng: &mut Rng, acked: &[JobId], wall: WallTime) -> JobSpec {
    let mut terms = Terms {
        pool: rng.percent(15).then(|| rng.pick(&["default", "gpu", "gpu", "nowhere"]).to_owned()),
        labels: Vec::new(),
        priority: 0,
        retry: retry(rng),
        group: None,
        after: Vec::new(),
        at: None,
        delay_ms: None,
        expires: None,
        hold: rng.percent(4),
        limits: Limits::NONE,
    };
    if rng.percent(20) {
        terms.limits.memory_bytes = Some(rng.pick(&[2, 4, 6, 6, 8]) << 30);
    }
    if rng.percent(12) {
        let label = rng.pick(&["gpu", "os=linux", "arch=x", "tpu"]);
        terms.labels.push(Label::parse(label).expect("a label"));
    }
    if rng.percent(25) {
        terms.priority = i16::try_from(rng.below(9)).unwrap_or(0) - 4;
    }
    if rng.percent(40) {
        let (name, limit) = rng.pick(&[("one", Some(1)), ("two", Some(2)), ("configured", None), ("one", None)]);
        let policy = rng.pick(&[GroupPolicy::Queue, GroupPolicy::Queue, GroupPolicy::Latest, GroupPolicy::Cancel]);
        terms.group = Some(GroupSpec { name: name.to_owned(), limit, policy });
    }
    if !acked.is_empty() && rng.percent(25) {
        for _ in 0..=rng.below(2) {
            let on = rng.pick(&[Condition::Success, Condition::Failure, Condition::Always]);
            terms.after.push(After { job: rng.pick(acked), on });
        }
    }
    let soon = |rng: &mut Rng, ms: u64| WallTime(wall.0 + i64::try_from(rng.below(ms)).unwrap_or(0));
    match rng.below(20) {
        0 => terms.at = Some(soon(rng, 20_000)),
        1 | 2 => terms.delay_ms = Some(rng.below(10_000)),
        _ => {}
    }
    if rng.percent(8) {
        terms.expires = Some(WallTime(soon(rng, 40_000).0 + 21_000));
    }
    JobSpec { name: None, correlation: "c".to_owned(), work: work(), terms }
}

fn work() -> Work {
    Work {
        command: Command::Shell("true".to_owned()),
        env: Vec::new(),
        dir: None,
        timeout_ms: None,
        soft_timeout_ms: None,
        log_bytes_max: 1 << 20,
        secrets: Vec::new(),
        profile: None,
        submitter_uid: None,
        notify: Vec::new(),
    }
}

fn retry(rng: &mut Rng) -> RetryPolicy {
    let mut rules = RetryPolicy::default_rules();
    let oom = rng.percent(30);
    if oom {
        rules.push(Rule { pattern: Pattern::Oom, retry: true });
    }
    if rng.percent(30) {
        rules.push(Rule { pattern: Pattern::Timeout, retry: true });
        rules.push(Rule { pattern: Pattern::Start, retry: true });
    }
    RetryPolicy {
        retries: u32::try_from(rng.below(4)).unwrap_or(0),
        delay_ms: rng.pick(&[0, 0, 0, 50, 50, 2_000, 2_000, 2_700_000]),
        backoff: rng.pick(&[Backoff::Fixed, Backoff::Exponential]),
        rules,
        oom_factor: oom.then_some(150),
    }
}

fn scripts(rng: &mut Rng) -> Vec<Script> {
    let one = |rng: &mut Rng| Script {
        run_ms: rng.pick(&[0, 1, 5, 20, 100, 300, 2_000, 10_000, 100_000, 10_000_000]),
        end: match rng.below(10) {
            0..=4 => AttemptResult::Exited { code: 0 },
            5 | 6 => AttemptResult::Exited { code: 1 },
            7 => AttemptResult::Exited { code: 3 },
            8 if rng.percent(50) => AttemptResult::OomKilled,
            8 => AttemptResult::Signaled { signal: 11 },
            _ => AttemptResult::FailedToStart { cause: "no such program".to_owned() },
        },
        obeys_term: rng.percent(70),
        leaves_children: rng.percent(20),
    };
    (0..=rng.below(3)).map(|_| one(rng)).collect()
}

impl World {
    /// A client does something: asks again, or for something new.
    pub(crate) fn client_step(&mut self) {
        let op = self.clients.idle().unwrap_or_else(|| {
            let ask = invent(&mut self.rng, &self.clients.acked, self.clock.wall());
            let key = (matches!(ask, Ask::Submit(..)) && self.rng.percent(50)).then(|| self.rng.bits());
            self.clients.add(ask, key, key.is_some());
            self.clients.ops.len() - 1
        });
        let text = match &self.clients.ops[op].ask {
            Ask::Submit(spec, scripts) => format!("submit {:?} {scripts:?}", spec.terms),
            other => format!("{other:?}"),
        };
        self.note("ask", [op as u64, 0], || format!("#{op} {text}"));
        self.clients.send(op);
    }

    /// A client hears: yes (with a job), or no.
    pub(crate) fn answer(&mut self, op: usize, job: Option<JobId>) {
        self.note("answer", [op as u64, job.map_or(0, JobId::get)], || format!("#{op} {job:?}"));
        if self.clients.ops[op].state != OpState::Sent {
            return;
        }
        self.clients.ops[op].state = OpState::Done;
        if let (Some(job), Ask::Submit(..)) = (job, &self.clients.ops[op].ask) {
            self.truth.acknowledged(job, &self.store);
            if !self.clients.acked.contains(&job) {
                self.clients.acked.push(job);
            }
        }
    }

    /// A client hears that it did not work this time.
    pub(crate) fn fail(&mut self, op: usize) {
        self.note("answer", [op as u64, u64::MAX], || format!("#{op} failed"));
        let op = &mut self.clients.ops[op];
        op.state = if op.stubborn { OpState::Idle } else { OpState::Done };
    }

    /// The daemon takes one request.
    pub(crate) fn serve(&mut self, daemon: &mut Daemon) {
        let Some(op) = self.clients.waiting.pop_front() else { return };
        let at = daemon.record.now();
        let change = match self.clients.ops[op].ask.clone() {
            Ask::Submit(spec, scripts) => return self.serve_submit(daemon, op, *spec, scripts),
            Ask::Priority(id, priority) if daemon.record.phase(id).is_some() => {
                Some(Change::Reprioritized { id, priority })
            }
            Ask::Cancel(id) => match daemon.record.wish(id) {
                Some(Wish::Run | Wish::Hold { .. }) => {
                    Some(Change::Wished { id, wish: Wish::Cancel { by: By::User("somebody".to_owned()) } })
                }
                None if self.is(Mutant::CancelEnded) => {
                    Some(Change::Wished { id, wish: Wish::Cancel { by: By::User("somebody".to_owned()) } })
                }
                Some(Wish::Cancel { .. }) | None => None,
            },
            Ask::Hold(id) => (daemon.record.phase(id) == Some(Phase::Queued)
                && daemon.record.wish(id) == Some(&Wish::Run))
            .then(|| Change::Wished { id, wish: Wish::Hold { by: "somebody".to_owned(), reason: String::new() } }),
            Ask::Release(id) => {
                let held = matches!(daemon.record.wish(id), Some(Wish::Hold { .. }));
                held.then_some(Change::Wished { id, wish: Wish::Run })
            }
            Ask::Pause { drain } => {
                let pause = Pause { by: "operator".to_owned(), reason: String::new(), since: at, drain };
                Some(Change::Paused(Some(pause)))
            }
            Ask::Resume => Some(Change::Paused(None)),
            Ask::Priority(..) => None,
        };
        let Some(change) = change else { return self.answer(op, None) };
        if self.passes_by(daemon, &change) {
            daemon.note(Entry { at, change });
        } else if let Err(illegal) = daemon.push(Entry { at, change }) {
            self.truth.violate("only_legal_transitions", illegal);
        }
        daemon.pending.acts.push(Act::Answer(op, None));
    }

    fn serve_submit(&mut self, daemon: &mut Daemon, op: usize, spec: JobSpec, scripts: Vec<Script>) {
        if let Some(key) = self.clients.ops[op].key.filter(|_| !self.is(Mutant::ForgetKeys)) {
            if let Some(job) = self.store.keys.get(&key) {
                return self.answer(op, Some(*job));
            }
            let batches = [Some(&mut daemon.pending), daemon.inflight.as_mut()];
            for batch in batches.into_iter().flatten() {
                if let Some((_, job)) = batch.keys.iter().find(|(one, _)| *one == key) {
                    batch.acts.push(Act::Answer(op, Some(*job)));
                    return;
                }
            }
        }
        let Some(submission) = self.submission(daemon, spec) else { return self.answer(op, None) };
        let id = submission.id;
        self.host.scripts.insert(id, scripts);
        self.clients.timeouts.insert(id, self.rng.pick(&[1_000, 5_000, 60_000, 600_000]));
        let group = submission.spec.terms.group.clone();
        let latest = group.as_ref().is_some_and(|group| group.policy == GroupPolicy::Latest);
        let at = daemon.record.now();
        let members: Vec<JobId> = group.iter().flat_map(|group| self.members(daemon, &group.name)).collect();
        if let Err(illegal) = daemon.push(Entry { at, change: Change::Submitted(Box::new(submission)) }) {
            self.truth.violate("only_legal_transitions", illegal);
        }
        if latest {
            self.mistake_latest(daemon, id, &members);
        }
        if let Some(key) = self.clients.ops[op].key {
            daemon.pending.keys.push((key, id));
        }
        if self.is(Mutant::AckBeforeCommit) {
            self.answer(op, Some(id));
        } else {
            daemon.pending.acts.push(Act::Answer(op, Some(id)));
        }
    }

    fn members(&self, daemon: &Daemon, group: &str) -> Vec<JobId> {
        let of_group = |id: &JobId| {
            let row = self.store.rows.get(id);
            row.and_then(|row| row.terms.group.as_ref()).is_some_and(|one| one.name == group)
        };
        daemon.record.ids().filter(of_group).collect()
    }

    /// A valid submission, or None when it is refused.
    fn submission(&self, daemon: &Daemon, spec: JobSpec) -> Option<Submission> {
        let record = &daemon.record;
        let spec = spec.validate(&daemon.settings).ok()?;
        let terms = &spec.terms;
        let id = record.next_id();
        if terms.after.iter().any(|after| after.job >= id)
            || record.unenforceable(terms).is_some()
            || !record.has_room_for_class(terms, &mut NewClasses::default())
        {
            return None;
        }
        let finished = |after: &After| match record.phase(after.job) {
            Some(_) => None,
            None => record.ended(after.job).or(self.store.ended.get(&after.job).map(Outcome::is_success)),
        };
        let finished = terms.after.iter().map(finished).collect();
        let group_limit = match &terms.group {
            None => None,
            Some(group) => {
                let fixed = daemon.settings.groups.iter().find(|fixed| fixed.name == group.name);
                let present = fixed.map(|fixed| fixed.limit).or(record.group_limit(&group.name));
                if present.is_some() && group.limit.is_some() && present != group.limit {
                    return None;
                }
                Some(present.or(group.limit).unwrap_or(1))
            }
        };
        Some(Submission { id, spec, finished, group_limit, submitter: "somebody".to_owned() })
    }
}
