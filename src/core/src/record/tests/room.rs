//! Memory and CPU are promised once, nobody starves, and memory grows after an attempt that was out of it.

use super::*;
use crate::limits::{Budget, Resource, Shortage};
use crate::retry::{Pattern, Rule};
use proptest::prelude::*;

fn memory(bytes: u64) -> impl FnOnce(&mut JobSpec) {
    move |spec| spec.terms.limits.memory_bytes = Some(bytes)
}

fn bench(slots: u32, memory_bytes: u64) -> Bench {
    let mut bench = Bench::new(slots);
    bench.configure(|settings| settings.budget = Budget { memory_bytes: Some(memory_bytes), cpu_milli: Some(4_000) });
    bench
}

impl Bench {
    fn configure(&mut self, change: impl FnOnce(&mut Settings)) {
        let mut settings = self.record.settings().clone();
        change(&mut settings);
        self.record.configure(settings);
    }

    fn why(&self, id: u64) -> Vec<Reason> {
        self.record.explain(job(id)).expect("open")
    }

    fn ended(&mut self, id: u64, result: AttemptResult) {
        let attempt = self.record.lease(job(id)).expect("open").attempt;
        let next = after_end(&self.record, job(id), attempt, &result, self.now).expect("open");
        self.apply(Change::Job { id: job(id), event: Event::Ended { attempt, result, next } });
    }
}

#[test]
fn what_was_promised_is_not_promised_again_and_why_has_the_figures() {
    let mut bench = bench(8, 10);
    for _ in 0..3 {
        bench.submit(memory(4));
    }
    assert_eq!(bench.turn(), [1, 2]);
    let shortage = Shortage { resource: Resource::Memory, asked: 4, reserved: 8, budget: 10 };
    assert_eq!(bench.why(3), [Reason::Resources(shortage)]);
    bench.end(1, 0);
    assert_eq!(bench.turn(), [3]);
    bench.end(2, 0);
    bench.end(3, 0);
    assert_eq!(bench.record.reserved(), Reserved::default());
}

#[test]
fn control_without_a_budget_everybody_runs() {
    let mut bench = Bench::new(8);
    for _ in 0..3 {
        bench.submit(memory(4));
    }
    assert_eq!(bench.turn(), [1, 2, 3]);
}

#[test]
fn cpu_is_promised_as_well_and_a_pools_default_counts() {
    let mut bench = bench(8, 10);
    bench.configure(|settings| settings.pools[0].defaults.cpu_milli = Some(1_500));
    for _ in 0..3 {
        bench.submit(|_| ());
    }
    assert_eq!(bench.turn(), [1, 2]);
    assert_eq!(bench.record.lease(job(1)).expect("open").limits.cpu_milli, Some(1_500));
    assert!(matches!(bench.why(3)[..], [Reason::Resources(Shortage { resource: Resource::Cpu, .. })]));
}

#[test]
fn a_large_job_lets_others_pass_for_a_minute_and_then_the_host_is_kept_free_for_it() {
    let mut bench = bench(3, 10);
    bench.submit(memory(6));
    bench.submit(memory(6)); // does not fit beside the first
    bench.submit(memory(2));
    assert_eq!(bench.turn(), [1, 3]);
    bench.submit(memory(1));
    bench.submit(|_| ());
    bench.now = at(i64::try_from(PASSED_MS_MAX).expect("small"));
    bench.record.advance(bench.now);
    assert_eq!(bench.turn(), [], "not even one that fits, and the last place stays free");
    assert!(matches!(bench.why(2)[..], [Reason::Resources(_)]));
    assert_eq!(bench.why(4), [Reason::MakesWay { job: job(2) }]);
    assert_eq!(bench.why(5), [Reason::MakesWay { job: job(2) }]);
    bench.end(3, 0);
    assert_eq!(bench.turn(), [5], "a second place is free: who declares nothing may go");
    bench.end(1, 0);
    assert_eq!(bench.turn(), [2, 4], "as soon as it fits, and then the others again");
}

