//! Checks of `doctor` around the daemon: limits of the process, systemd, who may use the socket, notifiers, and the parts
//! that the daemon itself calls less than well.

use super::Finding;
use crate::api::{AlarmView, StatusView};
use crate::config::Config;
use crate::notify;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Each follower, attempt and connection takes descriptors; below this a busy daemon runs out of them.
const OPEN_FILES_LEAST: u64 = 4_096;
/// The oldest systemd with `DelegateSubgroup=`, without which native jobs have no limits.
const SYSTEMD_LEAST: u32 = 254;

/// Why a check matters: what does not work, or is worse, where it is not fulfilled.
pub fn matters(check: &str) -> Option<&'static str> {
    Some(match check {
        "daemon" => "without a daemon nothing is queued and nothing starts",
        "configuration" => "a daemon refuses to start with it, and a reload keeps the old one",
        "programs" => "the daemon starts jobs through the spawner, and both must speak one language",
        "state" | "disk" => "what was queued is kept there: without room or rights nothing more is taken in",
        "runtime" => "sockets and running attempts are there; what empties it cuts the daemon off from them",
        "lingering" => "queued jobs wait until you log in again",
        "http" | "metrics" => "load balancers, Prometheus and alerts look there",
        "kernel" | "cgroup" => "what a job starts is killed whole, and limits hold, only with them",
        "sandbox" => "jobs under the profiles that need it fail to start",
        "clock" => "dates of jobs, schedules, certificates and signatures depend on it",
        "limits" => "a daemon without descriptors refuses connections, one without processes starts no job",
        "systemd" => "limits of native jobs and the executor `systemd` need it",
        "permissions" => "who may not open the socket can neither queue nor look",
        "notifier" | "notifiers" => "nobody is told of alarms and ends of jobs",
        "watches" => "stuck and slow jobs, failures and long waits are not noticed",
        "store" => "nothing is taken in while the store takes no commits",
        "spawners" | "executors" => "queued jobs of its pools wait",
        _ => return None,
    })
}

/// The parts that the daemon calls less than well.
pub fn components(status: &StatusView) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, part) in &status.components {
        let text = part.detail.clone().unwrap_or_default();
        if status.problems.iter().any(|problem| text.contains(problem.as_str())) {
            continue;
        }
        let (check, mend) = match name.as_str() {
            "store" => ("store", "see `journalctl -u ci-runner`; where it is damaged, `ci-runner restore` a backup"),
            "spawners" => (
                "spawners",
                "`systemctl status ci-runner-spawner ci-runner-jobs`; by hand the daemon starts its own again",
            ),
            "executors" => ("executors", "wait for the jobs that run, or restart the spawner"),
            "disk" => ("disk", "make room; `ci-runner gc` removes old logs, [gc] in the configuration keeps less"),
            "metrics" => {
                ("metrics", "stop what uses the port (`ss -ltnp`), or choose another one: --metrics ADDR:PORT")
            }
            "clock" => ("clock", "set the clock: `timedatectl set-ntp true`"),
            "watches" => ("watches", "see `journalctl -u ci-runner`, and whether the disk of the state hangs"),
            "notifiers" => ("notifiers", "`ci-runner notify list` says more, `ci-runner notify test NAME` tries one"),
            _ => ("daemon", "see `journalctl -u ci-runner`"),
        };
        findings.push(match part.status.as_str() {
            "failing" => Finding::fail(check, text, mend),
            _ => Finding::warn(check, text, mend),
        });
    }
    findings.extend(status.watches.iter().map(alarm));
    findings
}

/// What a watch has noticed. The watch itself is well: what matters is what it noticed.
fn alarm(alarm: &AlarmView) -> Finding {
    let (matters, mend) = match alarm.watch.as_str() {
        "stuck_job" => {
            ("it holds its slot, and what waits for it waits on", "`ci-runner logs ID`, then `ci-runner cancel ID`")
        }
        "slow_job" => (
            "it holds its slot for longer than such jobs do",
            "`ci-runner logs ID`; `ci-runner show ID` tells what it uses",
        ),
        "failure_rate" => {
            ("most of what runs may come to nothing", "`ci-runner list --outcome failed`, then `ci-runner logs ID`")
        }
        "queue_age" => ("what is queued starts late", "`ci-runner why ID` says what it waits for"),
        "flapping" => (
            "whether such a job succeeds says little",
            "`ci-runner stats` tells of which name, `ci-runner logs ID` why",
        ),
        _ => ("it is beyond a limit of [watch]", "`ci-runner watches`"),
    };
    Finding { matters: Some(matters), ..Finding::warn("watches", alarm.text.clone(), mend) }
}

