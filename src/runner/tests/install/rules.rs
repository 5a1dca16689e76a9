//! What the service manager is asked, as a table of what changed: the rules of a switch.

use ci_runner::install::manifest::Manifest;
use ci_runner::install::plan::{Action, Plan};
use ci_runner::install::services::{Asked, Now, ask};
use ci_runner::install::unfinished::Unfinished;
use ci_runner::install::{Jobs, Place};

const UNITS: &str = "/etc/systemd/system/";

fn asked(changed: &[(&str, Action)], now: Now) -> Asked {
    asked_with(Jobs::Units, changed, now)
}

fn asked_with(jobs: Jobs, changed: &[(&str, Action)], now: Now) -> Asked {
    let place = Place { root: "/".into(), prefix: "/usr/local".into(), jobs };
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
    let of_service = |asked: Asked| -> (Vec<String>, Vec<String>) {
        (words(&asked).into_iter().filter(|word| word.ends_with(" ci-runner.service")).collect(), asked.enable)
    };
    for (now, verb) in [(Now::Off, "start"), (Now::Enabled, "start"), (Now::Active, "restart")] {
        let new = of_service(asked(&[(&path, Action::Create)], now));
        assert_eq!(new, (vec![format!("{verb} ci-runner.service")], vec!["ci-runner.service".to_owned()]), "{now:?}");
    }
}

fn unfinished(changes: &[(&str, Action)]) -> Unfinished {
    let changes = changes.iter().map(|(path, action)| (path.into(), *action)).collect();
    Unfinished { changes, ..Unfinished::default() }
}

/// Everything that came was taken for done: nothing was enabled, and nothing of the new program ran.
#[test]
fn one_that_is_repeated_asks_for_what_the_try_before_did_not() {
    let unit = format!("{UNITS}ci-runner.service");
    let spawner = format!("{UNITS}ci-runner-spawner.service");
    let same: Plan = [&unit, &spawner].iter().map(|path| (path.into(), Action::Same)).collect();
    let ask_of = |unfinished: &Unfinished, plan: &Plan, now: Now| {
        let place = Place { root: "/".into(), prefix: "/usr/local".into(), jobs: Jobs::Units };
        ask(&place, &unfinished.untold(plan), |_| now)
    };
    // The first installation: enabled and started, whether PID 1 has been told of the file or not.
    let first = unfinished(&[(&unit, Action::Create), (&spawner, Action::Create)]);
    let off = ask_of(&first, &same, Now::Off);
    assert_eq!(words(&off), ["start ci-runner-spawner.service", "start ci-runner.service"]);
    assert_eq!((off.enable.len(), off.reload_manager), (2, true));
    // It had been started: the daemon starts again, what holds jobs does not.
    let on = ask_of(&first, &same, Now::Active);
    assert_eq!((words(&on), on.notes.len()), (vec!["restart ci-runner.service".to_owned()], 0), "{:?}", on.notes);
    // An upgrade.
    let mut plan = same.clone();
    let program = "/usr/local/bin/ci-runner";
    plan.insert(program.into(), Action::Same);
    let upgrade = ask_of(&unfinished(&[(program, Action::Update)]), &plan, Now::Active);
    assert_eq!(words(&upgrade), ["restart ci-runner-exporter.service", "restart ci-runner.service"]);
    // A unit that was to go was stopped and disabled before its file went.
    let back = ask_of(&unfinished(&[(&spawner, Action::Remove)]), &same, Now::Off);
    assert_eq!(
        (words(&back), back.enable),
        (vec!["start ci-runner-spawner.service".to_owned()], vec!["ci-runner-spawner.service".to_owned()])
    );
    // None before: a person switched it off.
    assert_eq!(words(&ask_of(&Unfinished::default(), &same, Now::Off)), Vec::<String>::new());
}

