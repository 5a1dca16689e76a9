//! What a restored store makes of the files of jobs: those of its own jobs stay, those of others are nobody's.

use crate::support::Host;
use serde_json::json;
use std::fs;

/// A finished job that printed this, and one on hold with a secret of this name, which tells what it finds of two.
fn with_history(host: &Host, printed: &str, secret: &str) -> (u64, u64) {
    let finished = host.add(&host.shell(&format!("echo {printed}")));
    host.finish(finished);
    let script = "echo token=${TOKEN:+there} key=${KEY:+there}";
    let held = host.add(&host.shell_with(script, json!({ "hold": true, "secrets": { secret: "a secret of twelve" } })));
    (finished, held)
}

fn restore(host: &mut Host, backup: &str) -> String {
    host.stop();
    let state = host.state.to_str().unwrap().to_owned();
    let done = host.run_cli(&["restore", "--state-dir", &state, backup]);
    assert!(done.status.success(), "{done:?}");
    host.start();
    String::from_utf8(done.stderr).unwrap()
}

#[test]
fn a_job_gets_neither_log_nor_secrets_of_another_that_had_its_id() {
    let (mine, mut other) = (Host::started(), Host::started());
    let (finished, held) = with_history(&mine, "mine", "TOKEN");
    assert_eq!(with_history(&other, "of another", "KEY"), (finished, held), "the same ids");
    let backup = mine.path("backup.db").to_str().unwrap().to_owned();
    assert!(mine.run_cli(&["backup", &backup]).status.success());
    let said = restore(&mut other, &backup);
    assert_eq!(other.log(finished), "", "the backup holds no logs");
    other.post(&format!("/api/v1/jobs/{held}/release"), &json!({}));
    let job = other.finish(held);
    assert!(job["cause"].as_str().unwrap().contains("its secrets are gone"), "{job:#}");
    assert_eq!(said.matches("the same ids were other jobs there").count(), 2, "{said}");
    for (dir, file) in [("logs", format!("0/{finished}-1.log")), ("secrets", held.to_string())] {
        let kept = fs::read_dir(other.state.join(dir)).unwrap().map(|entry| entry.unwrap().path());
        let kept = kept.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("replaced-"));
        assert!(kept.map(|path| path.join(&file)).all(|path| path.exists()), "{dir} is kept");
    }
    other.stop();
    other.assert_clean();
}

#[test]
fn the_files_of_ones_own_jobs_stay() {
    let mut host = Host::started();
    let (finished, held) = with_history(&host, "mine", "TOKEN");
    let backup = host.path("backup.db").to_str().unwrap().to_owned();
    assert!(host.run_cli(&["backup", &backup]).status.success());
    // Once in the life that goes on, once over a restored store.
    for _ in 0..2 {
        let said = restore(&mut host, &backup);
        assert!(!said.contains("other jobs"), "{said}");
        assert_eq!(host.log(finished), "mine\n");
    }
    host.post(&format!("/api/v1/jobs/{held}/release"), &json!({}));
    assert_eq!(host.finish(held)["outcome"], "succeeded");
    assert_eq!(host.log(held), "token=there key=\n");
    host.stop();
    host.assert_clean();
}

/// Whoever puts a file there by hand: a job gets what it declared, or nothing.
#[test]
fn a_file_of_other_secrets_is_not_a_jobs() {
    let host = Host::started();
    let (_, first) = with_history(&host, "x", "TOKEN");
    let (_, second) = with_history(&host, "x", "KEY");
    fs::copy(host.state.join(format!("secrets/{second}")), host.state.join(format!("secrets/{first}"))).unwrap();
    host.post(&format!("/api/v1/jobs/{first}/release"), &json!({}));
    let job = host.finish(first);
    assert!(job["cause"].as_str().unwrap().contains("those of another job"), "{job:#}");
    host.post(&format!("/api/v1/jobs/{second}/release"), &json!({}));
    assert_eq!(host.finish(second)["outcome"], "succeeded", "the control: its own it gets");
    host.assert_clean();
}
