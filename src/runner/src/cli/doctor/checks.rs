//! The single checks of `doctor`.

use super::Finding;
use crate::api::StatusView;
use crate::config::{Host, Listen};
use crate::quantity::show_size;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

/// Below this much free space jobs will soon find no room for their logs.
const FREE_BYTES_LOW: u64 = 512 * 1024 * 1024;
/// Below this the database may not take another job.
const FREE_BYTES_NONE: u64 = 16 * 1024 * 1024;
/// cgroup v2's file system, `statfs` magic (linux/magic.h).
const CGROUP2_SUPER_MAGIC: u64 = 0x6367_7270;
/// tmpfs and ramfs (linux/magic.h).
const MEMORY_FILE_SYSTEMS: [u64; 2] = [0x0102_1994, 0x8584_58f6];
/// The oldest kernel with everything the spawner uses: `pidfd_open`, `close_range`, `cgroup.kill`.
const KERNEL_LEAST: (u32, u32) = (5, 14);
/// A clock before this is a machine without one: the day this was written.
const CLOCK_LEAST_MS: i64 = 1_767_225_600_000;

/// The spawner must stand beside this program and be of its version.
pub fn programs() -> Vec<Finding> {
    let own = match std::env::current_exe() {
        Ok(path) => path,
        Err(error) => return vec![Finding::warn("programs", format!("own path: {error}"), "mount /proc")],
    };
    let spawner = own.with_file_name("ci-runner-spawner");
    let mend = "install both programs from one build: `cargo install --path src/runner`";
    let version = std::process::Command::new(&spawner).arg("--version").stdin(std::process::Stdio::null()).output();
    let expected = env!("CARGO_PKG_VERSION");
    vec![match version {
        Err(error) => Finding::fail("programs", format!("{}: {error}", spawner.display()), mend),
        Ok(output) => {
            let told = String::from_utf8_lossy(&output.stdout);
            match told.split_whitespace().any(|word| word == expected) {
                true => Finding::ok("programs", format!("{} is version {expected} too", spawner.display())),
                false => {
                    let text = format!("{} says {:?}, this is {expected}", spawner.display(), told.trim());
                    Finding::fail("programs", text, mend)
                }
            }
        }
    }]
}

/// What sandboxes of units need of the kernel. Without it their jobs are refused, or run without where root's policy says so.
pub fn sandbox() -> Finding {
    let filters = Path::new("/proc/sys/kernel/seccomp/actions_avail").exists();
    let namespaces = std::fs::read_to_string("/proc/sys/user/max_user_namespaces");
    let namespaces = namespaces.is_ok_and(|text| text.trim().parse::<u64>().is_ok_and(|most| most > 0));
    let missing: Vec<&str> =
        [(filters, "filters of system calls (seccomp)"), (namespaces, "user namespaces (user.max_user_namespaces)")]
            .iter()
            .filter_map(|(there, what)| (!there).then_some(*what))
            .collect();
    if missing.is_empty() {
        return Finding::ok("sandbox", "the kernel has what the profiles build and strict need");
    }
    Finding::warn(
        "sandbox",
        format!("the kernel has no {}: jobs under build and strict fail to start", missing.join(" and no ")),
        "use a kernel that has them, or say \"degrade\": true for a pool in the spawner's policy, which runs its jobs without",
    )
}

/// A directory that the daemon writes to: there, private, with room.
pub fn directory(check: &'static str, path: &Path, daemon_runs: bool) -> Vec<Finding> {
    let shown = path.display();
    let Ok(metadata) = std::fs::metadata(path) else {
        let existing = path.ancestors().find(|above| above.exists()).unwrap_or(Path::new("/"));
        return vec![match rustix::fs::access(existing, rustix::fs::Access::WRITE_OK) {
            Ok(()) if !daemon_runs => Finding::ok(check, format!("{shown} will be made at the first start")),
            Ok(()) => {
                Finding::ok(check, format!("{shown} is not there: the daemon has another, which is not looked at"))
            }
            Err(_) => Finding::fail(
                check,
                format!("{shown} is not there and cannot be made: {} is not yours to write", existing.display()),
                "name another one (--state-dir, --runtime-dir), or let the service manager make it",
            ),
        }];
    };
    use std::os::unix::fs::MetadataExt as _;
    let mut findings = Vec::new();
    let uid = rustix::process::geteuid().as_raw();
    if metadata.uid() != uid {
        findings.push(Finding::ok(check, format!("{shown} belongs to user {}, not looked into", metadata.uid())));
    } else if rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_err() {
        findings.push(Finding::fail(check, format!("{shown} is not writable"), format!("chmod u+rwx {shown}")));
    } else if metadata.mode() & 0o022 != 0 {
        let text = format!("{shown} can be written by others (mode {:o})", metadata.mode() & 0o7777);
        findings.push(Finding::fail(check, text, format!("chmod go-w {shown}")));
    } else {
        let mode = metadata.mode() & 0o7777;
        let text = match mode & 0o077 {
            0 => format!("{shown} is writable and private"),
            _ => format!("{shown} is writable by its user alone; others may look into it (mode {mode:o})"),
        };
        findings.push(Finding::ok(check, text));
    }
    findings.extend(free_space(check, path));
    findings
}

