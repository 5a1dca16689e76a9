//! Textfile mode: the daemon's figures in a file for a node_exporter that is there already.
//!
//! The file is written aside and renamed, so that no reader sees a part of it. It holds `ci_runner_*` alone: the host's figures
//! are the other program's.

use super::DaemonPart;
use ci_runner_hostmetrics::Format;
use rustix::event::{PollFd, PollFlags, Timespec};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// The file's name in the directory.
pub const FILE_NAME: &str = "ci_runner.prom";
/// It is written this often: Prometheus' usual pace.
const EVERY_SECONDS: i64 = 15;

/// Writes until told to stop.
pub(super) fn run(dir: &Path, daemon: &DaemonPart, stop: &UnixStream) {
    let mut failing = false;
    loop {
        match write(dir, daemon) {
            Ok(()) if std::mem::take(&mut failing) => log::info!("{} is written again", dir.join(FILE_NAME).display()),
            Ok(()) => {}
            Err(error) if !std::mem::replace(&mut failing, true) => {
                log::warn!("{} cannot be written: {error}", dir.join(FILE_NAME).display());
            }
            Err(_) => {}
        }
        let timeout = Timespec { tv_sec: EVERY_SECONDS, tv_nsec: 0 };
        match rustix::event::poll(&mut [PollFd::new(stop, PollFlags::IN)], Some(&timeout)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) | Err(_) => {
                // Nobody writes it any more: what stays must not say that all is well.
                let ended: DaemonPart = std::sync::Arc::new(|_| Err("it ended".to_owned()));
                drop(write(dir, &ended));
                return;
            }
        }
    }
}

/// Writes the file once.
fn write(dir: &Path, daemon: &DaemonPart) -> std::io::Result<()> {
    let part = daemon(Format::Text);
    let up = u8::from(part.is_ok());
    let mut text = part.unwrap_or_default();
    text.push_str(
        "# HELP ci_runner_up Whether the daemon gave its figures for this scrape.\n# TYPE ci_runner_up gauge\n",
    );
    text.push_str(&format!("ci_runner_up {up}\n"));
    // node_exporter reads `*.prom` alone: the file aside has another ending, and its reader may be another user.
    let aside = dir.join(format!(".{FILE_NAME}.new"));
    let mut options = std::fs::File::options();
    let mut file = options.write(true).create(true).truncate(true).mode(0o644).open(&aside)?;
    file.set_permissions(std::fs::Permissions::from_mode(0o644))?;
    file.write_all(text.as_bytes())?;
    std::fs::rename(&aside, dir.join(FILE_NAME))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn the_file_is_whole_and_tells_when_the_daemon_is_away() {
        let dir = tempfile::tempdir().unwrap();
        let there: DaemonPart = Arc::new(|_| Ok("# TYPE ci_runner_x gauge\nci_runner_x 1\n".to_owned()));
        let read = || std::fs::read_to_string(dir.path().join(FILE_NAME)).unwrap();
        write(dir.path(), &there).unwrap();
        assert!(read().contains("ci_runner_x 1\n") && read().ends_with("ci_runner_up 1\n"));
        let away: DaemonPart = Arc::new(|_| Err("down".to_owned()));
        write(dir.path(), &away).unwrap();
        assert!(!read().contains("ci_runner_x") && read().ends_with("ci_runner_up 0\n"));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left aside");
        assert!(write(&dir.path().join("none"), &there).is_err());
    }

    /// It said for ever that the daemon was up, with its last figures.
    #[test]
    fn a_writer_that_ends_leaves_no_figures() {
        let dir = tempfile::tempdir().unwrap();
        let there: DaemonPart = Arc::new(|_| Ok("# TYPE ci_runner_x gauge\nci_runner_x 1\n".to_owned()));
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(ours);
        run(dir.path(), &there, &theirs);
        let left = std::fs::read_to_string(dir.path().join(FILE_NAME)).unwrap();
        assert!(!left.contains("ci_runner_x") && left.ends_with("ci_runner_up 0\n"), "{left}");
    }
}
