//! The `ci-runner` binary: a thin door to the library.

use ci_runner::cli::{self, Failure, Hooks, Restored};
use ci_runner::store::{StoreError, sqlite};
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main(&Hooks {
        daemon: |_| ExitCode::FAILURE,
        run: |_, _, _| anyhow::bail!("not in this build"),
        restore,
        openapi: ci_runner::http::openapi_json,
    })
}

fn restore(backup: &Path, state_dir: &Path) -> Result<Restored, Failure> {
    match sqlite::restore(backup, state_dir) {
        Ok(report) => {
            Ok(Restored { held: report.held, lost: report.lost, finished: report.finished, replaced: report.replaced })
        }
        Err(error @ (StoreError::Held { .. } | StoreError::Full)) => Err(Failure::Temporary(error.to_string())),
        Err(error) => Err(Failure::Error(format!("{:#}", anyhow::Error::from(error)))),
    }
}
