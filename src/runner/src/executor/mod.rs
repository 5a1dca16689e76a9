//! Ways to run an attempt. An executor carries words between the loop and whatever holds the processes; it decides nothing.

mod connect;
pub mod native;
mod options;
mod pulse;
mod reply;