/// It could not start whatever ended, and those that fitted waited with it until somebody brought its executor back.
#[test]
fn the_host_is_not_kept_free_for_a_job_whose_pools_start_nothing() {
    let mut bench = bench(3, 10);
    bench.configure(|settings| settings.pools.push(crate::policy::Pool::new("boxed", 3, Vec::new())));
    let boxed = bench.record.pool_id("boxed").expect("there");
    bench.submit(memory(6));
    assert_eq!(bench.turn(), [1]);
    bench.submit(|spec| {
        memory(6)(spec);
        spec.terms.pool = Some("boxed".into());
    });
    bench.now = at(i64::try_from(PASSED_MS_MAX).expect("small"));
    bench.submit(memory(4));
    assert_eq!(bench.turn(), [], "the control: the host is kept free while that pool is open");
    assert_eq!(bench.why(3), [Reason::MakesWay { job: job(2) }]);
    let why = bench.record.explain_where(job(3), &|pool| pool != boxed);
    assert_eq!(why.as_deref(), Some(&[Reason::Next][..]));
    schedule(&mut bench.record, &Permit { claim_in: [(boxed, None)].into(), ..permit() }, bench.now);
    assert_eq!(bench.record.phase(job(3)), Some(Phase::Starting));
}

const MINUTE: i64 = 60_000;

fn in_pool(name: &'static str, bytes: u64) -> impl FnOnce(&mut JobSpec) {
    move |spec| {
        spec.terms.pool = Some(name.to_owned());
        spec.terms.limits.memory_bytes = (bytes > 0).then_some(bytes);
    }
}

/// Room for 20; in the pool "deploy", with one place, job 1 runs and job 2 waits for all the room there is; twelve of 4 wait in
/// the pool "build", with eight. A minute went by.
fn behind_a_taken_place(first: u64) -> Bench {
    let mut bench = bench(1, 20);
    bench.configure(|settings| {
        settings.pools = vec![Pool::new("deploy", 1, Vec::new()), Pool::new("build", 8, Vec::new())];
    });
    bench.submit(in_pool("deploy", first));
    assert_eq!(bench.turn(), [1]);
    bench.submit(in_pool("deploy", 20));
    bench.now = at(MINUTE);
    bench.record.advance(bench.now);
    for _ in 0..12 {
        bench.submit(in_pool("build", 4));
    }
    bench
}

/// Room that is kept for a job without a place is of no use to it: the whole host used to stand idle until job 1 ended.
#[test]
fn nothing_is_kept_free_for_a_job_whose_place_is_taken() {
    let mut bench = behind_a_taken_place(4);
    assert!(matches!(bench.why(2)[..], [Reason::NoSlot { .. }]));
    assert_eq!(bench.turn(), [3, 4, 5, 6], "as many as fit beside job 1");
    bench.end(3, 0);
    assert_eq!(bench.turn(), [7], "and one more for each that ends");
    bench.end(1, 0);
    assert_eq!(bench.turn(), [], "its place is free: from now on the room is kept as well");
    assert!(matches!(bench.why(2)[..], [Reason::Resources(_)]));
    assert_eq!(bench.why(8), [Reason::MakesWay { job: job(2) }]);
    for id in [4, 5, 6] {
        bench.end(id, 0);
        assert_eq!(bench.turn(), []);
    }
    bench.end(7, 0);
    assert_eq!(bench.turn(), [2], "when all that ran at that moment have ended");
}

#[test]
fn five_run_at_once_beside_a_job_that_declares_nothing() {
    let mut bench = behind_a_taken_place(0);
    assert_eq!(bench.turn(), [3, 4, 5, 6, 7]);
}

/// Its spawner is gone, or its executor is new since a reload.
#[test]
fn nothing_is_kept_free_for_a_job_whose_pool_is_closed() {
    let mut bench = behind_a_taken_place(0);
    bench.end(1, 0);
    let deploy = bench.record.pool_id("deploy").expect("a pool");
    let closed = Permit { claim_in: [(deploy, None)].into(), ..permit() };
    let mut claimed = |permit: &Permit| schedule(&mut bench.record, permit, bench.now).len();
    assert_eq!(claimed(&closed), 5);
    assert_eq!(claimed(&permit()), 0);
    bench.end(3, 0);
    assert_eq!(bench.turn(), [], "it is open again");
    assert_eq!(bench.why(8), [Reason::MakesWay { job: job(2) }]);
}

