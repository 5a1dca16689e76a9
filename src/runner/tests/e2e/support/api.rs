//! What a host is asked and told over its API.

use super::{Client, Host, PATIENCE, Response};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

impl Host {
    /// A way to the API.
    pub fn client(&self) -> Client {
        Client::new(self.socket())
    }

    /// A request that is answered.
    pub fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Response {
        let answer = self.client().call(method, path, &[], body);
        answer.unwrap_or_else(|error| panic!("{method} {path}: {error}\n{}", self.daemon_log()))
    }

    /// What a GET tells.
    pub fn get(&self, path: &str) -> Value {
        let response = self.call("GET", path, None);
        assert_eq!(response.status, 200, "GET {path}: {}", response.text());
        response.json()
    }

    /// A POST that must succeed.
    pub fn post(&self, path: &str, body: &Value) -> Value {
        let response = self.call("POST", path, Some(body));
        assert!((200..300).contains(&response.status), "POST {path}: {}", response.text());
        if response.body.is_empty() { Value::Null } else { response.json() }
    }

    /// Queues one job.
    pub fn add(&self, job: &Value) -> u64 {
        self.post("/api/v1/jobs", job)["id"].as_u64().unwrap()
    }

    /// A job of a shell, marked as this host's; not retried.
    pub fn shell(&self, script: &str) -> Value {
        json!({ "shell": script, "retry": 0, "env": { "E2E_MARKER": self.marker } })
    }

    /// As [`Host::shell`], with more keys.
    pub fn shell_with(&self, script: &str, more: Value) -> Value {
        let mut job = self.shell(script);
        for (key, value) in more.as_object().unwrap() {
            job[key] = value.clone();
        }
        job
    }

    /// What is told of a job.
    pub fn job(&self, id: u64) -> Value {
        self.get(&format!("/api/v1/jobs/{id}"))
    }

    /// A job's state.
    pub fn state_of(&self, id: u64) -> String {
        self.job(id)["state"].as_str().unwrap().to_owned()
    }

    /// Waits until a job is in this state.
    pub fn wait_state(&self, id: u64, state: &str) -> Value {
        let until = Instant::now() + PATIENCE;
        let mut last = Value::Null;
        loop {
            // A daemon that is killed and started again may not answer now.
            if let Ok(response) = self.client().call("GET", &format!("/api/v1/jobs/{id}"), &[], None) {
                last = response.json();
                if last["state"] == state {
                    return last;
                }
            }
            assert!(Instant::now() < until, "job {id} is not {state}: {last:#}\n{}", self.daemon_log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until a job has finished, and tells of it.
    pub fn finish(&self, id: u64) -> Value {
        self.wait_state(id, "finished")
    }

    /// Waits until no job is open.
    pub fn finish_all(&self, patience: Duration) {
        let until = Instant::now() + patience;
        loop {
            let open = self.get("/api/v1/jobs?state=open&limit=20");
            if open["jobs"].as_array().unwrap().is_empty() {
                return;
            }
            assert!(Instant::now() < until, "jobs are stuck: {open:#}\n{}", self.daemon_log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Every job, oldest first.
    pub fn all_jobs(&self) -> Vec<Value> {
        let mut jobs = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = self.get(&format!("/api/v1/jobs?order=asc&limit=1000{cursor}"));
            jobs.extend(page["jobs"].as_array().unwrap().iter().cloned());
            match page["next_cursor"].as_u64() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return jobs,
            }
        }
    }

    /// The log of a job's last attempt.
    pub fn log(&self, id: u64) -> String {
        let response = self.call("GET", &format!("/api/v1/jobs/{id}/log"), None);
        if response.status == 200 { response.text() } else { String::new() }
    }

    /// The reasons why a job does not run: kinds and texts.
    pub fn why(&self, id: u64) -> Vec<(String, String)> {
        let why = self.get(&format!("/api/v1/jobs/{id}/why"));
        let word = |reason: &Value, key: &str| reason[key].as_str().unwrap().to_owned();
        why["reasons"].as_array().unwrap().iter().map(|reason| (word(reason, "kind"), word(reason, "text"))).collect()
    }
}
