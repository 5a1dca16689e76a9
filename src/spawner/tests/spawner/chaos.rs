//! Death at random: spawner and shims killed and stopped, connections dropped, under many short jobs.

use std::collections::HashSet;

use ci_runner_spawner::protocol::{AttemptKey, ExitResult, Request};

use crate::common::{Cgroup, kill};
use crate::daemon::{Daemon, Flow, Known};

const JOBS: u64 = 40;
const DISTURBANCES: u32 = 60;

/// xorshift64 (Marsaglia, 2003).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

fn check(seed: u64, cgroup: Cgroup) {
    let context = format!("seed {seed} {cgroup:?}");
    let mut random = Random(seed);
    let mut daemon = Daemon::new(cgroup, Flow::Run, JOBS);
    daemon.pause = "sleep 0.$(( $$ % 10 ))";
    let mut victims: HashSet<AttemptKey> = HashSet::new();
    let mut left = DISTURBANCES;
    daemon.until_all_known(|daemon| {
        if left == 0 || daemon.host.client.is_none() || random.below(3) > 0 {
            return;
        }
        left -= 1;
        let key = daemon.host.key(1 + random.below(JOBS));
        let shim = daemon.shim_of(&key);
        match random.below(8) {
            0 | 1 => daemon.host.kill_spawner(),
            2 => daemon.host.client = None,
            3 | 4 => {
                if let Some(shim) = shim {
                    victims.insert(key);
                    kill(shim, "KILL");
                }
            }
            _ => {
                if let Some(shim) = shim {
                    // Stopped: only a kill ends it.
                    victims.insert(key.clone());
                    kill(shim, "STOP");
                    daemon.host.send(Request::Kill(key));
                }
            }
        }
        // A stopped shim needs its kill again from each new spawner, as a real daemon would say it.
        daemon.say_again = victims.iter().cloned().collect();
    });
    for (key, known) in &daemon.known {
        let executions = daemon.executions(key.job);
        match known {
            Known::Ended(ExitResult::Exited { code: 0 }) => assert_eq!(executions, 1, "{context}: {key}"),
            Known::Ended(ExitResult::Signaled { signal: 9 }) | Known::Lost => {
                assert!(victims.contains(key) && executions <= 1, "{context}: {key} {known:?} {executions}");
            }
            known => panic!("{context}: {key} {known:?}"),
        }
    }
    daemon.host.assert_nothing_left();
    daemon.forget_all();
}

#[test]
fn random_deaths_cost_only_their_victims() {
    for seed in [1, 0xdead_beef, 77_777_777_777] {
        check(seed, Cgroup::Auto);
    }
}

#[test]
fn random_deaths_cost_only_their_victims_without_cgroups() {
    for seed in [2, 0xcafe_f00d, 99_999_999_999] {
        check(seed, Cgroup::Off);
    }
}
