//! Random lives of a record, kept by both stores, and held against them again and again.

use super::*;
use ci_runner_core::group::{GroupPolicy, GroupSpec};
use ci_runner_core::job::{After, Condition};
use ci_runner_core::limits::Budget;
use ci_runner_core::outcome::{Lacks, Measured};
use ci_runner_core::policy::{GroupLimit, Pool};
use ci_runner_core::record::Record;
use ci_runner_core::retry::{Backoff, Pattern, Rule};
use ci_runner_core::schedule::{Permit, after_end, schedule};

/// Xorshift64 (Marsaglia 2003): the same history for the same seed.
pub(super) struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Less than `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % n
    }

    /// One time in `n`.
    pub fn rarely(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[usize::try_from(self.below(from.len() as u64)).unwrap()]
    }
}

/// One history: the record is the truth, the stores follow.
pub(super) struct World {
    pub dice: Dice,
    pub record: Record,
    pub now: Now,
    pub subjects: [Subject; 2],
    batch: Vec<Write>,
}

pub(super) fn settings() -> Settings {
    let label = |text: &str| Label::parse(text).unwrap();
    Settings {
        pools: vec![
            Pool::new("default", 3, Vec::new()),
            Pool {
                defaults: Limits { memory_bytes: Some(1 << 30), ..Limits::NONE },
                ..Pool::new("gpu", 2, vec![label("gpu"), label("arch=arm64")])
            },
            Pool::new("tree", 1, vec![label("gpu")]),
        ],
        groups: vec![GroupLimit { name: "g2".into(), limit: 2 }],
        budget: Budget { memory_bytes: Some(12 << 30), cpu_milli: Some(4_000) },
        ..Settings::default()
    }
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut subjects = [Subject::memory(), Subject::sqlite()];
        for subject in &mut subjects {
            subject.load();
        }
        Self { dice: Dice::new(seed), record: Record::new(settings()), now: at(0), subjects, batch: Vec::new() }
    }

    /// Records a change that is legal, and puts it on the way to the stores.
    fn take(&mut self, change: Change) {
        let entry = Entry { at: self.now, change };
        self.record.apply(&entry).unwrap();
        self.batch.push(Write::Entry(entry));
    }

    pub fn step(&mut self) {
        match self.dice.below(20) {
            0..5 => self.submit(),
            5..10 => self.turn(),
            10..13 => self.progress(),
            13 => self.wish(),
            14 => self.elsewhere(),
            15..17 => {
                let ms = *self.dice.pick(&[1, 20, 700, 4_000, 70_000]);
                self.now = Now { engine: Instant(self.now.engine.0 + ms), wall: WallTime(self.now.wall.0 + ms) };
                self.record.advance(self.now);
            }
            _ => self.commit(),
        }
    }

    fn submit(&mut self) {
        let spec = random_spec(&mut self.dice, self.now, self.record.next_id().get());
        let mut finished = Vec::new();
        for after in &spec.terms.after {
            let stored = self.subjects[1].reader.ended(after.job).unwrap();
            let known = self.record.ended(after.job).or(stored);
            // Somebody who looked before the other job ended says nothing; the record and the stores know.
            let late = self.record.ended(after.job).is_some() && stored.is_some() && self.dice.rarely(3);
            finished.push(if late { None } else { known });
        }
        let group_limit = spec.terms.group.as_ref().map(|group| if group.name == "g2" { 2 } else { 1 });
        let submitter = (*self.dice.pick(&["me", "root"])).to_owned();
        let id = self.record.next_id();
        self.take(Change::Submitted(Box::new(Submission { id, spec, finished, group_limit, submitter })));
    }

    /// The daemon's turn: whatever the core decides.
    fn turn(&mut self) {
        let boots: [&str; 2] = ["boot-1/a", "boot-2/b"];
        let epoch = Epoch::new(self.dice.pick::<&str>(&boots));
        let changes_max = usize::try_from(1 + self.dice.below(9)).unwrap();
        let claim = (!self.dice.rarely(4)).then_some(epoch);
        for entry in schedule(&mut self.record, &Permit { claim, changes_max, ..Permit::default() }, self.now) {
            if let Change::Job { id, event: Event::Claimed { .. } } = &entry.change {
                self.record.dispatch(*id);
            }
            self.batch.push(Write::Entry(entry));
        }
    }

    /// Something becomes of an open attempt.
    fn progress(&mut self) {
        let leases: Vec<(JobId, Lease)> = self.record.leases().map(|(id, lease)| (id, lease.clone())).collect();
        if leases.is_empty() {
            return;
        }
        let (id, lease) = self.dice.pick(&leases).clone();
        let attempt = lease.attempt;
        let phase = self.record.phase(id).unwrap();
        let event = match (phase, self.dice.below(8)) {
            (Phase::Starting, 0..4) => Event::Started { attempt },
            (Phase::Running, 0..2) => Event::Refused { attempt },
            (Phase::Starting | Phase::Running | Phase::Stopping, 4) => Event::Released { attempt },
            (_, 5) => Event::Renewed { attempt },
            _ => {
                let result = random_result(&mut self.dice);
                let next = after_end(&self.record, id, attempt, &result, self.now).unwrap();
                self.receipt(id, attempt);
                Event::Ended { attempt, result, next }
            }
        };
        self.take(Change::Job { id, event });
    }

    fn receipt(&mut self, job: JobId, attempt: AttemptNumber) {
        if self.dice.rarely(4) {
            return;
        }
        let mut number = || self.dice.below(1 << 40);
        let receipt = Receipt {
            started: WallTime(i64::try_from(number()).unwrap()),
            ended: WallTime(i64::try_from(number()).unwrap()),
            run_us: number(),
            cpu_user_us: number(),
            cpu_system_us: number(),
            peak_memory_bytes: number(),
            log_bytes: number(),
            log_dropped_bytes: number(),
            leftovers: u32::try_from(number() % 9).unwrap(),
            lacks: Lacks::from_bits(number() % 64).unwrap(),
            measured: Measured {
                memory_of_all: number().is_multiple_of(2),
                io_read_bytes: Some(number()),
                io_written_bytes: Some(number()).filter(|bytes| bytes.is_multiple_of(2)),
                pids_peak: Some(number()),
                memory_stall_us: Some(number()),
                cpu_stall_us: None,
                io_stall_us: Some(number()),
                oom_kills: Some(number()),
                disk_bytes: Some(number()).filter(|bytes| bytes.is_multiple_of(2)),
            },
        };
        self.batch.push(Write::Receipt { job, attempt, receipt });
    }

    fn wish(&mut self) {
        let open: Vec<JobId> = self.record.ids().collect();
        if open.is_empty() {
            return;
        }
        let id = *self.dice.pick(&open);
        let wish = match self.dice.below(4) {
            0 => Wish::Run,
            1 => Wish::Cancel { by: By::User("me".into()) },
            _ => Wish::Hold { by: "root".into(), reason: (*self.dice.pick(&["", "wait"])).to_owned() },
        };
        self.take(Change::Wished { id, wish });
    }

    /// What is not about one attempt.
    fn elsewhere(&mut self) {
        let open: Vec<JobId> = self.record.ids().collect();
        match self.dice.below(6) {
            0 => {
                let pause =
                    Pause { by: "root".into(), reason: String::new(), since: self.now, drain: self.dice.rarely(2) };
                self.take(Change::Paused(Some(pause)));
            }
            1..4 => self.take(Change::Paused(None)),
            _ if !open.is_empty() => {
                let priority = i16::try_from(self.dice.below(9)).unwrap() - 4;
                let id = *self.dice.pick(&open);
                self.take(Change::Reprioritized { id, priority });
            }
            _ => {}
        }
    }

    /// Keeps what happened, in one batch or in several, and sometimes crashes after it.
    pub fn commit(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        let cut = usize::try_from(self.dice.below(batch.len() as u64 + 1)).unwrap();
        // A receipt rides with its end, so the two are not torn apart.
        let cut = cut.saturating_sub(usize::from(cut > 0 && matches!(batch[cut - 1], Write::Receipt { .. })));
        for subject in &mut self.subjects {
            subject.commit(&batch[..cut]);
            subject.commit(&batch[cut..]);
        }
        if self.dice.rarely(12) {
            let limits = CollectLimits::new(self.now.engine, Some(60_000));
            let most = usize::try_from(1 + self.dice.below(9)).unwrap();
            let [memory, sqlite] =
                self.subjects.each_mut().map(|subject| subject.store.collect(&limits, most).unwrap());
            assert_eq!(memory, sqlite);
        }
    }

    /// Both stores tell what the record holds. Returns the record that a new daemon would have.
    pub fn compare(&mut self) -> Record {
        self.commit();
        let mut loaded = None;
        for subject in &mut self.subjects {
            subject.reopen();
            let mut record = Record::new(settings());
            let told = subject.load_into(&mut record);
            record.set_last_id(told.last_id);
            record.set_paused(told.paused);
            record.advance(self.now);
            assert_same(&self.record, &record);
            loaded = Some(record);
        }
        let [memory, sqlite] = self.subjects.each_ref().map(|subject| &subject.reader);
        let all = JobFilter::all(usize::MAX);
        let rows = memory.jobs(&all).unwrap();
        assert_eq!(rows, sqlite.jobs(&all).unwrap());
        for row in rows {
            assert_eq!(self.record.phase(row.id).unwrap_or(Phase::Finished), row.phase);
            assert_eq!(memory.attempts(row.id).unwrap(), sqlite.attempts(row.id).unwrap());
        }
        assert_eq!(memory.totals().unwrap(), sqlite.totals().unwrap());
        assert_eq!(sqlite.check().unwrap(), [""; 0]);
        loaded.unwrap()
    }
}

impl Subject {
    fn load_into(&mut self, record: &mut Record) -> Loaded {
        let mut open = Vec::new();
        let mut ensured = Record::new(settings());
        let told = self.store.load(&mut |name| ensured.ensure_pool(name), &mut |job| open.push(job)).unwrap();
        assert!(open.is_sorted_by_key(|job| job.id), "ids rise");
        for job in &open {
            record.load(job).unwrap();
        }
        told
    }
}

fn assert_same(expected: &Record, found: &Record) {
    assert_eq!(expected.ids().collect::<Vec<_>>(), found.ids().collect::<Vec<_>>());
    for id in expected.ids() {
        assert_eq!(expected.phase(id), found.phase(id), "{id}");
        assert_eq!(expected.wish(id), found.wish(id), "{id}");
        assert_eq!(expected.lease(id), found.lease(id), "{id}");
        assert_eq!(expected.tries(id), found.tries(id), "{id}");
        assert_eq!(expected.last_attempt(id), found.last_attempt(id), "{id}");
        assert_eq!(expected.priority(id), found.priority(id), "{id}");
        assert_eq!(expected.retry(id), found.retry(id), "{id}");
        assert_eq!(expected.explain(id), found.explain(id), "{id}");
        assert_eq!(expected.queued_ahead(id), found.queued_ahead(id), "{id}");
    }
    assert_eq!(expected.counts(), found.counts());
    assert!(expected.pools().eq(found.pools()));
    let groups = |record: &Record| {
        let mut groups: Vec<_> = record.groups().collect();
        groups.sort_by(|a, b| a.name.cmp(&b.name));
        groups
    };
    assert_eq!(groups(expected), groups(found));
    assert_eq!(expected.next_times(), found.next_times());
    assert_eq!(expected.next_id(), found.next_id());
    assert_eq!(expected.paused(), found.paused());
    assert_eq!(expected.oldest_waiting(), found.oldest_waiting());
}

pub(super) fn random_spec(dice: &mut Dice, now: Now, number: u64) -> JobSpec {
    let mut spec = spec();
    spec.name =
        (!dice.rarely(3)).then(|| (*dice.pick(&["build", "build-all", "test", "bu", "\u{10ffff}x"])).to_owned());
    spec.correlation = match dice.below(3) {
        0 => "one".to_owned(),
        1 => format!("0191d7a2-5b5c-7c3a-8f00-00000000000{}", dice.below(9)),
        _ => format!("0191D7A2-5B5C-7C3A-8F00-00000000000{}", dice.below(9)),
    };
    spec.work.command = Command::Argv(vec!["echo".into(), number.to_string()]);
    let terms = &mut spec.terms;
    terms.pool = dice.rarely(4).then(|| (*dice.pick(&["default", "gpu", "tree"])).to_owned());
    let labels = [&[][..], &["gpu"], &["arch=arm64"], &["arch=arm64", "gpu"], &["none"]];
    let labels = if dice.rarely(3) { dice.pick(&labels) } else { &labels[0] };
    terms.labels = labels.iter().map(|text| Label::parse(text).unwrap()).collect();
    terms.priority = i16::try_from(dice.below(5)).unwrap() - 2;
    if dice.rarely(3) {
        terms.limits.memory_bytes = Some((1 + dice.below(6)) << 30);
        terms.limits.cpu_milli = dice.rarely(2).then_some(1_500);
        terms.limits.pids = dice.rarely(2).then_some(64);
    }
    terms.retry.oom_factor = dice.rarely(3).then_some(150);
    terms.retry.retries = u32::try_from(dice.below(3)).unwrap();
    if dice.rarely(4) {
        terms.retry.backoff = Backoff::Exponential;
        terms.retry.delay_ms = dice.below(10_000);
        let patterns =
            [Pattern::Exit(Some(3)), Pattern::Signal(Some(9)), Pattern::Oom, Pattern::Timeout, Pattern::Start];
        let rule = |pattern| Rule { pattern, retry: true };
        terms.retry.rules = patterns.into_iter().take(usize::try_from(dice.below(6)).unwrap()).map(rule).collect();
    }
    if dice.rarely(3) {
        let policy = *dice.pick(&[GroupPolicy::Queue, GroupPolicy::Queue, GroupPolicy::Latest, GroupPolicy::Cancel]);
        let name = (*dice.pick(&["g1", "g2", "g3"])).to_owned();
        terms.group = Some(GroupSpec { name, limit: None, policy });
    }
    if number > 1 && dice.rarely(3) {
        let conditions = [Condition::Success, Condition::Failure, Condition::Always];
        for _ in 0..1 + dice.below(3) {
            let back = 1 + dice.below(12.min(number - 1));
            terms.after.push(After { job: id(number - back), on: *dice.pick(&conditions) });
        }
    }
    match dice.below(8) {
        0 => terms.delay_ms = Some(dice.below(3_000)),
        1 => terms.at = Some(now.wall.plus_ms(dice.below(90_000))),
        2 => terms.hold = true,
        3 => terms.expires = Some(now.wall.plus_ms(dice.below(90_000))),
        _ => {}
    }
    spec
}

fn random_result(dice: &mut Dice) -> AttemptResult {
    match dice.below(12) {
        0..6 => AttemptResult::Exited { code: 0 },
        6 => AttemptResult::Exited { code: 3 },
        7 => AttemptResult::Signaled { signal: 9 },
        8 => AttemptResult::OomKilled,
        9 => AttemptResult::TimedOut,
        10 => AttemptResult::FailedToStart { cause: "no such program".into() },
        _ => AttemptResult::Lost { cause: LostCause::Executor },
    }
}

/// Histories in the quick suite; `CI_RUNNER_TEST_CYCLES` asks for more.
fn histories() -> u64 {
    std::env::var("CI_RUNNER_TEST_CYCLES").ok().and_then(|cycles| cycles.parse().ok()).unwrap_or(20)
}

#[test]
fn both_stores_rebuild_the_record_of_any_history() {
    for seed in 0..histories() {
        let mut world = World::new(seed);
        for step in 1..=400 {
            world.step();
            if world.dice.rarely(60) {
                let loaded = world.compare();
                if world.dice.rarely(2) {
                    world.record = loaded; // the daemon that starts goes on with what it was told
                }
            }
            assert!(world.record.len() < 1_000, "seed {seed}, step {step}: nothing gets done");
        }
        world.compare();
    }
}
