//! The unmutated system keeps every promise, and every deliberate bug is caught.

use ci_runner_sim::campaign::{campaign, describe, run_seed};
use ci_runner_sim::coverage::Coverage;
use ci_runner_sim::mutant::Mutant;
use std::collections::BTreeSet;
use std::path::Path;

/// Seeds of the quick suite; `CI_RUNNER_SIM_SEEDS` asks for more.
const SEEDS: u64 = 6_000;
/// A mutant that so many seeds do not catch is not caught.
const MUTANT_SEEDS: u64 = 8_000;

fn seeds() -> (u64, u64) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    (number("CI_RUNNER_SIM_FIRST").unwrap_or(1), number("CI_RUNNER_SIM_SEEDS").unwrap_or(SEEDS))
}

#[test]
fn every_seed_keeps_every_promise() {
    let (first, count) = seeds();
    let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get() as u64);
    let share = count.div_ceil(threads);
    let parts: Vec<_> =
        (0..threads).map(|part| std::thread::spawn(move || campaign(first + part * share, share, None))).collect();
    let mut coverage = Coverage::default();
    for part in parts {
        match part.join().expect("a run does not panic") {
            Ok(visited) => coverage.add(&visited),
            Err(seed) => panic!("{}", describe(seed, None)),
        }
    }
    for (what, times) in &coverage.0 {
        println!("{times:>9} {what}");
    }
    // A look at a few seeds need not visit everything.
    assert!(count < SEEDS || coverage.missing().is_empty(), "never visited: {:?}", coverage.missing());
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in 1..60 {
        assert_eq!(run_seed(seed, None).hash, run_seed(seed, None).hash, "seed {seed}");
    }
    assert_ne!(run_seed(1, None).hash, run_seed(2, None).hash);
}

