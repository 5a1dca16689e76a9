//! PID 1 as the spawner sees it: what it is asked and told over D-Bus, and what it says.
//!
//! Nothing here waits for an answer. A lost connection, or a PID 1 that executed itself anew, is said as `Down` and `Up`:
//! after `Up` everything that was seen before is void and is asked again. After `Down` it is tried again until `Up`, whatever
//! the reason: no signal is waited for alone. `UnitRemoved` is not listened to, because a reload sends it for units that live.
//!
//! Every call has [`ANSWER_PATIENCE_MS`] to be answered, then it is `Down` as well: the answer may have been lost, or it came
//! from a PID 1 of which the bus never told us and which is not heard. The bus is asked who PID 1 is, on the same connection:
//! that holds our units, and what PID 1 has not done yet of what it was told it does first. A bus that does not answer is
//! left. What became of a start without an answer only a look at its unit tells, after `Up`.
//!
//! Only the bus and the owner of PID 1's name are believed: anybody may send any signal to our connection.

mod orders;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use super::bus::{Body, Connection, DBUS, Message, Sender, Target, Value};
use super::judge::Facts;
use super::names::{key_of, key_of_path, object_path, unit_name};
use super::policy::Policy;
use crate::protocol::AttemptKey;
use crate::sys;

/// The system bus.
const BUS: &str = "/run/dbus/system_bus_socket";
const SYSTEMD: &str = "org.freedesktop.systemd1";
const UNIT_INTERFACE: &str = "org.freedesktop.systemd1.Unit";
const SERVICE_INTERFACE: &str = "org.freedesktop.systemd1.Service";
const MANAGER: Target<'static> =
    Target { name: SYSTEMD, path: "/org/freedesktop/systemd1", interface: "org.freedesktop.systemd1.Manager" };
/// Signals that are wanted: a service changed; PID 1 has another name.
const MATCHES: [&str; 2] = [
    "type='signal',sender='org.freedesktop.systemd1',interface='org.freedesktop.DBus.Properties',\
     member='PropertiesChanged',path_namespace='/org/freedesktop/systemd1/unit',arg0='org.freedesktop.systemd1.Service'",
    "type='signal',sender='org.freedesktop.DBus',interface='org.freedesktop.DBus',member='NameOwnerChanged',\
     arg0='org.freedesktop.systemd1'",
];
/// Pause before another try to connect, or to find out who is PID 1.
const RECONNECT_MS: u64 = 200;
/// A call without an answer for so long counts as lost: what callers of D-Bus usually wait. PID 1 answers in milliseconds, in
/// seconds while it reloads.
const ANSWER_PATIENCE_MS: u64 = 25_000;

/// What a pending call is for.
enum Asked {
    Start(AttemptKey),
    Unit(AttemptKey),
    Service(AttemptKey, Value),
    Owner,
    Root,
    List,
}

/// A call without an answer.
struct Pending {
    asked: Asked,
    /// When nobody waits for it any more, CLOCK_BOOTTIME.
    until_ms: u64,
}

/// What PID 1 says.
pub(super) enum Told {
    /// It can be asked; nothing from before counts.
    Up,
    /// It cannot be asked.
    Down(String),
    /// A start was taken or refused (name and text of the error).
    Started(AttemptKey, Result<(), (String, String)>),
    /// What a unit is.
    Facts(AttemptKey, Facts),
    /// It could not be told; to be asked again.
    Unknown(AttemptKey),
    /// A unit has no main process (yet, or any more); true: and it failed.
    Changed(AttemptKey, bool),
    /// All units of jobs, and whether each is active.
    Units(Vec<AttemptKey>),
}

/// How far it is, of a connection that lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nobody has PID 1's name; to be asked again at `retry_ms`.
    Nobody,
    /// PID 1, or the bus about it, was asked and has not answered yet.
    Asked,
    /// It answers.
    Ready,
}

/// The connection to PID 1.
pub(super) struct Manager {
    slice: String,
    helper: PathBuf,
    closed_dirs: Vec<String>,
    connection: Option<Connection>,
    stage: Stage,
    /// PID 1's own cgroup: the root of all paths.
    root: String,
    retry_ms: u64,
    pending: HashMap<u32, Pending>,
    /// Units that are being looked at; true: and to be looked at once more.
    looking: HashMap<AttemptKey, bool>,
}

impl Manager {
    /// Not yet connected.
    pub(super) fn new(policy: &Policy) -> Self {
        Self::unconnected(policy.slice.clone(), policy.program.clone(), policy.own_dirs().to_vec())
    }

    fn unconnected(slice: String, helper: PathBuf, closed_dirs: Vec<String>) -> Self {
        Self {
            slice,
            helper,
            closed_dirs,
            connection: None,
            stage: Stage::Asked,
            root: String::new(),
            retry_ms: 0,
            pending: HashMap::new(),
            looking: HashMap::new(),
        }
    }

    /// The descriptor to wait for, and whether for writing too.
    pub(super) fn interest(&self) -> Option<(BorrowedFd<'_>, bool)> {
        self.connection.as_ref().map(|connection| (connection.as_fd(), connection.wants_write()))
    }

