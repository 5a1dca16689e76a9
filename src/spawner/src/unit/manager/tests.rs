//! PID 1 and the bus played by the other end of a socket: who is believed, and what follows.

use super::*;
use crate::unit::bus::Sent;
use std::os::fd::OwnedFd;

const RETURN: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;
const BUS_NAME: &str = "org.freedesktop.DBus";
const STRANGER: &str = ":1.66";

/// The other end, which counts serials as the connection does.
struct Bus {
    manager: Manager,
    socket: OwnedFd,
    asked: u32,
}

impl Bus {
    fn new() -> Self {
        let (connection, socket) = Connection::pair();
        let mut manager = Manager::unconnected("ci.slice".to_owned(), PathBuf::new(), Vec::new());
        manager.join(connection);
        // Two matches, then who is PID 1.
        Self { manager, socket, asked: 3 }
    }

    /// With a PID 1 of this name, up.
    fn up() -> Self {
        let mut bus = Self::new();
        bus.answer(RETURN, BUS_NAME, "s", ":1.1");
        bus.root(":1.1");
        assert!(bus.manager.is_up());
        bus
    }

    fn say(&mut self, sent: Sent<'_>) -> Vec<Told> {
        rustix::io::write(&self.socket, &sent.bytes()).expect("written");
        self.manager.receive()
    }

    /// Answers the last call that was made with a text.
    fn answer(&mut self, kind: u8, sender: &str, signature: &str, text: &str) -> Vec<Told> {
        let mut body = Body::default();
        if signature == "v" {
            body.signature("s");
        }
        body.string(text);
        self.say(Sent { kind, sender, answers: self.asked, signature, body, ..Sent::default() })
    }

    /// The greeting of a PID 1: `Subscribe`, then its root.
    fn root(&mut self, sender: &str) -> Vec<Told> {
        self.asked += 2;
        self.answer(RETURN, sender, "v", "/")
    }

    fn owner(&mut self, sender: &str, name: &str, new: &str) -> Vec<Told> {
        let mut body = Body::default();
        for text in [name, ":1.1", new] {
            body.string(text);
        }
        let (path, interface, member) = ("/org/freedesktop/DBus", BUS_NAME, "NameOwnerChanged");
        self.say(Sent { kind: SIGNAL, sender, path, interface, member, signature: "sss", body, ..Sent::default() })
    }

    fn changed(&mut self, sender: &str) -> Vec<Told> {
        let key = AttemptKey { store: "0123abcd".to_owned(), job: 5, attempt: 1 };
        let path = object_path(&unit_name(&key));
        let mut body = Body::default();
        body.string(SERVICE_INTERFACE);
        body.array(8, |body| {
            body.string("MainPID");
            body.signature("u");
            body.u32(0);
        });
        let (interface, member) = ("org.freedesktop.DBus.Properties", "PropertiesChanged");
        self.say(Sent {
            kind: SIGNAL,
            sender,
            path: &path,
            interface,
            member,
            signature: "sa{sv}",
            body,
            ..Sent::default()
        })
    }
}

/// The story: one signal of anybody, sent to the connection itself, stopped every start until the spawner was started again.
#[test]
fn nobody_but_the_bus_says_that_pid_1_has_left() {
    let mut bus = Bus::up();
    for (sender, new) in [(STRANGER, ""), (STRANGER, STRANGER), (":1.1", "")] {
        assert!(bus.owner(sender, SYSTEMD, new).is_empty());
        assert!(bus.manager.is_up(), "{sender} says {new:?}");
    }
    assert!(bus.owner(BUS_NAME, "org.example.other", "").is_empty());
    assert!(bus.manager.is_up(), "another has left");
    assert!(matches!(bus.owner(BUS_NAME, SYSTEMD, "")[..], [Told::Down(_)]));
    assert!(!bus.manager.is_up());
}

#[test]
fn nobody_but_pid_1_says_that_a_unit_changed() {
    let mut bus = Bus::up();
    for sender in [STRANGER, BUS_NAME] {
        assert!(bus.changed(sender).is_empty(), "{sender}");
    }
    assert!(matches!(bus.changed(":1.1")[..], [Told::Changed(_, false)]));
}

#[test]
fn nobody_but_who_was_asked_answers() {
    let mut bus = Bus::new();
    for sender in [STRANGER, ":1.1"] {
        assert!(bus.answer(RETURN, sender, "s", STRANGER).is_empty());
    }
    bus.answer(RETURN, BUS_NAME, "s", ":1.1");
    assert!(bus.root(STRANGER).is_empty());
    assert!(!bus.manager.is_up());
    assert!(matches!(bus.answer(RETURN, ":1.1", "v", "/")[..], [Told::Up]));
}

