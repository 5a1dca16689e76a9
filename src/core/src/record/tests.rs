use super::*;
use crate::change::{Change, Entry, OpenJob, Submission};
use crate::explain::Reason;
use crate::group::{GroupPolicy, GroupSpec};
use crate::id::Epoch;
use crate::job::{After, Command, JobSpec, Terms, Work};
use crate::outcome::By;
use crate::policy::Pool;
use crate::reconcile::{Observation, Seen, Step, reconcile};
use crate::schedule::{Permit, after_end, schedule};
use crate::state::EventKind;
use crate::state::{Event, Next};

mod busy;
mod classes;
mod cost;
mod drops;
mod expiry;
mod groups;
mod leases;
mod room;
mod stranded;
mod told;

fn job(id: u64) -> JobId {
    JobId::new(id).expect("positive")
}

fn at(ms: i64) -> Now {
    Now { engine: Instant(ms), wall: WallTime(1_000_000 + ms) }
}

fn permit() -> Permit {
    Permit { claim: Some(Epoch::new("e")), changes_max: 10_000, ..Permit::default() }
}

fn spec() -> JobSpec {
    JobSpec {
        name: None,
        correlation: "c".into(),
        work: Work {
            command: Command::Shell("true".into()),
            env: Vec::new(),
            dir: None,
            timeout_ms: None,
            soft_timeout_ms: None,
            log_bytes_max: 1 << 20,
            secrets: Vec::new(),
            profile: None,
            submitter_uid: None,
            notify: Vec::new(),
        },
        terms: Terms {
            pool: None,
            labels: Vec::new(),
            priority: 0,
            retry: Settings::default().retry,
            group: None,
            after: Vec::new(),
            at: None,
            delay_ms: None,
            expires: None,
            hold: false,
            limits: Limits::NONE,
        },
    }
}

/// A record under test, and the shortest way to say things to it.
struct Bench {
    record: Record,
    now: Now,
}

impl Bench {
    fn new(slots: u32) -> Self {
        let pools = vec![Pool::new("default", slots, vec![Label::parse("os=linux").expect("label")])];
        Self { record: Record::new(Settings { pools, ..Settings::default() }), now: at(0) }
    }

    fn submit(&mut self, change: impl FnOnce(&mut JobSpec)) -> JobId {
        let mut spec = spec();
        change(&mut spec);
        let id = self.record.next_id();
        let finished = spec.terms.after.iter().map(|after| self.record.ended(after.job)).collect();
        let group_limit = spec.terms.group.as_ref().map(|group| group.limit.unwrap_or(1));
        let submission = Submission { id, spec, finished, group_limit, submitter: "me".into() };
        self.apply(Change::Submitted(Box::new(submission)));
        id
    }

    fn apply(&mut self, change: Change) {
        self.record.apply(&Entry { at: self.now, change }).expect("legal");
    }

    /// Ids claimed in one turn; each is sent at once when there is a free slot.
    fn turn(&mut self) -> Vec<u64> {
        let entries = schedule(&mut self.record, &permit(), self.now);
        let mut claimed = Vec::new();
        for entry in entries {
            if let Change::Job { id, event: Event::Claimed { .. } } = entry.change {
                claimed.push(id.get());
                self.record.dispatch(id);
            }
        }
        claimed
    }

    fn end(&mut self, id: u64, code: u8) {
        let result = AttemptResult::Exited { code };
        let attempt = self.record.lease(job(id)).expect("open").attempt;
        let next = after_end(&self.record, job(id), attempt, &result, self.now).expect("open");
        self.apply(Change::Job { id: job(id), event: Event::Ended { attempt, result, next } });
    }

    /// Sends claims while there are free slots.
    fn dispatch_all(&mut self) {
        let open: Vec<JobId> = self.record.leases().map(|(id, _)| id).collect();
        for id in open {
            let pool = self.record.lease(id).expect("open").pool;
            if self.record.may_dispatch(pool) {
                self.record.dispatch(id);
            }
        }
    }

    fn wish(&mut self, id: u64, wish: Wish) {
        self.apply(Change::Wished { id: job(id), wish });
    }
}

