//! Watches and notifiers, with real programs and peers: what is told arrives, once it happened, and nothing of it holds up a job.

use crate::support::{Host, PATIENCE, wait_for};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// A host whose notifiers are these tables.
pub(crate) fn host(config: impl Fn(&Host) -> String) -> Host {
    let mut host = Host::new();
    host.config = format!("grace = 1\n{}", config(&host));
    host.start();
    host
}

/// A script that is executed by a notifier.
pub(crate) fn script(host: &Host, name: &str, text: &str) -> PathBuf {
    let path = host.path(name);
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// A notifier that appends each event to a file, one a line.
pub(crate) fn collector(host: &Host, more: &str) -> String {
    let text = format!("cat >> {0}; echo >> {0}", host.path("events").display());
    let path = script(host, "collect", &text);
    format!("[notifiers.ops]\nkind = \"command\"\ncommand = [{path:?}]\n{more}\n")
}

pub(crate) fn events(host: &Host) -> Vec<Value> {
    let text = fs::read_to_string(host.path("events")).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn kinds(host: &Host) -> Vec<String> {
    events(host).iter().map(|event| event["type"].as_str().unwrap().to_owned()).collect()
}

pub(crate) fn submit(host: &Host, job: Value) -> u64 {
    host.post("/api/v1/jobs", &job)["id"].as_u64().unwrap()
}

pub(crate) fn outcome(host: &Host, id: u64) -> String {
    wait_for("the job's end", || host.get(&format!("/api/v1/jobs/{id}"))["outcome"].as_str().map(str::to_owned))
}

/// HMAC-SHA256 by the definition, not by the program's code.
fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    assert!(key.len() <= 64);
    let pad = |with: u8| -> Vec<u8> { (0..64).map(|at| key.get(at).copied().unwrap_or(0) ^ with).collect() };
    let inner = Sha256::digest([pad(0x36), message.to_vec()].concat());
    Sha256::digest([pad(0x5c), inner.to_vec()].concat()).to_vec()
}

/// A request as a peer saw it.
struct Request {
    head: String,
    body: String,
}

impl Request {
    fn header(&self, name: &str) -> String {
        let found = self.head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
        found.unwrap_or_else(|| panic!("no {name} in {}", self.head)).to_owned()
    }
}

/// A peer that gives these answers, one after the other, and tells what it was asked.
fn peer(answers: &'static [&'static str]) -> (String, mpsc::Receiver<Request>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook?key=pathsecret", listener.local_addr().unwrap());
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        for answer in answers {
            let Ok((stream, _)) = listener.accept() else { return };
            let mut reader = BufReader::new(stream);
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).unwrap_or(0) > 0 {}
            let head = head.replace('\r', "");
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap().parse().unwrap();
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            reader.get_mut().write_all(answer.as_bytes()).unwrap();
            tell.send(Request { head, body: String::from_utf8(body).unwrap() }).ok();
        }
    });
    (url, told)
}

