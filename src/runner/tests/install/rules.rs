//! What the service manager is asked, as a table of what changed: the rules of a switch.

use ci_runner::install::Place;
use ci_runner::install::plan::{Action, Plan};
use ci_runner::install::services::{Asked, Now, ask};

const UNITS: &str = "/etc/systemd/system/";

fn asked(changed: &[(&str, Action)], now: Now) -> Asked {
    asked_with(0, changed, now)
}

fn asked_with(slot_users: u32, changed: &[(&str, Action)], now: Now) -> Asked {
    let place = Place { root: "/".into(), prefix: "/usr/local".into(), slot_users };
    let plan: Plan = changed.iter().map(|(path, action)| (path.into(), *action)).collect();
    ask(&place, &plan, |_| now)
}

fn words(asked: &Asked) -> Vec<String> {
    asked.units.iter().map(|(verb, unit)| format!("{verb} {unit}")).collect()
}

#[test]
fn a_change_asks_for_what_a_switch_would() {
    let unit = |name: &str| format!("{UNITS}{name}");
    let cases: [(&str, &[&str], bool); 8] = [
        ("/usr/local/share/man/man1/ci-runner.1", &[], false),
        ("/etc/ci-runner/config.toml", &["restart ci-runner-exporter.service", "reload ci-runner.service"], false),
        ("/etc/ci-runner/policy.json", &["reload ci-runner-spawner.service"], false),
        ("/usr/local/bin/ci-runner-spawner", &["reload ci-runner-spawner.service"], false),
        ("/usr/local/bin/ci-runner", &["restart ci-runner-exporter.service", "restart ci-runner.service"], false),
        (&unit("ci-runner.service"), &["restart ci-runner.service"], true),
        (&unit("ci-runner-spawner.service"), &[], true),
        (&unit("ci-runner.socket"), &[], true),
    ];
    for (path, expected, reloads) in cases {
        let asked = asked(&[(path, Action::Update)], Now::Active);
        // What an added service needs is its own line here; what holds jobs is never among the restarted.
        let found: Vec<String> = words(&asked);
        assert_eq!(found, expected, "{path}");
        assert_eq!(asked.reload_manager, reloads, "{path}");
        assert!(asked.enable.is_empty(), "{path}");
        let waits = ["ci-runner-spawner.service", "ci-runner.socket"].iter().any(|name| path == unit(name));
        assert_eq!(asked.notes.len(), usize::from(waits), "{path}: {:?}", asked.notes);
    }
}

#[test]
fn what_a_person_switched_off_stays_off_and_new_units_are_enabled() {
    let path = format!("{UNITS}ci-runner.service");
    let off = asked(&[("/usr/local/bin/ci-runner", Action::Update)], Now::Off);
    assert_eq!(words(&off), Vec::<String>::new());
    assert!(off.notes.iter().any(|note| note.contains("ci-runner.service is off")), "{:?}", off.notes);
    let stopped = asked(&[("/usr/local/bin/ci-runner", Action::Update)], Now::Enabled);
    assert!(words(&stopped).contains(&"start ci-runner.service".to_owned()));
    let new = asked(&[(&path, Action::Create)], Now::Active);
    assert_eq!(
        (words(&new), new.enable),
        (vec!["start ci-runner.service".to_owned()], vec!["ci-runner.service".to_owned()])
    );
}

#[test]
fn sockets_come_first_and_the_daemon_after_what_holds_jobs() {
    let paths: Vec<String> = ["ci-runner.socket", "ci-runner.service", "ci-runner-spawner.service"]
        .iter()
        .map(|name| format!("{UNITS}{name}"))
        .collect();
    let changed: Vec<(&str, Action)> = paths.iter().map(|path| (path.as_str(), Action::Create)).collect();
    let words = words(&asked(&changed, Now::Active));
    assert_eq!(words, ["start ci-runner.socket", "start ci-runner-spawner.service", "start ci-runner.service"]);
}

#[test]
fn more_users_are_read_anew_by_the_spawner_that_has_the_jobs() {
    let changed = [("/etc/ci-runner/jobs.json", Action::Update), ("/etc/ci-runner/config.toml", Action::Update)];
    let asked = asked_with(3, &changed, Now::Active);
    let want = ["reload ci-runner-jobs.service", "restart ci-runner-exporter.service", "reload ci-runner.service"];
    assert_eq!(words(&asked), want);
}
