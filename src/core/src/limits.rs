//! What an attempt may use of its host, and how much of the host is promised to attempts.
//!
//! A limit is declared by the job or is its pool's default. The same figure does two things: the executor enforces it, and
//! memory and CPU of open attempts are reserved against the host's budget, so that what was promised can be had. Whole
//! numbers only: bytes, thousandths of a core, processes.

/// Least memory of an attempt: below it not even a shell executes.
pub const MEMORY_BYTES_MIN: u64 = 4 << 20;
/// Most memory of an attempt: 1 PiB; more is a slip of the pen.
pub const MEMORY_BYTES_MAX: u64 = 1 << 50;
/// Least CPU of an attempt, thousandths of a core: the kernel counts a hundredth of its period at least.
pub const CPU_MILLI_MIN: u32 = 10;
/// Most CPU of an attempt: 4,096 cores.
pub const CPU_MILLI_MAX: u32 = 4_096_000;
/// Most processes of an attempt: the kernel's largest process id.
pub const PIDS_MAX: u32 = 4_194_304;

/// Which limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Resource {
    /// Memory.
    Memory,
    /// CPU time.
    Cpu,
    /// Processes and threads.
    Pids,
}

impl Resource {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Memory, Self::Cpu, Self::Pids];

    /// The word in JSON, on the command line and in the configuration.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Pids => "pids",
        }
    }
}

/// What an attempt may use at most; None: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Memory, bytes.
    pub memory_bytes: Option<u64>,
    /// CPU, thousandths of a core.
    pub cpu_milli: Option<u32>,
    /// Processes and threads.
    pub pids: Option<u32>,
}

impl Limits {
    /// No limit at all.
    pub const NONE: Self = Self { memory_bytes: None, cpu_milli: None, pids: None };

    /// One of them, in its unit.
    pub fn get(&self, resource: Resource) -> Option<u64> {
        match resource {
            Resource::Memory => self.memory_bytes,
            Resource::Cpu => self.cpu_milli.map(u64::from),
            Resource::Pids => self.pids.map(u64::from),
        }
    }

    /// True when nothing is limited.
    pub fn is_none(&self) -> bool {
        *self == Self::NONE
    }

    /// These, with `defaults` where they say nothing.
    #[must_use]
    pub fn or(self, defaults: Self) -> Self {
        Self {
            memory_bytes: self.memory_bytes.or(defaults.memory_bytes),
            cpu_milli: self.cpu_milli.or(defaults.cpu_milli),
            pids: self.pids.or(defaults.pids),
        }
    }

    /// The first that is more than `maxima` allow.
    pub fn beyond(&self, maxima: &Self) -> Option<Resource> {
        let beyond = |one: &Resource| self.get(*one).zip(maxima.get(*one)).is_some_and(|(asked, most)| asked > most);
        Resource::ALL.into_iter().find(beyond)
    }
}

/// Which limits attempts of a pool can be made to keep to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enforced {
    /// Memory.
    pub memory: bool,
    /// CPU.
    pub cpu: bool,
    /// Processes.
    pub pids: bool,
}

impl Enforced {
    /// All of them.
    pub const ALL: Self = Self { memory: true, cpu: true, pids: true };

    /// The first of these limits that cannot be enforced.
    pub fn lacks(&self, limits: &Limits) -> Option<Resource> {
        let can = |resource: Resource| match resource {
            Resource::Memory => self.memory,
            Resource::Cpu => self.cpu,
            Resource::Pids => self.pids,
        };
        Resource::ALL.into_iter().find(|resource| limits.get(*resource).is_some() && !can(*resource))
    }
}

/// What the host gives to attempts; None: nobody counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// Memory, bytes.
    pub memory_bytes: Option<u64>,
    /// CPU, thousandths of a core.
    pub cpu_milli: Option<u64>,
}

/// What open attempts were promised together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reserved {
    /// Memory, bytes.
    pub memory_bytes: u64,
    /// CPU, thousandths of a core.
    pub cpu_milli: u64,
}

/// Why an attempt does not fit now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// What there is too little of.
    pub resource: Resource,
    /// What it asks for, in the resource's unit.
    pub asked: u64,
    /// What others were promised.
    pub reserved: u64,
    /// What there is for all.
    pub budget: u64,
}

impl Reserved {
    /// One attempt more.
    pub fn add(&mut self, limits: &Limits) {
        self.memory_bytes = self.memory_bytes.saturating_add(limits.memory_bytes.unwrap_or(0));
        self.cpu_milli = self.cpu_milli.saturating_add(limits.get(Resource::Cpu).unwrap_or(0));
    }

