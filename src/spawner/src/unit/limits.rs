//! Limits of units: what the policy lets a daemon ask for, and PID 1's words for them.
//!
//! A daemon can only ask for less than the policy's maximum; where it asks for nothing, the maximum itself holds. Weights
//! may be lowered, and raised only as far as the policy says.

use serde::Deserialize;

use super::bus::Body;
use crate::protocol::{Enforces, Limits, WEIGHT_MAX};

/// A size as written: bytes, or a text such as `512M` or `unlimited`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
enum SizeFile {
    Bytes(u64),
    Text(String),
}

impl SizeFile {
    fn bytes(&self) -> Result<u64, String> {
        let text = match self {
            Self::Bytes(bytes) => return Ok(*bytes),
            Self::Text(text) if text == "unlimited" => return Ok(u64::MAX),
            Self::Text(text) => text.trim_end_matches(['B', 'i']),
        };
        let units = [('K', 10), ('M', 20), ('G', 30), ('T', 40)];
        let unit = units.into_iter().find_map(|(letter, power)| Some((text.strip_suffix(letter)?, power)));
        let (number, power) = unit.unwrap_or((text, 0));
        let whole = number.trim().parse::<u64>().ok().and_then(|number| number.checked_mul(1 << power));
        whole.ok_or_else(|| format!("limits: {text:?} is no size; write bytes, or a whole number with K, M, G or T"))
    }
}

/// `pools.NAME.limits` as written. `cpu` is cores.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct LimitsFile {
    memory: Option<SizeFile>,
    swap: Option<SizeFile>,
    cpu: Option<f64>,
    pids: Option<u32>,
    cpu_weight: Option<u16>,
    io_weight: Option<u16>,
}

/// Most that a daemon may ask for in a pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Maxima(Limits);

/// The weight of everybody who has none.
const WEIGHT: u16 = 100;

impl LimitsFile {
    /// Err: in words, with the key.
    pub(super) fn check(&self) -> Result<Maxima, String> {
        let cpu_milli = match self.cpu {
            None => None,
            Some(cores) if (0.01..=4096.0).contains(&cores) => Some((cores * 1000.0).round() as u32),
            Some(cores) => return Err(format!("limits.cpu is {cores}; give cores, 0.01 to 4096")),
        };
        let maxima = Limits {
            memory_max: self.memory.as_ref().map(SizeFile::bytes).transpose()?,
            memory_high: None,
            swap_max: self.swap.as_ref().map(SizeFile::bytes).transpose()?,
            cpu_milli,
            cpu_weight: Some(self.cpu_weight.unwrap_or(WEIGHT)),
            pids_max: self.pids,
            io_weight: Some(self.io_weight.unwrap_or(WEIGHT)),
        };
        maxima
            .check()
            .map_err(|what| format!("limits: {what}; leave it out, or give more (weights 1 to {WEIGHT_MAX})"))?;
        Ok(Maxima(maxima))
    }
}

impl Maxima {
    /// What holds for a start that asks for `asked`. Err: what it asks too much of.
    pub(super) fn of(&self, asked: &Limits) -> Result<Limits, String> {
        let most = &self.0;
        let memory_max = less("memory", asked.memory_max, most.memory_max)?;
        let swap_max = less("swap", asked.swap_max, most.swap_max)?;
        Ok(Limits {
            memory_max,
            memory_high: asked.memory_high,
            // A limit of memory that lets the rest go to the disk would be none.
            swap_max: swap_max.or(memory_max.map(|_| 0)),
            cpu_milli: less("cpu (thousandths)", asked.cpu_milli, most.cpu_milli)?,
            cpu_weight: weight("cpu_weight", asked.cpu_weight, most.cpu_weight)?,
            pids_max: less("pids", asked.pids_max, most.pids_max)?,
            io_weight: weight("io_weight", asked.io_weight, most.io_weight)?,
        })
    }
}

fn less<T: Copy + PartialOrd + std::fmt::Display>(
    name: &str,
    asked: Option<T>,
    most: Option<T>,
) -> Result<Option<T>, String> {
    match (asked, most) {
        (Some(asked), Some(most)) if asked > most => {
            Err(format!("the spawner's policy allows {name} up to {most} in this pool, not {asked}"))
        }
        (asked, most) => Ok(asked.or(most)),
    }
}

fn weight(name: &str, asked: Option<u16>, most: Option<u16>) -> Result<Option<u16>, String> {
    less(name, asked, most.or(Some(WEIGHT))).map(|_| asked)
}

