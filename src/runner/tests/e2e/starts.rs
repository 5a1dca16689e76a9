//! Starts that come to nothing, and what later ones and `doctor` say of them.

use crate::support::{Host, wait_for};
use serde_json::Value;
use std::net::TcpListener;

const UNCLEAN: &str = "the last stop was unclean";

/// The next start used to check the whole database, and to speak of an unclean stop.
#[test]
fn a_start_that_finds_its_port_taken_is_no_unclean_stop() {
    let mut host = Host::started();
    host.finish(host.add(&host.shell("true")));
    host.stop();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    host.words = vec!["--http".to_owned(), address];
    assert_eq!(host.refused().0.code(), Some(2));
    host.words.clear();
    host.start();
    // The control: what is checked is told, also after a start that came to nothing in between.
    host.kill();
    assert!(!host.daemon_log().contains(UNCLEAN), "{}", host.daemon_log());
    host.words = vec!["--http".to_owned(), taken.local_addr().unwrap().to_string()];
    assert_eq!(host.refused().0.code(), Some(2));
    host.words.clear();
    host.start();
    wait_for("the check", || host.daemon_log().contains(UNCLEAN).then_some(()));
}

fn doctor(host: &Host) -> Vec<Value> {
    let done = host.run_cli(&["doctor", "--output", "json"]);
    serde_json::from_slice(&done.stdout).unwrap()
}

fn found<'a>(findings: &'a [Value], check: &str) -> Vec<&'a Value> {
    findings.iter().filter(|finding| finding["check"] == check).collect()
}

/// It used to look at the directory that its own arguments name, and to say that of the daemon "is not looked at".
#[test]
fn doctor_looks_at_the_state_of_the_daemon_that_answers() {
    let host = Host::started();
    let state = host.state.to_str().unwrap();
    let findings = doctor(&host);
    let told = found(&findings, "state");
    assert!(told.iter().any(|finding| finding["text"] == format!("{state} is writable and private")), "{told:#?}");
    let told = found(&findings, "runtime");
    let runtime = host.runtime();
    let runtime = runtime.to_str().unwrap();
    assert!(told.iter().any(|finding| finding["text"].as_str().unwrap().starts_with(runtime)), "{told:#?}");
    assert_eq!(host.get("/api/v1/status")["state_dir"], state);
    // What may be public names no directory.
    assert_eq!((&host.get("/status")["state_dir"], &host.get("/status")["runtime_dir"]), (&Value::Null, &Value::Null));
}

/// A degraded daemon used to get the advice to start it.
#[test]
fn doctor_tells_a_degraded_daemon_from_a_dead_one() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut host = Host::new();
    host.words = vec!["--metrics".to_owned(), taken.local_addr().unwrap().to_string()];
    host.start();
    wait_for("a degraded state", || (host.get("/api/v1/status")["state"] == "degraded").then_some(()));
    let findings = doctor(&host);
    let degraded = found(&findings, "daemon").into_iter().find(|finding| finding["grade"] == "fail").unwrap().clone();
    let mend = degraded["mend"].as_str().unwrap();
    assert!(mend.contains("the daemon runs") && !mend.contains("systemctl start"), "{degraded:#}");
    assert!(degraded["matters"].as_str().unwrap().contains("the daemon runs"), "{degraded:#}");
    host.stop();
    let findings = doctor(&host);
    let dead = found(&findings, "daemon")[0];
    assert!(dead["mend"].as_str().unwrap().contains("systemctl start"), "the control: {dead:#}");
}
