//! A host that is too busy starts nothing, and goes on where it was.

use super::*;
use crate::busy::{Busy, Gauge};

fn busy() -> Vec<Busy> {
    Vec::from_iter(Busy::of(Gauge::FreeDisk, 5, 6))
}

#[test]
fn a_limit_is_passed_beyond_it_only() {
    assert_eq!(Busy::of(Gauge::Load, 100, 100), None);
    assert!(Busy::of(Gauge::Load, 101, 100).is_some());
    assert_eq!(Busy::of(Gauge::FreeMemory, 100, 100), None);
    assert!(Busy::of(Gauge::FreeMemory, 99, 100).is_some());
}

#[test]
fn while_a_limit_is_passed_nothing_new_starts_and_why_says_so() {
    let mut bench = Bench::new(2);
    for _ in 0..3 {
        bench.submit(|_| ());
    }
    assert_eq!(bench.turn()[..2], [1, 2]);
    bench.record.set_busy(busy());
    assert!(!bench.record.may_dispatch(PoolId(0)), "not even what was claimed before");
    schedule(&mut bench.record, &permit(), bench.now);
    assert_eq!(bench.record.phase(job(3)), Some(Phase::Queued));
    let why = bench.record.explain(job(3)).expect("open");
    assert!(why.contains(&Reason::Busy(busy()[0])), "{why:?}");
    bench.record.set_busy(Vec::new());
    assert!(!bench.record.explain(job(3)).expect("open").contains(&Reason::Busy(busy()[0])));
}

#[test]
fn claims_that_were_not_sent_are_given_back_and_made_again() {
    let mut bench = Bench::new(1);
    bench.submit(|_| ());
    schedule(&mut bench.record, &permit(), bench.now);
    assert_eq!(bench.record.phase(job(1)), Some(Phase::Starting));
    bench.record.set_busy(busy());
    schedule(&mut bench.record, &permit(), bench.now);
    assert_eq!(bench.record.phase(job(1)), Some(Phase::Queued));
    bench.record.set_busy(Vec::new());
    schedule(&mut bench.record, &permit(), bench.now);
    assert_eq!(bench.record.phase(job(1)), Some(Phase::Starting));
    assert_eq!(bench.record.tries(job(1)), Some(0), "no try was used up");
}
