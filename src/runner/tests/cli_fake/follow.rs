//! `logs` and `logs -f`: no byte lost, none repeated, whatever becomes of the daemon.

use crate::server::{Answer, Asked, Fake, Then, job, problem};
use std::io::Read as _;
use std::process::Stdio;

/// What attempt `number` wrote: lines that tell their place, with bytes that are no text.
fn written(number: u32) -> Vec<u8> {
    let mut log = Vec::new();
    for line in 0..2_000 {
        log.extend_from_slice(format!("attempt {number} line {line} \x1b]0;title\x07").as_bytes());
        log.extend_from_slice(&[0xff, 0x00, b'\r', b'\n']);
    }
    log.extend_from_slice(b"no line end");
    log
}

/// Serves two attempts, each stream cut after a few bytes more than the last one.
fn cutting() -> impl FnMut(&Asked) -> Answer {
    let mut cut = 1;
    let mut cuts = 0;
    move |asked| match asked.route() {
        "/api/v1/jobs/7" => match cuts {
            0 => Answer::Json(200, job(7, "running", None, 1)),
            _ => Answer::Json(200, job(7, "finished", Some("succeeded"), 2)),
        },
        "/api/v1/jobs/7/log" => {
            let attempt = asked.query("attempt").map_or(1, |attempt| attempt.parse().unwrap());
            let offset = asked.query("offset").map_or(0, |offset| offset.parse().unwrap());
            let log = written(attempt);
            cut = cut * 3 % 20_011 + 1;
            cuts += 1;
            let end = (offset + cut).min(log.len());
            let headers = vec![format!("CI-Runner-Attempt: {attempt}"), format!("CI-Runner-Log-Offset: {offset}")];
            let pieces = log[offset..end].chunks(1_000).map(<[u8]>::to_vec).collect();
            let then = if end == log.len() { Then::End } else { Then::Break };
            Answer::Stream { headers, pieces, then }
        }
        other => panic!("{other}"),
    }
}