#[test]
fn the_mark_holds_what_waits_until_it_is_told() {
    let unit = format!("{UNITS}ci-runner.service");
    let plan = |action| -> Plan { [(unit.as_str().into(), action)].into() };
    let before = |changes: &[(&str, Action)], jobs: &[Jobs]| Manifest {
        slot_users: 2,
        unfinished: Some(Unfinished { jobs: jobs.iter().copied().collect(), ..unfinished(changes) }),
        ..Manifest::default()
    };
    assert_eq!(Unfinished::begin(None, &plan(Action::Create), true), unfinished(&[(&unit, Action::Create)]));
    for (was, action, now) in [
        (Action::Create, Action::Same, Some(Action::Create)),
        (Action::Create, Action::Update, Some(Action::Create)),
        (Action::Create, Action::Remove, Some(Action::Remove)),
        (Action::Update, Action::Same, Some(Action::Update)),
        (Action::Update, Action::Create, Some(Action::Create)),
        (Action::Remove, Action::Same, Some(Action::Create)),
    ] {
        let begun = Unfinished::begin(Some(&before(&[(&unit, was)], &[])), &plan(action), true);
        assert_eq!(begun.changes.get(std::path::Path::new(&unit)).copied(), now, "{was:?} {action:?}");
    }
    // How jobs ran, at every try.
    let begun = Unfinished::begin(Some(&before(&[], &[Jobs::Native(4), Jobs::Units])), &plan(Action::Same), true);
    let ran = [Jobs::Units, Jobs::Native(2), Jobs::Native(4)];
    assert_eq!((begun.jobs, begun.changes), (ran.into(), Plan::new()));
    // One that starts nothing adds nothing, and ends nothing that waits.
    let waits = before(&[(&unit, Action::Create)], &[]);
    let quiet = Unfinished::begin(Some(&waits), &plan(Action::Update), false);
    assert_eq!(quiet.changes, plan(Action::Create));
    assert!(quiet.clone().end(false).is_some() && quiet.end(true).is_none());
    assert_eq!(Unfinished::begin(None, &plan(Action::Create), false).end(false), None);
}

#[test]
fn sockets_come_first_and_the_daemon_after_what_holds_jobs() {
    let paths: Vec<String> = ["ci-runner.socket", "ci-runner.service", "ci-runner-spawner.service"]
        .iter()
        .map(|name| format!("{UNITS}{name}"))
        .collect();
    let changed: Vec<(&str, Action)> = paths.iter().map(|path| (path.as_str(), Action::Create)).collect();
    let words = words(&asked(&changed, Now::Off));
    assert_eq!(words, ["start ci-runner.socket", "start ci-runner-spawner.service", "start ci-runner.service"]);
}

#[test]
fn more_users_are_read_anew_by_the_spawner_that_has_the_jobs() {
    let changed = [("/etc/ci-runner/jobs.json", Action::Update), ("/etc/ci-runner/config.toml", Action::Update)];
    let asked = asked_with(Jobs::Native(3), &changed, Now::Active);
    let want = ["reload ci-runner-jobs.service", "restart ci-runner-exporter.service", "reload ci-runner.service"];
    assert_eq!(words(&asked), want);
    // Each has its own policy, where both are.
    assert_eq!(words(&asked_with(Jobs::Both(3), &changed, Now::Active)), want);
}

#[test]
fn what_takes_a_spawner_or_a_user_away_is_known() {
    for (was, next, loses) in [
        (Jobs::Units, Jobs::Units, false),
        (Jobs::Units, Jobs::Both(2), false),
        (Jobs::Units, Jobs::Native(2), true),
        (Jobs::Native(2), Jobs::Native(3), false),
        (Jobs::Native(3), Jobs::Native(2), true),
        (Jobs::Native(2), Jobs::Units, true),
        // Users of the pool `native` are others.
        (Jobs::Native(2), Jobs::Both(2), true),
        (Jobs::Both(2), Jobs::Both(3), false),
        (Jobs::Both(3), Jobs::Both(2), true),
        (Jobs::Both(2), Jobs::Units, true),
        (Jobs::Both(2), Jobs::Native(2), true),
    ] {
        assert_eq!(was.loses_with(next), loses, "{was:?} to {next:?}");
    }
}