    /// When to call [`Self::connect`] or [`Self::overdue`]; None while there is nothing to try again or to wait for.
    pub(super) fn due_ms(&self) -> Option<u64> {
        self.connect_ms().or_else(|| self.answer_ms())
    }

    fn connect_ms(&self) -> Option<u64> {
        (self.connection.is_none() || self.stage == Stage::Nobody).then_some(self.retry_ms)
    }

    /// When the first call that is not answered by then counts as lost.
    fn answer_ms(&self) -> Option<u64> {
        self.pending.values().map(|pending| pending.until_ms).min()
    }

    /// True when it can be asked.
    pub(super) fn is_up(&self) -> bool {
        self.stage == Stage::Ready && self.connection.is_some()
    }

    /// PID 1's own cgroup.
    pub(super) fn root(&self) -> &str {
        &self.root
    }

    /// Connects, or asks once more who is PID 1, if it is time.
    pub(super) fn connect(&mut self) -> Option<Told> {
        if self.connect_ms().is_none_or(|due_ms| sys::boottime_ms() < due_ms) {
            return None;
        }
        if self.connection.is_some() {
            self.find();
            return None;
        }
        match Connection::open(Path::new(BUS)) {
            Ok(connection) => {
                self.join(connection);
                None
            }
            Err(error) => {
                self.retry_ms = sys::boottime_ms() + RECONNECT_MS;
                Some(Told::Down(format!("{BUS}: {error}")))
            }
        }
    }

    fn join(&mut self, mut connection: Connection) {
        for rule in MATCHES {
            let mut body = Body::default();
            body.string(rule);
            connection.call(DBUS, "AddMatch", "s", body);
        }
        self.connection = Some(connection);
        self.find();
    }

    /// Asks the bus who is PID 1.
    fn find(&mut self) {
        self.forget(Stage::Asked);
        if let Some(connection) = &mut self.connection {
            let serial = connection.ask_owner(SYSTEMD);
            self.await_answer(serial, Asked::Owner);
        }
    }

    /// After [`Self::receive`]: gives up what has waited too long for its answer.
    pub(super) fn overdue(&mut self, now: u64) -> Option<Told> {
        if self.answer_ms().is_none_or(|until_ms| now < until_ms) {
            return None;
        }
        let seconds = ANSWER_PATIENCE_MS / 1000;
        let asks_the_bus = |pending: &Pending| matches!(pending.asked, Asked::Owner) && pending.until_ms <= now;
        if self.pending.values().any(asks_the_bus) {
            return Some(self.lose(&format!("the bus has not answered for {seconds} s")));
        }
        Some(self.absent(&format!("no answer has come for {seconds} s")))
    }

    /// Asks PID 1 (perhaps a new one), which has this unique name, for its signals and its root; the answer makes it `Up`.
    fn greet(&mut self, owner: &str) {
        self.forget(Stage::Asked);
        if let Some(connection) = &mut self.connection {
            connection.heed(Some(owner));
        }
        self.tell(MANAGER, "Subscribe", "", Body::default());
        let mut body = Body::default();
        body.string(MANAGER.interface);
        body.string("ControlGroup");
        let target = Target { interface: "org.freedesktop.DBus.Properties", ..MANAGER };
        self.ask(Asked::Root, target, "Get", "ss", body);
    }

    /// Nothing from before counts.
    fn forget(&mut self, stage: Stage) {
        self.stage = stage;
        self.pending.clear();
        self.looking.clear();
    }

    fn ask(&mut self, asked: Asked, target: Target<'_>, member: &str, signature: &str, body: Body) {
        if let Some(connection) = &mut self.connection {
            let serial = connection.call(target, member, signature, body);
            self.await_answer(serial, asked);
        }
    }

    fn await_answer(&mut self, serial: u32, asked: Asked) {
        let until_ms = sys::boottime_ms() + ANSWER_PATIENCE_MS;
        self.pending.insert(serial, Pending { asked, until_ms });
    }

    fn tell(&mut self, target: Target<'_>, member: &str, signature: &str, body: Body) {
        if let Some(connection) = &mut self.connection {
            connection.tell(target, member, signature, body);
        }
    }

    /// Hands on what was asked; Err is said as `Down`.
    pub(super) fn flush(&mut self) -> Option<Told> {
        let flushed = self.connection.as_mut()?.flush();
        flushed.err().map(|error| self.lose(&error.to_string()))
    }

    fn lose(&mut self, why: &str) -> Told {
        self.connection = None;
        self.absent(why)
    }

    /// The connection lives, PID 1 is not on it. The connection is kept: PID 1 remembers over its own execution which units
    /// the holder of this connection holds.
    fn absent(&mut self, why: &str) -> Told {
        self.forget(Stage::Nobody);
        if let Some(connection) = &mut self.connection {
            connection.heed(None);
        }
        self.retry_ms = sys::boottime_ms() + RECONNECT_MS;
        Told::Down(why.to_owned())
    }

