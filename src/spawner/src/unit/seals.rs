//! What a sandbox must be seen to have from inside, before anything of a job runs in it.
//!
//! PID 1 leaves out what the kernel cannot do, with a line in its journal and no more: a kernel without seccomp runs the
//! unit without a filter, a container without namespaces without them, and a drop-in of somebody's can take any line away.
//! So the helper looks. What is missing ends the attempt, unless root's policy says `degrade` for the pool: then the log and
//! the spawner's journal say what the job runs without.

use std::ffi::CString;

use rustix::fs::StatVfsMountFlags;

use super::profile::Profile;
use crate::protocol::SEALS;

/// One thing that can be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seal {
    /// `NoNewPrivileges=`
    NoNewPrivileges,
    /// `ProtectSystem=strict`
    ReadOnlySystem,
    /// `SystemCallFilter=`
    SystemCallFilter,
    /// `PrivateUsers=`
    UserNamespace,
    /// `PrivateNetwork=`
    NoNetwork,
}

use Seal::{NoNetwork, NoNewPrivileges, ReadOnlySystem, SystemCallFilter, UserNamespace};

/// First word of a check: without this seal the job does not run.
pub(super) const SEAL_NEEDED: &str = "seal";
/// First word of a check: without this seal the job runs, and that is told.
pub(super) const SEAL_WANTED: &str = "seal?";

/// What the helper is to look at under a profile. `filters`: those of PID 1, which every process here has.
pub(super) fn checks(profile: Profile, degrade: bool, filters: u32) -> Vec<CString> {
    let first = if degrade { SEAL_WANTED } else { SEAL_NEEDED };
    let check = |seal: &Seal| CString::new(format!("{first} {}:{filters}", seal.name())).ok();
    Seal::of(profile).iter().filter_map(check).collect()
}

/// How many filters of system calls PID 1 is under: in a container some.
pub(super) fn filters_of_init() -> u32 {
    number(&std::fs::read_to_string("/proc/1/status").unwrap_or_default(), FILTERS).unwrap_or(0)
}

/// Line of `/proc/PID/status`, from Linux 5.9 on.
const FILTERS: &str = "Seccomp_filters:";

impl Seal {
    /// In the order of their names.
    const ALL: [Self; SEALS.len()] = [NoNewPrivileges, ReadOnlySystem, SystemCallFilter, UserNamespace, NoNetwork];

    /// Those of a profile.
    pub(super) fn of(profile: Profile) -> &'static [Self] {
        match profile {
            Profile::Open => &Self::ALL[..2],
            Profile::Build => &Self::ALL[..4],
            Profile::Strict => &Self::ALL,
        }
    }

    /// The property, as people and the helper are told.
    pub(super) fn name(self) -> &'static str {
        Self::ALL.iter().zip(SEALS).find(|(seal, _)| **seal == self).map_or("", |(_, name)| name)
    }

    /// By number, as on the status pipe.
    pub(super) fn numbered(number: i32) -> Option<Self> {
        usize::try_from(number).ok().and_then(|number| Self::ALL.get(number)).copied()
    }

    /// Its number.
    pub(super) fn number(self) -> i32 {
        Self::ALL.iter().zip(0..).find(|(seal, _)| **seal == self).map_or(-1, |(_, number)| number)
    }

    /// From the second word of a check: it, and the number of filters of PID 1.
    pub(super) fn checked(word: &str) -> Option<(Self, u32)> {
        let (name, filters) = word.split_once(':')?;
        let seal = Self::ALL.into_iter().find(|seal| seal.name() == name)?;
        Some((seal, filters.parse().ok()?))
    }

    /// Helper: true when this process has it. What cannot be seen is not there.
    pub(super) fn holds(self, filters: u32) -> bool {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        match self {
            NoNewPrivileges => number(&read("/proc/self/status"), "NoNewPrivs:") == Some(1),
            SystemCallFilter => is_filtered(&read("/proc/self/status"), filters),
            UserNamespace => has_few_users(&read("/proc/self/uid_map")),
            NoNetwork => has_only_loopback(&read("/proc/self/net/dev")),
            ReadOnlySystem => {
                rustix::fs::statvfs("/").is_ok_and(|stat| stat.f_flag.contains(StatVfsMountFlags::RDONLY))
            }
        }
    }
}

fn number(status: &str, name: &str) -> Option<u32> {
    status.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

/// Under a filter, and where that can be told under more than everybody.
fn is_filtered(status: &str, filters: u32) -> bool {
    number(status, "Seccomp:") == Some(2) && number(status, FILTERS).is_none_or(|own| own > filters)
}

/// `PrivateUsers=` maps root, the unit's user and nobody else.
fn has_few_users(map: &str) -> bool {
    let mut numbers = map.lines().map(|line| line.split_whitespace().nth(2).and_then(|word| word.parse::<u32>().ok()));
    !map.is_empty() && numbers.all(|number| number.is_some_and(|number| number < 0x1_0000))
}

fn has_only_loopback(devices: &str) -> bool {
    let mut names = devices.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim());
    !devices.is_empty() && names.all(|name| name == "lo")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_or_unseen_does_not_hold() {
        let status = "Name:\tx\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t9\n";
        assert_eq!((number(status, "NoNewPrivs:"), number("", "NoNewPrivs:")), (Some(1), None));
        assert!(is_filtered(status, 0) && is_filtered(status, 8) && is_filtered("Seccomp:\t2\n", 8));
        assert!(
            !is_filtered(status, 9) && !is_filtered("Seccomp:\t0\nSeccomp_filters:\t0\n", 0) && !is_filtered("", 0)
        );
        assert!(has_few_users("         0          0          1\n      1000       1000          1\n"));
        assert!(!has_few_users("         0          0 4294967295\n") && !has_few_users(""));
        let head = "Inter-|   Receive |  Transmit\n face |bytes packets|bytes\n";
        assert!(has_only_loopback(&format!("{head}    lo:    0 0\n")));
        assert!(!has_only_loopback(&format!("{head}    lo:    0 0\n  eth0: 1 1\n")) && !has_only_loopback(""));
    }

    #[test]
    fn seals_have_names_numbers_and_profiles() {
        assert_eq!(Seal::ALL.map(Seal::name), SEALS);
        assert_eq!((ReadOnlySystem.name(), UserNamespace.name(), NoNetwork.name()), (SEALS[1], SEALS[3], SEALS[4]));
        for seal in Seal::ALL {
            assert_eq!(Seal::numbered(seal.number()), Some(seal));
            assert_eq!(Seal::checked(&format!("{}:7", seal.name())), Some((seal, 7)));
        }
        assert_eq!((Seal::numbered(-1), Seal::numbered(5), Seal::checked("x:1")), (None, None, None));
        for profile in Profile::ALL {
            for seal in Seal::of(profile) {
                let implied = profile.lines().any(|line| line.name == "DynamicUser") && *seal == ReadOnlySystem;
                assert!(implied || profile.lines().any(|line| line.name == seal.name()), "{}", seal.name());
            }
        }
    }
}
