//! `[watch]` and `[notifiers]` read again under a running daemon: what is new counts at once, what waits is kept.

use crate::notices::{collector, events, host, outcome, script, submit};
use crate::room::reload;
use crate::support::{Host, wait_for};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// A notifier that appends to this file whatever it gets, before and after a gate is open.
fn gated(host: &Host, name: &str, more: &str) -> String {
    let (begun, gate, to) = (host.path("begun"), host.path("gate"), host.path("events"));
    let text = format!(
        "line=$(cat); echo \"$line\" >> {}; until test -e {}; do sleep 0.02; done; echo \"$line\" >> {}",
        begun.display(),
        gate.display(),
        to.display()
    );
    let path = script(host, name, &text);
    format!("[notifiers.ops]\nkind = \"command\"\ncommand = [{path:?}]\ntimeout = \"60s\"\n{more}")
}

fn program(name: &str, path: &Path) -> String {
    format!("[notifiers.{name}]\nkind = \"command\"\ncommand = [{path:?}]\n")
}

fn notifier(host: &Host, name: &str) -> Option<Value> {
    let all = host.get("/api/v1/notifiers");
    all.as_array().unwrap().iter().find(|notifier| notifier["name"] == name).cloned()
}

fn kinds(host: &Host) -> Vec<(String, Value)> {
    let told = events(host).into_iter();
    told.map(|event| (event["type"].as_str().unwrap().to_owned(), event["data"]["watch"].clone())).collect()
}

#[test]
fn limits_of_watches_change_under_running_jobs() {
    let head = "grace = 1\n[watch]\nevery = \"1s\"\n";
    let mut notifiers = String::new();
    let host = host(|host| {
        let ops = collector(host, "watches = [\"stuck_job\"]");
        fs::write(host.path("ops"), &ops).unwrap();
        format!("[watch]\nevery = \"1s\"\n{ops}")
    });
    notifiers.push_str(&fs::read_to_string(host.path("ops")).unwrap());
    let gate = host.path("open");
    let id = submit(&host, json!({"shell": format!("until test -e {}; do sleep 0.05; done", gate.display())}));
    host.wait_state(id, "running");
    assert_eq!(host.get("/api/v1/watches")["active"], json!([]), "the control: there is no such limit");
    reload(&host, &format!("{head}stuck_after = \"1s\"\n{notifiers}"));
    let started = ("watch.started".to_owned(), json!("stuck_job"));
    wait_for("the start", || (kinds(&host) == [started.clone()]).then_some(()));
    // The limit is gone, and so is the alarm, though the job runs on.
    reload(&host, &format!("{head}{notifiers}"));
    let ended = ("watch.ended".to_owned(), json!("stuck_job"));
    wait_for("the end", || (kinds(&host) == [started.clone(), ended.clone()]).then_some(()));
    assert_eq!(host.state_of(id), "running");
    // Nonsense changes nothing, and is told.
    fs::write(host.path("config.toml"), format!("{head}stuck_after = \"soon\"\n")).unwrap();
    host.signal("HUP");
    let refused = |log: String| log.contains("the configuration was not reloaded") && log.contains("stuck_after");
    wait_for("the refusal", || refused(host.daemon_log()).then_some(()));
    assert!(notifier(&host, "ops").is_some(), "what was before holds");
    // And stays told, until a reload is taken: the next start would fail.
    let problems = || host.get("/api/v1/status")["problems"].to_string();
    let told = |text: &str| text.contains("stuck_after") && text.contains("a restart would fail");
    wait_for("the problem", || told(&problems()).then_some(()));
    reload(&host, &format!("{head}{notifiers}"));
    wait_for("no problem", || (!told(&problems())).then_some(()));
    fs::write(&gate, "").unwrap();
    host.finish(id);
}

