//! Fail points of the daemon and of `ci-runner restore`, for crash tests: `CI_RUNNER_FAIL=<point>[:n]` makes the process kill itself
//! with SIGKILL the n-th time it passes the point. The spawner and its shims have points of their own, armed by the same variable.
//!
//! Programs as released have none of them (`ci_runner_spawner::failpoint::ENABLED`).
//!
//! `CI_RUNNER_FAIL=daemon-acknowledges-early` is a control of the durability tests: answers leave before the commit. Other controls
//! die as well, having done the second of two steps first: `daemon-forgets-early` has told the spawner to forget attempts, the only
//! witnesses, and their ends are not on disk; `daemon-moves-cursor-early` has noted that ends of jobs were looked at, and told
//! nobody; `daemon-notes-before-telling` that a notice was delivered, and did not.

use ci_runner_spawner::failpoint::ENABLED;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// A batch is ready; nothing is on disk.
pub const BEFORE_COMMIT: &str = "daemon-before-commit";
/// A batch is on disk; nothing was acted on.
pub const AFTER_COMMIT: &str = "daemon-after-commit";
/// A claim is on disk; its start is not sent.
pub const BEFORE_START: &str = "daemon-before-start";
/// A start was sent; nothing was heard.
pub const AFTER_START: &str = "daemon-after-start";
/// The spawner said that an attempt runs; nothing is recorded.
pub const ON_STARTED: &str = "daemon-on-started";
/// The spawner said that an attempt ended; nothing is recorded.
pub const ON_ENDED: &str = "daemon-on-ended";
/// An end is on disk; the attempt is not forgotten.
pub const BEFORE_FORGET: &str = "daemon-before-forget";
/// A stop is on disk; no signal was sent.
pub const BEFORE_SIGNAL: &str = "daemon-before-signal";
/// An unanswered start must be voided; nothing was sent.
pub const BEFORE_VOID: &str = "daemon-before-void";

/// Ends of jobs are to be told; nothing is noted.
pub const BEFORE_NOTICES: &str = "daemon-before-notices";
/// What is to be told is noted, and nobody was told.
pub const AFTER_NOTICES: &str = "daemon-after-notices";
/// A notice is about to be delivered.
pub const BEFORE_TELLING: &str = "daemon-before-telling";
/// A notice was delivered; that is not noted.
pub const AFTER_TELLING: &str = "daemon-after-telling";
/// A restore, or whoever finishes or undoes one, has taken a step: something on the disk is another than before.
pub const RESTORE_STEP: &str = "restore-step";

/// Control: attempts are forgotten; their ends are not on disk.
pub const FORGETS_EARLY: &str = "daemon-forgets-early";
/// Control: the cursor has moved; what it passed is not noted.
pub const MOVES_CURSOR_EARLY: &str = "daemon-moves-cursor-early";
/// Control: a notice is noted as delivered; it is not.
pub const NOTES_BEFORE_TELLING: &str = "daemon-notes-before-telling";

const ACKNOWLEDGES_EARLY: &str = "daemon-acknowledges-early";

/// All points of the loop that kill.
pub const NAMES: [&str; 9] = [
    BEFORE_COMMIT,
    AFTER_COMMIT,
    BEFORE_START,
    AFTER_START,
    ON_STARTED,
    ON_ENDED,
    BEFORE_FORGET,
    BEFORE_SIGNAL,
    BEFORE_VOID,
];

/// Points on the way of a notice, which are passed where there are notifiers.
pub const NOTICES: [&str; 4] = [BEFORE_NOTICES, AFTER_NOTICES, BEFORE_TELLING, AFTER_TELLING];

struct Plan {
    name: String,
    pass: u64,
    passes: AtomicU64,
}

fn plan() -> Option<&'static Plan> {
    static PLAN: OnceLock<Option<Plan>> = OnceLock::new();
    let read = || {
        let text = std::env::var("CI_RUNNER_FAIL").ok()?;
        let (name, pass) = text.split_once(':').unwrap_or((&text, "1"));
        (name.starts_with("daemon-") || name == RESTORE_STEP).then(|| Plan {
            name: name.to_owned(),
            pass: pass.parse().unwrap_or(1),
            passes: AtomicU64::new(0),
        })
    };
    if !ENABLED {
        return None;
    }
    PLAN.get_or_init(read).as_ref()
}

/// What the log is to say when a plan of whichever process of ours is there: it breaks promises on purpose.
pub fn warning() -> Option<String> {
    if !ENABLED {
        return None;
    }
    let plan = std::env::var("CI_RUNNER_FAIL").ok()?;
    Some(format!(
        "CI_RUNNER_FAIL={plan}: made for tests, this daemon or its spawner kills itself or breaks a promise on purpose; unset it"
    ))
}

/// Dies here if the plan says so.
pub fn point(name: &str) {
    let Some(plan) = plan() else { return };
    if plan.name == name && plan.passes.fetch_add(1, Ordering::Relaxed) + 1 == plan.pass {
        let own = rustix::process::getpid();
        let killed = rustix::process::kill_process(own, rustix::process::Signal::KILL);
        unreachable!("SIGKILL to oneself is final: {killed:?}");
    }
}

/// True in the control of the tests that nothing acknowledged is lost.
pub fn acknowledges_early() -> bool {
    is_control(ACKNOWLEDGES_EARLY)
}

/// True in the control of this name.
pub fn is_control(name: &str) -> bool {
    plan().is_some_and(|plan| plan.name == name)
}
