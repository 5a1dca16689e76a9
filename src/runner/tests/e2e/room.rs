//! Room on the disk: what `gc` removes, by which clock, and that it does so on a full one; a cancel while there is none.

use crate::support::small::Small;
use crate::support::{Host, is_alive, wait_for};
use serde_json::json;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const HOUR_MS: i64 = 3_600_000;

fn log_of(host: &Host, job: u64) -> PathBuf {
    host.state.join("logs").join(ci_runner_spawner::joblog::log_path(job, 1))
}

/// A job whose log has so many bytes.
fn with_log(host: &Host, bytes: u32) -> u64 {
    let id = host.add(&host.shell(&format!("head -c {bytes} /dev/zero | tr '\\0' 'x'")));
    assert_eq!(host.finish(id)["outcome"], "succeeded");
    id
}

/// In a store that nobody uses: so much engine time has passed since the job ended.
fn let_pass(host: &Host, job: u64, ms: i64) {
    let store = rusqlite::Connection::open(host.state.join("queue.db")).unwrap();
    assert_eq!(store.execute("UPDATE finished SET ended = ended - ?1 WHERE id = ?2", (ms, job as i64)).unwrap(), 1);
}

/// Gives the daemon another configuration, and waits until it has it.
pub(crate) fn reload(host: &Host, config: &str) {
    let before = host.daemon_log().matches("configuration reloaded").count();
    fs::write(host.path("config.toml"), config).unwrap();
    host.signal("HUP");
    wait_for("the reload", || (host.daemon_log().matches("configuration reloaded").count() > before).then_some(()));
}

fn gc(host: &Host) -> (String, String) {
    let asked = Instant::now();
    let done = host.run_cli(&["gc"]);
    assert!(asked.elapsed() < Duration::from_secs(10), "took {:?}", asked.elapsed());
    assert!(done.status.success(), "{done:?}");
    (String::from_utf8(done.stdout).unwrap(), String::from_utf8(done.stderr).unwrap())
}

/// The mend for a full disk used to wait for the disk to have room.
#[test]
fn gc_makes_room_on_a_full_disk() {
    let Some(small) = Small::mount("gc_makes_room_on_a_full_disk", "6m") else { return };
    let mut host = Host::new();
    host.state = small.join("state");
    host.config = "grace = 1\n[gc]\nlog_bytes_max = \"unlimited\"\nfinished_max_age = \"unlimited\"\n".to_owned();
    host.start();
    let old = with_log(&host, 1_500_000);
    let young = with_log(&host, 100_000);
    host.stop();
    let_pass(&host, old, 2 * HOUR_MS);
    host.start();
    reload(&host, "grace = 1\n[gc]\nlog_bytes_max = \"64K\"\nfinished_max_age = \"1h\"\n");
    small.fill();
    assert_eq!(super::service::submit_until_full(&host).1.status, 507);
    // Its times are a second file, if not all of it came at once.
    let files = 1 + usize::from(log_of(&host, old).with_extension("times").is_file());
    let (told, note) = gc(&host);
    assert!(told.contains(&format!("jobs: 0\nlogs: {files}\nlog bytes: 15")), "{told}");
    assert!(note.contains("as soon as the store takes commits"), "{note}");
    assert!(log_of(&host, young).is_file(), "the control: a young log stays, although all are too large");
    let id = wait_for("a submission that is taken", || {
        let answer = host.call("POST", "/api/v1/jobs", Some(&host.shell("true")));
        (answer.status == 201).then(|| answer.json()["id"].as_u64().unwrap())
    });
    assert_eq!(host.finish(id)["outcome"], "succeeded");
    wait_for("the removal of the finished job", || {
        (host.call("GET", &format!("/api/v1/jobs/{old}"), None).status == 404).then_some(())
    });
    host.stop();
    drop(host);
}

/// A clock set forward by a year makes every file a year older, in the eyes of the date; engine time did not move.
#[test]
fn logs_age_by_time_that_passed_not_by_the_date() {
    let mut host = Host::new();
    host.config = "grace = 1\n[gc]\nlog_max_age = \"2h\"\nlog_bytes_max = \"1K\"\n".to_owned();
    host.start();
    let (young, old) = (with_log(&host, 2_000), with_log(&host, 2_000));
    let year = Duration::from_secs(365 * 24 * 3600);
    let file = fs::File::options().write(true).open(log_of(&host, young)).unwrap();
    file.set_modified(std::time::SystemTime::now() - year).unwrap();
    let (told, _) = gc(&host);
    assert!(told.contains("logs: 0\n") && log_of(&host, young).is_file(), "{told}");
    host.stop();
    let_pass(&host, old, 3 * HOUR_MS);
    host.start();
    gc(&host);
    assert!(log_of(&host, young).is_file());
    assert!(!log_of(&host, old).exists(), "the control: three hours did pass");
    host.stop();
    host.assert_clean();
}

/// Fills the disk under a running job and cancels it.
fn cancelled_without_room(host: &Host, small: &Small, script: &str) -> u64 {
    let script = format!("F={}; {script}", host.path("told").display());
    let id = host.add(&host.shell_with(&script, json!({ "retry": 3, "retry_delay": 0 })));
    host.wait_state(id, "running");
    wait_for("the job", || (!host.survivors().is_empty()).then_some(()));
    small.fill();
    super::service::submit_until_full(host);
    let answer = host.call("POST", "/api/v1/jobs/cancel", Some(&json!({ "ids": [id] })));
    assert_eq!(answer.status, 507, "{}", answer.text());
    let detail = answer.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains(&format!("ended all the same: {id}.")), "{detail}");
    let done = host.run_cli(&["cancel", &id.to_string()]);
    assert_eq!(done.status.code(), Some(2), "it is not done: {done:?}");
    id
}