fn in_group(limit: u32, policy: GroupPolicy) -> impl FnOnce(&mut JobSpec) {
    move |spec| spec.terms.group = Some(GroupSpec { name: "g".into(), limit: Some(limit), policy })
}

#[test]
fn slots_hold_and_older_goes_first() {
    let mut bench = Bench::new(2);
    for _ in 0..5 {
        bench.submit(|_| ());
    }
    assert_eq!(bench.turn(), [1, 2]);
    assert_eq!(bench.turn(), [0; 0]);
    bench.end(1, 0);
    assert_eq!(bench.turn(), [3]);
}

#[test]
fn priority_overtakes_only_within_its_bound() {
    let mut bench = Bench::new(1);
    bench.submit(|_| ());
    bench.now = at(59_000);
    bench.submit(|spec| spec.terms.priority = 1);
    bench.now = at(125_000);
    bench.submit(|spec| spec.terms.priority = 1);
    assert_eq!(bench.turn(), [2]);
    bench.end(2, 0);
    assert_eq!(bench.turn(), [1]);
}

#[test]
fn a_group_holds_its_limit_in_order() {
    let mut bench = Bench::new(8);
    for _ in 0..4 {
        bench.submit(in_group(2, GroupPolicy::Queue));
    }
    assert_eq!(bench.turn(), [1, 2]);
    bench.end(1, 1);
    assert_eq!(bench.turn(), [3], "a job that waits for its retry does not hold the group");
    bench.now = at(6_000);
    assert_eq!(bench.turn(), [0; 0]);
    bench.end(2, 0);
    assert_eq!(bench.turn(), [1], "its retry goes before the younger");
}

#[test]
fn dependencies_release_or_cancel() {
    let mut bench = Bench::new(8);
    let first = bench.submit(|spec| spec.terms.retry.retries = 0);
    for on in [Condition::Success, Condition::Failure, Condition::Always] {
        bench.submit(move |spec| spec.terms.after = vec![After { job: first, on }]);
    }
    bench.submit(|spec| spec.terms.after = vec![After { job: job(2), on: Condition::Always }]);
    assert_eq!(bench.turn(), [1]);
    let reasons = bench.record.explain(job(2)).expect("open");
    assert_eq!(reasons, [Reason::WaitsFor { job: first, on: Condition::Success, phase: Some(Phase::Starting) }]);
    bench.end(1, 1);
    assert_eq!(bench.turn(), [3, 4, 5], "2 is cancelled, which frees 5");
    let late = bench.submit(move |spec| spec.terms.after = vec![After { job: first, on: Condition::Success }]);
    bench.turn();
    assert_eq!(bench.record.phase(late), None, "impossible at submission");
}

#[test]
fn times_hold_back_and_expire() {
    let mut bench = Bench::new(8);
    bench.submit(|spec| spec.terms.delay_ms = Some(1_000));
    bench.submit(|spec| spec.terms.at = Some(WallTime(1_002_000)));
    bench.submit(|spec| {
        spec.terms.at = Some(WallTime(1_009_000));
        spec.terms.expires = Some(WallTime(1_003_000));
    });
    assert_eq!(bench.turn(), [0; 0]);
    assert_eq!(bench.record.next_times(), (Some(Instant(1_000)), Some(WallTime(1_002_000))));
    bench.now = at(1_000);
    assert_eq!(bench.turn(), [1]);
    bench.now = at(2_000);
    assert_eq!(bench.turn(), [2]);
    bench.now = at(3_000);
    bench.turn();
    assert_eq!(bench.record.phase(job(3)), None);
    let last = bench.record.news_after(0).expect("kept").last().cloned().expect("some");
    assert_eq!(last.outcome, Some(Outcome::Expired));
}

#[test]
fn hold_release_and_cancel() {
    let mut bench = Bench::new(1);
    bench.submit(|spec| spec.terms.hold = true);
    assert_eq!(bench.turn(), [0; 0]);
    bench.wish(1, Wish::Run);
    assert_eq!(bench.turn(), [1]);
    bench.submit(|_| ());
    bench.wish(2, Wish::Cancel { by: By::User("me".into()) });
    bench.wish(1, Wish::Cancel { by: By::User("me".into()) });
    bench.turn();
    assert_eq!(bench.record.phase(job(2)), None);
    assert_eq!(bench.record.phase(job(1)), Some(Phase::Stopping));
    bench.wish(1, Wish::Run);
    bench.end(1, 1);
    assert!(bench.record.is_empty(), "a cancelled job is not retried and stays cancelled");
}

