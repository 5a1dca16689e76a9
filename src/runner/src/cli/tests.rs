//! Tests of the command line that need no daemon: the tree of verbs, parsing, and what is printed for people.

mod examples;
mod pages;

use super::Failure;
use super::add::AddArgs;
use super::verbs::{command, parse};
use clap::{Command, FromArgMatches};

fn words(text: &[&str]) -> Vec<String> {
    text.iter().map(|word| word.to_string()).collect()
}

fn leaves(command: &Command, path: String, found: &mut Vec<(String, Command)>) {
    let inner: Vec<_> = command.get_subcommands().filter(|inner| inner.get_name() != "help").collect();
    // The tree's root needs none: it lists the verbs.
    if inner.is_empty() || path.contains(' ') {
        found.push((path.clone(), command.clone()));
    }
    for command in inner {
        leaves(command, format!("{path} {}", command.get_name()), found);
    }
}

#[test]
fn the_tree_is_sound() {
    command().debug_assert();
    // Arguments of leaves are built when they are called: build all.
    let mut tree = command();
    tree.build();
    tree.debug_assert();
}

#[test]
fn every_verb_has_help_with_an_example() {
    let mut tree = command();
    tree.build();
    let mut found = Vec::new();
    leaves(&tree, "ci-runner".to_owned(), &mut found);
    assert!(found.len() >= 39, "{}", found.len());
    for (path, mut command) in found {
        let help = command.render_long_help().to_string();
        let examples = help.split("Examples:\n").nth(1).unwrap_or_else(|| panic!("{path} has no examples:\n{help}"));
        assert!(examples.contains(&path), "{path} is not in its examples:\n{examples}");
        assert!(
            command.get_about().is_some_and(|about| !about.to_string().is_empty()),
            "{path} does not say what it does"
        );
        for argument in command.get_arguments() {
            let told = argument.get_help().is_some_and(|help| !help.to_string().is_empty());
            assert!(told, "{path}: {} does not say what it does", argument.get_id());
        }
    }
}

/// The figures are those of the settings, so that none is told that is not so.
#[test]
fn options_of_jobs_tell_their_defaults() {
    let mut tree = command();
    tree.build();
    let help = |verb: &str, option: &str| {
        let verb = tree.find_subcommand(verb).unwrap();
        let argument = verb.get_arguments().find(|argument| argument.get_long() == Some(option)).unwrap();
        argument.get_help().unwrap().to_string()
    };
    let settings = ci_runner_core::policy::Settings::default();
    let rules = crate::request::parse_rules(&["exit", "signal", "lost"]).unwrap();
    assert_eq!(rules, settings.retry.rules);
    for (option, default) in [
        ("timeout", format!("{}h", settings.default_timeout_ms.unwrap() / 3_600_000)),
        ("retry", settings.retry.retries.to_string()),
        ("retry-delay", format!("{}s", settings.retry.delay_ms / 1_000)),
        ("retry-on", "exit,signal,lost".to_owned()),
        ("log-max", format!("{}M", settings.log_bytes_max >> 20)),
    ] {
        let told = help("add", option);
        assert!(told.ends_with(&format!("[default: {default} unless configured]")), "--{option}: {told}");
    }
    // `run` has no configuration, and other defaults.
    assert!(help("run", "timeout").ends_with("[default: never]"));
    assert!(help("run", "retry").ends_with("[default: 0]"));
}

#[test]
fn all_verbs_of_the_interface_are_there() {
    let tree = command();
    for verb in
        "daemon run add list show logs why wait cancel retry hold release priority pause resume drain pools groups \
        runners status schedule backup restore gc doctor selftest config completions man openapi"
            .split_whitespace()
    {
        assert!(tree.find_subcommand(verb).is_some(), "{verb}");
    }
}

