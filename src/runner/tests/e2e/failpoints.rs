//! Every step of the protocol at which the daemon, the spawner or a shim can die: it dies there, once, and afterwards
//! every acknowledged job finishes, no attempt was executed twice, nothing is stuck and nothing is left.
//!
//! `CI_RUNNER_TEST_FAILS` says how often each point is tried (5; the campaign: 20).

use crate::support::load::executed_twice;
use crate::support::{Client, Host, Random, count_of, is_alive, kill, program, wait_for};
use ci_runner::daemon::fail;
use serde_json::json;
use std::fs;
use std::process::Command;
use std::time::Duration;

/// Jobs of one round, by what becomes of them.
struct Round {
    /// Acknowledged jobs that succeed.
    succeed: Vec<u64>,
    /// Acknowledged jobs that were asked to end; how depends on the moment.
    cancelled: Vec<u64>,
}

fn repeats() -> usize {
    count_of("CI_RUNNER_TEST_FAILS", 5)
}

/// Starts a daemon that is armed, and a spawner that is if the point is its.
fn arm(host: &mut Host, point: &str, pass: u64) {
    if let Some(spawner) = host.spawner() {
        kill(spawner, "KILL");
        wait_for("the spawner's death", || (!is_alive(spawner)).then_some(()));
    }
    let counters = host.path("counters");
    let _ = fs::remove_dir_all(&counters);
    fs::create_dir(&counters).unwrap();
    host.env = vec![
        ("CI_RUNNER_FAIL".to_owned(), format!("{point}:{pass}")),
        ("CI_RUNNER_FAIL_DIR".to_owned(), counters.to_str().unwrap().to_owned()),
    ];
}

fn passes(host: &Host, point: &str) -> u64 {
    fs::metadata(host.path("counters").join(point)).map_or(0, |file| file.len())
}

