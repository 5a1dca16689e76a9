//! What a configuration file may say, what it gets, and what it is told when it is wrong.

use std::collections::HashMap;

use super::*;

fn host() -> Host {
    Host {
        environment: HashMap::from([("HOME".to_owned(), "/home/ada".to_owned())]),
        hostname: "box".to_owned(),
        architecture: "x86_64".to_owned(),
        lingers: false,
        current_dir: PathBuf::from("/srv"),
    }
}

fn resolve(text: &str) -> Result<Config, ConfigError> {
    Config::resolve(&host(), Some((Path::new("c.toml"), text)), &ConfigOverrides::default())
}

/// The problems of a file, each as `line key: text`, all of which must hold `parts`.
fn check_refused(text: &str, parts: &[&str]) {
    let error = resolve(text).expect_err(text).to_string();
    for part in parts {
        assert!(error.contains(part), "{text:?}\n gave: {error}\n without: {part}");
    }
}

#[test]
fn defaults_are_the_documented_ones() {
    let config = Config::resolve(&host(), None, &ConfigOverrides::default()).unwrap();
    assert_eq!(config.state_dir, Path::new("/home/ada/.local/state/ci-runner"));
    assert_eq!(config.socket, Path::new("/home/ada/.local/state/ci-runner/run/api.sock"));
    assert_eq!(config.http.to_string(), "127.0.0.1:8080");
    assert_eq!(config.metrics.to_string(), "127.0.0.1:9100");
    assert_eq!((config.max_parallel_jobs, config.retry.attempts), (4, 3));
    assert_eq!(config.retry.delay, Duration::from_secs(5));
    assert_eq!(config.retry.on, ["exit", "signal", "lost"]);
    assert_eq!(config.default_timeout, Duration::from_secs(21_600));
    assert_eq!(config.max_timeout, None);
    assert_eq!((config.log_max, config.queue_jobs_max), (64 << 20, 2_000_000));
    assert!(!config.http_public_status);
    let pool = &config.pools[DEFAULT_POOL];
    assert_eq!((config.pools.len(), pool.slots), (1, 4));
    assert_eq!(pool.labels, ["arch=x86_64", "host=box", "os=linux"]);
    assert_eq!(config.source("grace"), Source::Default);
    assert_eq!(config.source("state_dir"), Source::Environment("HOME"));
}

const FULL: &str = r#"
state_dir = "/var/lib/ci"
runtime_dir = "/run/ci"
metrics = "off"
max_parallel_jobs = 8
retry_attempts = 0
retry_delay = 1.5
retry_backoff = "exponential"
retry_on = "!exit:7, exit:2, signal:KILL,oom"
log_level = "debug"
log_format = "json"
executor = "native"
default_timeout = "30m"
max_timeout = "2h"
grace = 3
log_max = "1M"
queue_jobs_max = 1000
job_path = "/bin"
http = { listen = "[::1]:80", public_status = true, hosts = ["CI.example"] }

[pools.big]
slots = 2
labels = ["gpu", "arch=arm64"]
path = "/opt/bin:/bin"

[groups."deploy site"]
limit = 1

[gc]
finished_max_age = "7d"
log_max_age = "unlimited"
log_archive_after = "2d"
log_bytes_max = "1G"
"#;