#[test]
fn notifiers_come_change_and_go() {
    let host = host(|host| {
        let bad = script(host, "bad", "exit 1");
        format!("{}{}", program("first", &bad), program("other", &bad))
    });
    let fails = |name: &str| {
        let told = || notifier(&host, name).is_some_and(|notifier| notifier["counts"]["failed"].as_u64() > Some(0));
        wait_for("a try that fails", || told().then_some(()));
    };
    let id = submit(&host, json!({ "shell": "true", "notify": ["first", "other"] }));
    outcome(&host, id);
    fails("first");
    fails("other");
    // One changes and gets what waited for it; one goes, and what waited for it with it; one is new and not told of what was before.
    let to = host.path("events");
    let good = script(&host, "good", &format!("cat >> {0}; echo >> {0}", to.display()));
    let new = script(&host, "new", &format!("cat >> {0}; echo >> {0}", host.path("news").display()));
    let all = format!("outcomes = \"all\"\n{}outcomes = \"all\"\n", program("new", &new));
    reload(&host, &format!("grace = 1\n{}{all}", program("first", &good)));
    wait_for("what had waited", || (!events(&host).is_empty()).then_some(()));
    assert!(notifier(&host, "other").is_none());
    wait_for("a word about what is dropped", || {
        host.daemon_log().contains("1 notices waited for notifiers that are configured no more").then_some(())
    });
    let next = submit(&host, json!({ "shell": "exit 3", "retry": 0 }));
    let told = |name: &str| {
        let text = fs::read_to_string(host.path(name)).unwrap_or_default();
        let events = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        events.map(|event| event["data"]["id"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    wait_for("the end of the next", || (told("news") == [next] && told("events") == [id, next]).then_some(()));
    // It comes back, and nothing waits for it.
    reload(&host, &format!("grace = 1\n{}", program("other", &good)));
    assert_eq!(notifier(&host, "other").unwrap()["waiting"], json!(0));
    let refused = host.run_cli(&["add", "--notify", "first", "--", "true"]);
    assert_eq!(refused.status.code(), Some(3), "{refused:?}");
    let last = submit(&host, json!({ "shell": "true", "notify": ["other"] }));
    wait_for("the last", || (told("events") == [id, next, last]).then_some(()));
    assert_eq!(told("news"), [next]);
}

/// It used to be told a second time while the first try was still at it.
#[test]
fn a_notifier_that_changes_while_it_tries_is_not_tried_beside_itself() {
    let host = host(|host| gated(host, "gated", ""));
    let first = submit(&host, json!({ "shell": "true", "notify": ["ops"] }));
    let lines = |name: &str| fs::read_to_string(host.path(name)).unwrap_or_default().lines().count();
    wait_for("the first try", || (lines("begun") == 1).then_some(()));
    reload(&host, &format!("grace = 1\n{}", gated(&host, "gated", "rate_max = 7\n")));
    let second = submit(&host, json!({ "shell": "true", "notify": ["ops"] }));
    wait_for("the second in the queue", || (notifier(&host, "ops")?["waiting"] == 2).then_some(()));
    fs::write(host.path("gate"), "").unwrap();
    let told = || events(&host).iter().map(|event| event["data"]["id"].as_u64().unwrap()).collect::<Vec<_>>();
    wait_for("both", || (told() == [first, second]).then_some(()));
    wait_for("the end of all tries", || (notifier(&host, "ops")?["waiting"] == 0).then_some(()));
    assert_eq!((told(), lines("begun")), (vec![first, second], 2));
}

/// They stayed blind for what was left of the old pause, an hour for one.
#[test]
fn a_reload_that_shortens_the_pause_between_two_looks_is_heeded_at_once() {
    let config = |every: &str| format!("[watch]\nevery = \"{every}\"\nstuck_after = \"1s\"\n");
    let host = host(|_| config("1h"));
    let id = submit(&host, host.shell("sleep 300"));
    wait_for("the job to run", || (host.state_of(id) == "running").then_some(()));
    reload(&host, &format!("grace = 1\n{}", config("1s")));
    wait_for("the alarm", || host.get("/api/v1/watches").to_string().contains("stuck_job").then_some(()));
}
