//! A private spawner's tie to its one daemon: a pipe of which only the daemon has the other end. The kernel closes that
//! whatever the daemon ends by, SIGKILL too, and not before: a daemon that is stopped, or whose connection is lost for a
//! moment, is not gone.
//!
//! When it is gone, nobody is left who could want the results: all that runs is killed, nothing more is started, and once
//! nothing is left the private directory is removed. Invariant: without `--die-with-daemon` there is no such tie, and jobs
//! outlive their daemon.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::fs::FileType;

use super::Server;
use super::setup::Options;
use crate::daemons::{Known, Serve, Wish};
use crate::protocol::AttemptKey;

/// The tie.
pub(super) struct Lifeline {
    /// None: the daemon is gone.
    pub(super) pipe: Option<OwnedFd>,
    dir: PathBuf,
}

impl Lifeline {
    /// Takes the pipe from standard input, if this is to be a private spawner.
    pub(super) fn take(options: &Options) -> io::Result<Option<Self>> {
        let Some(dir) = options.die_with_daemon.clone() else { return Ok(None) };
        let input = rustix::stdio::stdin();
        // Anything else would look like a daemon that is gone already.
        if FileType::from_raw_mode(rustix::fs::fstat(input)?.st_mode) != FileType::Fifo {
            return Err(io::Error::other("with --die-with-daemon standard input must be a pipe"));
        }
        let pipe = rustix::io::fcntl_dupfd_cloexec(input, 3)?;
        Ok(Some(Self { pipe: Some(pipe), dir }))
    }
}

impl Server {
    /// The daemon is gone: nothing of its jobs may go on.
    pub(super) fn daemon_gone(&mut self) {
        if let Some(lifeline) = &mut self.lifeline {
            lifeline.pipe = None;
        }
        self.closed = Some("the daemon of this private spawner is gone");
        let alive: Vec<AttemptKey> =
            self.attempts.iter().filter(|(_, state)| state.is_alive()).map(|(key, _)| key.clone()).collect();
        say!("the daemon is gone: {} attempts are killed", alive.len());
        for key in alive {
            self.wish(&key, Wish::Kill);
        }
    }

    /// At the very end: removes the private directory, if the daemon did not live to do it.
    pub(super) fn remove_private_dir(&self) {
        if let Some(Lifeline { pipe: None, dir }) = &self.lifeline {
            let _ = std::fs::remove_dir_all(dir);
        }
    }
}
