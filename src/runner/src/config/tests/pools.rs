//! What a pool may say.

use super::*;

#[test]
fn a_pool_of_a_person_is_for_that_person() {
    let text = "executor = \"systemd\"\n[pools.a]\nslots = 1\nuser = \"ada\"\npaths = [\"/home/ada/src\"]\nprofiles = [\"build\"]\n\
                [pools.b]\nslots = 1\nsubmitters = [\"bob\", \"1002\"]\n";
    let config = resolve(text).unwrap();
    let submitters = |pool: &str| config.pools[pool].submitters.clone();
    assert_eq!(submitters("a"), Some(vec!["ada".to_owned()]));
    assert_eq!(submitters("b"), Some(vec!["bob".to_owned(), "1002".to_owned()]));
    assert_eq!(submitters("default"), None);
    let again = resolve(&config.show()).unwrap();
    assert_eq!(config.pools, again.pools);
    let head = "executor = \"systemd\"\n[pools.default]\n";
    for (keys, want) in [
        ("user = \"ada\"", "c.toml:3: pools.default.user: stands without paths"),
        ("paths = [\"/x\"]", "c.toml:3: pools.default.paths: stands without user"),
        ("user = \"a b\"\npaths = [\"/x\"]", "is not the name or number of a user"),
        ("user = \"ada\"\npaths = [\"/x/../y\"]", "is not an absolute path without .."),
        ("submitters = [\"\"]", "is not the name or number of a user"),
        ("profiles = [\"lax\"]", "\"lax\" is not a profile"),
        ("profile = \"open\"\nprofiles = [\"build\"]", "\"open\" is not among the pool's profiles, build"),
    ] {
        check_refused(&format!("{head}{keys}"), &[want]);
    }
    check_refused("[pools.default]\nuser = \"ada\"", &["is for the systemd executor"]);
}

#[test]
fn a_pool_chooses_its_executor_and_its_sandbox() {
    let text = "executor = \"systemd\"\nspawner_socket = \"/run/s\"\nlog_dir = \"/var/log/j\"\n\
                [pools.a]\nslots = 1\nprofile = \"strict\"\n[pools.b]\nslots = 1\nexecutor = \"native\"\n";
    let config = resolve(text).unwrap();
    assert_eq!((config.pools["a"].executor, config.pools["a"].profile.as_deref()), (Executor::Systemd, Some("strict")));
    assert_eq!((config.pools["b"].executor, config.pools["b"].profile.as_deref()), (Executor::Native, None));
    assert_eq!(
        (config.spawner_socket.as_path(), config.log_dir.as_path()),
        (Path::new("/run/s"), Path::new("/var/log/j"))
    );
    assert!(config.uses(Executor::Native) && config.uses(Executor::Systemd));
    let again = resolve(&config.show()).unwrap();
    assert_eq!((&config.pools, &config.log_dir), (&again.pools, &again.log_dir));
    assert_eq!(resolve("").unwrap().log_dir, Path::new("/home/ada/.local/state/ci-runner/logs"));
    assert_eq!(resolve("").unwrap().needs_restart(&config), ["log_dir", "spawner_socket", "executor"]);
    check_refused("[pools.default]\nprofile = \"strict\"", &["c.toml:2: pools.default.profile", "systemd executor"]);
    check_refused("executor = \"local\"\n[pools.default]\nprofile = \"stricht\"", &["did you mean \"strict\"?"]);
}

#[test]
fn too_many_pools_are_refused() {
    let text: String = (0..POOLS_MAX).map(|n| format!("[pools.p{n}]\nslots = 1\n")).collect();
    check_refused(&text, &["65 pools are more than 64"]);
}
