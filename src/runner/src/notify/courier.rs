//! One thread a notifier: takes what is due, tries, notes how it went.

use super::{Outbox, Source, Waiting, deliver, program};
use crate::config::NotifierConfig;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Without anything to do a courier still looks this often.
const IDLE_LOOK: Duration = Duration::from_secs(30);
/// Pause before the second try; it doubles up to the longest.
const PAUSE_MS: i64 = 1_000;
const PAUSE_MS_MAX: i64 = 3_600_000;
/// After the database failed.
const OUTBOX_PAUSE: Duration = Duration::from_secs(5);
const MINUTE: Duration = Duration::from_secs(60);

/// How a notifier does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// By result: `delivered`, `failed` (a try), `given_up`, `dropped`.
    pub counts: BTreeMap<String, u64>,
    /// Deliveries that wait.
    pub waiting: u64,
    /// What went wrong last, unless something went right since.
    pub last_error: Option<String>,
    /// When something was delivered last, Unix milliseconds.
    pub last_delivered_ms: Option<i64>,
}

/// Where a courier is with a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// In a control only: it is noted as delivered, and nobody was told.
    NotedEarly,
    /// Nobody was told yet.
    Before,
    /// Somebody was told; that is not noted.
    Told,
}

/// The doors of crash tests.
#[derive(Clone, Copy)]
pub struct Probe {
    /// The control: deliveries are noted before they are made.
    pub notes_early: fn() -> bool,
    /// Passed at each step; it may not come back.
    pub at: fn(Step),
}

/// All couriers.
pub struct Couriers {
    outbox: Arc<Outbox>,
    source: Source,
    wall_ms: fn() -> i64,
    probe: Probe,
    running: BTreeMap<String, Running>,
    /// By name: who tries holds it, so that one that is replaced and the one in its place do not tell the same at once.
    turns: BTreeMap<String, Arc<Mutex<()>>>,
}

struct Running {
    config: NotifierConfig,
    stop: Arc<AtomicBool>,
    news: Arc<Mutex<(Option<String>, Option<i64>)>>,
}

impl Couriers {
    /// None yet, and none that an earlier daemon left. `wall_ms` is the clock.
    pub fn new(outbox: Arc<Outbox>, source: Source, wall_ms: fn() -> i64, probe: Probe) -> Self {
        program::kill_all_of(&source.store);
        Self { outbox, source, wall_ms, probe, running: BTreeMap::new(), turns: BTreeMap::new() }
    }

    /// Makes it so that exactly these work. One whose settings changed is replaced after the try it is at.
    pub fn set(&mut self, notifiers: &BTreeMap<String, NotifierConfig>) {
        self.running.retain(|name, running| {
            let stays = notifiers.get(name) == Some(&running.config);
            running.stop.store(!stays, Ordering::Relaxed);
            stays
        });
        let names: Vec<&str> = notifiers.keys().map(String::as_str).collect();
        match self.outbox.forget_others(&names, (self.wall_ms)()) {
            Ok(0) => {}
            Ok(count) => {
                log::warn!("{count} notices waited for notifiers that are configured no more; they are dropped")
            }
            Err(error) => log::warn!("{error}"),
        }
        for (name, config) in notifiers {
            if !self.running.contains_key(name) {
                self.start(name, config);
            }
        }
        self.outbox.ring();
    }

    fn start(&mut self, name: &str, config: &NotifierConfig) {
        let running = Running { config: config.clone(), stop: Arc::default(), news: Arc::default() };
        let courier = Courier {
            name: name.to_owned(),
            config: config.clone(),
            outbox: self.outbox.clone(),
            source: self.source.clone(),
            wall_ms: self.wall_ms,
            probe: self.probe,
            turn: self.turns.entry(name.to_owned()).or_default().clone(),
            stop: running.stop.clone(),
            news: running.news.clone(),
            sent: VecDeque::new(),
            unnoted: BTreeMap::new(),
            noted: Instant::now(),
        };
        let thread = std::thread::Builder::new().name("notifier".to_owned()).spawn(move || courier.work());
        match thread {
            Ok(_) => drop(self.running.insert(name.to_owned(), running)),
            Err(error) => log::error!("notifier {name} does not work: no thread: {error}"),
        }
    }

    /// How each does.
    pub fn tallies(&self) -> BTreeMap<String, Tally> {
        let tally = |(name, running): (&String, &Running)| {
            let (last_error, last_delivered_ms) = running.news.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let (counts, waiting) = self.outbox.counts(name).unwrap_or_default();
            (name.clone(), Tally { counts: counts.into_iter().collect(), waiting, last_error, last_delivered_ms })
        };
        self.running.iter().map(tally).collect()
    }

