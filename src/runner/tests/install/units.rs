//! The units of `install` compared with those of a machine of the NixOS tests, directive by directive. Each difference is
//! listed with its reason; one that is no longer there has to leave the list.

use ci_runner::config::Executor;
use ci_runner::install::{Jobs, manifest, template};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Directive (or all that begin with it), and why it differs.
const DIFFERENCES: [(&str, &str); 3] = [
    ("Service.ExecStart", "the programs are below the prefix; on NixOS in the store, or at the current system's path"),
    ("Unit.X-Reload-Triggers", "compares two NixOS systems while one switches to the other; `install` compares files"),
    ("Unit.X-Restart-Triggers", "the same"),
];

type Directives = BTreeMap<String, Vec<String>>;

fn directives(text: &str) -> Directives {
    let mut found = Directives::new();
    let mut section = String::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']').to_owned();
        } else if let Some((key, value)) = line.split_once('=') {
            found.entry(format!("{section}.{key}")).or_default().push(value.to_owned());
        }
    }
    found
}

fn rendered(machine: &str) -> BTreeMap<String, String> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../nix/rendered").join(machine).join("etc/systemd/system");
    let entries = std::fs::read_dir(&dir).expect("nix/rendered is there").flatten();
    let unit = |entry: std::fs::DirEntry| {
        let text = std::fs::read_to_string(entry.path()).expect("a unit can be read");
        (entry.file_name().into_string().expect("unit names are ASCII"), text)
    };
    entries.map(unit).collect()
}

#[test]
fn units_say_what_the_nixos_module_says() {
    for (jobs, machine) in
        [(Jobs::Units, "install"), (Jobs::Native(7), "install-slots"), (Jobs::Both(7), "install-both")]
    {
        say_what_the_module_says(jobs, machine);
    }
}

fn say_what_the_module_says(jobs: Jobs, machine: &str) {
    let installed: BTreeMap<String, String> = template::units(Path::new("/usr/local"), jobs).into_iter().collect();
    let module = rendered(machine);
    assert_eq!(installed.keys().collect::<Vec<_>>(), module.keys().collect::<Vec<_>>());
    let (mut wrong, mut seen) = (Vec::new(), BTreeSet::new());
    for (name, text) in &installed {
        let (ours, theirs) = (directives(text), directives(&module[name]));
        for key in ours.keys().chain(theirs.keys()).collect::<BTreeSet<_>>() {
            if ours.get(key) == theirs.get(key) {
                continue;
            }
            match DIFFERENCES.iter().find(|(directive, _)| directive == key) {
                Some((directive, _)) => _ = seen.insert(*directive),
                None => {
                    wrong.push(format!("{name}: {key}: {:?}, the module says {:?}", ours.get(key), theirs.get(key)))
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen.contains("Service.ExecStart"), "{seen:?}");
}

#[test]
fn a_machine_of_the_tests_has_the_same_units() {
    // Settings of a test's machine change no unit: what guests prove holds for what is installed.
    let installed: BTreeMap<String, String> = template::units(Path::new("/opt/ci"), Jobs::Units).into_iter().collect();
    // The daemon from one without native pools, the spawner from one without pools of people.
    let of =
        |system, daemon| rendered(system).into_iter().filter(move |(name, _)| (name == "ci-runner.service") == daemon);
    for (name, text) in of("places", true).chain(of("systemd", false)) {
        let (mut ours, mut theirs) = (directives(&installed[&name]), directives(&text));
        for (key, _) in &DIFFERENCES[1..] {
            theirs.remove(*key);
            ours.remove(*key);
        }
        assert_eq!(ours, theirs, "{name}");
    }
}

#[test]
fn nothing_of_nixos_is_left_in_the_texts() {
    let kinds = [Jobs::Units, Jobs::Native(3), Jobs::Both(3)];
    for file in kinds.into_iter().flat_map(|jobs| template::files(Path::new("/usr/local"), jobs)) {
        let ci_runner::install::plan::Content { bytes, mode } = &file.content;
        let text = std::str::from_utf8(bytes).expect("texts");
        for word in ["/nix/", "/run/current-system", "@prefix@", "nixos"] {
            assert!(!text.contains(word), "{}: {word}\n{text}", file.path.display());
        }
        assert_eq!((*mode, text.starts_with("# Written by `ci-runner install --systemd`.")), (0o644, true), "{text}");
    }
    assert!(template::files(Path::new("/usr"), Jobs::Units).iter().all(|file| file.path != Path::new(manifest::PATH)));
}

/// The text of a file, for so many slots with users.
fn text(jobs: Jobs, path: &str) -> String {
    let files = template::files(Path::new("/usr/local"), jobs);
    let file = files.iter().find(|file| file.path == Path::new(path)).expect("it is among the files");
    String::from_utf8(file.content.bytes.clone()).expect("a text")
}

fn policy(jobs: Jobs, path: &str) -> serde_json::Value {
    let text = text(jobs, path);
    let text: String = text.lines().filter(|line| !line.starts_with('#')).collect();
    serde_json::from_str(&text).expect("JSON below the comment")
}

fn config(jobs: Jobs) -> ci_runner::config::Config {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("config.toml");
    std::fs::write(&path, text(jobs, "/etc/ci-runner/config.toml")).expect("written");
    let config = ci_runner::config::Config::load(Some(&path), &ci_runner::config::ConfigOverrides::default());
    config.expect("good settings")
}

#[test]
fn the_settings_and_the_policy_are_good() {
    assert_eq!(config(Jobs::Units).jobs_socket, None);
    assert_eq!(policy(Jobs::Units, "/etc/ci-runner/policy.json")["program"], "/usr/local/bin/ci-runner-spawner");
}

#[test]
fn every_slot_has_a_user() {
    for (jobs, pool, prefix) in
        [(Jobs::Native(12), "default", "ci-runner-job-"), (Jobs::Both(12), "native", "ci-runner-job-native-")]
    {
        let config = config(jobs);
        assert_eq!(config.jobs_socket.as_deref(), Some(Path::new("/run/ci-runner-jobs/socket")));
        assert_eq!((config.pools[pool].slots, config.pools[pool].executor), (12, Executor::Native), "{jobs:?}");
        let policy = policy(jobs, "/etc/ci-runner/jobs.json");
        assert_eq!(policy["program"], "/usr/local/bin/ci-runner-spawner");
        let users = policy["pools"][pool]["users"].as_array().expect("a list").clone();
        let named: Vec<&str> = users.iter().filter_map(serde_json::Value::as_str).collect();
        assert_eq!(named, (0..12).map(|number| format!("{prefix}{number}")).collect::<Vec<_>>());
        let made = text(jobs, "/etc/sysusers.d/ci-runner.conf");
        for user in named {
            assert!(made.contains(&format!("\ng {user} -\n")), "{made}");
            assert!(made.contains(&format!("\nu {user} -:{user} ")), "{made}");
        }
        assert_eq!(made.matches("ci-runner-job-").count(), 3 * 12, "{made}");
    }
    assert_eq!(
        policy(Jobs::Both(2), "/etc/ci-runner/policy.json")["pools"],
        policy(Jobs::Units, "/etc/ci-runner/policy.json")["pools"]
    );
}
