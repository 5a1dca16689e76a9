//! What is collected and from where. The defaults are node_exporter's.

use crate::collectors::{self, AskUnits};
use crate::error::Error;
use crate::pattern::Filter;
use std::path::PathBuf;
use std::time::Duration;

/// Where the figures come from, which are shown, and how long each collector may take.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where procfs is mounted: `/proc`.
    pub procfs: PathBuf,
    /// Where sysfs is mounted: `/sys`.
    pub sysfs: PathBuf,
    /// Where the host's root is mounted; taken off the mount points that are shown: `/`.
    pub rootfs: PathBuf,
    /// udev's database of devices: `/run/udev/data`.
    pub udev_data: PathBuf,
    /// Names of the only collectors to run; all where it is `None`.
    pub enabled: Option<Vec<String>>,
    /// Names of collectors that do not run.
    pub disabled: Vec<String>,
    /// How long one collector may take before the scrape goes on without it.
    pub collector_time_max: Duration,
    /// How long mounts together may take to answer statfs (and one of them half of it) before the scrape goes on
    /// without the silent ones. Less than `collector_time_max`, or they cost the whole collector.
    pub mount_time_max: Duration,

    /// Time CPUs spent in guests.
    pub cpu_guest: bool,
    /// `node_cpu_info` from `/proc/cpuinfo`.
    pub cpu_info: bool,
    /// CPU flags to show; needs `cpu_info`.
    pub cpu_flags: Option<String>,
    /// CPU bugs to show; needs `cpu_info`.
    pub cpu_bugs: Option<String>,
    /// Soft interrupts per vector.
    pub stat_softirq: bool,
    /// Block devices.
    pub diskstats_devices: Filter,
    /// Mount points, without the prefix `rootfs`.
    pub filesystem_mount_points: Filter,
    /// Types of filesystems.
    pub filesystem_types: Filter,
    /// Network devices whose traffic is shown.
    pub netdev_devices: Filter,
    /// Network devices whose properties are shown.
    pub netclass_devices: Filter,
    /// Network devices whose neighbours are counted.
    pub arp_devices: Filter,
    /// Fields of `/proc/net/{netstat,snmp,snmp6}`, as `Protocol_Field`.
    pub netstat_fields: Filter,
    /// Fields of `/proc/vmstat`.
    pub vmstat_fields: Filter,
    /// Directories whose `*.prom` files are added; none by default.
    pub textfile_directories: Vec<PathBuf>,
    /// Asks the kernel for its clock's discipline (adjtimex, reading only). Needs a system call for which no safe
    /// wrapper is at hand, so the caller brings it; without it there is no `timex` collector.
    pub clock_state: Option<fn() -> std::io::Result<ClockState>>,
    /// Units of systemd.
    pub systemd_units: Filter,
    /// Asks PID 1 about its units. Needs a client of the bus, so the caller brings it; without it there is no `systemd`
    /// collector.
    pub units: Option<AskUnits>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            procfs: "/proc".into(),
            sysfs: "/sys".into(),
            rootfs: "/".into(),
            udev_data: "/run/udev/data".into(),
            enabled: None,
            disabled: Vec::new(),
            collector_time_max: Duration::from_secs(5),
            mount_time_max: Duration::from_secs(4),
            cpu_guest: true,
            cpu_info: true,
            cpu_flags: None,
            cpu_bugs: None,
            stat_softirq: false,
            diskstats_devices: Filter::excluding(r"^(ram|loop|fd|(h|s|v|xv)d[a-z]|nvme\d+n\d+p)\d+$"),
            filesystem_mount_points: Filter::excluding(
                "^/(dev|proc|run|sys|mnt|media|var/lib/docker/.+|var/lib/containers/storage/.+)($|/)",
            ),
            filesystem_types: Filter::excluding(concat!(
                "^(autofs|binfmt_misc|bpf|cgroup2?|configfs|debugfs|devpts|devtmpfs|fusectl|hugetlbfs|iso9660|mqueue",
                "|nsfs|overlay|proc|procfs|pstore|rpc_pipefs|securityfs|selinuxfs|squashfs|sysfs|tracefs)$",
            )),
            netdev_devices: Filter::excluding("^lo$"),
            netclass_devices: Filter::excluding("^$"),
            arp_devices: Filter::default(),
            netstat_fields: Filter::including(concat!(
                r"^(.*_(InErrors|InErrs)|Ip_Forwarding|Ip(6|Ext)_(InOctets|OutOctets)|Icmp6?_(InMsgs|OutMsgs)",
                r"|TcpExt_(Listen.*|Syncookies.*|TCPSynRetrans|TCPTimeouts)",
                r"|Tcp_(ActiveOpens|InSegs|OutSegs|OutRsts|PassiveOpens|RetransSegs|CurrEstab)",
                r"|Udp6?_(InDatagrams|OutDatagrams|NoPorts|RcvbufErrors|SndbufErrors))$",
            )),
            vmstat_fields: Filter::including("^(oom_kill|pgpg|pswp|pg.*fault).*"),
            textfile_directories: Vec::new(),
            clock_state: None,
            // Names of jobs' units hold the ids of jobs.
            systemd_units: Filter::excluding(r"^(.+\.(automount|device|mount|scope|slice)|ci-job-.+)$"),
            units: None,
        }
    }
}

/// Names of the patterns that [`Options::filter_mut`] knows.
pub const FILTERS: [&str; 9] = [
    "arp_devices",
    "diskstats_devices",
    "filesystem_mount_points",
    "filesystem_types",
    "netclass_devices",
    "netdev_devices",
    "netstat_fields",
    "systemd_units",
    "vmstat_fields",
];

