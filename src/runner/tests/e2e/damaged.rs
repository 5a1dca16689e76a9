//! A store that is damaged, or from a newer version: never an empty queue instead.

use crate::support::{Host, wait_for};
use serde_json::json;
use std::fs;
use std::path::Path;

/// A specification that cannot be read used to look like a failed commit, for ever, and refused what others submitted.
#[test]
fn a_damaged_row_costs_its_own_job_only() {
    let mut host = Host::started();
    let damaged = host.add(&host.shell_with("true", json!({"hold": true, "retry": 0})));
    host.stop();
    let database = rusqlite::Connection::open(host.state.join("queue.db")).unwrap();
    database
        .execute(
            "UPDATE job SET work = replace(work, 'true', 'false') WHERE id = ?1",
            [i64::try_from(damaged).unwrap()],
        )
        .unwrap();
    drop(database);
    host.start();
    host.post(&format!("/api/v1/jobs/{damaged}/release"), &json!({}));
    let beside: Vec<u64> = (0..3).map(|_| host.add(&host.shell("true"))).collect();
    for id in beside {
        assert_eq!(host.finish(id)["outcome"], "succeeded");
    }
    let words = wait_for("the end of the damaged job", || {
        host.daemon_log().lines().find(|line| line.contains("specification cannot be read")).map(str::to_owned)
    });
    assert!(words.contains(&format!("job {damaged} failed")), "{words}");
}

fn database(state: &Path) -> std::path::PathBuf {
    state.join("queue.db")
}

#[test]
fn a_damaged_or_newer_database_is_refused_and_never_replaced() {
    let mut host = Host::started();
    host.post("/api/v1/pause", &json!({ "reason": "test" }));
    let ids: Vec<u64> = (0..20).map(|_| host.add(&host.shell("true"))).collect();
    host.stop();
    let file = database(&host.state);
    let sound = fs::read(&file).unwrap();

    let newer = rusqlite::Connection::open(&file).unwrap();
    newer.pragma_update(None, "user_version", 999).unwrap();
    drop(newer);
    let (status, text) = host.refused();
    assert!(!status.success() && text.contains("999"), "{status}: {text}");

    let mut damaged = sound.clone();
    for (at, byte) in damaged.iter_mut().enumerate().take(8192) {
        *byte = (at * 7) as u8;
    }
    fs::write(&file, &damaged).unwrap();
    let (status, text) = host.refused();
    assert!(!status.success() && !text.is_empty(), "{status}: {text}");
    assert!(text.contains(file.to_str().unwrap()), "the damaged file is not named: {text}");
    assert_eq!(fs::read(&file).unwrap(), damaged, "the damaged file was touched");

    fs::write(&file, &sound).unwrap();
    host.start();
    assert_eq!(host.get("/api/v1/status")["jobs"]["queued"], ids.len());
}

/// It went on acknowledging jobs into a file without a name, and nothing said so.
#[test]
fn a_database_that_was_removed_under_the_daemon_takes_no_jobs_until_it_is_back() {
    for name in ["queue.db", "queue.db-wal", ""] {
        let mut host = Host::started();
        let before = host.add(&host.shell_with("true", json!({ "hold": true })));
        let (gone, aside) = (host.state.join(name), host.path("aside"));
        fs::rename(&gone, &aside).unwrap();
        if name.is_empty() {
            fs::create_dir(&host.state).unwrap();
        }
        let refused = host.run_cli(&["add", "--", "true"]);
        let said = String::from_utf8_lossy(&refused.stderr);
        assert_eq!((refused.status.code(), refused.stdout.len()), (Some(1), 0), "{name:?}: {refused:?}");
        assert!(said.contains("was removed or replaced"), "{name:?}: {said}");
        wait_for("a degraded state", || (host.get("/api/v1/status")["state"] == "degraded").then_some(()));
        let doctor = host.run_cli(&["doctor"]);
        assert!(String::from_utf8_lossy(&doctor.stdout).contains("was removed or replaced"), "{name:?}: {doctor:?}");
        // The control: put back, it is what it was, without a restart.
        if name.is_empty() {
            fs::remove_dir(&host.state).unwrap();
        }
        fs::rename(&aside, &gone).unwrap();
        let after = wait_for("a submission that is taken", || {
            let answer = host.call("POST", "/api/v1/jobs", Some(&host.shell("true")));
            (answer.status == 201).then(|| answer.json()["id"].as_u64().unwrap())
        });
        assert_eq!((host.finish(after)["outcome"].as_str(), after > before), (Some("succeeded"), true));
        host.stop();
        host.start();
        assert_eq!(host.state_of(before), "queued");
        host.stop();
    }
}

/// The message said that something cannot be read, of two million rows.
#[test]
fn a_row_that_cannot_be_loaded_is_named() {
    for (change, part) in [
        ("UPDATE job SET retry = '3/5000/fixed/exit,foo' WHERE id = 2", "retry policy"),
        ("UPDATE open SET wish = 9 WHERE id = 2", "wish 9"),
        ("UPDATE job SET labels = 'a!b' WHERE id = 2", "label"),
        ("UPDATE job SET priority = 32768 WHERE id = 2", "never written"),
    ] {
        let mut host = Host::started();
        for _ in 0..3 {
            host.add(&host.shell_with("true", json!({"hold": true, "retry": 0})));
        }
        host.stop();
        let database = rusqlite::Connection::open(host.state.join("queue.db")).unwrap();
        assert_eq!(database.execute(change, []).unwrap(), 1, "{change}");
        drop(database);
        let (status, said) = host.refused();
        assert!(!status.success() && said.contains("job 2") && said.contains(part), "{change}: {said}");
    }
}
