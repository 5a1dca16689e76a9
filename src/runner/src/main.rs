//! The `ci-runner` binary: a thin door to the library.

use ci_runner::cli::{self, Hooks};
use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main(&Hooks {
        daemon: |_| ExitCode::FAILURE,
        run: |_, _, _| anyhow::bail!("not in this build"),
        restore: |_, _| Err(cli::Failure::Error("not in this build".to_owned())),
        openapi: || "{}".to_owned(),
    })
}