fn free_space(check: &'static str, path: &Path) -> Option<Finding> {
    let room = rustix::fs::statvfs(path).ok()?;
    let free = room.f_bavail.saturating_mul(room.f_frsize);
    let text = format!("{} free at {}", show_size(free), path.display());
    let mend = "make room; `ci-runner gc` removes old logs, [gc] in the configuration keeps less";
    Some(match free {
        ..FREE_BYTES_NONE => Finding::fail(check, text, mend),
        FREE_BYTES_NONE..FREE_BYTES_LOW => Finding::warn(check, text, mend),
        _ => Finding::ok(check, text),
    })
}

/// Attempt directories belong in memory: four metadata operations a job.
pub fn runtime_file_system(path: &Path) -> Finding {
    let existing = path.ancestors().find(|above| above.exists()).unwrap_or(Path::new("/"));
    let in_memory = rustix::fs::statfs(existing)
        .is_ok_and(|about| MEMORY_FILE_SYSTEMS.iter().any(|magic| u64::try_from(about.f_type) == Ok(*magic)));
    match in_memory {
        true => Finding::ok("runtime", "is in memory (tmpfs)"),
        false => Finding::warn(
            "runtime",
            "is on a disk: jobs start several times slower",
            "`loginctl enable-linger` gives you a directory in memory that outlives a logout; or --runtime-dir on a tmpfs",
        ),
    }
}

/// Whether services of this user outlive a logout.
pub fn lingering(host: &Host) -> Option<Finding> {
    if rustix::process::geteuid().is_root() || host.environment.contains_key("RUNTIME_DIRECTORY") {
        return None;
    }
    Some(match host.lingers {
        true => Finding::ok("lingering", "your services outlive a logout"),
        false => Finding::warn(
            "lingering",
            "your processes may be ended at logout, a daemon started by hand among them",
            "loginctl enable-linger",
        ),
    })
}

/// A port of the daemon: free, or taken by the daemon itself.
pub fn port(check: &'static str, listen: Listen, daemon_runs: bool) -> Finding {
    let Listen::At(address) = listen else {
        return Finding::ok(check, "is off");
    };
    match TcpListener::bind(address) {
        Ok(_) if daemon_runs => Finding::warn(
            check,
            format!("nobody serves {address}"),
            "the daemon has another configuration (give the same --config), or could not take the port: see its log",
        ),
        Ok(_) => Finding::ok(check, format!("{address} is free")),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse && daemon_runs => {
            Finding::ok(check, format!("{address} is served"))
        }
        Err(error) => {
            let mend = format!("stop what uses it (`ss -ltnp`), or choose another one: --{check} ADDR:PORT");
            Finding::fail(check, format!("{address}: {error}"), mend)
        }
    }
}

/// The kernel's version.
pub fn kernel() -> Finding {
    kernel_of(&rustix::system::uname().release().to_string_lossy())
}

fn kernel_of(release: &str) -> Finding {
    let mut numbers = release.split(['.', '-', '+']).map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let (major, minor) = KERNEL_LEAST;
    match version >= KERNEL_LEAST {
        true => Finding::ok("kernel", format!("Linux {release}")),
        false => Finding::warn(
            "kernel",
            format!("Linux {release} is older than {major}.{minor}: jobs are killed without cgroup.kill"),
            "update the kernel",
        ),
    }
}

/// Whether jobs can have cgroups of their own.
pub fn cgroup() -> Finding {
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    cgroup_of(&own, &["/sys/fs/cgroup", "/sys/fs/cgroup/unified"])
}

