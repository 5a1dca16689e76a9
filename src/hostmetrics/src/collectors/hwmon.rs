//! `hwmon`: temperatures, fans, voltages and powers, from `/sys/class/hwmon`.
//!
//! A chip's directory (and its `device`, for old drivers) holds files `<type><number>_<property>`. The file's type and
//! property decide on the name, the unit and the help; what has no rule of its own is shown as it is. Names of chips
//! come from the device behind them, so that they stay the same over reboots.

use super::Collector;
use crate::error::CollectError;
use crate::exposition::{Families, Kind};
use crate::files;
use crate::options::Options;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const TYPES: [&str; 13] = [
    "vrm",
    "beep_enable",
    "update_interval",
    "in",
    "cpu",
    "fan",
    "pwm",
    "temp",
    "curr",
    "power",
    "energy",
    "humidity",
    "intrusion",
];
/// The kernel's unit of voltages, currents, temperatures and times.
const MILLI: f64 = 0.001;
/// The kernel's unit of energies, powers and humidities: so many to one.
const MICROS: f64 = 1e6;

pub(crate) struct Hwmon {
    dir: PathBuf,
}

impl Hwmon {
    pub(crate) fn new(options: &Options) -> Self {
        Self { dir: options.sysfs.join("class/hwmon") }
    }
}