    /// What has come.
    pub(super) fn receive(&mut self) -> Vec<Told> {
        let mut told = Vec::new();
        let mut changed = HashMap::new();
        loop {
            let next = self.connection.as_mut().map_or(Ok(None), Connection::next);
            match next {
                Ok(None) => break,
                Ok(Some(Message::Return { serial, body })) => told.extend(self.answered(serial, body)),
                Ok(Some(Message::Error { serial, name, text })) => told.extend(self.refused(serial, name, text)),
                Ok(Some(Message::Signal { sender, path, member, body })) => match (sender, member.as_str()) {
                    (Sender::Peer, "org.freedesktop.DBus.Properties.PropertiesChanged") => {
                        changed.extend(key_of_path(&path).zip(without_main(&body)));
                    }
                    (Sender::Bus, "org.freedesktop.DBus.NameOwnerChanged") => told.extend(self.owner_changed(&body)),
                    _ => {}
                },
                Err(error) => {
                    told.push(self.lose(&error.to_string()));
                    break;
                }
            }
        }
        told.extend(changed.into_iter().map(|(key, failed)| Told::Changed(key, failed)));
        told
    }

    /// PID 1 left the bus, or is a new one.
    fn owner_changed(&mut self, body: &[Value]) -> Option<Told> {
        let text = |at: usize| body.get(at).and_then(Value::text).unwrap_or_default();
        match (text(0), text(2)) {
            (SYSTEMD, "") => return Some(self.absent("PID 1 has left the bus")),
            (SYSTEMD, owner) => self.greet(owner),
            _ => {}
        }
        None
    }

    fn answered(&mut self, serial: u32, mut body: Vec<Value>) -> Option<Told> {
        let value = if body.is_empty() { Value::Other } else { body.swap_remove(0) };
        match self.pending.remove(&serial)?.asked {
            Asked::Start(key) => Some(Told::Started(key, Ok(()))),
            Asked::Owner => {
                self.greet(value.text().unwrap_or_default());
                None
            }
            Asked::Root => {
                self.root = value.text().unwrap_or_default().trim_end_matches('/').to_owned();
                self.stage = Stage::Ready;
                Some(Told::Up)
            }
            Asked::Unit(key) => {
                self.get_all(SERVICE_INTERFACE, key, Some(value));
                None
            }
            Asked::Service(key, unit) => {
                let facts = Facts::new(&unit, &value);
                if self.looking.remove(&key) == Some(true) {
                    self.look(&key);
                }
                Some(Told::Facts(key, facts))
            }
            Asked::List => {
                let units = value.list().iter().filter_map(|row| key_of(row.list().first()?.text()?)).collect();
                Some(Told::Units(units))
            }
        }
    }

    fn refused(&mut self, serial: u32, name: String, text: String) -> Option<Told> {
        match self.pending.remove(&serial)?.asked {
            Asked::Start(key) => Some(Told::Started(key, Err((name, text)))),
            Asked::Owner => Some(self.absent(&format!("PID 1 is not on the bus: {text}"))),
            Asked::Root => Some(self.absent(&format!("PID 1 does not answer: {text}"))),
            Asked::Unit(key) | Asked::Service(key, _) => {
                self.looking.remove(&key);
                let gone = name.ends_with(".NoSuchUnit") || name == "org.freedesktop.DBus.Error.UnknownObject";
                if gone {
                    let facts = Facts { load_state: "not-found".to_owned(), ..Facts::default() };
                    return Some(Told::Facts(key, facts));
                }
                Some(Told::Unknown(key))
            }
            Asked::List => None,
        }
    }

    /// Asks what a unit is. Asked again while an answer is on its way: once more after it.
    pub(super) fn look(&mut self, key: &AttemptKey) {
        if let Some(again) = self.looking.get_mut(key) {
            *again = true;
        } else if self.is_up() {
            self.looking.insert(key.clone(), false);
            self.get_all(UNIT_INTERFACE, key.clone(), None);
        }
    }

    fn get_all(&mut self, interface: &str, key: AttemptKey, unit: Option<Value>) {
        let path = object_path(&unit_name(&key));
        let target = Target { name: SYSTEMD, path: &path, interface: "org.freedesktop.DBus.Properties" };
        let mut body = Body::default();
        body.string(interface);
        let asked = match unit {
            None => Asked::Unit(key),
            Some(unit) => Asked::Service(key, unit),
        };
        self.ask(asked, target, "GetAll", "s", body);
    }

    /// Asks for all units of jobs.
    pub(super) fn list(&mut self) {
        if self.is_up() {
            let mut body = Body::default();
            body.strings::<&str>(&[]);
            body.strings(&["ci-job-*.service"]);
            self.ask(Asked::List, MANAGER, "ListUnitsByPatterns", "asas", body);
        }
    }
}

/// None for a signal that says that the main process lives; else whether it says that the unit failed.
fn without_main(body: &[Value]) -> Option<bool> {
    let property = |name: &str| body.get(1).and_then(|changed| changed.get(name));
    let failed = property("Result").and_then(Value::text).is_some_and(|result| result != "success");
    let lives = property("MainPID").and_then(Value::number).is_some_and(|pid| pid != 0);
    (!lives).then_some(failed)
}
