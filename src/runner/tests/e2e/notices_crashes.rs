//! Notices over SIGKILL of the daemon, at each step of their way: told at least once, under one id. With the protection off, which
//! two controls show, they are never told.

use crate::notices::{collector, events, host, outcome, submit};
use crate::support::{Host, PATIENCE, wait_for};
use ci_runner::fail;
use serde_json::{Value, json};
use std::os::unix::process::ExitStatusExt as _;

/// How far ends of jobs were looked at, once somebody has begun to look.
fn cursor(host: &Host) -> i64 {
    wait_for("the cursor", || {
        let notices = rusqlite::Connection::open(host.state.join("notices.db")).ok()?;
        notices.query_row("SELECT cursor FROM meta", [], |row| row.get::<_, Option<i64>>(0)).ok()?
    })
}

/// A daemon dies at this point on the way of a job's notice. What was told of that job when all is done that is to be done.
fn told_over_a_death(point: &str) -> Vec<Value> {
    let mut host = host(|host| collector(host, ""));
    cursor(&host);
    host.kill();
    host.env = vec![("CI_RUNNER_FAIL".to_owned(), point.to_owned())];
    host.start();
    let id = submit(&host, json!({ "shell": "true", "notify": ["ops"] }));
    let status = host.wait_exit(PATIENCE);
    assert_eq!(status.signal(), Some(9), "{point}: {status}");
    host.env.clear();
    host.start();
    assert_eq!(outcome(&host, id), "succeeded", "{point}");
    let last = submit(&host, json!({ "shell": "true", "notify": ["ops"] }));
    let of = |id: u64| events(&host).into_iter().filter(move |event| event["data"]["id"] == json!(id));
    wait_for("the later notice", || of(last).next());
    // Ends are found in their order: what is not waited for now will never be.
    wait_for("the end of all tries", || (host.get("/api/v1/notifiers")[0]["waiting"] == 0).then_some(()));
    assert_eq!(of(last).count(), 1, "{point}: the control");
    of(id).collect()
}

#[test]
fn a_notice_survives_a_kill_at_each_of_its_steps() {
    for point in fail::NOTICES {
        let told = told_over_a_death(point);
        // Delivered, and nobody knew it: that is why it is at least once, and why the id is the same.
        let times = match point {
            fail::AFTER_TELLING => 2..=2,
            // Once it is noted, who tells it may have been as quick as the death.
            fail::AFTER_NOTICES => 1..=2,
            _ => 1..=1,
        };
        assert!(times.contains(&told.len()), "{point}: {told:?}");
        assert!(told.iter().all(|event| *event == told[0]), "{point}: {told:?}");
    }
}

#[test]
fn with_the_protection_off_a_notice_is_lost() {
    for control in [fail::MOVES_CURSOR_EARLY, fail::NOTES_BEFORE_TELLING] {
        assert_eq!(told_over_a_death(control), Vec::<Value>::new(), "{control}");
    }
}
