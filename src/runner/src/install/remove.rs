//! Removing the service: nothing stays but the state directory, and nothing of a person's is lost.
//!
//! 1. Units are stopped and disabled; what is left of their cgroups is killed (nothing, unless the removal was forced).
//! 2. Files that a person changed, and the logs of jobs, are moved to `removed-<time>` in the state directory.
//! 3. What the list says is removed; directories that were made, if they are empty. Users and groups that were made, too: the
//!    state directory becomes root's first, so that no later user with the same number comes to it.
//!
//! The state directory belongs to a user that jobs may have had. Nothing in it is followed: `removed-<time>` is made by
//! `mkdirat`, opened without following links and found to be root's before anything is moved into it, by its descriptor.

use super::manifest::{self, Manifest};
use super::services::{answer, run};
use super::{InstallError, Jobs, Place, template, write};
use rustix::fs::{AtFlags, Mode, OFlags};
use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// The state of the service, which stays.
pub const STATE: &str = "/var/lib/ci-runner";

/// Where units are.
const UNITS: &str = "/etc/systemd/system";

/// PID 1 makes it for the units of jobs, as the policy's default says.
const JOBS_SLICE: &str = "ci_jobs.slice";

/// What was done, for whoever asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Paths that are gone.
    pub files: Vec<PathBuf>,
    /// What was moved into the state directory: from where.
    pub kept: Vec<PathBuf>,
    /// Where it is now.
    pub kept_at: Option<PathBuf>,
    /// What could not be done, and why.
    pub left: Vec<String>,
}

/// Units, by name, that are installed here.
pub fn units(ours: &Manifest) -> Vec<String> {
    let names = ours.files.keys().filter_map(|path| path.strip_prefix(UNITS).ok()?.to_str());
    let is_unit = |name: &&str| [".service", ".socket", ".slice", ".timer"].iter().any(|kind| name.ends_with(kind));
    let mut names: Vec<String> = names.filter(is_unit).map(str::to_owned).collect();
    names.sort_by_key(|name| !name.ends_with(".socket")); // a socket would start its service again
    names
}

/// Units of jobs that are not over: one that failed stays loaded until somebody resets it, as nobody does whose spawner is gone.
pub fn running_units() -> usize {
    let is_over = |line: &&String| matches!(line.split_whitespace().nth(2), Some("failed" | "inactive"));
    listed_units().iter().filter(|line| !is_over(line)).count()
}

/// Units of jobs that are loaded now.
fn job_units() -> Vec<String> {
    listed_units().iter().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

fn listed_units() -> Vec<String> {
    let words = ["list-units", "--all", "--plain", "--no-legend", "--no-pager", "ci-job-*"];
    let output = std::process::Command::new("systemctl").args(words).stdin(std::process::Stdio::null()).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// Native attempts that still have a process, by the cgroups below the service of their spawner: they outlive daemon and spawner.
pub fn slot_attempts() -> usize {
    let words = ["show", "--property=ControlGroup", "--value", "ci-runner-jobs.service"];
    let output = std::process::Command::new("systemctl").args(words).stdin(std::process::Stdio::null()).output();
    let group = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    if group.is_empty() { 0 } else { live_attempts(Path::new(&format!("/sys/fs/cgroup{group}"))) }
}

fn live_attempts(group: &Path) -> usize {
    let is_alive = |path: &Path| {
        let events = std::fs::read_to_string(path.join("cgroup.events")).unwrap_or_default();
        events.lines().any(|line| line == "populated 1")
    };
    let entries = std::fs::read_dir(group).into_iter().flatten().flatten();
    let inner = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    inner
        .map(|entry| match entry.file_name().to_string_lossy().starts_with("ci-job-") {
            true => usize::from(is_alive(&entry.path())),
            false => live_attempts(&entry.path()),
        })
        .sum()
}

/// Stops, disables, and ends what is left.
///
/// # Errors
/// The service manager refused.
pub fn stop(ours: &Manifest) -> Result<(), InstallError> {
    let units = units(ours);
    let words = |verbs: &[&'static str]| -> Vec<String> {
        verbs.iter().map(|word| (*word).to_owned()).chain(units.iter().cloned()).collect()
    };
    let call = |words: Vec<String>| run("systemctl", &words.iter().map(String::as_str).collect::<Vec<_>>());
    let startable: Vec<&String> = units.iter().filter(|unit| !unit.ends_with(".slice")).collect();
    for (verb, units) in [("disable", there(&startable)), ("stop", known(&startable))] {
        // Without a name `systemctl stop` would be an error.
        if !units.is_empty() {
            run("systemctl", &[&[verb, "--quiet"], units.as_slice()].concat())?;
        }
    }
    for job in job_units() {
        run("systemctl", &["kill", "--signal=KILL", &job]).ok(); // it may have ended meanwhile
        run("systemctl", &["stop", &job]).ok();
        run("systemctl", &["reset-failed", &job]).ok();
    }
    // `KillMode=process` leaves the spawner of native jobs, and shims. Nothing left is an error of kill, and what is meant.
    for unit in startable.iter().filter(|unit| unit.ends_with(".service")) {
        run("systemctl", &["kill", "--kill-whom=all", "--signal=KILL", unit]).ok();
    }
    let slices = units.iter().map(String::as_str).filter(|unit| unit.ends_with(".slice"));
    for slice in slices.chain([JOBS_SLICE]) {
        run("systemctl", &["stop", slice]).ok(); // empty now, if it is there at all
    }
    call(words(&["reset-failed"])).ok();
    Ok(())
}

/// Units whose file is there. An installation that was killed has files in its list that never came: PID 1 refuses to name these.
fn there<'a>(units: &[&'a String]) -> Vec<&'a str> {
    let is_there = |unit: &&str| Path::new(UNITS).join(unit).exists();
    units.iter().map(|unit| unit.as_str()).filter(is_there).collect()
}