/// Each notifier, as far as can be seen without telling anybody.
pub fn notifiers(config: &Config) -> Vec<Finding> {
    let look = |(name, notifier): (&String, &crate::config::NotifierConfig)| match notify::check(notifier) {
        Ok(()) => Finding::ok("notifier", format!("{name} ({}) can be used", notifier.kind.word())),
        Err(why) => Finding::fail(
            "notifier",
            format!("{name} ({}): {why}", notifier.kind.word()),
            format!("mend [notifiers.{name}], then `ci-runner notify test {name}`"),
        ),
    };
    config.notifiers.iter().map(look).collect()
}

/// Limits of the daemon's process where one runs and may be looked at, else of this one.
pub fn limits(pid: Option<u32>) -> Finding {
    let of_daemon = pid.and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/limits")).ok());
    let text = of_daemon.or_else(|| std::fs::read_to_string("/proc/self/limits").ok()).unwrap_or_default();
    limits_of(&text)
}

fn limits_of(text: &str) -> Finding {
    let hard = |name: &str| {
        let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
        let word = rest.split_whitespace().nth(1)?;
        if word == "unlimited" { Some(u64::MAX) } else { word.parse().ok() }
    };
    match hard("Max open files") {
        None => Finding::warn("limits", "the limits of the process cannot be read", "mount /proc"),
        Some(files) if files < OPEN_FILES_LEAST => Finding::warn(
            "limits",
            format!("{files} open files at most, fewer than {OPEN_FILES_LEAST}"),
            "LimitNOFILE=524288 in the unit, or `ulimit -Hn` where it is started by hand",
        ),
        Some(files) => Finding::ok("limits", format!("{files} open files")),
    }
}

/// Whether systemd runs this host, and is new enough.
pub fn systemd(config: Option<&Config>) -> Finding {
    let needed = config.is_some_and(|config| config.uses(crate::config::Executor::Systemd));
    if !Path::new("/run/systemd/system").is_dir() {
        let text = "systemd does not run this host";
        return match needed {
            true => Finding::fail("systemd", text, "use executor = \"native\", or a host that systemd runs"),
            false => Finding::ok("systemd", format!("{text}; native jobs do not need it")),
        };
    }
    let output = std::process::Command::new("systemctl").arg("--version").stdin(std::process::Stdio::null()).output();
    systemd_of(&output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default())
}

fn systemd_of(text: &str) -> Finding {
    let version = text.split_whitespace().nth(1).and_then(|word| word.parse::<u32>().ok());
    match version {
        None => Finding::warn("systemd", "its version cannot be told", "install systemctl where it is found"),
        Some(version) if version < SYSTEMD_LEAST => Finding::warn(
            "systemd",
            format!("version {version} has no DelegateSubgroup=: native jobs have no limits"),
            format!("update to {SYSTEMD_LEAST} or newer, or use executor = \"systemd\""),
        ),
        Some(version) => Finding::ok("systemd", format!("version {version}")),
    }
}

/// Who may open the socket.
pub fn permissions(socket: &Path) -> Option<Finding> {
    let metadata = std::fs::metadata(socket).ok()?;
    Some(permissions_of(socket, metadata.mode(), metadata.uid(), metadata.gid()))
}

