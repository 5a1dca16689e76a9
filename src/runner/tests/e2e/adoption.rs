//! Promise 2: jobs go on while the daemon is dead, and everything about their end is right when it is back.

use crate::support::{Host, is_alive, kill, wait_for};
use serde_json::{Value, json};
use std::time::Instant;

/// What a job does while nobody watches, and what must be told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    EndsWell,
    EndsBadly,
    DiesOfSignal,
    TimesOut,
    TimesOutIgnoringTerm,
    Cancelled,
    CancelledIgnoringTerm,
    RunsOn,
}

const KINDS: [Kind; 8] = [
    Kind::EndsWell,
    Kind::EndsBadly,
    Kind::DiesOfSignal,
    Kind::TimesOut,
    Kind::TimesOutIgnoringTerm,
    Kind::Cancelled,
    Kind::CancelledIgnoringTerm,
    Kind::RunsOn,
];

const TIMEOUT_S: f64 = 4.0;
/// Long enough to kill a daemon in, on a busy machine too.
const GRACE_S: f64 = 3.0;

struct Adopted {
    id: u64,
    kind: Kind,
    number: usize,
}

fn submit(host: &Host, number: usize) -> Adopted {
    let kind = KINDS[number % KINDS.len()];
    let begin = format!("echo $CI_RUNNER_JOB_ID >>{}; echo before", host.path("began").display());
    let gate = |name: &str| format!("read x <{}", host.path(name).display());
    let script = match kind {
        Kind::EndsWell => format!("{begin}; {}; echo after", gate("now")),
        Kind::EndsBadly => format!("{begin}; {}; echo after; exit {}", gate("now"), number + 1),
        Kind::DiesOfSignal => format!("{begin}; {}; echo after; kill -USR1 $$", gate("now")),
        Kind::TimesOut => format!("{begin}; {}; echo after", gate("never")),
        // It is told while the daemon lives, and dies of that when nobody watches.
        Kind::Cancelled => {
            let told = format!(
                "echo x >>{}; {}; trap - TERM; kill -TERM $$",
                host.path("told").display(),
                host.until("unwatched")
            );
            // Some shells tell of the signal, too.
            format!("exec 2>/dev/null; trap '{told}' TERM; {begin}; while :; do sleep 0.05; done")
        }
        Kind::TimesOutIgnoringTerm | Kind::CancelledIgnoringTerm => {
            format!("trap '' TERM; {begin}; while :; do {}; sleep 1; done", gate("never"))
        }
        Kind::RunsOn => format!("{begin}; {}; echo after", gate("later")),
    };
    let timeout = match kind {
        Kind::TimesOut | Kind::TimesOutIgnoringTerm => json!(TIMEOUT_S),
        _ => json!(600),
    };
    let id = host.add(&host.shell_with(&script, json!({ "timeout": timeout })));
    Adopted { id, kind, number }
}

fn check(host: &Host, adopted: &Adopted) {
    let job = host.finish(adopted.id);
    // Where cgroup controllers count there is a receipt, too.
    let log = host.log(adopted.id);
    let lines: Vec<&str> = log.lines().filter(|line| !line.starts_with("[ci-runner] receipt: ")).collect();
    let outcome = job["outcome"].as_str().unwrap();
    let (code, signal) = (job["exit_code"].as_u64(), job["signal"].as_u64());
    let told = format!("[ci-runner] timeout of {TIMEOUT_S} s passed; killed unless it ends within {GRACE_S} s");
    let (whole, cut) = (&["before", "after"][..], &["before"][..]);
    let timed_out = &["before", &told][..];
    let expected = match adopted.kind {
        Kind::EndsWell | Kind::RunsOn => ("succeeded", Some(0), None, whole),
        Kind::EndsBadly => ("failed", Some(adopted.number as u64 + 1), None, whole),
        Kind::DiesOfSignal => ("failed", None, Some(10), whole),
        Kind::TimesOut | Kind::TimesOutIgnoringTerm => ("timed_out", None, None, timed_out),
        Kind::Cancelled => ("cancelled", None, Some(15), cut),
        Kind::CancelledIgnoringTerm => ("cancelled", None, Some(9), cut),
    };
    let what = format!("{:?} {job:#}\nlog: {log:?}", adopted.kind);
    assert_eq!((outcome, code, signal, &lines[..]), expected, "{what}");
    assert_eq!(job["attempts"].as_array().unwrap().len(), 1, "{what}");
    if outcome == "timed_out" {
        let ran = job["run_seconds"].as_f64().unwrap();
        assert!((TIMEOUT_S..TIMEOUT_S + GRACE_S + 3.0).contains(&ran), "the deadline moved: {what}");
    }
}

