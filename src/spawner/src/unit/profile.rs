//! Sandboxes as data: what each profile sets, and why.
//!
//! A pool or a job names a profile; a job can only name one that the policy lists for its pool. Profiles are part of the
//! program, not of the daemon's words: no property ever travels over the socket. `docs/operating/systemd.md` has the same
//! table, and a test compares them.

use super::bus::Body;

/// How a property is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Setting {
    /// `b`, true.
    Yes,
    /// `s`
    Text(&'static str),
    /// `t`: a set of capabilities or namespaces; 0 is none.
    Mask(u64),
    /// `u`
    Mode(u32),
    /// `as`
    Words(&'static [&'static str]),
    /// `(bas)`: only these.
    Only(&'static [&'static str]),
    /// `(bas)`: all but these.
    Without(&'static [&'static str]),
    /// `i`: an error number.
    Errno(i32),
    /// `a(iayu)`: every address.
    AnyAddress,
    /// `a(ss)`: an empty directory in memory, and its mount options.
    Memory(&'static str, &'static str),
}

/// One property of a profile.
pub(super) struct Line {
    /// systemd's name.
    pub(super) name: &'static str,
    /// Its value.
    pub(super) setting: Setting,
    /// Why it is there.
    pub(super) reason: &'static str,
}

impl Line {
    /// True for what only fits a user that lives as long as its unit: a person has files and queues elsewhere.
    pub(super) fn is_for_nobody(&self) -> bool {
        let replaced = PERSONAL.iter().any(|personal| personal.name == self.name);
        replaced || matches!(self.name, "DynamicUser" | "RemoveIPC")
    }
}

const fn line(name: &'static str, setting: Setting, reason: &'static str) -> Line {
    Line { name, setting, reason }
}

/// A profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Profile {
    /// A user of its own, nothing else.
    Open,
    /// The default: compilers, interpreters, git and the network work.
    Build,
    /// `build` without network and with fewer system calls.
    Strict,
}

use Setting::{AnyAddress, Errno, Mask, Memory, Mode, Only, Text, Without, Words, Yes};

/// Sockets of the service manager, the journal and the system bus: a job is no service.
const FOREIGN_SOCKETS: &[&str] = &[
    "-/run/systemd/notify",
    "-/run/systemd/journal/socket",
    "-/run/systemd/journal/stdout",
    "-/run/systemd/journal/dev-log",
    "-/run/systemd/private",
    "-/run/dbus/system_bus_socket",
];

/// What every profile has.
const COMMON: &[Line] = &[
    line("DynamicUser", Yes, "a user that no other job and no service has"),
    line("NoNewPrivileges", Yes, "setuid programs gain nothing"),
    line("PrivateTmp", Yes, "/tmp and /var/tmp, and with them the workspace, are its own and go with it"),
    line("UMask", Mode(0o077), "the helper's files are its own; the job's mask is in its specification"),
];

/// What a person's pool has in place of [`Line::is_for_nobody`], under every profile, beside `User=`, `BindPaths=` and
/// `InaccessiblePaths=` from the policy.
pub(super) const PERSONAL: &[Line] = &[
    line("ProtectSystem", Text("strict"), "writes stay inside"),
    line("ProtectHome", Text("tmpfs"), "of all homes only the pool's paths are there"),
    line("RestrictSUIDSGID", Yes, "leaves no file by which others become that person"),
    line("UMask", Mode(0o022), "what is built can be read by others, as when built by hand"),
];

