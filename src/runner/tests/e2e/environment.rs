//! What a job is told of itself: who it is, which attempt, and the key that stays the same however often it runs.

use crate::support::Host;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;

/// What the attempts of a job appended to `told`: variables by attempt, in order.
fn told(host: &Host) -> Vec<BTreeMap<String, String>> {
    let text = fs::read_to_string(host.path("told")).unwrap_or_default();
    let variables = |attempt: &str| {
        attempt
            .lines()
            .filter_map(|line| line.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    };
    text.split("end\n").filter(|attempt| !attempt.is_empty()).map(variables).collect()
}

#[test]
fn a_job_is_told_who_it_is_and_its_key_outlives_attempts_restarts_and_a_restore() {
    let mut host = Host::started();
    let script = format!("{{ env | grep ^CI; echo end; }} >>{}; exit 1", host.path("told").display());
    let retry = json!({ "retry": 2, "retry_delay": "0ms", "name": "build", "correlation": "its-story" });
    let id = host.add(&host.shell_with(&script, retry.clone()));
    host.finish(id);
    let attempts = told(&host);
    assert_eq!(attempts.len(), 3, "{attempts:#?}");
    for (attempt, variables) in (1..).zip(&attempts) {
        for (name, value) in [
            ("CI", "true".to_owned()),
            ("CI_JOB_ID", id.to_string()),
            ("CI_RUNNER_JOB_ID", id.to_string()),
            ("CI_JOB_NAME", "build".to_owned()),
            ("CI_RUNNER_JOB_NAME", "build".to_owned()),
            ("CI_ATTEMPT", attempt.to_string()),
            ("CI_RUNNER_ATTEMPT", attempt.to_string()),
            ("CI_RUNNER_POOL", "default".to_owned()),
            ("CI_RUNNER_CORRELATION_ID", "its-story".to_owned()),
        ] {
            assert_eq!(variables.get(name), Some(&value), "{name}: {variables:#?}");
        }
        assert!(variables["CI_RUNNER_DESCRIPTION"].contains("grep"), "{variables:#?}");
        assert!(!variables["CI_RUNNER"].is_empty() && !variables["CI_RUNNER_WORKSPACE"].is_empty());
        assert_eq!(variables["CI_IDEMPOTENCY_KEY"], attempts[0]["CI_IDEMPOTENCY_KEY"]);
        assert_eq!(variables["CI_RUNNER_IDEMPOTENCY_KEY"], attempts[0]["CI_IDEMPOTENCY_KEY"]);
    }

    // One that has run before its state was restored runs again: it is still the same job.
    let held = host.add(&host.shell_with(&script, json!({ "hold": true, "retry": 0 })));
    let backup = host.path("backup.db");
    assert!(host.run_cli(&["backup", backup.to_str().unwrap()]).status.success());
    host.post(&format!("/api/v1/jobs/{held}/release"), &json!({}));
    host.finish(held);
    host.stop();
    let state = host.state.to_str().unwrap().to_owned();
    assert!(host.run_cli(&["restore", "--state-dir", &state, backup.to_str().unwrap()]).status.success());
    host.start();
    host.post(&format!("/api/v1/jobs/{held}/release"), &json!({}));
    host.finish(held);
    let new = host.add(&host.shell(&script));
    host.finish(new);
    let keys: Vec<_> = told(&host)[3..].iter().map(|variables| variables["CI_IDEMPOTENCY_KEY"].clone()).collect();
    assert_eq!(keys[0], keys[1], "before and after the restore");
    let store = |key: &str| key.split_once('-').unwrap().0.to_owned();
    assert_eq!(store(&keys[0]), store(&attempts[0]["CI_IDEMPOTENCY_KEY"]), "the store gave both ids");
    assert_ne!(store(&keys[2]), store(&keys[0]), "an id that the other life may have given is not the same job");
    host.stop();
    host.assert_clean();
}
