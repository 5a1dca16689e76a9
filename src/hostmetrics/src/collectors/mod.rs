//! The collectors, one a file, and the list of them.

mod arp;
mod conntrack;
mod cpu;
mod cpufreq;
mod cpuinfo;
mod diskstats;
mod entropy;
mod filefd;
mod filesystem;
mod hwmon;
mod loadavg;
mod meminfo;
mod netclass;
mod netdev;
mod netstat;
mod os;
mod pressure;
mod schedstat;
mod sockstat;
mod softnet;
mod stat;
mod systemd;
mod textfile;
mod thermal_zone;
mod time;
mod timex;
mod udev;
mod uname;
mod vmstat;

use crate::error::{CollectError, Error};
use crate::exposition::Families;
use crate::options::Options;
use crate::scrape::Hanging;
pub use systemd::AskUnits;

/// Reads one corner of the host.
pub(crate) trait Collector: Send {
    /// Adds the figures to `out`. What was added before an error is shown, as in node_exporter.
    fn collect(&mut self, out: &mut Families) -> Result<(), CollectError>;

    /// What does not answer inside of it.
    fn hanging(&self) -> Vec<Hanging> {
        Vec::new()
    }
}

type Made = Result<Option<Box<dyn Collector>>, Error>;
type Listed = (&'static str, fn(&Options) -> Made);

fn some(collector: impl Collector + 'static) -> Made {
    Ok(Some(Box::new(collector)))
}

/// Names (node_exporter's) and how each is made; `None` where the options give it nothing to ask.
const ALL: [Listed; 27] = [
    ("arp", |options| some(arp::Arp::new(options)?)),
    ("conntrack", |options| some(conntrack::Conntrack::new(options))),
    ("cpu", |options| some(cpu::Cpu::new(options)?)),
    ("cpufreq", |options| some(cpufreq::Cpufreq::new(options))),
    ("diskstats", |options| some(diskstats::Diskstats::new(options)?)),
    ("entropy", |options| some(entropy::Entropy::new(options))),
    ("filefd", |options| some(filefd::Filefd::new(options))),
    ("filesystem", |options| some(filesystem::Filesystem::new(options)?)),
    ("hwmon", |options| some(hwmon::Hwmon::new(options))),
    ("loadavg", |options| some(loadavg::Loadavg::new(options))),
    ("meminfo", |options| some(meminfo::Meminfo::new(options))),
    ("netclass", |options| some(netclass::Netclass::new(options)?)),
    ("netdev", |options| some(netdev::Netdev::new(options)?)),
    ("netstat", |options| some(netstat::Netstat::new(options)?)),
    ("os", |options| some(os::Os::new(options))),
    ("pressure", |options| some(pressure::Pressure::new(options))),
    ("schedstat", |options| some(schedstat::Schedstat::new(options))),
    ("sockstat", |options| some(sockstat::Sockstat::new(options))),
    ("softnet", |options| some(softnet::Softnet::new(options))),
    ("stat", |options| some(stat::Stat::new(options))),
    ("systemd", |options| options.units.map_or(Ok(None), |ask| some(systemd::Systemd::new(ask, options)?))),
    ("textfile", |options| some(textfile::Textfile::new(options))),
    ("thermal_zone", |options| some(thermal_zone::ThermalZone::new(options))),
    ("time", |options| some(time::Time::new(options))),
    ("timex", |options| options.clock_state.map_or(Ok(None), |ask| some(timex::Timex::new(ask)))),
    ("uname", |_| some(uname::Uname)),
    ("vmstat", |options| some(vmstat::Vmstat::new(options)?)),
];

/// Names of all collectors, sorted.
pub fn names() -> Vec<&'static str> {
    ALL.iter().map(|(name, _)| *name).collect()
}

/// Makes the collector of that name; `None` where nobody is called that or the options give it nothing to ask.
pub(crate) fn make(name: &str, options: &Options) -> Made {
    ALL.iter().find(|(known, _)| *known == name).map_or(Ok(None), |(_, make)| make(options))
}
