//! What a machine cannot do is skipped by name and counted, never silently. Every test program that may have to skip something
//! includes this file, and says it here; `scripts/test` lists and counts these lines. `src/sim/tests/skips.rs` sees to it that
//! no test says it in another way.

use std::io::Write as _;

/// Says that `what`, a test or a part of one, was not run, and why.
///
/// `println!` and `eprintln!` of a test that passes are captured, and nobody would see them: this goes past that. In one piece,
/// and on a line of its own, for libtest writes the names of other tests to the same terminal meanwhile.
pub fn tell(what: &str, why: &str) {
    let line = format!("\nSKIPPED {what} ({why})\n");
    // A standard error that is closed has nobody to tell.
    let _ = std::io::stderr().write_all(line.as_bytes());
}
