//! What becomes of a request: a job to queue, and the key under which it is queued once.

use ci_runner_core::job::JobSpec;

/// One job of a submission, already parsed and valid.
#[derive(Clone)]
pub struct NewJob {
    /// The specification.
    pub spec: JobSpec,
    /// Its own idempotency key.
    pub key: Option<IdempotencyKey>,
    /// Values of its secrets, by name.
    pub secrets: Vec<(String, String)>,
    /// Where the caller is.
    pub caller_dir: Option<String>,
}

/// A key and what it was used for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// The key as given.
    pub key: String,
    /// SHA-256 of the canonical body.
    pub body: [u8; 32],
    /// What earlier versions kept in its place, where that differs: keys of the last day are honoured over an upgrade.
    pub body_before: Option<[u8; 32]>,
}
