//! Promise 1 and 2 under fire: the daemon is killed at random moments while eight clients submit. What was acknowledged
//! runs exactly once; what was not runs at most once. The control acknowledges before the commit and must be caught.

use crate::support::load::{Load, executions, judge};
use crate::support::{Host, Random, count_of, kill};
use std::time::Duration;

#[test]
fn every_acknowledged_job_runs_exactly_once_whenever_the_daemon_is_killed() {
    let cycles = count_of("CI_RUNNER_TEST_CYCLES", 200);
    let mut random = Random::announced();
    let mut host = Host::started();
    let load = Load::start(&host, &mut random, true, 3);
    for _ in 0..cycles {
        std::thread::sleep(random.pause(200));
        if random.below(5) == 0 {
            // Told to end, in the midst of it all.
            host.stop();
        } else {
            host.kill();
        }
        if let Some(spawner) = host.spawner().filter(|_| random.below(5) == 0) {
            kill(spawner, "KILL");
        }
        if random.below(4) == 0 {
            // Killed again while it starts.
            host.spawn();
            std::thread::sleep(random.pause(60));
            host.kill();
        }
        host.start();
    }
    let account = load.end();
    host.finish_all(Duration::from_secs(180));
    let verdict = judge(&account, &host.path("ran"));
    println!(
        "{cycles} kills: {} acknowledged ({} after a repeat), {} unknown, {} ran",
        account.acknowledged.len(),
        account.repeated,
        account.unknown.len(),
        verdict.ran
    );
    assert!(account.surprises.is_empty(), "{:?}", account.surprises);
    assert!(verdict.lost.is_empty(), "acknowledged and lost: {:?}", verdict.lost);
    assert!(verdict.twice.is_empty(), "ran twice: {:?}", verdict.twice);
    assert!(verdict.misnamed.is_empty(), "{:?}", verdict.misnamed);
    assert!(account.acknowledged.len() > cycles, "too little load to prove anything");
    for job in host.all_jobs() {
        assert_eq!((job["outcome"].as_str(), job["exit_code"].as_u64()), (Some("succeeded"), Some(0)), "{job:#}");
        if job["attempt_count"] != 1 {
            // A claim made ahead and given back burns a number; no job was tried twice.
            let job = host.job(job["id"].as_u64().unwrap());
            let tried = job["attempts"].as_array().unwrap().iter().filter(|attempt| attempt["result"] != "released");
            assert_eq!(tried.count(), 1, "{job:#}");
        }
    }
    host.assert_clean();
}

#[test]
fn the_control_that_acknowledges_before_the_commit_is_caught_losing_jobs() {
    let mut random = Random::announced();
    let mut host = Host::new();
    host.env = vec![("CI_RUNNER_FAIL".to_owned(), "daemon-acknowledges-early".to_owned())];
    for cycle in 1..=60 {
        host.start();
        let load = Load::start(&host, &mut random, false, 0);
        std::thread::sleep(random.pause(60));
        // The moment that a promise is for: right after an answer.
        let probe = format!("probe{cycle}");
        host.add(&host.shell(&format!("echo {probe} $CI_RUNNER_JOB_ID 1 >>{}", host.path("ran").display())));
        host.kill();
        let account = load.end();
        let missing = |host: &Host| {
            let found = executions(&host.path("ran"));
            account.acknowledged.keys().chain([&probe]).filter(|token| !found.contains_key(*token)).count()
        };
        host.start();
        host.finish_all(Duration::from_secs(60));
        let lost = missing(&host);
        host.kill();
        if lost > 0 {
            println!("caught in cycle {cycle}: {lost} acknowledged jobs lost");
            return;
        }
    }
    panic!("answers that left before the commit were never caught: the test above proves nothing");
}
