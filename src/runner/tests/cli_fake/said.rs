//! What was done, or may have been, is said even where its answer cannot be: nobody shall do it twice.

use super::server::{Answer, Asked, Fake};
use super::text;
use std::fs::{self, File};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const FULL: &str = "No space left on device (os error 28)\n";

/// Takes everything.
fn obliging(asked: &Asked) -> Answer {
    let status = r#"{"version":"0","state":"paused","problems":[],"jobs":{"queued":0,"running":0,"succeeded":0,"failed":0,
        "timed_out":0,"cancelled":0,"superseded":0,"expired":0},"slots":{"used":0,"total":1},"uptime_seconds":1,"pid":1,
        "generation":1}"#;
    let body = match asked.route() {
        "/api/v1/jobs" if asked.body.starts_with('[') => r#"{"ids":[7,8]}"#,
        "/api/v1/jobs" | "/api/v1/jobs/3/retry" | "/api/v1/schedules/nightly/run" => r#"{"id":7}"#,
        "/api/v1/jobs/cancel" => r#"{"ids":[3,4],"finished":[],"running":[]}"#,
        "/api/v1/gc" => r#"{"jobs":2,"logs":3,"log_bytes":9}"#,
        "/api/v1/status" => status,
        _ => "{}",
    };
    Answer::Json(200, body.to_owned())
}

fn into_the_full(fake: &Fake, words: &[&str]) -> Output {
    let full = File::options().write(true).open("/dev/full").unwrap();
    fake.command(words).stdout(full).stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap()
}

/// `add > /dev/full` used to say only that the output cannot be written: whoever read that added the job again.
#[test]
fn what_was_done_is_said_where_it_cannot_be_written() {
    let fake = Fake::new(obliging);
    let file = fake.dir.path().join("jobs.jsonl");
    fs::write(&file, "{\"shell\":\"a\"}\n{\"shell\":\"b\"}\n").unwrap();
    for (words, done) in [
        (&["add", "--", "true"][..], "job 7 is queued, but its id could not be written: "),
        (&["add", "--output", "json", "--", "true"], "job 7 is queued, but its id could not be written: "),
        (
            &["add", "-f", file.to_str().unwrap()],
            "2 jobs are queued, 7 the first and 8 the last, but their ids could not be written: ",
        ),
        (&["retry", "3"], "job 7 is queued, but its id could not be written: "),
        (&["cancel", "3", "4"], "cancelled: job 3, 4; but that could not be written: "),
        (&["schedule", "run", "nightly"], "job 7 is queued, but its id could not be written: "),
        (&["schedule", "rm", "nightly"], "schedule nightly is removed, but that could not be written: "),
        (&["pause"], "`pause` is done, but that could not be written: "),
        (&["backup", "/x/b"], "the backup /x/b is made, but that could not be written: "),
        (&["gc"], "2 jobs and 3 logs are removed, but that could not be written: "),
        // Nothing was done.
        (&["status"], "cannot write the output: "),
    ] {
        let told = text(&into_the_full(&fake, words));
        assert_eq!(told, (1, String::new(), format!("ci-runner: {done}{FULL}")), "{words:?}");
    }
}

/// The same command, hearing Ctrl-C even where we were started to ignore it, as by a shell behind `&`.
fn hearing_ctrl_c(command: &Command) -> Command {
    let mut env = Command::new("env");
    env.arg("--default-signal=INT").arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => env.env(name, value),
            None => env.env_remove(name),
        };
    }
    if let Some(dir) = command.get_current_dir() {
        env.current_dir(dir);
    }
    env
}

/// Ctrl-C while the answer was awaited used to end in silence, with the job queued or not.
#[test]
fn ctrl_c_before_the_answer_says_that_nothing_is_known() {
    let gate = Arc::new(AtomicBool::new(false));
    let answers = Arc::clone(&gate);
    let fake = Fake::new(move |asked| {
        while !answers.load(Ordering::Acquire) {
            std::thread::park_timeout(Duration::from_millis(10));
        }
        obliging(asked)
    });
    let file = fake.dir.path().join("jobs.jsonl");
    fs::write(&file, "{\"shell\":\"a\"}\n").unwrap();
    let file = file.to_str().unwrap();
    let cases = [
        (&["add", "--", "true"][..], "Whether the job was queued is not known. Look with `ci-runner list`"),
        (&["add", "--key", "k", "--", "true"], "Whether the job was queued is not known. Try again with the same key"),
        (&["add", "-f", file], "Whether the jobs were queued, all or none, is not known. Look with `ci-runner list`"),
        (&["add", "-f", file, "--key", "k"], "all or none, is not known. Try again with the same key"),
    ];
    for (count, (words, part)) in cases.into_iter().enumerate() {
        let child = hearing_ctrl_c(&fake.command(words)).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        fake.until_asked("/api/v1/jobs", count + 1);
        let process = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(process, rustix::process::Signal::INT).unwrap();
        let (code, out, err) = text(&child.wait_with_output().unwrap());
        assert_eq!((code, out.as_str()), (130, ""), "{words:?}: {err}");
        assert!(err.contains(part), "{words:?}: {err}");
    }
    gate.store(true, Ordering::Release);
}