    /// One attempt less.
    pub fn remove(&mut self, limits: &Limits) {
        self.memory_bytes = self.memory_bytes.saturating_sub(limits.memory_bytes.unwrap_or(0));
        self.cpu_milli = self.cpu_milli.saturating_sub(limits.get(Resource::Cpu).unwrap_or(0));
    }

    /// What keeps an attempt with these limits from being promised them; None: it fits. Who asks for more than there is at
    /// all (the host or its configuration shrank) fits while nobody else was promised any: it runs alone, not never.
    pub fn shortage(&self, limits: &Limits, budget: &Budget) -> Option<Shortage> {
        let counted = [
            (Resource::Memory, self.memory_bytes, budget.memory_bytes),
            (Resource::Cpu, self.cpu_milli, budget.cpu_milli),
        ];
        counted.into_iter().find_map(|(resource, reserved, budget)| {
            let (asked, budget) = (limits.get(resource)?, budget?);
            let fits = reserved == 0 || reserved.saturating_add(asked) <= budget;
            (!fits).then_some(Shortage { resource, asked, reserved, budget })
        })
    }
}

impl Budget {
    /// True when an attempt with these limits takes something that is counted.
    pub fn counts(&self, limits: &Limits) -> bool {
        (self.memory_bytes.is_some() && limits.memory_bytes.is_some())
            || (self.cpu_milli.is_some() && limits.cpu_milli.is_some())
    }
}

/// A limit for people, as it can be written back: `1536M`, `1.5`, `100`.
pub fn words(resource: Resource, value: u64) -> String {
    match resource {
        Resource::Memory => {
            let units = [(1 << 40, "T"), (1 << 30, "G"), (1 << 20, "M"), (1 << 10, "K")];
            let whole = units.into_iter().find(|(unit, _)| value > 0 && value.is_multiple_of(*unit));
            whole.map_or_else(|| value.to_string(), |(unit, letter)| format!("{}{letter}", value / unit))
        }
        Resource::Cpu if value.is_multiple_of(1000) => (value / 1000).to_string(),
        Resource::Cpu => format!("{}.{:03}", value / 1000, value % 1000).trim_end_matches('0').to_owned(),
        Resource::Pids => value.to_string(),
    }
}

/// The next memory limit after an attempt was killed at `bytes`: multiplied by hundredths, at most `ceiling`, never less
/// than before.
pub fn grown(bytes: u64, factor_hundredths: u16, ceiling: Option<u64>) -> u64 {
    let grown = u128::from(bytes) * u128::from(factor_hundredths) / 100;
    let grown = u64::try_from(grown).unwrap_or(u64::MAX).min(MEMORY_BYTES_MAX);
    grown.min(ceiling.unwrap_or(u64::MAX)).max(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn memory(bytes: u64) -> Limits {
        Limits { memory_bytes: Some(bytes), ..Limits::NONE }
    }

    #[test]
    fn what_is_named_wins_over_the_default() {
        let defaults = Limits { memory_bytes: Some(1), cpu_milli: Some(2), pids: Some(3) };
        assert_eq!(memory(9).or(defaults), Limits { memory_bytes: Some(9), ..defaults });
        assert_eq!(memory(9).beyond(&defaults), Some(Resource::Memory));
        assert_eq!(memory(1).beyond(&defaults), None);
        assert_eq!(Limits::NONE.beyond(&defaults), None, "who asks for none gets the pool's");
    }

    #[test]
    fn who_asks_for_more_than_there_is_runs_alone() {
        let budget = Budget { memory_bytes: Some(10), cpu_milli: None };
        let mut reserved = Reserved::default();
        assert_eq!(reserved.shortage(&memory(11), &budget), None);
        reserved.add(&memory(1));
        let shortage = Shortage { resource: Resource::Memory, asked: 11, reserved: 1, budget: 10 };
        assert_eq!(reserved.shortage(&memory(11), &budget), Some(shortage));
        assert_eq!(reserved.shortage(&memory(9), &budget), None);
        assert_eq!(reserved.shortage(&Limits { cpu_milli: Some(9), ..Limits::NONE }, &budget), None, "not counted");
        reserved.remove(&memory(1));
        assert_eq!(reserved, Reserved::default());
    }

    proptest! {
        #[test]
        fn memory_grows_up_to_the_ceiling_and_never_shrinks(bytes in 1u64..=MEMORY_BYTES_MAX, factor in 100u16.., ceiling in prop::option::of(any::<u64>())) {
            let grown = grown(bytes, factor, ceiling);
            prop_assert!(grown >= bytes);
            prop_assert!(grown <= ceiling.unwrap_or(u64::MAX).max(bytes));
            prop_assert!(grown <= MEMORY_BYTES_MAX);
        }
    }
}
