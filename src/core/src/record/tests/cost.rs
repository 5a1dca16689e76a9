//! What many jobs of one group cost: never the square of their number. They used to, and an array of 30,000 jobs then held
//! up the loop until the watchdog killed the daemon. What many that wait for one cost is measured in the runner's tests of its
//! stores: nothing here may read a clock.

use super::*;

const JOBS: u64 = 4_000;
/// Jobs looked at for one job, from its submission to its end; it takes about 20.
const LOOKS_MAX: u64 = 60;

impl Bench {
    /// Jobs looked at while `work` was done.
    fn looks(&mut self, work: impl FnOnce(&mut Self)) -> u64 {
        let before = self.record.jobs.looked_at.get();
        work(self);
        self.record.jobs.looked_at.get() - before
    }
}

#[test]
fn an_array_of_one_group_costs_each_job_the_same() {
    for policy in [GroupPolicy::Latest, GroupPolicy::Cancel] {
        let mut bench = Bench::new(1);
        let looks = bench.looks(|bench| {
            for _ in 0..JOBS {
                bench.submit(in_group(1, policy));
            }
            bench.turn();
        });
        assert_eq!(bench.record.ids().collect::<Vec<_>>(), [job(JOBS)], "only the newest is left");
        assert!(looks < JOBS * LOOKS_MAX, "{looks} looks for {JOBS} jobs of policy {}", policy.word());
    }
}

/// Members that run stay open when a newer one comes, or until they have been stopped: they are not walked either.
#[test]
fn newcomers_do_not_walk_what_runs() {
    for policy in [GroupPolicy::Latest, GroupPolicy::Cancel] {
        let mut bench = Bench::new(500);
        for _ in 0..500 {
            bench.submit(in_group(501, GroupPolicy::Queue));
        }
        assert_eq!(bench.turn().len(), 500);
        let looks = bench.looks(|bench| {
            for _ in 0..JOBS {
                bench.submit(in_group(501, policy));
            }
            bench.turn();
        });
        assert!(looks < (JOBS + 500) * LOOKS_MAX, "{looks} looks for {JOBS} jobs of policy {}", policy.word());
    }
}

/// What stands twice in a submission is waited for once, and each of two different ends by itself.
#[test]
fn a_dependency_named_twice_counts_once() {
    let mut bench = Bench::new(1);
    bench.submit(|_| ());
    let after = |on| After { job: job(1), on };
    let twice = vec![after(Condition::Success), after(Condition::Success), after(Condition::Always)];
    bench.submit(|spec| spec.terms.after = twice);
    assert_eq!(bench.turn(), [1]);
    bench.end(1, 0);
    assert_eq!(bench.turn(), [2]);
}
