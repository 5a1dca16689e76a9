//! The command line against a daemon of paper: exit codes, what is sent, and what survives a daemon that goes away.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod follow;
mod mends;
mod said;
mod search;
mod server;
#[path = "../../../skipped.rs"]
mod skipped;
mod waiting;

use server::{Answer, Asked, Fake, Then, job, problem};
use std::io::{BufRead as _, BufReader};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

fn text(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

fn created(_: &Asked) -> Answer {
    Answer::Json(201, r#"{"id":7}"#.to_owned())
}

#[test]
fn ids_are_printed_after_the_answer_and_exit_codes_are_kept() {
    let fake = Fake::new(created);
    assert_eq!(text(&fake.run(&["add", "--", "true"])), (0, "7\n".to_owned(), String::new()));
    assert_eq!(text(&fake.run(&["add", "--output", "json", "--", "true"])).1, "{\"id\":7}\n");
    for (status, code) in [(400, 3), (413, 3), (422, 3), (403, 1), (404, 1), (409, 1), (500, 1), (503, 2), (507, 2)] {
        let fake = Fake::new(move |_| problem(status, "because"));
        let (got, out, err) = text(&fake.run(&["add", "--", "true"]));
        assert_eq!((got, out.as_str()), (code, ""), "{status}: {err}");
        assert_eq!(err, "ci-runner: because\n");
    }
    let fake = Fake::new(|_| Answer::Nothing);
    let (code, out, err) = text(&fake.run(&["add", "--", "true"]));
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(err.contains("Whether the job was queued is not known"), "{err}");
    let mut fake = fake;
    fake.go();
    let (code, _, err) = text(&fake.run(&["add", "--", "true"]));
    assert_eq!(code, 2);
    assert!(err.contains("api.sock: there is no socket") && err.contains("ci-runner daemon"), "{err}");
}

/// What the verb says while its answer is to come, and then how it ends.
fn silent_at_first(words: &[&str], mut answer: impl FnMut(&Asked) -> Answer + Send + 'static) -> (String, Output) {
    let answers = Arc::new(AtomicBool::new(false));
    let gate = Arc::clone(&answers);
    let fake = Fake::new(move |asked| {
        while !gate.load(Ordering::Acquire) {
            std::thread::park_timeout(std::time::Duration::from_millis(10));
        }
        answer(asked)
    });
    let mut child = fake.command(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
    answers.store(true, Ordering::Release);
    (line, child.wait_with_output().unwrap())
}

#[test]
fn who_waits_for_a_silent_daemon_is_told_so() {
    let (line, output) = silent_at_first(&["add", "--", "true"], created);
    assert!(line.contains("has not answered for 3 s") && line.contains("up to 57 s more"), "{line}");
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), b"7\n".as_slice()));
}

/// It blamed the daemon, and gave up after a minute.
#[test]
fn who_waits_for_a_notifier_is_told_so() {
    let tested = r#"{"delivered":true,"error":null,"seconds":3.3,"event":"e"}"#;
    let (line, output) = silent_at_first(&["notify", "test", "ops"], |_| Answer::Json(200, tested.to_owned()));
    assert_eq!(line, "ci-runner: waiting for the notifier, up to 357 s\n");
    assert_eq!((output.status.code(), text(&output).1.as_str()), (Some(0), "delivered in 3.300 s (event e)\n"));
}

#[test]
fn the_callers_directory_goes_along_and_its_environment_does_not() {
    let fake = Fake::new(created);
    let dir = tempfile::tempdir().unwrap();
    let mut command = fake.command(&["add", "--env", "PASSED", "--", "make"]);
    let output = command.current_dir(dir.path()).env("PASSED", "on").env("NOT_PASSED", "x").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let asked = &fake.asked()[0];
    let sent: serde_json::Value = serde_json::from_str(&asked.body).unwrap();
    let dir = dir.path().canonicalize().unwrap();
    assert_eq!(sent, serde_json::json!({ "command": ["make"], "dir": dir, "env": { "PASSED": "on" } }));
    assert_eq!((asked.method.as_str(), asked.path.as_str()), ("POST", "/api/v1/jobs"));
}