#[test]
fn nothing_is_kept_free_for_a_job_whose_slots_are_shut() {
    let mut bench = behind_a_taken_place(0);
    bench.end(1, 0);
    let deploy = bench.record.pool_id("deploy").expect("a pool");
    bench.record.set_shut([(deploy, 0)]);
    assert_eq!(bench.turn(), [3, 4, 5, 6, 7]);
    bench.record.set_shut([]);
    bench.end(3, 0);
    assert_eq!(bench.turn(), []);
}

/// Runs are short, so claims are made ahead of free places: one that comes later would have the place of who waits for it
/// before that is free, again and again.
#[test]
fn the_next_place_is_that_of_the_job_that_waits_for_it() {
    let mut bench = bench(1, 20);
    bench.configure(|settings| settings.pools.push(Pool::new("build", 1, Vec::new())));
    bench.submit(in_pool("build", 4));
    bench.submit(in_pool("default", 0));
    bench.submit(in_pool("default", 20)); // 3
    assert_eq!(bench.turn(), [1, 2]);
    bench.now = at(MINUTE - 100);
    bench.end(2, 0);
    for id in 4..24 {
        bench.submit(in_pool("default", 0));
        assert_eq!(bench.turn(), [id]);
        bench.end(id, 0);
    }
    for id in [24, 25] {
        bench.submit(in_pool("default", 0));
        assert_eq!(bench.turn(), [id], "a place, and the next one");
    }
    bench.end(24, 0);
    bench.now = at(MINUTE);
    bench.record.advance(bench.now);
    bench.submit(in_pool("default", 0)); // 26
    assert_eq!(bench.turn(), [], "the next one is that of job 3");
    bench.end(25, 0);
    assert_eq!(bench.turn(), []);
    bench.end(1, 0);
    assert_eq!(bench.turn(), [3]);
}

#[test]
fn who_asks_for_more_than_a_shrunken_host_has_runs_alone() {
    let mut bench = bench(4, 10);
    bench.submit(memory(8));
    bench.submit(memory(3));
    bench.configure(|settings| settings.budget.memory_bytes = Some(4));
    assert_eq!(bench.turn(), [1]);
    assert!(matches!(bench.why(2)[..], [Reason::Resources(_)]));
    bench.end(1, 0);
    assert_eq!(bench.turn(), [2]);
}

#[test]
fn memory_grows_after_an_attempt_that_was_out_of_it_up_to_what_the_pool_allows() {
    let mut bench = bench(4, 1_000);
    bench.configure(|settings| settings.pools[0].maxima.memory_bytes = Some(350));
    bench.submit(|spec| {
        memory(100)(spec);
        spec.terms.retry.rules.insert(0, Rule { pattern: Pattern::Oom, retry: true });
        spec.terms.retry.oom_factor = Some(200);
        (spec.terms.retry.retries, spec.terms.retry.delay_ms) = (4, 0);
    });
    for (result, want) in [
        (AttemptResult::OomKilled, 100),
        (AttemptResult::Exited { code: 1 }, 200),
        (AttemptResult::OomKilled, 200),
        (AttemptResult::OomKilled, 350),
        (AttemptResult::OomKilled, 350),
    ] {
        assert_eq!(bench.turn(), [1]);
        assert_eq!(bench.record.lease(job(1)).expect("open").limits.memory_bytes, Some(want));
        assert_eq!(bench.record.reserved().memory_bytes, want);
        bench.ended(1, result);
    }
    assert!(bench.record.is_empty(), "retries are counted as ever");
    assert_eq!(bench.record.reserved(), Reserved::default());
}

