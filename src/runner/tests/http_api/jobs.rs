//! Submitting, looking, acting.

use crate::client::Connection;
use crate::harness::{Options, Server};
use serde_json::{Value, json};

#[tokio::test]
async fn a_job_runs_and_is_shown() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let job =
        json!({"shell": "echo hello; exit 7", "name": "n", "retry": 0, "env": {"K": "hidden"}, "labels": ["os=linux"]});
    let answer = client.post("/api/v1/jobs", &job).await;
    assert_eq!((answer.status, answer.header("location")), (201, "/api/v1/jobs/1"));
    assert_eq!(answer.json(), json!({"id": 1}));
    let job = client.wait_until(1, "finished").await;
    assert_eq!(
        (&job["outcome"], &job["exit_code"], &job["cause"]),
        (&json!("failed"), &json!(7), &json!("exit code 7"))
    );
    assert_eq!((&job["env_names"], &job["shell"]), (&json!(["K"]), &json!("echo hello; exit 7")));
    assert!(!job.to_string().contains("hidden"), "values of variables are not shown");
    let attempt = &job["attempts"][0];
    assert_eq!(
        (&attempt["number"], &attempt["result"], &attempt["log_bytes"]),
        (&json!(1), &json!("exited"), &json!(6))
    );
    assert!(job["run_seconds"].as_f64().unwrap() > 0.0 && job["queue_seconds"].as_f64().unwrap() >= 0.0, "{job}");
    assert_eq!(client.get("/api/v1/jobs/1/log").await.bytes, "hello\n");
    let why = client.get("/api/v1/jobs/1/why").await.json();
    assert_eq!(why["reasons"][0]["kind"], "finished");
    assert!(why["reasons"][0]["text"].as_str().unwrap().starts_with("failed at 2"), "{why}");
    server.stop().await;
}

#[tokio::test]
async fn an_array_is_queued_whole_or_not_at_all() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let bad = json!([{"shell": "true"}, {"shell": "true", "after": [999]}]);
    let answer = client.post("/api/v1/jobs", &bad).await;
    answer.expect_problem(400, Some("after[0]"), "there is no job 999");
    assert_eq!(answer.json()["index"], 1);
    let answer = client.post("/api/v1/jobs", &json!([{"shell": "true"}, {"shel": "true"}])).await;
    answer.expect_problem(400, Some("shel"), "did you mean \"shell\"?");
    assert_eq!(answer.json()["index"], 1);
    client.post("/api/v1/jobs", &json!([])).await.expect_problem(400, None, "empty");
    assert_eq!(client.get("/api/v1/jobs").await.json()["jobs"], json!([]), "nothing of it was queued");
    let answer = client.post("/api/v1/jobs", &json!([{"shell": "true"}, {"shell": "true"}])).await;
    assert_eq!((answer.status, answer.json()), (201, json!({"ids": [1, 2]})));
    let answer = client.post("/api/v1/jobs", &json!({"shell": "true", "after": [999]})).await;
    answer.expect_problem(400, Some("after[0]"), "there is no job 999");
    assert_eq!(answer.json().get("index"), None, "one alone has no index");
    server.stop().await;
}

