//! Promise 1 and 2 under fire: the daemon is killed at random moments while eight clients submit. What was acknowledged
//! runs exactly once; what was not runs at most once. Two controls break one promise each and must be caught: answers leave
//! before the commit (jobs are lost), and attempts are forgotten before their end is on disk (jobs run twice).
//!
//! `CI_RUNNER_TEST_CYCLES` says how often a serving daemon is killed with SIGKILL.

use crate::support::load::{Load, Verdict, judge};
use crate::support::{Host, PATIENCE, Random, count_of, kill, wait_for};
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

/// What was done to daemons.
#[derive(Debug, Default)]
struct Deaths {
    /// Killed with SIGKILL while it served.
    kills: usize,
    /// Those of them that had acknowledged something since they were ready.
    busy: usize,
    /// Killed with SIGKILL while it started, beside the others.
    in_start: usize,
    /// Told to end, beside the others.
    stops: usize,
}

/// SIGKILL, and nothing else, ends the daemon.
fn kill_serving(host: &mut Host) {
    host.signal("KILL");
    let status = host.wait_exit(PATIENCE);
    assert_eq!(status.signal(), Some(9), "it was dead already:\n{}", host.daemon_log());
}

/// Kills a serving daemon so often, and does other things to it in between.
fn kill_again_and_again(host: &mut Host, load: &Load, random: &mut Random, wanted: usize) -> Deaths {
    let mut deaths = Deaths::default();
    while deaths.kills < wanted {
        let before = load.acknowledged();
        if deaths.kills % 2 == 0 {
            // On a busy machine most random moments come before the first answer.
            wait_for("an answer", || (load.acknowledged() > before).then_some(()));
            std::thread::sleep(random.pause(50));
        } else {
            std::thread::sleep(random.pause(200));
        }
        if random.below(5) == 0 {
            // Told to end, in the midst of it all.
            host.stop();
            deaths.stops += 1;
        } else {
            kill_serving(host);
            deaths.kills += 1;
            deaths.busy += usize::from(load.acknowledged() > before);
        }
        if let Some(spawner) = host.spawner().filter(|_| random.below(5) == 0) {
            kill(spawner, "KILL");
        }
        if random.below(4) == 0 {
            // Killed again while it starts.
            host.spawn();
            std::thread::sleep(random.pause(60));
            kill_serving(host);
            deaths.in_start += 1;
        }
        host.start();
    }
    deaths
}

#[test]
fn every_acknowledged_job_runs_exactly_once_whenever_the_daemon_is_killed() {
    let wanted = count_of("CI_RUNNER_TEST_CYCLES", 200);
    let mut random = Random::announced();
    let mut host = Host::started();
    let load = Load::start(&host, &mut random, true, 3);
    let deaths = kill_again_and_again(&mut host, &load, &mut random, wanted);
    let account = load.end();
    host.finish_all(Duration::from_secs(180));
    let verdict = judge(&account, &host.path("ran"));
    let (told, cut_off) = (account.acknowledged.len(), account.unknown.len() + account.repeated);
    println!("{deaths:?}: {told} acknowledged, {cut_off} answers cut off, {} ran", verdict.ran);
    assert!(account.surprises.is_empty(), "{:?}", account.surprises);
    assert!(verdict.lost.is_empty(), "acknowledged and lost: {:?}", verdict.lost);
    assert!(verdict.twice.is_empty(), "ran twice: {:?}", verdict.twice);
    assert!(verdict.misnamed.is_empty(), "{:?}", verdict.misnamed);
    // Otherwise they died at moments that prove little.
    assert!(deaths.busy * 2 >= wanted, "too few kills under load: {deaths:?}");
    assert!(told > wanted && cut_off > wanted, "too little load to prove anything");
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

/// Cycles after which a broken promise must have been seen.
const CONTROL_CYCLES_MAX: usize = 60;

/// Lets a daemon that breaks a promise die, again and again, until [`judge`] finds what it must. `death`: gets the daemon and how
/// often that was, waits for its death, and gives what was acknowledged beside the load.
fn caught(
    fault: &str,
    mut death: impl FnMut(&mut Host, usize) -> Option<(String, u64)>,
    is_broken: impl Fn(&Verdict) -> bool,
) -> Verdict {
    let mut random = Random::announced();
    let mut host = Host::new();
    for cycle in 1..=CONTROL_CYCLES_MAX {
        host.env = vec![("CI_RUNNER_FAIL".to_owned(), fault.to_owned())];
        host.start();
        let load = Load::start(&host, &mut random, false, 3);
        let probe = death(&mut host, cycle);
        let mut account = load.end();
        account.acknowledged.extend(probe);
        host.env.clear();
        host.start();
        host.finish_all(Duration::from_secs(60));
        let verdict = judge(&account, &host.path("ran"));
        host.stop();
        if is_broken(&verdict) {
            println!("caught in cycle {cycle}: {verdict:?}");
            return verdict;
        }
    }
    panic!("{fault} was never caught: the test above proves nothing");
}

#[test]
fn the_control_that_acknowledges_before_the_commit_is_caught_losing_jobs() {
    let mut random = Random::announced();
    let death = |host: &mut Host, cycle: usize| {
        std::thread::sleep(random.pause(60));
        // The moment that a promise is for: right after an answer.
        let token = format!("probe{cycle}");
        let script = format!("echo {token} $CI_RUNNER_JOB_ID 1 >>{}", host.path("ran").display());
        let id = host.add(&host.shell(&script));
        kill_serving(host);
        Some((token, id))
    };
    caught("daemon-acknowledges-early", death, |verdict| !verdict.lost.is_empty());
}

#[test]
fn the_control_that_forgets_before_the_commit_is_caught_running_jobs_twice() {
    let death = |host: &mut Host, _: usize| {
        let status = host.wait_exit(PATIENCE);
        assert_eq!(status.signal(), Some(9), "{}", host.daemon_log());
        None
    };
    let verdict = caught("daemon-forgets-early:3", death, |verdict| !verdict.twice.is_empty());
    assert_eq!(verdict.lost, Vec::<String>::new(), "nothing else is broken");
}