#[test]
fn slips_are_usage_errors_with_a_suggestion() {
    for (line, part) in [
        (&["lst"][..], "'list'"),
        (&["cancle", "7"], "'cancel'"),
        (&["schedule", "ad"], "'add'"),
        (&["add", "--timout", "5m", "--", "true"], "'--timeout'"),
        (&["add", "--retry-dely", "5m", "--", "true"], "'--retry-delay'"),
        (&["list", "--stat", "queued"], "'--state'"),
        (&["list", "--state", "quued"], "'queued'"),
        (&["selftest", "loging"], "'logging'"),
        (&["add", "make", "test"], "--"),
        (&["add", "--timeout", "5 parsecs", "--", "true"], "1h30m"),
        (&["add", "--memory", "2X", "--", "true"], "2X"),
        (&["wait"], "<ID>"),
        (&["cancel", "7", "--all"], "--all"),
        (&["show", "x"], "'x'"),
        (&["list", "--limit", "0"], "0"),
        (&[], "Usage"),
        (&["--output", "yaml", "list"], "json"),
    ] {
        let failure = parse(&words(line)).unwrap_err();
        assert!(failure.to_string().contains(part), "{line:?}: {failure}");
        assert_eq!(failure.code(), 3, "{line:?}");
    }
}

#[test]
fn help_and_version_are_no_errors() {
    for line in [&["--help"][..], &["help", "add"], &["add", "--help"], &["--version"], &["schedule", "add", "-h"]] {
        let failure = parse(&words(line)).unwrap_err();
        assert_eq!(failure.code(), 0, "{line:?}: {failure}");
    }
}

fn request(line: &[&str]) -> Result<String, Failure> {
    let matches = parse(&words(line))?;
    let (_, inner) = super::verbs::called(&matches)?;
    let args = AddArgs::from_arg_matches(inner)?;
    args.into_request().map(|request| serde_json::to_string(&request).unwrap())
}