#[tokio::test]
async fn an_idempotency_key_makes_a_submission_safe_to_repeat() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let send = async |client: &mut Connection, key: &str, body: &str| {
        client.ask("POST", "/api/v1/jobs", &[("Idempotency-Key", key)], body.to_owned()).await
    };
    let first = send(&mut client, "k", r#"{"shell":"true","timeout":"30m"}"#).await;
    assert_eq!((first.status, first.json()), (201, json!({"id": 1})));
    let again = send(&mut client, "k", r#"{ "timeout": 1800, "shell": "true" }"#).await;
    assert_eq!((again.status, again.json()), (201, json!({"id": 1})), "the same wish in other words");
    send(&mut client, "k", r#"{"shell":"false"}"#).await.expect_problem(422, None, "was used with another request");
    send(&mut client, "", r#"{"shell":"true"}"#).await.expect_problem(400, Some("Idempotency-Key"), "1 to 200 bytes");
    let own = client.post("/api/v1/jobs", &json!({"shell": "true", "key": "own"})).await;
    let own_again = client.post("/api/v1/jobs", &json!({"shell": "true", "key": "own"})).await;
    assert_eq!((own.json(), own_again.json()), (json!({"id": 2}), json!({"id": 2})));
    client.post("/api/v1/jobs", &json!({"shell": "false", "key": "own"})).await.expect_problem(422, None, "own");
    let twins =
        client.post("/api/v1/jobs", &json!([{"shell": "true", "key": "t"}, {"shell": "true", "key": "t"}])).await;
    twins.expect_problem(400, Some("key"), "an earlier job of the array has the key");
    assert_eq!(twins.json()["index"], 1);
    assert_eq!(client.submit(&json!({"shell": "true"})).await, 3, "without a key each is another job");
    server.stop().await;
}

#[tokio::test]
async fn lists_are_filtered_and_paged() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let hold = |name: &str, more: Value| {
        let mut job = json!({"shell": "true", "hold": true, "name": name, "correlation": name});
        job.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        job
    };
    let jobs: Vec<Value> = (1..=5).map(|number| hold(&format!("build-{number}"), json!({}))).collect();
    client.post("/api/v1/jobs", &json!(jobs)).await;
    client.submit(&hold("deploy", json!({"group": "prod:2", "labels": ["os=linux"], "pool": "default"}))).await;
    let done = client.submit(&json!({"shell": "exit 1", "retry": 0, "name": "quick"})).await;
    client.wait_until(done, "finished").await;
    let a_minute_ago = jiff::Zoned::now().checked_sub(jiff::SignedDuration::from_mins(1)).unwrap();
    for (query, expected) in [
        ("", vec![7, 6, 5, 4, 3, 2, 1]),
        ("order=asc", vec![1, 2, 3, 4, 5, 6, 7]),
        ("state=queued&limit=2", vec![6, 5]),
        ("state=open", vec![6, 5, 4, 3, 2, 1]),
        ("state=running,finished", vec![7]),
        ("outcome=failed,succeeded", vec![7]),
        ("outcome=succeeded", vec![]),
        ("name=deploy", vec![6]),
        ("name=build-*&order=asc&limit=3", vec![1, 2, 3]),
        ("pool=default", vec![7, 6]),
        ("label=os%3Dlinux", vec![6]),
        ("group=prod", vec![6]),
        ("group=prod&name=quick", vec![]),
        ("correlation=build-2", vec![2]),
        ("since=2000-01-01T00:00:00Z&limit=1", vec![7]),
        ("until=2000-01-01T00:00:00Z", vec![]),
        // Of a time of day the latest is meant, of an age so long ago.
        (&format!("since={}&limit=1", a_minute_ago.strftime("%H:%M")), vec![7]),
        ("since=10m&until=now&limit=1", vec![7]),
        ("until=2000-01-01", vec![]),
        ("until=10m", vec![]),
        ("cursor=4", vec![3, 2, 1]),
        ("cursor=4&order=asc", vec![5, 6, 7]),
    ] {
        let answer = client.get(&format!("/api/v1/jobs?{query}")).await;
        assert_eq!(answer.status, 200, "{query}: {answer:?}");
        assert_eq!(ids(&answer.json()), expected, "{query}");
    }
    let mut cursor = String::new();
    let mut seen = Vec::new();
    loop {
        let page = client.get(&format!("/api/v1/jobs?limit=3{cursor}")).await.json();
        seen.extend(ids(&page));
        let Some(next) = page["next_cursor"].as_u64() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(seen, [7, 6, 5, 4, 3, 2, 1]);
    for (query, field, part) in [
        ("limit=0", "limit", "between 1 and 1000"),
        ("limit=1001", "limit", "between 1 and 1000"),
        ("limit=x", "limit", "is no whole number"),
        ("stat=queued", "stat", "did you mean \"state\"?"),
        ("state=qeued", "state", "did you mean \"queued\"?"),
        ("outcome=fail", "outcome", "failed"),
        ("order=up", "order", "known are asc, desc"),
        ("pool=defalt", "pool", "did you mean \"default\"?"),
        ("group=prd", "group", "did you mean \"prod\"?"),
        ("group=nope", "group", "there is no group \"nope\""),
        ("since=1y", "since", "\"y\" is not a unit"),
        ("since=soon", "since", "yesterday 03:00"),
        ("since=5m&until=10m", "since", "is not before `until`"),
        ("since=2000-01-02&until=2000-01-02", "since", "is not before `until`"),
        ("cursor=0", "cursor", "next_cursor"),
    ] {
        client.get(&format!("/api/v1/jobs?{query}")).await.expect_problem(400, Some(field), part);
    }
    server.stop().await;
}

fn ids(page: &Value) -> Vec<u64> {
    page["jobs"].as_array().unwrap().iter().map(|job| job["id"].as_u64().unwrap()).collect()
}

/// Commands may have a megabyte each: a page ends early rather than grow without bound, and nothing is left out.
#[tokio::test]
async fn a_page_of_very_long_commands_is_cut() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let long = json!({"command": ["true", "x".repeat(100_000)], "hold": true});
    for _ in 0..3 {
        let jobs = vec![long.clone(); 70];
        assert_eq!(client.post("/api/v1/jobs", &json!(jobs)).await.status, 201);
    }
    let first = client.get("/api/v1/jobs?limit=1000").await;
    assert!(first.bytes.len() < 16 * 1024 * 1024, "{}", first.bytes.len());
    let first = first.json();
    let mut seen = ids(&first);
    let mut cursor = first["next_cursor"].as_u64();
    assert!(cursor.is_some(), "it was cut");
    while let Some(from) = cursor {
        let page = client.get(&format!("/api/v1/jobs?limit=1000&cursor={from}")).await.json();
        seen.extend(ids(&page));
        cursor = page["next_cursor"].as_u64();
    }
    assert_eq!(seen, (1..=210).rev().collect::<Vec<u64>>());
    server.stop().await;
}

#[tokio::test]
async fn jobs_are_acted_upon() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let held = client.submit(&json!({"shell": "true", "hold": true, "name": "n", "priority": 1})).await;
    let shown = client.job(held).await;
    assert!(shown["reason"].as_str().unwrap().contains("on hold by "), "{shown}");
    let acted = client.post(&format!("/api/v1/jobs/{held}/priority"), &json!({"priority": 9})).await;
    assert_eq!(acted.json(), json!({"ids": [held], "finished": []}));
    assert_eq!(client.job(held).await["priority"], 9);
    let refused = client.post(&format!("/api/v1/jobs/{held}/priority"), &json!({"priority": 101})).await;
    refused.expect_problem(400, Some("priority"), "between -100 and 100");
    client.post(&format!("/api/v1/jobs/{held}/hold"), &json!({"reason": "later"})).await;
    let why = client.get(&format!("/api/v1/jobs/{held}/why")).await.json();
    assert!(why["reasons"][0]["text"].as_str().unwrap().contains("because later"), "{why}");
    assert_eq!(client.ask("POST", &format!("/api/v1/jobs/{held}/release"), &[], "").await.status, 200);
    client.wait_until(held, "finished").await;
    let again = client.ask("POST", &format!("/api/v1/jobs/{held}/retry"), &[], "{}").await;
    assert_eq!(again.status, 201, "{again:?}");
    let again = client.wait_until(again.json()["id"].as_u64().unwrap(), "finished").await;
    assert_eq!((&again["name"], &again["outcome"]), (&json!("n"), &json!("succeeded")));
    let acted = client.ask("POST", &format!("/api/v1/jobs/{held}/cancel"), &[], "").await;
    assert_eq!(acted.json(), json!({"ids": [], "finished": [held]}));
    for path in ["/api/v1/jobs/99/cancel", "/api/v1/jobs/99/hold", "/api/v1/jobs/99/retry", "/api/v1/jobs/99/release"] {
        client.ask("POST", path, &[], "").await.expect_problem(404, None, "there is no job 99");
    }
    client.get("/api/v1/jobs/x").await.expect_problem(400, Some("id"), "whole numbers from 1");
    client.get("/api/v1/jobs/0").await.expect_problem(400, Some("id"), "whole numbers from 1");
    let unknown = client.post(&format!("/api/v1/jobs/{held}/cancel"), &json!({"now": true})).await;
    unknown.expect_problem(400, Some("now"), "there is no key \"now\"; none is known here");
    client.get("/api/v1/jobs/99").await.expect_problem(404, None, "there is no job 99");
    client.get("/api/v1/jobs/99/why").await.expect_problem(404, None, "there is no job 99");
    server.stop().await;
}

#[tokio::test]
async fn many_are_cancelled_or_none() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let running = client.submit(&json!({"shell": "sleep 100"})).await;
    client.wait_until(running, "running").await;
    let held = client.submit(&json!({"shell": "true", "hold": true})).await;
    let answer = client.post("/api/v1/jobs/cancel", &json!({"ids": [running, 99]})).await;
    answer.expect_problem(404, None, "there is no job 99");
    assert_eq!(client.job(running).await["state"], "running", "none was touched");
    for (body, field) in [
        (json!({}), "ids"),
        (json!({"ids": [1], "all": true}), "all"),
        (json!({"ids": [0]}), "ids[0]"),
        (json!({"idss": [1]}), "idss"),
    ] {
        client.post("/api/v1/jobs/cancel", &body).await.expect_problem(400, Some(field), "");
    }
    let acted = client.post("/api/v1/jobs/cancel", &json!({"ids": [running, held]})).await.json();
    assert_eq!(acted, json!({"ids": [running, held], "finished": []}));
    let job = client.wait_until(running, "finished").await;
    assert_eq!(job["outcome"], "cancelled");
    assert!(job["cause"].as_str().unwrap().starts_with("cancelled by "), "{job}");
    server.stop().await;
}

