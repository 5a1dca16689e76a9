//! The spawner and its shims from outside: real processes, a spawner for each test, all in parallel.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod basics;
mod bounds;
mod chaos;
mod common;
mod daemon;
mod dirs;
mod failpoints;
mod fork_loop;
mod kill;
mod lifeline;
mod once;
mod processes;
mod rules;
mod service;
mod shortage;
#[path = "../../../skipped.rs"]
mod skipped;
mod stopped;
mod survive;
mod talk;
