//! The whole, from outside: real programs, real processes, real disks. One program, so that it links once.
//!
//! Sizes are quick ones; campaigns ask for more by the variables that the modules name (`CI_RUNNER_TEST_*`).

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod activation;
mod adoption;
mod failpoints;
mod floods;
mod hostile;
mod kill;
mod logs;
mod run;
mod scheduling;
mod service;
mod support;
