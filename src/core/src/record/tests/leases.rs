//! Claims made ahead, and what a start of the daemon makes of open attempts.

use super::*;

#[test]
fn short_runs_let_claims_be_made_ahead_and_long_ones_give_them_back() {
    let mut bench = Bench::new(2);
    for _ in 0..120 {
        bench.submit(|_| ());
    }
    let mut ahead = 0;
    for step in 1..60 {
        bench.now = at(step);
        schedule(&mut bench.record, &permit(), bench.now);
        ahead = ahead.max(bench.record.leases().count());
        bench.dispatch_all();
        let running = bench.record.leases().find(|(_, lease)| lease.dispatched.is_some()).map(|(id, _)| id);
        bench.end(running.expect("something runs").get(), 0);
    }
    bench.dispatch_all();
    assert!(
        ahead > 4 && ahead <= 2 + 16,
        "more than one for each slot, because they end while a commit is under way: {ahead}"
    );
    bench.now = at(5_000);
    let entries = schedule(&mut bench.record, &permit(), bench.now);
    let released =
        entries.iter().filter(|entry| matches!(entry.change, Change::Job { event: Event::Released { .. }, .. }));
    assert!(released.count() <= 16);
    assert!(bench.record.leases().count() <= 2, "nobody waits claimed behind a long job");
}

/// A claim made ahead took its place while it waited to be tried again: given back, it was claimed again at once, several times a second.
#[test]
fn a_refused_claim_waits_for_its_place_while_another_has_it() {
    let mut bench = Bench::new(2);
    for _ in 0..120 {
        bench.submit(|_| ());
    }
    for step in 1..60 {
        bench.now = at(step);
        schedule(&mut bench.record, &permit(), bench.now);
        bench.dispatch_all();
        let running = bench.record.leases().find(|(_, lease)| lease.dispatched.is_some()).map(|(id, _)| id);
        bench.end(running.expect("something runs").get(), 0);
    }
    bench.dispatch_all();
    let look = Observation { seen: Seen::NotBegan, same_epoch: true, settled: true };
    let step = |bench: &Bench, id| {
        let attempt = bench.record.lease(id).expect("it has one").attempt.0;
        reconcile(&bench.record, id, attempt, &look, bench.now)
    };
    let (refused, _) = bench.record.leases().find(|(_, lease)| lease.dispatched.is_some()).expect("something runs");
    let pool = bench.record.lease(refused).expect("it has one").pool;
    let ahead = bench.record.undispatched(pool).next().expect("claims are made ahead");
    bench.record.undispatch(refused);
    assert_eq!(step(&bench, refused), Step::Start, "the control: its place is free");
    bench.record.dispatch(ahead);
    assert_eq!(step(&bench, refused), Step::Leave);
    bench.apply(Change::Paused(Some(Pause { by: "me".into(), reason: String::new(), since: bench.now, drain: false })));
    assert_eq!(step(&bench, refused), Step::Void, "nothing shall start");
}

/// A loop that sleeps until `next_stale` used to spin while a claim waited for its commit, or behind a younger one.
#[test]
fn a_claim_that_cannot_be_given_back_wakes_nobody() {
    let mut bench = Bench::new(2);
    bench.submit(|_| ());
    schedule(&mut bench.record, &permit(), bench.now);
    assert_eq!(bench.record.leases().count(), 1);
    assert_eq!(bench.record.next_stale(), None, "a slot is free for it");
}

/// An open job as a store would tell it.
fn stored(id: u64, change: impl FnOnce(&mut OpenJob)) -> OpenJob {
    let mut open = OpenJob {
        id: job(id),
        submitted: Instant(0),
        terms: spec().terms,
        group_limit: None,
        waits_for: Vec::new(),
        impossible: None,
        phase: Phase::Queued,
        ready_at: Instant(0),
        attempt: 0,
        tries: 0,
        last: None,
        wish: Wish::Run,
        lease: None,
    };
    change(&mut open);
    open
}

/// A claimed attempt as a store would tell it.
fn claimed(slot: u32, stop: Option<(By, Instant)>) -> impl FnOnce(&mut OpenJob) {
    move |open| {
        open.phase = if stop.is_some() { Phase::Stopping } else { Phase::Starting };
        open.attempt = 1;
        open.lease = Some(Lease {
            attempt: AttemptNumber(1),
            pool: PoolId(0),
            slot,
            epoch: Epoch::new("e"),
            limits: Limits::NONE,
            claimed: Instant(i64::from(slot)),
            started: None,
            stop,
            dispatched: Some(Instant(i64::from(slot))),
            refused: None,
        });
    }
}

fn look(seen: Seen, same_epoch: bool) -> Observation {
    Observation { seen, same_epoch, settled: true }
}

/// That a newer job took its place stands in the lease only: a daemon killed between the stop and the end used to queue the
/// job again when its attempt turned out never to have begun.
#[test]
fn a_stop_survives_a_restart() {
    let mut bench = Bench::new(1);
    let stop = Some((By::Newer(job(9)), Instant(1)));
    bench.record.load(&stored(1, claimed(0, stop))).expect("loads");
    let step = reconcile(&bench.record, job(1), 1, &look(Seen::Voided, true), bench.now);
    let Step::Record(event) = step else { panic!("{step:?}") };
    bench.apply(Change::Job { id: job(1), event });
    assert_eq!(bench.turn(), [0; 0]);
    assert_eq!(bench.record.phase(job(1)), None, "superseded, not queued again");
}

