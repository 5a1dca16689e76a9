//! What PID 1 says of its units, for whoever shows it: asked over the system bus, once, within a limit. Only read.
//!
//! Calls are sent in a window: the bus lets one client wait for so many answers and no more.

use crate::unit::bus::{Body, Connection, Message, Target, Value};
use rustix::event::{PollFd, PollFlags, Timespec};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

/// Where the system bus listens.
pub const SYSTEM_BUS: &str = "/run/dbus/system_bus_socket";
/// Calls that wait for their answers; dbus-daemon takes 128 of one client.
const WINDOW: usize = 64;
const MANAGER: &str = "org.freedesktop.systemd1";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// A property that is a text or a whole number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Property {
    /// A text.
    Text(String),
    /// A number.
    Number(u64),
}

/// One unit.
#[derive(Clone, Debug, Default)]
pub struct Unit {
    /// With its ending.
    pub name: String,
    /// `loaded`, `not-found`, …
    pub load_state: String,
    /// `active`, `failed`, …
    pub active_state: String,
    /// Those that were asked for and are there, by name.
    pub properties: BTreeMap<&'static str, Property>,
}

/// What PID 1 says.
#[derive(Clone, Debug, Default)]
pub struct Units {
    /// Of systemd, as it says.
    pub version: String,
    /// `running`, `degraded`, …
    pub system_state: String,
    /// All that are loaded.
    pub units: Vec<Unit>,
}

/// Interface and name of a property.
pub type Wanted = (&'static str, &'static str);

/// Asks for all units, and for some properties of each that `wanted` names any for. Waits until `until` at most.
///
/// # Errors
/// No bus, an answer that is late or no answer, a refusal of the list.
pub fn ask(bus: &Path, wanted: &mut dyn FnMut(&Unit) -> &'static [Wanted], until: Instant) -> io::Result<Units> {
    let mut connection = Connection::open(bus)?;
    connection.find(MANAGER, until)?;
    let mut asking = Asking { connection, waiting: HashMap::new(), calls: VecDeque::new(), until };
    let mut found = Units::default();
    for (member, interface) in [("ListUnits", None), ("Get", Some("Version")), ("Get", Some("SystemState"))] {
        asking.calls.push_back(Call {
            unit: None,
            member,
            property: interface.map(|name| ("Manager", name)),
            path: MANAGER_PATH.to_owned(),
        });
    }
    let mut paths = Vec::new();
    asking.run(&mut |call, answer| match (call.property, answer) {
        (None, Ok(body)) => {
            for row in body.first().map(Value::list).unwrap_or_default() {
                let field = |at: usize| row.list().get(at).and_then(Value::text).unwrap_or_default().to_owned();
                let unit = Unit { name: field(0), load_state: field(2), active_state: field(3), ..Unit::default() };
                found.units.push(unit);
                paths.push(field(6));
            }
            Ok(())
        }
        (None, Err(why)) => Err(io::Error::other(format!("PID 1 lists no units: {why}"))),
        (Some((_, name)), Ok(body)) => {
            let text = body.first().and_then(Value::text).unwrap_or_default().to_owned();
            *if name == "Version" { &mut found.version } else { &mut found.system_state } = text;
            Ok(())
        }
        (Some(_), Err(_)) => Ok(()),
    })?;
    for (at, (unit, path)) in found.units.iter().zip(&paths).enumerate() {
        let calls = wanted(unit).iter();
        asking.calls.extend(calls.map(|&property| Call {
            unit: Some(at),
            member: "Get",
            property: Some(property),
            path: path.clone(),
        }));
    }
    asking.run(&mut |call, answer| {
        // A unit may be gone by now, and an old systemd lacks a property.
        let (Some(at), Some((_, name)), Ok(body)) = (call.unit, call.property, answer) else { return Ok(()) };
        let property = match body.first() {
            Some(Value::Number(number)) => Property::Number(*number),
            Some(Value::Text(text)) => Property::Text(text.clone()),
            _ => return Ok(()),
        };
        if let Some(unit) = found.units.get_mut(at) {
            unit.properties.insert(name, property);
        }
        Ok(())
    })?;
    Ok(found)
}

struct Call {
    unit: Option<usize>,
    member: &'static str,
    property: Option<Wanted>,
    path: String,
}

struct Asking {
    connection: Connection,
    waiting: HashMap<u32, Call>,
    calls: VecDeque<Call>,
    until: Instant,
}

type Answer = Result<Vec<Value>, String>;

impl Asking {
    /// Until every call has its answer.
    fn run(&mut self, take: &mut dyn FnMut(Call, Answer) -> io::Result<()>) -> io::Result<()> {
        loop {
            while self.waiting.len() < WINDOW
                && let Some(call) = self.calls.pop_front()
            {
                let serial = self.send(&call);
                self.waiting.insert(serial, call);
            }
            self.connection.flush()?;
            if self.waiting.is_empty() {
                return Ok(());
            }
            self.wait()?;
            while let Some(message) = self.connection.next()? {
                let (serial, answer) = match message {
                    Message::Return { serial, body } => (serial, Ok(body)),
                    Message::Error { serial, name, text } => (serial, Err(format!("{name}: {text}"))),
                    Message::Signal { .. } => continue,
                };
                if let Some(call) = self.waiting.remove(&serial) {
                    take(call, answer)?;
                }
            }
        }
    }

    fn send(&mut self, call: &Call) -> u32 {
        let mut body = Body::default();
        let Some((interface, name)) = call.property else {
            let target = Target { name: MANAGER, path: &call.path, interface: "org.freedesktop.systemd1.Manager" };
            return self.connection.call(target, call.member, "", body);
        };
        body.string(&format!("{MANAGER}.{interface}"));
        body.string(name);
        let target = Target { name: MANAGER, path: &call.path, interface: PROPERTIES };
        self.connection.call(target, call.member, "ss", body)
    }

    fn wait(&self) -> io::Result<()> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "PID 1 did not answer in time"));
        }
        let left = left.min(Duration::from_secs(60));
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        let what = if self.connection.wants_write() { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
        match rustix::event::poll(&mut [PollFd::new(&self.connection, what)], Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
