//! Names of variables that are not a job's to choose.

/// Names that every job gets beside those that begin with `CI_RUNNER_`: what they hold is ours to say.
pub const RESERVED: [&str; 8] =
    ["CI", "CI_ATTEMPT", "CI_IDEMPOTENCY_KEY", "CI_JOB_ID", "CI_JOB_NAME", "CI_RUNNER", "TMPDIR", "TRACEPARENT"];
/// No job's own variable begins with this.
const RESERVED_PREFIX: &str = "CI_RUNNER_";

/// Whether a variable of this name is ours to set, whatever the job asks for.
pub fn is_reserved(name: &str) -> bool {
    RESERVED.contains(&name) || name.starts_with(RESERVED_PREFIX)
}
