//! A whole host in one thread, driven by a seed.
//!
//! The decisions are the real ones of `ci-runner-core`; the daemon's loop, the store, the spawner, its shims and the jobs
//! are models, each a page long, which follow the architecture page, the promises page and the spawner's protocol. A run
//! takes one action of one actor at a time, with a fault between any two, and [`check`] watches every promise. What the
//! checkers are worth is shown by [`mutant`]: each deliberate bug is caught by one of them.
//!
//! Nothing here reads a clock, draws randomness from outside, or does I/O.

pub mod campaign;
pub mod check;
mod check_claim;
mod check_end;
mod check_room;
mod clients;
mod clock;
mod commit;
pub mod coverage;
mod daemon;
pub mod document;
mod fault;
mod host;
mod mind;
mod misdecide;
mod mistake;
pub mod mutant;
mod places;
pub mod rng;
mod spawner;
mod store;
pub mod trace;
mod wire;
pub mod world;
