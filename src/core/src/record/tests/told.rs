//! What the world tells of the host: it holds where it is said, and in the record that takes its place.

use super::*;
use crate::busy::{Busy, Gauge};
use crate::limits::Enforced;

fn settings(names: &[&str]) -> Settings {
    Settings { pools: names.iter().map(|name| Pool::new(name, 2, Vec::new())).collect(), ..Settings::default() }
}

fn in_pool(name: &str) -> impl FnOnce(&mut JobSpec) {
    move |spec| spec.terms.pool = Some(name.to_owned())
}

/// The record that was made anew after a failed commit had forgotten what could not be enforced: what waited was started.
#[test]
fn a_record_that_is_made_anew_takes_it_over_by_the_names_of_pools() {
    let mut before = Record::new(settings(&["open", "closed"]));
    before.configure(settings(&["closed", "open"]));
    let [open, closed] = ["open", "closed"].map(|name| before.pool_id(name).expect("there"));
    before.set_enforced(closed, None);
    before.set_enforced(open, Some(Enforced { memory: false, ..Enforced::ALL }));
    before.set_shut([(open, 0)]);
    let busy = Busy::of(Gauge::Load, 9, 1).expect("passed");
    before.set_busy(vec![busy]);

    let mut bench = Bench { record: Record::new(settings(&["closed", "open"])), now: at(0) };
    assert_ne!(bench.record.pool_id("open"), Some(open), "the control: numbers are others");
    let waits = bench.submit(in_pool("closed"));
    let limited = bench.submit(|spec| {
        in_pool("open")(spec);
        spec.terms.limits.memory_bytes = Some(1 << 20);
    });
    let ids = [(); 2].map(|()| bench.submit(in_pool("open")).get());
    bench.record.take_over(&before);
    assert_eq!(bench.record.busy(), [busy]);
    assert_eq!(bench.turn(), [0; 0], "the host is busy");
    bench.record.set_busy(Vec::new());
    assert_eq!(bench.turn(), ids[..1], "one place is shut");
    assert_eq!(bench.record.lease(job(ids[0])).map(|lease| lease.slot), Some(1));
    for id in [waits, limited] {
        assert!(matches!(bench.record.explain(id).as_deref(), Some([Reason::NoPool { .. }])), "{id}");
    }
}

/// A pool whose executor is not there is not left to another one.
#[test]
fn a_pool_without_a_life_to_claim_under_claims_nothing() {
    let mut bench = Bench { record: Record::new(settings(&["native", "boxed"])), now: at(0) };
    let boxed = bench.submit(in_pool("boxed"));
    let native = bench.submit(in_pool("native"));
    let life = |pool: &str| (pool == "native").then(|| Epoch::new("e"));
    let claim_in = ["native", "boxed"].map(|pool| (bench.record.pool_id(pool).expect("there"), life(pool)));
    let permit = Permit { claim_in: claim_in.into(), ..permit() };
    schedule(&mut bench.record, &permit, bench.now);
    assert_eq!(bench.record.leases().map(|(id, _)| id).collect::<Vec<_>>(), [native]);
    assert_eq!(bench.record.phase(boxed), Some(Phase::Queued));
}

/// Its free place was taken for one: the job was told that it starts next, and waited for the other pool.
#[test]
fn a_place_in_a_pool_without_a_life_is_no_place() {
    let mut bench = Bench { record: Record::new(settings(&["native", "boxed"])), now: at(0) };
    let boxed = bench.record.pool_id("boxed").expect("there");
    let permit = Permit { claim_in: [(boxed, None)].into(), ..permit() };
    let ids = [(); 3].map(|()| bench.submit(|_| ()));
    schedule(&mut bench.record, &permit, bench.now);
    assert_eq!(bench.record.leases().map(|(id, _)| id).collect::<Vec<_>>(), ids[..2]);
    let why = |open: &dyn Fn(PoolId) -> bool| bench.record.explain_where(ids[2], open).expect("open");
    let full = Reason::NoSlot { pools: vec![("native".to_owned(), 2, ids[..2].to_vec())] };
    assert_eq!(why(&|pool| pool != boxed), [full]);
    assert_eq!(why(&|_| true), [Reason::Next], "the control");
    assert_eq!(why(&|_| false), [Reason::Next], "who closed all knows why");
}
