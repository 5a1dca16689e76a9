//! What jobs print, line by line in the journal, under the fields of the interface: `journalctl CI_RUNNER_JOB_ID=7`.
//!
//! ```text
//! engine ──began, ended──▶ relay, a thread ──reads──▶ the logs of jobs (masked, as stored)
//!                              └──a datagram for each line──▶ journald
//! ```
//!
//! The log file is the queue: whoever writes it knows nothing of this, so no job waits for journald, and a journald that has
//! stopped or hangs costs memory for nobody. What was handed over is remembered in [`CURSORS_NAME`] of the state directory, so
//! that a restarted daemon goes on where the last one stopped; after a kill -9 the lines of the last [`LOOK_EVERY`] may come
//! twice. Lines beyond the [`budget`] are left out where a log is far ahead of the journal; a record says how many, and they
//! are counted.
//!
//! Words to the relay never wait: beyond [`WORDS_MAX`] that it has not taken, an attempt's output does not come, and is counted.

mod budget;
mod cursors;
mod relay;
mod tail;
#[cfg(test)]
mod tests;
mod wire;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Where journald listens.
pub const JOURNAL_SOCKET: &str = "/run/systemd/journal/socket";
/// The file in the state directory with what was handed over.
pub const CURSORS_NAME: &str = "journal.json";
/// Logs that grow are looked at this often; as often the cursors are written.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Begins and ends that the relay has not taken yet: it takes them several times a second.
const WORDS_MAX: usize = 8192;

/// Whose output it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Job.
    pub job: u64,
    /// Attempt number.
    pub attempt: u32,
    /// Pool.
    pub pool: String,
    /// Empty when nobody knows it.
    pub correlation: String,
    /// When the attempt was claimed: wall clock, milliseconds since 1970. What was written under its name before is another's.
    #[serde(default)]
    pub claimed_wall_ms: i64,
}

/// Where things are.
pub struct Options {
    /// Logs of jobs.
    pub log_dir: PathBuf,
    /// [`CURSORS_NAME`] in the state directory.
    pub cursors: PathBuf,
    /// Cursors of another store are not ours.
    pub store: String,
    /// [`JOURNAL_SOCKET`].
    pub socket: PathBuf,
    /// Lines that did not come.
    pub dropped: Arc<AtomicU64>,
}

/// What the relay is told.
enum Word {
    /// An attempt runs; its output is wanted.
    Began(Source),
    /// It is over and its log complete. True: its output is wanted even if its begin was not told.
    Ended(Source, bool),
    /// All attempts that ran at the start were told; others that the cursors name are over.
    Known,
    /// Hand over what there is, write the cursors, answer, end.
    Stop(SyncSender<()>),
}

/// The way to the relay. Clones lead to the same one.
#[derive(Clone)]
pub struct Output {
    words: SyncSender<Word>,
    dropped: Arc<AtomicU64>,
}

impl Output {
    /// Starts the relay's thread, which ends with the last clone of this.
    ///
    /// # Errors
    /// No thread can be had.
    pub fn start(options: Options) -> std::io::Result<Self> {
        let (words, told): (_, Receiver<Word>) = sync_channel(WORDS_MAX);
        let dropped = options.dropped.clone();
        let relay = relay::Relay::new(options);
        std::thread::Builder::new().name("job-journal".to_owned()).spawn(move || relay.run(&told))?;
        Ok(Self { words, dropped })
    }

    /// An attempt whose output is wanted runs, or ran already when the daemon started.
    pub fn began(&self, source: Source) {
        self.tell(Word::Began(source));
    }

    /// An attempt is over; `wanted`: its output is, also if its begin was never told.
    pub fn ended(&self, source: Source, wanted: bool) {
        self.tell(Word::Ended(source, wanted));
    }

    /// Everything that runs was told.
    pub fn known(&self) {
        self.tell(Word::Known);
    }

    /// The last word: hands over what is there and writes the cursors. Waits for it at most `timeout`.
    pub fn stop(&self, timeout: Duration) {
        let (done, wait) = sync_channel(1);
        if self.words.try_send(Word::Stop(done)).is_ok() {
            // Late: lines of the last moment come twice after the next start.
            wait.recv_timeout(timeout).ok();
        }
    }

    fn tell(&self, word: Word) {
        if self.words.try_send(word).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}
