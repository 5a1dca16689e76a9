//! Where open native attempts began, if not with the spawner that is configured for native jobs now.
//!
//! Whoever changes `jobs_socket` (`slotUsers` on NixOS) while jobs run must not lose them: the configured spawner knows nothing of
//! them, so they would be called lost and run again beside themselves. The daemon's own spawner says by its epoch which attempts are
//! its own. Those of services are not to be read here: each says hello with its epoch when the loop connects to it, and which services
//! there may be stands in a note in the state directory.

use super::runtime_dir::epoch_of;
use ci_runner_core::id::Epoch;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// In the state directory: sockets of services whose native attempts may be open, one a line.
const NOTE: &str = "jobs-sockets";
/// Where the service is, as it comes: of a daemon before the version that writes the note.
const DEFAULT: &str = "/run/ci-runner-jobs/socket";
/// Begins every epoch of this boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// A spawner that is not the configured one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Former {
    /// The socket of a service; None: the daemon's own spawner.
    pub(super) service: Option<PathBuf>,
    /// Epochs of attempts that began there, or may have.
    pub(super) epochs: Vec<Epoch>,
}

/// Services other than the configured one that may have open native attempts. Where a directory is gone, so are its attempts.
pub(super) fn services(state_dir: &Path, configured: Option<&Path>) -> Vec<PathBuf> {
    let noted = match std::fs::read(state_dir.join(NOTE)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => DEFAULT.into(),
        Err(error) => {
            log::warn!("cannot read {}: {error}", state_dir.join(NOTE).display());
            DEFAULT.into()
        }
    };
    let lines = noted.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let paths = lines.map(|line| PathBuf::from(std::ffi::OsString::from_vec(line.to_vec())));
    paths.filter(|path| Some(path.as_path()) != configured && may_be(path)).collect()
}

fn may_be(socket: &Path) -> bool {
    let dir = socket.parent().unwrap_or(socket);
    !matches!(std::fs::metadata(dir), Err(error) if error.kind() == io::ErrorKind::NotFound)
}

/// The spawners that open attempts began with and that are not the configured one; notes the services. `open` are the epochs of open
/// native attempts, `own` the runtime directory of the daemon's own spawner.
///
/// # Errors
/// The epoch of the own spawner cannot be read.
pub(super) fn find(state_dir: &Path, configured: Option<&Path>, own: &Path, open: &[Epoch]) -> io::Result<Vec<Former>> {
    let boot = std::fs::read_to_string(BOOT_ID)?;
    let of_boot = |epoch: &&Epoch| epoch.0.starts_with(boot.trim());
    let mut open: Vec<&Epoch> = open.iter().collect();
    open.sort_by(|one, other| one.0.cmp(&other.0));
    open.dedup();
    let own = if open.is_empty() { None } else { epoch_of(own)? };
    let (of_own, others): (Vec<Epoch>, Vec<Epoch>) =
        open.into_iter().filter(of_boot).cloned().partition(|epoch| own.as_deref() == Some(&*epoch.0));
    let mut found = Vec::new();
    if configured.is_some() && !of_own.is_empty() {
        found.push(Former { service: None, epochs: of_own });
    }
    let services = if others.is_empty() { Vec::new() } else { services(state_dir, configured) };
    let note: Vec<&Path> = configured.into_iter().chain(services.iter().map(PathBuf::as_path)).collect();
    keep(&state_dir.join(NOTE), &note);
    found.extend(services.into_iter().map(|socket| Former { service: Some(socket), epochs: others.clone() }));
    for Former { service, .. } in &found {
        let whose = service.as_ref().map_or("the daemon's own spawner".to_owned(), |at| at.display().to_string());
        log::info!("native attempts that are open began with {whose}: those are looked after there until they end");
    }
    Ok(found)
}

