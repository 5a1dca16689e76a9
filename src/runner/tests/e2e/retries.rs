//! Tries and their ends: retry policies, delays and timeouts.

use crate::scheduling::{add, check_why, outcome, said};
use crate::support::{Host, wait_for};
use serde_json::json;
use std::time::{Duration, Instant};

#[test]
fn retries_follow_their_rules() {
    let host = Host::started();
    let attempts = |id: u64| {
        let job = host.finish(id);
        (job["outcome"].as_str().unwrap().to_owned(), job["attempts"].as_array().unwrap().len())
    };
    let rules = |script: &str, rules: &str| {
        let more = json!({ "retry": 2, "retry_delay": 0, "retry_on": [rules] });
        add(&host, script, if rules.is_empty() { json!({ "retry": 2, "retry_delay": 0 }) } else { more })
    };
    let cases = [
        (rules("exit 1", ""), "failed", 3),
        (rules("exit 3", ""), "failed", 1),
        (rules("exit 64", ""), "failed", 1),
        (rules("kill -9 $$", ""), "failed", 3),
        (rules("test $CI_RUNNER_ATTEMPT -eq 3", ""), "succeeded", 3),
        (rules("exit 7", "exit:5"), "failed", 1),
        (rules("exit 5", "exit:5"), "failed", 3),
        (rules("kill -9 $$", "signal:KILL"), "failed", 3),
        (rules("kill -15 $$", "signal:KILL"), "failed", 1),
    ];
    let timeout = json!({ "retry": 1, "retry_delay": 0, "timeout": 0.3, "retry_on": ["timeout"] });
    let timed = add(&host, "sleep 600", timeout);
    let untimed = add(&host, "sleep 600", json!({ "retry": 1, "retry_delay": 0, "timeout": 0.3 }));
    for (id, outcome, count) in cases {
        assert_eq!(attempts(id), (outcome.to_owned(), count), "job {id}");
    }
    assert_eq!(attempts(timed), ("timed_out".to_owned(), 2));
    assert_eq!(attempts(untimed), ("timed_out".to_owned(), 1));
    let missing = host.add(&json!({ "command": ["/no/such/program"], "retry": 2, "retry_delay": 0 }));
    let job = host.finish(missing);
    assert_eq!(
        (job["outcome"].as_str(), job["attempts"][0]["result"].as_str()),
        (Some("failed"), Some("failed_to_start"))
    );
    assert!(job["cause"].as_str().unwrap().contains("/no/such/program"), "{job:#}");
    // One start, one end, one set of times.
    let single = host.job(host.add(&host.shell("sleep 0.1")));
    let single = host.finish(single["id"].as_u64().unwrap());
    for key in ["started_at", "finished_at", "run_seconds"] {
        assert_eq!(single[key], single["attempts"][0][key], "{key}: {single:#}");
    }
    let started = cases[0].0.to_string();
    for words in [&["logs"][..], &["logs", "-f"], &["logs", "--attempt", "1"]] {
        let told = |id: &str| String::from_utf8(host.run_cli(&[words, &[id]].concat()).stderr).unwrap();
        let said = told(&missing.to_string());
        assert!(
            said.contains("wrote nothing: failed to start") && said.contains("ci-runner show"),
            "{words:?}: {said}"
        );
        assert!(!told(&started).contains("wrote nothing"), "{words:?}");
    }
    let nowhere = add(&host, "true", json!({ "dir": "/no/such/directory" }));
    assert!(host.finish(nowhere)["cause"].as_str().unwrap().contains("/no/such/directory"));
}

#[test]
fn a_delay_between_tries_is_kept_and_named() {
    let mut host = Host::started();
    let id = add(&host, &format!("{}; exit 1", said(&host)), json!({ "retry": 1, "retry_delay": 2 }));
    host.wait_lines("ran", 1);
    let begin = Instant::now();
    wait_for("the delay", || (host.why(id)[0].0 == "delayed").then_some(()));
    host.kill();
    host.start();
    check_why(&host, id, "delayed", &["retry 1"]);
    host.finish(id);
    let waited = begin.elapsed();
    assert!((Duration::from_millis(1_700)..Duration::from_secs(5)).contains(&waited), "waited {waited:?}");
}

#[test]
fn a_soft_timeout_warns_and_the_hard_one_ends() {
    let host = Host::started();
    let both = add(&host, "sleep 600", json!({ "soft_timeout": 0.3, "timeout": 1 }));
    // The control: what the hard one writes is not taken for the warning.
    let hard = add(&host, "sleep 600", json!({ "timeout": 1 }));
    for (id, warnings) in [(both, 1), (hard, 0)] {
        assert_eq!(outcome(&host, id), "timed_out");
        let log = host.log(id);
        let found = log.matches("soft timeout of 0.300 s passed; the job is stopped after 1 s").count();
        assert_eq!(found, warnings, "job {id}: {log:?}");
    }
}
