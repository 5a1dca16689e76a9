//! Schedules that the configuration declares: they come, run, change and go with it, and with it only.

use crate::support::small::Small;
use crate::support::{Host, wait_for};
use serde_json::{Value, json};
use std::fs;
use std::time::{Duration, Instant};

const BASE: &str = "grace = 1\n";

fn declared(calendar: &str, text: &str) -> String {
    format!(
        "{BASE}[schedules.tick]\ncalendar = {calendar:?}\ntimezone = \"UTC\"\nshell = {text:?}\njob = {{ retry = 0 }}\n"
    )
}

fn schedule(host: &Host, name: &str) -> Option<Value> {
    let response = host.call("GET", &format!("/api/v1/schedules/{name}"), None);
    (response.status == 200).then(|| response.json())
}

fn reload(host: &Host, config: &str) {
    let count = || host.daemon_log().matches("configuration reloaded").count();
    let before = count();
    fs::write(host.path("config.toml"), config).unwrap();
    host.signal("HUP");
    wait_for("the reload", || (count() > before).then_some(()));
}

fn jobs_of(host: &Host, name: &str) -> usize {
    host.all_jobs().iter().filter(|job| job["name"] == name).count()
}

#[test]
fn a_declared_schedule_comes_and_goes_with_the_configuration() {
    let mut host = Host::new();
    host.config = declared("* * * * * *", "true");
    host.start();
    let shown = schedule(&host, "tick").expect("it is there");
    assert_eq!((&shown["source"], &shown["calendar"]), (&json!("configuration"), &json!("* * * * * *")));
    wait_for("a run", || (jobs_of(&host, "tick") > 0).then_some(()));

    // Only the configuration changes or removes it, and says so.
    for (method, path, body) in [
        ("DELETE", "/api/v1/schedules/tick", None),
        ("PUT", "/api/v1/schedules/tick", Some(json!({"name": "tick", "calendar": "daily", "job": {"shell": "x"}}))),
        ("POST", "/api/v1/schedules", Some(json!({"name": "tick", "calendar": "daily", "job": {"shell": "x"}}))),
    ] {
        let refused = host.call(method, path, body.as_ref());
        assert_eq!(refused.status, 409, "{method}: {}", refused.text());
        assert!(refused.text().contains("[schedules.tick]"), "{method}: {}", refused.text());
    }
    // The control: one of a person's goes.
    host.post("/api/v1/schedules", &json!({"name": "mine", "calendar": "daily", "job": {"shell": "true"}}));
    assert_eq!(schedule(&host, "mine").unwrap()["source"], "command");
    assert!(host.call("DELETE", "/api/v1/schedules/mine", None).status < 300);

    // A pause is remembered over a change and a restart.
    host.post("/api/v1/schedules/tick/pause", &json!({}));
    reload(&host, &declared("* * * * * *", "echo other"));
    let changed = || schedule(&host, "tick").filter(|shown| shown["job"]["shell"] == "echo other");
    let shown = wait_for("the change", changed);
    assert!(shown["paused_by"].is_string(), "{shown}");
    host.stop();
    host.config = declared("* * * * * *", "echo other");
    host.start();
    assert!(schedule(&host, "tick").unwrap()["paused_by"].is_string());
    let paused = jobs_of(&host, "tick");
    host.post("/api/v1/schedules/tick/resume", &json!({}));
    wait_for("a run after the pause", || (jobs_of(&host, "tick") > paused).then_some(()));

    // A bad one leaves everything as it is.
    fs::write(host.path("config.toml"), declared("61 * * * *", "true")).unwrap();
    host.signal("HUP");
    wait_for("words about the calendar", || host.daemon_log().contains("schedules.tick.calendar").then_some(()));
    assert!(schedule(&host, "tick").is_some());

    // Declared no more, it is gone, after a restart too.
    reload(&host, BASE);
    wait_for("its end", || schedule(&host, "tick").is_none().then_some(()));
    host.stop();
    host.config = BASE.to_owned();
    host.start();
    assert!(schedule(&host, "tick").is_none());
}

/// A reload whose commit failed used to leave the configuration's schedules out until the next one.
#[test]
fn a_schedule_declared_on_a_full_disk_comes_when_there_is_room() {
    let Some(small) = Small::mount("a_schedule_declared_on_a_full_disk_comes_when_there_is_room", "4m") else { return };
    let mut host = Host::new();
    host.state = small.join("state");
    host.config = format!("{BASE}[schedules.old]\ncalendar = \"yearly\"\nshell = \"true\"\n");
    host.start();
    assert!(schedule(&host, "old").is_some());
    small.fill();
    assert_eq!(super::service::submit_until_full(&host).1.status, 507);
    reload(&host, &declared("* * * * * *", "true"));
    // A look at the disk every second: over one of them at least it stays full.
    let until = Instant::now() + Duration::from_millis(1_500);
    wait_for("a look at the disk", || {
        assert_eq!(host.get("/api/v1/status")["state"], "degraded");
        (Instant::now() > until).then_some(())
    });
    assert!(schedule(&host, "tick").is_none() && schedule(&host, "old").is_some(), "nothing can be kept yet");
    small.free();
    wait_for("the schedule", || schedule(&host, "tick"));
    assert!(schedule(&host, "old").is_none(), "declared no more");
    wait_for("a run", || (jobs_of(&host, "tick") > 0).then_some(()));
    reload(&host, BASE);
    host.finish_all(Duration::from_secs(20));
    host.assert_clean();
    host.stop();
    drop(host);
}
