//! `systemd`: units' states, start times, restarts and tasks, sockets and timers. PID 1 is asked by the caller of this crate, which
//! brings a client of the bus.
//!
//! Differs from node_exporter's: start times, restarts and tasks are on; patterns are not anchored by themselves; units of jobs
//! (`ci-job-…`) are left out, because their names hold the ids of jobs.

use super::Collector;
use crate::error::{CollectError, Error};
use crate::exposition::{Families, Kind};
use crate::options::{Options, SystemUnit, SystemUnits};
use crate::pattern::Matcher;
use std::io;
use std::time::Duration;

/// Units that are shown; more of them match on no host that somebody runs by hand.
pub(crate) const UNITS_MAX: usize = 1000;

const STATES: [&str; 5] = ["active", "activating", "deactivating", "inactive", "failed"];

/// Asks PID 1 about the units whose names pass, within a limit.
pub type AskUnits = fn(&mut dyn FnMut(&str) -> bool, Duration) -> io::Result<SystemUnits>;

pub(crate) struct Systemd {
    ask: AskUnits,
    names: Matcher,
    time_max: Duration,
}

impl Systemd {
    pub(crate) fn new(ask: AskUnits, options: &Options) -> Result<Self, Error> {
        // Before the crew gives up on this collector: then it ends by itself, and says why.
        let time_max = options.collector_time_max * 4 / 5;
        Ok(Self { ask, names: options.systemd_units.compile()?, time_max })
    }
}

impl Collector for Systemd {
    fn collect(&mut self, out: &mut Families) -> Result<(), CollectError> {
        let mut left = UNITS_MAX;
        let mut beyond = 0;
        let names = &mut self.names;
        let mut select = |name: &str| {
            if !names.takes(name) {
                return false;
            }
            if left == 0 {
                beyond += 1;
                return false;
            }
            left -= 1;
            true
        };
        let asked = (self.ask)(&mut select, self.time_max);
        let units = asked.map_err(|source| CollectError::System { call: "asking PID 1 over the bus", source })?;
        of_system(&units, out);
        for unit in &units.units {
            of_unit(unit, out);
        }
        if beyond > 0 {
            let detail = format!("{beyond} units beyond {UNITS_MAX} are not shown; narrow the patterns systemd_units");
            return Err(CollectError::Malformed { path: "the list of units".into(), detail });
        }
        Ok(())
    }
}

fn of_system(units: &SystemUnits, out: &mut Families) {
    let running = f64::from(u8::from(units.system_state == "running"));
    let help = "Whether the system is operational (see 'systemctl is-system-running')";
    out.gauge("node_systemd_system_running", help).add(&[], running);
    let digits = |text: &str| text.split(|c: char| !c.is_ascii_digit() && c != '.').next().map(str::to_owned);
    let number = digits(units.version.trim_start_matches(|c: char| !c.is_ascii_digit())).unwrap_or_default();
    let number = number.splitn(3, '.').take(2).collect::<Vec<_>>().join(".");
    if let Ok(number) = number.trim_end_matches('.').parse::<f64>() {
        out.gauge("node_systemd_version", "Detected systemd version").add(&[("version", &units.version)], number);
    }
    let summary = out.gauge("node_systemd_units", "Summary of systemd unit states");
    for (at, state) in STATES.iter().enumerate() {
        summary.add(&[("state", state)], units.summary.get(at).copied().unwrap_or_default() as f64);
    }
}

fn of_unit(unit: &SystemUnit, out: &mut Families) {
    let states = out.gauge("node_systemd_unit_state", "Systemd unit");
    for state in STATES {
        let labels = [("name", unit.name.as_str()), ("state", state), ("type", unit.kind.as_str())];
        states.add(&labels, f64::from(u8::from(state == unit.active_state)));
    }
    for (name, kind, help, value) in [
        (
            "node_systemd_unit_start_time_seconds",
            Kind::Gauge,
            "Start time of the unit since unix epoch in seconds.",
            unit.started_us.map(|us| us as f64 / 1e6),
        ),
        (
            "node_systemd_service_restart_total",
            Kind::Counter,
            "Service unit count of Restart triggers",
            unit.restarts.map(|count| count as f64),
        ),
        (
            "node_systemd_unit_tasks_current",
            Kind::Gauge,
            "Current number of tasks per Systemd unit",
            unit.tasks.map(|count| count as f64),
        ),
        (
            "node_systemd_unit_tasks_max",
            Kind::Gauge,
            "Maximum number of tasks per Systemd unit",
            unit.tasks_max.map(|count| count as f64),
        ),
        (
            "node_systemd_timer_last_trigger_seconds",
            Kind::Gauge,
            "Seconds since epoch of last trigger.",
            unit.last_trigger_us.map(|us| us as f64 / 1e6),
        ),
        (
            "node_systemd_socket_accepted_connections_total",
            Kind::Counter,
            "Total number of accepted socket connections",
            unit.accepted.map(|count| count as f64),
        ),
        (
            "node_systemd_socket_current_connections",
            Kind::Gauge,
            "Current number of socket connections",
            unit.connections.map(|count| count as f64),
        ),
        (
            "node_systemd_socket_refused_connections_total",
            Kind::Gauge,
            "Total number of refused socket connections",
            unit.refused.map(|count| count as f64),
        ),
    ] {
        if let Some(value) = value {
            out.family(name, kind, help).add(&[("name", &unit.name)], value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn many(select: &mut dyn FnMut(&str) -> bool, _: Duration) -> io::Result<SystemUnits> {
        let names = (0..UNITS_MAX + 5).map(|at| format!("u{at}.service")).chain(["ci-job-x-7-1.service".to_owned()]);
        let units = names.filter(|name| select(name)).map(|name| SystemUnit {
            name,
            active_state: "active".to_owned(),
            restarts: Some(3),
            ..SystemUnit::default()
        });
        let units = units.collect();
        Ok(SystemUnits {
            version: "257.9-1~deb13u1".to_owned(),
            system_state: "running".to_owned(),
            summary: [9, 0, 0, 4, 1],
            units,
        })
    }

    fn refuses(_: &mut dyn FnMut(&str) -> bool, _: Duration) -> io::Result<SystemUnits> {
        Err(io::ErrorKind::TimedOut.into())
    }

    #[test]
    fn units_are_bounded_and_jobs_are_none() {
        let mut out = Families::default();
        let mut collector = Systemd::new(many, &Options::default()).unwrap();
        let told = collector.collect(&mut out).unwrap_err().to_string();
        assert!(told.contains("5 units beyond 1000"), "{told}");
        let mut text = String::new();
        out.write(crate::Format::Text, &mut text);
        assert_eq!(text.matches("node_systemd_unit_state{").count(), UNITS_MAX * STATES.len());
        assert!(!text.contains("ci-job"), "a job's id is no label");
        for line in [
            "node_systemd_version{version=\"257.9-1~deb13u1\"} 257.9\n",
            "node_systemd_system_running 1\n",
            "node_systemd_units{state=\"inactive\"} 4\n",
            "node_systemd_unit_state{name=\"u0.service\",state=\"active\",type=\"\"} 1\n",
            "node_systemd_unit_state{name=\"u0.service\",state=\"failed\",type=\"\"} 0\n",
            "node_systemd_service_restart_total{name=\"u0.service\"} 3\n",
        ] {
            assert!(text.contains(line), "{line}");
        }
    }

    #[test]
    fn without_an_answer_there_are_no_figures() {
        let mut out = Families::default();
        assert!(Systemd::new(refuses, &Options::default()).unwrap().collect(&mut out).is_err());
    }
}