#[test]
fn every_key_counts() {
    let config = resolve(FULL).unwrap();
    assert_eq!(config.runtime_dir, Path::new("/run/ci"));
    assert_eq!(config.metrics, Listen::Off);
    assert_eq!(config.http.to_string(), "[::1]:80");
    assert_eq!((config.http_public_status, config.http_hosts.as_slice()), (true, &["ci.example".to_owned()][..]));
    let retry = RetryDefaults {
        attempts: 0,
        delay: Duration::from_millis(1500),
        backoff: Backoff::Exponential,
        on: ["!exit:7", "exit:2", "signal:KILL", "oom"].map(str::to_owned).to_vec(),
    };
    assert_eq!(config.retry, retry);
    assert_eq!((config.log_level, config.log_format.word()), (log::LevelFilter::Debug, "json"));
    assert_eq!(config.default_timeout, Duration::from_secs(1800));
    assert_eq!(config.max_timeout, Some(Duration::from_secs(7200)));
    assert_eq!((config.grace, config.log_max), (Duration::from_secs(3), 1 << 20));
    assert_eq!(config.pools["big"].labels, ["arch=arm64", "gpu", "host=box", "os=linux"]);
    assert_eq!(config.pools["big"].path, "/opt/bin:/bin");
    assert_eq!((config.pools["big"].slots, config.pools[DEFAULT_POOL].slots), (2, 8));
    assert_eq!(config.pools[DEFAULT_POOL].path, "/bin");
    assert_eq!(config.groups["deploy site"], 1);
    let week = Some(Duration::from_secs(604_800));
    let two_days = Some(Duration::from_secs(172_800));
    let gc = GcConfig {
        finished_max_age: week,
        log_max_age: None,
        log_archive_after: two_days,
        log_bytes_max: Some(1 << 30),
    };
    assert_eq!(config.gc, gc);
    assert_eq!(config.source("grace"), Source::File(15));
}

