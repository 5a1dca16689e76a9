//! Limits of the host beyond which nothing new starts.
//!
//! The daemon measures and compares; the record only knows which limits are passed now. Running attempts are never touched by
//! one, and a limit that is passed is never stored: the next look tells anew.

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Gauge {
    /// Time in which some task waited for a CPU, ten-second average; hundredths of a percent.
    CpuPressure,
    /// Time in which some task waited for memory, ten-second average; hundredths of a percent.
    MemoryPressure,
    /// Time in which some task waited for a disk, ten-second average; hundredths of a percent.
    IoPressure,
    /// Load average of the last minute; hundredths for each CPU.
    Load,
    /// Memory that could be had without swapping; bytes.
    FreeMemory,
    /// Space on the file system of the state directory; bytes.
    FreeDisk,
}

impl Gauge {
    /// Its word in interfaces.
    pub const fn word(self) -> &'static str {
        match self {
            Self::CpuPressure => "cpu_pressure",
            Self::MemoryPressure => "memory_pressure",
            Self::IoPressure => "io_pressure",
            Self::Load => "load",
            Self::FreeMemory => "free_memory",
            Self::FreeDisk => "free_disk",
        }
    }

    /// True when less is worse.
    pub const fn is_supply(self) -> bool {
        matches!(self, Self::FreeMemory | Self::FreeDisk)
    }
}

/// A limit that is passed. Figures are in the unit of the gauge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy {
    /// What was measured.
    pub gauge: Gauge,
    /// How much it was.
    pub measured: u64,
    /// How much it may be at most; for a supply, at least.
    pub limit: u64,
}

impl Busy {
    /// The limit, if `measured` passes it.
    pub fn of(gauge: Gauge, measured: u64, limit: u64) -> Option<Self> {
        let passed = if gauge.is_supply() { measured < limit } else { measured > limit };
        passed.then_some(Self { gauge, measured, limit })
    }
}
