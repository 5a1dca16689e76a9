//! The `ci-runner` binary: joins the command line to the parts of the program that it starts.

use ci_runner::cli::{self, Failure, Hooks, Restored};
use ci_runner::daemon::{local, noted_log_dir, service};
use ci_runner::store::StoreError;
use ci_runner::store::sqlite::{self, JobFiles};
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main(&Hooks { daemon: service::run, run: local::run, restore, openapi: ci_runner::http::openapi_json })
}

fn restore(from: &Path, state_dir: &Path, log_dir: Option<&Path>) -> Result<Restored, Failure> {
    // Before anything is read there: a link or a pipe may be in the way.
    sqlite::refuse_root_in_anothers(state_dir).map_err(|error| refused(error, from))?;
    // The daemon may have been told of another log directory than who restores.
    let noted = noted_log_dir(state_dir).filter(|noted| Some(noted.as_path()) != log_dir);
    let secrets = state_dir.join("secrets");
    let logs: Vec<&Path> = [log_dir, noted.as_deref()].into_iter().flatten().collect();
    let files_of_jobs = JobFiles { logs: &logs, secrets: Some(&secrets) };
    let report = sqlite::restore(from, state_dir, files_of_jobs).map_err(|error| refused(error, from))?;
    Ok(Restored {
        held: report.held,
        paused_schedules: report.paused,
        lost: report.lost,
        finished: report.finished,
        replaced: report.replaced,
        others: report.others,
        later_secrets: report.later_secrets,
        secrets_back: report.secrets_back,
        pause: report.pause,
        files: report.files,
    })
}

fn refused(error: StoreError, from: &Path) -> Failure {
    match error {
        StoreError::Held { .. } | StoreError::Full => Failure::Temporary(format!("{:#}", anyhow::Error::new(error))),
        StoreError::Damaged { path, what } => {
            Failure::Error(format!("{path} is damaged: {what}; nothing was changed, restore another backup"))
        }
        StoreError::Anothers { path, uid } => cli::refused_to_root(&path, uid, from),
        other => Failure::Error(format!("{:#}", anyhow::Error::new(other))),
    }
}
