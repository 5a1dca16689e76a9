//! Keeps the API's socket where clients look for it: somebody may empty or remove the runtime directory while the daemon
//! lives, and jobs with it. A socket that the service manager passed is never made here; its loss is told.
//!
//! inotify tells of changes; a look from time to time stands in where it is not to be had, or saw another directory.

use super::engine::Control;
use crate::config::Config;
use crate::http;
use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init, remove_watch};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Without a word of inotify the socket is still looked at this often.
const LOOK: Duration = Duration::from_secs(30);
/// The same where inotify is not to be had, and while the socket could not be made.
const LOOK_OFTEN: Duration = Duration::from_secs(5);
/// Who removes one file usually removes more: after a change this is waited for the rest.
const SETTLE: Duration = Duration::from_millis(100);
/// The name of the problem in the status.
const PROBLEM: &str = "socket";

/// Device and inode of a socket's file.
pub(super) type Place = (u64, u64);

/// The socket and its surroundings.
pub(super) struct Home {
    socket: PathBuf,
    runtime_dir: PathBuf,
    /// Made by the service manager.
    is_passed: bool,
    own: Option<Place>,
    door: watch::Sender<Arc<UnixListener>>,
    control: mpsc::Sender<Control>,
    told: Option<String>,
}

impl Home {
    /// To be called right after the socket was made.
    pub(super) fn new(
        config: &Config,
        is_passed: bool,
        door: watch::Sender<Arc<UnixListener>>,
        control: mpsc::Sender<Control>,
    ) -> Self {
        Self {
            own: place_of(&config.socket),
            socket: config.socket.clone(),
            runtime_dir: config.runtime_dir.clone(),
            is_passed,
            door,
            control,
            told: None,
        }
    }

    /// Watches until `shutdown`; tells which file is the daemon's own then.
    pub(super) async fn keep(mut self, shutdown: CancellationToken) -> Option<Place> {
        let dir = self.socket.parent().unwrap_or(Path::new("/")).to_owned();
        let mut notify = Notify::new();
        loop {
            // First the watch, then the look: what changes between them is told.
            notify.watch(&dir);
            self.look().await;
            if notify.watched.is_none() {
                // The directory may have been made just now.
                notify.watch(&dir);
            }
            let is_well = self.told.is_none() && notify.watched.is_some();
            let pause = if is_well { LOOK } else { LOOK_OFTEN };
            let change = async {
                if tokio::time::timeout(pause, notify.changed()).await.is_ok() {
                    tokio::time::sleep(SETTLE).await;
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return self.own.filter(|_| !self.is_passed),
                () = change => {}
            }
        }
    }

    /// Puts right what is not.
    async fn look(&mut self) {
        let result = if self.is_passed { self.look_at_passed() } else { self.mend() };
        let problem = result.err();
        if problem == self.told {
            return;
        }
        match &problem {
            Some(text) => log::error!("{text}"),
            None => log::info!("the socket {} is there again", self.socket.display()),
        }
        self.told.clone_from(&problem);
        self.control.send(Control::Problem(PROBLEM, problem)).await.ok();
    }

    fn is_there(&self) -> bool {
        self.own.is_some() && place_of(&self.socket) == self.own
    }

    fn look_at_passed(&self) -> Result<(), String> {
        if self.is_there() {
            return Ok(());
        }
        Err(format!(
            "the socket {} that the service manager passed is gone or replaced, and no client can come in; \
             `systemctl restart ci-runner.socket ci-runner.service` makes it anew, and jobs run on",
            self.socket.display()
        ))
    }

    fn mend(&mut self) -> Result<(), String> {
        let dir = &self.runtime_dir;
        if !dir.exists() {
            let made = std::fs::DirBuilder::new().recursive(true).mode(0o750).create(dir);
            made.map_err(|error| {
                format!(
                    "the runtime directory {} is gone and cannot be made anew: {error}; make it, for the user of the daemon",
                    dir.display()
                )
            })?;
            log::warn!("the runtime directory {} was gone and is made anew", dir.display());
        }
        if self.is_there() {
            return Ok(());
        }
        let socket = self.socket.display();
        let listener = http::bind_unix(&self.socket).map_err(|error| {
            let why = super::engine::chain(&error);
            format!("the socket {socket} is gone or replaced and cannot be made anew: {why}")
        })?;
        self.own = place_of(&self.socket);
        self.door.send_replace(Arc::new(listener));
        log::warn!("the socket {socket} was gone or replaced and is made anew");
        Ok(())
    }
}

/// Removes the socket's file, if it is the daemon's own still.
pub(super) fn remove(socket: &Path, own: Option<Place>) {
    if own.is_none() || place_of(socket) != own {
        return;
    }
    if let Err(error) = std::fs::remove_file(socket)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        log::warn!("cannot remove {}: {error}", socket.display());
    }
}

/// A socket that listens keeps its inode, so no other file gets its number.
fn place_of(socket: &Path) -> Option<Place> {
    let file = std::fs::symlink_metadata(socket).ok()?;
    Some((file.dev(), file.ino()))
}

/// Changes in one directory.
struct Notify {
    fd: Option<AsyncFd<OwnedFd>>,
    watched: Option<i32>,
}

impl Notify {
    fn new() -> Self {
        let fd = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok().and_then(|fd| register(fd).ok());
        Self { fd, watched: None }
    }

    /// Watches what has this name now. The same directory again is no change.
    fn watch(&mut self, dir: &Path) {
        let Some(fd) = &self.fd else { return };
        let flags = WatchFlags::DELETE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        let watched = add_watch(fd.get_ref(), dir, flags).ok();
        if let Some(old) = self.watched.filter(|old| watched != Some(*old)) {
            // Of a directory that is gone the kernel removed it already.
            let _ = remove_watch(fd.get_ref(), old);
        }
        self.watched = watched;
    }

    /// Returns after a change; never where nothing can be watched.
    async fn changed(&self) {
        let Some(fd) = &self.fd else { return std::future::pending().await };
        let Ok(mut ready) = fd.readable().await else { return std::future::pending().await };
        let mut events = [0; 4_096];
        while !matches!(rustix::io::read(ready.get_inner(), &mut events), Err(error) if error != Errno::INTR) {}
        ready.clear_ready();
    }
}

#[expect(deprecated, reason = "its successor is unsafe for descriptors that may change; an OwnedFd never does")]
fn register(fd: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(fd)
}
