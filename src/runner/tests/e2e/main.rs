//! The whole, from outside: real programs, real processes, real disks. One program, so that it links once.
//!
//! Sizes are those that the promises ask for; `CI_RUNNER_TEST_*`, named by the modules, changes them.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod activation;
mod adoption;
mod cores;
mod damaged;
mod declared;
mod dirs;
mod display;
mod environment;
mod executors;
mod export;
mod exporter;
mod failpoints;
mod floods;
mod hostile;
mod hurt;
mod kill;
mod logs;
mod neverran;
mod notices;
mod notices_crashes;
mod notices_reload;
mod notices_tls;
mod restored;
mod retries;
mod rollback;
mod room;
mod run;
mod schedules;
mod scheduling;
mod selftest;
mod service;
#[path = "../../../skipped.rs"]
mod skipped;
mod starts;
mod stops;
mod support;
