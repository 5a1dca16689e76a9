//! `wait`: how jobs ended, woken by events, with a limit, over a daemon that goes away.

use super::server::{Answer, Asked, Fake, Then, event, job, problem};
use super::text;
use std::os::unix::process::CommandExt as _;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A job that is open until its state was asked for so many times.
fn finishing(after: usize, outcome: &'static str) -> impl FnMut(&Asked) -> Answer {
    let mut times = 0;
    move |asked| match asked.route() {
        "/api/v1/events" => {
            Answer::Stream { headers: vec![], pieces: vec![b"retry: 1\n\n".to_vec()], then: Then::Break }
        }
        _ => {
            times += 1;
            match times <= after {
                true => Answer::Json(200, job(7, "running", None, 1)),
                false => Answer::Json(200, job(7, "finished", Some(outcome), 1)),
            }
        }
    }
}

#[test]
fn wait_tells_how_jobs_ended() {
    for (outcome, code) in [("succeeded", 0), ("failed", 1), ("cancelled", 1)] {
        let fake = Fake::new(finishing(3, outcome));
        let (got, out, _) = text(&fake.run(&["wait", "7"]));
        assert_eq!((got, out), (code, format!("7\t{outcome}\t1.5s\tmake test\n")));
    }
    let fake = Fake::new(|asked| match asked.route() {
        "/api/v1/events" => Answer::Stream { headers: vec![], pieces: vec![], then: Then::Stay },
        _ => problem(404, "there is no job 9"),
    });
    assert_eq!(text(&fake.run(&["wait", "9"])), (1, String::new(), "ci-runner: there is no job 9\n".to_owned()));
}

/// 0 says that every job succeeded, whether anybody reads that or not.
#[test]
fn wait_without_a_reader_still_tells_by_its_exit_code() {
    for (outcome, code) in [("succeeded", 0), ("failed", 1)] {
        for words in [&["wait", "7"][..], &["wait", "7", "--output", "json"]] {
            let fake = Fake::new(finishing(3, outcome));
            let (reader, writer) = std::io::pipe().unwrap();
            drop(reader);
            let mut command = fake.command(words);
            let status = command.stdout(writer).stderr(Stdio::null()).status().unwrap();
            assert_eq!(status.code(), Some(code), "{outcome} {words:?}");
        }
    }
}

#[test]
fn wait_is_woken_by_events() {
    let mut told = false;
    let fake = Fake::new(move |asked| match asked.route() {
        "/api/v1/events" => {
            told = true;
            let pieces = vec![event(8, "finished"), event(7, "running"), event(7, "finished")];
            Answer::Stream { headers: vec![], pieces, then: Then::Stay }
        }
        _ if !std::mem::replace(&mut told, false) => Answer::Json(200, job(7, "finished", Some("succeeded"), 1)),
        _ => Answer::Json(200, job(7, "running", None, 1)),
    });
    assert_eq!(text(&fake.run(&["wait", "7"])).0, 0);
    // Asked twice only: before listening, and after the event of its own end.
    assert_eq!(fake.asked().iter().filter(|asked| asked.route() == "/api/v1/jobs/7").count(), 2);
}

/// It asked for every open job after every single event, which cost the daemon more than the jobs did.
#[test]
fn wait_asks_only_for_the_job_that_an_event_names() {
    const JOBS: u64 = 150;
    let mut asked_for = std::collections::HashMap::new();
    let fake = Fake::new(move |asked| match asked.route() {
        "/api/v1/events" => {
            let gap = b"event: gap\ndata: {}\n\n".to_vec();
            let pieces = (1..=JOBS).map(|id| if id == 100 { gap.clone() } else { event(id, "finished") }).collect();
            Answer::Stream { headers: vec![], pieces, then: Then::Stay }
        }
        path => {
            let id: u64 = path.strip_prefix("/api/v1/jobs/").unwrap().parse().unwrap();
            let times = asked_for.entry(id).or_insert(0);
            *times += 1;
            // The first time all of them run. 100 has no event of its own.
            match times {
                1 => Answer::Json(200, job(id, "running", None, 1)),
                _ => Answer::Json(200, job(id, "finished", Some("succeeded"), 1)),
            }
        }
    });
    let ids: Vec<String> = (1..=JOBS).map(|id| id.to_string()).collect();
    let words: Vec<&str> = ["wait", "-q"].into_iter().chain(ids.iter().map(String::as_str)).collect();
    let (code, _, err) = text(&fake.run(&words));
    assert_eq!(code, 0, "{err}");
    let asked = fake.asked().iter().filter(|asked| asked.route() != "/api/v1/events").count() as u64;
    // All once at first; 99 by their events; the gap asks for the 51 that are left, and finds them finished.
    assert_eq!(asked, JOBS + 99 + 51);
}

#[test]
fn wait_has_a_limit_and_ctrl_c_is_130() {
    let fake = Fake::new(|asked| match asked.route() {
        "/api/v1/events" => Answer::Stream { headers: vec![], pieces: vec![], then: Then::Stay },
        _ => Answer::Json(200, job(7, "running", None, 1)),
    });
    let (code, _, err) = text(&fake.run(&["wait", "7", "--timeout", "200ms"]));
    assert_eq!(code, 2);
    assert!(err.contains("the time is up; not finished: 7"), "{err}");

    let child = fake.command(&["wait", "7"]).process_group(0).stdout(Stdio::piped()).spawn().unwrap();
    // The handler stands before anything is asked.
    fake.until_asked("/api/v1/jobs/7", 2);
    let id = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(id, rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(130));
}

#[test]
fn wait_survives_a_daemon_that_goes_away() {
    let done = Arc::new(AtomicBool::new(false));
    let finished = done.clone();
    let mut fake = Fake::new(move |asked| match asked.route() {
        "/api/v1/events" => Answer::Stream { headers: vec![], pieces: vec![], then: Then::Break },
        _ if finished.load(Ordering::SeqCst) => Answer::Json(200, job(7, "finished", Some("succeeded"), 1)),
        _ => Answer::Json(200, job(7, "running", None, 1)),
    });
    let child = fake.command(&["wait", "7"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    fake.until_asked("/api/v1/jobs/7", 1);
    fake.go();
    done.store(true, Ordering::SeqCst);
    fake.come();
    let (code, out, _) = text(&child.wait_with_output().unwrap());
    assert_eq!((code, out.as_str()), (0, "7\tsucceeded\t1.5s\tmake test\n"));
}
