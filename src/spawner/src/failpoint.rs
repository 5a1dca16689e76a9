//! Named places where a process of ours can be made to die, for crash tests.
//!
//! `CI_RUNNER_FAIL=<point>[:n[,m…]]` in the spawner's environment makes the process that passes the point for the n-th time
//! (from 1, the default; also the one that passes it for the m-th time) kill itself with SIGKILL. With `CI_RUNNER_FAIL_DIR=<dir>` the passes are counted over all
//! processes, by the length of the file `<dir>/<point>`, so that each number fires exactly once although every shim is a new
//! process; without it each process counts for itself. A job never sees either word: its environment is the
//! specification's. Unarmed it costs one load and one branch.
//!
//! Programs as released have none of this ([`ENABLED`]): whoever can set a variable for a service must not be able to make it
//! break its promises.
//!
//! `CI_RUNNER_FAIL=spawner-takes-blindness-for-absence` kills nobody: it is the control of the tests in which the spawner
//! runs out of descriptors, and brings the fault back that they look for. So does `spawner-ignores-stopped-shims` for the
//! tests with stopped shims, and `spawner-overlooks-beginnings` for those in which shims are killed.

use std::io::{Seek, Write};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Whether this program has fail points: built with debug assertions, or with the feature `fail-points`. Elsewhere nothing reads
/// the variables, and their names are not in the program (`scripts/check-release`).
pub const ENABLED: bool = cfg!(any(debug_assertions, feature = "fail-points"));

/// The variables that arm processes, which a daemon hands on to the spawner that it starts.
pub const VARIABLES: &[&str] = if ENABLED { &["CI_RUNNER_FAIL", "CI_RUNNER_FAIL_DIR"] } else { &[] };

macro_rules! points {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        $($(#[$doc])* pub const $name: &str = $text;)*
        /// Every fail point's name, `spawner-…` where the spawner dies and `shim-…` where a shim dies.
        pub fn names() -> &'static [&'static str] { &[$($text),*] }
    };
}

points! {
    /// A `start` was read; nothing is done.
    SPAWNER_BEFORE_MKDIR = "spawner-before-mkdir";
    /// The attempt directory is there, the lock is not.
    SPAWNER_AFTER_MKDIR = "spawner-after-mkdir";
    /// The start lock is held by the spawner alone.
    SPAWNER_AFTER_LOCK = "spawner-after-lock";
    /// The shim was forked; `started` is not said.
    SPAWNER_AFTER_FORK = "spawner-after-fork";
    /// `signal` was handed to the shim.
    SPAWNER_AFTER_SIGNAL = "spawner-after-signal";
    /// `kill` was handed to the shim.
    SPAWNER_AFTER_KILL = "spawner-after-kill";
    /// `void` took the lock; nothing is written.
    SPAWNER_BEFORE_VOID = "spawner-before-void";
    /// `void` is written; `voided` is not said.
    SPAWNER_AFTER_VOID = "spawner-after-void";
    /// A shim has ended; nothing is said.
    SPAWNER_BEFORE_ENDED = "spawner-before-ended";
    /// `ended` was sent.
    SPAWNER_AFTER_ENDED = "spawner-after-ended";
    /// The spawner, kind `systemd`: PID 1 answered the call that starts the unit; nothing is done about it.
    UNIT_AFTER_CALL = "unit-after-call";
    /// The spawner, kind `systemd`: PID 1 told how a job ended; nothing is written.
    UNIT_BEFORE_VERDICT = "unit-before-verdict";
    /// The spawner, kind `systemd`: the end is written for shims and successors; the shim does not know of it.
    UNIT_AFTER_VERDICT = "unit-after-verdict";
    /// The spawner, kind `systemd`: the exit record is there; the unit is not released.
    UNIT_BEFORE_RELEASE = "unit-before-release";
    /// A `forget` was read; nothing is removed.
    SPAWNER_BEFORE_FORGET = "spawner-before-forget";
    /// Half of the attempt directory is removed.
    SPAWNER_AMID_FORGET = "spawner-amid-forget";
    /// The attempt directory is removed.
    SPAWNER_AFTER_FORGET = "spawner-after-forget";
    /// The shim lives and holds the lock, but has not written who it is.
    SHIM_BEFORE_IDENTITY = "shim-before-identity";
    /// Everything is prepared; `began` is not written.
    SHIM_BEFORE_BEGAN = "shim-before-began";
    /// `began` is written; the job does not run.
    SHIM_AFTER_BEGAN = "shim-after-began";
    /// The job runs.
    SHIM_AFTER_EXEC = "shim-after-exec";
    /// The job's main process has ended; leftovers may live.
    SHIM_AFTER_MAIN_END = "shim-after-main-end";
    /// Nothing of the job is left; the record is not written.
    SHIM_BEFORE_EXIT_RECORD = "shim-before-exit-record";
    /// The record is written aside, not renamed.
    SHIM_AFTER_EXIT_TMP = "shim-after-exit-tmp";
    /// The record is in place.
    SHIM_AFTER_EXIT_RECORD = "shim-after-exit-record";
}