#[test]
fn options_become_keys() {
    for (line, expected) in [
        (&["add", "--", "make", "-j4"][..], r#"{"command":["make","-j4"]}"#),
        (&["add", "--shell", "a | b"], r#"{"shell":"a | b"}"#),
        (&["add", "--name", "n", "--pool", "p", "--", "x"], r#"{"command":["x"],"name":"n","pool":"p"}"#),
        (
            &["add", "--label", "gpu", "--label", "arch=arm64", "--", "x"],
            r#"{"command":["x"],"labels":["gpu","arch=arm64"]}"#,
        ),
        (&["add", "--env", "B=2", "--env", "A=x=y", "--", "x"], r#"{"command":["x"],"env":{"A":"x=y","B":"2"}}"#),
        (&["add", "--dir", "/d", "--", "x"], r#"{"command":["x"],"dir":"/d"}"#),
        (
            &["add", "--timeout", "30m", "--soft-timeout", "25m", "--", "x"],
            r#"{"command":["x"],"timeout":1800,"soft_timeout":1500}"#,
        ),
        (
            &[
                "add",
                "--retry",
                "2",
                "--retry-delay",
                "500ms",
                "--backoff",
                "exponential",
                "--retry-on",
                "exit:2, lost",
                "--",
                "x",
            ],
            r#"{"command":["x"],"retry":2,"retry_delay":0.5,"backoff":"exponential","retry_on":["exit:2","lost"]}"#,
        ),
        (&["add", "--priority", "-5", "--", "x"], r#"{"command":["x"],"priority":-5}"#),
        (&["add", "--group", "g:2", "--", "x"], r#"{"command":["x"],"group":"g:2"}"#),
        (
            &["add", "--group", "g:2", "--group-policy", "latest", "--", "x"],
            r#"{"command":["x"],"group":{"name":"g","limit":2,"policy":"latest"}}"#,
        ),
        (&["add", "--after", "3", "--after", "4:always", "--", "x"], r#"{"command":["x"],"after":["3","4:always"]}"#),
        (
            &["add", "--at", "2026-11-22T03:00:00+01:00", "--", "x"],
            r#"{"command":["x"],"at":"2026-11-22T02:00:00.000Z"}"#,
        ),
        (
            &["add", "--in", "10m", "--expires", "2h", "--hold", "--", "x"],
            r#"{"command":["x"],"in":600,"expires":7200,"hold":true}"#,
        ),
        (&["add", "--key", "k", "--correlation", "c", "--", "x"], r#"{"command":["x"],"key":"k","correlation":"c"}"#),
        (
            &["add", "--memory", "2G", "--cpu", "1.5", "--pids", "10", "--log-max", "64M", "--", "x"],
            r#"{"command":["x"],"memory":2147483648,"cpu":1.5,"pids":10,"log_max":67108864}"#,
        ),
        (&["-q", "add", "--", "--", "x"], r#"{"command":["--","x"]}"#),
    ] {
        assert_eq!(request(line).unwrap(), expected, "{line:?}");
    }
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_sent() {
    for (line, part) in [
        (&["add"][..], "nothing to run"),
        (&["add", "--"], "nothing to run"),
        (&["add", "--shell", "x", "--", "y"], "cannot be used with"),
        (&["add", "--group-policy", "latest", "--", "x"], "--group"),
        (&["add", "--at", "03:00", "--in", "5m", "--", "x"], "cannot be used with"),
        (&["add", "--at", "sometime", "--", "x"], "tomorrow 03:00"),
        (&["add", "--backoff", "linear", "--", "x"], "exponential"),
        (&["add", "--secret", "T=plain", "--", "x"], "NAME=@FILE"),
        (&["add", "--secret", "T=@/no/such/file", "--", "x"], "/no/such/file"),
        (&["add", "--env", "CI_RUNNER_SURELY_UNSET", "--", "x"], "no such variable"),
        (&["add", "--retry", "-1", "--", "x"], "'-1' for '--retry <N>': give a whole number from 0 to 1000"),
        (
            &["add", "--timeout", "-5", "--", "x"],
            "'--timeout <TIME>': \"-5\" is not a duration: a duration cannot be neg",
        ),
        (&["add", "--in", "-5m", "--", "x"], "'--in <TIME>': \"-5m\" is not a duration"),
        (&["add", "--log-max", "-1M", "--", "x"], "'--log-max <SIZE>'"),
        (&["add", "--pids", "-1", "--", "x"], "'--pids <N>': give a whole number from 1 up"),
        (&["add", "--cpu", "lots", "--", "x"], "lots"),
    ] {
        let failure = request(line).unwrap_err();
        assert!(failure.to_string().contains(part), "{line:?}: {failure}");
        assert_eq!(failure.code(), 3, "{line:?}");
    }
}

/// Raw words of parsers, and advice that broke the call.
#[test]
fn slips_are_told_in_words_for_people() {
    for (line, part) in [
        (&["add", "--priority", "abc", "--", "x"][..], "invalid value 'abc' for '--priority <N>': give a whole number"),
        (&["add", "--cpu", "lots", "--", "x"], "'--cpu <CORES>': give a number of cores"),
        (
            &["add", "--after", "-3", "--", "x"],
            "'--after <ID[:success|failure|always]>': \"-3\": write ID or ID:success",
        ),
        (&["add", "--name", "-3", "--", "x"], "'-3' behind --name begins with a dash: write --name=-3"),
        (
            &["schedule", "add", "n", "--cron", "-x", "--", "x"],
            "'-x' behind --cron begins with a dash: write --cron=-x",
        ),
        (&["list", "--limit", "-1"], "'--limit <N>': give a whole number"),
        (&["list", "--limit", "0"], "'--limit <N>': give a whole number from 1 up"),
        (&["logs", "7", "--tail", "-1"], "'--tail <N>': give a whole number"),
        (&["logs", "7", "--attempt", "0"], "'--attempt <N>': give a whole number from 1 up"),
        (&["run", "-P0", "--", "x"], "'--parallel <N>': give a whole number from 1 to 1024"),
        (&["priority", "x", "7"], "give a whole number"),
        (&["daemon", "--retry-attempts", "x"], "give a whole number"),
        // JSON has no such numbers: the limits used to be dropped.
        (&["add", "--cpu", "nan", "--", "x"], "'--cpu <CORES>': give a number of cores from 0.01 to 4096, like 1.5"),
        (&["add", "--cpu=-inf", "--", "x"], "'--cpu <CORES>': give a number of cores"),
        (&["run", "--cpu", "1e400", "--", "x"], "'--cpu <CORES>': give a number of cores"),
        (&["add", "--oom-memory-factor", "inf", "--", "x"], "FACTOR>': give a factor from 1.01 to 10, like 2"),
        (&["schedule", "add", "n", "--cron", "@daily", "--cpu", "inf", "--", "x"], "'--cpu <CORES>': give a number"),
    ] {
        let failure = parse(&words(line)).unwrap_err();
        assert!(failure.to_string().contains(part), "{line:?}: {failure}");
        assert_eq!(failure.code(), 3, "{line:?}");
        for raw in ["invalid digit", "invalid float", "is not in", "-- -"] {
            assert!(!failure.to_string().contains(raw), "{line:?}: {failure}");
        }
    }
    for (line, mend) in [
        (&["add", "make", "test"][..], "put the command behind `--`: ci-runner add -- make test"),
        (&["add", "--name", "a b", "make", "-j4"], "behind `--`: ci-runner add --name 'a b' -- make -j4"),
        // It was told that `make` begins with a dash.
        (&["add", "--name", "make", "make", "test"], "behind `--`: ci-runner add --name make -- make test"),
        (&["run", "-P", "2", "2"], "behind `--`: ci-runner run -P 2 -- 2"),
        (&["run", "make"], "put the command behind `--`: ci-runner run -- make"),
        (&["schedule", "add", "n", "--cron", "@daily", "make"], "ci-runner schedule add n --cron @daily -- make"),
    ] {
        let failure = parse(&words(line)).unwrap_err();
        assert!(failure.to_string().contains(mend) && failure.code() == 3, "{line:?}: {failure}");
    }
    // What clap says well stays.
    for (line, part) in [(&["list", "--limt", "3"][..], "'--limit'"), (&["list", "-3"], "unexpected argument '-3'")] {
        assert!(parse(&words(line)).unwrap_err().to_string().contains(part), "{line:?}");
    }
    for (text, part) in [
        ("1y", "--since: \"1y\" is not a time: \"y\" is not a unit"),
        ("24h 3", "is not a time: a unit is missing"),
        ("soon", "is not a time"),
        ("2026-13-01 03:00", "is not a time"),
    ] {
        let failure = super::list::range(Some(text), None).unwrap_err().to_string();
        assert!(failure.contains(part) && !failure.contains("--in"), "{failure}");
    }
}

#[test]
fn what_a_schedule_never_takes_is_not_offered() {
    let help = |line: &[&str]| parse(&words(line)).unwrap_err().to_string();
    let (schedule, add) = (help(&["schedule", "add", "--help"]), help(&["add", "--help"]));
    for option in ["--at <", "--key <", "--secret <"] {
        assert!(!schedule.contains(option) && add.contains(option), "{option}: {schedule}");
    }
}

/// `logs 7 --since 14:00 --until 14:05` used to mean tomorrow, find nothing and end well.
#[test]
fn a_time_of_day_was_the_latest_and_a_range_goes_forward() {
    let now = jiff::Zoned::now();
    let minutes_ago =
        |minutes: i64| now.checked_sub(jiff::SignedDuration::from_mins(minutes)).unwrap().strftime("%H:%M").to_string();
    let (since, until) = super::list::range(Some(&minutes_ago(7)), Some(&minutes_ago(2))).unwrap();
    let [since, until] = [since, until].map(|time| super::list::unix_ms(&time.unwrap()).unwrap());
    let age_ms = now.timestamp().as_millisecond() - since;
    assert!((7 * 60_000..9 * 60_000).contains(&age_ms), "{age_ms}");
    assert_eq!(until - since, 5 * 60_000);
    for (since, until) in [("5m", "10m"), ("5m", "5m"), ("2026-11-22", "2026-11-21"), ("now", "yesterday 03:00")] {
        let failure = super::list::range(Some(since), Some(until)).unwrap_err();
        assert_eq!(failure.code(), 3, "{since} {until}");
        assert!(failure.to_string().starts_with("--since: is not before `--until`: 20"), "{failure}");
    }
}

#[test]
fn words_must_be_utf_8() {
    use std::os::unix::ffi::OsStringExt as _;
    let bad = std::ffi::OsString::from_vec(b"a\xff".to_vec());
    let failure = super::words(["/x/ci-runner".into(), "add".into(), bad].into_iter()).unwrap_err();
    assert_eq!(failure.code(), 3);
    assert!(failure.to_string().starts_with("argument 2 (\"a\u{fffd}\") is not UTF-8"), "{failure}");
    assert_eq!(super::words(["/x/add_job".into(), "true".into()].into_iter()).unwrap(), ["true"]);
}

#[test]
fn add_job_takes_exactly_one_argument() {
    for line in [&[][..], &["a", "b"], &["-x", "y"]] {
        let failure = super::add::add_job(&words(line)).unwrap_err();
        assert_eq!(failure.code(), 3);
        assert!(failure.to_string().contains("usage: add_job 'COMMAND'"), "{failure}");
    }
}