fn cgroup_of(own: &str, mounts: &[&str]) -> Finding {
    let mend = "run the daemon as a service (Delegate=yes), or with `systemd-run --user --scope -p Delegate=yes`";
    let mount = mounts.iter().find(|mount| {
        rustix::fs::statfs(**mount).is_ok_and(|about| u64::try_from(about.f_type) == Ok(CGROUP2_SUPER_MAGIC))
    });
    let line = own.lines().find_map(|line| line.strip_prefix("0::"));
    let (Some(mount), Some(line)) = (mount, line) else {
        return no_cgroup("there is no cgroup v2", mend);
    };
    let path = PathBuf::from(mount).join(line.trim_start_matches('/'));
    match rustix::fs::access(&path, rustix::fs::Access::WRITE_OK) {
        Ok(()) => Finding::ok("cgroup", format!("{} is writable: every job has its own", path.display())),
        Err(_) => no_cgroup(&format!("{} is not writable", path.display()), mend),
    }
}

fn no_cgroup(why: &str, mend: &str) -> Finding {
    let text = format!("{why}: a job that kills its own shim can leave a double fork behind, and limits are refused");
    Finding::warn("cgroup", text, mend)
}

/// Whether the clock can be true, and agrees with the daemon's.
pub fn clock(status: Option<&StatusView>) -> Finding {
    clock_at(jiff::Timestamp::now().as_millisecond(), status)
}

fn clock_at(now_ms: i64, status: Option<&StatusView>) -> Finding {
    let mend =
        "set the clock (`timedatectl set-ntp true`); queue and deadlines do not depend on it, --at and schedules do";
    if now_ms < CLOCK_LEAST_MS {
        return Finding::fail("clock", "it is before this program was made", mend);
    }
    let since = status.and_then(|status| crate::cli::list::unix_ms(&status.paused.as_ref()?.since));
    match since.is_some_and(|since| since > now_ms + 60_000) {
        true => Finding::warn("clock", "it was set back: the pause began in the future", mend),
        false => Finding::ok("clock", crate::quantity::rfc3339_utc(now_ms)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Grade;
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn old_kernels_are_told() {
        for (release, grade) in [
            ("6.12.5-amd64", Grade::Ok),
            ("5.14.0", Grade::Ok),
            ("5.10.0-28-amd64", Grade::Warn),
            ("4.19", Grade::Warn),
            ("", Grade::Warn),
        ] {
            assert_eq!(kernel_of(release).grade, grade, "{release}");
        }
    }

    #[test]
    fn directories_are_judged() {
        let dir = tempfile::tempdir().unwrap();
        let grade = |path: &Path| directory("state", path, false)[0].grade;
        // What others may enter was called private.
        for (mode, words) in
            [(0o700, "is writable and private"), (0o755, "by its user alone; others may look into it (mode 755)")]
        {
            std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(mode)).unwrap();
            let finding = &directory("state", dir.path(), false)[0];
            assert!(finding.grade == Grade::Ok && finding.text.ends_with(words), "{finding:?}");
        }
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(grade(dir.path()), Grade::Ok);
        assert_eq!(grade(&dir.path().join("new/er")), Grade::Ok);
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        let finding = &directory("state", dir.path(), false)[0];
        assert_eq!(finding.grade, Grade::Fail);
        assert!(finding.mend.as_deref().unwrap_or_default().starts_with("chmod go-w"), "{finding:?}");
    }

    #[test]
    fn ports_are_judged_by_who_should_have_them() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = Listen::At(taken.local_addr().unwrap());
        assert_eq!(port("http", at, false).grade, Grade::Fail);
        assert_eq!(port("http", at, true).grade, Grade::Ok);
        drop(taken);
        assert_eq!(port("http", at, false).grade, Grade::Ok);
        assert_eq!(port("http", at, true).grade, Grade::Warn);
        assert_eq!(port("http", Listen::Off, true).grade, Grade::Ok);
    }

    #[test]
    fn without_a_cgroup_the_cost_is_told() {
        let finding = cgroup_of("12:cpu:/\n", &["/sys/fs/cgroup"]);
        assert_eq!(finding.grade, Grade::Warn);
        assert!(finding.text.contains("double fork"), "{finding:?}");
    }

    #[test]
    fn a_clock_from_before_is_no_clock() {
        assert_eq!(clock_at(0, None).grade, Grade::Fail);
        assert_eq!(clock_at(CLOCK_LEAST_MS + 1, None).grade, Grade::Ok);
    }
}