#[test]
fn a_peer_that_fails_first_gets_the_same_signed_event_again() {
    let (url, told) = peer(&[
        "HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 302 Elsewhere\r\nlocation: http://127.0.0.1:1/\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\n",
    ]);
    let key = b"0123456789abcdef0123456789abcdef";
    let secret = format!("whsec_{}", STANDARD.encode(key));
    let host = host(|host| {
        fs::write(host.path("secret"), &secret).unwrap();
        let place = host.path("secret");
        format!("[notifiers.hook]\nkind = \"http\"\nurl = {url:?}\nsecret_file = {place:?}\noutcomes = [\"failed\"]\n")
    });
    let good = submit(&host, json!({"shell": "true"}));
    assert_eq!(outcome(&host, good), "succeeded");
    let id = submit(&host, json!({"shell": "exit 7", "name": "build", "retry": 0, "env": {"E": "envsecret"}}));
    let requests: Vec<Request> = (0..3).map(|_| told.recv_timeout(PATIENCE).unwrap()).collect();
    for request in &requests {
        let id = request.header("webhook-id");
        let signed = format!("{id}.{}.{}", request.header("webhook-timestamp"), request.body);
        let expected = format!("v1,{}", STANDARD.encode(hmac(key, signed.as_bytes())));
        assert_eq!(request.header("webhook-signature"), expected);
        assert_eq!((&id, &request.body), (&requests[0].header("webhook-id"), &requests[0].body), "another event");
    }
    let event: Value = serde_json::from_str(&requests[0].body).unwrap();
    assert_eq!((&event["type"], &event["data"]["id"]), (&json!("job.ended"), &json!(id)));
    assert_eq!((&event["data"]["outcome"], &event["data"]["exit_code"]), (&json!("failed"), &json!(7)));
    wait_for("the note", || (host.get("/api/v1/notifiers")[0]["counts"]["delivered"] == 1).then_some(()));
    let notifier = &host.get("/api/v1/notifiers")[0];
    assert_eq!((&notifier["counts"]["failed"], &notifier["waiting"]), (&json!(2), &json!(0)), "{notifier}");
    assert!(told.recv_timeout(Duration::from_millis(300)).is_err(), "the one that succeeded was not asked for");
    // Neither the key nor the path of the URL is in what is said, or in the outbox.
    let files = ["notices.db", "notices.db-wal"].map(|name| fs::read(host.state.join(name)).unwrap_or_default());
    let said = [files[0].as_slice(), &files[1], host.daemon_log().as_bytes(), notifier.to_string().as_bytes()].concat();
    let said = String::from_utf8_lossy(&said);
    let encoded = STANDARD.encode(key);
    for word in ["pathsecret", "envsecret", encoded.as_str(), "0123456789abcdef"] {
        assert!(!said.contains(word) && !requests[0].body.contains(word), "{word} was told");
    }
}