/// Those, and units that PID 1 has although somebody took the file away.
fn known<'a>(units: &[&'a String]) -> Vec<&'a str> {
    let there = there(units);
    let is_over = |unit: &str| {
        let state = answer("systemctl", &["is-active", unit]).unwrap_or_default();
        matches!(state.as_str(), "inactive" | "failed" | "unknown")
    };
    units.iter().map(|unit| unit.as_str()).filter(|unit| there.contains(unit) || !is_over(unit)).collect()
}

/// Removes what is ours; the state directory stays.
///
/// # Errors
/// Something cannot be moved aside: nothing was removed then. What fails later is in [`Removed::left`].
pub fn remove(place: &Place, ours: &Manifest, stamp: &str) -> Result<Removed, InstallError> {
    let mut removed = Removed::default();
    let found = write::found(place);
    let changed = ours.files.iter().filter(|(path, written)| found(path).is_some_and(|there| there != **written));
    let mut kept: Vec<PathBuf> = changed.map(|(path, _)| path.clone()).collect();
    let places = directories(place);
    kept.extend(places.logs.into_iter().filter(|dir| has_files(&place.at(dir))));
    if !kept.is_empty() {
        let name = format!("removed-{stamp}");
        let aside = make_aside(place, &name)?;
        for path in kept {
            move_into(place, &aside, &path)?;
            removed.kept.push(path);
        }
        removed.kept_at = Some(Path::new(STATE).join(name));
    }
    for path in ours.files.keys() {
        let path = place.at(path);
        match std::fs::remove_file(&path) {
            Ok(()) => removed.files.push(path),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => removed.left.push(format!("{}: {error}", path.display())),
        }
    }
    if place.is_live() {
        for dir in places.runtime {
            match std::fs::remove_dir_all(&dir) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    removed.left.push(format!("{}: {error}", dir.display()));
                }
                _ => {}
            }
        }
        remove_users(ours, &mut removed);
        run("systemctl", &["daemon-reload"])?;
    }
    let list = place.at(Path::new(manifest::PATH));
    // What a kill left half written.
    for path in ours.files.keys().map(|path| place.at(path)).chain([list.clone()]) {
        std::fs::remove_file(write::aside_of(&path)).ok();
    }
    std::fs::remove_file(&list).map_err(InstallError::io("cannot remove", &list))?;
    for dir in places.made.iter().chain(&ours.directories).collect::<BTreeSet<_>>().into_iter().rev() {
        // Somebody else's files keep a directory, and are not ours to name.
        std::fs::remove_dir(place.at(dir)).ok();
    }
    Ok(removed)
}

/// What units and `tmpfiles.d` make.
struct Directories {
    logs: Vec<PathBuf>,
    made: Vec<PathBuf>,
    runtime: Vec<PathBuf>,
}

