//! What a job finds in its environment, and the specification the shim gets.

use crate::store::{Claimed, FormerStore};
use ci_runner_core::id::{AttemptNumber, JobId};
use ci_runner_spawner::protocol::Spec;
use std::collections::BTreeMap;
use std::path::Path;

/// What does not depend on the job.
#[derive(Clone, Debug)]
pub struct Host {
    /// Name of this runner: the host's.
    pub runner: String,
    /// Short store id.
    pub store: String,
    /// The stores that it was restored from, oldest first.
    pub former: Vec<FormerStore>,
    /// `HOME`, `USER` and `LOGNAME` of jobs.
    pub home: String,
    /// User name of jobs.
    pub user: String,
}

impl Host {
    /// What stays the same for a job over all its attempts, over a restore as well, and is never another job's: its id and
    /// the store that gave it.
    fn idempotency_key(&self, id: JobId) -> String {
        let giver = self.former.iter().find(|former| id.get() <= former.last_id);
        format!("{}-{id}", giver.map_or(&self.store, |former| &former.store_id))
    }
}

/// Where an attempt runs.
#[derive(Clone, Copy, Debug)]
pub struct Where<'a> {
    /// Pool name.
    pub pool: &'a str,
    /// `PATH` of the pool's jobs.
    pub path: &'a str,
    /// Temporary directory of the place; what `TMPDIR` will be.
    pub tmp: &'a Path,
    /// It runs as our own user; else whoever starts it says `HOME`, `USER` and `LOGNAME`.
    pub as_us: bool,
}

/// File mode creation mask of jobs: the usual one.
const UMASK: u32 = 0o022;
/// The command in `CI_RUNNER_DESCRIPTION` is shortened to this.
const DESCRIPTION_BYTES_MAX: usize = 200;

/// The whole specification of one attempt. The job's own variables win over ours, but for the ids.
pub fn specification(host: &Host, at: Where<'_>, id: JobId, attempt: AttemptNumber, claimed: &Claimed) -> Spec {
    let spec = &claimed.spec;
    let mut env: BTreeMap<String, String> = BTreeMap::new();
    let mut set = |name: &str, value: &str| {
        env.insert(name.to_owned(), value.to_owned());
    };
    set("PATH", at.path);
    if at.as_us {
        set("HOME", &host.home);
        set("USER", &host.user);
        set("LOGNAME", &host.user);
    }
    set("SHELL", "/bin/sh");
    set("LANG", "C.UTF-8");
    for (name, value) in &spec.work.env {
        set(name, value);
    }
    let workspace = spec.work.dir.clone().unwrap_or_else(|| at.tmp.display().to_string());
    let name = spec.name.as_deref().unwrap_or_default();
    let number = id.to_string();
    let attempt = attempt.to_string();
    let idempotency = host.idempotency_key(id);
    for (name, value) in [
        ("CI", "true"),
        ("CI_RUNNER", &host.runner),
        ("CI_RUNNER_JOB_ID", &number),
        ("CI_RUNNER_JOB_NAME", name),
        ("CI_RUNNER_ATTEMPT", &attempt),
        ("CI_RUNNER_IDEMPOTENCY_KEY", &idempotency),
        ("CI_RUNNER_CORRELATION_ID", &spec.correlation),
        ("CI_RUNNER_WORKSPACE", &workspace),
        ("CI_RUNNER_POOL", at.pool),
        ("CI_RUNNER_DESCRIPTION", &spec.work.command.summary(DESCRIPTION_BYTES_MAX)),
        ("CI_JOB_ID", &number),
        ("CI_JOB_NAME", name),
        ("CI_ATTEMPT", &attempt),
        ("CI_IDEMPOTENCY_KEY", &idempotency),
    ] {
        set(name, value);
    }
    if let Some(parent) = traceparent(&spec.correlation, id) {
        set("TRACEPARENT", &parent);
    }
    Spec { argv: spec.work.command.argv(), env: env.into_iter().collect(), dir: spec.work.dir.clone(), umask: UMASK }
}

/// W3C trace context (www.w3.org/TR/trace-context, version 00) when the correlation id is a UUID: the UUID is the trace, the job the span.
fn traceparent(correlation: &str, id: JobId) -> Option<String> {
    let trace = uuid::Uuid::try_parse(correlation).ok()?;
    Some(format!("00-{}-{:016x}-01", trace.simple(), id.get()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{RESERVED, is_reserved};

    /// What every job is given, whatever it asks for, is what no secret may be named.
    #[test]
    fn reserved_names_are_those_that_a_job_cannot_set() {
        let of = |own: &[String]| {
            let env: serde_json::Map<_, _> = own.iter().map(|name| (name.clone(), "own".into())).collect();
            let request = serde_json::json!({ "shell": "x", "env": env, "correlation": uuid::Uuid::nil().to_string() })
                .to_string();
            let request = crate::request::read_job(request.as_bytes()).unwrap();
            let settings = ci_runner_core::policy::Settings::default();
            let spec = crate::request::new_job(request, &settings, &jiff::Zoned::now()).unwrap().spec;
            let text = || "given".to_owned();
            let host = Host { runner: text(), store: text(), former: Vec::new(), home: text(), user: text() };
            let at = Where { pool: "p", path: "/bin", tmp: Path::new("/tmp"), as_us: true };
            let claimed = Claimed { spec, submitter: text() };
            specification(&host, at, JobId::new(7).unwrap(), AttemptNumber(1), &claimed).env
        };
        let names: Vec<String> = of(&[]).into_iter().map(|(name, _)| name).collect();
        for (name, value) in of(&names) {
            assert_eq!(value != "own", is_reserved(&name), "{name}={value}");
        }
        // This one the shim sets.
        assert!(is_reserved("TMPDIR") && is_reserved("CI_RUNNER_OF_TOMORROW") && !is_reserved("CI_TOKEN"));
        assert!(RESERVED.iter().all(|name| *name == "TMPDIR" || names.iter().any(|given| given == name)));
    }

    #[test]
    fn a_key_is_of_the_store_that_gave_the_id() {
        let former = |store: &str, last_id| FormerStore { store_id: store.to_owned(), last_id, skipped_to: last_id };
        let host = Host {
            runner: String::new(),
            store: "now".to_owned(),
            former: vec![former("first", 3), former("second", 9)],
            home: String::new(),
            user: String::new(),
        };
        let key = |id| host.idempotency_key(JobId::new(id).unwrap());
        assert_eq!([1, 3, 4, 9, 10].map(key), ["first-1", "first-3", "second-4", "second-9", "now-10"]);
    }

    #[test]
    fn a_uuid_becomes_a_trace() {
        let id = JobId::new(7).expect("positive");
        let parent = traceparent("01890a5d-ac96-774b-bcce-b302099a8057", id);
        assert_eq!(parent.as_deref(), Some("00-01890a5dac96774bbcceb302099a8057-0000000000000007-01"));
        assert_eq!(traceparent("build 7", id), None);
    }
}
