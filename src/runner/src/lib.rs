//! The daemon and the command line of `ci-runner`, as a library so that integration tests and the two
//! thin binaries share it. It holds adapters only: every decision is made in `ci-runner-core`.

pub mod activation;
pub mod api;
pub mod cli;
pub mod config;
pub mod cron;
pub mod daemon;
pub mod error;
pub mod executor;
pub mod exporter;
pub mod fail;
pub mod http;
pub mod install;
pub mod joblog;
pub mod metrics;
pub mod notify;
pub mod quantity;
pub mod request;
pub mod stats;
pub mod store;
pub mod style;
pub mod suggest;
pub mod systemd;
pub mod table;
pub mod telemetry;
pub mod trace;
pub mod usage;

#[cfg(test)]
#[path = "../../skipped.rs"]
mod skipped;