#[test]
fn a_pool_that_allows_less_is_no_place_for_a_job() {
    let mut bench = Bench::new(4);
    bench.submit(memory(100));
    bench.configure(|settings| settings.pools[0].maxima.memory_bytes = Some(50));
    assert_eq!(bench.turn(), []);
    assert!(matches!(bench.why(1)[..], [Reason::NoPool { .. }]));
    bench.configure(|settings| settings.pools[0].maxima.memory_bytes = None);
    assert_eq!(bench.turn(), [1]);
}

proptest! {
    /// The same where its pool has one place, for which small jobs come as well: when that is free, the room is kept for it.
    #[test]
    fn nothing_starves_that_waits_for_its_place_as_well(
        large in 5u64..=10, small in prop::collection::vec((0u64..4, 1i64..20_000, any::<bool>()), 200..300)
    ) {
        const BUDGET: u64 = 10;
        let mut bench = bench(3, BUDGET);
        bench.configure(|settings| settings.pools.push(Pool::new("deploy", 1, Vec::new())));
        bench.submit(memory(4));
        bench.submit(in_pool("deploy", 2));
        let mut ends: Vec<(i64, u64)> = bench.turn().into_iter().map(|id| (20_000, id)).collect();
        let large = bench.submit(in_pool("deploy", large)).get();
        let mut waited = 0;
        for (at_step, (bytes, run, deploy)) in small.into_iter().enumerate() {
            bench.now = at(i64::try_from(at_step).expect("small") * 1_000);
            bench.record.advance(bench.now);
            let over: Vec<u64> = ends.iter().filter(|(end, _)| *end <= bench.now.engine.0).map(|(_, id)| *id).collect();
            ends.retain(|(end, _)| *end > bench.now.engine.0);
            for id in over { bench.end(id, 0); }
            bench.submit(in_pool(if deploy { "deploy" } else { "default" }, bytes));
            for id in bench.turn() { ends.push((bench.now.engine.0 + run, id)); }
            prop_assert!(bench.record.reserved().memory_bytes <= BUDGET);
            waited = bench.now.engine.0;
            if bench.record.phase(job(large)) != Some(Phase::Queued) { break; }
        }
        let bound = i64::try_from(PASSED_MS_MAX).expect("small") + 2 * 20_000 + 2_000;
        prop_assert!(waited <= bound, "waited {waited} ms");
    }
}

proptest! {
    /// Small jobs come without end; the large one starts all the same, within the bound that `room.rs` names: a minute,
    /// and then the run time of what runs at that moment. What is promised never exceeds the budget.
    #[test]
    fn nothing_starves(
        large in 5u64..=10, slots in 2u32..5, small in prop::collection::vec((0u64..4, 1i64..20_000), 200..300)
    ) {
        const BUDGET: u64 = 10;
        let mut bench = bench(slots, BUDGET);
        let mut ends: Vec<(i64, u64)> = Vec::new();
        bench.submit(memory(4));
        for id in bench.turn() { ends.push((20_000, id)); }
        let large = bench.submit(memory(large)).get();
        let mut waited = 0;
        for (at_step, (bytes, run)) in small.into_iter().enumerate() {
            bench.now = at(i64::try_from(at_step).expect("small") * 1_000);
            bench.record.advance(bench.now);
            let over: Vec<u64> = ends.iter().filter(|(end, _)| *end <= bench.now.engine.0).map(|(_, id)| *id).collect();
            ends.retain(|(end, _)| *end > bench.now.engine.0);
            for id in over { bench.end(id, 0); }
            bench.submit(|spec| if bytes > 0 { memory(bytes)(spec) });
            for id in bench.turn() { ends.push((bench.now.engine.0 + run, id)); }
            prop_assert!(bench.record.reserved().memory_bytes <= BUDGET);
            waited = bench.now.engine.0;
            if bench.record.phase(job(large)) != Some(Phase::Queued) { break; }
        }
        let bound = i64::try_from(PASSED_MS_MAX).expect("small") + 20_000 + 2_000;
        prop_assert!(waited <= bound, "waited {waited} ms");
    }
}