#[test]
fn a_new_pid_1_is_heard_and_the_one_before_no_more() {
    let mut bus = Bus::up();
    assert!(bus.owner(BUS_NAME, SYSTEMD, ":1.2").is_empty());
    assert!(bus.root(":1.1").is_empty());
    assert!(matches!(bus.answer(RETURN, ":1.2", "v", "/")[..], [Told::Up]));
    assert!(bus.changed(":1.1").is_empty());
    assert_eq!(bus.changed(":1.2").len(), 1);
}

/// No signal is waited for: whatever made it `Down`, it is asked again until it is `Up`.
#[test]
fn after_down_it_is_tried_again() {
    let mut bus = Bus::up();
    assert_eq!(bus.manager.due_ms(), None);
    bus.owner(BUS_NAME, SYSTEMD, "");
    for _ in 0..2 {
        assert!(bus.manager.due_ms().is_some_and(|at| at <= sys::boottime_ms() + RECONNECT_MS));
        bus.manager.retry_ms = 0;
        assert!(bus.manager.connect().is_none());
        assert_eq!(bus.manager.connect_ms(), None, "it was asked and has not answered");
        bus.asked += 1;
        assert!(matches!(bus.answer(ERROR, BUS_NAME, "s", "nobody has that name")[..], [Told::Down(_)]));
    }
    bus.manager.retry_ms = 0;
    bus.manager.connect();
    bus.asked += 1;
    bus.answer(RETURN, BUS_NAME, "s", ":1.3");
    assert!(matches!(bus.root(":1.3")[..], [Told::Up]));
    rustix::io::write(&bus.socket, &[0xff; 16]).expect("written");
    assert!(matches!(bus.manager.receive()[..], [Told::Down(_)]));
    assert!(bus.manager.interest().is_none() && bus.manager.due_ms().is_some());
}

/// The story: whoever waited for an answer that the bus had dropped waited for ever, and its unit was never looked at again.
/// Here it was dropped because PID 1 is a new one, and so was the bus' word of that.
#[test]
fn an_answer_that_does_not_come_makes_everything_be_asked_again() {
    let mut bus = Bus::up();
    let key = AttemptKey { store: "0123abcd".to_owned(), job: 5, attempt: 1 };
    bus.manager.look(&key);
    bus.asked += 1;
    let now = sys::boottime_ms();
    let asked = bus.asked;
    assert!(bus.answer(ERROR, ":1.2", "s", "who is that?").is_empty());
    assert!(bus.manager.due_ms().is_some_and(|at| at <= now + ANSWER_PATIENCE_MS));
    assert!(bus.manager.overdue(now).is_none(), "it may still come");
    assert!(matches!(bus.manager.overdue(now + ANSWER_PATIENCE_MS), Some(Told::Down(_))));
    assert!(!bus.manager.is_up());
    bus.manager.retry_ms = 0;
    bus.manager.connect();
    bus.asked += 1;
    bus.answer(RETURN, BUS_NAME, "s", ":1.2");
    assert!(matches!(bus.root(":1.2")[..], [Told::Up]));
    assert_eq!(bus.changed(":1.2").len(), 1);
    assert_eq!(bus.manager.due_ms(), None);
    // Nobody waits for the first answer any more, and the unit can be asked for again.
    bus.asked = asked;
    assert!(bus.answer(ERROR, ":1.2", "s", "late").is_empty());
    bus.manager.look(&key);
    assert_eq!(bus.manager.pending.len(), 1);
}

/// Nobody says "refused" of a start without an answer, for it may have been done: it could run a second time.
#[test]
fn a_start_without_an_answer_is_neither_taken_nor_refused() {
    let key = AttemptKey { store: "0123abcd".to_owned(), job: 5, attempt: 1 };
    for (is_late, wanted) in [(false, 1), (true, 0)] {
        let mut bus = Bus::up();
        bus.manager.ask(Asked::Start(key.clone()), MANAGER, "StartTransientUnit", "", Body::default());
        bus.asked += 1;
        if is_late {
            let told = bus.manager.overdue(sys::boottime_ms() + ANSWER_PATIENCE_MS);
            assert!(matches!(told, Some(Told::Down(_))));
        }
        let told = bus.answer(ERROR, ":1.1", "s", "no");
        assert_eq!(told.len(), wanted, "the control: in time it is told");
        assert!(told.iter().all(|told| matches!(told, Told::Started(of, Err(_)) if *of == key)));
    }
}

#[test]
fn a_bus_that_does_not_answer_is_left() {
    let mut bus = Bus::new();
    let now = sys::boottime_ms();
    assert!(bus.manager.overdue(now).is_none());
    assert!(matches!(bus.manager.overdue(now + ANSWER_PATIENCE_MS), Some(Told::Down(_))));
    assert!(bus.manager.interest().is_none() && bus.manager.due_ms().is_some());
}