/// After a start of the daemon claims made ahead cannot be told from those that were sent: all of them used to be started.
#[test]
fn claims_made_ahead_do_not_exceed_the_slots_after_a_restart() {
    let mut bench = Bench::new(2);
    for id in 1..=4 {
        bench.record.load(&stored(id, claimed(u32::try_from(id).expect("small"), None))).expect("loads");
    }
    let step = |bench: &Bench, id| reconcile(&bench.record, job(id), 1, &look(Seen::Absent, true), bench.now);
    assert_eq!(step(&bench, 4), Step::Void);
    for id in [3, 4] {
        bench.apply(Change::Job { id: job(id), event: Event::Released { attempt: AttemptNumber(1) } });
    }
    assert_eq!(step(&bench, 1), Step::Start);
    bench.apply(Change::Paused(Some(Pause { by: "me".into(), reason: String::new(), since: bench.now, drain: false })));
    assert_eq!(step(&bench, 1), Step::Void, "nothing new starts while paused");
}

/// A claim that was not sent when the host was paused used to start all the same.
#[test]
fn a_pause_takes_claims_back() {
    let mut bench = Bench::new(1);
    bench.submit(|_| ());
    schedule(&mut bench.record, &permit(), bench.now);
    bench.apply(Change::Paused(Some(Pause { by: "me".into(), reason: String::new(), since: bench.now, drain: true })));
    assert!(!bench.record.may_dispatch(PoolId(0)));
    schedule(&mut bench.record, &permit(), bench.now);
    assert_eq!(bench.record.phase(job(1)), Some(Phase::Queued));
}

/// One that was told to stop before it was sent used to stay, hold back the others of its pool, and keep the loop awake.
#[test]
fn a_pause_takes_stopped_claims_back() {
    let mut bench = Bench::new(2);
    bench.submit(|_| ());
    bench.submit(|_| ());
    schedule(&mut bench.record, &permit(), bench.now);
    bench.wish(1, Wish::Cancel { by: By::User("me".into()) });
    schedule(&mut bench.record, &permit(), bench.now);
    assert_eq!(bench.record.phase(job(1)), Some(Phase::Stopping));
    bench.apply(Change::Paused(Some(Pause { by: "me".into(), reason: String::new(), since: bench.now, drain: true })));
    schedule(&mut bench.record, &permit(), bench.now);
    assert_eq!(bench.record.phase(job(1)), None, "cancelled");
    assert_eq!(bench.record.phase(job(2)), Some(Phase::Queued));
    assert_eq!(bench.record.next_stale(), None);
}

/// A claim that was never sent is not lost with the host: it used to cost a try.
#[test]
fn a_claim_that_was_not_sent_is_given_back_in_another_epoch() {
    let mut bench = Bench::new(1);
    bench.submit(|_| ());
    schedule(&mut bench.record, &permit(), bench.now);
    let step = reconcile(&bench.record, job(1), 1, &look(Seen::Absent, false), bench.now);
    assert_eq!(step, Step::Record(Event::Released { attempt: AttemptNumber(1) }));
    bench.record.dispatch(job(1));
    let step = reconcile(&bench.record, job(1), 1, &look(Seen::Absent, false), bench.now);
    assert!(matches!(step, Step::Record(Event::Ended { .. })), "{step:?}");
}

/// The configuration was changed while a job of the group was open: the stored limit used to win at the next start.
#[test]
fn the_configured_limit_holds_after_a_restart() {
    let groups = vec![crate::policy::GroupLimit { name: "g".into(), limit: 3 }];
    let mut record = Record::new(Settings { groups, ..Settings::default() });
    let of_group = |open: &mut OpenJob| {
        open.terms.group = Some(GroupSpec { name: "g".into(), limit: None, policy: GroupPolicy::Queue });
        open.group_limit = Some(1);
    };
    record.load(&stored(1, of_group)).expect("loads");
    assert_eq!(record.group_limit("g"), Some(3));
}

/// Something that no job knows is in a slot: its place is nobody's, and never more runs at once than there are slots.
#[test]
fn a_place_that_is_shut_is_nobodys_and_counts_as_used() {
    let mut bench = Bench::new(2);
    bench.record.set_shut([(PoolId(0), 0), (PoolId(7), 0)]);
    for _ in 0..2 {
        bench.submit(|_| ());
    }
    schedule(&mut bench.record, &permit(), bench.now);
    let slots: Vec<u32> = bench.record.leases().map(|(_, lease)| lease.slot).collect();
    assert_eq!(slots, [1], "the second waits: one slot is left");
    bench.record.dispatch(job(1));
    assert!(!bench.record.may_dispatch(PoolId(0)));
    assert!(matches!(bench.record.explain(job(2)).expect("open")[..], [Reason::NoSlot { .. }]));
    bench.record.set_shut([]);
    schedule(&mut bench.record, &permit(), bench.now);
    let slots: Vec<u32> = bench.record.leases().map(|(_, lease)| lease.slot).collect();
    assert_eq!(slots, [1, 0]);
    bench.record.set_shut([(PoolId(0), 0), (PoolId(0), 1)]);
    bench.submit(|_| ());
    schedule(&mut bench.record, &permit(), bench.now);
    assert_eq!(bench.record.phase(job(3)), Some(Phase::Queued), "all of them are shut");
}
