//! The same as `ci-runner-spawner`, for the tests of this crate, which Cargo gives only binaries of their own package.

fn main() -> std::process::ExitCode {
    ci_runner_spawner::main()
}
