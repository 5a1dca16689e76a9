//! The `ci-runner` binary: a thin door to the library.

fn main() {}
