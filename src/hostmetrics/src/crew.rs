//! Work that may hang, done by threads that may be left behind.
//!
//! A round is a list of pieces of work, each with a key. One thread does them one after another, so in the normal case
//! a round costs one thread. When a piece takes longer than `PATIENCE`, another thread takes over the rest; silent
//! pieces so wait side by side, not one after the other. A piece that is not back within its limit is *hanging*: the
//! round ends without it, its thread stays (nothing can end a thread in an uninterruptible system call), and whoever
//! gives out the work must not give it out again until [`Crew::returned`] has named it.
//!
//! Invariants: at most one thread per hanging key plus one; a result is given out exactly once, by [`Crew::run`] of
//! its round or by [`Crew::returned`] later.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a piece of work may hold up the pieces behind it.
const PATIENCE: Duration = Duration::from_millis(200);

/// One piece of work.
pub(crate) type Work<R> = Box<dyn FnOnce() -> R + Send>;

/// How a piece of work ended within a round.
#[derive(Debug)]
pub(crate) enum Outcome<R> {
    /// In time.
    Done(R),
    /// It panicked.
    Panicked,
    /// Not back yet.
    Hangs,
    /// Not begun when the round's time was over; the work is dropped.
    NotBegun,
}

enum Word<K, R> {
    Begun(K, u64, Instant),
    Ended(K, u64, Option<R>),
}

type Queue<K, R> = Arc<Mutex<VecDeque<(K, Work<R>)>>>;

/// The threads and what they are stuck in.
pub(crate) struct Crew<K, R> {
    name: &'static str,
    limit: Duration,
    round: u64,
    hanging: BTreeMap<K, Instant>,
    late: Vec<(K, Option<R>)>,
    sender: Sender<Word<K, R>>,
    receiver: Receiver<Word<K, R>>,
}

impl<K: Ord + Clone + Send + 'static, R: Send + 'static> Crew<K, R> {
    /// `limit` is how long one piece may take; a whole round takes at most twice that.
    pub(crate) fn new(name: &'static str, limit: Duration) -> Self {
        let (sender, receiver) = channel();
        Self { name, limit, round: 0, hanging: BTreeMap::new(), late: Vec::new(), sender, receiver }
    }

    /// What hangs, and since when.
    pub(crate) fn hanging(&self) -> &BTreeMap<K, Instant> {
        &self.hanging
    }

    /// What hung and has come back since the last call; `None` is a panic.
    pub(crate) fn returned(&mut self) -> Vec<(K, Option<R>)> {
        while let Ok(word) = self.receiver.try_recv() {
            self.old_news(word);
        }
        std::mem::take(&mut self.late)
    }

    fn old_news(&mut self, word: Word<K, R>) {
        if let Word::Ended(key, _, result) = word {
            self.hanging.remove(&key);
            self.late.push((key, result));
        }
    }

    /// Does the pieces; none of their keys may be hanging. Every key is answered once.
    pub(crate) fn run(&mut self, work: Vec<(K, Work<R>)>) -> Vec<(K, Outcome<R>)> {
        self.round += 1;
        let end = Instant::now() + self.limit * 2;
        let mut open: BTreeSet<K> = work.iter().map(|(key, _)| key.clone()).collect();
        let mut begun: BTreeMap<K, Instant> = BTreeMap::new();
        let mut ended = Vec::with_capacity(open.len());
        let queue: Queue<K, R> = Arc::new(Mutex::new(work.into()));
        let mut moved = Instant::now();
        let somebody = !open.is_empty() && self.hire(&queue);
        while somebody && !open.is_empty() && Instant::now() < end {
            match self.receiver.recv_timeout(PATIENCE.min(end.saturating_duration_since(Instant::now()))) {
                Ok(Word::Begun(key, round, at)) if round == self.round => {
                    moved = at;
                    begun.insert(key, at);
                }
                Ok(Word::Ended(key, round, result)) if round == self.round && open.remove(&key) => {
                    begun.remove(&key);
                    ended.push((key, result.map_or(Outcome::Panicked, Outcome::Done)));
                }
                Ok(word) => self.old_news(word),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
            let now = Instant::now();
            let overdue = begun.extract_if(.., |_, at| now >= *at + self.limit);
            for (key, since) in overdue.collect::<Vec<_>>() {
                open.remove(&key);
                self.hanging.insert(key.clone(), since);
                ended.push((key, Outcome::Hangs));
            }
            if now >= moved + PATIENCE && begun.len() < open.len() {
                moved = now;
                self.hire(&queue);
            }
        }
        let rest = std::mem::take(&mut *queue.lock().unwrap_or_else(PoisonError::into_inner));
        for (key, _) in rest {
            open.remove(&key);
            ended.push((key, Outcome::NotBegun));
        }
        // Begun and not back, also where the word of its begin is still on its way.
        for key in open {
            self.hanging.insert(key.clone(), begun.get(&key).copied().unwrap_or(end));
            ended.push((key, Outcome::Hangs));
        }
        ended
    }

    /// One more thread for this round. Where none can be had (`false`), the work stays in the queue and is not begun.
    fn hire(&self, queue: &Queue<K, R>) -> bool {
        let (queue, sender, round) = (Arc::clone(queue), self.sender.clone(), self.round);
        let thread = std::thread::Builder::new().name(self.name.to_owned()).stack_size(256 << 10);
        let hired = thread.spawn(move || {
            loop {
                let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                let Some((key, work)) = next else { return };
                if sender.send(Word::Begun(key.clone(), round, Instant::now())).is_err() {
                    return;
                }
                let result = catch_unwind(AssertUnwindSafe(work)).ok();
                if sender.send(Word::Ended(key, round, result)).is_err() {
                    return;
                }
            }
        });
        hired.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(key: u32, work: impl FnOnce() -> u32 + Send + 'static) -> (u32, Work<u32>) {
        (key, Box::new(work))
    }

    /// Four silent pieces wait side by side, the others are done, a panic is told, and what comes back late is named.
    #[test]
    fn silence_costs_only_the_silent() {
        let mut crew = Crew::new("test", Duration::from_millis(1500));
        let (gates, mut work) = (0..4).fold((Vec::new(), Vec::new()), |(mut gates, mut work), key| {
            let (open, gate) = channel::<()>();
            gates.push(open);
            work.push(piece(key, move || gate.recv().map_or(key, |()| key)));
            (gates, work)
        });
        work.push(piece(10, || 10));
        work.push(piece(11, || panic!("a defect, meant by this test")));
        let began = Instant::now();
        let mut outcomes = crew.run(work);
        assert!(
            began.elapsed() < Duration::from_millis(3500),
            "they waited one after the other: {:?}",
            began.elapsed()
        );
        outcomes.sort_by_key(|(key, _)| *key);
        let shown: Vec<String> = outcomes.iter().map(|(key, outcome)| format!("{key} {outcome:?}")).collect();
        assert_eq!(shown, ["0 Hangs", "1 Hangs", "2 Hangs", "3 Hangs", "10 Done(10)", "11 Panicked"]);
        assert_eq!(crew.hanging().len(), 4);
        assert!(crew.returned().is_empty());

        drop(gates);
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut back = Vec::new();
        while back.len() < 4 && Instant::now() < deadline {
            back.extend(crew.returned());
            std::thread::yield_now();
        }
        back.sort();
        assert_eq!(back, [(0, Some(0)), (1, Some(1)), (2, Some(2)), (3, Some(3))]);
        assert!(crew.hanging().is_empty());
        assert!(matches!(crew.run(vec![piece(0, || 7)])[..], [(0, Outcome::Done(7))]));
    }
}