/// It used to run on: the stop could not be recorded.
#[test]
fn a_cancel_ends_a_running_job_while_the_disk_is_full() {
    let Some(small) = Small::mount("a_cancel_ends_a_running_job_while_the_disk_is_full", "4m") else { return };
    let mut host = Host::new();
    host.state = small.join("state");
    host.config = "grace = 5\n".to_owned();
    host.start();
    // Some programs take a second signal for impatience: when the stop is recorded, none is sent.
    let id = cancelled_without_room(
        &host,
        &small,
        "trap 'echo told >>$F' TERM; echo runs >>$F; while :; do sleep 0.05; done",
    );
    host.wait_lines("told", 2);
    small.free();
    assert_eq!(host.finish(id)["outcome"], "cancelled");
    assert_eq!(host.wait_lines("told", 2), ["runs", "told"]);
    let id = cancelled_without_room(&host, &small, "exec sleep 600");
    wait_for("the end of the job", || host.survivors().is_empty().then_some(()));
    small.free();
    let job = host.finish(id);
    assert_eq!((job["outcome"].as_str(), job["attempts"].as_array().unwrap().len()), (Some("cancelled"), 1), "{job:#}");
    // The control, and what is said: a daemon that dies before it is recorded forgets who asked, so the job is tried again.
    let id = cancelled_without_room(&host, &small, "exec sleep 600");
    wait_for("the end of the job", || host.survivors().is_empty().then_some(()));
    host.kill();
    small.free();
    host.start();
    let job = wait_for("the second attempt", || {
        Some(host.job(id)).filter(|job| job["attempts"].as_array().unwrap().len() > 1)
    });
    assert_eq!(job["attempts"][0]["result"], "signaled", "{job:#}");
    host.post("/api/v1/jobs/cancel", &json!({ "ids": [id] }));
    assert_eq!(host.finish(id)["outcome"], "cancelled");
    host.stop();
    host.assert_clean();
    drop(host);
}

/// `logs` used to show an empty log, and nothing said that there had been output.
#[test]
fn output_that_a_full_disk_took_is_told_by_logs() {
    let Some(small) = Small::mount("output_that_a_full_disk_took_is_told_by_logs", "4m") else { return };
    let mut host = Host::new();
    host.state = small.join("state");
    host.start();
    let script = format!("{}; head -c 3000 /dev/zero", host.until("gate"));
    let id = host.add(&host.shell(&script));
    host.wait_state(id, "running");
    host.wait_shim(id);
    small.fill();
    fs::write(host.path("gate"), "").unwrap();
    wait_for("the end of the job", || host.shims().is_empty().then_some(()));
    small.free();
    assert_eq!(host.finish(id)["attempts"][0]["log_dropped_bytes"], 3_000);
    for words in [&["logs"][..], &["logs", "--follow"]] {
        let done = host.run_cli(&[words, &[&id.to_string()]].concat());
        let note = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success() && done.stdout.is_empty(), "{done:?}");
        assert!(note.contains("attempt 1: its output (") && note.contains("is lost"), "{note}");
    }
    let quiet = host.run_cli(&["logs", "--quiet", &id.to_string()]);
    assert!(quiet.stderr.is_empty(), "{quiet:?}");
    let whole = host.add(&host.shell("echo whole"));
    host.finish(whole);
    let done = host.run_cli(&["logs", &whole.to_string()]);
    assert_eq!((&*done.stdout, &*done.stderr), (&b"whole\n"[..], &b""[..]), "the control: nothing of it is lost");
    host.stop();
    host.assert_clean();
    drop(host);
}

/// An operator restarts what complains. The spawner used to leave meanwhile, with results that had found no room: they were
/// called lost, and the jobs ran again.
#[test]
fn results_outlive_the_daemon_on_a_full_disk() {
    let Some(small) = Small::mount("results_outlive_the_daemon_on_a_full_disk", "8m") else { return };
    let mut host = Host::on(small.path());
    host.start();
    let mut ends = Vec::new();
    for (script, more, outcome) in [
        ("exit 0", json!({}), "succeeded"),
        ("exit 7", json!({}), "failed"),
        ("kill -9 $$", json!({}), "failed"),
        ("sleep 600", json!({ "timeout": "1s" }), "timed_out"),
    ] {
        let script = format!("echo >>{}; {}; {script}", host.path("ran").display(), host.until("gate"));
        ends.push((host.add(&host.shell_with(&script, more)), outcome));
    }
    host.wait_lines("ran", ends.len());
    let spawner = host.wait_spawner();
    small.fill();
    host.kill();
    fs::write(host.path("gate"), "").unwrap();
    wait_for("the end of the jobs", || host.shims().is_empty().then_some(()));
    wait_for("the end of the spawner, which has nothing to stay for", || (!is_alive(spawner)).then_some(()));
    small.free();
    host.start();
    for (id, outcome) in ends {
        let job = host.finish(id);
        assert_eq!((job["outcome"].as_str(), job["attempts"].as_array().unwrap().len()), (Some(outcome), 1), "{job:#}");
    }
    assert_eq!(fs::read_to_string(host.path("ran")).unwrap().lines().count(), 4, "each ran once");
    host.stop();
    host.assert_clean();
    drop(host);
}
