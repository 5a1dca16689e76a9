//! The relay's thread: takes words, reads logs, hands lines over, remembers how far it came.
//!
//! It waits for words, at most [`LOOK_EVERY`] while there is a log that can grow or lines that could not go; with nothing to do it
//! sleeps until somebody speaks. Nothing here waits for journald: its socket does not block, and words are taken meanwhile.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use super::budget::{Budget, LINES_PER_SECOND};
use super::cursors::{self, Cursor};
use super::tail::{PART_BYTES_MAX, Tail, Turn};
use super::wire::{Journal, Sent, WARNING};
use super::{LOOK_EVERY, Options, Source, Word};

/// A log that has so much more than the journal goes on at its end, where lines come faster than they may go.
const BEHIND_BYTES_MAX: u64 = 256 * 1024;
/// Logs that are followed or not yet read to their end. More can only come together while journald is away for long.
const TAILS_MAX: usize = 16 * 1024;
/// The daemon's own words about a new attempt are written by another thread: so they come first as a rule.
const LATER_THAN_THE_LOG: Duration = Duration::from_millis(30);
/// Two parts of a line are in it, so that a line's end is seen.
const BUFFER_BYTES: usize = 2 * PART_BYTES_MAX;

/// Job and attempt.
type Key = (u64, u32);

/// The thread's state.
pub(super) struct Relay {
    options: Options,
    journal: Journal,
    budget: Budget,
    tails: BTreeMap<Key, Tail>,
    /// Logs that the cursors named and nobody has spoken of since the start.
    unspoken: Vec<Key>,
    buffer: Vec<u8>,
    /// There is an attempt that was not there before.
    fresh: bool,
    /// Cursors are not on disk.
    dirty: bool,
    written: Option<Instant>,
    /// Something is wrong and was said.
    complained: bool,
}

fn key(source: &Source) -> Key {
    (source.job, source.attempt)
}

impl Relay {
    /// Goes on where an earlier daemon stopped.
    pub fn new(options: Options) -> Self {
        let kept = cursors::read(&options.cursors, &options.store).unwrap_or_else(|error| {
            log::warn!("{}: {error}: lines of running jobs may come into the journal twice", options.cursors.display());
            Vec::new()
        });
        let unspoken = kept.iter().map(|cursor| key(&cursor.source)).collect();
        let tails = kept.into_iter().map(|cursor| (key(&cursor.source), Tail::new(cursor))).collect();
        Self {
            journal: Journal::new(&options.socket),
            budget: Budget::new(Instant::now()),
            options,
            tails,
            unspoken,
            buffer: vec![0; BUFFER_BYTES],
            fresh: false,
            dirty: false,
            written: None,
            complained: false,
        }
    }

    /// Until it is told to stop or nobody can speak any more.
    pub fn run(mut self, words: &Receiver<Word>) {
        loop {
            let word = if self.tails.is_empty() && !self.dirty {
                words.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                words.recv_timeout(LOOK_EVERY)
            };
            let mut next = match word {
                Err(RecvTimeoutError::Disconnected) => return,
                word => word.ok(),
            };
            let mut stop = None;
            while let Some(word) = next {
                stop = stop.or(self.take(word));
                next = words.try_recv().ok();
            }
            if std::mem::take(&mut self.fresh) && stop.is_none() {
                std::thread::sleep(LATER_THAN_THE_LOG);
            }
            self.hand_over();
            if let Some(done) = stop {
                self.keep();
                // Who asked may have gone.
                done.send(()).ok();
                return;
            }
            if self.dirty && self.written.is_none_or(|at| at.elapsed() >= LOOK_EVERY) {
                self.keep();
            }
        }
    }

    /// The one who waits for the end, if that is to be.
    fn take(&mut self, word: Word) -> Option<SyncSender<()>> {
        match word {
            Word::Began(source) => self.follow(source, false),
            Word::Ended(source, wanted) => {
                let known = self.tails.contains_key(&key(&source));
                if known || wanted {
                    self.follow(source, true);
                }
            }
            Word::Known => {
                for key in std::mem::take(&mut self.unspoken) {
                    if let Some(tail) = self.tails.get_mut(&key) {
                        tail.cursor.ended = true;
                    }
                }
            }
            Word::Stop(done) => return Some(done),
        }
        None
    }