/// What `build` and `strict` share.
const SANDBOX: &[Line] = &[
    line(
        "SystemCallArchitectures",
        Words(&["native"]),
        "halves the filter that is compiled at every start; no 32-bit calls",
    ),
    line("CapabilityBoundingSet", Mask(0), "nothing to gain"),
    line("AmbientCapabilities", Mask(0), "nothing to gain"),
    line("ProtectSystem", Text("strict"), "writes stay inside"),
    line("ProtectHome", Text("tmpfs"), "homes are empty"),
    line("PrivateDevices", Yes, "no hardware"),
    line("DevicePolicy", Text("closed"), "no hardware, made nodes included"),
    line("ProtectKernelTunables", Yes, "/proc/sys and /sys are read-only"),
    line("ProtectControlGroups", Yes, "no job moves itself out of its limits"),
    line("ProtectKernelModules", Yes, "cheap"),
    line("ProtectKernelLogs", Yes, "cheap"),
    line("ProtectClock", Yes, "cheap"),
    line("ProtectHostname", Yes, "cheap"),
    line("ProtectProc", Text("invisible"), "hides the argv of others"),
    line("PrivateUsers", Yes, "neighbours apart: no other user has a name or a number inside"),
    line("PrivateIPC", Yes, "neighbours apart: own System V and POSIX queues"),
    line("RemoveIPC", Yes, "nothing of it stays"),
    line(
        "TemporaryFileSystem",
        Memory("/dev/shm", "mode=1777"),
        "neighbours apart: own POSIX shared memory, gone with it",
    ),
    line("KeyringMode", Text("private"), "neighbours apart: own session keyring"),
    line("RestrictNamespaces", Mask(0), "no mounts, no containers; breaks bubblewrap"),
    line("RestrictSUIDSGID", Yes, "leaves no setuid file; breaks chmod u+s"),
    line("RestrictRealtime", Yes, "cannot starve the host"),
    line("LockPersonality", Yes, "cheap"),
    line(
        "InaccessiblePaths",
        Words(FOREIGN_SOCKETS),
        "cannot speak as a service, write into the journal, or ask the system's services",
    ),
    line(
        "SystemCallErrorNumber",
        Errno(libc::EPERM),
        "a refused call fails and does not kill: programs have a second way",
    ),
];

const BUILD: &[Line] = &[
    line(
        "RestrictAddressFamilies",
        Only(&["AF_UNIX", "AF_INET", "AF_INET6", "AF_NETLINK"]),
        "raw and packet sockets are no build's; ip and getifaddrs need netlink",
    ),
    line(
        "SystemCallFilter",
        Only(&["@system-service", "ptrace"]),
        "what services use; ptrace for strace and LeakSanitizer",
    ),
];

const STRICT: &[Line] = &[
    line("PrivateNetwork", Yes, "no network"),
    line("IPAddressDeny", AnyAddress, "no network, even through an inherited socket"),
    line("RestrictAddressFamilies", Only(&["AF_UNIX"]), "no network"),
    line("ProcSubset", Text("pid"), "no figures of the host"),
    line("SystemCallFilter", Only(&["@system-service"]), "what services use"),
    line(
        "SystemCallFilter",
        Without(&["@privileged", "@resources"]),
        "nothing for root; breaks chrt and nice values below 0",
    ),
];

impl Profile {
    /// All of them.
    pub(super) const ALL: [Self; 3] = [Self::Open, Self::Build, Self::Strict];

    /// Its name in policy, configuration and requests.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Build => "build",
            Self::Strict => "strict",
        }
    }

    /// By name.
    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|profile| profile.name() == name)
    }

    /// Its properties, in the order in which they are sent.
    pub(super) fn lines(self) -> impl Iterator<Item = &'static Line> {
        let parts: [&[Line]; 3] = match self {
            Self::Open => [COMMON, &[], &[]],
            Self::Build => [COMMON, SANDBOX, BUILD],
            Self::Strict => [COMMON, SANDBOX, STRICT],
        };
        parts.into_iter().flatten()
    }
}

