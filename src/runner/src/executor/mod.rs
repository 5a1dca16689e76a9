//! Ways to run an attempt. An executor carries words between the loop and whatever holds the processes; it decides nothing.

pub mod native;
