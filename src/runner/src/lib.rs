//! The daemon and the command line of `ci-runner`, as a library.

pub mod store;