    /// Tells all to end, and kills what they run. They are not waited for: what they are at is told again after the next start.
    pub fn stop(&mut self) {
        self.running.values().for_each(|running| running.stop.store(true, Ordering::Relaxed));
        self.outbox.ring();
        program::kill_all_of(&self.source.store);
    }
}

struct Courier {
    name: String,
    config: NotifierConfig,
    outbox: Arc<Outbox>,
    source: Source,
    wall_ms: fn() -> i64,
    probe: Probe,
    turn: Arc<Mutex<()>>,
    stop: Arc<AtomicBool>,
    news: Arc<Mutex<(Option<String>, Option<i64>)>>,
    /// Tries of the last minute.
    sent: VecDeque<Instant>,
    /// How tries went that could not be noted: the disk is full, say. By the number of the delivery; what was told is not told
    /// again for that, and holds up no other.
    unnoted: BTreeMap<i64, (&'static str, Option<i64>)>,
    /// When it was last tried to note them.
    noted: Instant,
}

impl Courier {
    fn work(mut self) {
        let turns = self.turn.clone();
        loop {
            let turn = turns.lock().unwrap_or_else(PoisonError::into_inner);
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let heard = self.outbox.rung();
            let now_ms = (self.wall_ms)();
            self.note_again(now_ms);
            let told = self.unnoted.keys().copied().collect();
            let pause = match self.outbox.due(&self.name, &told, now_ms) {
                Ok(Ok(waiting)) => match self.rate_pause() {
                    None => {
                        self.attempt(&waiting);
                        continue;
                    }
                    Some(pause) => pause,
                },
                Ok(Err(next)) => {
                    let left = next.map_or(IDLE_LOOK, |next| {
                        Duration::from_millis(u64::try_from(next.saturating_sub(now_ms)).unwrap_or(0))
                    });
                    left.clamp(Duration::from_millis(1), IDLE_LOOK)
                }
                Err(error) => {
                    log::warn!("notifier {}: {error}", self.name);
                    OUTBOX_PAUSE
                }
            };
            drop(turn);
            let pause = if self.unnoted.is_empty() { pause } else { pause.min(OUTBOX_PAUSE) };
            self.outbox.wait(heard, pause);
        }
    }

    /// Notes what could not be noted. A try that failed is made again when its time has come, noted or not.
    fn note_again(&mut self, now_ms: i64) {
        self.unnoted.retain(|_, (_, next)| next.is_none_or(|next| next > now_ms));
        if self.unnoted.is_empty() || self.noted.elapsed() < OUTBOX_PAUSE {
            return;
        }
        self.noted = Instant::now();
        while let Some((&number, &(result, next))) = self.unnoted.first_key_value() {
            if self.outbox.tried(&self.name, number, result, next, now_ms).is_err() {
                return;
            }
            self.unnoted.pop_first();
        }
    }

    /// How long it must keep still.
    fn rate_pause(&mut self) -> Option<Duration> {
        let now = Instant::now();
        while self.sent.front().is_some_and(|at| now.duration_since(*at) >= MINUTE) {
            self.sent.pop_front();
        }
        let most = usize::try_from(self.config.rate_max).unwrap_or(usize::MAX);
        let first = self.sent.front().filter(|_| self.sent.len() >= most)?;
        Some(MINUTE.saturating_sub(now.duration_since(*first)).min(IDLE_LOOK))
    }