    fn follow(&mut self, source: Source, ended: bool) {
        let key = key(&source);
        self.unspoken.retain(|other| *other != key);
        self.dirty = true;
        if let Some(tail) = self.tails.get_mut(&key) {
            tail.cursor.ended |= ended;
            // Those that an older version or a lost store row left without are named now.
            tail.cursor.source = source;
        } else if self.tails.len() < TAILS_MAX {
            self.fresh = true;
            self.tails.insert(key, Tail::new(Cursor { source, offset: 0, ended }));
        } else {
            self.count(1);
        }
    }

    fn count(&self, lines: u64) {
        self.options.dropped.fetch_add(lines, Ordering::Relaxed);
    }

    /// Each log in its turn, until none has a line that may go.
    fn hand_over(&mut self) {
        self.budget.refill(Instant::now());
        let mut active: Vec<Key> = self.tails.keys().copied().collect();
        let until = Instant::now() + LOOK_EVERY;
        while !active.is_empty() && Instant::now() < until {
            let mut more = Vec::new();
            for key in active {
                match self.turn(key) {
                    Turn::Stalled => return,
                    Turn::More => more.push(key),
                    Turn::Drained | Turn::Spent => {}
                }
            }
            active = more;
        }
    }

    fn turn(&mut self, key: Key) -> Turn {
        let Self { options, journal, budget, buffer, tails, .. } = self;
        let Some(tail) = tails.get_mut(&key) else { return Turn::Drained };
        let before = tail.cursor.offset;
        let mut lost = 0;
        let may = |went: bool| {
            if went {
                budget.take();
            }
            budget.is_left()
        };
        let turn = tail.turn(&options.log_dir, buffer, journal, may, &mut lost);
        let (moved, ended) = (tail.cursor.offset != before, tail.cursor.ended);
        self.dirty |= moved;
        self.count(lost);
        match turn {
            Ok(Turn::Spent) => self.catch_up(key),
            Ok(Turn::Drained) if ended => {
                self.tails.remove(&key);
                self.dirty = true;
                Turn::Drained
            }
            Ok(turn) => turn,
            Err(error) => {
                self.complain(&format!("the log of job {}: {error}", key.0));
                // One that cannot be read now cannot be waited for for ever.
                if ended {
                    self.tails.remove(&key);
                    self.count(1);
                }
                Turn::Drained
            }
        }
    }

    /// Lines come faster than they may go: a log that is far ahead goes on at its end.
    fn catch_up(&mut self, key: Key) -> Turn {
        let Self { options, journal, buffer, tails, .. } = self;
        let Some(tail) = tails.get_mut(&key) else { return Turn::Drained };
        if !tail.behind(&options.log_dir).is_ok_and(|bytes| bytes > BEHIND_BYTES_MAX) {
            return Turn::Spent;
        }
        let offset = tail.cursor.offset;
        let lines = tail.skip(&options.log_dir, buffer);
        let Source { job, attempt, .. } = tail.cursor.source;
        let Ok(lines) = lines else { return Turn::Spent };
        let text = format!(
            "[ci-runner] {lines} lines are not in the journal: more than {LINES_PER_SECOND} a second; \
             they are in the log, ci-runner logs {job} --attempt {attempt}"
        );
        if journal.send(&tail.cursor.source, WARNING, offset, &text) != Sent::Taken {
            tail.cursor.offset = offset;
            return Turn::Stalled;
        }
        self.dirty = true;
        self.count(lines);
        Turn::Spent
    }

    fn keep(&mut self) {
        self.written = Some(Instant::now());
        let logs = self.tails.values().map(|tail| tail.cursor.clone()).collect();
        // Tried again with the next change.
        self.dirty = false;
        if let Err(error) = cursors::write(&self.options.cursors, &self.options.store, logs) {
            let path = self.options.cursors.display().to_string();
            self.complain(&format!("{path}: {error}: after a restart lines may come twice"));
        }
    }

    fn complain(&mut self, text: &str) {
        if !std::mem::replace(&mut self.complained, true) {
            log::warn!("output for the journal: {text}");
        }
    }
}
