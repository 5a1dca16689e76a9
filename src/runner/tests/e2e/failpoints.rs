//! Every step of the protocol at which the daemon, the spawner or a shim can die: it dies there, and in a part of the rounds
//! whoever recovers dies there, too. Afterwards every acknowledged job finishes, no attempt was executed twice, nothing is stuck
//! and nothing is left.
//!
//! `CI_RUNNER_TEST_FAILS` says how often each point is tried (20).

use crate::support::load::executed_twice;
use crate::support::{Client, Host, PATIENCE, Random, count_of, is_alive, kill, program, wait_for};
use ci_runner::fail;
use serde_json::json;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Hosts beside each other: most of a round is waiting.
const HOSTS: usize = 4;

/// Tries every point as often as it takes, on several hosts. `round`: gets whether who recovers is to die as well.
fn at_every(points: &[&str], round: impl Fn(&mut Host, &str, &mut Random, bool) + Sync) {
    let repeats = count_of("CI_RUNNER_TEST_FAILS", 20);
    let rounds: Vec<_> = (1..=repeats).flat_map(|repeat| points.iter().map(move |point| (*point, repeat))).collect();
    let (next, seed) = (AtomicUsize::new(0), Random::announced().seed);
    std::thread::scope(|scope| {
        for _ in 0..HOSTS {
            scope.spawn(|| {
                let mut host = Host::new();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some((point, repeat)) = rounds.get(number) else { return };
                    println!("{point}, round {repeat}");
                    let mut random = Random::from_seed(seed.wrapping_add(number as u64));
                    round(&mut host, point, &mut random, repeat % AGAIN == 0);
                }
            });
        }
    });
}

/// In one of so many rounds who recovers is armed, too.
const AGAIN: usize = 4;

/// Jobs of one round, by what becomes of them.
#[derive(Default)]
struct Round {
    /// Acknowledged jobs that succeed.
    succeed: Vec<u64>,
    /// Acknowledged jobs that were asked to end; how depends on the moment.
    cancelled: Vec<u64>,
}

/// The next daemon, or the spawner that it starts, dies when it passes the point so often.
fn arm(host: &mut Host, point: &str, deadly: &[u64]) {
    if let Some(spawner) = host.spawner() {
        kill(spawner, "KILL");
        wait_for("the spawner's death", || (!is_alive(spawner)).then_some(()));
    }
    let counters = host.path("counters");
    let _ = fs::remove_dir_all(&counters);
    fs::create_dir(&counters).unwrap();
    let deadly: Vec<String> = deadly.iter().map(u64::to_string).collect();
    host.env = vec![
        ("CI_RUNNER_FAIL".to_owned(), format!("{point}:{}", deadly.join(","))),
        ("CI_RUNNER_FAIL_DIR".to_owned(), counters.to_str().unwrap().to_owned()),
    ];
}

fn passes(host: &Host, point: &str) -> u64 {
    fs::metadata(host.path("counters").join(point)).map_or(0, |file| file.len())
}

/// It died of its fail point, not of anything else.
fn killed_itself(host: &Host, status: ExitStatus) {
    assert_eq!(status.signal(), Some(9), "{}", host.daemon_log());
}

