//! What a job gets and how its end is told.

mod common;

use ci_runner_spawner::protocol::ExitResult;
use common::{Cgroup, Host};

#[test]
fn exit_codes_and_signals_are_told() {
    for cgroup in [Cgroup::Auto, Cgroup::Off] {
        let mut host = Host::started(cgroup);
        for (job, code) in [0, 1, 3, 127, 255].into_iter().enumerate() {
            let script = host.script(&format!("exit {code}"));
            assert_eq!(host.run(job as u64 + 1, &script), ExitResult::Exited { code });
        }
        for (job, signal) in [1, 6, 9, 13, 15].into_iter().enumerate() {
            let script = host.script(&format!("kill -{signal} $$"));
            assert_eq!(host.run(job as u64 + 11, &script), ExitResult::Signaled { signal });
        }
        host.assert_nothing_left();
    }
}