    fn attempt(&mut self, waiting: &Waiting) {
        self.sent.push_back(Instant::now());
        if (self.probe.notes_early)() {
            drop(self.outbox.tried(&self.name, waiting.number, "delivered", None, (self.wall_ms)()));
            (self.probe.at)(Step::NotedEarly);
        }
        (self.probe.at)(Step::Before);
        let done = deliver(&self.config, &waiting.event, &self.source, (self.wall_ms)());
        if done.is_ok() {
            (self.probe.at)(Step::Told);
        }
        if done.is_err() && self.stop.load(Ordering::Relaxed) {
            // It was killed because the daemon ends: that is no try.
            return;
        }
        let now_ms = (self.wall_ms)();
        let name = &self.name;
        let tries = waiting.tries + 1;
        let title = &waiting.event.title;
        let (result, next) = match &done {
            Ok(()) => ("delivered", None),
            Err(failed) if failed.permanent || tries >= self.config.tries_max => {
                log::error!("notifier {name}: given up after {tries} tries, of {title:?}: {}", failed.why);
                ("given_up", None)
            }
            Err(failed) => {
                let pause = pause_ms(tries, failed.retry_after, &waiting.event.id);
                log::warn!("notifier {name}: try {tries} failed, the next in {} s: {}", pause / 1_000, failed.why);
                ("failed", Some(now_ms.saturating_add(pause)))
            }
        };
        let mut news = self.news.lock().unwrap_or_else(PoisonError::into_inner);
        match done {
            Ok(()) => *news = (None, Some(now_ms)),
            Err(failed) => news.0 = Some(failed.why),
        }
        drop(news);
        if let Err(error) = self.outbox.tried(name, waiting.number, result, next, now_ms) {
            log::warn!(
                "notifier {name}: {error}: a daemon that starts before it can be written may tell {title:?} again"
            );
            self.unnoted.insert(waiting.number, (result, next));
            self.noted = Instant::now();
        }
    }
}

/// Doubles from try to try; a tenth depends on the event, so that not all come back at once.
fn pause_ms(tries: u32, retry_after: Option<Duration>, id: &str) -> i64 {
    let pause = PAUSE_MS
        .saturating_mul(1_i64.checked_shl(tries.saturating_sub(1)).filter(|factor| *factor > 0).unwrap_or(i64::MAX));
    let pause = pause.min(PAUSE_MS_MAX);
    let share = id.bytes().fold(0_i64, |sum, byte| (sum * 31 + i64::from(byte)) % 1_000);
    let asked = retry_after.map_or(0, |after| i64::try_from(after.as_millis()).unwrap_or(PAUSE_MS_MAX));
    (pause + pause / 10 * share / 1_000).max(asked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::NotifierKind;
    use crate::notify::{Batch, Event};

    /// A full disk made a pager ring every five seconds, and what waited behind that notice waited on.
    #[test]
    fn what_was_told_and_cannot_be_noted_is_not_told_again_and_holds_up_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let told = dir.path().join("told");
        let config = NotifierConfig {
            kind: NotifierKind::Command {
                argv: ["/bin/sh", "-c", &format!("cat >> {0}; echo >> {0}", told.display())]
                    .map(str::to_owned)
                    .to_vec(),
            },
            watches: Vec::new(),
            jobs: crate::config::JobFilter::default(),
            timeout: Duration::from_secs(15),
            rate_max: 60,
            tries_max: 3,
            queue_max: 10,
        };
        let outbox = Arc::new(Outbox::open(dir.path(), "courier-test").unwrap());
        let event = |id: &str| {
            let event = Event {
                id: id.to_owned(),
                kind: "job.ended".into(),
                at_ms: 5,
                title: id.to_owned(),
                data: serde_json::json!({}),
            };
            ("ops".to_owned(), event)
        };
        let batch = Batch { deliveries: vec![event("first"), event("second")], ..Batch::default() };
        outbox.commit(&batch, &|_| 10, 0).unwrap();
        let other = rusqlite::Connection::open(dir.path().join("notices.db")).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        let probe = Probe { notes_early: || false, at: |_| () };
        let source = Source { host: "h".into(), store: "courier-test".into() };
        let mut couriers = Couriers::new(outbox.clone(), source, || 10, probe);
        couriers.set(&BTreeMap::from([("ops".to_owned(), config)]));
        let lines =
            || std::fs::read_to_string(&told).unwrap_or_default().lines().map(str::to_owned).collect::<Vec<_>>();
        let until = Instant::now() + Duration::from_secs(60);
        while lines().len() < 2 && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20));
        }
        let both = lines();
        assert!(both.len() == 2 && both[0] != both[1], "{both:?}");
        other.execute_batch("ROLLBACK").unwrap();
        while outbox.counts("ops").unwrap().1 > 0 && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!((outbox.counts("ops").unwrap(), lines()), ((vec![("delivered".to_owned(), 2)], 0), both));
        couriers.stop();
    }

    #[test]
    fn pauses_grow_to_a_bound() {
        let pauses: Vec<i64> = (1..40).map(|tries| pause_ms(tries, None, "")).collect();
        assert_eq!(&pauses[..4], [1_000, 2_000, 4_000, 8_000]);
        assert!(pauses.is_sorted() && pauses[38] == PAUSE_MS_MAX, "{pauses:?}");
        assert_eq!(pause_ms(u32::MAX, None, ""), PAUSE_MS_MAX);
        assert_eq!(pause_ms(1, Some(Duration::from_secs(60)), ""), 60_000);
        assert!((1..20).all(|tries| pause_ms(tries, None, "some-event") <= PAUSE_MS_MAX * 11 / 10));
    }
}
