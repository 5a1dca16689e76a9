//! What a person would otherwise do by hand: each repair is looked for, done, and named. Nothing that a person decided is
//! undone: a masked unit stays masked, a changed file stays changed.

use super::manifest::Manifest;
use super::plan::{Action, plan};
use super::services::{answer, run};
use super::{InstallError, Place, template, write};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// One thing that was done, or why it could not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repair {
    /// In words, as in `made /var/log/ci-runner`.
    pub what: String,
    /// Why it was not done.
    pub failed: Option<String>,
}

impl Repair {
    fn of(what: String, done: Result<(), InstallError>) -> Repair {
        Repair { what, failed: done.err().map(|error| error.to_string()) }
    }
}

/// Repairs an installed service: missing files and directories, modes, sockets nobody listens at, units that are off.
///
/// # Errors
/// The list of installed files is damaged.
pub fn service(place: &Place, ours: &Manifest) -> Result<Vec<Repair>, InstallError> {
    let mut repairs = files(place, ours)?;
    repairs.extend(directories(place));
    repairs.extend(sockets(place));
    repairs.extend(units(place));
    Ok(repairs)
}

/// Texts that are gone are written again, and modes are set right. Programs come by an installation only.
fn files(place: &Place, ours: &Manifest) -> Result<Vec<Repair>, InstallError> {
    let mut repairs = Vec::new();
    let known: Vec<_> = template::files(&place.prefix, place.jobs)
        .into_iter()
        .filter(|file| ours.files.contains_key(&file.path))
        .collect();
    let plan = plan(&known, Some(ours), write::found(place), super::plan::Changed::Keep)?;
    let mut reload = false;
    for file in &known {
        let path = place.at(&file.path);
        if plan.get(&file.path) == Some(&Action::Create) {
            let above = path.parent().unwrap_or(Path::new("/"));
            let made = std::fs::create_dir_all(above).map_err(InstallError::io("cannot make", above));
            repairs.push(Repair::of(
                format!("wrote {} again", path.display()),
                made.and_then(|()| write::write(&path, &file.content)),
            ));
            reload |= file.path.starts_with("/etc/systemd");
            continue;
        }
        let others_write = std::fs::metadata(&path).is_ok_and(|about| about.mode() & 0o022 != 0);
        if others_write {
            let set = std::fs::set_permissions(&path, std::fs::Permissions::from_mode(file.content.mode));
            let what = format!("took the right to write {} from others", path.display());
            repairs.push(Repair::of(what, set.map_err(InstallError::io("cannot set the mode of", &path))));
        }
    }
    if reload {
        repairs.push(Repair::of("told PID 1 of the units".to_owned(), run("systemctl", &["daemon-reload"])));
    }
    Ok(repairs)
}

/// Directories of `tmpfiles.d`: made, and given their owner and mode, by systemd's own program.
fn directories(place: &Place) -> Vec<Repair> {
    let conf = "/etc/tmpfiles.d/ci-runner.conf";
    let Ok(text) = std::fs::read_to_string(place.at(Path::new(conf))) else { return Vec::new() };
    let wrong: Vec<String> = text.lines().filter_map(wrong_directory).collect();
    if wrong.is_empty() {
        return Vec::new();
    }
    let done = run("systemd-tmpfiles", &["--create", conf]);
    vec![Repair::of(format!("made directories as they shall be: {}", wrong.join(", ")), done)]
}

/// `d PATH MODE USER GROUP`: says what is wrong with it.
fn wrong_directory(line: &str) -> Option<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let ["d", path, mode, ..] = words.as_slice() else { return None };
    match std::fs::symlink_metadata(path) {
        Err(_) => Some(format!("{path} was missing")),
        Ok(about) if about.mode() & 0o7777 != u32::from_str_radix(mode, 8).ok()? => {
            Some(format!("{path} had mode {:04o}", about.mode() & 0o7777))
        }
        Ok(_) => None,
    }
}

/// A socket that is there and refuses, or is not there while PID 1 listens at it.
fn sockets(place: &Place) -> Vec<Repair> {
    let mut repairs = Vec::new();
    for (unit, text) in
        template::units(&place.prefix, place.jobs).into_iter().filter(|(unit, _)| unit.ends_with(".socket"))
    {
        let Some(path) = text.lines().find_map(|line| line.strip_prefix("ListenStream=/")) else { continue };
        let path = Path::new("/").join(path);
        let is_socket = std::fs::symlink_metadata(&path).is_ok_and(|about| about.file_type().is_socket());
        let is_active = answer("systemctl", &["is-active", &unit]).is_some_and(|state| state == "active");
        if is_active && !is_socket {
            let service = unit.replace(".socket", ".service");
            let done = run("systemctl", &["restart", &unit, &service]);
            repairs.push(Repair::of(format!("made {} anew, which was gone (restarted {unit})", path.display()), done));
        } else if is_socket && !is_active && UnixStream::connect(&path).is_err() {
            let done = std::fs::remove_file(&path).map_err(InstallError::io("cannot remove", &path));
            repairs.push(Repair::of(format!("removed {}, at which nobody listens", path.display()), done));
        }
    }
    repairs
}

/// Units that do not start at boot, or have failed.
fn units(place: &Place) -> Vec<Repair> {
    let mut repairs = Vec::new();
    let mut units = template::units(&place.prefix, place.jobs);
    units.sort_by_key(|(name, _)| !name.ends_with(".socket"));
    for (unit, _) in units.iter().filter(|(_, text)| text.contains("[Install]")) {
        match answer("systemctl", &["is-enabled", unit]).unwrap_or_default().as_str() {
            "disabled" => {
                let done = run("systemctl", &["enable", "--quiet", unit]);
                repairs.push(Repair::of(format!("enabled {unit}"), done));
            }
            "masked" | "masked-runtime" => {
                let why = format!("somebody masked it: `systemctl unmask {unit}`");
                repairs.push(Repair { what: format!("{unit} is left off"), failed: Some(why) });
                continue;
            }
            _ => {}
        }
        let state = answer("systemctl", &["is-active", unit]).unwrap_or_default();
        if !matches!(state.as_str(), "active" | "activating" | "reloading") {
            if state == "failed" {
                run("systemctl", &["reset-failed", unit]).ok();
            }
            repairs.push(Repair::of(format!("started {unit}, which was {state}"), run("systemctl", &["start", unit])));
        }
    }
    repairs
}

/// A directory of the daemon that others can write to: without a service, the daemon's own.
pub fn private(path: &Path) -> Option<Repair> {
    let about = std::fs::symlink_metadata(path).ok()?;
    let is_ours = about.is_dir() && about.uid() == rustix::process::geteuid().as_raw();
    if !is_ours || about.mode() & 0o022 == 0 {
        return None;
    }
    let mode = about.mode() & 0o7777 & !0o022;
    let set = std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode));
    let what = format!("took the right to write {} from others", path.display());
    Some(Repair::of(what, set.map_err(InstallError::io("cannot set the mode of", path))))
}
