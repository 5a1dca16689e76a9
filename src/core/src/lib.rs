//! Every decision of `ci-runner`, and nothing else.
//!
//! This crate may not do I/O, read a clock, draw a random number, spawn, lock, or know a serialisation format. Time and ids
//! are arguments. What happened is a [`change::Change`]; what is true now is the [`record::Record`]; and three pure functions
//! look at the record: [`schedule::schedule`] says which facts to record next, [`reconcile::reconcile`] says what this host
//! must do so that reality follows the record, and [`announce::announce`] says what must still be told.

pub mod announce;
pub mod busy;
pub mod change;
pub mod explain;
pub mod group;
pub mod id;
pub mod job;
pub mod labels;
pub mod limits;
pub mod outcome;
pub mod policy;
pub mod reconcile;
pub mod record;
pub mod retry;
pub mod schedule;
pub mod state;
pub mod time;
pub mod watch;
