//! What requests mean, and what they are told when they are wrong.

use super::*;
use ci_runner_core::job::PRIORITY_MAX;
use ci_runner_core::retry::{Pattern, Rule};
use proptest::prelude::*;

mod refused;

fn now() -> Zoned {
    "2026-11-21T12:00:00[Europe/Berlin]".parse().expect("a time")
}

fn made(json: &str) -> Result<NewJob, Fault> {
    new_job(read_job(json.as_bytes())?, &Settings::default(), &now())
}

fn spec(json: &str) -> JobSpec {
    made(json).unwrap_or_else(|fault| panic!("{json}: {fault}")).spec
}

#[test]
fn words_become_a_whole_job() {
    let spec = spec(
        r#"{"command":["make","-j"],"name":"n","pool":"default","labels":["gpu","arch=arm64","gpu"],"env":{"K":"V"},
            "dir":"/srv","timeout":"30m","soft_timeout":1500,"retry":2,"retry_delay":"5s","backoff":"exponential",
            "retry_on":["exit:2","signal:SIGKILL","!timeout"],"priority":7,"group":"deploy:2","after":[3,"4:always"],
            "at":"2026-11-22 03:00","expires":"2d","hold":true,"log_max":"1M","correlation":"c"}"#,
    );
    assert_eq!(spec.work.command.argv(), ["make", "-j"]);
    assert_eq!((spec.work.timeout_ms, spec.work.soft_timeout_ms), (Some(1_800_000), Some(1_500_000)));
    assert_eq!(spec.work.log_bytes_max, 1 << 20);
    let terms = &spec.terms;
    assert_eq!(terms.labels.iter().map(Label::as_str).collect::<Vec<_>>(), ["arch=arm64", "gpu"]);
    assert_eq!((terms.retry.retries, terms.retry.delay_ms, terms.retry.backoff), (2, 5_000, Backoff::Exponential));
    assert_eq!(
        terms.retry.rules,
        [
            Rule { pattern: Pattern::Exit(Some(2)), retry: true },
            Rule { pattern: Pattern::Signal(Some(9)), retry: true },
            Rule { pattern: Pattern::Timeout, retry: false },
        ]
    );
    assert_eq!(terms.group.as_ref().map(|group| (group.name.as_str(), group.limit)), Some(("deploy", Some(2))));
    let after: Vec<_> = terms.after.iter().map(|after| (after.job.get(), after.on)).collect();
    assert_eq!(after, [(3, Condition::Success), (4, Condition::Always)]);
    assert_eq!(terms.at, Some(WallTime(1_795_312_800_000)));
    assert_eq!(terms.expires, Some(WallTime(1_795_258_800_000 + 2 * 86_400_000)));
    assert!(terms.hold);
    assert_eq!(spec.correlation, "c");
}

