//! Spawner and shims that are killed and stopped at random under load: what ran is accounted for, nothing runs twice, nothing is
//! stuck. The control has a spawner that overlooks that attempts began.

use crate::support::load::{Account, Load, executed_twice, executions};
use crate::support::{Host, Random, count_of, kill, state, wait_for};
use std::fs;
use std::time::{Duration, Instant};

/// What is done to a process of ours.
fn hurt(host: &Host, random: &mut Random) {
    match random.below(4) {
        0 => {
            if let Some(spawner) = host.spawner() {
                kill(spawner, "KILL");
            }
        }
        1 => {
            if let Some(spawner) = host.spawner() {
                kill(spawner, "STOP");
                std::thread::sleep(random.pause(300));
                kill(spawner, "CONT");
            }
        }
        kind => {
            let shims = host.shims();
            if !shims.is_empty() {
                let (_, shim) = shims[random.below(shims.len() as u64) as usize];
                // The file may be old and the id somebody else's by now.
                let words = fs::read(format!("/proc/{shim}/cmdline")).unwrap_or_default();
                if crate::support::contains(&words, host.runtime().to_str().unwrap()) {
                    kill(shim, if kind == 2 { "KILL" } else { "STOP" });
                    std::thread::sleep(random.pause(100));
                    kill(shim, "CONT");
                }
            }
        }
    }
}

/// Stops a shim and leaves it so; false when it was gone before.
fn stop_for_good(host: &Host, random: &mut Random) -> bool {
    let shims = host.shims();
    let Some((_, shim)) = shims.get(random.below(shims.len().max(1) as u64) as usize).copied() else { return false };
    let words = fs::read(format!("/proc/{shim}/cmdline")).unwrap_or_default();
    if !crate::support::contains(&words, host.runtime().to_str().unwrap()) {
        return false;
    }
    kill(shim, "STOP");
    wait_for("the stop or the end", || match state(shim) {
        Some('T') => Some(true),
        None | Some('Z' | 'X') => Some(false),
        Some(_) => None,
    })
}

/// What is wrong with the jobs of an account; beside it, how many there were, and how many attempts were lost.
fn findings(host: &Host, account: &Account) -> (Vec<String>, usize, usize) {
    // Beside a lost attempt one that ran twice would not show in the number of lines.
    let mut wrong: Vec<String> =
        executed_twice(&host.path("ran")).into_iter().map(|line| format!("executed twice: {line}")).collect();
    let found = executions(&host.path("ran"));
    let mut lost = 0;
    for (token, id) in &account.acknowledged {
        let job = host.job(*id);
        let attempts = job["attempts"].as_array().unwrap();
        let ended: Vec<&str> = attempts.iter().map(|attempt| attempt["result"].as_str().unwrap()).collect();
        let (last, before) = ended.split_last().unwrap();
        let known = before.iter().all(|result| ["lost", "signaled", "released"].contains(result));
        if job["outcome"] != "succeeded" || *last != "exited" || !known {
            wrong.push(format!("ended so: {job:#}"));
        }
        lost += before.iter().filter(|result| **result == "lost").count();
        let executed = found.get(token).map_or(0, Vec::len);
        if !(1..=attempts.len()).contains(&executed) {
            wrong.push(format!("executed {executed} times: {job:#}"));
        }
    }
    (wrong, account.acknowledged.len(), lost)
}

#[test]
fn spawner_and_shims_may_be_killed_or_stopped_at_random() {
    let rounds = count_of("CI_RUNNER_TEST_CYCLES", 40);
    let mut random = Random::announced();
    let host = Host::started();
    let load = Load::lingering(&host, &mut random);
    let mut left_stopped = 0;
    for round in 0..rounds {
        std::thread::sleep(random.pause(120));
        hurt(&host, &mut random);
        if round % 8 == 7 {
            wait_for("a shim to stop", || stop_for_good(&host, &mut random).then_some(()));
            left_stopped += 1;
        }
    }
    let account = load.end();
    host.finish_all(Duration::from_secs(120));
    assert!(account.surprises.is_empty(), "{:?}", account.surprises);
    assert!(account.unknown.is_empty(), "the daemon lives, so every answer comes: {:?}", account.unknown);
    let (wrong, jobs, lost) = findings(&host, &account);
    assert_eq!(wrong, Vec::<String>::new());
    println!("{rounds} times hurt, {left_stopped} shims left stopped, {jobs} jobs, {lost} attempts lost");
    host.assert_clean();
}

/// The control of the test above, judged by the same account: without the mark that an attempt began, one whose shim was killed is
/// started again under its own number, and that is found.
#[test]
fn a_spawner_that_overlooks_beginnings_is_found_out() {
    let mut random = Random::announced();
    let mut host = Host::new();
    host.env.push(("CI_RUNNER_FAIL".to_owned(), "spawner-overlooks-beginnings".to_owned()));
    host.start();
    let load = Load::lingering(&host, &mut random);
    let until = Instant::now() + Duration::from_secs(60);
    while executed_twice(&host.path("ran")).is_empty() {
        assert!(Instant::now() < until, "nothing that breaks the promise was found");
        std::thread::sleep(random.pause(120));
        hurt(&host, &mut random);
    }
    let account = load.end();
    host.finish_all(Duration::from_secs(120));
    let (wrong, ..) = findings(&host, &account);
    assert!(wrong.iter().any(|what| what.starts_with("executed twice")), "{wrong:?}");
    host.assert_clean();
}