fn directories(place: &Place) -> Directories {
    // Of all kinds: it may have been another one before.
    let kinds = [Jobs::Units, Jobs::Native(1), Jobs::Both(1)];
    let files = kinds.into_iter().flat_map(|jobs| template::files(&place.prefix, jobs));
    let files: Vec<_> = files.collect();
    let texts = files.iter().map(|file| (&file.path, String::from_utf8_lossy(&file.content.bytes).into_owned()));
    let mut found = Directories { logs: Vec::new(), made: Vec::new(), runtime: Vec::new() };
    for (path, text) in texts {
        let runtime = text.lines().filter_map(|line| line.strip_prefix("RuntimeDirectory="));
        found.runtime.extend(runtime.flat_map(str::split_whitespace).map(|name| Path::new("/run").join(name)));
        // What a spawner keeps for slots is empty between jobs; the daemon's own state stays.
        let state = text.lines().filter_map(|line| line.strip_prefix("StateDirectory="));
        let state = state.flat_map(str::split_whitespace).map(|name| Path::new("/var/lib").join(name));
        found.runtime.extend(state.filter(|dir| dir != Path::new(STATE)));
        let is_tmpfiles = path.starts_with("/etc/tmpfiles.d");
        let made =
            text.lines().filter(|_| is_tmpfiles).filter_map(|line| line.strip_prefix("d ")?.split_whitespace().next());
        for dir in made.map(PathBuf::from).filter(|dir| !dir.starts_with(STATE)) {
            let is_inner = found.made.iter().any(|above| dir.starts_with(above));
            // Every kind has it: once.
            if dir.starts_with("/var/log") && !is_inner {
                found.logs.push(dir.clone());
            }
            found.made.push(dir);
        }
    }
    found
}

fn has_files(dir: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(dir) else { return false };
    entries.flatten().any(|entry| !entry.file_type().is_ok_and(|kind| kind.is_dir()) || has_files(&entry.path()))
}

/// `removed-<time>` in the state directory, root's and nobody else's.
fn make_aside(place: &Place, name: &str) -> Result<OwnedFd, InstallError> {
    let path = place.at(Path::new(STATE));
    std::fs::create_dir_all(&path).map_err(InstallError::io("cannot make", &path))?;
    let made = || -> std::io::Result<OwnedFd> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let state = rustix::fs::open(&path, flags, Mode::empty())?;
        rustix::fs::mkdirat(&state, name, Mode::RWXU)?;
        let aside = rustix::fs::openat(&state, name, flags, Mode::empty())?;
        let about = rustix::fs::fstat(&aside)?;
        if about.st_uid != rustix::process::geteuid().as_raw() || about.st_mode & 0o077 != 0 {
            return Err(std::io::Error::other("somebody put another directory there"));
        }
        Ok(aside)
    };
    made().map_err(InstallError::io("cannot make a directory for changed files in", &path))
}

/// Renames, or copies where that is another file system; then removes.
fn move_into(place: &Place, aside: &OwnedFd, path: &Path) -> Result<(), InstallError> {
    let from = place.at(path);
    let name = path.strip_prefix("/").unwrap_or(path).to_string_lossy().replace('/', "-");
    match rustix::fs::renameat(rustix::fs::CWD, &from, aside, &name) {
        Ok(()) => return Ok(()),
        Err(rustix::io::Errno::XDEV) => {}
        Err(error) => return Err(InstallError::io("cannot move away", &from)(error.into())),
    }
    use std::os::fd::AsRawFd as _;
    // The descriptor's own name: nobody can put another directory in its place. `-P` and a fresh directory: no link is followed.
    let to = format!("/proc/{}/fd/{}/{name}", std::process::id(), aside.as_raw_fd());
    run("cp", &["-a", "-P", "--", &from.display().to_string(), &to])?;
    let gone = if from.is_dir() { std::fs::remove_dir_all(&from) } else { std::fs::remove_file(&from) };
    gone.map_err(InstallError::io("cannot remove", &from))
}

fn remove_users(ours: &Manifest, removed: &mut Removed) {
    let owner = rustix::fs::chownat(
        rustix::fs::CWD,
        STATE,
        Some(rustix::fs::Uid::ROOT),
        Some(rustix::fs::Gid::ROOT),
        AtFlags::SYMLINK_NOFOLLOW,
    );
    if let Err(error) = owner
        && error != rustix::io::Errno::NOENT
    {
        removed.left.push(format!("{STATE}: {error}; users stay"));
        return;
    }
    let programs = [("userdel", &ours.users, "passwd"), ("groupdel", &ours.groups, "group")];
    for (program, names, database) in programs {
        for name in names {
            // A group may have gone with its user.
            let is_there = answer("getent", &[database, name]).is_some_and(|line| !line.is_empty());
            if is_there && let Err(error) = run(program, &[name]) {
                removed.left.push(error.to_string());
            }
        }
    }
}
