//! What PID 1 is told to do with a unit.

use super::*;
use crate::protocol::Start;
use crate::unit::places::Person;
use crate::unit::profile::Profile;
use crate::unit::properties::{personal, properties, property};
use std::os::fd::OwnedFd;

impl Manager {
    /// Starts the unit of an attempt; `stdin` becomes its standard input.
    pub(in crate::unit) fn start(
        &mut self,
        start: &Start,
        (profile, person): (Profile, Option<&Person>),
        stdin: OwnedFd,
    ) {
        let mut body = Body::default();
        body.string(&unit_name(&start.key));
        body.string("fail");
        let helper = self.helper.to_string_lossy().into_owned();
        let slice = self.slice.clone();
        body.array(8, |body| {
            properties(body, start, &helper, &slice, stdin);
            for line in profile.lines().filter(|line| person.is_none() || !line.is_for_nobody()) {
                property(body, line.name);
                line.setting.write(body);
            }
            if let Some(person) = person {
                personal(body, person, &self.closed_dirs);
            }
        });
        body.array(8, |_| {});
        self.ask(Asked::Start(start.key.clone()), MANAGER, "StartTransientUnit", "ssa(sv)a(sa(sv))", body);
    }

    /// SIGTERM to every process of a unit, and SIGCONT, so that stopped ones take it.
    pub(in crate::unit) fn terminate(&mut self, key: &AttemptKey) {
        for signal in [libc::SIGTERM, libc::SIGCONT] {
            let mut body = Body::default();
            body.string(&unit_name(key));
            body.string("all");
            body.i32(signal);
            self.tell(MANAGER, "KillUnit", "ssi", body);
        }
    }

    /// Holds a unit, so that PID 1 keeps what it knows of it whatever others do.
    pub(in crate::unit) fn hold(&mut self, key: &AttemptKey) {
        let mut body = Body::default();
        body.string(&unit_name(key));
        self.tell(MANAGER, "RefUnit", "s", body);
    }

    /// Lets PID 1 forget a unit whose cgroup is empty.
    pub(in crate::unit) fn release(&mut self, key: &AttemptKey) {
        let unit = unit_name(key);
        let mut body = Body::default();
        body.string(&unit);
        body.string("replace");
        self.tell(MANAGER, "StopUnit", "ss", body);
        // Twice: AddRef's and hold's. Without one, it is refused and does no harm.
        for member in ["ResetFailedUnit", "UnrefUnit", "UnrefUnit"] {
            let mut body = Body::default();
            body.string(&unit);
            self.tell(MANAGER, member, "s", body);
        }
    }
}
