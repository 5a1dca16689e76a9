//! placeholder
pub mod joblog;
pub mod protocol;
