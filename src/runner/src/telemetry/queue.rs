//! The bounded queue between those who log and the one thread that writes.
//!
//! Bounded in records and in bytes. Pushing takes a lock that is held for a few instructions by either side,
//! never during a write. What does not fit is counted.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::record::OwnedRecord;
use super::sink::Sink;

/// Records that may wait. A burst of this size takes journald about a quarter of a second.
pub(super) const RECORDS_MAX: usize = 8192;
/// Bytes that may wait: a stalled journald must not eat the memory budget of the daemon.
pub(super) const BYTES_MAX: usize = 8 << 20;

/// After silence the writing thread lets so much time pass before it writes, so that a busy daemon wakes it a hundred times
/// a second and not for each record.
const GATHER: Duration = Duration::from_millis(10);

#[derive(Default)]
struct State {
    waiting: VecDeque<OwnedRecord>,
    waiting_bytes: usize,
    /// Pushed and written (or refused by the sink) since the start; equal when nothing is under way.
    pushed: u64,
    done: u64,
    /// Who waits for everything to be written; then nothing is gathered.
    flushing: u32,
}

/// The queue and its counters.
pub(super) struct Queue {
    state: Mutex<State>,
    more: Condvar,
    progress: Condvar,
    dropped: AtomicU64,
}

impl Queue {
    /// Starts the writing thread, which lives as long as the process.
    pub fn start(sink: Box<dyn Sink>) -> std::io::Result<Arc<Queue>> {
        let queue = Arc::new(Queue {
            state: Mutex::new(State::default()),
            more: Condvar::new(),
            progress: Condvar::new(),
            dropped: AtomicU64::new(0),
        });
        let writer = Arc::clone(&queue);
        std::thread::Builder::new()
            .name("log-writer".to_owned())
            .stack_size(256 * 1024)
            .spawn(move || writer.write(sink))?;
        Ok(queue)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held; a poisoned log would still be better than none.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands a record over or drops it; never waits for the destination.
    pub fn push(&self, record: OwnedRecord) {
        let cost = record.cost();
        let mut state = self.lock();
        // What the thread is writing right now still takes memory and counts.
        let under_way = (state.pushed - state.done) as usize;
        if under_way >= RECORDS_MAX || state.waiting_bytes + cost > BYTES_MAX {
            drop(state);
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        state.pushed += 1;
        state.waiting_bytes += cost;
        state.waiting.push_back(record);
        if state.waiting.len() == 1 {
            self.more.notify_one();
        }
    }

    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Waits until everything pushed before this call is written.
    pub fn flush(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let mut state = self.lock();
        let goal = state.pushed;
        state.flushing += 1;
        while state.done < goal {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self.progress.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.flushing -= 1;
        state.done >= goal
    }

    fn write(&self, mut sink: Box<dyn Sink>) {
        let mut reported = 0;
        loop {
            let record = self.take();
            let cost = record.cost();
            if sink.write(&record).is_err() {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
            self.finish(cost);
            let dropped = self.dropped();
            // Only once the backlog is written, so that the number is one and not a line per record.
            if dropped > reported
                && self.lock().waiting.is_empty()
                && sink.write(&drop_report(dropped - reported)).is_ok()
            {
                reported = dropped;
            }
        }
    }

    fn take(&self) -> OwnedRecord {
        let mut state = self.lock();
        loop {
            match state.waiting.pop_front() {
                Some(record) => return record,
                None => {
                    // A burst's memory is given back.
                    state.waiting.shrink_to(64);
                    state = self.more.wait(state).unwrap_or_else(PoisonError::into_inner);
                    if state.flushing == 0 {
                        drop(state);
                        std::thread::sleep(GATHER);
                        state = self.lock();
                    }
                }
            }
        }
    }

    fn finish(&self, cost: usize) {
        let mut state = self.lock();
        state.done += 1;
        state.waiting_bytes -= cost;
        let is_awaited = state.flushing > 0;
        drop(state);
        if is_awaited {
            self.progress.notify_all();
        }
    }
}

fn drop_report(count: u64) -> OwnedRecord {
    OwnedRecord {
        level: log::Level::Warn,
        time: SystemTime::now(),
        target: module_path!().to_owned(),
        message: format!("{count} log records were dropped: the log's destination was too slow"),
        fields: Vec::new(),
    }
}
