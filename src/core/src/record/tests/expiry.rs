//! What becomes of a job whose `--expires` passes.

use super::*;

fn expiring(spec: &mut JobSpec) {
    spec.terms.expires = Some(WallTime(1_003_000));
    spec.terms.retry.retries = 5;
    spec.terms.retry.delay_ms = 10_000;
    spec.terms.retry.rules.insert(0, crate::retry::Rule { pattern: crate::retry::Pattern::Timeout, retry: true });
}

fn outcome(bench: &Bench) -> Option<Outcome> {
    bench.record.news_after(0).expect("kept").filter_map(|news| news.outcome.clone()).last()
}

/// It used to end as one that had never started.
#[test]
fn a_job_that_was_tried_ends_as_its_last_attempt_did() {
    let exited = AttemptResult::Exited { code: 7 };
    let cases = [(exited.clone(), Outcome::Failed { cause: exited }), (AttemptResult::TimedOut, Outcome::TimedOut)];
    for (result, expected) in cases {
        let mut bench = Bench::new(1);
        bench.submit(expiring);
        assert_eq!(bench.turn(), [1]);
        let attempt = AttemptNumber(1);
        let next = after_end(&bench.record, job(1), attempt, &result, bench.now).expect("open");
        assert!(matches!(next, Next::Retry { .. }), "{next:?}");
        bench.apply(Change::Job { id: job(1), event: Event::Ended { attempt, result, next } });
        bench.now = at(3_000);
        bench.turn();
        assert_eq!(outcome(&bench), Some(expected));
    }
}

/// A claim that was given back is no try.
#[test]
fn a_job_that_was_never_tried_expires() {
    let mut bench = Bench::new(1);
    bench.submit(expiring);
    assert_eq!(bench.turn(), [1]);
    bench.apply(Change::Job { id: job(1), event: Event::Released { attempt: AttemptNumber(1) } });
    bench.now = at(3_000);
    bench.turn();
    assert_eq!(outcome(&bench), Some(Outcome::Expired));
}

/// A native spawner says `Started` at the fork, and then perhaps that nothing began; a daemon that was restarted knows of no refusal. Such a
/// job kept its slot, and ran long after its expiry.
#[test]
fn what_did_not_begin_before_its_expiry_never_does() {
    for said_started in [false, true] {
        let mut bench = Bench::new(1);
        bench.submit(expiring);
        assert_eq!(bench.turn(), [1]);
        if said_started {
            bench.apply(Change::Job { id: job(1), event: Event::Started { attempt: AttemptNumber(1) } });
        }
        let step = |bench: &Bench, seen| {
            let look = Observation { seen, same_epoch: true, settled: true };
            reconcile(&bench.record, job(1), 1, &look, bench.now)
        };
        let refused = Event::Refused { attempt: AttemptNumber(1) };
        if said_started {
            assert_eq!(step(&bench, Seen::NotBegan), Step::Record(refused.clone()), "it is not called running");
            bench.apply(Change::Job { id: job(1), event: refused });
        }
        assert_eq!(step(&bench, Seen::NotBegan), Step::Start, "in time it is started again");
        bench.now = at(3_000);
        bench.record.advance(bench.now);
        assert_eq!(step(&bench, Seen::NotBegan), Step::Void);
        assert_eq!(step(&bench, Seen::Voided), Step::Record(Event::Released { attempt: AttemptNumber(1) }));
        bench.apply(Change::Job { id: job(1), event: Event::Released { attempt: AttemptNumber(1) } });
        bench.turn();
        assert_eq!(outcome(&bench), Some(Outcome::Expired));
    }
}

/// Its claim used to keep its slot, and the job ran when its start was let at last, long after its expiry.
#[test]
fn a_claim_that_was_not_sent_expires_as_well() {
    let mut bench = Bench::new(1);
    bench.submit(expiring);
    assert_eq!(schedule(&mut bench.record, &permit(), bench.now).len(), 1);
    bench.now = at(3_000);
    bench.submit(|_| ());
    assert_eq!(bench.turn(), [2], "its slot is free");
    assert_eq!(outcome(&bench), Some(Outcome::Expired));
}

/// It was given back as if nobody knew of it, and its spawner kept a place for it until no start was taken any more.
#[test]
fn a_claim_whose_start_was_refused_is_voided_when_it_expires() {
    let mut bench = Bench::new(1);
    bench.submit(expiring);
    assert_eq!(bench.turn(), [1]);
    bench.record.undispatch(job(1));
    let step = |bench: &Bench| {
        let look = Observation { seen: Seen::NotBegan, same_epoch: true, settled: true };
        reconcile(&bench.record, job(1), 1, &look, bench.now)
    };
    assert_eq!(step(&bench), Step::Start, "the control: in time it is started again");
    bench.now = at(3_000);
    assert_eq!(schedule(&mut bench.record, &permit(), bench.now), []);
    assert_eq!(step(&bench), Step::Void);
    bench.apply(Change::Job { id: job(1), event: Event::Released { attempt: AttemptNumber(1) } });
    bench.turn();
    assert_eq!(outcome(&bench), Some(Outcome::Expired));
}
