//! `ci-runner-spawner`: see the crate of that name.

fn main() -> std::process::ExitCode {
    ci_runner_spawner::main()
}
