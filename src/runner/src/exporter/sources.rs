//! What `src/hostmetrics` cannot ask by itself: a system call without a safe wrapper, and PID 1 over the bus. The spawner's
//! crate has both.

use ci_runner_hostmetrics::{ClockState, SystemUnit, SystemUnits};
use ci_runner_spawner::units::{Property, SYSTEM_BUS, Unit, Wanted, ask};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

/// The kernel's view of its clock, for the collector `timex`.
///
/// # Errors
/// The system's.
pub fn clock_state() -> io::Result<ClockState> {
    ci_runner_spawner::clock::read_clock().map(ClockState::from)
}

const STARTED: Wanted = ("Unit", "ActiveEnterTimestamp");
const SERVICE: &[Wanted] =
    &[("Service", "Type"), STARTED, ("Service", "NRestarts"), ("Service", "TasksCurrent"), ("Service", "TasksMax")];
const SOCKET: &[Wanted] = &[STARTED, ("Socket", "NAccepted"), ("Socket", "NConnections"), ("Socket", "NRefused")];
const TIMER: &[Wanted] = &[STARTED, ("Timer", "LastTriggerUSec")];
const MOUNT: &[Wanted] = &[STARTED, ("Mount", "Type")];
const OTHERS: &[Wanted] = &[STARTED];

const STATES: [&str; 5] = ["active", "activating", "deactivating", "inactive", "failed"];

/// PID 1's units whose names pass, for the collector `systemd`.
///
/// # Errors
/// No system bus, or no answer within `time_max`.
pub fn units(select: &mut dyn FnMut(&str) -> bool, time_max: Duration) -> io::Result<SystemUnits> {
    units_of(Path::new(SYSTEM_BUS), select, Instant::now() + time_max)
}

fn units_of(bus: &Path, select: &mut dyn FnMut(&str) -> bool, until: Instant) -> io::Result<SystemUnits> {
    let mut chosen = Vec::new();
    let mut wanted = |unit: &Unit| -> &'static [Wanted] {
        let is_chosen = unit.load_state == "loaded" && select(&unit.name);
        chosen.push(is_chosen);
        match unit.name.rsplit('.').next() {
            _ if !is_chosen => &[],
            Some("service") => SERVICE,
            Some("socket") => SOCKET,
            Some("timer") => TIMER,
            Some("mount") => MOUNT,
            _ => OTHERS,
        }
    };
    let found = ask(bus, &mut wanted, until)?;
    let mut summary = [0; STATES.len()];
    for unit in &found.units {
        if let Some(at) = STATES.iter().position(|state| *state == unit.active_state) {
            summary[at] += 1;
        }
    }
    let units = found.units.iter().zip(&chosen).filter(|(_, chosen)| **chosen).map(|(unit, _)| shown(unit));
    Ok(SystemUnits {
        version: found.version.trim_matches('"').to_owned(),
        system_state: found.system_state,
        summary,
        units: units.collect(),
    })
}

fn shown(unit: &Unit) -> SystemUnit {
    // The largest number stands for "no limit" and "nobody counts".
    let number = |name: &str| match unit.properties.get(name) {
        Some(Property::Number(number)) => Some(*number).filter(|number| *number != u64::MAX),
        Some(Property::Text(_)) | None => None,
    };
    let kind = match unit.properties.get("Type") {
        Some(Property::Text(kind)) => kind.clone(),
        Some(Property::Number(_)) | None => String::new(),
    };
    let active = unit.active_state == "active";
    SystemUnit {
        name: unit.name.clone(),
        active_state: unit.active_state.clone(),
        kind,
        started_us: if active { number("ActiveEnterTimestamp") } else { Some(0) },
        restarts: number("NRestarts"),
        tasks: number("TasksCurrent"),
        tasks_max: number("TasksMax"),
        last_trigger_us: number("LastTriggerUSec"),
        accepted: number("NAccepted"),
        connections: number("NConnections"),
        refused: number("NRefused"),
    }
}