#[test]
fn what_is_not_said_comes_from_the_settings() {
    let settings = Settings { max_timeout_ms: Some(60_000), log_bytes_max: 5_000, ..Settings::default() };
    let request = read_job(br#"{"shell":"true"}"#).unwrap();
    let spec = new_job(request, &settings, &now()).unwrap().spec;
    assert_eq!(spec.work.timeout_ms, Some(60_000), "the default is capped");
    assert_eq!(spec.work.log_bytes_max, 5_000);
    assert_eq!(spec.terms.retry, settings.retry);
    assert_eq!(spec.work.command, Command::Shell("true".into()));
    let id = uuid::Uuid::parse_str(&spec.correlation).expect("a UUID");
    assert_eq!(id.get_version_num(), 7);
    let request = read_job(br#"{"shell":"true","retry":0}"#).unwrap();
    let spec = new_job(request, &settings, &now()).unwrap().spec;
    assert_eq!((spec.terms.retry.retries, spec.terms.retry.delay_ms), (0, 5_000), "field by field");
}

#[test]
fn arrays_name_the_job() {
    let read = |json: &str| read_jobs(json.as_bytes(), 3).map(|jobs| jobs.len());
    assert_eq!(read("[]"), Ok(0));
    assert_eq!(read(r#"[{"shell":"a"},{"shell":"b"},{"shell":"c"}]"#), Ok(3));
    for (json, index, field, part) in [
        (r#"[{"shell":"a"},{"shel":"b"}]"#, Some(1), "shel", "did you mean"),
        (r#"[{"shell":"a"},{"shell":"b"},7]"#, Some(2), "", "the number 7"),
        (r#"[{},{},{},{}]"#, None, "", "more than 3"),
        (r#"[{},"#, None, "", "no JSON"),
        (r#"[{}] x"#, None, "", "no JSON"),
    ] {
        let refused = read(json).unwrap_err();
        assert_eq!((refused.index, refused.fault.field.as_str()), (index, field), "{json}: {refused:?}");
        assert!(refused.fault.why.contains(part), "{json}: {refused:?}");
    }
}

#[test]
fn schedules_name_the_field_of_their_job() {
    let fault = read_schedule(br#"{"name":"n","calendar":"daily","job":{"shel":"x"}}"#).unwrap_err();
    assert_eq!(fault.field, "job.shel");
    let fault = read_schedule(br#"{"name":"n","job":{"shell":"x"}}"#).unwrap_err();
    assert_eq!((fault.field.as_str(), fault.why.as_str()), ("calendar", "is missing; give a text: write it in quotes"));
    assert!(read_schedule(br#"{"name":"n","calendar":"daily","job":{"shell":"x"}}"#).is_ok());
}

#[test]
fn exit_leaves_out_usage_errors() {
    assert_eq!(parse_rules(&["exit", "signal", "lost"]), Ok(RetryPolicy::default_rules()));
    assert_eq!(rule_words(&RetryPolicy::default_rules()), ["exit", "signal", "lost"]);
    let every = [Rule { pattern: Pattern::Exit(None), retry: true }];
    assert_eq!(rule_words(&every), ["exit:3", "exit:64", "exit"]);
    assert_eq!(parse_rules(&["!exit"]), Ok(vec![Rule { pattern: Pattern::Exit(None), retry: false }]));
}

#[test]
fn the_hash_of_a_body_depends_on_what_is_asked_only() {
    let hash = |json: &str| body_hash(&[read_job(json.as_bytes()).unwrap()]);
    let first = hash(r#"{"shell":"a","timeout":"30m","secrets":{"T":"hunter22"}}"#);
    assert_eq!(first, hash(r#"{ "secrets":{"T":"other-one"},"timeout":1800,"key":"k","shell":"a" }"#));
    assert_ne!(first, hash(r#"{"shell":"a","timeout":"31m","secrets":{"T":"hunter22"}}"#));
    assert_ne!(first, hash(r#"{"shell":"a","timeout":"30m","secrets":{"U":"hunter22"}}"#));
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let pattern = prop_oneof![
        Just(Pattern::Exit(None)),
        (1u8..).prop_map(|code| Pattern::Exit(Some(code))),
        Just(Pattern::Signal(None)),
        (1u8..=64).prop_map(|signal| Pattern::Signal(Some(signal))),
        Just(Pattern::Lost),
        Just(Pattern::Timeout),
        Just(Pattern::Oom),
        Just(Pattern::Start),
    ];
    (pattern, any::<bool>()).prop_map(|(pattern, retry)| Rule { pattern, retry })
}

#[test]
fn retry_rules_are_a_list_or_the_command_lines_text() {
    let rules = |json: &str| {
        let job = read_job(json.as_bytes())
            .map(|job| new_job(job, &Settings::default(), &now()).unwrap().spec.terms.retry.rules);
        job.unwrap()
    };
    let list = rules(r#"{"command":["x"],"retry_on":["exit:2","signal:KILL","!timeout"]}"#);
    assert_eq!(rules(r#"{"command":["x"],"retry_on":"exit:2, signal:KILL,!timeout"}"#), list);
    assert_eq!(rules(r#"{"command":["x"],"retry_on":null}"#), Settings::default().retry.rules);
    // The body of a key is the request as it is written again: both forms are the same request.
    let form = |json: &str| serde_json::to_string(&read_job(json.as_bytes()).unwrap()).unwrap();
    assert_eq!(form(r#"{"retry_on":"exit:2,lost"}"#), form(r#"{"retry_on":["exit:2","lost"]}"#));
}

fn any_request() -> impl Strategy<Value = JobRequest> {
    let base = (
        prop::collection::vec("[a-z]{1,8}", 1..4),
        prop::option::of("[a-zA-Z0-9 ]{1,20}"),
        prop::collection::vec("[a-z][a-z0-9]{0,5}(=[a-z0-9]{0,4})?", 0..4),
        prop::collection::btree_map("[A-Z_]{1,8}", "[ -~]{0,20}", 0..4),
        (1u64..1_000_000, 0u32..=1_000, 0u64..600_000_000),
        prop::collection::vec(any_rule(), 0..8),
    );
    let terms = (
        -PRIORITY_MAX..=PRIORITY_MAX,
        prop::option::of(("[a-z:]{1,8}", 1u32..=10_000, 0usize..3)),
        prop::collection::vec((1u64.., 0usize..3), 0..4),
        prop::option::of(1u64..1_000_000_000),
        any::<bool>(),
    );
    (base, terms).prop_map(|((command, name, labels, env, (timeout, retry, delay), rules), terms)| {
        let (priority, group, after, expires, hold) = terms;
        let milliseconds = |ms| crate::quantity::DurationField(std::time::Duration::from_millis(ms));
        JobRequest {
            command: Some(command),
            name,
            labels,
            env,
            timeout: Some(milliseconds(timeout)),
            retry: Some(retry),
            retry_delay: Some(milliseconds(delay)),
            retry_on: Some(rule_words(&rules)),
            priority: Some(i64::from(priority)),
            group: group.map(|(name, limit, policy)| {
                let policy = Some(["queue", "latest", "cancel"][policy].to_owned());
                GroupField::Parts(crate::api::GroupParts { name, limit: Some(limit), policy })
            }),
            after: after
                .into_iter()
                .map(|(id, on)| AfterField::Text(format!("{id}:{}", ["success", "failure", "always"][on])))
                .collect(),
            expires: expires.map(milliseconds),
            hold,
            ..JobRequest::default()
        }
    })
}

proptest! {
    #[test]
    fn a_job_and_its_request_are_the_same(request in any_request()) {
        let now = now();
        let json = serde_json::to_vec(&request).unwrap();
        let first = new_job(read_job(&json).unwrap(), &Settings::default(), &now).unwrap().spec;
        let again = request_of(&first, WallTime(now.timestamp().as_millisecond()));
        let again = read_job(&serde_json::to_vec(&again).unwrap()).unwrap();
        prop_assert_eq!(new_job(again, &Settings::default(), &now).unwrap().spec, first);
    }

    #[test]
    fn rules_decide_the_same_after_a_round_trip(rules in prop::collection::vec(any_rule(), 0..8), code: u8, signal in 1u8..=64) {
        use ci_runner_core::outcome::AttemptResult;
        let policy = |rules| RetryPolicy { retries: 1, delay_ms: 0, backoff: Backoff::Fixed, rules, oom_factor: None };
        let back = parse_rules(&rule_words(&rules)).unwrap();
        let (first, second) = (policy(rules), policy(back));
        for result in [AttemptResult::Exited { code }, AttemptResult::Signaled { signal }, AttemptResult::TimedOut, AttemptResult::OomKilled] {
            prop_assert_eq!(first.allows(&result), second.allows(&result));
        }
    }

    #[test]
    fn no_text_breaks_a_parser(text in "\\PC{0,40}") {
        let _ = parse_rules(&[&text]);
        let _ = parse_group(GroupField::Text(text.clone()));
        let _ = parse_dependency(AfterField::Text(text.clone()));
        let _ = signal_number(&text);
        let _ = read_job(text.as_bytes());
        let _ = read_jobs(text.as_bytes(), 2);
    }

    #[test]
    fn no_value_breaks_a_field(field in 0usize..64, value in "(\\[|\\{\"|\"|-|)[a-z0-9:]{0,6}(\"\\}|\\]|\"|)") {
        let known = crate::suggest::fields_of::<JobRequest>();
        let json = format!("{{\"shell\":\"x\",\"{}\":{value}}}", known[field % known.len()]);
        if let Err(fault) = made(&json) {
            prop_assert!(!fault.why.is_empty());
        }
        let _ = read_jobs(format!("[{json}]").as_bytes(), 2);
    }

    #[test]
    fn signals_have_one_name(number in 1u8..=64) {
        prop_assert_eq!(signal_number(&signal_name(number)), Some(number));
    }
}

/// Under which trace a job is asked for is no part of what is asked for; and what earlier versions kept is still known.
#[test]
fn a_key_does_not_depend_on_the_callers_trace() {
    let (settings, now) = (Settings::default(), now());
    let request: JobRequest = serde_json::from_str(r#"{"command":["true"],"key":"k"}"#).unwrap();
    let key = |request: &JobRequest, caller| new_job_of(request.clone(), caller, &settings, &now).unwrap().key.unwrap();
    let plain = key(&request, None);
    let traced = key(&request, Some("t1"));
    assert_eq!((plain.body, plain.body_before), (traced.body, None));
    let told = JobRequest { correlation: Some("t1".to_owned()), ..request };
    assert_eq!(traced.body_before, Some(body_hash(std::slice::from_ref(&told))), "as it was kept before");
    let told = key(&told, Some("t2"));
    assert!(told.body_before.is_none() && told.body != plain.body, "what the job says itself counts");
}

/// Peak memory of a hostile body was thirty times its size: all of it was read before it was counted, and then once more.
#[test]
fn reading_stops_where_a_field_has_too_many() {
    let many = |entry: &str| vec![entry; 150_000].join(",");
    let named = (0..150_000).map(|number| format!("\"N{number}\":\"long enough\"")).collect::<Vec<_>>().join(",");
    // What stands behind the limit is not read: it is not even JSON.
    for (field, list) in [
        ("after", format!("[{} oops", many("1"))),
        ("labels", format!("[{} oops", many("\"a\""))),
        ("notify", format!("[{} oops", many("\"a\""))),
        ("env", format!("{{{named} oops")),
        ("secrets", format!("{{{named} oops")),
    ] {
        let body = format!("{{\"shell\":\"true\",\"{field}\":{list}");
        let fault = read_job(body.as_bytes()).unwrap_err();
        assert!(fault.field == field && fault.why.contains("entries"), "{field}: {fault}");
        let fault = read_jobs(format!("[{{\"shell\":\"true\"}},{body}").as_bytes(), 9).unwrap_err();
        assert_eq!((fault.index, fault.fault.field.as_str()), (Some(1), field));
    }
    let words = vec!["\"\""; 400_000].join(",");
    let fault = read_job(format!("{{\"command\":[{words} oops").as_bytes()).unwrap_err();
    assert!(fault.field == "command", "{fault}");
    // A few too many are counted, and said.
    let body = format!(
        "{{\"shell\":\"true\",\"after\":[{}]}}",
        (1..=1_001).map(|id| id.to_string()).collect::<Vec<_>>().join(",")
    );
    let fault = new_job(read_job(body.as_bytes()).unwrap(), &Settings::default(), &jiff::Zoned::now()).err().unwrap();
    assert!(fault.why.contains("1001 dependencies, at most 1000"), "{fault}");
}

/// What one job may have, many jobs had together: small entries, in memory twenty times as large as they are written.
#[test]
fn an_array_has_so_many_entries_in_all() {
    let job = |words: usize| format!("{{\"command\":[{}]}}", vec!["\"\""; words].join(","));
    let array = |jobs: usize| format!("[{}]", vec![job(300_000); jobs].join(","));
    assert_eq!(read_jobs(array(13).as_bytes(), 99).unwrap().len(), 13);
    let fault = read_jobs(array(14).as_bytes(), 99).unwrap_err();
    assert!(fault.index.is_none() && fault.fault.why.contains("more than 4000000 words"), "{}", fault.fault);
}
