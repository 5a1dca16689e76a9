//! The settings that the NixOS module writes are settings that the daemon takes.
//!
//! `scripts/check-nix` renders them and shows that the rendering belongs to the module as it is.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ci_runner::config::{Config, ConfigOverrides, Host, Listen};

#[test]
fn the_daemon_takes_the_modules_settings() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../nix/tests/expected/config.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let directories = [("STATE_DIRECTORY", "/var/lib/ci-runner"), ("RUNTIME_DIRECTORY", "/run/ci-runner")];
    let host = Host {
        environment: HashMap::from(directories.map(|(name, value)| (name.to_owned(), value.to_owned()))),
        hostname: "machine".to_owned(),
        architecture: "x86_64".to_owned(),
        current_dir: PathBuf::from("/"),
        ..Host::default()
    };

    let config = Config::resolve(&host, Some((&path, &text)), &ConfigOverrides::default()).unwrap();

    assert_eq!(config.max_parallel_jobs, 4);
    assert_eq!((config.retry.attempts, config.retry.delay), (3, Duration::from_secs(5)));
    assert_eq!((config.default_timeout, config.max_timeout), (Duration::from_secs(21_600), None));
    assert_eq!(config.http, Listen::At("127.0.0.1:8080".parse().unwrap()));
    assert_eq!(config.metrics, Listen::At("127.0.0.1:9100".parse().unwrap()));
    assert_eq!(config.socket, Path::new("/run/ci-runner/api.sock"));
    assert_eq!(config.job_path, "/usr/local/bin:/usr/bin:/bin");
}
