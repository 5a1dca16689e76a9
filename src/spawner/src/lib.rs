//! The spawner and its shims: the part of ci-runner that starts jobs and stays with them.
//!
//! ```text
//! daemon ──socket──▶ spawner ──fork──▶ shim, one per attempt ──▶ job
//! ```
//!
//! The daemon can be killed and replaced at any moment, the spawner too: an attempt depends on its shim alone. Promises kept
//! here: an attempt starts at most once; its deadline holds whoever else is dead; when it is said to have ended, nothing of
//! it is left; a result that was seen is not lost.
//!
//! No threads, no async runtime. `unsafe` is confined to [`sys`], [`launch`], [`clock`] and [`peer`].

/// A line into the spawner's log, best effort.
macro_rules! say {
    ($($word:tt)*) => { $crate::sys::say(format_args!($($word)*)) };
}

mod attempts;
mod cgroup;
pub mod client;
pub mod clock;
mod cores;
mod daemons;
pub mod dirs;
pub mod failpoint;
pub mod joblog;
mod keys;
mod launch;
mod memfd;
mod notes;
pub mod peer;
mod policy_file;
mod procs;
pub mod protocol;
mod record;
mod remains;
mod same_mount;
mod server;
mod service;
mod shim;
mod sys;
mod tmpdir;
mod unit;
pub mod units;
mod wire;

/// The `ci-runner-spawner` program. The exit code: 0 a spawner listens, 1 it cannot, 3 a mistake in the command line.
pub fn main() -> std::process::ExitCode {
    cores::forbid();
    let words: Vec<std::ffi::OsString> = std::env::args_os().skip(1).collect();
    let code = match words.first().and_then(|word| word.to_str()) {
        Some(unit::HELPER_MODE) => unit::helper_main(),
        Some("--profiles") => unit::print_profiles(),
        Some("--policy") => service::main(&words),
        _ => server::main(words),
    };
    std::process::ExitCode::from(u8::try_from(code).unwrap_or(1))
}

#[cfg(test)]
#[path = "../../skipped.rs"]
mod skipped;
