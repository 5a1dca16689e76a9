//! Which runtime directory the attempts are in: the configured one, unless attempts that are open began in another.
//!
//! Whoever changes the setting (`loginctl enable-linger` does, too) while jobs run must not lose them: nobody would find them in
//! the new directory, so they would be called lost, killed and run again. The state directory has a note of where the last daemon
//! was, and every lease says by its epoch in which directory it began.

use crate::config::Config;
use ci_runner_core::id::Epoch;
use ci_runner_spawner::protocol::names;
use std::fmt;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// In the state directory: the runtime directory of the last daemon's attempts.
const NOTE: &str = "runtime-dir";
/// The name of the problem in the status.
pub(super) const PROBLEM: &str = "runtime_dir";

/// Where attempts are.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RuntimeDir {
    /// The directory of the spawner that is started from here.
    pub(super) dir: PathBuf,
    /// Why it is not the configured one.
    pub(super) problem: Option<String>,
}

/// Open attempts may be in a directory that cannot be looked at.
#[derive(Debug)]
pub(super) struct OutOfReach {
    before: PathBuf,
    note: PathBuf,
    why: io::Error,
}

impl fmt::Display for OutOfReach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "jobs may still run in the runtime directory {}, which cannot be looked at ({}): make it accessible, or, if they \
             shall be given up, remove {}",
            self.before.display(),
            self.why,
            self.note.display()
        )
    }
}

impl std::error::Error for OutOfReach {}

/// The directory to go on in; notes it. `open` are the epochs of open native attempts; some of them may have begun with a service
/// if there is one or was.
pub(super) fn choose(config: &Config, open: &[Epoch], services: bool) -> Result<RuntimeDir, OutOfReach> {
    let note = config.state_dir.join(NOTE);
    let now = &config.runtime_dir;
    let before = std::fs::read(&note).ok().filter(|text| !text.is_empty());
    let before = before.map(|text| PathBuf::from(std::ffi::OsString::from_vec(text)));
    let stay = |dir: &Path| RuntimeDir { dir: dir.to_owned(), problem: None };
    let Some(before) = before.filter(|before| before != now) else {
        keep(&note, now);
        return Ok(stay(now));
    };
    if open.is_empty() {
        keep(&note, now);
        return Ok(stay(now));
    }
    let epoch = match epoch_of(&before) {
        Ok(epoch) => epoch,
        Err(why) => return Err(OutOfReach { before, note, why }),
    };
    let there = open.iter().filter(|open| epoch.as_deref() == Some(&*open.0)).count();
    if there > 0 {
        // It stands in the status as long as the daemon runs, so it says nothing that changes meanwhile.
        let problem = format!(
            "the runtime directory is {} still, because attempts were open there when the daemon started; {} is used from the \
             next start on that finds none open: restart the daemon when no job runs",
            before.display(),
            now.display()
        );
        log::warn!("{problem} ({there} are open)");
        return Ok(RuntimeDir { dir: before, problem: Some(problem) });
    }
    // A spawner that is a service has its directory by itself.
    if services {
        keep(&note, now);
        return Ok(stay(now));
    }
    log::error!(
        "the runtime directory was {} and is {} now: the {} attempts that were open are not to be found there any more and will be \
         called lost",
        before.display(),
        now.display(),
        open.len()
    );
    keep(&note, now);
    Ok(stay(now))
}

/// The life of the spawner's directory in there; None: there certainly is none.
pub(super) fn epoch_of(runtime_dir: &Path) -> io::Result<Option<String>> {
    match std::fs::read_to_string(runtime_dir.join(names::SPAWNER_DIR).join(names::EPOCH)) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A full disk is no reason not to start.
fn keep(note: &Path, dir: &Path) {
    if std::fs::read(note).is_ok_and(|text| text == dir.as_os_str().as_bytes()) {
        return;
    }
    if let Err(error) = std::fs::write(note, dir.as_os_str().as_bytes()) {
        log::warn!("cannot note the runtime directory in {}: {error}", note.display());
    }
}