#[test]
fn following_loses_and_repeats_nothing_when_streams_break() {
    let fake = Fake::new(cutting());
    let output = fake.run(&["logs", "-f", "7"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let expected = [written(1), written(2)].concat();
    assert!(output.stdout == expected, "{} bytes instead of {}", output.stdout.len(), expected.len());
    let note = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(note.contains("── attempt 2 · attempt 1 exited with 1 ──"), "{note}");
    // The control: streams did break in the middle, and a client that began anew each time would have repeated bytes.
    let asked: Vec<Asked> = fake.asked().into_iter().filter(|asked| asked.route().ends_with("/log")).collect();
    let resumed = asked.iter().filter(|asked| asked.query("offset").is_some_and(|offset| offset != "0")).count();
    assert!(resumed > 10, "{resumed} of {}", asked.len());
}

#[test]
fn following_goes_on_when_the_daemon_comes_back() {
    let mut fake = Fake::new(cutting());
    let mut child = fake.command(&["logs", "-f", "7"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    fake.until_asked("/api/v1/jobs/7/log", 3);
    fake.go();
    // Only with nobody there does it say so; then it waits.
    let mut said = String::new();
    let mut stderr = child.stderr.take().unwrap();
    let mut out = child.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        out.read_to_end(&mut bytes).unwrap();
        bytes
    });
    while !said.contains("waiting for it to come back") {
        let mut piece = [0; 200];
        let count = stderr.read(&mut piece).unwrap();
        assert!(count > 0, "it ended: {said}");
        said.push_str(&String::from_utf8_lossy(&piece[..count]));
    }
    fake.come();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(reader.join().unwrap() == [written(1), written(2)].concat());
}

#[test]
fn following_and_waiting_begin_before_the_daemon_does() {
    for words in [&["logs", "-f", "7"][..], &["wait", "7"]] {
        let mut fake = Fake::new(|asked| match asked.route() {
            "/api/v1/jobs/7" => Answer::Json(200, job(7, "finished", Some("succeeded"), 1)),
            "/api/v1/events" => Answer::Stream { headers: vec![], pieces: vec![], then: Then::Stay },
            _ => Answer::Stream { headers: vec![], pieces: vec![b"x\n".to_vec()], then: Then::End },
        });
        fake.go();
        let mut child = fake.command(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        let mut stderr = child.stderr.take().unwrap();
        while !said.contains("waiting for a daemon") {
            let mut piece = [0; 200];
            let count = stderr.read(&mut piece).unwrap();
            assert!(count > 0, "{words:?} ended: {said}");
            said.push_str(&String::from_utf8_lossy(&piece[..count]));
        }
        assert!(said.contains("30 s") && said.contains("api.sock"), "{said}");
        fake.come();
        stderr.read_to_string(&mut said).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0), "{words:?}: {said}");
        assert_eq!(said.matches("waiting for").count(), 1, "it is said once: {said}");
    }
}

#[test]
fn a_daemon_that_never_comes_is_exit_2_when_the_time_is_up() {
    let mut fake = Fake::new(|_| Answer::Nothing);
    fake.go();
    let output = fake.run(&["wait", "7", "--timeout", "1s"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("waiting for a daemon, at most 1 s") && said.contains("no daemon came"), "{said}");
    // What does not wait says so at once: the control.
    let output = fake.run(&["logs", "7"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(!String::from_utf8_lossy(&output.stderr).contains("waiting"));
}

#[test]
fn a_pipe_gets_the_bytes_and_a_person_none_that_a_terminal_obeys() {
    let fake = Fake::new(|asked| match asked.route() {
        "/api/v1/jobs/7" => Answer::Json(200, job(7, "finished", Some("succeeded"), 1)),
        _ => Answer::Stream {
            headers: vec!["CI-Runner-Attempt: 1".into()],
            pieces: vec![b"a\x1b]0;ti".to_vec(), b"tle\x07b\xff\n".to_vec()],
            then: Then::End,
        },
    });
    assert_eq!(fake.run(&["logs", "7"]).stdout, b"a\x1b]0;title\x07b\xff\n");
    // `--color always` asks for the form for people.
    assert_eq!(fake.run(&["logs", "7", "--color", "always"]).stdout, "ab\u{fffd}\n".as_bytes());
    assert_eq!(fake.run(&["logs", "7", "--color", "always", "--raw"]).stdout, b"a\x1b]0;title\x07b\xff\n");
}

#[test]
fn times_stand_before_lines() {
    let line = |offset: u64, next: u64, rest: &str| {
        format!("{{\"offset\":{offset},\"next\":{next},\"at\":\"2026-11-21T11:58:00.250Z\",{rest}}}\n")
    };
    let lines = [
        line(0, 4, r#""text":"one""#),
        line(4, 8, r#""text":"part","unfinished":true"#),
        line(8, 10, r#""base64":"/w==","continues":true"#),
        line(10, 13, r#""text":"end","unfinished":true"#),
    ]
    .concat();
    let (first, rest) = lines.split_at(50);
    let pieces = vec![first.as_bytes().to_vec(), rest.as_bytes().to_vec()];
    let fake = Fake::new(move |asked| match asked.route() {
        "/api/v1/jobs/7" => Answer::Json(200, job(7, "finished", Some("succeeded"), 1)),
        _ => Answer::Stream { headers: vec![], pieces: pieces.clone(), then: Then::End },
    });
    let time = "2026-11-21 11:58:00.250";
    let expected =
        [format!("{time} one\n{time} part").as_bytes(), b"\xff\n", format!("{time} end").as_bytes()].concat();
    assert_eq!(fake.run(&["logs", "7", "--times"]).stdout, expected);
    let log = fake.asked().into_iter().find(|asked| asked.route().ends_with("/log")).unwrap();
    assert_eq!(log.query("format").as_deref(), Some("ndjson"));
}

#[test]
fn options_become_parameters_and_unknown_jobs_are_errors() {
    let fake = Fake::new(|asked| match asked.route() {
        "/api/v1/jobs/7/log" => Answer::Stream { headers: vec![], pieces: vec![b"x\n".to_vec()], then: Then::End },
        _ => problem(404, "there is no job 9"),
    });
    let output = fake.run(&["logs", "7", "--attempt", "2", "--tail", "5"]);
    assert_eq!(output.stdout, b"x\n");
    assert_eq!(fake.asked()[0].path, "/api/v1/jobs/7/log?attempt=2&tail=5");
    for words in [&["logs", "9"][..], &["logs", "-f", "9"]] {
        let output = fake.run(words);
        assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(1), &b"ci-runner: there is no job 9\n"[..]));
    }
}

/// A daemon with no place for one more follower is asked from time to time instead: nothing is lost, repeated or said.
#[test]
fn in_a_crowd_following_and_waiting_become_asking() {
    let mut reads = 0;
    let fake = Fake::new(move |asked| match asked.route() {
        "/api/v1/jobs/7" if reads < 2 => Answer::Json(200, job(7, "running", None, 1)),
        "/api/v1/jobs/7" => Answer::Json(200, job(7, "finished", Some("succeeded"), 1)),
        "/api/v1/jobs/7/log" if asked.query("follow").is_some() => crowded(),
        "/api/v1/jobs/7/log" => {
            reads += 1;
            let offset = asked.query("offset").map_or(0, |offset| offset.parse().unwrap());
            let log = written(1);
            let end = if reads < 3 { offset + 1_000 } else { log.len() };
            let headers = vec!["CI-Runner-Attempt: 1".to_owned(), format!("CI-Runner-Log-Offset: {offset}")];
            Answer::Stream { headers, pieces: vec![log[offset..end].to_vec()], then: Then::End }
        }
        other => panic!("{other}"),
    });
    let output = fake.run(&["logs", "-f", "7"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), said.as_str()), (Some(0), ""));
    assert!(output.stdout == written(1), "{} bytes", output.stdout.len());

    let mut looks = 0;
    let fake = Fake::new(move |asked| match asked.route() {
        "/api/v1/events" => crowded(),
        "/api/v1/jobs/7" => {
            looks += 1;
            let finished = looks > 2;
            let (state, outcome) = if finished { ("finished", Some("succeeded")) } else { ("running", None) };
            Answer::Json(200, job(7, state, outcome, 1))
        }
        other => panic!("{other}"),
    });
    let output = fake.run(&["wait", "7"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), said.as_str()), (Some(0), ""));
    let looks = fake.asked().iter().filter(|asked| asked.route() == "/api/v1/jobs/7").count();
    assert!((3..10).contains(&looks), "{looks}: it asks again, and not in a tight loop");

    let fake = Fake::new(|asked| match asked.route() {
        "/api/v1/events" => crowded(),
        _ => Answer::Json(200, job(7, "running", None, 1)),
    });
    let output = fake.run(&["wait", "7", "--timeout", "1"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("the time is up; not finished: 7"), "{said}");
}

fn crowded() -> Answer {
    let kind = "urn:ci-runner:problem:too-many-streams";
    let body =
        serde_json::json!({ "type": kind, "title": "Service Unavailable", "status": 503, "detail": "many follow" });
    Answer::Json(503, body.to_string())
}