#[test]
fn a_job_tells_by_mail_when_it_ends_and_nobody_writes_a_header() {
    let host = host(|host| {
        let text =
            format!("printf '%s ' \"$@\" > {0}.args; cat > {0}.part; mv {0}.part {0}", host.path("mail").display());
        let path = script(host, "sendmail", &text);
        format!(
            "[notifiers.mail]\nkind = \"email\"\nto = [\"ops@example.org\"]\nsendmail = [{path:?}, \"-t\", \"-oi\"]\n"
        )
    });
    let output = host.run_cli(&["add", "--notify", "mail", "--name", "bau: .=?x Gr\u{fc}n", "--", "true"]);
    assert!(output.status.success(), "{output:?}");
    let mail = wait_for("the mail", || fs::read_to_string(host.path("mail")).ok());
    assert_eq!(fs::read_to_string(host.path("mail.args")).unwrap(), "-t -oi ");
    let (header, body) = mail.split_once("\n\n").unwrap();
    let names: Vec<&str> = header.lines().filter_map(|line| line.split_once(": ")).map(|(name, _)| name).collect();
    assert_eq!(names[..3], ["To", "Subject", "Date"], "{header}");
    assert_eq!(header.lines().filter(|line| line.starts_with("To:")).count(), 1);
    let body = STANDARD.decode(body.replace('\n', "")).unwrap();
    let body = String::from_utf8(body).unwrap();
    assert!(body.contains("(bau: .=?x Gr\u{fc}n) succeeded") && body.contains("\"outcome\": \"succeeded\""), "{body}");
    let job = host.get("/api/v1/jobs/1");
    assert_eq!(job["notify"], json!(["mail"]));
    let output = host.run_cli(&["add", "--notify", "mial", "--", "true"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("there is no notifier \"mial\"; there is mail"), "{said}");
}

#[test]
fn a_stuck_job_is_one_alarm_with_a_start_and_an_end_over_a_restart() {
    let watch = "[watch]\nevery = \"1s\"\nstuck_after = \"1s\"\n";
    let mut host = host(|host| format!("{watch}{}", collector(host, "watches = [\"stuck_job\"]")));
    let gate = host.path("gate");
    let id = submit(
        &host,
        json!({"shell": format!("until test -e {}; do sleep 0.05; done", gate.display()), "name": "slow"}),
    );
    wait_for("the start", || (kinds(&host) == ["watch.started"]).then_some(()));
    let watches = host.get("/api/v1/watches");
    assert_eq!((&watches["active"][0]["job"], &watches["active"][0]["watch"]), (&json!(id), &json!("stuck_job")));
    assert_eq!(host.get("/api/v1/status")["watches"][0]["job"], json!(id));
    let metrics = host.call("GET", "/metrics", None).text();
    assert!(metrics.contains("ci_runner_watch_active{watch=\"stuck_job\"} 1"), "{metrics}");
    let line = format!("watch stuck_job started: job {id} (slow) runs for");
    // The log is written by a thread of its own.
    wait_for("the line in the log", || host.daemon_log().contains(&line).then_some(()));
    assert!(host.why(id).iter().any(|(kind, _)| kind == "stuck_job"), "{:?}", host.why(id));
    host.stop();
    host.start();
    wait_for("a look", || (host.get("/api/v1/watches")["active"][0]["job"] == json!(id)).then_some(()));
    let measured = |host: &Host| host.get("/api/v1/watches")["active"][0]["measured"].as_f64().unwrap();
    let before = measured(&host);
    wait_for("two more looks", || (measured(&host) > before + 1.5).then_some(()));
    assert_eq!(kinds(&host), ["watch.started"], "an alarm that is still active is not told again");
    fs::write(&gate, "").unwrap();
    wait_for("the end", || (kinds(&host) == ["watch.started", "watch.ended"]).then_some(()));
    let told = events(&host);
    assert_eq!(told[0]["data"]["id"], told[1]["data"]["id"]);
    assert_eq!((&told[1]["data"]["job"], &told[1]["data"]["name"]), (&json!(id), &json!("slow")));
    let watches = host.get("/api/v1/watches");
    assert_eq!((&watches["active"], &watches["recent"][0]["job"]), (&json!([]), &json!(id)));
    let metrics = host.call("GET", "/metrics", None).text();
    for line in [
        "ci_runner_watch_active{watch=\"stuck_job\"} 0",
        "ci_runner_watch_events_total{watch=\"stuck_job\"} 1",
        "ci_runner_notifications_total{notifier=\"ops\",result=\"delivered\"} 2",
    ] {
        assert!(metrics.contains(line), "no {line} in {metrics}");
    }
}

#[test]
fn failures_and_jobs_that_flap_raise_alarms() {
    let watch = "[watch]\nevery = \"1s\"\nfailure_jobs_min = 4\nflapping_changes_max = 3\n";
    let host = host(|host| format!("{watch}{}", collector(host, "watches = \"all\"")));
    for code in [0, 1, 0, 1, 0, 1] {
        let id = submit(&host, json!({"shell": format!("exit {code}"), "name": "swing", "retry": 0}));
        outcome(&host, id);
    }
    let active = wait_for("the alarms", || {
        let active = host.get("/api/v1/watches")["active"].as_array().unwrap().clone();
        (active.len() == 2).then_some(active)
    });
    let mut watches: Vec<&str> = active.iter().map(|alarm| alarm["watch"].as_str().unwrap()).collect();
    watches.sort_unstable();
    assert_eq!(watches, ["failure_rate", "flapping"]);
    wait_for("the notices", || (kinds(&host) == ["watch.started", "watch.started"]).then_some(()));
}

#[test]
fn what_a_killed_daemon_did_not_deliver_the_next_one_does() {
    let mut host = host(|host| {
        let (gate, to) = (host.path("gate"), host.path("events"));
        let text = format!("test -e {} || exit 1; cat >> {1}; echo >> {1}", gate.display(), to.display());
        let path = script(host, "gated", &text);
        format!("[notifiers.ops]\nkind = \"command\"\ncommand = [{path:?}]\n")
    });
    // Killed at once after the end, and after a try that failed: between commit, cursor, outbox and delivery.
    for round in 0..6_u64 {
        let id = submit(&host, json!({"shell": "true", "notify": ["ops"]}));
        outcome(&host, id);
        if round % 2 == 1 {
            wait_for("a try", || {
                (host.get("/api/v1/notifiers")[0]["counts"]["failed"].as_u64() > Some(0)).then_some(())
            });
        }
        host.kill();
        host.start();
    }
    fs::write(host.path("gate"), "").unwrap();
    let told = wait_for("all notices", || {
        let mut ids: Vec<u64> = events(&host).iter().map(|event| event["data"]["id"].as_u64().unwrap()).collect();
        ids.sort_unstable();
        ids.dedup();
        (ids.len() == 6).then_some(ids)
    });
    assert_eq!(told, [1, 2, 3, 4, 5, 6]);
}

#[test]
fn a_notifier_that_hangs_delays_and_loses_no_job() {
    const JOBS: usize = 200;
    let run = |host: Host| {
        let begin = Instant::now();
        let jobs: Vec<Value> = (0..JOBS).map(|_| json!({"shell": "true"})).collect();
        host.post("/api/v1/jobs", &Value::Array(jobs));
        wait_for("all jobs", || (host.get("/api/v1/status")["jobs"]["succeeded"] == json!(JOBS)).then_some(()));
        (begin.elapsed(), host)
    };
    let (without, _) = run(host(|_| String::new()));
    let (with, mut host) = run(host(|host| {
        let path = script(host, "hang", &format!("echo $$ >> {}; sleep 1000; exit 0", host.path("pids").display()));
        format!(
            "[notifiers.hangs]\nkind = \"command\"\ncommand = [{path:?}]\noutcomes = \"all\"\ntimeout = \"60s\"\n\
             queue_max = 50\n"
        )
    }));
    println!("{JOBS} jobs: {without:?} without a notifier, {with:?} beside one that hangs");
    assert!(with < without * 2 + Duration::from_secs(2), "{with:?} against {without:?}");
    let notifier = wait_for("the drops", || {
        let notifier = host.get("/api/v1/notifiers")[0].clone();
        (notifier["counts"]["dropped"].as_u64() == Some(JOBS as u64 - 50)).then_some(notifier)
    });
    assert_eq!(notifier["waiting"], json!(50), "{notifier}");
    let pids = host.path("pids");
    let nth = |at: usize| {
        wait_for("a try", || fs::read_to_string(&pids).unwrap_or_default().lines().nth(at)?.parse::<i32>().ok())
    };
    let first = nth(0);
    assert!(is_alive(first));
    host.kill();
    host.start();
    let second = nth(1);
    assert!(!is_alive(first), "what a killed daemon left is killed by the next one");
    let begin = Instant::now();
    host.stop();
    assert!(begin.elapsed() < Duration::from_secs(10), "the end of the daemon waits for nobody: {:?}", begin.elapsed());
    wait_for("the end of what it ran", || (!is_alive(second)).then_some(()));
}

fn is_alive(pid: i32) -> bool {
    let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !state.is_empty() && !state.contains(") Z ")
}

#[test]
fn a_notifier_can_be_tried_and_says_what_is_wrong() {
    let host = host(|host| {
        let bad = script(host, "bad", "echo 'no such channel' >&2; exit 4");
        format!("{}[notifiers.bad]\nkind = \"command\"\ncommand = [{bad:?}]\n", collector(host, ""))
    });
    let output = host.run_cli(&["notify", "test", "ops"]);
    assert!(output.status.success() && output.stdout.starts_with(b"delivered in "), "{output:?}");
    assert_eq!(kinds(&host), ["notifier.test"]);
    let output = host.run_cli(&["notify", "test", "bad"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("exited with 4: no such channel"), "{output:?}");
    let output = host.run_cli(&["notify", "test", "opps"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("did you mean \"ops\"?"), "{output:?}");
}

/// What a notifier's program says may be secret (`set -x`, an address that is one), and health is told to everybody on the host.
#[test]
fn health_does_not_tell_what_a_notifiers_program_said() {
    let host = host(|host| {
        let bad = script(host, "bad", "echo \"TOKEN=$((1234 * 10000 + 5678))-of-the-hook\" >&2; exit 4");
        format!(
            "[notifiers.bad]\nkind = \"command\"\ncommand = [{bad:?}]\noutcomes = \"all\"\n[watch]\nevery = \"1s\"\n"
        )
    });
    outcome(&host, submit(&host, json!({"shell": "exit 3"})));
    let said = |host: &Host| host.run_cli(&["notify", "list", "--output", "json"]).stdout;
    wait_for("the operator to be told", || {
        String::from_utf8(said(&host)).unwrap().contains("12345678-of").then_some(())
    });
    for path in ["/health", "/readyz", "/status"] {
        let text = wait_for("health to say it", || {
            let text = host.call("GET", path, None).text();
            text.contains("notify list").then_some(text)
        });
        assert!(!text.contains("12345678"), "{path}: {text}");
    }
}