/// A full disk is no reason not to start.
fn keep(note: &Path, sockets: &[&Path]) {
    let text = sockets.iter().map(|path| path.as_os_str().as_bytes()).collect::<Vec<_>>().join(&b'\n');
    if std::fs::read(note).is_ok_and(|before| before == text) {
        return;
    }
    if let Err(error) = std::fs::write(note, text) {
        log::warn!("cannot note the spawners of native jobs in {}: {error}", note.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ci_runner_spawner::protocol::names;

    struct Host {
        dir: tempfile::TempDir,
        boot: String,
    }

    impl Host {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            for part in ["state", "run/spawner", "jobs", "other"] {
                std::fs::create_dir_all(dir.path().join(part)).unwrap();
            }
            let boot = std::fs::read_to_string(BOOT_ID).unwrap().trim().to_owned();
            let own = format!("{boot}/own\n");
            std::fs::write(dir.path().join("run").join(names::SPAWNER_DIR).join(names::EPOCH), own).unwrap();
            Self { dir, boot }
        }

        fn epochs(&self, names: &[&str]) -> Vec<Epoch> {
            names.iter().map(|name| Epoch::new(&format!("{}/{name}", self.boot))).collect()
        }

        fn socket(&self, name: &str) -> PathBuf {
            self.dir.path().join(name).join("socket")
        }

        /// What a daemon finds with this service configured and these open: `own` or the directory of a service, and epochs.
        fn find(&self, configured: Option<&str>, open: &[&str]) -> Vec<(String, Vec<String>)> {
            let configured = configured.map(|name| self.socket(name));
            let (state, run) = (self.dir.path().join("state"), self.dir.path().join("run"));
            let found = find(&state, configured.as_deref(), &run, &self.epochs(open)).unwrap();
            let name = |service: Option<PathBuf>| {
                let dir = service.as_deref().and_then(Path::parent).and_then(Path::file_name);
                dir.map_or("own".to_owned(), |name| name.to_string_lossy().into_owned())
            };
            let word = |epoch: &Epoch| epoch.0.rsplit_once('/').unwrap().1.to_owned();
            found.into_iter().map(|of| (name(of.service), of.epochs.iter().map(word).collect())).collect()
        }
    }

    fn former(name: &str, epochs: &[&str]) -> (String, Vec<String>) {
        (name.to_owned(), epochs.iter().map(|epoch| (*epoch).to_owned()).collect())
    }

    #[test]
    fn attempts_are_looked_for_where_they_began() {
        let host = Host::new();
        assert_eq!(host.find(None, &["own"]), [], "they are where they should be");
        assert_eq!(host.find(Some("jobs"), &["own"]), [former("own", &["own"])]);
        assert_eq!(
            host.find(Some("jobs"), &["own", "a"]),
            [former("own", &["own"])],
            "and those of the service, there"
        );
        assert_eq!(host.find(None, &["own", "a"]), [former("jobs", &["a"])]);
        assert_eq!(host.find(None, &["a"]), [former("jobs", &["a"])], "as long as there are any");
        assert_eq!(
            host.find(Some("other"), &["own", "a", "b"]),
            [former("own", &["own"]), former("jobs", &["a", "b"])]
        );
        assert_eq!(host.find(None, &["b", "a"]), [former("other", &["a", "b"]), former("jobs", &["a", "b"])]);
        assert_eq!(host.find(None, &["own"]), []);
        assert_eq!(host.find(None, &["a"]), [], "nothing was open any more with a service that is not configured");
    }

    #[test]
    fn what_is_certainly_over_is_not_looked_for() {
        let host = Host::new();
        assert_eq!(host.find(Some("jobs"), &[]), []);
        let state = host.dir.path().join("state");
        let earlier_boot = [Epoch::new("another-boot/a")];
        assert_eq!(find(&state, None, &host.dir.path().join("run"), &earlier_boot).unwrap(), []);
        assert_eq!(host.find(Some("jobs"), &[]), []);
        std::fs::remove_dir(host.dir.path().join("jobs")).unwrap();
        assert_eq!(host.find(None, &["a"]), []);
    }
}