/// Jobs until the daemon dies or all have been sent. Answers that do not come are unknown: nothing is promised.
fn submit(host: &Host, kind: &str) -> Round {
    let client = host.client();
    let mut round = Round::default();
    let add = |client: &Client, script: &str| -> Option<u64> {
        let more = json!({ "retry": 3, "retry_delay": 0 });
        let answer = client.call("POST", "/api/v1/jobs", &[], Some(&host.shell_with(script, more))).ok()?;
        assert_eq!(answer.status, 201, "{}", answer.text());
        answer.json()["id"].as_u64()
    };
    let said = format!("echo $CI_RUNNER_JOB_ID $CI_RUNNER_ATTEMPT >>{}", host.path("ran").display());
    for _ in 0..4 {
        round.succeed.extend(add(&client, &said));
    }
    // Fails once, then succeeds.
    round.succeed.extend(add(&client, &format!("{said}; test $CI_RUNNER_ATTEMPT -gt 1")));
    if kind == "stop" {
        for _ in 0..3 {
            let Some(id) = add(&client, &format!("trap '' TERM; {said}; while :; do sleep 1; done")) else { break };
            round.cancelled.push(id);
        }
        for id in round.cancelled.clone() {
            // It may be dead already, or die of this; a cancel that was not acknowledged is asked for again.
            while let Ok(answer) = client.call("GET", &format!("/api/v1/jobs/{id}"), &[], None) {
                if ["running", "finished"].contains(&answer.json()["state"].as_str().unwrap()) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            let _ = client.call("POST", &format!("/api/v1/jobs/{id}/cancel"), &[], Some(&json!({})));
        }
    }
    round
}

/// A cancel that was not acknowledged is asked for again.
fn cancel_again(host: &Host, round: &Round) {
    for id in &round.cancelled {
        let _ = host.client().call("POST", &format!("/api/v1/jobs/{id}/cancel"), &[], Some(&json!({})));
    }
}

/// What must hold after every round, in which so many shims may have died.
fn judge(host: &Host, round: &Round, dead_shims: usize) {
    cancel_again(host, round);
    for id in &round.succeed {
        let job = host.finish(*id);
        let attempts = job["attempts"].as_array().unwrap();
        let last = attempts.last().unwrap();
        assert_eq!(job["outcome"], "succeeded", "{job:#}");
        assert_eq!((last["result"].as_str(), last["exit_code"].as_u64()), (Some("exited"), Some(0)), "{job:#}");
        let lost = attempts.iter().filter(|attempt| attempt["result"] == "lost").count();
        assert!(lost <= dead_shims, "{job:#}");
    }
    for id in &round.cancelled {
        assert_eq!(host.finish(*id)["outcome"], "cancelled");
    }
    host.finish_all(PATIENCE);
    let ran = fs::read_to_string(host.path("ran")).unwrap_or_default();
    let lines: Vec<&str> = ran.lines().collect();
    assert_eq!(executed_twice(&host.path("ran")), Vec::<String>::new(), "an attempt was executed twice:\n{ran}");
    for id in &round.succeed {
        let executed = lines.iter().filter(|line| line.split(' ').next() == Some(&id.to_string())).count();
        assert!(executed >= 1, "job {id} succeeded without having run:\n{ran}");
    }
    host.assert_clean();
}

/// Jobs until the daemon dies of its fail point.
fn dies(host: &mut Host, kind: &str, round: &mut Round) {
    // Its very first commit, that of the clock, may come before it is ready: then it has died already.
    let status = match host.try_start() {
        Err(status) => status,
        Ok(_) => {
            cancel_again(host, round);
            let more = submit(host, kind);
            round.succeed.extend(more.succeed);
            round.cancelled.extend(more.cancelled);
            host.wait_exit(PATIENCE)
        }
    };
    killed_itself(host, status);
}

#[test]
fn the_daemon_may_die_at_every_step() {
    let points: Vec<&str> = fail::NAMES.into_iter().filter(|point| *point != fail::BEFORE_VOID).collect();
    at_every(&points, |host, point, random, again| {
        let (kind, passes) = if point == fail::BEFORE_SIGNAL { ("stop", 3) } else { ("run", 4) };
        let mut round = Round::default();
        arm(host, point, &[1 + random.below(passes)]);
        dies(host, kind, &mut round);
        if again {
            // With what it finds it passes the point sooner or later than the one before.
            host.env[0].1 = format!("{point}:{}", 1 + random.below(2));
            dies(host, kind, &mut round);
        }
        host.env.clear();
        host.start();
        if round.succeed.is_empty() {
            round.succeed = submit(host, "run").succeed;
        }
        judge(host, &round, 0);
        host.stop();
    });
}

/// Rounds until a point was passed as often as it takes.
const ROUNDS_MAX: usize = 5;

fn others_die_at(prefix: &str) {
    let points = ci_runner_spawner::failpoint::names().iter().copied();
    let points: Vec<&str> = points.filter(|name| name.starts_with(prefix) && !name.ends_with("-void")).collect();
    at_every(&points, |host, point, random, again| {
        let stop = ["spawner-after-signal", "spawner-after-kill"].contains(&point);
        let first = 1 + random.below(if stop { 2 } else { 4 });
        let mut deadly = vec![first];
        if again {
            deadly.push(first + 1);
        }
        let last = deadly[deadly.len() - 1];
        arm(host, point, &deadly);
        host.start();
        let dead_shims = if prefix == "shim-" { deadly.len() } else { 0 };
        // How often a round comes by depends on what shares a message with what.
        let died = (0..ROUNDS_MAX).any(|_| {
            let round = submit(host, if stop { "stop" } else { "run" });
            judge(host, &round, dead_shims);
            passes(host, point) >= last
        });
        assert!(died, "{point} was passed {} times only", passes(host, point));
        host.env.clear();
        host.stop();
    });
}

#[test]
fn the_spawner_may_die_at_every_step() {
    others_die_at("spawner-");
}

#[test]
fn a_shim_may_die_at_every_step() {
    others_die_at("shim-");
}

/// `void` is sent when a job whose `start` was never answered is told to end. So: the daemon dies with claims on disk and no
/// `start` sent; the next one finds a spawner that does not answer yet, and is told to cancel; then the spawner answers.
fn dies_around_void(host: &mut Host, point: &str, again: bool) {
    arm(host, fail::BEFORE_START, &[1]);
    host.start();
    let before = host.all_jobs().len();
    // All are claimed when the first is to start; the answer may come too late.
    let said = format!("echo $CI_RUNNER_JOB_ID $CI_RUNNER_ATTEMPT >>{}", host.path("ran").display());
    let _ = host.client().call("POST", "/api/v1/jobs", &[], Some(&json!(vec![host.shell(&said); 4])));
    let status = host.wait_exit(PATIENCE);
    killed_itself(host, status);
    let daemon = point.starts_with("daemon-");
    arm(host, point, if again && !daemon { &[1, 2] } else { &[1] });
    let spawner = start_spawner(host);
    kill(spawner, "STOP");
    host.start();
    let answer = host.call("POST", "/api/v1/jobs/cancel", Some(&json!({ "all": true })));
    assert_eq!(answer.status, 200, "{}", answer.text());
    kill(spawner, "CONT");
    if daemon {
        let status = host.wait_exit(PATIENCE);
        killed_itself(host, status);
        if again {
            let status = host.try_start().map_or_else(|status| status, |_| host.wait_exit(PATIENCE));
            killed_itself(host, status);
        }
        host.env.clear();
        host.start();
    } else {
        wait_for("the spawner's death", || (!is_alive(spawner)).then_some(()));
        wait_for("the death of its successor", || (!again || passes(host, point) >= 2).then_some(()));
    }
    host.finish_all(PATIENCE);
    let jobs = host.all_jobs();
    assert_eq!(jobs.len(), before + 4);
    for job in jobs {
        assert_eq!(job["outcome"], "cancelled", "{job:#}");
    }
    assert_eq!(fs::read_to_string(host.path("ran")).unwrap_or_default(), "", "a voided attempt ran");
    host.assert_clean();
    host.env.clear();
    host.stop();
}

fn start_spawner(host: &Host) -> i32 {
    let spawner = program().with_file_name("ci-runner-spawner");
    let mut command = Command::new(spawner);
    command.arg("--runtime-dir").arg(host.runtime()).arg("--log-dir").arg(host.state.join("logs"));
    command.arg("--tmp-dir").arg(host.state.join("tmp")).args(["--linger-ms", "30000"]);
    let done = command.envs(host.env.iter().map(|(name, value)| (name, value))).output().unwrap();
    assert!(done.status.success(), "{done:?}");
    host.wait_spawner()
}

#[test]
fn everybody_may_die_around_a_void() {
    at_every(&[fail::BEFORE_VOID, "spawner-before-void", "spawner-after-void"], |host, point, _, again| {
        dies_around_void(host, point, again);
    });
}

/// The control: take the witnesses of one attempt away, and the same check finds that it ran twice.
#[test]
fn without_its_witnesses_an_attempt_is_executed_twice_and_that_is_seen() {
    let mut host = Host::new();
    arm(&mut host, fail::ON_STARTED, &[1]);
    host.start();
    let script = format!("echo $CI_RUNNER_JOB_ID $CI_RUNNER_ATTEMPT >>{}", host.path("ran").display());
    // It may die before it answers.
    let _ = host.client().call("POST", "/api/v1/jobs", &[], Some(&host.shell(&script)));
    let status = host.wait_exit(PATIENCE);
    killed_itself(&host, status);
    let lines = host.wait_lines("ran", 1);
    let id = lines[0].split(' ').next().unwrap().parse().unwrap();
    wait_for("the end of the job", || host.shims().is_empty().then_some(()));
    arm(&mut host, fail::BEFORE_COMMIT, &[1_000_000]);
    for attempt in host.attempts() {
        fs::remove_dir_all(host.runtime().join("spawner/attempts").join(attempt)).unwrap();
    }
    host.env.clear();
    host.start();
    host.finish(id);
    let lines = host.wait_lines("ran", 2);
    assert_eq!(lines[0], lines[1], "the same attempt, executed twice");
    assert_eq!(executed_twice(&host.path("ran")), lines[..1]);
}
