//! What requests are told that nobody can obey: the field, what is wrong with it, and the limit or the form that is allowed.

use crate::harness::Server;
use serde_json::json;

#[tokio::test]
async fn bodies_that_cannot_be_obeyed() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let held = client.submit(&json!({"shell": "true", "hold": true})).await;
    assert_eq!(held, 1);
    let long = format!("{{\"reason\":\"{}\"}}", "x".repeat(1_001));
    let schedule = |fields: &str| format!("{{\"name\":\"n\",{fields}}}");
    let unplaced = schedule(r#""calendar":"daily","timezone":"Mars/Base","job":{"shell":"x"}"#);
    let unknown = schedule(r#""calendar":"daily","overlap":"wait","job":{"shell":"x"}"#);
    let retried = schedule(r#""calendar":"daily","job":{"shell":"x","retry":100000}"#);
    for (path, body, field, part) in [
        ("/jobs", r#"{"command":"make"}"#, "command", "is a text; give a list of words, as in [\"make\", \"test\"]"),
        ("/jobs", r#"{"shell":"x","retry":99999999999}"#, "retry", "give a whole number from 0 to 1000"),
        ("/jobs", r#"{"shell":"x","env":{"A":"1","A":"2"}}"#, "env.A", "is given twice; give it once"),
        ("/jobs/cancel", r#"{"ids":[1,"2"]}"#, "ids[1]", "is a text; give a job id, as in 3"),
        ("/jobs/cancel", r#"{"ids":1}"#, "ids", "is the number 1; give a list of job ids, as in [7, 8]"),
        ("/jobs/cancel", r#"{"ids":[0]}"#, "ids[0]", "ids begin with 1"),
        ("/jobs/cancel", r#"{"ids":[1],"all":true}"#, "all", "give one of them"),
        ("/jobs/cancel", r#"{"all":"yes"}"#, "all", "is a text; give true or false"),
        ("/jobs/cancel", "{}", "ids", "is missing; give ids as in [7, 8]"),
        ("/jobs/1/priority", r#"{"priority":101}"#, "priority", "101; between -100 and 100"),
        ("/jobs/1/priority", r#"{"priority":100000}"#, "priority", "give a whole number from -100 to 100"),
        ("/jobs/1/priority", "{}", "priority", "is missing; give a whole number from -100 to 100"),
        ("/jobs/1/hold", r#"{"reason":7}"#, "reason", "is the number 7; give a text: write it in quotes"),
        (
            "/jobs/1/hold",
            r#"{"reason":"a\u0007"}"#,
            "reason",
            "holds the control character '\\u{7}'; give at most 1000",
        ),
        ("/pause", &long, "reason", "has 1001 bytes; give at most 1000 bytes without control characters"),
        ("/jobs/1/release", r#"{"now":true}"#, "now", "there is no key \"now\""),
        ("/backup", r#"{"path":"here"}"#, "path", "is not an absolute path; write it like /var/backups/"),
        ("/schedules", &unplaced, "timezone", "is no time zone; write a name like Europe/Berlin"),
        ("/schedules", &unknown, "overlap", "\"wait\""),
        ("/schedules", &retried, "job.retry", "100000; at most 1000"),
    ] {
        let refused = client.ask("POST", &format!("/api/v1{path}"), &[], body.to_owned()).await;
        refused.expect_problem(400, Some(field), part);
    }
    server.stop().await;
}

#[tokio::test]
async fn parameters_that_cannot_be_obeyed() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let id = client.submit(&json!({"shell": "true"})).await;
    client.wait_until(id, "finished").await;
    for (target, field, part) in [
        ("/jobs?limit=x", "limit", "is no whole number from 1 to 1000"),
        ("/jobs?limit=", "limit", "is no whole number from 1 to 1000"),
        ("/jobs?limit=99999999999999999999999", "limit", "is no whole number from 1 to 1000"),
        ("/jobs?limit=-1", "limit", "is no whole number from 1 to 1000"),
        ("/jobs?limit=1&limit=2", "limit", "is given twice; give it once"),
        ("/jobs?cursor=x", "cursor", "is no whole number from 1"),
        ("/stats?limit=x", "limit", "is no whole number from 1 to 1000"),
        ("/stats?by=hour", "by", "known are"),
        ("/logs?grep=a&limit=x", "limit", "is no whole number from 1 to 100000"),
        ("/logs?grep=a&fixed=perhaps", "fixed", "is neither true nor false"),
        ("/events?id=x", "id", "write it like 7,8"),
        ("/jobs/1/log?follow=yes", "follow", "is neither true nor false"),
        ("/jobs/1/log?tail=x", "tail", "is no whole number from 0 to 10000000"),
        ("/jobs/1/log?tail=99999999", "tail", "at most 10000000"),
        ("/jobs/1/log?attempt=0", "attempt", "0 is no attempt; attempts begin with 1"),
        ("/jobs/1/log?offset=99", "offset", "99; the log has 0 bytes: give at most that"),
    ] {
        client.get(&format!("/api/v1{target}")).await.expect_problem(400, Some(field), part);
    }
    server.stop().await;
}
