//! The log directory may be another one than the last daemon's: what is in that one is found still, and attempts that began
//! with it write there until they end. And the store may be another one than the last daemon's: jobs of that one do not write among
//! the logs of this one.

use ci_runner_spawner::joblog::{come_after, disown, others_path, set_owner};
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// In the state directory: the log directory of the last daemon.
const NOTE: &str = "log-dir";

/// The log directory of the last daemon on this state directory; None: it left no note.
pub fn noted_log_dir(state_dir: &Path) -> Option<PathBuf> {
    let note = std::fs::read(state_dir.join(NOTE)).ok()?;
    (!note.is_empty()).then(|| PathBuf::from(OsString::from_vec(note)))
}

/// To be called when the log directory is there. A full disk is no reason not to start.
pub(super) fn note(state_dir: &Path, log_dir: &Path) {
    let note = state_dir.join(NOTE);
    let before = std::fs::read(&note).unwrap_or_default();
    let own = log_dir.as_os_str().as_bytes();
    if before == own {
        return;
    }
    if !before.is_empty() {
        let before = PathBuf::from(OsString::from_vec(before));
        if let Err(error) = come_after(&before, log_dir) {
            // The note stays as it is, so the next start tries again.
            log::error!(
                "cannot note in {} that logs were in {}: {error}; they are not found until this is mended",
                log_dir.display(),
                before.display()
            );
            return;
        }
        log::info!(
            "logs were in {}; they are read there still, new ones are in {}",
            before.display(),
            log_dir.display()
        );
    }
    if let Err(error) = std::fs::write(&note, own) {
        log::warn!("cannot note the log directory in {}: {error}", note.display());
    }
}

/// The logs in this directory are this store's from now on. To be called before anything starts. A full disk is no reason not to
/// start.
pub(super) fn own(log_dir: &Path, store: &str) {
    match set_owner(log_dir, store) {
        Ok(None) => {}
        Ok(Some(other)) => log::warn!(
            "{} had logs of store {other}, and this is store {store}: what jobs of that one print first from now on is in {}. If it \
             has a daemon of its own, give one of the two another log_dir",
            log_dir.display(),
            log_dir.join(others_path(&other)).display()
        ),
        Err(error) => {
            // Better nobody's than another's: logs of our own jobs would go where nobody looks.
            let disowned = disown(log_dir);
            log::warn!(
                "cannot note in {} that its logs are those of store {store}: {error}; {}",
                log_dir.display(),
                match disowned {
                    Ok(()) => "jobs that run on from before a restore may write into them".to_owned(),
                    Err(error) => format!("it names another store, and that cannot be removed: {error}"),
                }
            );
        }
    }
}