/// Jobs until the daemon dies or all have been sent. Answers that do not come are unknown: nothing is promised.
fn submit(host: &Host, kind: &str) -> Round {
    let client = host.client();
    let mut round = Round { succeed: Vec::new(), cancelled: Vec::new() };
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

/// What must hold after every round.
fn judge(host: &Host, round: &Round, shim_may_die: bool) {
    for id in &round.cancelled {
        let _ = host.call("POST", &format!("/api/v1/jobs/{id}/cancel"), Some(&json!({})));
    }
    for id in &round.succeed {
        let job = host.finish(*id);
        let attempts = job["attempts"].as_array().unwrap();
        let last = attempts.last().unwrap();
        assert_eq!(job["outcome"], "succeeded", "{job:#}");
        assert_eq!((last["result"].as_str(), last["exit_code"].as_u64()), (Some("exited"), Some(0)), "{job:#}");
        let lost = attempts.iter().filter(|attempt| attempt["result"] == "lost").count();
        assert!(lost <= usize::from(shim_may_die), "{job:#}");
    }
    for id in &round.cancelled {
        assert_eq!(host.finish(*id)["outcome"], "cancelled");
    }
    host.finish_all(Duration::from_secs(30));
    let ran = fs::read_to_string(host.path("ran")).unwrap_or_default();
    let lines: Vec<&str> = ran.lines().collect();
    assert_eq!(executed_twice(&host.path("ran")), Vec::<String>::new(), "an attempt was executed twice:\n{ran}");
    for id in &round.succeed {
        let executed = lines.iter().filter(|line| line.split(' ').next() == Some(&id.to_string())).count();
        assert!(executed >= 1, "job {id} succeeded without having run:\n{ran}");
    }
    host.assert_clean();
}

fn daemon_dies_at(host: &mut Host, point: &str, pass: u64) {
    arm(host, point, pass);
    // Its very first commit, that of the clock, may come before it is ready: then it has died already.
    if host.try_start().is_err() {
        host.env.clear();
        host.start();
        judge(host, &submit(host, "run"), false);
        host.stop();
        return;
    }
    let stop = point == fail::BEFORE_SIGNAL;
    let round = submit(host, if stop { "stop" } else { "run" });
    host.wait_exit(Duration::from_secs(20));
    host.env.clear();
    host.start();
    judge(host, &round, false);
    host.stop();
}

#[test]
fn the_daemon_may_die_at_every_step() {
    let mut random = Random::announced();
    let mut host = Host::new();
    let points = fail::NAMES.into_iter().filter(|point| *point != fail::BEFORE_VOID);
    for point in points.collect::<Vec<_>>() {
        for _ in 0..repeats() {
            let pass = 1 + random.below(if point == fail::BEFORE_SIGNAL { 3 } else { 4 });
            println!("{point}:{pass}");
            daemon_dies_at(&mut host, point, pass);
        }
    }
}

/// Rounds until a point was passed as often as it takes.
const ROUNDS_MAX: usize = 5;

fn others_die_at(prefix: &str) {
    let mut random = Random::announced();
    let mut host = Host::new();
    for point in ci_runner_spawner::failpoint::names().iter().filter(|name| name.starts_with(prefix)) {
        if point.ends_with("-void") {
            continue;
        }
        for _ in 0..repeats() {
            let stop = ["spawner-after-signal", "spawner-after-kill"].contains(point);
            let pass = 1 + random.below(if stop { 2 } else { 4 });
            println!("{point}:{pass}");
            arm(&mut host, point, pass);
            host.start();
            // How often a round comes by depends on what shares a message with what.
            let died = (0..ROUNDS_MAX).any(|_| {
                let round = submit(&host, if stop { "stop" } else { "run" });
                judge(&host, &round, prefix == "shim-");
                passes(&host, point) >= pass
            });
            assert!(died, "{point} was passed {} times only", passes(&host, point));
            host.env.clear();
            host.stop();
        }
    }
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
fn dies_around_void(point: &str) {
    let mut host = Host::new();
    for _ in 0..repeats() {
        arm(&mut host, fail::BEFORE_START, 1);
        host.start();
        let round = submit(&host, "run");
        host.wait_exit(Duration::from_secs(20));
        arm(&mut host, point, 1);
        let spawner = start_spawner(&host);
        kill(spawner, "STOP");
        host.start();
        let answer = host.call("POST", "/api/v1/jobs/cancel", Some(&json!({ "all": true })));
        assert_eq!(answer.status, 200, "{}", answer.text());
        kill(spawner, "CONT");
        if point.starts_with("daemon-") {
            host.wait_exit(Duration::from_secs(20));
            host.env.clear();
            host.start();
        } else {
            wait_for("the spawner's death", || (!is_alive(spawner)).then_some(()));
        }
        host.finish_all(Duration::from_secs(30));
        for id in round.succeed {
            let job = host.finish(id);
            assert_eq!(job["outcome"], "cancelled", "{job:#}");
        }
        assert_eq!(fs::read_to_string(host.path("ran")).unwrap_or_default(), "", "a voided attempt ran");
        host.assert_clean();
        host.env.clear();
        host.stop();
    }
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
    for point in [fail::BEFORE_VOID, "spawner-before-void", "spawner-after-void"] {
        println!("{point}");
        dies_around_void(point);
    }
}

/// The control: take the witnesses of one attempt away, and the same check finds that it ran twice.
#[test]
fn without_its_witnesses_an_attempt_is_executed_twice_and_that_is_seen() {
    let mut host = Host::new();
    arm(&mut host, fail::ON_STARTED, 1);
    host.start();
    let script = format!("echo $CI_RUNNER_JOB_ID $CI_RUNNER_ATTEMPT >>{}", host.path("ran").display());
    let id = host.add(&host.shell(&script));
    host.wait_exit(Duration::from_secs(20));
    host.wait_lines("ran", 1);
    wait_for("the end of the job", || host.shims().is_empty().then_some(()));
    arm(&mut host, fail::BEFORE_COMMIT, 1_000_000);
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
