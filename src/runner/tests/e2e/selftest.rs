//! The jobs of `selftest` fail on purpose: they alarm nobody.

use crate::support::{Host, wait_for};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

/// They used to count for `failure_rate`, and their ends were told.
#[test]
fn jobs_of_selftest_alarm_nobody() {
    let mut host = Host::new();
    let (script, events) = (host.path("collect"), host.path("events"));
    fs::write(&script, format!("#!/bin/sh\ncat >>{0}; echo >>{0}\n", events.display())).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    host.config = format!(
        "grace = 1\n[watch]\nevery = \"1s\"\nfailure_jobs_min = 2\n[notifiers.ops]\nkind = \"command\"\ncommand = [{script:?}]\n\
         watches = [\"failure_rate\"]\noutcomes = [\"failed\"]\n"
    );
    host.start();
    let done = host.run_cli(&["selftest", "queue", "retry"]);
    assert!(done.status.success(), "{done:?}");
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(said.contains("4 of these jobs were to fail: `stats` and the metrics count them"), "{said}");
    let failed = host.all_jobs().iter().filter(|job| job["outcome"] == "failed").count();
    assert_eq!(failed, 4, "as it says; and the control: there is something to alarm somebody");
    let mine: Vec<u64> = (0..2).map(|_| host.add(&host.shell_with("exit 1", json!({ "retry": 0 })))).collect();
    mine.iter().for_each(|id| assert_eq!(host.finish(*id)["outcome"], "failed"));
    let alarm = wait_for("the alarm of the other jobs", || {
        host.get("/api/v1/watches")["active"].as_array().unwrap().first().cloned()
    });
    assert!(alarm["text"].as_str().unwrap().starts_with("100"), "only they are counted: {alarm:#}");
    let told = || -> Vec<Value> {
        let text = fs::read_to_string(&events).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    };
    wait_for("three notices", || (told().len() >= 3).then_some(()));
    let mut jobs: Vec<u64> = told().iter().filter_map(|event| event["data"]["id"].as_u64()).collect();
    jobs.sort_unstable();
    assert_eq!(jobs, mine, "{:#?}", told());
    host.stop();
    host.assert_clean();
}
