//! Spawner and shims that are killed and stopped at random under load: what ran is accounted for, nothing runs twice, nothing is
//! stuck. The control has a spawner that overlooks that attempts began.

use crate::support::load::{Account, Load, executed_twice, executions};
use crate::support::{Host, Random, count_of, kill, state, wait_for};
use std::fs;
use std::time::{Duration, Instant};

/// How often something was done to a process of ours.
#[derive(Debug, Default)]
struct Victims {
    spawners_killed: usize,
    spawners_stopped: usize,
    shims_killed: usize,
    shims_stopped: usize,
}

/// Does something to a process of ours, if there is one.
fn hurt(host: &Host, random: &mut Random, victims: &mut Victims) {
    match random.below(4) {
        0 => {
            if let Some(spawner) = host.spawner() {
                kill(spawner, "KILL");
                victims.spawners_killed += 1;
            }
        }
        1 => {
            if let Some(spawner) = host.spawner() {
                kill(spawner, "STOP");
                std::thread::sleep(random.pause(300));
                kill(spawner, "CONT");
                victims.spawners_stopped += 1;
            }
        }
        kind => {
            let Some(shim) = any_shim(host, random) else { return };
            let (signal, count) = match kind {
                2 => ("KILL", &mut victims.shims_killed),
                _ => ("STOP", &mut victims.shims_stopped),
            };
            kill(shim, signal);
            *count += 1;
            std::thread::sleep(random.pause(100));
            kill(shim, "CONT");
        }
    }
}

/// A shim that lives, or lived a moment ago.
fn any_shim(host: &Host, random: &mut Random) -> Option<i32> {
    let shims = host.shims();
    let (_, shim) = shims.get(random.below(shims.len().max(1) as u64) as usize).copied()?;
    // The file may be old and the id somebody else's by now.
    let words = fs::read(format!("/proc/{shim}/cmdline")).unwrap_or_default();
    crate::support::contains(&words, host.runtime().to_str().unwrap()).then_some(shim)
}

/// Stops a shim and leaves it so; false when it was gone before.
fn stop_for_good(host: &Host, random: &mut Random) -> bool {
    let Some(shim) = any_shim(host, random) else { return false };
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

/// So many that attempts are lost by them, whatever the moments are.
const SHIMS_KILLED_MIN: usize = 12;
/// A quarter of all rounds kills a shim.
const ROUNDS_MORE_MAX: usize = 400;

#[test]
fn spawner_and_shims_may_be_killed_or_stopped_at_random() {
    let rounds = count_of("CI_RUNNER_TEST_CYCLES", 40);
    let mut random = Random::announced();
    let host = Host::started();
    let load = Load::lingering(&host, &mut random);
    let (mut left_stopped, mut victims, mut round) = (0, Victims::default(), 0);
    while round < rounds || victims.shims_killed < SHIMS_KILLED_MIN {
        assert!(round < rounds + ROUNDS_MORE_MAX, "shims are not to be found: {victims:?}");
        std::thread::sleep(random.pause(120));
        hurt(&host, &mut random, &mut victims);
        if round % 8 == 7 {
            wait_for("a shim to stop", || stop_for_good(&host, &mut random).then_some(()));
            left_stopped += 1;
        }
        round += 1;
    }
    let account = load.end();
    host.finish_all(Duration::from_secs(120));
    assert!(account.surprises.is_empty(), "{:?}", account.surprises);
    assert!(account.unknown.is_empty(), "the daemon lives, so every answer comes: {:?}", account.unknown);
    let (wrong, jobs, lost) = findings(&host, &account);
    assert_eq!(wrong, Vec::<String>::new());
    println!("{victims:?}, {left_stopped} shims left stopped, {jobs} jobs, {lost} attempts lost");
    assert!(victims.spawners_killed > 0 && victims.spawners_stopped > 0 && victims.shims_stopped > 0, "{victims:?}");
    assert!(left_stopped > 0, "{victims:?}");
    // Otherwise nobody of note was hurt: jobs come by all the time, and most shims that are killed take an attempt with them.
    assert!(jobs > round, "{jobs} jobs in {round} rounds");
    assert!(lost * 4 >= victims.shims_killed, "{lost} attempts lost: {victims:?}");
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
        hurt(&host, &mut random, &mut Victims::default());
    }
    let account = load.end();
    host.finish_all(Duration::from_secs(120));
    let (wrong, ..) = findings(&host, &account);
    assert!(wrong.iter().any(|what| what.starts_with("executed twice")), "{wrong:?}");
    host.assert_clean();
}
