//! The unmutated system keeps every promise, and every deliberate bug is caught.

use ci_runner_sim::campaign::{campaign, describe, run_seed};
use ci_runner_sim::coverage::Coverage;
use ci_runner_sim::mutant::Mutant;

/// Seeds of the quick suite; `CI_RUNNER_SIM_SEEDS` asks for more.
const SEEDS: u64 = 3_000;
/// A mutant that so many seeds do not catch is not caught.
const MUTANT_SEEDS: u64 = 4_000;

fn seeds() -> (u64, u64) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    (number("CI_RUNNER_SIM_FIRST").unwrap_or(1), number("CI_RUNNER_SIM_SEEDS").unwrap_or(SEEDS))
}

#[test]
fn every_seed_keeps_every_promise() {
    let (first, count) = seeds();
    let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get() as u64);
    let share = count.div_ceil(threads);
    let parts: Vec<_> = (0..threads)
        .map(|part| std::thread::spawn(move || campaign(first + part * share, share, None)))
        .collect();
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
    assert!(coverage.missing().is_empty(), "never visited: {:?}", coverage.missing());
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in 1..60 {
        assert_eq!(run_seed(seed, None).hash, run_seed(seed, None).hash, "seed {seed}");
    }
    assert_ne!(run_seed(1, None).hash, run_seed(2, None).hash);
}

#[test]
fn every_mutant_is_caught() {
    let mut missed = Vec::new();
    for mutant in Mutant::ALL {
        match campaign(1, MUTANT_SEEDS, Some(mutant)) {
            Ok(_) => missed.push(mutant),
            Err(seed) => {
                let found = run_seed(seed, Some(mutant)).violation.expect("it failed just now");
                println!("{mutant:?}: seed {seed}, {}", found.invariant);
            }
        }
    }
    assert!(missed.is_empty(), "not caught: {missed:?}");
}