#[tokio::test]
async fn a_retry_needs_what_is_still_known() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let open = client.submit(&json!({"shell": "true", "hold": true})).await;
    let answer = client.ask("POST", &format!("/api/v1/jobs/{open}/retry"), &[], "").await;
    answer.expect_problem(409, None, "is queued");
    let secret = json!({"shell": "test ${#T} = 8", "secrets": {"T": "hunter22"}});
    let secret = client.submit(&secret).await;
    let job = client.wait_until(secret, "finished").await;
    assert_eq!(job["outcome"], "succeeded", "{job}");
    assert!(!job.to_string().contains("hunter22"), "{job}");
    let answer = client.ask("POST", &format!("/api/v1/jobs/{secret}/retry"), &[], "").await;
    answer.expect_problem(409, None, "used secrets (T)");
    server.stop().await;
}

/// Whose answer was lost asks again: one job comes of it, for `retry` and `run` of a schedule as for a submission.
#[tokio::test]
async fn an_idempotency_key_makes_retries_and_runs_safe_to_repeat() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let mut finished = Vec::new();
    for _ in 0..2 {
        let id = client.submit(&json!({"shell": "true"})).await;
        client.wait_until(id, "finished").await;
        finished.push(format!("/api/v1/jobs/{id}/retry"));
    }
    let schedule =
        |name: &str| json!({"name": name, "calendar": "@yearly", "timezone": "UTC", "job": {"shell": "true"}});
    for name in ["one", "two"] {
        assert_eq!(client.post("/api/v1/schedules", &schedule(name)).await.status, 201);
    }
    let runs = ["one", "two"].map(|name| format!("/api/v1/schedules/{name}/run"));
    for ([path, other], key) in [([&finished[0], &finished[1]], "a"), ([&runs[0], &runs[1]], "b")] {
        let keyed = [("Idempotency-Key", key)];
        let first = client.ask("POST", path, &keyed, "").await;
        assert_eq!(first.status, 201, "{first:?}");
        let again = client.ask("POST", path, &keyed, "{}").await;
        assert_eq!((again.status, again.json()), (201, first.json()), "{path}");
        assert_eq!(again.header("location"), first.header("location"));
        client.ask("POST", other, &keyed, "").await.expect_problem(422, None, "was used with another request");
        let submission = client.ask("POST", "/api/v1/jobs", &keyed, r#"{"shell":"true"}"#).await;
        submission.expect_problem(422, None, "was used with another request");
        client.ask("POST", path, &[("Idempotency-Key", "")], "").await.expect_problem(400, Some("Idempotency-Key"), "");
        let unkeyed = client.ask("POST", path, &[], "").await;
        assert_ne!(unkeyed.json(), first.json(), "the control: without a key each is another job");
    }
    // What the job was made from may be gone: the answer is the same all the same.
    let before = client.ask("POST", &runs[0], &[("Idempotency-Key", "b")], "").await;
    assert_eq!(client.ask("DELETE", "/api/v1/schedules/one", &[], "").await.status, 204);
    let after = client.ask("POST", &runs[0], &[("Idempotency-Key", "b")], "").await;
    assert_eq!((after.status, after.json()), (201, before.json()));
    let mut all = client.get("/api/v1/openapi.json").await.json();
    for path in ["/api/v1/jobs/{id}/retry", "/api/v1/schedules/{name}/run"] {
        let listed = all["paths"][path]["post"]["parameters"].take();
        assert!(
            listed.as_array().unwrap().iter().any(|listed| listed["name"] == "Idempotency-Key"),
            "{path}: {listed}"
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn reasons_name_who_is_in_the_way() {
    let server = Server::with(Options { config: "max_parallel_jobs = 1\n".into(), ..Options::default() }).await;
    let mut client = server.connect().await;
    let first = client.submit(&json!({"shell": "sleep 100", "group": "g"})).await;
    client.wait_until(first, "running").await;
    let member = client.submit(&json!({"shell": "true", "group": "g"})).await;
    let waiting = client.submit(&json!({"shell": "true"})).await;
    let dependent = client.submit(&json!({"shell": "true", "after": [first]})).await;
    let nowhere = client.submit(&json!({"shell": "true", "labels": ["tpu"]})).await;
    for (id, kind, text) in [
        (first, "running", "runs as attempt 1 in pool default, slot 0"),
        (member, "group", "group g (limit 1) is held by job 1"),
        (waiting, "no_slot", "no slot is free in pool default (1 of 1): held by job 1"),
        (dependent, "waits_for", "waits for job 1 to succeed (it is running)"),
        (nowhere, "no_pool", "no pool has label tpu; nearest is pool default, which lacks it"),
    ] {
        let why = client.get(&format!("/api/v1/jobs/{id}/why")).await.json();
        assert_eq!((&why["reasons"][0]["kind"], &why["reasons"][0]["text"]), (&json!(kind), &json!(text)));
    }
    server.stop().await;
}

#[tokio::test]
async fn a_full_queue_says_when_to_come_back() {
    let config = "max_parallel_jobs = 1\nqueue_jobs_max = 2\n".to_owned();
    let server = Server::with(Options { config, ..Options::default() }).await;
    let mut client = server.connect().await;
    let held = json!({"shell": "true", "hold": true});
    let answer = client.post("/api/v1/jobs", &json!([held, held, held])).await;
    answer.expect_problem(413, None, "3 jobs at once are more than the queue ever takes: 2 open jobs");
    assert_eq!(client.post("/api/v1/jobs", &held).await.status, 201);
    let answer = client.post("/api/v1/jobs", &json!([held, held])).await;
    answer.expect_problem(503, None, "the queue is full: 2 open jobs");
    assert_eq!(answer.header("retry-after"), "5");
    assert_eq!(client.post("/api/v1/jobs", &held).await.status, 201);
    client.post("/api/v1/jobs", &held).await.expect_problem(503, None, "nothing was queued");
    server.stop().await;
}

/// Who asks again whether a job is there is told so, however full the queue is.
#[tokio::test]
async fn a_full_queue_knows_the_keys_of_its_jobs() {
    let config = "max_parallel_jobs = 1\nqueue_jobs_max = 2\n".to_owned();
    let server = Server::with(Options { config, ..Options::default() }).await;
    let mut client = server.connect().await;
    let keyed = |key: &str| json!({"shell": "true", "hold": true, "key": key});
    let first = client.post("/api/v1/jobs", &json!([keyed("a"), keyed("b")])).await.json();
    let again = client.post("/api/v1/jobs", &json!([keyed("b"), keyed("a")])).await;
    assert_eq!((again.status, &again.json()["ids"]), (201, &json!([first["ids"][1], first["ids"][0]])));
    for new in [json!([keyed("a"), keyed("c")]), json!(keyed("c")), json!([keyed("a"), {"shell": "true"}])] {
        client.post("/api/v1/jobs", &new).await.expect_problem(503, None, "the queue is full");
    }
    assert_eq!(client.get("/api/v1/jobs").await.json()["jobs"].as_array().map(Vec::len), Some(2));
    server.stop().await;
}

#[tokio::test]
async fn a_callers_trace_goes_on_in_its_job() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let body = json!({"shell": "echo $TRACEPARENT $CI_RUNNER_CORRELATION_ID"}).to_string();
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let headers = [("traceparent", parent), ("x-request-id", "not this")];
    let answer = client.ask("POST", "/api/v1/jobs", &headers, body.clone()).await;
    let trace = "0af76519-16cd-43dd-8448-eb211c80319c";
    assert_eq!((answer.status, answer.header("ci-runner-correlation-id")), (201, trace));
    let id = answer.json()["id"].as_u64().unwrap();
    let job = client.wait_until(id, "finished").await;
    assert_eq!(job["correlation"], trace);
    let told = format!("00-0af7651916cd43dd8448eb211c80319c-{id:016x}-01 {trace}\n");
    assert_eq!(client.get(&format!("/api/v1/jobs/{id}/log")).await.bytes, told);
    // Without a valid trace the request's id, and without a valid one of these one of our own.
    for (headers, expected) in [
        (vec![("traceparent", "00-nonsense"), ("x-request-id", "req:7")], Some("req:7")),
        (vec![("x-request-id", "bad id")], None),
        (vec![("traceparent", parent), ("traceparent", parent)], None),
    ] {
        let answer = client.ask("POST", "/api/v1/jobs", &headers, body.clone()).await;
        let given = answer.header("ci-runner-correlation-id").to_owned();
        assert!(expected.is_none_or(|expected| expected == given) && given != "bad id" && given != trace, "{given}");
    }
    let own = json!({"shell": "true", "correlation": "own"}).to_string();
    let answer = client.ask("POST", "/api/v1/jobs", &[("traceparent", parent)], own).await;
    assert_eq!(answer.header("ci-runner-correlation-id"), "own", "what the job says itself counts");
    server.stop().await;
}
