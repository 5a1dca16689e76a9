//! Moving commits from the log into the database without making anybody wait for it.
//!
//! A thread with a connection of its own moves what is there while commits go on; it sleeps until it is told that there is
//! enough. While commits never pause it cannot catch up with the very last of them, and only then could the log begin
//! anew: so when the log is long and nearly moved, the writer moves the rest itself between two commits, which is short.

use super::open;
use super::place::{Fault, Place};
use rusqlite::wal::CheckpointMode;
use rusqlite::{Connection, MAIN_DB};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

/// The thread is told when so many pages wait: few enough to be moved in some milliseconds.
const WAITING_PAGES: i32 = 1_000;
/// From this length on the log should begin anew: 8 MiB.
const LOG_PAGES: i32 = 2_000;
/// The writer moves so many pages itself without hesitation.
const REST_PAGES: i32 = 200;
/// At this length the writer moves whatever there is, because the disk cannot keep up: 64 MiB.
const LOG_PAGES_MAX: i32 = 16_000;

/// The thread, until it is dropped.
pub(super) struct Checkpointer {
    wake: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Checkpointer {
    pub fn start(place: &Place) -> Result<Self, Fault> {
        let conn = open::checkpointer(place)?;
        let (wake, told) = sync_channel::<()>(1);
        let work = move || {
            while told.recv().is_ok() {
                // What fails here (a full disk above all) is tried again with the next commit, and told by it if it matters.
                let _ = conn.wal_checkpoint_v2(Some(MAIN_DB), CheckpointMode::PASSIVE);
            }
        };
        let thread = std::thread::Builder::new().name("checkpoint".to_owned()).spawn(work);
        let thread = thread.map_err(|source| super::place::io_error("start a thread for", &place.db, source))?;
        Ok(Self { wake: Some(wake), thread: Some(thread) })
    }

    /// Looks after the log when a commit is done.
    pub fn after_commit(&self, conn: &Connection) {
        let Ok((log, moved)) = conn.wal_checkpoint_v2(Some(MAIN_DB), CheckpointMode::NOOP) else { return };
        let waiting = log - moved;
        if log >= LOG_PAGES_MAX || (log >= LOG_PAGES && (1..=REST_PAGES).contains(&waiting)) {
            // As above: the commit itself is done, whatever becomes of this.
            let _ = conn.wal_checkpoint_v2(Some(MAIN_DB), CheckpointMode::PASSIVE);
        } else if waiting >= WAITING_PAGES
            && let Some(Err(TrySendError::Disconnected(()))) = self.wake.as_ref().map(|wake| wake.try_send(()))
        {
            let _ = conn.wal_checkpoint_v2(Some(MAIN_DB), CheckpointMode::PASSIVE);
        }
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        drop(self.wake.take());
        if let Some(thread) = self.thread.take() {
            // It ends when nobody can wake it any more; if it panicked, that was told then.
            let _ = thread.join();
        }
    }
}