/// All profiles as the documentation has them: property, where, why.
pub(super) fn table() -> String {
    let mut text = "| property | profiles | reason |\n|---|---|---|\n".to_owned();
    for (profiles, lines) in [("all", COMMON), ("build, strict", SANDBOX), ("build", BUILD), ("strict", STRICT)] {
        for line in lines {
            let row = format!("| `{}={}` | {profiles} | {} |\n", line.name, line.setting.text(), line.reason);
            text.push_str(&row);
        }
    }
    text.push_str("\n| property of a person's pool | reason |\n|---|---|\n");
    for line in PERSONAL {
        text.push_str(&format!("| `{}={}` | {} |\n", line.name, line.setting.text(), line.reason));
    }
    text
}

impl Setting {
    /// Writes it as a variant.
    pub(super) fn write(self, body: &mut Body) {
        match self {
            Yes => {
                body.signature("b");
                body.bool(true);
            }
            Text(text) => {
                body.signature("s");
                body.string(text);
            }
            Mask(mask) => {
                body.signature("t");
                body.u64(mask);
            }
            Mode(mode) => {
                body.signature("u");
                body.u32(mode);
            }
            Words(words) => {
                body.signature("as");
                body.strings(words);
            }
            Only(words) => write_list(body, true, words),
            Without(words) => write_list(body, false, words),
            Errno(number) => {
                body.signature("i");
                body.i32(number);
            }
            Memory(path, options) => {
                body.signature("a(ss)");
                body.array(8, |body| {
                    body.align(8);
                    body.string(path);
                    body.string(options);
                });
            }
            AnyAddress => {
                body.signature("a(iayu)");
                body.array(8, |body| {
                    for (family, bytes) in [(libc::AF_INET, 4), (libc::AF_INET6, 16)] {
                        body.align(8);
                        body.i32(family);
                        body.array(1, |body| (0..bytes).for_each(|_| body.byte(0)));
                        body.u32(0);
                    }
                });
            }
        }
    }

    /// As a unit file would have it, for people.
    fn text(self) -> String {
        match self {
            Yes => "yes".to_owned(),
            Text(text) => text.to_owned(),
            Mask(_) => "(none)".to_owned(),
            Mode(mode) => format!("{mode:04o}"),
            Words(words) | Only(words) => words.join(" "),
            Without(words) => format!("~{}", words.join(" ")),
            Errno(_) => "EPERM".to_owned(),
            AnyAddress => "any".to_owned(),
            Memory(path, options) => format!("{path}:{options}"),
        }
    }
}

fn write_list(body: &mut Body, allow: bool, words: &[&str]) {
    body.signature("(bas)");
    body.align(8);
    body.bool(allow);
    body.strings(words);
}

#[cfg(test)]
mod tests {
    use super::super::bus::Reader;
    use super::*;

    #[test]
    fn every_line_is_a_variant_that_reads_back() {
        for profile in Profile::ALL {
            assert_eq!(Profile::named(profile.name()), Some(profile));
            for line in profile.lines() {
                let mut body = Body::default();
                line.setting.write(&mut body);
                let read = Reader::new(&body.bytes).values("v");
                assert!(read.is_some(), "{}", line.name);
                assert!(!line.reason.is_empty());
            }
        }
        assert_eq!(Profile::named("Build"), None);
        assert_eq!(Profile::named(""), None);
    }

    #[test]
    fn properties_that_protect_others_are_in_every_profile() {
        for profile in Profile::ALL {
            for name in ["DynamicUser", "NoNewPrivileges", "PrivateTmp"] {
                assert!(profile.lines().any(|line| line.name == name && line.setting == Yes), "{name}");
            }
        }
        let first = Profile::Build.lines().find(|line| line.name.starts_with("SystemCall")).map(|line| line.name);
        assert_eq!(first, Some("SystemCallArchitectures"), "filters are compiled for what it names");
    }

    #[test]
    fn the_documentation_has_the_same_lines() {
        let text = include_str!("../../../../docs/operating/systemd.md");
        let table = table();
        assert!(text.contains(&table), "docs/operating/systemd.md is to have what --profiles prints:\n{table}");
    }
}
