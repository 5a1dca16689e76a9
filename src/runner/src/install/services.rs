//! What the service manager is asked to do after files were written: the rules of a switch on NixOS, read from the units.
//!
//! A unit that says `X-StopOnRemoval=false` holds jobs. It is never restarted here: for a new program or policy it is asked to
//! execute itself anew, other changes wait until somebody restarts it. A changed socket waits too, as it does on NixOS. The
//! daemon is restarted for a new program or unit, in one step, and reloaded for new settings.

use super::manifest::Manifest;
use super::plan::{Action, Plan};
use super::{InstallError, Place, template, write};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Root's word to the spawners: each holds jobs and reads its own anew when it is asked to.
const POLICIES: [&str; 2] = ["policy.json", "jobs.json"];

/// What will be asked, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Unit files changed: PID 1 reads them anew.
    pub reload_manager: bool,
    /// New units with an `[Install]` section.
    pub enable: Vec<String>,
    /// `(verb, unit)`, sockets first.
    pub units: Vec<(&'static str, String)>,
    /// What waits for a person, in words.
    pub notes: Vec<String>,
}

/// How a unit is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Now {
    /// It runs, or listens.
    Active,
    /// It does not, and would after a boot.
    Enabled,
    /// A person disabled or masked it, or it is not there.
    Off,
}

/// Decides it from what the plan changes, and what earlier tries changed ([`super::unfinished`]). `now` tells the state of a unit.
pub fn ask(place: &Place, plan: &Plan, now: impl Fn(&str) -> Now) -> Asked {
    let changed = |path: &Path| plan.get(path).copied().filter(|action| !matches!(action, Action::Same | Action::Keep));
    let program = |name: &str| changed(&place.prefix.join("bin").join(name)).is_some();
    let setting = |name: &str| changed(&Path::new("/etc/ci-runner").join(name)).is_some();
    let mut asked = Asked::default();
    let mut units = template::units(&place.prefix, place.jobs);
    // Sockets, what holds jobs, and then the daemon, which wants both.
    units.sort_by_key(|(name, text)| (!name.ends_with(".socket"), !holds_jobs(text), name.clone()));
    for (name, text) in units {
        let action = changed(&Path::new("/etc/systemd/system").join(&name));
        asked.reload_manager |= action.is_some();
        let installs = text.contains("\n[Install]\n") || text.starts_with("[Install]\n");
        if action == Some(Action::Create) && installs {
            asked.enable.push(name.clone());
        }
        let state = if installs { now(&name) } else { Now::Off };
        let verb = match name.rsplit_once('.').map(|(_, kind)| kind) {
            _ if !installs => None,
            _ if state == Now::Enabled || (state == Now::Off && action == Some(Action::Create)) => Some("start"),
            _ if state == Now::Off => {
                asked.notes.push(format!("{name} is off, as somebody left it: `systemctl enable --now {name}`"));
                None
            }
            Some("service") if holds_jobs(&text) => {
                // One that is new and runs was started with this text: by the try before, which did not end.
                if action.is_some_and(|action| action != Action::Create) {
                    asked.notes.push(format!("{name} changed and holds jobs: its new text counts after the next boot, or `systemctl restart {name}`"));
                }
                let own = |policy: &str| text.contains(&format!("/etc/ci-runner/{policy}"));
                (program("ci-runner-spawner") || POLICIES.into_iter().any(|policy| own(policy) && setting(policy)))
                    .then_some("reload")
            }
            Some("service") if action.is_some() || program("ci-runner") => Some("restart"),
            Some("service") => setting("config.toml").then_some(if can_reload(&text) { "reload" } else { "restart" }),
            _ => {
                if action.is_some() {
                    asked.notes.push(format!("{name} changed: its new text counts after the next boot"));
                }
                None
            }
        };
        asked.units.extend(verb.map(|verb| (verb, name)));
    }
    asked
}

fn holds_jobs(text: &str) -> bool {
    text.lines().any(|line| line == "X-StopOnRemoval=false")
}

/// The exporter reads its settings at the start alone.
fn can_reload(text: &str) -> bool {
    text.lines().any(|line| line == "Type=notify-reload" || line.starts_with("ExecReload="))
}

