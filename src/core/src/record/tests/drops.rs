//! Jobs that are dropped because a dependency ended otherwise than they asked.

use super::*;

/// The store says of each that its dependency failed, so that a crash between two turns forgets none.
#[test]
fn drops_for_a_dependency_are_taken_in_pieces_and_hold_up_nobody() {
    let mut bench = Bench::new(1);
    let first = bench.submit(|spec| spec.terms.hold = true);
    for _ in 0..5 {
        bench.submit(move |spec| spec.terms.after = vec![After { job: first, on: Condition::Success }]);
    }
    let other = bench.submit(|_| ());
    bench.wish(1, Wish::Cancel { by: By::User("me".into()) });
    let permit = Permit { drops_max: Some(2), ..permit() };
    let mut turn = || schedule(&mut bench.record, &permit, bench.now).len();
    assert_eq!(
        [turn(), turn(), turn(), turn()],
        [4, 2, 1, 0],
        "the first, two for it, and a claim; two more; the last"
    );
    assert_eq!((bench.record.phase(other), bench.record.len()), (Some(Phase::Starting), 1));
}