impl Options {
    /// Everything that is wrong with them, for whoever wants to tell it all at once; [`crate::HostMetrics::new`] tells the first. A
    /// pattern counts only where its collector runs.
    pub fn problems(&self) -> Vec<Error> {
        let known = collectors::names();
        let named = self.enabled.iter().flatten().chain(&self.disabled);
        let unknown = named.filter(|name| !known.contains(&name.as_str()));
        let mut problems: Vec<Error> = unknown.map(|name| Error::UnknownCollector { name: name.clone() }).collect();
        let mut options = self.clone();
        for collector in known.into_iter().filter(|name| self.runs(name)) {
            let before = problems.len();
            // A pattern's name begins with its collector's.
            let of_it = |filter: &&&str| filter.split_once('_').is_some_and(|(of, _)| of == collector);
            for filter in FILTERS.iter().filter(of_it) {
                problems.extend(options.filter_mut(filter).into_iter().flat_map(|filter| filter.problems()));
            }
            match collectors::make(collector, self) {
                Err(error) if problems.len() == before => problems.push(error),
                Ok(None) if self.enabled.is_some() => {
                    problems.push(Error::NothingToAsk { name: collector.to_owned() });
                }
                _ => {}
            }
        }
        problems
    }

    /// Whether a collector is wanted.
    pub(crate) fn runs(&self, collector: &str) -> bool {
        self.enabled.as_ref().is_none_or(|enabled| enabled.iter().any(|one| one == collector))
            && !self.disabled.iter().any(|one| one == collector)
    }

    /// The patterns of this name, for whoever reads them from a file.
    pub fn filter_mut(&mut self, name: &str) -> Option<&mut Filter> {
        Some(match name {
            "arp_devices" => &mut self.arp_devices,
            "diskstats_devices" => &mut self.diskstats_devices,
            "filesystem_mount_points" => &mut self.filesystem_mount_points,
            "filesystem_types" => &mut self.filesystem_types,
            "netclass_devices" => &mut self.netclass_devices,
            "netdev_devices" => &mut self.netdev_devices,
            "netstat_fields" => &mut self.netstat_fields,
            "systemd_units" => &mut self.systemd_units,
            "vmstat_fields" => &mut self.vmstat_fields,
            _ => return None,
        })
    }
}

/// What PID 1 says of itself and of the units that were chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SystemUnits {
    /// Version of systemd, as it says.
    pub version: String,
    /// `running`, `degraded`, …
    pub system_state: String,
    /// How many units, chosen or not, are active, activating, deactivating, inactive, failed.
    pub summary: [u64; 5],
    /// Those that were chosen.
    pub units: Vec<SystemUnit>,
}

/// One unit. What its kind does not have is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SystemUnit {
    /// With its ending.
    pub name: String,
    /// `active`, `failed`, …
    pub active_state: String,
    /// `Type=` of a service, the file system of a mount; else empty.
    pub kind: String,
    /// Since when it is active, microseconds after 1970; 0: it is not.
    pub started_us: Option<u64>,
    /// Restarts of a service.
    pub restarts: Option<u64>,
    /// Tasks of a service.
    pub tasks: Option<u64>,
    /// Their limit, where there is one.
    pub tasks_max: Option<u64>,
    /// When a timer went off last, microseconds after 1970.
    pub last_trigger_us: Option<u64>,
    /// Connections that a socket took.
    pub accepted: Option<u64>,
    /// Connections that it has.
    pub connections: Option<u64>,
    /// Connections that it refused.
    pub refused: Option<u64>,
}

/// The kernel's view of its clock: the fields of `struct timex` as adjtimex(2) gives them, in its units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClockState {
    /// What the call returned: 5 (`TIME_ERROR`) is a clock that nothing keeps right.
    pub state: i32,
    /// Difference to the reference, in nanoseconds with `STA_NANO` in `status`, else in microseconds.
    pub offset: i64,
    /// Frequency correction, in parts per million times 2^16.
    pub frequency: i64,
    /// Largest error, microseconds.
    pub max_error: i64,
    /// Estimated error, microseconds.
    pub estimated_error: i64,
    /// `STA_*` bits.
    pub status: i32,
    /// Time constant of the loop.
    pub constant: i64,
    /// Microseconds between ticks.
    pub tick: i64,
    /// Pulse per second: frequency, parts per million times 2^16.
    pub pps_frequency: i64,
    /// Pulse per second: jitter, in the unit of `offset`.
    pub pps_jitter: i64,
    /// Pulse per second: interval's length, as a power of two of seconds.
    pub pps_shift: i32,
    /// Pulse per second: stability, parts per million times 2^16.
    pub pps_stability: i64,
    /// Pulse per second: times the jitter was too large.
    pub pps_jitter_count: i64,
    /// Pulse per second: calibrations.
    pub pps_calibration_count: i64,
    /// Pulse per second: failed calibrations.
    pub pps_error_count: i64,
    /// Pulse per second: times the stability was too bad.
    pub pps_stability_count: i64,
    /// Seconds between TAI and UTC.
    pub tai: i32,
}

impl From<(i32, libc::timex)> for ClockState {
    /// Of what the call returned and filled in.
    fn from((state, clock): (i32, libc::timex)) -> Self {
        Self {
            state,
            offset: clock.offset,
            frequency: clock.freq,
            max_error: clock.maxerror,
            estimated_error: clock.esterror,
            status: clock.status,
            constant: clock.constant,
            tick: clock.tick,
            pps_frequency: clock.ppsfreq,
            pps_jitter: clock.jitter,
            pps_shift: clock.shift,
            pps_stability: clock.stabil,
            pps_jitter_count: clock.jitcnt,
            pps_calibration_count: clock.calcnt,
            pps_error_count: clock.errcnt,
            pps_stability_count: clock.stbcnt,
            tai: clock.tai,
        }
    }
}