#[test]
fn what_is_shown_reads_back() {
    for text in [FULL, "", "http = \"off\"\n[pools.default]\nslots = 3\n"] {
        let config = resolve(text).unwrap();
        let again = resolve(&config.show()).unwrap_or_else(|error| panic!("{error}\n{}", config.show()));
        let plain = |config: &Config| {
            config.show().lines().map(|line| line.split("  #").next().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(plain(&config), plain(&again));
        assert_eq!(config.pools, again.pools);
        assert!(config.needs_restart(&again).is_empty());
    }
    assert!(resolve(FULL).unwrap().show().contains("grace = \"3s\"  # line 15"));
}

#[test]
fn the_command_line_wins() {
    let overrides = ConfigOverrides {
        state_dir: Some(PathBuf::from("here")),
        http: Some("off".to_owned()),
        max_parallel_jobs: Some(2),
        retry_delay: Some("1m".to_owned()),
        log_level: Some("error".to_owned()),
        log_format: Some("text".to_owned()),
        ..ConfigOverrides::default()
    };
    let config = Config::resolve(&host(), Some((Path::new("c.toml"), FULL)), &overrides).unwrap();
    assert_eq!(config.state_dir, Path::new("/srv/here"));
    assert_eq!((config.http, config.pools[DEFAULT_POOL].slots), (Listen::Off, 2));
    assert_eq!(config.retry.delay, Duration::from_secs(60));
    assert_eq!(config.source("http"), Source::Option);

    let wrong = ConfigOverrides {
        http: Some("8080".to_owned()),
        max_parallel_jobs: Some(0),
        retry_delay: Some("soon".to_owned()),
        executor: Some("docker".to_owned()),
        ..ConfigOverrides::default()
    };
    let error = Config::resolve(&host(), None, &wrong).unwrap_err();
    let text = error.to_string();
    assert_eq!(error.problems.len(), 4, "{text}");
    for part in [
        "--http: \"8080\": it is not an address",
        "--max-parallel-jobs: 0 is out of range; give a whole number from 1 to 1024",
        "--retry-delay: \"soon\" is not a duration",
        "--executor: the executor \"docker\" is not in this version",
    ] {
        assert!(text.contains(part), "{text}\n without {part}");
    }
}

#[test]
fn unknown_keys_are_named_with_a_suggestion_all_at_once() {
    check_refused(
        "\nmax_paralel_jobs = 4\n[gc]\nlog_max_ag = 1\n[pools.a]\nslot = 1\n",
        &[
            "c.toml:2: max_paralel_jobs: is not a known key; did you mean \"max_parallel_jobs\"?",
            "c.toml:4: gc.log_max_ag: is not a known key; did you mean \"log_max_age\"?",
            "c.toml:6: pools.a.slot: is not a known key; did you mean \"slots\"?",
        ],
    );
    check_refused("http = { host = [] }", &["c.toml:1: http.host:", "did you mean \"hosts\"?"]);
    check_refused("[groups.a]\nlimt = 1", &["c.toml:2: groups.a.limt:", "did you mean \"limit\"?"]);
    check_refused("zzz = 1", &["known are state_dir, "]);
    check_refused("[redis]\nurl = \"x\"", &["c.toml:1: redis: is not in this version"]);
}

#[test]
fn all_problems_are_told_at_once_in_the_order_of_lines() {
    let text = "max_parallel_jobs = 0\nretry_delay = \"-5s\"\nmax_paralel_jobs = 4\ngrace = \"2h\"\n\
                [pools.a]\nslots = \"3\"\nslot = 1\n[gc]\nlog_bytes_max = \"lots\"\nlog_max_ag = 1\n[groups.b]\n";
    let error = resolve(text).unwrap_err();
    let found: Vec<_> =
        error.problems.iter().map(|problem| (problem.line.unwrap_or_default(), problem.key.as_str())).collect();
    let expected = [
        (1, "max_parallel_jobs"),
        (2, "retry_delay"),
        (3, "max_paralel_jobs"),
        (4, "grace"),
        (6, "pools.a.slots"),
        (7, "pools.a.slot"),
        (9, "gc.log_bytes_max"),
        (10, "gc.log_max_ag"),
        (11, "groups.b.limit"),
    ];
    assert_eq!(found, expected, "{error}");
}

#[test]
fn wrong_types_and_texts_are_named_with_key_and_line() {
    check_refused("a = = 1", &["c.toml:1: is not TOML"]);
    check_refused("[gc]\nlog_max_age = \"59m\"", &["c.toml:2: gc.log_max_age: is too soon; give at least 1h"]);
    check_refused("\n\nmax_parallel_jobs = \"4\"", &["c.toml:3: max_parallel_jobs:", "expected a whole number"]);
    check_refused("grace = \"soon\"", &["c.toml:1: grace:", "\"soon\" is not a duration", "1h30m"]);
    check_refused("grace = -1", &["c.toml:1: grace:", "negative"]);
    check_refused("log_max = \"-1M\"", &["c.toml:1: log_max:", "negative"]);
    check_refused("[gc]\nlog_bytes_max = true", &["c.toml:2: gc.log_bytes_max:", "unlimited"]);
    check_refused("http = 8080", &["c.toml:1: http:", "127.0.0.1:8080"]);
    check_refused("retry_on = 3", &["c.toml:1: retry_on:", "exit:2,lost"]);
    check_refused("pools = 3", &["c.toml:1: pools:"]);
    check_refused("[pools]\na = 3", &["c.toml:2: pools.a:", "expected a table"]);
    check_refused("[pools.a]\nslots = 1\nlabels = \"x\"", &["c.toml:3: pools.a.labels:", "a list"]);
}

#[test]
fn values_out_of_bounds_are_named_with_limit_and_mend() {
    for (text, parts) in [
        ("max_parallel_jobs = -3", ["max_parallel_jobs: -3 is out of range", "1 to 1024"]),
        ("max_parallel_jobs = 100000", ["100000 is out of range", "1 to 1024"]),
        ("retry_attempts = -1", ["-1 is out of range", "0 to 1000"]),
        ("retry_delay = \"2d\"", ["2d is out of range", "0s to 1d"]),
        ("default_timeout = 0", ["0s is too short", "at least 1ms"]),
        ("max_timeout = \"0s\"", ["is zero", "unlimited"]),
        (
            "max_timeout = \"1h\"\ndefault_timeout = \"2h\"",
            ["c.toml:2: default_timeout: 2h is more than max_timeout", "raise"],
        ),
        ("grace = \"2h\"", ["2h is out of range", "0s to 1h"]),
        ("log_max = 10", ["10 is less than 4K", "64M"]),
        ("log_max = \"2T\"", ["2T is more than 1T", "a job may have"]),
        ("queue_jobs_max = 0", ["0 is out of range", "1 to 10000000"]),
        ("job_path = \"bin:/bin\"", ["\"bin\" in it is not an absolute", "/usr/bin"]),
        ("job_path = \"\"", ["\"\" in it is not an absolute", "/usr/bin"]),
        ("state_dir = \"x\"", ["x is relative", "absolute"]),
        ("state_dir = \"\"", ["is empty", "give a directory"]),
        ("http = \"example.org:80\"", ["\"example.org\" is not an IP address", "127.0.0.1:8080"]),
        ("http = \"127.0.0.1\"", ["the port is missing", "or off"]),
        ("http = \"127.0.0.1:99999\"", ["\"99999\" is not a port", "65535"]),
        ("http = \"127.0.0.1:9100\"", ["metrics: 127.0.0.1:9100 is the address of http too", "another port"]),
        ("http = { hosts = [\"http://x\"] }", ["http.hosts: \"http://x\" is not a host name", "without scheme"]),
        ("log_level = \"inof\"", ["\"inof\" is not a log level", "did you mean \"info\"?"]),
        ("executor = \"podman\"", ["\"podman\" is not in this version", "\"native\" or \"systemd\""]),
        ("executor = \"nativ\"", ["\"nativ\" is not an executor", "did you mean \"native\"?"]),
        ("retry_backoff = \"linear\"", ["\"linear\" is not a backoff", "exponential"]),
        ("retry_on = [\"exit:0\"]", ["an exit code is 1 to 255", "exit:2"]),
        ("retry_on = \"signal:BOGUS\"", ["there is no signal \"BOGUS\"", "signal:KILL"]),
        ("retry_on = \"lost:1\"", ["takes nothing after a colon", "lost"]),
        ("retry_on = \"tiemout\"", ["is no rule", "did you mean \"timeout\"?"]),
        ("[pools.a]\nslots = 0", ["c.toml:2: pools.a.slots: 0 is out of range", "1 to 1024"]),
        ("[pools.a]", ["c.toml:1: pools.a.slots: is missing", "how many"]),
        ("[pools.\"a b\"]\nslots = 1", ["\"a b\" cannot name a pool", "letters"]),
        ("[pools.GPU]\nslots = 1", ["\"GPU\" cannot name a pool", "lower-case"]),
        ("[pools.\"gpu.a\"]\nslots = 1", ["\"gpu.a\" cannot name a pool", "lower-case"]),
        ("[pools.a]\nslots = 1\nlabels = [\"a b\"]", ["c.toml:3: pools.a.labels: \"a b\" is not a label", "key=value"]),
        ("[pools.a]\nslots = 1\nexecutor = \"docker\"", ["c.toml:3: pools.a.executor", "not in this version"]),
        ("max_parallel_jobs = 4\n[pools.default]\nslots = 5", ["c.toml:3: pools.default.slots: 5 differs", "keep one"]),
        ("[groups.a]\nlimit = 0", ["c.toml:2: groups.a.limit: 0 is out of range", "1 to 10000"]),
        ("log_format = \"jsno\"", ["is no format of the log", "did you mean \"json\"?"]),
        ("log_level = \"trace\"", ["is not a log level", "debug"]),
        ("[groups.a]", ["groups.a.limit: is missing", "how many"]),
        ("[groups.\"\"]\nlimit = 1", ["cannot name a group", "128"]),
    ] {
        check_refused(text, &parts);
    }
}

/// They were told one at a time.
#[test]
fn problems_of_metrics_are_told_all_at_once_and_where() {
    let text = "[metrics]\ncollectors = [\"cpus\", \"netdev\"]\nexclude_collectors = [\"disks\"]\n\
                [metrics.include]\nnetdev_devices = \"(\"\n[metrics.exclude]\nnetdev_devices = \"(\"\n";
    check_refused(
        text,
        &[
            "metrics: no collector is called 'cpus'",
            "metrics: no collector is called 'disks'",
            "c.toml:5: metrics.include.netdev_devices: the pattern '(' is not a regular expression",
            "c.toml:7: metrics.exclude.netdev_devices: the pattern '(' is not a regular expression",
        ],
    );
}

/// Each job would be refused for it.
#[test]
fn more_rules_than_a_job_may_have_are_refused() {
    let rules = |count: usize| format!("retry_on = [{}]", vec!["\"lost\""; count].join(", "));
    check_refused(&rules(33), &["c.toml:1: retry_on: 33 rules, at most 32"]);
    assert!(resolve(&rules(32)).is_ok());
}

#[test]
fn a_socket_path_must_fit_the_kernel() {
    let long = format!("runtime_dir = \"/{}\"", "x".repeat(120));
    check_refused(&long, &["c.toml:1: runtime_dir: the socket /xxx", "the kernel takes 107", "shorter --runtime-dir"]);
    assert!(resolve(&format!("socket = \"/{}\"", "x".repeat(106))).is_ok());
    check_refused(&format!("socket = \"/{}\"", "x".repeat(107)), &["has 108 bytes", "shorter --socket"]);
}

#[test]
fn without_any_directory_the_mend_is_named() {
    let nowhere = Host { environment: HashMap::new(), ..host() };
    let error = Config::resolve(&nowhere, None, &ConfigOverrides::default()).unwrap_err();
    assert!(error.to_string().contains("give --state-dir"), "{error}");
}

#[test]
fn a_lower_max_timeout_lowers_the_default() {
    let config = resolve("max_timeout = \"1h\"").unwrap();
    assert_eq!(config.default_timeout, Duration::from_secs(3600));
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("c.toml");
    let load = || Config::load(Some(&path), &ConfigOverrides::default()).unwrap_err().to_string();
    assert!(load().contains("c.toml: cannot be read: No such file"), "{}", load());
    std::fs::write(&path, b"\xff\xfe").unwrap();
    assert!(load().contains("is not UTF-8"), "{}", load());
    std::fs::write(&path, vec![b'#'; 2 << 20]).unwrap();
    assert!(load().contains("at most 1048576 are read"), "{}", load());
    let error = Config::load(Some(directory.path()), &ConfigOverrides::default()).unwrap_err();
    assert!(error.to_string().contains("not a regular file"), "{error}");
    std::fs::write(&path, "max_parallel_jobs = 3\nstate_dir = \"/x\"").unwrap();
    assert_eq!(Config::load(Some(&path), &ConfigOverrides::default()).unwrap().max_parallel_jobs, 3);
}

#[test]
fn reload_knows_what_it_cannot_change() {
    let (one, other) = (resolve("").unwrap(), resolve(FULL).unwrap());
    assert_eq!(
        one.needs_restart(&other),
        ["state_dir", "runtime_dir", "socket", "http", "http.public_status", "http.hosts", "metrics"]
    );
}

proptest::proptest! {
    #[test]
    fn no_file_panics(text in "([a-z_.\\[\\]{}\"=0-9,# -]{0,30}\n){0,6}") {
        let _ = resolve(&text);
    }
}

#[test]
fn the_reference_page_names_every_key() {
    let page = include_str!("../../../../docs/reference/configuration.md");
    let tables = [
        crate::suggest::fields_of::<file::ConfigFile>(),
        crate::suggest::fields_of::<file::PoolFile>(),
        crate::suggest::fields_of::<file::GroupFile>(),
        crate::suggest::fields_of::<file::GcFile>(),
        crate::suggest::fields_of::<file::HttpFile>(),
        crate::suggest::fields_of::<file::WatchFile>(),
        crate::suggest::fields_of::<file::NotifierFile>(),
    ];
    for key in tables.into_iter().flatten() {
        let named = page.contains(&format!("`{key}`")) || page.contains(&format!("[{key}.NAME]"));
        assert!(named || page.contains(&format!("[{key}]")), "docs/reference/configuration.md does not name `{key}`");
    }
}

mod pools;
mod watching;