#[test]
fn add_job_is_a_program_of_its_own() {
    let fake = Fake::new(created);
    let run = |words: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_add_job"));
        text(&command.args(words).env("CI_RUNNER_SOCKET", fake.socket()).output().unwrap())
    };
    assert_eq!(run(&["make && make install"]), (0, "7\n".to_owned(), String::new()));
    let sent: serde_json::Value = serde_json::from_str(&fake.asked()[0].body).unwrap();
    assert_eq!(sent["shell"], "make && make install");
    for words in [&[][..], &["make", "install"]] {
        let (code, out, err) = run(words);
        assert_eq!((code, out.as_str()), (3, ""));
        assert!(err.contains("usage: add_job 'COMMAND'"), "{err}");
    }
    assert_eq!(fake.asked().len(), 1);
}

#[test]
fn a_jobs_file_is_all_or_nothing() {
    let fake = Fake::new(|asked| match asked.body.contains("refuse") {
        true => {
            let body = r#"{"type":"x","title":"T","status":400,"detail":"pool: there is no pool \"refuse\"","field":"pool","index":1}"#;
            Answer::Json(400, body.to_owned())
        }
        false => Answer::Json(201, r#"{"ids":[7,8]}"#.to_owned()),
    });
    let file = fake.dir.path().join("jobs.jsonl");
    let path = file.to_str().unwrap();
    let run = |content: &str, more: &[&str]| {
        std::fs::write(&file, content).unwrap();
        text(&fake.run(&[&["add", "-f", path], more].concat()))
    };
    let good = "{\"command\":[\"a\"],\"dir\":\"/\"}\n\n{\"shell\":\"b\"}\n";
    assert_eq!(run(good, &["--key", "k"]), (0, "7\n8\n".to_owned(), String::new()));
    let asked = fake.asked();
    assert!(asked[0].headers.contains(&"Idempotency-Key: k".to_owned()), "{asked:?}");
    let sent: serde_json::Value = serde_json::from_str(&asked[0].body).unwrap();
    assert_eq!((&sent[0]["dir"], sent[1]["dir"].is_string()), (&"/".into(), true));

    // Errors found here: nothing is sent at all.
    let (code, out, err) = run("{\"command\":[\"a\"]}\n{\"command\":[\"b\"],\"timout\":1}\n", &[]);
    assert_eq!((code, out.as_str()), (3, ""));
    let expected =
        format!("{path}:2: timout: there is no key \"timout\"; did you mean \"timeout\"?; nothing was queued");
    assert!(err.contains(&expected), "{err}");
    assert!(run(good, &["--name", "x"]).2.contains("--name cannot stand beside -f"));
    assert_eq!(fake.asked().len(), 1);

    // Errors the daemon finds are put to their line, those of a job's own key among them.
    let reused = r#"{"type":"x","title":"T","status":422,"detail":"the idempotency key \"k\" was used","field":"key","index":1}"#;
    let keyed = Fake::new(move |_| Answer::Json(422, reused.to_owned()));
    let (code, _, err) = text(&keyed.run(&["add", "-f", path]));
    assert_eq!((code, err.starts_with(&format!("ci-runner: {path}:3: key: the idempotency key"))), (3, true), "{err}");
    let (code, _, err) = run("{\"command\":[\"a\"]}\n\n{\"command\":[\"b\"],\"pool\":\"refuse\"}\n", &[]);
    assert_eq!(code, 3);
    assert!(err.contains(&format!("{path}:3: pool: there is no pool \"refuse\"; nothing was queued")), "{err}");
}

#[test]
fn words_that_are_no_text_are_refused() {
    let fake = Fake::new(created);
    let mut command = fake.command(&["add", "--"]);
    let output = command.arg(std::ffi::OsStr::from_bytes(b"a\xff")).output().unwrap();
    let (code, _, err) = text(&output);
    assert_eq!(code, 3);
    assert!(err.contains("is not UTF-8"), "{err}");
    assert!(fake.asked().is_empty());
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let jobs: Vec<String> = (1..3_000).map(|id| job(id, "queued", None, 0)).collect();
    let page = format!("{{\"jobs\":[{}],\"next_cursor\":null}}", jobs.join(","));
    let fake = Fake::new(move |_| Answer::Json(200, page.clone()));
    let mut child = fake.command(&["list"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
    // The exporter went its own way here, and failed.
    let words = ["exporter", "--once", "--collectors", "loadavg"];
    let mut child = fake.command(&words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(text(&child.wait_with_output().unwrap()), (0, String::new(), String::new()));
}

/// It used to wait for a minute, and for longer where the daemon was busy.
#[test]
fn doctor_does_not_wait_for_a_daemon_that_hangs() {
    let (gate, held) = std::sync::mpsc::channel::<()>();
    let fake = Fake::new(move |_| {
        let _ = held.recv();
        Answer::Nothing
    });
    let began = std::time::Instant::now();
    let (code, out, _) = text(&fake.run(&["doctor", "--output", "json"]));
    let took = began.elapsed();
    drop(gate);
    let findings: Vec<serde_json::Value> = serde_json::from_str(&out).unwrap();
    let daemon = findings.iter().find(|finding| finding["check"] == "daemon").unwrap();
    assert_eq!((code, &daemon["grade"]), (1, &"fail".into()), "{daemon:#}");
    let told = daemon["text"].as_str().unwrap();
    assert!(told.contains("gives no answer: the daemon does not answer within 5 s"), "{told}");
    // Twice as long, and more, on a machine that has other things to do.
    assert!(took < std::time::Duration::from_secs(30), "{took:?}");
}

#[test]
fn lists_are_read_page_by_page() {
    let fake = Fake::new(|asked| {
        let cursor: u64 = asked.query("cursor").map_or(0, |cursor| cursor.parse().unwrap());
        let next = if cursor < 2 { (cursor + 1).to_string() } else { "null".to_owned() };
        Answer::Json(200, format!("{{\"jobs\":[{}],\"next_cursor\":{next}}}", job(cursor + 1, "queued", None, 0)))
    });
    let (code, out, err) = text(&fake.run(&["list", "--all", "--state", "queued,running", "--label", "a=b c"]));
    assert_eq!((code, err.as_str()), (0, ""));
    assert_eq!(out.lines().map(|line| line.split('\t').next().unwrap()).collect::<Vec<_>>(), ["1", "2", "3"]);
    let asked = &fake.asked()[0];
    assert_eq!(asked.query("state").as_deref(), Some("queued%2Crunning"));
    assert_eq!(asked.query("label").as_deref(), Some("a%3Db%20c"));
    let (_, json, _) = text(&fake.run(&["list", "--limit", "2", "--output", "json"]));
    let jobs: Vec<serde_json::Value> = serde_json::from_str(&json).unwrap();
    assert_eq!(jobs.len(), 2);
}

#[test]
fn acting_on_a_running_job_says_that_it_runs_on() {
    let fake = Fake::new(|asked| {
        let running = if asked.route().ends_with("/hold") { r#","running":[7]"# } else { "" };
        Answer::Json(200, format!(r#"{{"ids":[7],"finished":[]{running}}}"#))
    });
    let (code, out, err) = text(&fake.run(&["hold", "7"]));
    assert_eq!((code, out.as_str()), (0, "held 7\n"));
    assert_eq!(err, "job 7 has an attempt under way, which goes on: this counts for its next one\n");
    // The control: one that waits.
    assert_eq!(text(&fake.run(&["priority", "5", "7"])), (0, "changed 7\n".to_owned(), String::new()));
}

#[test]
fn a_file_of_too_many_jobs_is_refused_by_name() {
    let fake = Fake::new(created);
    let file = fake.dir.path().join("many.jsonl");
    std::fs::write(&file, "{\"shell\":\"x\"}\n".repeat(100_001)).unwrap();
    let (code, out, err) = text(&fake.run(&["add", "-f", file.to_str().unwrap()]));
    assert_eq!((code, out.as_str()), (3, ""));
    let name = file.display();
    assert!(err.contains(&format!("{name} holds 100001 jobs, and one call takes 100000 at most")), "{err}");
    assert!(fake.asked().is_empty());
}

/// It sent everybody into a group that only the service has.
#[test]
fn who_may_not_use_a_socket_is_told_whose_it_is() {
    if !rustix::process::getuid().is_root() {
        skipped::tell("who_may_not_use_a_socket_is_told_whose_it_is", "only root can be another user");
        return;
    }
    let fake = Fake::new(created);
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: &std::path::Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    mode(fake.dir.path(), 0o755);
    mode(&fake.socket(), 0o600);
    // A program that every user may execute: the build's directory is closed to others.
    let program = fake.dir.path().join("ci-runner");
    std::fs::copy(env!("CARGO_BIN_EXE_ci-runner"), &program).unwrap();
    let mut command = std::process::Command::new(&program);
    command.args(["status"]).env("CI_RUNNER_SOCKET", fake.socket()).current_dir("/").uid(65_534).gid(65_534);
    let (code, _, err) = text(&command.output().unwrap());
    assert_eq!(code, 2, "{err}");
    assert!(err.contains("It belongs to root, and root runs it by hand: use it as root."), "{err}");
    assert!(!err.contains("usermod"), "{err}");
}

#[test]
fn actions_go_to_their_routes() {
    let fake = Fake::new(|asked| match asked.route() {
        "/api/v1/jobs/cancel" => Answer::Json(200, r#"{"ids":[7],"finished":[8]}"#.to_owned()),
        "/api/v1/jobs/7/retry" => Answer::Json(201, r#"{"id":9}"#.to_owned()),
        "/api/v1/jobs/8/hold" => problem(404, "there is no job 8"),
        _ => Answer::Json(200, r#"{"ids":[7],"finished":[]}"#.to_owned()),
    });
    let done = |words: &[&str]| text(&fake.run(words));
    assert_eq!(done(&["cancel", "7", "8"]), (0, "cancelled 7\n".into(), "job 8 had finished before\n".into()));
    assert_eq!(done(&["cancel", "--all", "-q"]), (0, "cancelled 7\n".into(), String::new()));
    assert_eq!(done(&["retry", "7"]), (0, "9\n".into(), String::new()));
    assert_eq!(done(&["release", "7"]), (0, "released 7\n".into(), String::new()));
    assert_eq!(done(&["priority", "-5", "7"]), (0, "changed 7\n".into(), String::new()));
    // One that is not there does not keep the others from being held.
    assert_eq!(done(&["hold", "8", "7"]), (1, "held 7\n".into(), "ci-runner: there is no job 8\n".into()));
    let bodies: Vec<(String, String)> = fake.asked().into_iter().map(|asked| (asked.path, asked.body)).collect();
    assert!(bodies.contains(&("/api/v1/jobs/cancel".into(), r#"{"ids":[7,8]}"#.into())), "{bodies:?}");
    assert!(bodies.contains(&("/api/v1/jobs/cancel".into(), r#"{"all":true}"#.into())), "{bodies:?}");
    assert!(bodies.contains(&("/api/v1/jobs/7/priority".into(), r#"{"priority":-5}"#.into())), "{bodies:?}");
}

/// A daemon without a place for one more connection took nothing: it is asked again, and has one moments later.
#[test]
fn a_busy_daemon_is_asked_again_for_a_moment() {
    let busy = || {
        let kind = "urn:ci-runner:problem:busy";
        let body =
            serde_json::json!({ "type": kind, "title": "Service Unavailable", "status": 503, "detail": "all in use" });
        Answer::Json(503, body.to_string())
    };
    let mut refusals = 3;
    let fake = Fake::new(move |asked| match refusals {
        0 => created(asked),
        _ => {
            refusals -= 1;
            busy()
        }
    });
    assert_eq!(text(&fake.run(&["add", "--", "true"])), (0, "7\n".to_owned(), String::new()));
    assert_eq!(fake.asked().len(), 4);
    let mut refusals = 0;
    let fake = Fake::new(move |asked| match asked.route() {
        "/api/v1/jobs/7" => Answer::Json(200, job(7, "finished", Some("succeeded"), 1)),
        _ if refusals < 3 => {
            refusals += 1;
            busy()
        }
        _ => Answer::Stream { headers: vec![], pieces: vec![b"x\n".to_vec()], then: Then::End },
    });
    assert_eq!(text(&fake.run(&["logs", "7"])), (0, "x\n".to_owned(), String::new()));
    let fake = Fake::new(move |_| busy());
    let (code, _, said) = text(&fake.run(&["add", "--", "true"]));
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("all in use"), "{said}");
}

#[test]
fn what_is_no_job_id_is_told_in_words() {
    let fake = Fake::new(created);
    for words in [&["show", "abc"][..], &["why", "0"], &["wait", "1", "x"], &["logs", "7b"], &["cancel", "1.5"]] {
        let (code, _, said) = text(&fake.run(words));
        assert_eq!(code, 3, "{words:?}: {said}");
        assert!(said.contains("no job id; ids are whole numbers from 1"), "{words:?}: {said}");
    }
    assert!(fake.asked().is_empty());
}