#[test]
fn labels_choose_any_pool_that_matches() {
    let label = |text: &str| Label::parse(text).expect("label");
    let mut bench = Bench::new(1);
    let mut settings = bench.record.settings().clone();
    for name in ["gpu1", "gpu2"] {
        settings.pools.push(Pool::new(name, 1, vec![label("gpu"), label("os=linux")]));
    }
    bench.record.configure(settings);
    for _ in 0..3 {
        bench.submit(|spec| spec.terms.labels = vec![label("gpu")]);
    }
    let lost = bench.submit(|spec| spec.terms.labels = vec![label("os=linux"), label("tpu")]);
    assert_eq!(bench.turn(), [1, 2]);
    let no_slot = bench.record.explain(job(3)).expect("open");
    assert!(matches!(&no_slot[..], [Reason::NoSlot { pools }] if pools.len() == 2), "{no_slot:?}");
    let no_pool = bench.record.explain(lost).expect("open");
    assert!(
        matches!(&no_pool[..], [Reason::NoPool { nearest: Some((pool, lacks)), .. }] if pool == "default" && *lacks == [label("tpu")]),
        "{no_pool:?}"
    );
}

/// A listener that knew numbers of the record before used to hear nothing until the new one had counted as far.
#[test]
fn a_rebuilt_record_tells_listeners_of_the_gap() {
    use crate::announce::{ANNOUNCED_MAX, Announcement, announce};
    let mut bench = Bench::new(1);
    for _ in 0..3 {
        bench.submit(|_| ());
    }
    let told = bench.record.news_seq();
    let mut rebuilt = Bench::new(1);
    rebuilt.record.resume_news(told);
    rebuilt.submit(|_| ());
    let committed = rebuilt.record.news_seq();
    for known in 0..=told {
        assert_eq!(announce(&rebuilt.record, known, committed), [Announcement::Gap(committed)]);
    }
    rebuilt.submit(|_| ());
    let news = announce(&rebuilt.record, committed, rebuilt.record.news_seq());
    assert!(matches!(&news[..], [Announcement::Job(news)] if news.job == job(2)), "{news:?}");
    // Who was away for long is told piece by piece, and asks for the rest.
    for _ in 0..ANNOUNCED_MAX {
        rebuilt.submit(|_| ());
    }
    let news = announce(&rebuilt.record, committed, rebuilt.record.news_seq());
    let last = committed + ANNOUNCED_MAX as u64;
    assert!(news.len() == ANNOUNCED_MAX && matches!(news.last(), Some(Announcement::Job(news)) if news.seq == last));
    assert_eq!(announce(&rebuilt.record, last, rebuilt.record.news_seq()).len(), 1);
}

/// It would run after the newer one: an older deployment over a newer one.
#[test]
fn a_retry_makes_way_for_the_latest() {
    let mut bench = Bench::new(1);
    bench.submit(in_group(1, GroupPolicy::Latest));
    assert_eq!(bench.turn(), [1]);
    bench.submit(in_group(1, GroupPolicy::Latest));
    bench.end(1, 1);
    assert_eq!(bench.turn(), [2]);
    assert_eq!(bench.record.phase(job(1)), None);
}

/// What a fact implies is in the same batch, however small turns are: else a crash between two batches forgets it.
#[test]
fn superseding_is_never_put_off() {
    let mut bench = Bench::new(1);
    for _ in 0..9 {
        bench.submit(in_group(1, GroupPolicy::Queue));
    }
    bench.submit(in_group(1, GroupPolicy::Latest));
    let permit = Permit { claim: None, changes_max: 2, drops_max: Some(2), ..Permit::default() };
    assert_eq!(schedule(&mut bench.record, &permit, bench.now).len(), 9);
}

