//! What an attempt may use, what a spawner can make it keep to, and what it used.

use serde::{Deserialize, Serialize};

/// Weights of CPU and disks are in this range; 100 is everybody's.
pub const WEIGHT_MAX: u16 = 10_000;
/// CPU is counted in thousandths of a core; less than this the kernel cannot count.
pub const CPU_MILLI_MIN: u32 = 10;

/// What an attempt may use at most; None: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Memory, bytes: beyond it the attempt is killed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_max: Option<u64>,
    /// Memory, bytes: beyond it the attempt is slowed down and its memory reclaimed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_high: Option<u64>,
    /// Swap, bytes, beside the memory; the largest number is no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap_max: Option<u64>,
    /// CPU time, thousandths of a core.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_milli: Option<u32>,
    /// Share of CPU time among those who want it, 1 to [`WEIGHT_MAX`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_weight: Option<u16>,
    /// Processes and threads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids_max: Option<u32>,
    /// Share of disk time among those who want it, 1 to [`WEIGHT_MAX`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_weight: Option<u16>,
}

impl Limits {
    /// True when nothing is limited.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// What of these cannot be, in words.
    ///
    /// # Errors
    /// A limit of zero, or a weight out of range.
    pub fn check(&self) -> Result<(), &'static str> {
        let weight = |weight: Option<u16>| weight.is_none_or(|weight| (1..=WEIGHT_MAX).contains(&weight));
        match self {
            Self { memory_max: Some(0), .. } | Self { memory_high: Some(0), .. } => Err("a memory limit of zero"),
            Self { pids_max: Some(0), .. } => Err("a limit of zero processes"),
            Self { cpu_milli: Some(cpu), .. } if *cpu < CPU_MILLI_MIN => Err("a CPU limit that cannot be counted"),
            _ if !weight(self.cpu_weight) || !weight(self.io_weight) => Err("a weight that is none"),
            _ => Ok(()),
        }
    }

    /// The first of these that `enforces` lacks, by the name of its controller.
    pub fn lacks(&self, enforces: &Enforces) -> Option<&'static str> {
        let memory = self.memory_max.is_some() || self.memory_high.is_some() || self.swap_max.is_some();
        let cpu = self.cpu_milli.is_some() || self.cpu_weight.is_some();
        [
            ("memory", memory && !enforces.memory),
            ("cpu", cpu && !enforces.cpu),
            ("pids", self.pids_max.is_some() && !enforces.pids),
            ("io", self.io_weight.is_some() && !enforces.io),
        ]
        .into_iter()
        .find_map(|(name, lacks)| lacks.then_some(name))
    }
}

/// Which limits a spawner can make attempts keep to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Enforces {
    /// Memory and swap.
    pub memory: bool,
    /// CPU time.
    pub cpu: bool,
    /// Processes.
    pub pids: bool,
    /// Weight of disk time.
    pub io: bool,
    /// Why not all of them, and the mend, in words; empty when there is nothing to say.
    pub why_not: String,
}

/// What a cgroup tells of an attempt; None: it does not, or nobody asked it in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Used {
    /// Most memory of all processes together, with their files and kernel memory, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_peak: Option<u64>,
    /// Read from disks, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_read_bytes: Option<u64>,
    /// Written to disks, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_written_bytes: Option<u64>,
    /// Most processes and threads at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids_peak: Option<u64>,
    /// Time in which some process waited for memory, microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_stall_us: Option<u64>,
    /// Time in which some process waited for a CPU, microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_stall_us: Option<u64>,
    /// Time in which some process waited for a disk, microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_stall_us: Option<u64>,
    /// Processes that the kernel killed because memory was used up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_kills: Option<u64>,
    /// Space that the temporary directory took when the job had ended, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_bytes: Option<u64>,
}
