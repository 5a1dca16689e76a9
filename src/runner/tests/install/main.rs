//! `ci-runner install`: that it says what the NixOS module says, and what it does to files, on an image of its own.

mod image;
mod rules;
mod units;
