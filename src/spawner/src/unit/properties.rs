//! The properties of a job's unit as they are written for `StartTransientUnit`. Nothing of the job itself is among them.

use super::bus::Body;
use super::limits;
use super::places::Person;
use super::profile::PERSONAL;
use crate::protocol::{AttemptKey, Start};
use std::os::fd::OwnedFd;

pub(super) fn property(body: &mut Body, name: &str) {
    body.align(8);
    body.string(name);
}

/// What every unit of a job has, whatever its profile.
pub(super) fn properties(body: &mut Body, start: &Start, helper: &str, slice: &str, stdin: OwnedFd) {
    let text = |body: &mut Body, name: &str, value: &str| {
        property(body, name);
        body.signature("s");
        body.string(value);
    };
    let flag = |body: &mut Body, name: &str| {
        property(body, name);
        body.signature("b");
        body.bool(true);
    };
    let time = |body: &mut Body, name: &str, ms: u64| {
        property(body, name);
        body.signature("t");
        body.u64(ms.saturating_mul(1000));
    };
    let AttemptKey { job, attempt, .. } = &start.key;
    text(body, "Description", &format!("ci-runner job {job}, attempt {attempt}"));
    property(body, "ExecStart");
    body.signature("a(sasb)");
    body.array(8, |body| {
        body.align(8);
        body.string(helper);
        body.strings(&[helper, super::HELPER_MODE]);
        body.bool(false);
    });
    for (name, value) in [
        ("Type", "exec"),
        ("CollectMode", "inactive"),
        ("KillMode", "control-group"),
        ("StandardOutput", "null"),
        ("StandardError", "null"),
        ("Slice", slice),
    ] {
        text(body, name, value);
    }
    flag(body, "RemainAfterExit");
    flag(body, "AddRef");
    if let Some(timeout_ms) = start.timeout_ms {
        time(body, "RuntimeMaxUSec", timeout_ms.max(1));
    }
    time(body, "TimeoutStopUSec", start.grace_ms.max(1));
    property(body, "StandardInputFileDescriptor");
    body.signature("h");
    body.fd(stdin);
    limits::write(body, &start.limits);
}

/// What the unit of a person's job has in place of a user of its own.
pub(super) fn personal(body: &mut Body, person: &Person, closed_dirs: &[String]) {
    property(body, "User");
    body.signature("s");
    body.string(&person.user.name);
    for line in PERSONAL {
        property(body, line.name);
        line.setting.write(body);
    }
    property(body, "InaccessiblePaths");
    body.signature("as");
    body.strings(closed_dirs);
    property(body, "BindPaths");
    body.signature("a(ssbt)");
    body.array(8, |body| {
        for path in &person.paths {
            let path = path.to_string_lossy();
            body.align(8);
            body.string(&path);
            body.string(&path);
            body.bool(false);
            body.u64(libc::MS_REC);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::super::bus::{Reader, Value};
    use super::*;
    use crate::protocol::Limits;

    #[test]
    fn no_word_of_the_job_is_in_the_properties() {
        let start = Start {
            key: "0123abcd-7-1".parse().expect("a key"),
            pool: "default".to_owned(),
            slot: 3,
            timeout_ms: Some(1500),
            soft_timeout_ms: None,
            grace_ms: 0,
            log_bytes_max: 0,
            secrets: false,
            profile: Some("build".to_owned()),
            submitter: None,
            limits: Limits { memory_max: Some(1 << 30), ..Limits::default() },
        };
        let stdin = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).expect("a descriptor");
        let mut body = Body::default();
        body.array(8, |body| properties(body, &start, "/opt/helper", "ci_jobs.slice", stdin));
        let read = Reader::new(&body.bytes).values("a(sv)").expect("reads");
        let get = |name: &str| read[0].get(name).cloned().expect(name);
        assert_eq!(get("RuntimeMaxUSec").number(), Some(1_500_000));
        assert_eq!(get("TimeoutStopUSec").number(), Some(1000), "0 would mean no end");
        let helper = || Value::Text("/opt/helper".to_owned());
        let words = Value::List(vec![helper(), Value::Text("--unit-helper".to_owned())]);
        assert_eq!(get("MemoryMax").number(), Some(1 << 30));
        let exec = Value::List(vec![helper(), words, Value::Number(0)]);
        assert_eq!(get("ExecStart"), Value::List(vec![exec]));
        assert_eq!(body.fds.len(), 1);
    }
}
