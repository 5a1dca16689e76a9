//! A host as a daemon: it says hello, asks, and reads what the spawner answers.

use crate::common::{Cgroup, Host, PATIENCE};
use crate::skipped;
use std::collections::HashMap;
use std::io;
use std::sync::Once;
use std::time::{Duration, Instant};

use ci_runner_spawner::client::Client;
use ci_runner_spawner::protocol::{
    AttemptKey, ExitRecord, ExitResult, PROTOCOL_VERSION, Reply, Request, Secrets, Seen, Spec, Start,
};

impl Host {
    /// Says hello to whoever listens; false: nobody does, yet.
    pub fn try_hello(&mut self) -> bool {
        let Ok(mut client) = Client::connect(&self.socket()) else { return false };
        let hello =
            Request::Hello { protocol: PROTOCOL_VERSION, store: self.store.clone(), generation: self.generation };
        if client.send(&[hello]).is_err() || !client.wait(PATIENCE).unwrap() {
            return false;
        }
        match client.recv().as_deref() {
            Ok([Reply::Welcome { pid, epoch, cgroup, .. }, rest @ ..]) => {
                self.take(rest.to_vec());
                if self.cgroup == Cgroup::Off {
                    assert!(!cgroup);
                }
                if self.cgroup != Cgroup::Off && !cgroup {
                    static SAID: Once = Once::new();
                    SAID.call_once(|| {
                        skipped::tell("all that needs a cgroup per attempt", "no cgroup v2 can be written")
                    });
                }
                self.spawner_pid = *pid as i32;
                self.epoch = epoch.clone();
                self.has_cgroup = *cgroup;
            }
            Err(_) => return false,
            // A daemon would come again too.
            Ok([Reply::Refused { why }]) if why.contains("Too many open files") => return false,
            other => panic!("{other:?}"),
        }
        self.client = Some(client);
        true
    }

    pub fn client(&mut self) -> &mut Client {
        self.client.as_mut().expect("connected")
    }

    pub fn start(&mut self, job: u64, spec: &Spec) {
        self.start_as(self.request(job), spec, None);
    }

    pub fn start_as(&mut self, start: Start, spec: &Spec, secrets: Option<&Secrets>) {
        self.client().send_start(start, spec, secrets).unwrap();
    }

    pub fn send(&mut self, request: Request) {
        self.client().send(&[request]).unwrap();
    }

    fn take(&mut self, replies: Vec<Reply>) {
        for reply in replies {
            if let Reply::Ended { key, record } = &reply {
                self.ended.insert(key.clone(), record.clone());
            }
            self.replies.push(reply);
        }
    }

    /// Reads what comes within the time; false when the connection is over.
    pub fn read_for(&mut self, time: Duration) -> bool {
        let Some(client) = self.client.as_mut() else { return false };
        if !client.wait(time).unwrap() {
            return true;
        }
        match client.recv() {
            Ok(replies) => {
                self.take(replies);
                true
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => true,
            Err(_) => {
                self.client = None;
                false
            }
        }
    }

    /// Reads until a reply fits; takes it and all before it.
    pub fn reply<T>(&mut self, what: &str, fits: impl Fn(&Reply) -> Option<T>) -> T {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.replies.iter().position(|reply| fits(reply).is_some()) {
                let found = fits(&self.replies[at]);
                self.replies.drain(..=at);
                return found.unwrap();
            }
            assert!(Instant::now() < until, "waited in vain for {what}; there is {:?}", self.replies);
            assert!(self.read_for(Duration::from_millis(100)), "connection lost while waiting for {what}");
        }
    }

    pub fn wait_started(&mut self, job: u64) {
        let key = self.key(job);
        self.reply("started", |reply| matches!(reply, Reply::Started { key: of } if *of == key).then_some(()));
    }

    /// The end, as it was told.
    pub fn end(&mut self, job: u64) -> Option<ExitRecord> {
        let key = self.key(job);
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(end) = self.ended.get(&key) {
                return end.clone();
            }
            assert!(Instant::now() < until, "job {job} does not end: {:?}", self.replies);
            assert!(self.read_for(Duration::from_millis(100)), "connection lost while waiting for the end of {job}");
        }
    }

    pub fn record(&mut self, job: u64) -> ExitRecord {
        self.end(job).unwrap_or_else(|| panic!("job {job} was lost"))
    }

    /// Starts, waits, tells the result.
    pub fn run(&mut self, job: u64, spec: &Spec) -> ExitResult {
        self.start(job, spec);
        self.record(job).result
    }

    /// Starts, waits, insists on exit code 0, tells the log.
    pub fn output(&mut self, job: u64, spec: &Spec) -> String {
        let result = self.run(job, spec);
        assert_eq!(result, ExitResult::Exited { code: 0 }, "{}", self.log(job));
        self.log(job)
    }

    pub fn list(&mut self) -> HashMap<AttemptKey, Seen> {
        self.replies.clear();
        self.send(Request::List);
        let until = Instant::now() + PATIENCE;
        while !self.replies.contains(&Reply::Listed) {
            assert!(Instant::now() < until, "no end of the list");
            assert!(self.read_for(Duration::from_millis(100)), "connection lost");
        }
        self.replies
            .drain(..)
            .filter_map(|reply| if let Reply::Attempt { key, seen, .. } = reply { Some((key, seen)) } else { None })
            .collect()
    }
}
