//! The service: one loop that owns the record, and what it needs around it.

pub mod handle;
