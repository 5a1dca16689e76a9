//! Newcomers of `latest` and `cancel`, and who makes way for them.

use super::*;

#[test]
fn latest_keeps_the_newest_and_cancel_stops_the_running() {
    let mut bench = Bench::new(8);
    bench.submit(in_group(1, GroupPolicy::Latest));
    assert_eq!(bench.turn(), [1]);
    bench.submit(in_group(1, GroupPolicy::Latest));
    bench.submit(in_group(1, GroupPolicy::Latest));
    assert_eq!(bench.turn(), [0; 0]);
    assert_eq!(bench.record.phase(job(2)), None, "superseded");
    assert_eq!(bench.record.phase(job(1)), Some(Phase::Starting), "left alone");
    bench.submit(in_group(1, GroupPolicy::Cancel));
    bench.turn();
    assert_eq!(bench.record.phase(job(3)), None);
    assert_eq!(bench.record.phase(job(1)), Some(Phase::Stopping));
    bench.end(1, 0);
    assert_eq!(bench.turn(), [4]);
    let last = bench.record.news_after(0).expect("kept").filter(|news| news.job == job(1)).last().cloned();
    assert_eq!(last.and_then(|news| news.outcome), Some(Outcome::Superseded { by: job(4) }));
}

/// A job whose dependency failed before it came used to drop and stop the others, and ran as little as they did.
#[test]
fn a_newcomer_that_can_never_run_takes_nobodys_place() {
    for policy in [GroupPolicy::Latest, GroupPolicy::Cancel] {
        let mut bench = Bench::new(2);
        bench.submit(|spec| spec.terms.retry.retries = 0);
        bench.turn();
        bench.end(1, 1);
        bench.submit(in_group(1, GroupPolicy::Queue));
        bench.submit(in_group(1, GroupPolicy::Queue));
        assert_eq!(bench.turn(), [2]);
        let after = |on| {
            move |spec: &mut JobSpec| {
                in_group(1, policy)(spec);
                spec.terms.after = vec![After { job: job(1), on }];
            }
        };
        bench.submit(after(Condition::Success));
        // Nor does one that comes back make way for it.
        let attempt = bench.record.lease(job(2)).expect("open").attempt;
        bench.apply(Change::Job { id: job(2), event: Event::Released { attempt } });
        assert_eq!(bench.turn(), [2], "{policy:?}");
        assert_eq!(bench.record.phase(job(3)), Some(Phase::Queued), "{policy:?}");
        assert_eq!(bench.record.phase(job(4)), None, "cancelled at once");

        // The control: one that can run does.
        bench.submit(after(Condition::Failure));
        bench.turn();
        assert_eq!(bench.record.phase(job(3)), None, "{policy:?}");
        let running = if policy == GroupPolicy::Cancel { Phase::Stopping } else { Phase::Starting };
        assert_eq!(bench.record.phase(job(2)), Some(running), "{policy:?}");
    }
}

/// The rule for one that waits for a job that is open: it counts from its submission, as with `--in`.
#[test]
fn a_newcomer_that_waits_for_another_job_counts_at_once() {
    let mut bench = Bench::new(2);
    bench.submit(|spec| spec.terms.hold = true);
    bench.submit(in_group(1, GroupPolicy::Queue));
    bench.submit(|spec| {
        in_group(1, GroupPolicy::Latest)(spec);
        spec.terms.after = vec![After { job: job(1), on: Condition::Success }];
    });
    bench.turn();
    assert_eq!((bench.record.phase(job(2)), bench.record.phase(job(3))), (None, Some(Phase::Queued)));
}