/// The file's mode lets connect, and the daemon looks at who did: root, its own user, and the group where that may write.
fn permissions_of(socket: &Path, mode: u32, uid: u32, gid: u32) -> Finding {
    let shown = socket.display();
    let group = if mode & 0o020 != 0 { format!(" and group {gid}") } else { String::new() };
    match mode & 0o007 {
        0 => Finding::ok("permissions", format!("{shown} is open to user {uid}{group}")),
        _ => Finding::warn(
            "permissions",
            format!(
                "{shown} lets everybody connect (mode {:o}): the daemon answers root, user {uid}{group} alone, and refuses \
                 whoever else connects",
                mode & 0o777
            ),
            format!("chmod o= {shown}"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Grade;
    use super::*;
    use crate::api::{ComponentView, JobCounts, SlotCounts};

    #[test]
    fn limits_and_versions_are_judged() {
        let limits = |files: &str| {
            limits_of(&format!("Limit  Soft  Hard\nMax open files            1024   {files}   files\n")).grade
        };
        assert_eq!([limits("1024"), limits("524288"), limits("unlimited")], [Grade::Warn, Grade::Ok, Grade::Ok]);
        assert_eq!(limits_of("").grade, Grade::Warn);
        let systemd = |text: &str| systemd_of(text).grade;
        assert_eq!(
            [systemd("systemd 257 (257.9)"), systemd("systemd 252"), systemd("")],
            [Grade::Ok, Grade::Warn, Grade::Warn]
        );
    }

    /// An open one was called open to all, who could run jobs; the daemon asks who connected.
    #[test]
    fn who_the_socket_serves_is_told() {
        for (mode, grade, parts) in [
            (0o660, Grade::Ok, ["/s is open to user 7 and group 8", ""]),
            (0o600, Grade::Ok, ["/s is open to user 7", ""]),
            (0o666, Grade::Warn, ["lets everybody connect (mode 666)", "answers root, user 7 and group 8 alone"]),
            (0o606, Grade::Warn, ["lets everybody connect (mode 606)", "answers root, user 7 alone"]),
        ] {
            let finding = permissions_of(Path::new("/s"), mode, 7, 8);
            assert!(finding.grade == grade && parts.iter().all(|part| finding.text.contains(part)), "{finding:?}");
            assert_eq!(finding.text.contains("group"), mode & 0o020 != 0, "{finding:?}");
        }
    }

    #[test]
    fn parts_and_alarms_are_told_once_with_a_mend_and_a_reason() {
        let status = StatusView {
            version: String::new(),
            state: "degraded".to_owned(),
            problems: vec!["metrics are not served: taken".to_owned()],
            jobs: JobCounts::default(),
            slots: SlotCounts { used: 0, total: 1 },
            oldest_queued_seconds: None,
            paused: None,
            busy: Vec::new(),
            watches: vec![AlarmView { text: "job 7 runs for 1h".to_owned(), ..AlarmView::default() }],
            components: [
                ("metrics", ComponentView::degraded("not_served", "metrics are not served: taken")),
                ("disk", ComponentView::failing("full", "1 MiB are free")),
                ("notifiers", ComponentView::degraded("undelivered", "ops: refused")),
            ]
            .map(|(name, part)| (name.to_owned(), part))
            .into(),
            uptime_seconds: 0.0,
            pid: 1,
            generation: 1,
            state_dir: None,
            runtime_dir: None,
        };
        let found = components(&status);
        let told: Vec<_> = found.iter().map(|finding| (finding.check, finding.grade)).collect();
        assert_eq!(told, [("disk", Grade::Fail), ("notifiers", Grade::Warn), ("watches", Grade::Warn)]);
        assert!(found.iter().all(|finding| finding.mend.is_some() && matters(finding.check).is_some()));
    }

    /// An alarm used to be said to matter because it "is not noticed", which it just was.
    #[test]
    fn an_alarm_matters_for_what_was_noticed() {
        let mut told: Vec<_> = ["stuck_job", "slow_job", "failure_rate", "queue_age", "flapping", "of_a_later_version"]
            .into_iter()
            .map(|watch| alarm(&AlarmView { watch: watch.to_owned(), ..AlarmView::default() }))
            .inspect(|finding| assert_eq!((finding.check, finding.grade), ("watches", Grade::Warn)))
            .map(|finding| finding.matters.unwrap())
            .collect();
        assert!(told.iter().all(|matters| !matters.contains("noticed")), "{told:#?}");
        told.dedup();
        assert_eq!(told.len(), 6, "each for a reason of its own");
        assert!(matters("watches").unwrap().contains("are not noticed"), "the watch itself, where it does not look");
    }
}
