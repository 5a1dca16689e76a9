//! `add_job`: queues one job, and nothing else. A program of its own because it is called in loops and from hooks: what it does not
//! contain need not be loaded, and it starts in half the time of `ci-runner add`.

fn main() -> std::process::ExitCode {
    ci_runner::cli::add_job()
}