/// Values by property (empty for the bare file) of each sensor (`temp1`), with the sensor's type.
type Sensors = BTreeMap<String, (&'static str, BTreeMap<String, String>)>;

impl Collector for Hwmon {
    fn collect(&mut self, out: &mut Families) -> Result<(), CollectError> {
        for name in files::names(&self.dir)? {
            let dir = self.dir.join(&name);
            if !dir.is_dir() {
                continue;
            }
            let mut sensors = Sensors::new();
            sensors_in(&dir, &mut sensors);
            sensors_in(&dir.join("device"), &mut sensors);
            let chip = chip(&dir);
            if let Some(shown) =
                files::value(&dir.join("name")).map(|text| clean(&text)).filter(|name| !name.is_empty())
            {
                out.gauge("node_hwmon_chip_names", "Annotation metric for human-readable chip names")
                    .add(&[("chip", &chip), ("chip_name", &shown)], 1.0);
            }
            for (sensor, (kind, values)) in &sensors {
                collect_sensor([("chip", &chip), ("sensor", sensor)], kind, values, out);
            }
        }
        Ok(())
    }
}

/// Lower case, `[a-z0-9:_]`, no underscore at either end.
fn clean(text: &str) -> String {
    let kept = |c: char| if c.is_ascii_alphanumeric() || c == ':' || c == '_' { c.to_ascii_lowercase() } else { '_' };
    text.trim().chars().map(kept).collect::<String>().trim_matches('_').to_owned()
}

/// `<bus>_<device>` of the device behind the chip; else its `name`; else the directory's.
fn chip(dir: &Path) -> String {
    let part = |path: Option<&Path>| {
        path.and_then(Path::file_name).map(|name| clean(&name.to_string_lossy())).unwrap_or_default()
    };
    if let Ok(device) = dir.join("device").canonicalize() {
        let (bus, device) = (part(device.parent()), part(Some(&device)));
        if !device.is_empty() {
            return if bus.is_empty() { device } else { format!("{bus}_{device}") };
        }
    }
    let named = files::value(&dir.join("name")).map(|name| clean(&name)).filter(|name| !name.is_empty());
    named.unwrap_or_else(|| part(dir.canonicalize().ok().as_deref()))
}

/// `temp1_crit_alarm` is (`temp`, 1, `crit_alarm`).
fn explode(file: &str) -> Option<(&'static str, u32, &str)> {
    let digits = file.find(|c: char| c.is_ascii_digit());
    if let Some(at) = digits {
        let end = file[at..].find(|c: char| !c.is_ascii_digit()).map_or(file.len(), |length| at + length);
        let kind = TYPES.into_iter().find(|kind| *kind == &file[..at])?;
        let property = match &file[end..] {
            "" => "",
            rest => rest.strip_prefix('_')?,
        };
        return Some((kind, file[at..end].parse().ok()?, property));
    }
    // Without a number the longest type counts: `beep_enable` is no property of anything.
    TYPES.into_iter().find(|kind| *kind == file).map(|kind| (kind, 0, ""))
}

fn sensors_in(dir: &Path, sensors: &mut Sensors) {
    for file in files::names(dir).unwrap_or_default() {
        if let Some((kind, number, property)) = explode(&file)
            && let Ok(text) = files::read(&dir.join(&file))
        {
            let (_, values) = sensors.entry(format!("{kind}{number}")).or_insert_with(|| (kind, BTreeMap::new()));
            values.insert(property.to_owned(), text.trim_matches('\n').to_owned());
        }
    }
}

fn collect_sensor(
    labels: [(&'static str, &str); 2],
    kind: &str,
    values: &BTreeMap<String, String>,
    out: &mut Families,
) {
    if let Some(label) = values.get("label") {
        let [chip, sensor] = labels;
        out.gauge("node_hwmon_sensor_label", "Label for given chip and sensor")
            .add(&[chip, sensor, ("label", label)], 1.0);
    }
    let bare = values.get("").map(String::as_str);
    let number = bare.and_then(|text| text.parse::<f64>().ok());
    let single = match kind {
        "beep_enable" => {
            Some(("node_hwmon_beep_enabled", "Hardware beep enabled", Some(f64::from(u8::from(bare == Some("1"))))))
        }
        "vrm" => Some(("node_hwmon_voltage_regulator_version", "Hardware voltage regulator", number)),
        "update_interval" => Some((
            "node_hwmon_update_interval_seconds",
            "Hardware monitor update interval",
            number.map(|number| number * MILLI),
        )),
        _ => None,
    };
    if let Some((name, help, value)) = single {
        if let Some(value) = value {
            out.gauge(name, help).add(&labels, value);
        }
        return;
    }
    for (property, text) in values.iter().filter(|(property, _)| *property != "label") {
        let Ok(value) = text.parse::<f64>() else { continue };
        let mut name = format!("node_hwmon_{kind}");
        if !property.is_empty() && (property != "input" || bare.is_some()) {
            name = format!("{name}_{}", clean(property));
        }
        let Shown { suffix, factor, help, counter } = shown(kind, property);
        let family_kind = if counter { Kind::Counter } else { Kind::Gauge };
        out.family(name + suffix, family_kind, help).add(&labels, factor.apply(value));
    }
}

/// To multiply by and to divide by differ in the last digit.
enum Factor {
    Times(f64),
    Per(f64),
}

impl Factor {
    fn apply(&self, value: f64) -> f64 {
        match self {
            Self::Times(factor) => value * factor,
            Self::Per(parts) => value / parts,
        }
    }
}

/// How a property is shown.
struct Shown {
    suffix: &'static str,
    factor: Factor,
    help: String,
    counter: bool,
}

/// The rules, the special properties first: they have no unit.
fn shown(kind: &str, property: &str) -> Shown {
    let gauge = |suffix, factor, help: String| Shown { suffix, factor, help, counter: false };
    match (kind, property) {
        (_, "fault" | "alarm") => gauge("", Factor::Times(1.0), format!("Hardware sensor {property} status ({kind})")),
        (_, "beep") => gauge("_enabled", Factor::Times(1.0), "Hardware monitor sensor has beeping enabled".to_owned()),
        ("in" | "cpu", _) => {
            gauge("_volts", Factor::Times(MILLI), format!("Hardware monitor for voltage ({property})"))
        }
        ("temp", "type") => gauge("", Factor::Times(1.0), "Hardware monitor temp element type".to_owned()),
        ("temp", _) => {
            let property = if property.is_empty() { "input" } else { property };
            gauge("_celsius", Factor::Times(MILLI), format!("Hardware monitor for temperature ({property})"))
        }
        ("curr", _) => gauge("_amps", Factor::Times(MILLI), format!("Hardware monitor for current ({property})")),
        ("energy", _) => Shown {
            suffix: "_joule_total",
            factor: Factor::Per(MICROS),
            help: format!("Hardware monitor for joules used so far ({property})"),
            counter: true,
        },
        ("power", "accuracy") => {
            gauge("", Factor::Per(MICROS), "Hardware monitor power meter accuracy, as a ratio".to_owned())
        }
        ("power", "average_interval" | "average_interval_min" | "average_interval_max") => gauge(
            "_seconds",
            Factor::Times(MILLI),
            format!("Hardware monitor power usage update interval ({property})"),
        ),
        ("power", _) => {
            gauge("_watt", Factor::Per(MICROS), format!("Hardware monitor for power usage in watts ({property})"))
        }
        ("humidity", _) => {
            let meaning = "as a ratio (multiply with 100.0 to get the humidity as a percentage)";
            gauge("", Factor::Per(MICROS), format!("Hardware monitor for humidity, {meaning} ({property})"))
        }
        ("fan", "input" | "min" | "max" | "target") => {
            gauge("_rpm", Factor::Times(1.0), format!("Hardware monitor for fan revolutions per minute ({property})"))
        }
        _ => gauge("", Factor::Times(1.0), format!("Hardware monitor {kind} element {property}")),
    }
}
