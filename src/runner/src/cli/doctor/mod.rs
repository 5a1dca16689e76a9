//! `doctor`: what is wrong on this host, and the mend. Looks only; with `--repair` it does first what can be done.
//!
//! Each check is a function of what it looks at to [`Finding`]s, so that tests can show it a broken host.

mod checks;
mod repair;
mod surroundings;

use super::client::{Client, ClientError};
use super::context::{Context, print};
use super::daemon::DaemonArgs;
use super::fail::{EXIT_DONE, EXIT_ERROR, Ended};
use super::look::Look;
use super::show::wrapped;
use crate::api::StatusView;
use crate::config::{Config, Source};
use crate::style::{state_style, visible};
use clap::Args;
use serde::Serialize;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

/// Why a problem matters that the daemon names itself.
const DEGRADED_MATTERS: &str = "the daemon runs, but not as well as it should";
/// What to do about it.
const DEGRADED_MEND: &str =
    "mend what it names: the daemon runs and goes on by itself; `journalctl -u ci-runner` says more";

/// What the daemon is asked takes no longer, all together: one that hangs is a finding, and the others are wanted too.
const PATIENCE: Duration = Duration::from_secs(5);

/// Arguments of `doctor`: those of `daemon`, so that the same host is looked at.
#[derive(Args, Debug)]
pub struct DoctorArgs {
    #[command(flatten)]
    daemon: DaemonArgs,
    /// Do what can be done: missing directories and files, modes, dead sockets, units that are off. Each repair is named
    #[arg(long)]
    repair: bool,
}

/// How well something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Grade {
    /// As it should be.
    Ok,
    /// It works, but something is worse than it could be.
    Warn,
    /// It does not work.
    Fail,
    /// It was wrong, and is as it should be now.
    Repaired,
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How well.
    pub grade: Grade,
    /// What was looked at.
    pub check: &'static str,
    /// What is so.
    pub text: String,
    /// Why it matters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub matters: Option<&'static str>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mend: Option<String>,
}

impl Finding {
    pub(super) fn ok(check: &'static str, text: impl Into<String>) -> Finding {
        Finding { grade: Grade::Ok, check, text: text.into(), matters: None, mend: None }
    }

    pub(super) fn warn(check: &'static str, text: impl Into<String>, mend: impl Into<String>) -> Finding {
        Finding {
            grade: Grade::Warn,
            matters: surroundings::matters(check),
            check,
            text: text.into(),
            mend: Some(mend.into()),
        }
    }

    pub(super) fn fail(check: &'static str, text: impl Into<String>, mend: impl Into<String>) -> Finding {
        Finding {
            grade: Grade::Fail,
            matters: surroundings::matters(check),
            check,
            text: text.into(),
            mend: Some(mend.into()),
        }
    }
}

/// Looks at everything; exit 1 when something does not work.
pub fn doctor(context: &Context<'_>, args: DoctorArgs) -> Ended {
    let config = args.daemon.config(context.socket());
    let mut findings = if args.repair { repair::repair(config.as_ref().ok()) } else { Vec::new() };
    let (status, socket) = ask(&context.client);
    let runs = status.as_ref().ok().map(|status| Dirs::of(status, socket.as_deref()));
    findings.extend(daemon(&context.client, &status));
    findings.extend(status.iter().flat_map(surroundings::components));
    findings.extend(socket.as_deref().and_then(surroundings::permissions));
    findings.push(surroundings::limits(status.as_ref().ok().map(|status| status.pid)));
    findings.push(surroundings::systemd(config.as_ref().ok()));
    findings.extend(checks::programs());
    match config {
        Ok(config) => findings.extend(host(&config, runs.as_ref())),
        Err(failure) => findings.push(Finding::fail(
            "configuration",
            failure.to_string(),
            "mend the lines; `ci-runner config check FILE` looks again",
        )),
    }
    findings.extend([checks::kernel(), checks::cgroup(), checks::sandbox(), checks::clock(status.as_ref().ok())]);
    let good = findings.iter().all(|finding| finding.grade != Grade::Fail);
    if context.is_json() {
        context.print_json(&findings)?;
    } else {
        print(&lines(&findings, &context.look()))?;
    }
    Ok(if good { EXIT_DONE } else { EXIT_ERROR.into() })
}