/// The date was set back while the job waited for a slot, or for its retry.
#[test]
fn what_was_due_stays_due() {
    let mut bench = Bench::new(1);
    bench.submit(|spec| spec.terms.at = Some(WallTime(1_000_500)));
    bench.now = at(1_000);
    bench.turn();
    bench.end(1, 1);
    bench.now = Now { engine: Instant(7_000), wall: WallTime(0) };
    bench.record.advance(bench.now);
    assert_eq!(bench.record.explain(job(1)), Some(vec![Reason::Next]));
    assert_eq!(bench.turn(), [1]);
}

/// The loop looked at the time but could not decide (its store failed); then the date was set back. The job used to be
/// dropped at the next change of anything instead of at its time.
#[test]
fn an_expiry_is_waited_for_again_when_the_date_was_set_back() {
    let mut bench = Bench::new(1);
    bench.submit(|spec| spec.terms.expires = Some(WallTime(1_002_000)));
    bench.wish(1, Wish::Hold { by: "me".into(), reason: String::new() });
    bench.record.advance(at(3_000));
    assert_eq!(bench.record.next_times(), (None, None), "it is due");
    bench.now = Now { engine: Instant(3_001), wall: WallTime(1_000_000) };
    assert_eq!(bench.turn(), [0; 0]);
    assert_eq!(bench.record.phase(job(1)), Some(Phase::Queued), "its time is before it");
    assert_eq!(bench.record.next_times(), (None, Some(WallTime(1_002_000))), "and wakes the loop");
    bench.now = Now { engine: Instant(5_001), wall: WallTime(1_002_000) };
    bench.turn();
    assert_eq!(bench.record.phase(job(1)), None);
}

#[test]
fn illegal_facts_change_nothing() {
    let mut bench = Bench::new(1);
    bench.submit(|_| ());
    let started = Change::Job { id: job(1), event: Event::Started { attempt: AttemptNumber(1) } };
    let illegal = bench.record.apply(&Entry { at: bench.now, change: started });
    assert_eq!(illegal, Err(Illegal::Transition(job(1), Phase::Queued, EventKind::Started)));
    bench.turn();
    let stale = Change::Job {
        id: job(1),
        event: Event::Ended {
            attempt: AttemptNumber(2),
            result: AttemptResult::Exited { code: 0 },
            next: Next::Finish { outcome: Outcome::Succeeded },
        },
    };
    let illegal = bench.record.apply(&Entry { at: bench.now, change: stale });
    assert_eq!(illegal, Err(Illegal::Attempt(job(1), AttemptNumber(2))));
    assert_eq!(bench.record.phase(job(1)), Some(Phase::Starting));
}

#[test]
fn a_job_costs_48_bytes() {
    assert!(std::mem::size_of::<Option<Job>>() <= 56, "{}", std::mem::size_of::<Option<Job>>());
}

/// A reload used to keep the old order until the next start, and to show a pool that was gone for ever.
#[test]
fn the_new_settings_order_is_the_order_of_preference() {
    let pool = |name: &str| Pool::new(name, 1, Vec::new());
    let settings =
        |names: &[&str]| Settings { pools: names.iter().map(|name| pool(name)).collect(), ..Settings::default() };
    let shown =
        |bench: &Bench| -> Vec<String> { bench.record.pools_in_use().into_iter().map(|pool| pool.name).collect() };
    let mut bench = Bench::new(1);
    bench.record.configure(settings(&["b", "old"]));
    let stays = bench.submit(|spec| spec.terms.pool = Some("old".into()));
    bench.turn();
    bench.record.configure(settings(&["a", "b"]));
    assert_eq!(shown(&bench), ["a", "b", "old"], "what is gone stays while it runs something");
    let chosen = bench.submit(|_| ());
    bench.turn();
    let pool = bench.record.lease(chosen).map(|lease| bench.record.pool_name(lease.pool).to_owned());
    assert_eq!(pool.as_deref(), Some("a"), "the first of the new order, not of the old one");
    let waits = bench.submit(|spec| spec.terms.pool = Some("old".into()));
    bench.end(stays.get(), 0);
    assert_eq!(shown(&bench), ["a", "b", "old"], "an open job names it");
    bench.wish(waits.get(), Wish::Cancel { by: By::User("me".into()) });
    bench.turn();
    assert_eq!(shown(&bench), ["a", "b"]);
    assert!(!bench.record.counts().contains_key("old"));
}
