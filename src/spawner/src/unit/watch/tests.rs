//! What becomes of an attempt while PID 1 does not answer; its shim is played by a process that any signal ends.

use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command};

use super::*;
use crate::unit::cgroup::UnitGroup;
use crate::unit::server::tests::server;

fn key() -> AttemptKey {
    "0123abcd-7-1".parse().expect("a key")
}

/// An attempt whose unit was asked for long ago, without an answer, and whose job has not been handed over.
fn asked_for(server: &mut Server) -> Child {
    let shim = Command::new("sleep").arg("60").spawn().expect("started");
    server.shared.attempts.make(&key()).expect("made");
    server.shared.attempts.mark(&key(), names::LOCK).expect("marked");
    let live = Live {
        pid: shim.id() as i32,
        pidfd: procs::pin(shim.id() as i32),
        lock_fd: 0,
        group: UnitGroup::of_dir(&server.mount.join("none")),
        call: Call::Unknown { since_ms: 0 },
        over: None,
        handed_ms: None,
        terminate: false,
        kill_ms: None,
        due_ms: u64::MAX,
        pause_ms: 0,
    };
    server.attempts.insert(key(), State::Live(live));
    shim
}

fn call(server: &mut Server) -> &mut Call {
    let Some(State::Live(live)) = server.attempts.get_mut(&key()) else { panic!("it is alive") };
    &mut live.call
}

fn told(active_state: &str) -> Facts {
    Facts { load_state: "loaded".to_owned(), active_state: active_state.to_owned(), ..Facts::default() }
}

/// Nobody else may have it meanwhile: its unit could still come, and only its shim can refuse that the job.
#[test]
fn a_start_without_an_answer_is_the_shims_until_pid_1_says_that_there_is_no_unit() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut server = server(dir.path());
    let mut shim = asked_for(&mut server);
    server.heard(Told::Down("no answer".to_owned()));
    server.do_what_is_due();
    assert!(matches!(call(&mut server), Call::Unknown { .. }));
    server.heard(Told::Up);
    // It may be on its way still.
    server.judged(&key(), &told("inactive"));
    server.do_what_is_due();
    assert!(matches!(call(&mut server), Call::Unknown { since_ms: 1.. }));
    assert!(shim.try_wait().expect("a look").is_none(), "nobody has signalled it");
    *call(&mut server) = Call::Unknown { since_ms: 0 };
    server.judged(&key(), &told("inactive"));
    assert!(matches!(call(&mut server), Call::Failed(_)));
    server.do_what_is_due();
    assert!(!shim.wait().expect("waited for").success(), "it was told to give up");
}

/// A cancel of it waited for PID 1, for ever.
#[test]
fn a_start_that_nobody_answers_is_given_up_unless_its_job_was_handed_over() {
    for began in [true, false] {
        let dir = tempfile::tempdir().expect("a directory");
        let mut server = server(dir.path());
        let mut shim = asked_for(&mut server);
        let now = sys::boottime_ms();
        for (since_ms, is_given_up) in [(now, false), (0, !began)] {
            let Some(State::Live(live)) = server.attempts.get_mut(&key()) else { panic!("it is alive") };
            (live.call, live.due_ms) = (Call::Unknown { since_ms }, 0);
            if began {
                server.shared.attempts.mark(&key(), names::BEGAN).expect("marked");
            }
            server.do_what_is_due();
            assert_eq!(matches!(call(&mut server), Call::Failed(_)), is_given_up, "since {since_ms}, began: {began}");
        }
        server.do_what_is_due();
        if began {
            shim.kill().expect("killed");
        }
        assert_eq!(shim.wait().expect("waited for").signal() == Some(libc::SIGKILL), began);
    }
}

#[test]
fn a_start_without_an_answer_was_taken_when_its_unit_is_there() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut server = server(dir.path());
    let mut shim = asked_for(&mut server);
    server.heard(Told::Down("no answer".to_owned()));
    server.heard(Told::Up);
    server.judged(&key(), &told("active"));
    server.do_what_is_due();
    assert_eq!(*call(&mut server), Call::Taken);
    assert!(shim.try_wait().expect("a look").is_none(), "nobody has signalled it");
    shim.kill().expect("killed");
    shim.wait().expect("waited for");
}