/// Which promise each deliberate bug breaks. It may break others first in some seeds; here the one that names it must fall.
const CAUGHT_BY: &[(Mutant, &str)] = &[
    (Mutant::ActBeforeCommit, "no_process_without_a_committed_claim"),
    (Mutant::AckBeforeCommit, "no_acknowledged_job_is_lost"),
    (Mutant::ForgetBeforeCommit, "a_known_result_is_never_recorded_as_lost"),
    (Mutant::TellBeforeCommit, "only_what_is_on_disk_is_told"),
    (Mutant::KeepRecordAfterRefusal, "no_process_without_a_committed_claim"),
    (Mutant::SkipGenerationCheck, "no_process_without_a_committed_claim"),
    (Mutant::IgnoreBegan, "an_attempt_is_executed_at_most_once"),
    (Mutant::IgnoreStartLock, "an_attempt_is_executed_at_most_once"),
    (Mutant::IgnoreEpoch, "only_what_was_struck_is_lost"),
    (Mutant::SkipVoid, "void_before_giving_back"),
    (Mutant::ReleaseRefused, "void_before_giving_back"),
    (Mutant::KeepCallingItRunning, "who_is_started_does_not_run_yet"),
    (Mutant::ForgetVoid, "void_before_giving_back"),
    (Mutant::LostWhileAlive, "nothing_lives_on"),
    (Mutant::IgnoreLeftovers, "nothing_lives_on"),
    (Mutant::SuccessWithoutRecord, "no_success_without_an_attempt_that_exited_0"),
    (Mutant::AcceptStaleEnd, "a_result_has_a_witness"),
    (Mutant::GroupFreeWhileStarting, "a_group_never_exceeds_its_limit"),
    (Mutant::SlotFreeWhileStopping, "slots_hold"),
    (Mutant::SlotsOffByOne, "slots_hold"),
    (Mutant::RetriesOffByOne, "attempts_within_allowed"),
    (Mutant::RetryStopped, "a_stopped_job_is_not_retried"),
    (Mutant::DependencyReleasedOnClaim, "a_dependency_is_fulfilled_before_its_job_starts"),
    (Mutant::LatestDropsNewest, "latest_keeps_the_newest"),
    (Mutant::YoungestFirst, "nobody_is_overtaken"),
    (Mutant::IgnoreLabels, "labels_match"),
    (Mutant::IgnoreHold, "a_held_or_cancelled_job_is_not_claimed"),
    (Mutant::IgnorePauseForClaims, "pause_holds"),
    (Mutant::DropWakeUps, "after_faults_stop_every_job_finishes"),
    (Mutant::SkipList, "after_faults_stop_every_job_finishes"),
    (Mutant::TrustOldList, "nothing_lives_on"),
    (Mutant::ForgetKeys, "a_repeated_request_makes_one_job"),
    (Mutant::NeverKill, "after_faults_stop_every_job_finishes"),
    (Mutant::PromiseTwice, "what_is_promised_can_be_had"),
    (Mutant::LetOthersPass, "who_waited_long_enough_goes_next"),
    (Mutant::StartedTwice, "only_legal_transitions"),
    (Mutant::CancelEnded, "a_finished_job_never_changes"),
    (Mutant::ForgetLastId, "ids_are_given_once"),
    (Mutant::GiveUpEarly, "a_retry_that_is_due_is_made"),
    (Mutant::ExpireEarly, "only_expired_jobs_expire"),
    (Mutant::DropHeld, "only_cancelled_jobs_are_cancelled"),
    (Mutant::IgnoreTime, "nothing_starts_before_its_time"),
    (Mutant::KillUnknown, "an_unknown_attempt_is_only_reported"),
    (Mutant::IgnoreGap, "every_end_is_told"),
    (Mutant::LeaveUnanswered, "every_request_is_answered"),
    (Mutant::RefuseSameGeneration, "a_new_daemon_is_heard"),
    (Mutant::ForgetPriority, "the_record_is_what_the_store_says"),
    (Mutant::KeepOldSettings, "explain_tells_the_truth"),
    (Mutant::ForgetExpiries, "every_expiry_wakes"),
    (Mutant::DecideByOldTime, "the_daemon_does_not_spin"),
    (Mutant::LatestStopsRunning, "who_is_stopped_was_asked_to_end"),
    (Mutant::ForgetWhoStopped, "an_outcome_says_what_happened"),
    (Mutant::ForgetTheNewer, "an_outcome_says_what_happened"),
    (Mutant::ForgetTheDeadline, "an_outcome_says_what_happened"),
    (Mutant::RetryAtOnce, "a_retry_waits_as_long_as_it_must"),
    (Mutant::DoubleTooOften, "a_retry_waits_as_long_as_it_must"),
    (Mutant::DoubleForEver, "a_retry_waits_as_long_as_it_must"),
    (Mutant::CancelASuccess, "an_outcome_says_what_happened"),
    (Mutant::ForgetShut, "a_slot_that_is_shut_is_left_alone"),
    (Mutant::ForgetLoose, "a_limit_is_enforced_or_nothing_starts"),
    (Mutant::ForgetPlaces, "a_slot_that_is_shut_is_left_alone"),
    (Mutant::ForgetDown, "nothing_is_claimed_without_an_executor"),
];

#[test]
fn every_mutant_is_caught() {
    let named = |mutant: &Mutant| CAUGHT_BY.iter().any(|(one, _)| one == mutant);
    let mut missed: Vec<Mutant> = Mutant::ALL.iter().copied().filter(|mutant| !named(mutant)).collect();
    for (mutant, invariant) in CAUGHT_BY {
        let seed = (1..=MUTANT_SEEDS).find(|seed| {
            let found = run_seed(*seed, Some(*mutant)).violation;
            found.is_some_and(|found| found.invariant == *invariant)
        });
        match seed {
            Some(seed) => println!("{mutant:?}: seed {seed}, {invariant}"),
            None => missed.push(*mutant),
        }
    }
    assert!(missed.is_empty(), "not caught: {missed:?}");
}

/// A checker that no bug has tried may be one that sees nothing.
#[test]
fn every_checker_has_a_mutant() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut checkers = BTreeSet::new();
    for entry in std::fs::read_dir(sources).expect("sources can be read").flatten() {
        let text = std::fs::read_to_string(entry.path()).expect("a source can be read");
        // Names of promises are the only texts of words that are joined like this.
        let is_name = |text: &&str| {
            text.contains('_') && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        };
        checkers.extend(text.split('"').filter(is_name).map(str::to_owned));
    }
    assert!(checkers.contains("nobody_is_overtaken"), "the checkers were not found");
    checkers.retain(|checker| !CAUGHT_BY.iter().any(|(_, invariant)| invariant == checker));
    assert!(checkers.is_empty(), "no mutant tries {checkers:?}");
}