const TAKES_BLINDNESS_FOR_ABSENCE: &str = "spawner-takes-blindness-for-absence";
const IGNORES_STOPPED_SHIMS: &str = "spawner-ignores-stopped-shims";
const OVERLOOKS_BEGINNINGS: &str = "spawner-overlooks-beginnings";
/// Switches that kill nobody.
const CONTROLS: [&str; 3] = [TAKES_BLINDNESS_FOR_ABSENCE, IGNORES_STOPPED_SHIMS, OVERLOOKS_BEGINNINGS];

struct Plan {
    point: String,
    deadly: Vec<u64>,
    counter_file: Option<PathBuf>,
    passes: AtomicU64,
}

static PLAN: OnceLock<Option<Plan>> = OnceLock::new();

/// Reads the plan from the environment; called once, before the first fork. A name that is no point is an error in words.
pub(crate) fn arm_from_environment() -> Result<(), String> {
    if !ENABLED {
        return Ok(());
    }
    let plan = match std::env::var("CI_RUNNER_FAIL") {
        // The daemon that starts a spawner is armed by the same variable, with points of its own.
        Ok(text) if !text.is_empty() && !["daemon-", "restore-"].iter().any(|who| text.starts_with(who)) => {
            Some(parse(&text)?)
        }
        _ => None,
    };
    let _ = PLAN.set(plan);
    Ok(())
}

fn parse(text: &str) -> Result<Plan, String> {
    let (point, deadly) = text.split_once(':').unwrap_or((text, "1"));
    let number = |pass: &str| pass.parse().map_err(|_| format!("CI_RUNNER_FAIL: `{pass}` is no number"));
    let deadly = deadly.split(',').map(number).collect::<Result<_, String>>()?;
    if !names().contains(&point) && !CONTROLS.contains(&point) {
        return Err(format!("CI_RUNNER_FAIL: no fail point is named `{point}`; there are: {}", names().join(", ")));
    }
    let counter_file = std::env::var_os("CI_RUNNER_FAIL_DIR").map(|dir| PathBuf::from(dir).join(point));
    Ok(Plan { point: point.to_owned(), deadly, counter_file, passes: AtomicU64::new(0) })
}

/// True in the control of the tests of a shortage of descriptors.
pub(crate) fn takes_blindness_for_absence() -> bool {
    is_on(TAKES_BLINDNESS_FOR_ABSENCE)
}

/// True in the control of the tests with stopped shims.
pub(crate) fn ignores_stopped_shims() -> bool {
    is_on(IGNORES_STOPPED_SHIMS)
}

/// True in the control of the tests in which shims are killed: an attempt whose shim is gone counts as one that never began.
pub(crate) fn overlooks_beginnings() -> bool {
    is_on(OVERLOOKS_BEGINNINGS)
}

fn is_on(control: &str) -> bool {
    ENABLED && matches!(PLAN.get(), Some(Some(plan)) if plan.point == control)
}

/// Passes `point`: returns, or the process is dead.
#[inline]
pub(crate) fn hit(point: &'static str) {
    if !ENABLED {
        return;
    }
    if let Some(Some(plan)) = PLAN.get() {
        plan.hit(point);
    }
}

impl Plan {
    #[cold]
    fn hit(&self, point: &str) {
        if point != self.point {
            return;
        }
        let passes = match &self.counter_file {
            Some(file) => count_in(file).unwrap_or(0),
            None => self.passes.fetch_add(1, Ordering::Relaxed) + 1,
        };
        if self.deadly.contains(&passes) {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        }
    }
}

/// Appends one byte and tells how long the file then is at that byte: appends are atomic, so each pass has its own number.
fn count_in(file: &std::path::Path) -> std::io::Result<u64> {
    let mut file = std::fs::OpenOptions::new().append(true).create(true).open(file)?;
    file.write_all(b"x")?;
    file.stream_position()
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_are_unique_and_say_who_dies() {
        let names = super::names();
        for (i, name) in names.iter().enumerate() {
            assert!(["spawner-", "shim-", "unit-"].iter().any(|who| name.starts_with(who)), "{name}");
            assert!(!names[..i].contains(name), "{name} twice");
        }
    }

    #[test]
    fn a_misspelt_point_is_refused() {
        assert!(super::parse("shim-after-exce").is_err_and(|why| why.contains("shim-after-exec")));
        assert!(super::parse("shim-after-exec:x").is_err());
        assert!(super::parse("shim-after-exec:3,").is_err());
        for (text, deadly) in [("", &[1][..]), (":3", &[3]), (":3,5", &[3, 5])] {
            let plan = super::parse(&format!("shim-after-exec{text}"));
            assert!(plan.is_ok_and(|plan| plan.deadly == deadly), "{text}");
        }
    }
}