fn adopt(count: usize, kill_spawner: bool) {
    let mut host = Host::new();
    host.slots = count as u32 + 4;
    host.config = format!("grace = {GRACE_S}\n");
    host.start();
    let (now, later, never) = (host.gate("now"), host.gate("later"), host.gate("never"));
    let jobs: Vec<Adopted> = (0..count).map(|number| submit(&host, number)).collect();
    host.wait_lines("began", count);
    let cancelled = jobs.iter().filter(|job| matches!(job.kind, Kind::Cancelled | Kind::CancelledIgnoringTerm));
    let ids: Vec<u64> = cancelled.map(|job| job.id).collect();
    host.post("/api/v1/jobs/cancel", &json!({ "ids": ids }));
    host.wait_lines("told", jobs.iter().filter(|job| job.kind == Kind::Cancelled).count());
    host.kill();
    std::fs::write(host.path("unwatched"), "").unwrap();
    if kill_spawner && let Some(spawner) = host.spawner() {
        kill(spawner, "KILL");
        wait_for("the spawner's death", || (!is_alive(spawner)).then_some(()));
    }
    drop(now);
    // What ends by itself has ended; the shim keeps deadlines without daemon and spawner.
    wait_for("the jobs that end", || {
        let alive: Vec<u64> = host.shims().into_iter().map(|(job, _)| job).collect();
        let ends = |kind| !matches!(kind, Kind::RunsOn | Kind::Cancelled | Kind::CancelledIgnoringTerm);
        jobs.iter().all(|job| !ends(job.kind) || !alive.contains(&job.id)).then_some(())
    });
    let begin = Instant::now();
    host.start();
    let runs_on = jobs.iter().filter(|job| job.kind == Kind::RunsOn);
    for job in jobs.iter().filter(|job| job.kind != Kind::RunsOn) {
        check(&host, job);
    }
    println!("{count} jobs adopted and accounted for in {:?}", begin.elapsed());
    for job in runs_on.clone() {
        assert_eq!(host.state_of(job.id), "running");
    }
    drop(later);
    for job in runs_on {
        check(&host, job);
    }
    drop(never);
    let mut began = host.wait_lines("began", count);
    began.sort();
    let all = began.len();
    began.dedup();
    assert_eq!((all, began.len()), (count, count), "each job runs once");
    host.assert_clean();
}

#[test]
fn a_hundred_jobs_of_every_kind_are_adopted() {
    adopt(100, false);
}

#[test]
fn jobs_are_adopted_when_the_spawner_was_killed_too() {
    adopt(40, true);
}

/// The control: without the witness (the exit records are gone) nobody may be told of a success.
#[test]
fn without_its_exit_record_a_job_that_ended_well_is_lost_not_succeeded() {
    let mut host = Host::started();
    let gate = host.gate("now");
    let job = host.shell(&format!("echo x >>{}; read x <{}", host.path("began").display(), host.path("now").display()));
    let id = host.add(&job);
    host.wait_lines("began", 1);
    host.kill();
    drop(gate);
    wait_for("the end of the job", || host.shims().is_empty().then_some(()));
    let spawner = host.wait_spawner();
    kill(spawner, "KILL");
    wait_for("the spawner's death", || (!is_alive(spawner)).then_some(()));
    for attempt in host.attempts() {
        std::fs::remove_file(host.runtime().join("spawner/attempts").join(attempt).join("exit")).unwrap();
    }
    host.start();
    let job = host.finish(id);
    let attempt: &Value = &job["attempts"][0];
    assert_eq!((job["outcome"].as_str(), attempt["result"].as_str()), (Some("failed"), Some("lost")), "{job:#}");
    assert_eq!(host.wait_lines("began", 1).len(), 1);
    host.assert_clean();
}

/// A result that was written in another life of the spawner's directory is recorded, and its directory used to stay for ever.
#[test]
fn a_record_of_another_epoch_is_taken_and_its_directory_removed() {
    let mut host = Host::started();
    let gate = host.gate("now");
    let (began, now) = (host.path("began"), host.path("now"));
    let job = host.shell(&format!("echo x >>{}; read x <{}; exit 0", began.display(), now.display()));
    let id = host.add(&job);
    host.wait_lines("began", 1);
    host.kill();
    drop(gate);
    wait_for("the end of the job", || host.shims().is_empty().then_some(()));
    let spawner = host.wait_spawner();
    kill(spawner, "KILL");
    wait_for("the spawner's death", || (!is_alive(spawner)).then_some(()));
    let epoch = host.runtime().join("spawner/epoch");
    let boot = std::fs::read_to_string(&epoch).unwrap();
    std::fs::write(&epoch, format!("x{boot}")).unwrap();
    assert_eq!(host.attempts().len(), 1);
    host.start();
    assert_eq!(host.finish(id)["outcome"], "succeeded");
    wait_for("the directory's removal", || host.attempts().is_empty().then_some(()));
    assert_eq!(host.wait_lines("began", 1).len(), 1);
    host.assert_clean();
}

/// A row that cannot be was left out, and then its living attempt was killed as one that nobody waits for.
#[test]
fn the_attempt_of_an_impossible_row_is_left_alone() {
    let mut host = Host::started();
    let gate = host.gate("now");
    let [began, now, done] = ["began", "now", "done"].map(|name| host.path(name));
    let (began, now, done) = (began.display(), now.display(), done.display());
    let script = format!("echo x >>{began}; read x <{now}; echo x >>{done}");
    let ids = [host.add(&host.shell(&script)), host.add(&host.shell(&script))];
    host.wait_lines("began", 2);
    for id in ids {
        host.wait_state(id, "running");
    }
    host.stop();
    let database = rusqlite::Connection::open(host.state.join("queue.db")).unwrap();
    database.execute("UPDATE lease SET slot = (SELECT min(slot) FROM lease)", []).unwrap();
    drop(database);
    host.start();
    let words = "of which the store holds an impossible state: left alone";
    wait_for("its report", || host.daemon_log().contains(words).then_some(()));
    drop(gate);
    host.wait_lines("done", 2);
    assert_eq!(host.finish(ids[0])["outcome"], "succeeded");
    wait_for("the end of both", || host.shims().is_empty().then_some(()));
    // Its result is kept for whoever mends the row.
    wait_for("one directory", || (host.attempts().len() == 1).then_some(()));
    assert!(host.attempts()[0].ends_with(&format!("-{}-1", ids[1])));
}
