//! The spawner of kind `systemd`: each attempt is a transient unit.
//!
//! ```text
//! daemon ──socket──▶ spawner ──D-Bus──▶ PID 1 ──▶ helper = job
//!                       └──fork──▶ shim ──once──▶ ┘
//! ```
//!
//! A long-lived service of root with one thread. What it may do stands in a [`policy`] that root wrote; what its daemon says
//! is an attempt's name, its limits in time and the name of a profile. The same words as the native spawner's travel over a
//! socket of its own, so that the daemon sees no difference.
//!
//! - `bus`: D-Bus without waiting. `manager`, `names`, `properties`: what PID 1 is asked and told. `judge`: what its answers
//!   mean.
//! - `profile`: sandboxes as data. `policy`: who may use which. `places`: people's trees. `seals`: what is seen of a sandbox.
//! - `server`, `requests`, `watch`, `settle`: the loop, what a daemon may ask, how attempts are taken over and end.
//! - `shim`, `pump`, `handover`, `helper`, `figures`, `verdict`: from a specification to a job, and from an end to a record.
//!
//! Promises: the specification is handed out once, by the shim that holds the attempt's lock. PID 1 is the witness of the
//! end. "Ended" is said when the unit's cgroup has no process. A unit is released only after its result is in a file.

mod attempt;
pub(crate) mod bus;
mod cgroup;
mod emptied;
mod figures;
mod handover;
mod helper;
pub(crate) mod home;
mod judge;
mod limits;
mod manager;
mod names;
mod places;
mod policy;
mod profile;
mod properties;
mod pump;
mod requests;
mod seals;
mod server;
mod settle;
mod shim;
mod verdict;
mod watch;
mod whereabouts;

use std::ffi::OsString;

use crate::notes::Notes;

/// The first word of the command line of a unit.
pub(crate) const HELPER_MODE: &str = "--unit-helper";

/// Becomes the job of this unit; the exit code when that cannot be.
pub(crate) fn helper_main() -> i32 {
    helper::main()
}

/// `--profiles`: prints what each sandbox sets, and why.
pub(crate) fn print_profiles() -> i32 {
    print!("{}", profile::table());
    0
}

/// What `kind` is in the policy of a spawner of units.
pub(crate) const KIND: &str = "systemd";

/// `--policy FILE`, of this kind: everything from the policy's text to the end; the process' exit code. Err: why not.
pub(crate) fn serve(text: &str, words: &[OsString], notes: Option<Notes>) -> Result<i32, String> {
    let policy = policy::Policy::parse(text, &crate::policy_file::Names::of_system())?;
    Ok(match server::Server::open(policy, notes) {
        Ok(mut server) => server.run(words),
        Err(why) => {
            eprintln!("ci-runner-spawner: {why}");
            1
        }
    })
}