/// Asks for it. A unit that a person disabled or masked is left as it is: only new ones are enabled. One unit that does not
/// start keeps no other from it.
///
/// # Errors
/// A command failed; the first that did.
pub fn carry_out(asked: &Asked) -> Result<(), InstallError> {
    if asked.reload_manager {
        run("systemctl", &["daemon-reload"])?;
    }
    if !asked.enable.is_empty() {
        let words: Vec<&str> =
            ["enable", "--quiet"].into_iter().chain(asked.enable.iter().map(String::as_str)).collect();
        run("systemctl", &words)?;
    }
    let done: Vec<_> = asked.units.iter().map(|(verb, unit)| run("systemctl", &[verb, unit])).collect();
    done.into_iter().collect()
}

/// Makes users, groups and directories, and remembers which were not there: before they are made, and again as it is then.
///
/// # Errors
/// A command failed. What it made before that is remembered all the same.
pub fn make_users(place: &Place, ours: &mut Manifest) -> Result<(), InstallError> {
    let (users, groups) = (names("/etc/passwd"), names("/etc/group"));
    let known = ours.clone();
    let wanted = wanted_names(place);
    ours.users.extend(wanted.difference(&users).cloned());
    ours.groups.extend(wanted.difference(&groups).cloned());
    write::keep(place, ours)?;
    let made = run_makers(ours);
    (ours.users, ours.groups) = (known.users, known.groups);
    ours.users.extend(names("/etc/passwd").difference(&users).cloned());
    ours.groups.extend(names("/etc/group").difference(&groups).cloned());
    made.and(write::keep(place, ours))
}

/// Names in our file for `systemd-sysusers`: each user here has a group of its own name.
fn wanted_names(place: &Place) -> BTreeSet<String> {
    let text = std::fs::read_to_string(place.at(Path::new("/etc/sysusers.d/ci-runner.conf"))).unwrap_or_default();
    let lines = text.lines().filter(|line| line.starts_with("u ") || line.starts_with("g "));
    lines.filter_map(|line| line.split_whitespace().nth(1)).map(str::to_owned).collect()
}

fn run_makers(ours: &Manifest) -> Result<(), InstallError> {
    for (program, file) in [("systemd-sysusers", "sysusers.d"), ("systemd-tmpfiles", "tmpfiles.d")] {
        let path = PathBuf::from(format!("/etc/{file}/ci-runner.conf"));
        if !ours.files.contains_key(&path) {
            continue;
        }
        let path = path.display().to_string();
        match program {
            "systemd-tmpfiles" => run(program, &["--create", &path])?,
            _ => run(program, &[&path])?,
        }
    }
    Ok(())
}

fn names(file: &str) -> BTreeSet<String> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name.to_owned()).collect()
}

/// Whether PID 1 is systemd, here and now.
pub fn is_booted() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// How a unit is now.
pub fn now(unit: &str) -> Now {
    let says = |verb: &str, words: &[&str]| {
        answer("systemctl", &[verb, unit]).is_some_and(|told| words.contains(&told.as_str()))
    };
    if says("is-active", &["active", "reloading", "activating"]) {
        return Now::Active;
    }
    if says("is-enabled", &["enabled"]) { Now::Enabled } else { Now::Off }
}

/// Stops and disables units that this version no longer has.
///
/// # Errors
/// A command failed.
pub fn retire(plan: &Plan) -> Result<(), InstallError> {
    for (path, action) in plan {
        let unit = path.strip_prefix("/etc/systemd/system").ok().and_then(Path::to_str);
        if let (Some(unit), Action::Remove) = (unit, action) {
            run("systemctl", &["disable", "--now", "--quiet", unit])?;
        }
    }
    Ok(())
}

/// The first line that a command says, also where it ends with an error.
pub(super) fn answer(program: &str, words: &[&str]) -> Option<String> {
    let output = Command::new(program).args(words).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
}

/// Runs a command of the system; its words are in the error.
pub(super) fn run(program: &str, words: &[&str]) -> Result<(), InstallError> {
    let failed = |told: String| InstallError::Command { command: format!("{program} {}", words.join(" ")), told };
    let output =
        Command::new(program).args(words).stdin(Stdio::null()).output().map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let told = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(failed(if told.is_empty() { output.status.to_string() } else { told }))
}