/// Which limits PID 1 can make units keep to, by what the kernel hands to the cgroup at `root`.
pub(super) fn enforced(root: &std::path::Path) -> Enforces {
    let text = std::fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
    let has = |name: &str| text.split_whitespace().any(|word| word == name);
    let weight = ["system.slice", "init.scope"].into_iter().any(|slice| root.join(slice).join("io.weight").exists());
    let mut enforces = Enforces {
        memory: has("memory"),
        cpu: has("cpu"),
        pids: has("pids"),
        io: has("io") && weight,
        why_not: String::new(),
    };
    if !(enforces.memory && enforces.cpu && enforces.pids) {
        enforces.why_not = format!(
            "cgroup v2 has the controllers [{}] here: boot with systemd.unified_cgroup_hierarchy=1, or give them to this container",
            text.trim()
        );
    }
    enforces
}

/// The properties of a unit.
pub(super) fn write(body: &mut Body, limits: &Limits) {
    let mut number = |name: &str, value: Option<u64>| {
        if let Some(value) = value {
            body.align(8);
            body.string(name);
            body.signature("t");
            body.u64(value);
        }
    };
    number("MemoryMax", limits.memory_max);
    number("MemoryHigh", limits.memory_high);
    number("MemorySwapMax", limits.swap_max);
    number("CPUQuotaPerSecUSec", limits.cpu_milli.map(|milli| u64::from(milli) * 1000));
    number("CPUWeight", limits.cpu_weight.map(u64::from));
    number("TasksMax", limits.pids_max.map(u64::from));
    number("IOWeight", limits.io_weight.map(u64::from));
    for name in ["MemoryAccounting", "TasksAccounting", "IOAccounting"] {
        body.align(8);
        body.string(name);
        body.signature("b");
        body.bool(true);
    }
    // A job is one thing: when one of its processes is killed for memory, all are.
    body.align(8);
    body.string("OOMPolicy");
    body.signature("s");
    body.string("kill");
}

#[cfg(test)]
mod tests {
    use super::super::bus::Reader;
    use super::*;

    fn maxima() -> Maxima {
        let file = LimitsFile {
            memory: Some(SizeFile::Text("1G".to_owned())),
            cpu: Some(1.5),
            pids: Some(100),
            ..LimitsFile::default()
        };
        file.check().expect("good")
    }

    #[test]
    fn a_daemon_gets_less_than_the_policy_allows_or_the_policys_own() {
        let none = maxima().of(&Limits::default()).expect("allowed");
        let want = Limits {
            memory_max: Some(1 << 30),
            swap_max: Some(0),
            cpu_milli: Some(1_500),
            pids_max: Some(100),
            ..Limits::default()
        };
        assert_eq!(none, want);
        let less = Limits { memory_max: Some(1 << 20), cpu_weight: Some(50), ..Limits::default() };
        assert_eq!(maxima().of(&less), Ok(Limits { cpu_weight: Some(50), memory_max: Some(1 << 20), ..want }));
        for more in [
            Limits { memory_max: Some((1 << 30) + 1), ..Limits::default() },
            Limits { cpu_milli: Some(1_501), ..Limits::default() },
            Limits { pids_max: Some(101), ..Limits::default() },
            Limits { cpu_weight: Some(101), ..Limits::default() },
            Limits { io_weight: Some(10_000), ..Limits::default() },
        ] {
            assert!(maxima().of(&more).is_err_and(|why| why.contains("policy allows")), "{more:?}");
        }
        let free = Maxima::default().of(&Limits::default()).expect("allowed");
        assert!(free.is_none(), "without a maximum nothing is limited");
    }

    #[test]
    fn a_policy_that_makes_no_sense_is_refused() {
        for file in [
            LimitsFile { cpu: Some(0.0), ..LimitsFile::default() },
            LimitsFile { cpu: Some(f64::NAN), ..LimitsFile::default() },
            LimitsFile { memory: Some(SizeFile::Bytes(0)), ..LimitsFile::default() },
            LimitsFile { memory: Some(SizeFile::Text("much".to_owned())), ..LimitsFile::default() },
            LimitsFile { io_weight: Some(10_001), ..LimitsFile::default() },
        ] {
            assert!(file.check().is_err_and(|why| why.starts_with("limits")), "{file:?}");
        }
    }

    #[test]
    fn limits_are_written_in_pid_1s_units() {
        let mut body = Body::default();
        let limits = Limits { memory_max: Some(7), cpu_milli: Some(1_500), pids_max: Some(9), ..Limits::default() };
        body.array(8, |body| write(body, &limits));
        let read = Reader::new(&body.bytes).values("a(sv)").expect("reads");
        let number = |name: &str| read[0].get(name).and_then(super::super::bus::Value::number);
        assert_eq!(
            [number("MemoryMax"), number("CPUQuotaPerSecUSec"), number("TasksMax"), number("IOWeight")],
            [Some(7), Some(1_500_000), Some(9), None]
        );
        assert_eq!(read[0].get("OOMPolicy").and_then(super::super::bus::Value::text), Some("kill"));
    }
}