/// Status and socket of the daemon, within [`PATIENCE`].
fn ask(client: &Client) -> (Result<StatusView, ClientError>, Option<PathBuf>) {
    let (sender, answer) = mpsc::channel();
    let asked = client.clone().patience(PATIENCE);
    // Left behind where the time is up: the program ends soon, and with it the thread.
    let thread = std::thread::Builder::new().name("ask".to_owned()).spawn(move || {
        let status = asked.get::<StatusView>("/api/v1/status");
        let socket = status.is_ok().then(|| asked.connect().ok()).flatten();
        // Nobody listens any more where the time is up.
        let _ = sender.send((status, socket.map(|connection| connection.path().to_owned())));
    });
    let broken =
        |error: std::io::Error| ClientError::Broken { path: PathBuf::new(), when: "within 5 s", source: error };
    match thread {
        Ok(_) => answer.recv_timeout(PATIENCE).unwrap_or_else(|_| (Err(broken(ErrorKind::TimedOut.into())), None)),
        Err(error) => (Err(broken(error)), None),
    }
}

/// The directories of a daemon that runs, as it says. One of an earlier version does not: then where its socket is, and the state
/// is looked for where our own arguments say.
struct Dirs {
    state: Option<PathBuf>,
    runtime: Option<PathBuf>,
}

impl Dirs {
    fn of(status: &StatusView, socket: Option<&Path>) -> Self {
        let beside = || Some(socket?.parent()?.to_owned());
        Self {
            state: status.state_dir.as_ref().map(PathBuf::from),
            runtime: status.runtime_dir.as_ref().map(PathBuf::from).or_else(beside),
        }
    }
}

/// `runs`: the directories of the daemon that runs. They are what is looked at, unless others are named.
fn host(config: &Config, runs: Option<&Dirs>) -> Vec<Finding> {
    let daemon_runs = runs.is_some();
    let mut findings = Vec::new();
    let mut directory = |check, key: &str, own: &Path, of_daemon: Option<&PathBuf>| {
        let named = matches!(config.source(key), Source::Option | Source::File(_));
        match of_daemon {
            Some(dir) if named && !is_same(dir, own) => {
                let text =
                    format!("looked at is {}, as named; the daemon that answers has {}", own.display(), dir.display());
                findings.push(Finding::ok(check, text));
                findings.extend(checks::directory(check, own, false));
                own.to_owned()
            }
            theirs => {
                let dir = theirs.map_or(own, PathBuf::as_path);
                findings.extend(checks::directory(check, dir, daemon_runs));
                dir.to_owned()
            }
        }
    };
    directory("state", "state_dir", &config.state_dir, runs.and_then(|dirs| dirs.state.as_ref()));
    let runtime_dir =
        directory("runtime", "runtime_dir", &config.runtime_dir, runs.and_then(|dirs| dirs.runtime.as_ref()));
    findings.push(checks::runtime_file_system(&runtime_dir));
    findings.extend(checks::lingering(&crate::config::Host::of_process()));
    findings.push(checks::port("http", config.http, daemon_runs));
    findings.push(checks::port("metrics", config.metrics, daemon_runs));
    findings.extend(surroundings::notifiers(config));
    findings
}

/// Whether both paths lead to one directory.
fn is_same(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    real(one) == real(other)
}

/// Whether it answers, is the same version, and what it says of itself.
fn daemon(client: &Client, status: &Result<StatusView, ClientError>) -> Vec<Finding> {
    let own = env!("CARGO_PKG_VERSION");
    let status = match status {
        Ok(status) => status,
        Err(error) => return vec![silent(client, error)],
    };
    let mut findings = vec![match status.version == own {
        true => Finding::ok("daemon", format!("answers; version {own}, process {}", status.pid)),
        false => Finding::warn(
            "daemon",
            format!("is version {}, this program is {own}", status.version),
            "restart the daemon: running jobs go on",
        ),
    }];
    for problem in &status.problems {
        findings.push(Finding::fail("daemon", problem.clone(), DEGRADED_MEND));
    }
    if let Some(pause) = &status.paused {
        let what = if pause.drain { "drains" } else { "is paused" };
        let text = format!("{what} since {}, by {}: {}", pause.since, pause.by, pause.reason);
        findings.push(Finding::warn("daemon", text, "`ci-runner resume`"));
    }
    let wrong = findings.iter_mut().filter(|finding| finding.grade != Grade::Ok);
    wrong.for_each(|finding| finding.matters = Some(DEGRADED_MATTERS));
    findings
}

