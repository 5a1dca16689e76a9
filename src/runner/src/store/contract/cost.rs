//! What a batch costs the stores, and what a turn costs the record: never the square of the number of jobs.

use super::*;
use ci_runner_core::group::{GroupPolicy, GroupSpec};
use ci_runner_core::job::{After, Condition};
use ci_runner_core::record::Record;
use ci_runner_core::schedule::{Permit, schedule};
use std::time::{Duration, Instant as Clock};

const JOBS: u64 = 6_000;

/// Commits jobs of which each cancels those of its group before it, in so many groups.
fn array(mut subject: Subject, groups: u64) -> Duration {
    subject.load();
    let newcomer = |number| {
        let mut spec = spec();
        let name = format!("g{}", number % groups);
        spec.terms.group = Some(GroupSpec { name, limit: None, policy: GroupPolicy::Latest });
        entry(at(1), submitted(number, spec))
    };
    let batch: Vec<Write> = (1..=JOBS).map(newcomer).collect();
    let begun = Clock::now();
    subject.commit(&batch);
    let took = begun.elapsed();
    let (_, open) = subject.load();
    let kept = open.iter().filter(|job| job.wish == Wish::Run).count();
    assert_eq!(kept as u64, groups);
    took
}

/// An array of one group costs no more than as many jobs of many groups: a newcomer does not walk those that are cancelled
/// already. Measured against each other, so that a busy machine changes both; the best of some rounds counts.
#[test]
fn an_array_of_one_group_costs_each_job_the_same() {
    for subject in [Subject::memory, Subject::sqlite] {
        let mut best = [Duration::MAX; 2];
        let held = (0..5).any(|_| {
            best[0] = best[0].min(array(subject(), JOBS / 2));
            best[1] = best[1].min(array(subject(), 1));
            best[1] < best[0] * 3
        });
        assert!(held, "{JOBS} jobs of many groups take {:?}, of one {:?}", best[0], best[1]);
    }
}

/// Cancels so many jobs that wait: each for one of `others` jobs, in turn.
fn cancel_waiting(jobs: u64, others: u64) -> Duration {
    let mut record = Record::new(Settings::default());
    let mut apply = |change| record.apply(&Entry { at: at(1), change }).unwrap();
    for number in 1..=others + jobs {
        let mut spec = spec();
        if number > others {
            spec.terms.after = vec![After { job: id(number % others + 1), on: Condition::Always }];
        }
        apply(submitted(number, spec));
    }
    for number in others + 1..=others + jobs {
        apply(Change::Wished { id: id(number), wish: Wish::Cancel { by: By::User("me".into()) } });
    }
    let all = Permit { claim: None, changes_max: usize::MAX, ..Permit::default() };
    let begun = Clock::now();
    schedule(&mut record, &all, at(1));
    let took = begun.elapsed();
    assert_eq!(record.len() as u64, others);
    took
}

/// Whether they wait for one or for many makes no difference to the record. When each end walked all that wait, one took
/// 50 times as long.
#[test]
fn ending_those_that_wait_for_one_costs_each_the_same() {
    const WAITING: u64 = 60_000;
    let mut best = [Duration::MAX; 2];
    let held = (0..5).any(|_| {
        best[0] = best[0].min(cancel_waiting(WAITING, WAITING / 4));
        best[1] = best[1].min(cancel_waiting(WAITING, 1));
        best[1] < best[0] * 3
    });
    assert!(held, "{WAITING} that wait for many take {:?}, for one {:?}", best[0], best[1]);
}
