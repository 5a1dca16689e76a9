//! Leaves nothing behind.
//!
//! This process adopts every orphan below it (it is a sub-reaper), so "all that we started" is a question to `/proc`, also
//! for a spawner that put itself into the background and for jobs with sessions of their own. Directories are noted before
//! they are used. Ctrl-C, SIGTERM and SIGHUP clean up and end with 130.

use crate::procfs;
use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, set_child_subreaper, waitpid};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Nothing of ours needs longer to end after SIGKILL.
const PATIENCE: Duration = Duration::from_secs(10);
/// A spawner without daemon and jobs ends by itself, and removes its cgroups, within this.
const SPAWNER_PATIENCE: Duration = Duration::from_secs(3);

static DIRS: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Makes orphans ours, and cleans up on signals.
pub fn adopt_and_watch() -> Result<()> {
    set_child_subreaper(Some(rustix::process::getpid())).context("cannot adopt orphans")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        runtime.block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let (Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)) =
                (signal(SignalKind::interrupt()), signal(SignalKind::terminate()), signal(SignalKind::hangup()))
            else {
                return;
            };
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
        });
        everything();
        std::process::exit(130);
    })?;
    Ok(())
}

/// Notes a directory that must go at the end.
pub fn note(dir: &Path) {
    DIRS.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(dir.to_owned());
}

/// Ends all processes below this one and removes all directories that were noted.
pub fn everything() {
    // First all but the spawner, so that it can clean up behind itself.
    end_while(SPAWNER_PATIENCE, |pid| !procfs::program(pid).ends_with("ci-runner-spawner"));
    end_while(PATIENCE, |_| true);
    for dir in DIRS.lock().unwrap_or_else(std::sync::PoisonError::into_inner).drain(..) {
        std::fs::remove_dir_all(dir).ok();
    }
}

/// Kills the descendants that `doomed` names until no descendant at all is left, or `patience` is over.
fn end_while(patience: Duration, doomed: impl Fn(u32) -> bool) {
    let until = Instant::now() + patience;
    loop {
        let pids = procfs::descendants(std::process::id());
        if pids.is_empty() || Instant::now() > until {
            return;
        }
        for pid in pids {
            let Some(target) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { continue };
            if doomed(pid) {
                kill_process(target, Signal::KILL).ok();
            }
            // Only children can be waited for; others are reaped by their parents or become ours.
            waitpid(Some(target), WaitOptions::NOHANG).ok();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