/// A daemon that gave no status, with the advice that fits: one that does not run is started, one that runs is not.
fn silent(client: &Client, error: &ClientError) -> Finding {
    let alive = |text: String, mend: &str| Finding { matters: None, ..Finding::fail("daemon", text, mend) };
    match error {
        ClientError::Unreachable { tried }
            if tried.iter().any(|(_, why)| why.kind() == ErrorKind::PermissionDenied) =>
        {
            let mend =
                "become a member of the group that the socket belongs to (`ls -l` it; then log in anew), or use sudo";
            let paths: Vec<String> = tried.iter().map(|(path, _)| path.display().to_string()).collect();
            alive(format!("may run, but its socket is not yours to use: {}", paths.join(", ")), mend)
        }
        ClientError::Unreachable { .. } => {
            let tried: Vec<String> = client.candidates().iter().map(|path| path.display().to_string()).collect();
            let text = format!("no daemon answers on {}", tried.join(", "));
            Finding::fail("daemon", text, "`systemctl start ci-runner`, or by hand `ci-runner daemon`")
        }
        ClientError::Broken { .. } => alive(
            format!("somebody listens, but gives no answer: {error}"),
            "see `journalctl -u ci-runner`; if the daemon hangs, restart it: running jobs go on",
        ),
        ClientError::Garbled { .. } => alive(
            error.to_string(),
            "another program listens there, or a daemon of another version: see `ss -lxp`, or name its socket (--socket)",
        ),
        ClientError::Refused { .. } => alive(
            format!("runs, but gives no status: {error}"),
            "see `journalctl -u ci-runner`; starting it is no mend",
        ),
    }
}

/// One line a finding, and the mend below it.
pub fn lines(findings: &[Finding], look: &Look) -> String {
    let mut text = String::new();
    for finding in findings {
        let (word, style) = match finding.grade {
            Grade::Ok => ("ok", state_style("succeeded")),
            Grade::Warn => ("warn", state_style("paused")),
            Grade::Fail => ("fail", state_style("failed")),
            Grade::Repaired => ("done", state_style("succeeded")),
        };
        let word = look.paint(style, &format!("{word:<5}"));
        // A path stays whole: it is there to be copied. In a pipe each is one line.
        let fit = |sign: &str, words: &str| {
            let begin = 20 + sign.chars().count();
            let room = look.columns().map_or(usize::MAX, |columns| columns.saturating_sub(begin).max(20));
            format!("{sign}{}\n", wrapped(words, room).join(&format!("\n{:begin$}", "")))
        };
        text.push_str(&format!("{word} {:<13} {}", finding.check, fit("", &visible(&finding.text))));
        if let Some(matters) = finding.matters {
            text.push_str(&format!("{:20}{}", "", fit("  ", matters)));
        }
        if let Some(mend) = &finding.mend {
            text.push_str(&format!("{:20}{}", "", fit("→ ", &visible(mend))));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ConfigOverrides;

    /// A daemon that answered used to have its own directories looked at whatever was named.
    #[test]
    fn directories_that_are_named_win_over_those_of_the_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["theirs", "run", "ours"] {
            std::fs::create_dir(at(name)).unwrap();
        }
        let runs = Dirs { state: Some(at("theirs")), runtime: Some(at("run")) };
        let looked_at = |named: Option<PathBuf>| {
            let off = Some("off".to_owned());
            let overrides = ConfigOverrides { state_dir: named, http: off.clone(), metrics: off, ..Default::default() };
            let findings = host(&Config::load(None, &overrides).unwrap(), Some(&runs));
            findings.into_iter().filter(|finding| ["state", "runtime"].contains(&finding.check)).collect::<Vec<_>>()
        };
        let told = |findings: &[Finding], path: PathBuf| {
            findings.iter().filter(|finding| finding.text.starts_with(&path.display().to_string())).count()
        };
        let findings = looked_at(None);
        assert_eq!((told(&findings, at("theirs")), told(&findings, at("run"))), (1, 1), "the control: {findings:#?}");
        let findings = looked_at(Some(at("ours")));
        assert_eq!((told(&findings, at("ours")), told(&findings, at("theirs"))), (1, 0), "{findings:#?}");
        let other = format!("as named; the daemon that answers has {}", at("theirs").display());
        assert!(findings[0].text.ends_with(&other) && findings[0].grade == Grade::Ok, "{findings:#?}");
        // The daemon's own by another name: nothing more is said.
        let findings = looked_at(Some(at("ours/../theirs")));
        assert!(findings.iter().all(|finding| !finding.text.contains("as named")), "{findings:#?}");
    }
}
