//! Waiting for a file to grow: inotify where it is to be had, else looking again and again.
//!
//! A wake-up too many is harmless, a wake-up lost costs [`SLEEP_MAX`] or [`WATCHED_SLEEP`] at most: the caller always reads.

use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::time::sleep;

/// First pause of somebody who has to look again.
const SLEEP_MIN: Duration = Duration::from_millis(20);
/// Longest pause.
const SLEEP_MAX: Duration = Duration::from_millis(200);
/// Longest pause where inotify tells.
const WATCHED_SLEEP: Duration = Duration::from_secs(5);

/// How growth is noticed.
enum Means {
    /// Not tried yet, or the file was not there.
    None,
    /// inotify.
    Told(AsyncFd<OwnedFd>),
    /// inotify is not to be had: too many instances, or a file system without it.
    Look,
}

/// Waits for one file.
pub struct Growth {
    path: PathBuf,
    means: Means,
    pause: Duration,
}

impl Growth {
    pub fn new(path: PathBuf) -> Self {
        Self { path, means: Means::None, pause: SLEEP_MIN }
    }

    /// Something was read: the next pause is short.
    pub fn grew(&mut self) {
        self.pause = SLEEP_MIN;
    }

    /// Returns when there may be more. May be dropped and called again.
    pub async fn more(&mut self) {
        if matches!(self.means, Means::None) && self.watch() {
            // It may have grown before the watch.
            return;
        }
        match &mut self.means {
            Means::Told(notify) => {
                let _ = tokio::time::timeout(WATCHED_SLEEP, drain(notify)).await;
            }
            Means::None | Means::Look => {
                sleep(self.pause).await;
                self.pause = (self.pause * 2).min(SLEEP_MAX);
            }
        }
    }

    /// Sets up inotify; true when it is new.
    fn watch(&mut self) -> bool {
        let made = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).and_then(|notify| {
            add_watch(&notify, &self.path, WatchFlags::MODIFY | WatchFlags::DONT_FOLLOW)?;
            Ok(notify)
        });
        self.means = match made {
            Ok(notify) => register(notify).map_or(Means::Look, Means::Told),
            Err(Errno::NOENT) => Means::None,
            Err(_) => Means::Look,
        };
        matches!(self.means, Means::Told(_))
    }
}

#[expect(deprecated, reason = "its successor is unsafe for descriptors that may change; an OwnedFd never does")]
fn register(notify: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(notify)
}

/// Waits for events and throws them away.
async fn drain(notify: &mut AsyncFd<OwnedFd>) {
    let Ok(mut ready) = notify.readable().await else { return };
    let mut events = [0; 4_096];
    loop {
        match rustix::io::read(ready.get_inner(), &mut events) {
            Ok(_) => {}
            Err(Errno::INTR) => {}
            Err(_) => break,
        }
    }
    ready.clear_ready();
}
