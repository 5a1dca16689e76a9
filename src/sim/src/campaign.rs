//! Many runs: what each found, what all visited, and the shortest trace of a failure.

use crate::check::Violation;
use crate::coverage::Coverage;
use crate::mutant::Mutant;
use crate::world::{Plan, World};
use std::fmt::Write as _;

/// Actions in the faulty part of an ordinary run.
pub const STEPS: u32 = 260;
/// Lines of a trace that are shown: the last ones.
const LINES_MAX: usize = 160;

/// What one run came to.
#[derive(Debug)]
pub struct Run {
    /// The first broken promise.
    pub violation: Option<Violation>,
    /// Equal for equal runs.
    pub hash: u64,
    /// What was visited.
    pub coverage: Coverage,
    /// Readable lines, when they were asked for.
    pub lines: Vec<String>,
    /// Jobs that finished.
    pub jobs: usize,
}

/// Runs one plan.
pub fn run(plan: &Plan) -> Run {
    let mut world = World::new(plan);
    world.run(plan.steps);
    Run {
        violation: world.truth.violation,
        hash: world.trace.hash(),
        coverage: world.coverage,
        lines: world.trace.lines,
        jobs: world.store.ended.len(),
    }
}

/// An ordinary run of one seed.
pub fn run_seed(seed: u64, mutant: Option<Mutant>) -> Run {
    run(&Plan { seed, mutant, steps: STEPS, keep_lines: false })
}

/// The seeds from `first` on, at most `count`: the coverage of all, or the first that fails.
pub fn campaign(first: u64, count: u64, mutant: Option<Mutant>) -> Result<Coverage, u64> {
    let mut coverage = Coverage::default();
    for seed in first..first + count {
        let run = run_seed(seed, mutant);
        if run.violation.is_some() {
            return Err(seed);
        }
        coverage.add(&run.coverage);
    }
    Ok(coverage)
}

/// The failure of a seed for people: the shortest faulty part that still fails, and its trace.
pub fn describe(seed: u64, mutant: Option<Mutant>) -> String {
    let fails = |steps: u32| run(&Plan { seed, mutant, steps, keep_lines: false }).violation.is_some();
    let shortest = (1..=STEPS).find(|steps| fails(*steps)).unwrap_or(STEPS);
    let run = run(&Plan { seed, mutant, steps: shortest, keep_lines: true });
    let mut text = String::new();
    let first = run.lines.len().saturating_sub(LINES_MAX);
    for line in &run.lines[first..] {
        let _ = writeln!(text, "{line}");
    }
    let violation = run.violation.map_or_else(String::new, |found| format!("{}: {}", found.invariant, found.what));
    let _ = write!(text, "seed {seed}, {mutant:?}, {shortest} steps: {violation}");
    text
}
