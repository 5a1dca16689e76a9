use super::*;
use crate::group::GROUP_LIMIT_MAX;
use crate::group::GroupPolicy;
use crate::labels::LABELS_MAX;
use crate::policy::Settings;
use crate::retry::{RETRIES_MAX, RETRY_DELAY_MS_MAX};

fn spec() -> JobSpec {
    let settings = Settings::default();
    JobSpec {
        name: Some("build".into()),
        correlation: "c".into(),
        work: Work {
            command: Command::Argv(vec!["make".into()]),
            env: vec![("K".into(), "V".into())],
            dir: Some("/tmp".into()),
            timeout_ms: Some(60_000),
            soft_timeout_ms: Some(30_000),
            log_bytes_max: settings.log_bytes_max,
            secrets: Vec::new(),
            profile: None,
            submitter_uid: None,
            notify: Vec::new(),
        },
        terms: Terms {
            pool: None,
            labels: Vec::new(),
            priority: 0,
            retry: settings.retry,
            group: None,
            after: Vec::new(),
            at: None,
            delay_ms: None,
            expires: None,
            hold: false,
            limits: crate::limits::Limits::NONE,
        },
    }
}

fn group(limit: Option<u32>) -> Option<GroupSpec> {
    Some(GroupSpec { name: "g".into(), limit, policy: GroupPolicy::Queue })
}

#[test]
fn a_plain_job_is_valid() {
    assert_eq!(spec().validate(&Settings::default()), Ok(spec()));
}

/// One bad field each: the fault names it.
#[test]
fn each_bad_field_is_named() {
    type Spoil = fn(&mut JobSpec);
    let cases: &[(&str, Spoil)] = &[
        ("command", |s| s.work.command = Command::Argv(Vec::new())),
        ("command", |s| s.work.command = Command::Argv(vec![String::new()])),
        ("command[1]", |s| s.work.command = Command::Argv(vec!["a".into(), "b\0".into()])),
        ("command[1]", |s| s.work.command = Command::Argv(vec!["a".into(), "b".repeat(WORD_BYTES_MAX + 1)])),
        ("command", |s| s.work.command = Command::Argv(vec!["b".repeat(WORD_BYTES_MAX); 8])),
        ("shell", |s| s.work.command = Command::Shell("  ".into())),
        ("shell", |s| s.work.command = Command::Shell("a\0b".into())),
        ("env.", |s| s.work.env = vec![(String::new(), String::new())]),
        ("env.A=B", |s| s.work.env = vec![("A=B".into(), String::new())]),
        ("env.A", |s| s.work.env = vec![("A".into(), "v".repeat(WORD_BYTES_MAX))]),
        ("env", |s| s.work.env = vec![("A".into(), String::new()); ENV_MAX + 1]),
        ("dir", |s| s.work.dir = Some("relative".into())),
        ("timeout", |s| s.work.timeout_ms = Some(0)),
        ("timeout", |s| s.work.timeout_ms = Some(DURATION_MS_MAX + 1)),
        ("soft_timeout", |s| s.work.soft_timeout_ms = Some(60_000)),
        ("log_max", |s| s.work.log_bytes_max = 1),
        ("secrets", |s| s.work.secrets = vec!["A".into(); SECRETS_MAX + 1]),
        ("name", |s| s.name = Some("x".repeat(NAME_BYTES_MAX + 1))),
        ("name", |s| s.name = Some("a\nb".into())),
        ("correlation", |s| s.correlation = "\u{1b}[2J".into()),
        ("pool", |s| s.terms.pool = Some("none".into())),
        ("pool", |s| s.terms.pool = Some("Not A Name".into())),
        ("labels", |s| s.terms.labels = vec![Label::parse("a").expect("label"); LABELS_MAX + 1]),
        ("priority", |s| s.terms.priority = 101),
        ("retry", |s| s.terms.retry.retries = RETRIES_MAX + 1),
        ("retry_delay", |s| s.terms.retry.delay_ms = RETRY_DELAY_MS_MAX + 1),
        ("group", |s| s.terms.group = group(Some(0))),
        ("group", |s| s.terms.group = group(Some(GROUP_LIMIT_MAX + 1))),
        ("in", |s| {
            s.terms.at = Some(WallTime(0));
            s.terms.delay_ms = Some(1);
        }),
        ("in", |s| s.terms.delay_ms = Some(DURATION_MS_MAX + 1)),
        ("expires", |s| {
            s.terms.at = Some(WallTime(5));
            s.terms.expires = Some(WallTime(5));
        }),
    ];
    for (index, (field, spoil)) in cases.iter().enumerate() {
        let mut spec = spec();
        spoil(&mut spec);
        let fault = spec.validate(&Settings::default()).expect_err(field);
        assert_eq!(fault.field, *field, "case {index}: {fault}");
    }
}

#[test]
fn the_configured_group_limit_cannot_be_contradicted() {
    let settings =
        Settings { groups: vec![crate::policy::GroupLimit { name: "g".into(), limit: 2 }], ..Settings::default() };
    for (limit, valid) in [(None, true), (Some(2), true), (Some(3), false)] {
        let mut spec = spec();
        spec.terms.group = group(limit);
        assert_eq!(spec.validate(&settings).is_ok(), valid, "{limit:?}");
    }
}

#[test]
fn a_long_command_is_shortened_at_a_character() {
    let command = Command::Shell("ä".repeat(50));
    assert!(command.summary(20).ends_with('…'));
    assert!(command.summary(20).len() <= 20);
    assert_eq!(Command::Argv(vec!["a".into(), "b\n c".into()]).summary(20), "a b c");
}
