//! The service: one loop that owns the record, and what it needs around it.

pub mod archiving;
pub mod clock;
pub mod ends;
pub mod engine;
mod exporting;
mod former;
pub mod gauges;
pub mod gc;
mod ground;
pub mod handle;
mod home;
pub mod job_env;
mod listeners;
pub mod local;
mod log_dir;
mod put_back;
mod refusal;
mod runtime_dir;
pub mod schedule_deeds;
pub mod secrets;
pub mod service;
pub mod settings;
mod signals;
mod spawners;
pub mod watching;
pub mod writer;

pub use log_dir::noted_log_dir;
