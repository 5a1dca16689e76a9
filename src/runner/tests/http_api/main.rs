//! The HTTP API on real sockets, with the real loop, the real store and the real spawner behind it.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod again;
mod bodies;
mod client;
mod crowd;
mod disk;
mod document;
mod events;
mod harness;
mod heads;
mod heavy;
mod host;
mod jobs;
mod limits;
mod log;
mod member;
mod readers;
mod refused;
mod rules;
mod schema;
mod search;
mod silent;
#[path = "../../../skipped.rs"]
mod skipped;
mod tcp;
