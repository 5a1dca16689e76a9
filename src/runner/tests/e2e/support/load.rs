//! Clients that submit while everything is killed, and the account of what became of their jobs.
//!
//! Every job has a token and appends `token id attempt` to one file, in a single write. A submission is *acknowledged*
//! (ids were told), *unknown* (the connection broke) or *refused*.

use super::{Client, Host, Random};
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// Jobs that may wait: enough for a load, few enough to end soon.
const OPEN_MAX: usize = 250;

/// What is known of submissions.
#[derive(Default)]
pub struct Account {
    /// Tokens with the id that was told.
    pub acknowledged: HashMap<String, u64>,
    /// Tokens whose submission was never answered.
    pub unknown: Vec<String>,
    /// Submissions that were repeated with their key after an unknown answer, and then acknowledged.
    pub repeated: usize,
    /// Answers that should not have been.
    pub surprises: Vec<String>,
}

/// What the jobs' file says, against the account.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Acknowledged, never ran.
    pub lost: Vec<String>,
    /// Ran more than once.
    pub twice: Vec<String>,
    /// Ran under another id than was told.
    pub misnamed: Vec<String>,
    /// Lines in all.
    pub ran: usize,
}

struct Shared {
    client: Client,
    file: PathBuf,
    marker: String,
    stop: AtomicBool,
    sent: AtomicUsize,
    account: Mutex<Account>,
    retry: u32,
    /// After a job has told that it runs.
    then: &'static str,
}

/// Eight clients.
pub struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts the clients. `stubborn` ones go on after a broken connection. `retry`: tries each job may have more.
    pub fn start(host: &Host, random: &mut Random, stubborn: bool, retry: u32) -> Self {
        Self::of_jobs(host, random, stubborn, retry, "")
    }

    /// The same with stubborn clients, whose jobs stay a moment after they told that they run, so that a shim that is hurt has one.
    pub fn lingering(host: &Host, random: &mut Random) -> Self {
        Self::of_jobs(host, random, true, 20, "; sleep 0.03")
    }

    fn of_jobs(host: &Host, random: &mut Random, stubborn: bool, retry: u32, then: &'static str) -> Self {
        let shared = Arc::new(Shared {
            client: host.client(),
            file: host.path("ran"),
            marker: host.marker.clone(),
            stop: AtomicBool::new(false),
            sent: AtomicUsize::new(lines(&host.path("ran")).len()),
            account: Mutex::default(),
            retry,
            then,
        });
        let threads = (0..8)
            .map(|number| {
                let (shared, random) = (shared.clone(), Random::from_seed(random.next()));
                std::thread::spawn(move || shared.submit_on(number, random, stubborn))
            })
            .collect();
        Self { shared, threads }
    }

    /// Jobs acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        self.shared.account.lock().unwrap().acknowledged.len()
    }

    /// Ends the clients and gives their account.
    pub fn end(self) -> Account {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        std::mem::take(&mut *self.shared.account.lock().unwrap())
    }
}

impl Shared {
    fn submit_on(&self, number: usize, mut random: Random, stubborn: bool) {
        let mut round = 0;
        while !self.stop.load(Ordering::Relaxed) {
            if self.sent.load(Ordering::Relaxed) > lines(&self.file).len() + OPEN_MAX {
                std::thread::sleep(Duration::from_millis(5));
                continue;
            }
            round += 1;
            let size = if random.below(2) == 0 { 1 } else { 2 + random.below(6) as usize };
            let tokens: Vec<String> = (0..size).map(|at| format!("t{:x}-{number}-{round}-{at}", random.seed)).collect();
            let keyed = random.below(2) == 0;
            if !self.submit(&tokens, keyed) && !stubborn {
                return;
            }
        }
    }

    /// False: the connection broke.
    fn submit(&self, tokens: &[String], keyed: bool) -> bool {
        let jobs: Vec<Value> = tokens.iter().map(|token| self.job(token)).collect();
        let body = if jobs.len() == 1 { jobs[0].clone() } else { Value::Array(jobs) };
        let key = [("idempotency-key", tokens[0].as_str())];
        let headers: &[(&str, &str)] = if keyed { &key } else { &[] };
        self.sent.fetch_add(tokens.len(), Ordering::Relaxed);
        let mut tries = 0;
        loop {
            let answer = self.client.call("POST", "/api/v1/jobs", headers, Some(&body));
            let mut account = self.account.lock().unwrap();
            match answer {
                Ok(answer) if answer.status == 201 => {
                    let told = answer.json();
                    let ids: Vec<u64> = match told["ids"].as_array() {
                        Some(ids) => ids.iter().map(|id| id.as_u64().unwrap()).collect(),
                        None => vec![told["id"].as_u64().unwrap()],
                    };
                    account.repeated += usize::from(tries > 0);
                    account.acknowledged.extend(tokens.iter().cloned().zip(ids));
                    return true;
                }
                // Stopping or restarting: told that nothing was queued.
                Ok(answer) if answer.status == 503 => {}
                Ok(answer) => account.surprises.push(format!("{}: {}", answer.status, answer.text())),
                Err(_) if keyed && !self.stop.load(Ordering::Relaxed) => {
                    tries += 1;
                    drop(account);
                    std::thread::sleep(Duration::from_millis(3));
                    continue;
                }
                Err(_) => {
                    account.unknown.extend(tokens.iter().cloned());
                    drop(account);
                    // Not sent, or not run: it may not count for ever as waiting.
                    self.sent.fetch_sub(tokens.len(), Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(3));
                    return false;
                }
            }
            self.sent.fetch_sub(tokens.len(), Ordering::Relaxed);
            return true;
        }
    }

    fn job(&self, token: &str) -> Value {
        let script =
            format!("echo {token} $CI_RUNNER_JOB_ID $CI_RUNNER_ATTEMPT >>{}{}", self.file.display(), self.then);
        json!({ "shell": script, "retry": self.retry, "retry_delay": 0, "env": { "E2E_MARKER": self.marker } })
    }
}

fn lines(file: &Path) -> Vec<String> {
    fs::read_to_string(file).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// How often each token ran, with the ids it ran under.
pub fn executions(file: &Path) -> HashMap<String, Vec<u64>> {
    let mut found: HashMap<String, Vec<u64>> = HashMap::new();
    for line in lines(file) {
        let mut words = line.split(' ');
        let (token, id) = (words.next().unwrap().to_owned(), words.next().and_then(|id| id.parse().ok()));
        found.entry(token).or_default().push(id.unwrap_or_else(|| panic!("a torn line: {line:?}")));
    }
    found
}

/// Lines that are there more than once. Each ends with its job and attempt, so these are attempts that were executed twice,
/// whatever became of others of their job.
pub fn executed_twice(file: &Path) -> Vec<String> {
    let mut seen = HashSet::new();
    lines(file).into_iter().filter(|line| !seen.insert(line.clone())).collect()
}

/// Judges an account by the file. For jobs that were never retried.
pub fn judge(account: &Account, file: &Path) -> Verdict {
    let found = executions(file);
    let mut verdict = Verdict { ran: found.values().map(Vec::len).sum(), ..Verdict::default() };
    for (token, id) in &account.acknowledged {
        match found.get(token).map(Vec::as_slice) {
            None => verdict.lost.push(format!("{token} (job {id})")),
            Some([ran]) if ran == id => {}
            Some([ran]) => verdict.misnamed.push(format!("{token}: told {id}, ran as {ran}")),
            Some(_) => {}
        }
    }
    for (token, ids) in found {
        if ids.len() > 1 {
            verdict.twice.push(format!("{token}: jobs {ids:?}"));
        }
    }
    verdict
}
