//! What bad requests are told: the field, what is wrong with it, and the limit or the form that is allowed.

use super::{made, read_jobs, read_schedule};
use crate::api::PriorityRequest;
use crate::request::read;

/// Each row: a bad request, the field it must name, a part of the text.
fn check(rows: &[(&str, &str, &str)]) {
    for (json, field, part) in rows {
        let fault = made(json).err().unwrap_or_else(|| panic!("{json} was taken"));
        assert_eq!(fault.field, *field, "{json}: {fault}");
        assert!(fault.why.contains(part), "{json}: {fault}");
        assert!(!fault.why.contains("hunter"), "{json} tells a secret: {fault}");
    }
}

/// The same, of fields beside a command.
fn check_fields(rows: &[(&str, &str, &str)]) {
    for (fields, field, part) in rows {
        check(&[(&format!("{{\"command\":[\"a\"],{fields}}}"), field, part)]);
    }
}

#[test]
fn what_is_no_job_at_all() {
    check(&[
        ("", "", "no JSON"),
        ("{\"command\":", "", "no JSON"),
        ("7", "", "an object is needed"),
        ("{}", "command", "is missing"),
        (r#"{"command":["a"],"naem":"x"}"#, "naem", "did you mean \"name\"?"),
        (r#"{"command":["a"],"soft-timeout":"x"}"#, "soft-timeout", "did you mean \"soft_timeout\"?"),
    ]);
}

#[test]
fn what_is_to_be_run() {
    check(&[
        (r#"{"command":[]}"#, "command", "is empty; give a program"),
        (r#"{"command":["a\u0000"]}"#, "command[0]", "NUL"),
        (r#"{"command":["a",1]}"#, "command[1]", "is the number 1; a text is needed: write it in quotes"),
        (r#"{"command":"make"}"#, "command", "is a text; give a list of words, as in [\"make\", \"test\"]"),
        (r#"{"command":{}}"#, "command", "is an object; give a list of words"),
        (r#"{"shell":" "}"#, "shell", "is empty"),
        (r#"{"shell":["make"]}"#, "shell", "is an array; give a text: write it in quotes"),
    ]);
    check_fields(&[
        (r#""shell":"x""#, "shell", "one of them"),
        (r#""dir":"x""#, "dir", "is not an absolute path; write it like /srv/build"),
        (r#""dir":7"#, "dir", "is the number 7; give a text"),
        (r#""caller_dir":"x""#, "caller_dir", "is not an absolute path; write it like /srv/build"),
        (r#""env":{"A":1}"#, "env.A", "the number 1"),
        (r#""env":{"A=B":"1"}"#, "env.A=B", "no variable name"),
        (r#""env":["A=1"]"#, "env", "is an array; an object is needed, as in {\"NAME\": \"value\"}"),
        (r#""log_max":"1""#, "log_max", "between 4096 and 1099511627776"),
        (r#""log_max":-1"#, "log_max", "a size is never negative (write it like"),
        (r#""log_max":true"#, "log_max", "is true; give bytes or a text, as in \"64M\", between 4096"),
    ]);
}

#[test]
fn names() {
    check_fields(&[
        (r#""name":"""#, "name", "is empty"),
        (r#""name":7"#, "name", "is the number 7; give a text: write it in quotes"),
        (r#""name":"a\u0007""#, "name", "holds the control character '\\u{7}'; give at most 200 bytes"),
        (r#""pool":"nope""#, "pool", "there is default"),
        (r#""labels":["a b"]"#, "labels[0]", "cannot hold ' '; use letters"),
        (r#""labels":["a",{}]"#, "labels[1]", "is an object; a text is needed"),
        (r#""labels":"gpu""#, "labels", "is a text; give a list of texts, as in [\"gpu\", \"arch=arm64\"], at most 32"),
        (r#""notify":"ops""#, "notify", "is a text; give a list of names of notifiers, as in [\"ops\"], at most 16"),
        (r#""notify":[7]"#, "notify[0]", "is the number 7; a text is needed"),
        (r#""correlation":"""#, "correlation", "is empty"),
        (r#""key":"""#, "key", "has 0 bytes; an idempotency key has 1 to 200 bytes"),
        (r#""key":"a\n""#, "key", "holds a control character; an idempotency key has 1 to 200 bytes"),
        (r#""profile":"biuld""#, "profile", "did you mean \"build\"?"),
    ]);
}

#[test]
fn times() {
    check_fields(&[
        (r#""timeout":0"#, "timeout", "is zero"),
        (r#""timeout":"100us""#, "timeout", "less than a millisecond; give a longer time, as in 30m"),
        (r#""timeout":-1"#, "timeout", "negative"),
        (r#""timeout":"soon""#, "timeout", "not a duration"),
        (r#""timeout":"101y""#, "timeout", "not a duration"),
        (r#""timeout":4e9"#, "timeout", "longer than 100 years"),
        (r#""timeout":["30m"]"#, "timeout", "is an array; give seconds, as in 1800, or a text, as in \"30m\""),
        (r#""timeout":60,"soft_timeout":60"#, "soft_timeout", "60 s is not before the hard timeout of 60 s"),
        (r#""at":"10m""#, "at", "--in"),
        (r#""at":7"#, "at", "is the number 7; give a text"),
        (r#""at":"03:00","in":5"#, "in", "one of them"),
        (r#""expires":0"#, "expires", "is zero"),
        (r#""expires":false"#, "expires", "is false; give seconds, as in 1800"),
        (r#""in":300,"expires":60"#, "expires", "is not after `in`: it could never run; give a longer time"),
        (r#""at":"tomorrow 03:00","expires":60"#, "expires", "never run; give a longer time"),
    ]);
}

#[test]
fn retries_and_order() {
    check_fields(&[
        (r#""retry":-1"#, "retry", "is the number -1; give a whole number from 0 to 1000"),
        (r#""retry":1.5"#, "retry", "is the number 1.5; give a whole number from 0 to 1000"),
        (r#""retry":100000"#, "retry", "100000; at most 1000"),
        (r#""retry":99999999999"#, "retry", "is the number 99999999999; give a whole number from 0 to 1000"),
        (r#""retry":1e300"#, "retry", "give a whole number from 0 to 1000"),
        (r#""retry":"2""#, "retry", "is a text; give a whole number from 0 to 1000"),
        (r#""retry_delay":"30d""#, "retry_delay", "at most 604800 s (7 days)"),
        (r#""backoff":"fixd""#, "backoff", "did you mean \"fixed\"?"),
        (r#""backoff":2"#, "backoff", "is the number 2; give a text"),
        (r#""retry_on":["exit","sginal"]"#, "retry_on[1]", "did you mean \"signal\"?"),
        (r#""retry_on":"exit,sginal""#, "retry_on[1]", "did you mean \"signal\"?"),
        (
            r#""retry_on":7"#,
            "retry_on",
            "is the number 7; give a list of rules, as in [\"exit:2\", \"lost\"], or a text",
        ),
        (r#""retry_on":["exit:256"]"#, "retry_on[0]", "1 to 255"),
        (r#""retry_on":["signal:NOPE"]"#, "retry_on[0]", "signal:KILL"),
        (r#""retry_on":["lost:x"]"#, "retry_on[0]", "nothing after a colon"),
        (r#""priority":101"#, "priority", "between -100 and 100"),
        (r#""priority":100000"#, "priority", "between -100 and 100"),
        (r#""priority":"high""#, "priority", "is a text; give a whole number from -100 to 100"),
        (r#""priority":1e30"#, "priority", "give a whole number from -100 to 100"),
        (r#""hold":"yes""#, "hold", "is a text; give true or false"),
        (r#""hold":null"#, "hold", "is null; give true or false"),
    ]);
    let rules = vec!["\"lost\""; 65].join(",");
    check_fields(&[(&format!("\"retry_on\":[{rules}]"), "retry_on", "more than 64 words, at most 32")]);
}

#[test]
fn groups_and_dependencies() {
    check_fields(&[
        (r#""group":"g:x""#, "group", "no limit, which is 1 to 10000; write NAME:LIMIT"),
        (r#""group":"g:0""#, "group", "between 1 and 10000"),
        (r#""group":"""#, "group", "the name is empty; give 1 to 128 bytes"),
        (r#""group":7"#, "group", "deploy:2"),
        (r#""group":{"name":"g","limt":1}"#, "group.limt", "did you mean \"limit\"?"),
        (r#""group":{"limit":1}"#, "group.name", "is missing; give a text"),
        (r#""group":{"name":"g","limit":99999999999}"#, "group.limit", "give a whole number from 1 to 10000"),
        (r#""group":{"name":"g","policy":"newest"}"#, "group.policy", "known are queue, latest, cancel"),
        (r#""group":{"name":"g","policy":1}"#, "group.policy", "give \"queue\", \"latest\" or \"cancel\""),
        (r#""after":[0]"#, "after[0]", "ids begin with 1"),
        (r#""after":[1,"2:succes"]"#, "after[1]", "did you mean \"success\"?"),
        (r#""after":[1,{"id":2,"no":"x"}]"#, "after[1].no", "did you mean \"on\"?"),
        (r#""after":[{"id":"2"}]"#, "after[0].id", "is a text; give a job id, as in 3"),
        (r#""after":[{"id":2,"on":1}]"#, "after[0].on", "give \"success\", \"failure\" or \"always\""),
        (r#""after":["x"]"#, "after[0]", "write ID"),
        (r#""after":[true]"#, "after[0]", "is true"),
        (r#""after":3"#, "after", "is the number 3; give a list, as in [3, \"4:always\"], at most 1000"),
    ]);
}

#[test]
fn limits() {
    check_fields(&[
        (r#""memory":0"#, "memory", "between 4M and 1024T"),
        (r#""memory":"1M""#, "memory", "between 4M and 1024T"),
        (r#""memory":true"#, "memory", "is true; give bytes or a text, as in \"512M\", between 4M and 1024T"),
        (r#""cpu":0"#, "cpu", "between 0.01 and 4096"),
        (r#""cpu":-1"#, "cpu", "no number of cores; give one between 0.01 and 4096"),
        (r#""cpu":1e300"#, "cpu", "no number of cores; give one between 0.01 and 4096"),
        (r#""cpu":"2""#, "cpu", "is a text; give a number of cores between 0.01 and 4096, as in 1.5"),
        (r#""pids":0"#, "pids", "between 1 and 4194304"),
        (r#""pids":99999999999"#, "pids", "between 1 and 4194304"),
        (r#""pids":-1"#, "pids", "is the number -1; give a whole number from 1 to 4194304"),
        (r#""oom_memory_factor":2"#, "oom_memory_factor", "add it there"),
        (r#""oom_memory_factor":1,"retry_on":"oom""#, "oom_memory_factor", "between 1.01 and 10"),
        (r#""oom_memory_factor":1e9"#, "oom_memory_factor", "1.01 to 10"),
        (r#""oom_memory_factor":"2""#, "oom_memory_factor", "is a text; give a number from 1.01 to 10"),
    ]);
}

#[test]
fn secrets() {
    check_fields(&[
        (r#""secrets":"hunter22""#, "secrets", "is a text; an object is needed, as in {\"NAME\": \"value\"}"),
        (r#""secrets":{"T":"12345"}"#, "secrets.T", "minimum is 6"),
        (r#""secrets":{"T":"aaaaaaaaa"}"#, "secrets.T", "one character"),
        (r#""secrets":{"T=":"hunter22"}"#, "secrets.T=", "no variable name"),
        (r#""secrets":{"T":"hunter\u000022"}"#, "secrets.T", "NUL"),
        (r#""secrets":{"T":"hunter22"},"env":{"T":"x"}"#, "secrets.T", "one of them"),
        (r#""secrets":{"CI":"hunter22"}"#, "secrets.CI", "every job is given"),
        (r#""secrets":{"CI_JOB_ID":"hunter22"}"#, "secrets.CI_JOB_ID", "give it another name"),
        (r#""secrets":{"CI_RUNNER_ATTEMPT":"hunter22"}"#, "secrets.CI_RUNNER_ATTEMPT", "every job is given"),
    ]);
}

/// The last one used to win, for variables without a word.
#[test]
fn what_is_given_twice() {
    check_fields(&[
        (r#""name":"a","name":"b""#, "name", "is given twice; give it once"),
        (r#""env":{"A":"1","B":"2","A":"1"}"#, "env.A", "is given twice; give it once"),
        (r#""secrets":{"T":"hunter22","T":"hunter23"}"#, "secrets.T", "is given twice; give it once"),
        (r#""group":{"name":"g","name":"h"}"#, "group.name", "is given twice; give it once"),
        (r#""after":[1,{"id":2,"id":3}]"#, "after[1].id", "is given twice; give it once"),
    ]);
    let jobs = br#"[{"shell":"a"},{"shell":"b","env":{"A":"1","A":"2"}}]"#;
    let refused = read_jobs(jobs, 9).unwrap_err();
    assert_eq!((refused.index, refused.fault.field.as_str()), (Some(1), "env.A"), "{}", refused.fault);
    let schedule = br#"{"name":"n","calendar":"daily","job":{"shell":"x","env":{"A":"1","A":"2"}}}"#;
    assert_eq!(read_schedule(schedule).unwrap_err().field, "job.env.A");
    // With too many parts for a second look, the first one says it.
    let many = vec!["\"x\""; 150_000].join(",");
    let fault = made(&format!(r#"{{"command":[{many}],"env":{{"A":"1","A":"2"}}}}"#)).err().unwrap();
    assert_eq!(fault.to_string(), "env.A: is given twice; give it once");
}

#[test]
fn too_many_of_a_field() {
    let labels = vec!["\"a\""; 65].join(",");
    let env = (0..8_193).map(|number| format!("\"N{number}\":\"\"")).collect::<Vec<_>>().join(",");
    check_fields(&[
        (&format!("\"labels\":[{labels}]"), "labels", "more than 64 entries, at most 32 are taken"),
        (&format!("\"env\":{{{env}}}"), "env", "more than 8192 entries, at most 4096 are taken"),
    ]);
}

#[test]
fn other_bodies() {
    let refused = |read: Result<(), ci_runner_core::job::Fault>, field: &str, part: &str| {
        let fault = read.expect_err(part);
        assert!(fault.field == field && fault.why.contains(part), "{fault}");
    };
    let priority = |json: &str| read::<PriorityRequest>(json.as_bytes()).map(drop);
    refused(priority(r#"{"priority":100000}"#), "priority", "give a whole number from -100 to 100");
    refused(priority("{}"), "priority", "is missing; give a whole number from -100 to 100");
    let schedule = |json: &str| read_schedule(json.as_bytes()).map(drop);
    refused(schedule(r#"{"name":7,"calendar":"daily","job":{}}"#), "name", "is the number 7; give a text");
    refused(schedule(r#"{"name":"n","job":{"shell":"x"}}"#), "calendar", "is missing; give a text");
    refused(schedule(r#"{"name":"n","calendar":"daily"}"#), "job", "is missing; give an object");
    refused(schedule(r#"{"name":"n","calendar":"daily","job":{"retry":"x"}}"#), "job.retry", "from 0 to 1000");
}
